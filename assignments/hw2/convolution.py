"""Homework 2's convolution of a sequence with one filter, and its derivatives as formulae, without autograd.

In numerator layout, a matrix of weights or inputs read row by row. Letters: C channels, N places, K the filter's size,
S stride, R outputs; the sheet has C = 7, N = 11, K = 3, S = 2, and so R = 5.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forward(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The filter's product with each window: x (C, N), weight (C, K) -> (R) (eq:hw2-forward).

    Like PyTorch's convolution it is a cross-correlation: the filter is not turned round.
    """
    windows = x.unfold(1, weight.shape[1], stride)  # (C, R, K)
    return torch.einsum("crk,ck->r", windows, weight)


def by_weight(x: Tensor, size: int, stride: int) -> Tensor:
    """df/dW: x (C, N) -> (R, C K), of which row r is the window r (eq:hw2-by-weight)."""
    return x.unfold(1, size, stride).permute(1, 0, 2).flatten(1)


def by_input(weight: Tensor, places: int, stride: int) -> Tensor:
    """df/dx: weight (C, K) -> (R, C N), of which row r is the filter, moved by r S, among zeros (eq:hw2-by-input)."""
    channels, size = weight.shape
    outputs = (places - size) // stride + 1
    jacobian = weight.new_zeros(outputs, channels, places)
    for r in range(outputs):
        jacobian[r, :, r * stride : r * stride + size] = weight
    return jacobian.flatten(1)


def loss_by_weight(x: Tensor, upstream: Tensor, size: int, stride: int) -> Tensor:
    """dl/dW (C, K) from dl/df (R) (eq:hw2-loss-by-weight).

    Zeros between the gradients turn the stride into a dilation: x is correlated with them, channel by channel.
    """
    dilated = upstream.new_zeros((len(upstream) - 1) * stride + 1)
    dilated[::stride] = upstream
    windows = x.unfold(1, len(dilated), 1)[:, :size]  # (C, K, dilated); a stride can leave places over at the end
    return windows @ dilated
