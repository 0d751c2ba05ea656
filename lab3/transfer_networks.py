"""The networks of Lab 3's transfer: in stages, from the input to the features, of which the first may stay as they are.

Letters: B batch, C channels, S the images' size, D features, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import pretrained
from common.residual import ResidualCNN
from common.strong import StrongCNN

DIGIT_WIDTHS = (16, 32, 64)  # channels


class Staged(nn.Module):
    """Class scores (B, K) of images (B, C, S, S): stages, the mean over the image, and an affine head.

    Larger images are seen in their centre, smaller ones enlarged; grey ones in three channels where those are expected.
    """

    def __init__(self, stages: list[nn.Module], features: int, num_classes: int, channels: int, size: int):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(features, num_classes)
        self.channels, self.size, self.frozen = channels, size, 0

    def freeze_all_but(self, top: int) -> None:
        """Train the last `top` stages and the head alone. Raises ValueError where there are not as many."""
        if top > len(self.stages):
            raise ValueError(f"--top_blocks is {top}, but this network has {len(self.stages)} stages")
        self.frozen = len(self.stages) - top
        self.stages[: self.frozen].requires_grad_(False)

    def train(self, mode: bool = True) -> Staged:
        super().train(mode)
        self.stages[: self.frozen].eval()  # or batch normalisation's statistics would go on changing
        return self

    def forward(self, images: Tensor) -> Tensor:
        maps = seen(images, self.channels, self.size)  # (B, C, size, size)
        for stage in self.stages:
            maps = stage(maps)
        return self.head(maps.mean((2, 3)))  # (B, D), then (B, K)


def seen(images: Tensor, channels: int, size: int) -> Tensor:
    """Images (B, C, S, S) as a network takes them: (B, channels, size, size)."""
    margin = (images.shape[-1] - size) // 2
    if margin > 0:
        images = images[..., margin : margin + size, margin : margin + size]
    elif images.shape[-1] != size:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.expand(-1, channels, -1, -1).contiguous(memory_format=torch.channels_last)  # faster on CPUs


def small_network(num_classes: int, size: int) -> Staged:
    """A residual network for digits, in three stages."""
    cnn = ResidualCNN(1, DIGIT_WIDTHS, num_classes)
    return Staged([cnn.stem, cnn.blocks[:2], cnn.blocks[2:]], DIGIT_WIDTHS[-1], num_classes, 1, size)


def imagenet_network(num_classes: int, size: int, trained: bool) -> Staged:
    """EfficientNet-Lite0 in nine stages, from stem to features. Raises ValueError where its package is missing."""
    net = pretrained.efficientnet("efficientnet_lite0", trained)
    stages = [nn.Sequential(net.conv_stem, net.bn1), *net.blocks, nn.Sequential(net.conv_head, net.bn2)]
    return Staged(stages, net.num_features, num_classes, 3, size)


def contender(channels: int, num_classes: int) -> nn.Module:
    """What is trained from scratch on small pictures, at their own size: Question 2's strong network."""
    return StrongCNN(num_classes, channels)
