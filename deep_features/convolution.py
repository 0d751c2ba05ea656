"""Convolution written out: by loops, and as one matrix product.

What is called convolution here is a cross-correlation, as in every deep-learning library: the kernel is not turned.
Letters: B batch, C channels in, O channels out, H and W the image's size, K the kernel's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.shaped_cnn import output_size

IMAGE = ((2, 5, 4, 1), (3, 1, 2, 0), (4, 5, 7, 1), (1, 2, 3, 4))  # the exercise's example
KERNEL = ((1, 0), (0, 1))
SIGNAL, FILTER = (2, 5, 4, 1, 3, 7), (1, 0, 1)  # and that in one dimension


def by_loops(image: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """One channel (H, W) with one kernel (K, K), position by position (eq:convolution)."""
    rows, columns = (output_size(size, kernel.shape[0], stride) for size in image.shape)
    output = torch.zeros(rows, columns, dtype=image.dtype)
    for i in range(rows):
        for j in range(columns):
            for a in range(kernel.shape[0]):
                for b in range(kernel.shape[1]):
                    output[i, j] += kernel[a, b] * image[i * stride + a, j * stride + b]
    return output


def columns_of(images: Tensor, kernel: int, stride: int = 1) -> Tensor:
    """Every window of images (B, C, H, W) as a column: (B, C K K, number of windows), known as im2col."""
    windows = images.unfold(2, kernel, stride).unfold(3, kernel, stride)  # (B, C, rows, columns, K, K)
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)


def by_matrix_product(images: Tensor, kernels: Tensor, stride: int = 1) -> Tensor:
    """Images (B, C, H, W) with kernels (O, C, K, K), all windows in one product: (B, O, rows, columns)."""
    size = kernels.shape[-1]
    product = kernels.flatten(1) @ columns_of(images, size, stride)  # (O, C K K) @ (B, C K K, windows)
    rows = output_size(images.shape[2], size, stride)
    return product.unflatten(2, (rows, -1))


def correlate(signal: Tensor, kernel: Tensor) -> Tensor:
    """The same in one dimension: (L,), (K,) -> (L - K + 1,)."""
    return signal.unfold(0, len(kernel), 1) @ kernel
