"""The blocks of the vision networks, each against the formula of its paper, written out."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit

from lab3 import vision_networks as networks
from lab3.vision_networks import Basic, Bottleneck, InvertedBottleneck, Plain, Preactivation, Staged

BLOCKS = {
    "plain": Plain,
    "basic": Basic,
    "preactivation": Preactivation,
    "bottleneck": Bottleneck,
    "excited": partial(Basic, attention=networks.SqueezeExcitation),
    "cbam": partial(Basic, attention=networks.cbam),
    "inverted": InvertedBottleneck,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_statistics(module):
    """A network in evaluation mode whose normalisations do something."""
    for each in module.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(each.weight, 0.5, 2)
            torch.nn.init.normal_(each.bias)
    return module.double().eval()


def norm(bn, x):
    """Batch normalisation in evaluation, as its formula."""
    mean, var, weight, bias = (t[:, None, None] for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
    return weight * (x - mean) / (var + bn.eps).sqrt() + bias


def conv(weight, x, stride=1):
    """A convolution with zeros around the image, as sums over its window."""
    size = weight.shape[-1]
    padded = F.pad(x, (size // 2,) * 4)
    windows = padded.unfold(2, size, stride).unfold(3, size, stride)  # (B, C, S, S, size, size)
    if weight.shape[1] == 1:  # each channel alone
        return torch.einsum("bcxyij,cij->bcxy", windows, weight[:, 0])
    return torch.einsum("bcxyij,ocij->boxy", windows, weight)


def conv_bn(layer, x, stride=1):
    return norm(layer[1], conv(layer[0].weight, x, stride))


def relu(x):
    return x * (x > 0)


def excited(layer, x):
    """Squeeze-and-excitation in NumPy, image by image."""
    found = []
    for maps in x.numpy():
        z = maps.mean((1, 2))
        hidden = np.maximum(layer.squeeze.weight.numpy() @ z + layer.squeeze.bias.numpy(), 0)
        scale = expit(layer.excite.weight.numpy() @ hidden + layer.excite.bias.numpy())
        found.append(maps * scale[:, None, None])
    return torch.tensor(np.stack(found))


def with_cbam(layer, x):
    channel, spatial = layer
    (w1, b1), (w2, b2) = ((linear.weight.numpy(), linear.bias.numpy()) for linear in (channel.mlp[0], channel.mlp[2]))
    found = []
    for maps in x.numpy():
        logits = sum(w2 @ np.maximum(w1 @ z + b1, 0) + b2 for z in (maps.mean((1, 2)), maps.max((1, 2))))
        maps = maps * expit(logits)[:, None, None]
        summary = torch.tensor(np.stack([maps.mean(0), maps.max(0)]))[None]
        found.append(maps * expit(conv(spatial.conv.weight, summary)[0, 0].numpy()))
    return torch.tensor(np.stack(found))


def reference(name, block, x, stride):
    """What a block gives, by its paper's formula."""
    if name == "preactivation":
        ready = relu(norm(block.norms[0], x))
        same = isinstance(block.shortcut, torch.nn.Identity)
        beside = x if same else conv(block.shortcut.weight, ready, stride)
        return beside + conv(block.second.weight, relu(norm(block.norms[1], conv(block.first.weight, ready, stride))))
    if name == "bottleneck":
        down, _, middle, _, up = block.body
        body = conv_bn(up, relu(conv_bn(middle, relu(conv_bn(down, x)), stride)))
    elif name == "inverted":
        widen, _, each, _, excitation, project = block.body
        silu = lambda x: x * torch.tensor(expit(x.numpy()))  # noqa: E731
        body = conv_bn(project, excited(excitation, silu(conv_bn(each, silu(conv_bn(widen, x)), stride))))
        return x + body if block.adds else body
    else:
        body = conv_bn(block.second, relu(conv_bn(block.first, x, stride)))
        if name == "plain":
            return relu(body)
        body = {"basic": lambda _, y: y, "excited": excited, "cbam": with_cbam}[name](block.attention, body)
    beside = x if isinstance(block.shortcut, torch.nn.Identity) else conv_bn(block.shortcut, x, stride)
    return relu(beside + body)


@pytest.mark.parametrize(("outputs", "stride"), [(16, 1), (32, 2), (24, 1)])
@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_a_block_is_what_its_formula_says(name, outputs, stride):
    block = random_statistics(BLOCKS[name](16, outputs, stride))
    x = torch.randn(2, 16, 6, 6, dtype=torch.float64)
    expected = reference(name, block, x, stride)
    assert expected.shape == (2, outputs, 6 // stride, 6 // stride)
    torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_attention_only_scales_down():
    x = torch.randn(3, 16, 5, 5)
    for attention in (networks.SqueezeExcitation(16), networks.cbam(16)):
        share = attention(x) / x
        assert 0 < share.min() < share.max() < 1


@torch.no_grad()
def test_channel_attention_is_one_number_for_a_channel_and_spatial_attention_for_a_place():
    x = torch.rand(1, 16, 5, 5) + 0.1
    share = networks.ChannelAttention(16)(x) / x
    torch.testing.assert_close(share, share[:, :, :1, :1].expand_as(share))
    share = networks.SpatialAttention()(x) / x
    torch.testing.assert_close(share, share[:, :1].expand_as(share))


@torch.no_grad()
def test_what_came_in_passes_a_stage_of_preactivations_untouched():
    """Without their last convolutions, blocks of one width are the identity; basic blocks cut off what is negative."""
    x = torch.randn(2, 16, 6, 6)
    for kind, expected in ((Preactivation, x), (Basic, x.relu())):
        blocks = torch.nn.Sequential(*(kind(16, 16, 1) for _ in range(3))).eval()
        for block in blocks:
            last = block.second if kind is Preactivation else block.second[1]
            torch.nn.init.zeros_(last.weight)
        torch.testing.assert_close(blocks(x), expected)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_network_of_blocks(name):
    network = Staged(BLOCKS[name], 3, 16, 2, 10)
    shapes = []
    for block in (network.stem, *network.blocks):
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    assert network(torch.randn(4, 3, 32, 32)).shape == (4, 10)
    assert shapes == [(16, 16, 16)] * 3 + [(32, 8, 8)] * 2 + [(64, 4, 4)] * 2


def test_a_deep_network_keeps_the_size_of_what_passes_through():
    """He et al.'s initial weights: without normalisation, the variance after 20 convolutions is still of order 1."""
    convolutions = torch.nn.Sequential(*(torch.nn.Conv2d(64, 64, 3, padding=1, bias=False) for _ in range(20)))
    convolutions.apply(networks.initialise)
    x = torch.randn(4, 64, 16, 16)
    with torch.no_grad():
        for layer in convolutions:
            x = F.conv2d(F.pad(x.relu(), (1,) * 4, mode="circular"), layer.weight)
    assert 0.1 < x.var() < 10  # with PyTorch's own it would be a millionth of a millionth


def test_images_are_seen_at_the_resolution_asked_for():
    network = Staged(Basic, 3, 8, 1, 10, resolution=40)
    seen = []
    network.stem.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    network(torch.randn(2, 3, 32, 32))
    assert seen == [(2, 3, 40, 40)]


def test_compound_scaling():
    """1.2, 1.1 and 1.15 to the power of 0, 1, 2, worked out by hand: 2, 2.4, 2.88; 28, 30.8, 33.88; 32, 36.8, 42.32."""
    assert [networks.compound(phi, 2, 28, 32) for phi in range(3)] == [(2, 28, 32), (3, 30, 36), (3, 34, 42)]
