"""A convolutional network of any depth, from its sizes alone: what a study of its factors varies, or a search draws.

Letters: B batch, C channels, S the images' size, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}


def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Positions that a kernel can take along a side (eq:output-size); 0 where it does not fit."""
    reach = dilation * (kernel - 1) + 1  # pixels from its first to its last
    return max(0, (size + 2 * padding - reach) // stride + 1)


@dataclass(frozen=True)
class Shape:
    """The sizes of a network; `pools` are the numbers, from 1, of the convolutions that 2x2 pooling follows.

    Raises ValueError, in the words of the flags of the same names, where they make no network.
    """

    widths: tuple[int, ...]  # channels of each convolution
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    paddings: tuple[int, ...]
    pools: tuple[int, ...] = ()
    mean_pool: bool = False  # instead of max-pooling
    hidden: tuple[int, ...] = ()  # units of each affine layer before the last
    activation: str = "relu"  # one of ACTIVATIONS
    batch_norm: bool = True
    dropout: float = 0.0  # probability of dropping a feature before the last layer
    in_channels: int = 1
    image_size: int = 28
    num_classes: int = 10

    def __post_init__(self):
        if len({len(sizes) for sizes in (self.widths, self.kernels, self.strides, self.paddings)}) > 1:
            raise ValueError("--widths, --kernels, --strides and --paddings must name as many convolutions")
        if not set(self.pools) <= set(range(1, len(self.widths) + 1)):
            raise ValueError(f"--pools must name convolutions from 1 to {len(self.widths)}")
        if 0 in (*self.widths, *self.kernels, *self.strides):
            raise ValueError("--widths, --kernels and --strides must be positive")
        side, whole = self.image_size, f"{self.image_size}x{self.image_size}"
        for i, (kernel, stride, padding) in enumerate(zip(self.kernels, self.strides, self.paddings, strict=True), 1):
            side = output_size(side, kernel, stride, padding) // (2 if i in self.pools else 1)
            if side < 1:
                raise ValueError(f"convolution {i} leaves nothing of a {whole} image: use smaller kernels or strides")


class ShapedCNN(nn.Module):
    """Class scores (B, K) of images (B, C, S, S): convolutions, with norm and activation, then affine layers.

    It computes in channels-last memory order, in which small convolutions are fastest on a CPU.
    """

    def __init__(self, shape: Shape):
        super().__init__()
        activation, layers, channels = ACTIVATIONS[shape.activation], [], shape.in_channels
        sizes = zip(shape.widths, shape.kernels, shape.strides, shape.paddings, strict=True)
        for i, (width, kernel, stride, padding) in enumerate(sizes, 1):
            layers.append(nn.Conv2d(channels, width, kernel, stride, padding))
            layers += [nn.BatchNorm2d(width)] if shape.batch_norm else []
            layers.append(activation())
            layers += [nn.AvgPool2d(2) if shape.mean_pool else nn.MaxPool2d(2)] if i in shape.pools else []
            channels = width
        self.features = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            image = torch.zeros(1, shape.in_channels, shape.image_size, shape.image_size)
            inputs = self.features.eval()(image).shape[1]
        self.features.train()
        hidden = []
        for units in shape.hidden:
            hidden += [nn.Linear(inputs, units), activation()]
            inputs = units
        self.classifier = nn.Sequential(*hidden, nn.Dropout(shape.dropout), nn.Linear(inputs, shape.num_classes))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images.contiguous(memory_format=torch.channels_last)))
