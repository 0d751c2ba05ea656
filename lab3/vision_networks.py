"""Vision networks that differ in their blocks alone: a stem, three stages of blocks, the mean over the image, a head.

Each stage halves the image that the one before left, and doubles the channels. So what one kind of block is worth can
be told apart from the rest.

Letters: B batch, C channels, S the images' size, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = 3
REDUCTION = 8  # of channels, in squeeze-and-excitation and in CBAM
EXPANSION = 4  # of channels, within an inverted bottleneck; as many times fewer within a bottleneck
DEPTH, WIDTH, RESOLUTION = 1.2, 1.1, 1.15  # compound scaling's bases (Tan and Le 2019): together about twice the work


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


# --- attention to channels and to places -------------------------------------------------------------


class SqueezeExcitation(nn.Module):
    """Each channel times a number from 0 to 1 that depends on all channels' means (Hu et al. 2018)."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(1, channels // REDUCTION)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3))  # (B, C)
        weights = self.excite(self.squeeze(means).relu()).sigmoid()
        return x * weights[:, :, None, None]


class ChannelAttention(nn.Module):
    """CBAM's first half (Woo et al. 2018): the same of means and maxima, by one MLP, added before the sigmoid."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(1, channels // REDUCTION)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))).sigmoid()  # (B, C)
        return x * weights[:, :, None, None]


class SpatialAttention(nn.Module):
    """Its second half: each place times a number that depends on the means and maxima over channels around it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)  # (B, 2, S, S)
        return x * self.conv(summary).sigmoid()


def cbam(channels: int) -> nn.Module:
    return nn.Sequential(ChannelAttention(channels), SpatialAttention())


# --- blocks: (B, C, S, S) -> (B, C', S / stride, S / stride) -----------------------------------------


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """What came in, in the form of what a block gives."""
    return nn.Identity() if inputs == outputs and stride == 1 else conv_bn(inputs, outputs, 1, stride)


class Plain(nn.Module):
    """Two convolutions, and nothing beside them."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first, self.second = conv_bn(inputs, outputs, 3, stride), conv_bn(outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).relu()


class Basic(Plain):
    """ReLU(x + f(x)) (He et al. 2016), with attention on f(x), where there is any."""

    def __init__(self, inputs: int, outputs: int, stride: int, attention: Callable[[int], nn.Module] | None = None):
        super().__init__(inputs, outputs, stride)
        self.attention = attention(outputs) if attention else nn.Identity()
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.attention(self.second(self.first(x).relu()))).relu()


class Preactivation(nn.Module):
    """x + f(x), with normalisation and ReLU before each convolution, so that x passes untouched (He et al. 2016b)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)])
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        ready = self.norms[0](x).relu()
        beside = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(ready)
        return beside + self.second(self.norms[1](self.first(ready)).relu())


class Bottleneck(nn.Module):
    """ReLU(x + f(x)), f with its 3 x 3 convolution on a quarter of the channels (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        narrow = outputs // EXPANSION
        self.body = nn.Sequential(
            conv_bn(inputs, narrow, 1), nn.ReLU(), conv_bn(narrow, narrow, 3, stride), nn.ReLU(),
            conv_bn(narrow, outputs, 1),
        )  # fmt: skip
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.body(x)).relu()


class InvertedBottleneck(nn.Module):
    """EfficientNet's block (Tan and Le 2019): more channels, each convolved alone, excited, and fewer again."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        wide = EXPANSION * inputs
        self.body = nn.Sequential(
            conv_bn(inputs, wide, 1), nn.SiLU(), conv_bn(wide, wide, 3, stride, groups=wide), nn.SiLU(),
            SqueezeExcitation(wide), conv_bn(wide, outputs, 1),
        )  # fmt: skip
        self.adds = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


# --- networks ----------------------------------------------------------------------------------------

Block = Callable[[int, int, int], nn.Module]  # of channels in and out, and the stride


class Staged(nn.Module):
    """Class scores (B, K) of images (B, C, S, S), seen at `resolution` pixels where that is given."""

    def __init__(
        self, block: Block, channels: int, width: int, depth: int, num_classes: int, resolution: int | None = None
    ):
        super().__init__()
        self.resolution = resolution
        self.stem = nn.Sequential(conv_bn(channels, width, 3), nn.ReLU(), nn.MaxPool2d(2))  # (B, width, S / 2, S / 2)
        blocks, inputs = [], width
        for stage in range(STAGES):
            outputs = width * 2**stage
            for place in range(depth):
                blocks.append(block(inputs, outputs, 2 if stage and not place else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)  # (B, 4 width, S / 8, S / 8)
        last = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.last = last if block is Preactivation else nn.Identity()
        self.head = nn.Linear(inputs, num_classes)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        if self.resolution:
            size = (self.resolution, self.resolution)
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        maps = self.last(self.blocks(self.stem(images)))
        return self.head(maps.mean((2, 3)))


def initialise(module: nn.Module) -> None:
    """Convolutions that keep the variance of what passes through them and a ReLU (He et al. 2015)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class Scaled(NamedTuple):
    """What compound scaling makes of a network: blocks of each stage, channels of the first one, and pixels."""

    depth: int
    width: int
    resolution: int


def compound(phi: int, depth: int, width: int, resolution: int) -> Scaled:
    """`phi` steps of compound scaling: depth, width and resolution grow together, each by its base to the phi.

    Depth is rounded up, the others to the nearest even number.
    """
    return Scaled(
        math.ceil(depth * DEPTH**phi), 2 * round(width * WIDTH**phi / 2), 2 * round(resolution * RESOLUTION**phi / 2)
    )
