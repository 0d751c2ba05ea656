"""A small residual network, for images of any size.

Letters: B batch, C channels, S the images' size.
"""

from __future__ import annotations

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two convolutions, and what came in added to what they give (He et al. 2016): (B, C, S, S) -> (B, C', S, S)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first, self.second = conv_bn(inputs, outputs), conv_bn(outputs, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else conv_bn(inputs, outputs, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()


def conv_bn(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding="same", bias=False), nn.BatchNorm2d(outputs))


class ResidualCNN(nn.Module):
    """Class scores (B, num_classes) of images (B, C, S, S) of any size from 8 pixels.

    `widths` are the channels of the stem, a convolution, and of the two residual blocks.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int], num_classes: int, dropout: float = 0.0):
        super().__init__()
        stem, middle, last = widths
        self.stem = nn.Sequential(conv_bn(channels, stem), nn.ReLU(), nn.MaxPool2d(2))  # (B, stem, S / 2, S / 2)
        self.blocks = nn.Sequential(
            ResidualBlock(stem, middle), nn.MaxPool2d(2), ResidualBlock(middle, last), nn.MaxPool2d(2)
        )  # (B, last, S / 8, S / 8)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.blocks(self.stem(images))
        return self.classifier(self.dropout(maps.mean((2, 3))))
