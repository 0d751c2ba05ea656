"""The course's names, each against plain arithmetic in double precision."""

import pytest
import torch
from torch import nn

from assignments.hw4 import vit


def affine(layer: nn.Linear, x):
    return x @ layer.weight.T + layer.bias


def normalised(layer: nn.LayerNorm, x):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (variance + layer.eps).sqrt() * layer.weight + layer.bias


def plain_attention(layer, x):
    """Head by head, one image at a time."""
    outputs, width = [], x.shape[-1] // layer.num_heads
    for tokens in x:
        heads = []
        for h in range(layer.num_heads):
            q, k, v = (
                affine(part, tokens)[:, h * width : (h + 1) * width] for part in (layer.query, layer.key, layer.value)
            )
            weights = torch.exp(q @ k.T / width**0.5)
            heads.append(weights / weights.sum(1, keepdim=True) @ v)
        outputs.append(affine(layer.output, torch.cat(heads, 1)))
    return torch.stack(outputs)


def plain_block(block, x):
    x = x + plain_attention(block.attention, normalised(block.attention_norm, x))
    first, _, second = block.mlp
    hidden = affine(first, normalised(block.mlp_norm, x))
    return x + affine(second, hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)


def test_patches_are_cut_row_by_row():
    layer, images = vit.PatchEmbedding(8, 4, 3, 5).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = layer(images)
    assert found.shape == (2, layer.num_patches, 5)
    corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
    for number, (row, column) in enumerate(corners):
        patch = images[:, :, row : row + 4, column : column + 4].reshape(2, -1)
        torch.testing.assert_close(found[:, number], affine(layer.projection, patch))
    with pytest.raises(ValueError, match="no whole number of patches of 3"):
        vit.PatchEmbedding(8, 3, 3, 5)


@pytest.mark.equation("eq:hw4-multi-head")
def test_attention_and_a_block():
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    attention, block = vit.MultiHeadSelfAttention(12, 3).double(), vit.TransformerBlock(12, 3, 20, 0.5).double().eval()
    torch.testing.assert_close(attention(x), plain_attention(attention, x))
    torch.testing.assert_close(block(x), plain_block(block, x))


def test_the_whole_network():
    model = vit.VisionTransformer(8, 4, 3, 12, 3, 20, 2, 10, 0.1).double().eval()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    x = torch.stack(
        [
            torch.cat([model.class_token[0], *(affine(model.embedding, image[:, r : r + 4, c : c + 4].reshape(1, -1))
                                               for r in (0, 4) for c in (0, 4))])
            for image in images
        ]
    ) + model.positions  # fmt: skip
    for block in model.blocks:
        x = plain_block(block, x)
    torch.testing.assert_close(model(images), affine(model.head, normalised(model.norm, x[:, 0])))
