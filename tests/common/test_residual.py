"""The residual network, against its layers one by one."""

import torch
import torch.nn.functional as F
from torch import nn

from common.residual import ResidualBlock, ResidualCNN


def convolved(layer, x):
    """Convolution and normalisation with stored statistics, in plain arithmetic."""
    conv, norm = layer
    x = F.conv2d(x, conv.weight, padding=conv.kernel_size[0] // 2)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def test_a_block_passes_its_input_by():
    block, x = ResidualBlock(5, 5).eval(), torch.randn(2, 5, 4, 4)
    nn.init.zeros_(block.second[0].weight)
    torch.testing.assert_close(block(x), x.relu())  # what is left without the second convolution


def test_the_whole_network():
    torch.manual_seed(0)
    model = ResidualCNN(3, (4, 6, 7), 5).double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    model.train()(images)  # statistics other than 0 and 1
    model.eval()
    x = F.max_pool2d(convolved(model.stem[0], images).relu(), 2)
    for block in (model.blocks[0], model.blocks[2]):
        inner = convolved(block.second, convolved(block.first, x).relu())
        x = F.max_pool2d((inner + convolved(block.shortcut, x)).relu(), 2)
    torch.testing.assert_close(model(images), x.mean((2, 3)) @ model.classifier.weight.T + model.classifier.bias)
