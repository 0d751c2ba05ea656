"""Images moved, turned and scaled: to train on, and to see what a network makes of them.

Letters: N images, C channels, H and W their size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Images (N, C, H, W) moved by so many pixels; what comes in repeats the border, since black would be an edge."""
    height, width = images.shape[2:]
    margin = max(abs(down), abs(right))
    padded = F.pad(images, [margin] * 4, mode="replicate")
    return padded[..., margin - down : margin - down + height, margin - right : margin - right + width]


def in_each_direction(images: Tensor, pixels: int) -> list[Tensor]:
    """Four copies of images (N, C, H, W): moved by so many pixels to each side."""
    return [shifted(images, pixels * down, pixels * right) for down, right in DIRECTIONS]


def reframe(images: Tensor, angle: Tensor, zoom: Tensor, shift: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate (radians), zoom and shift (in half widths) images (N, C, H, W), replicating their edges."""
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    theta = torch.cat([cos, -sin, shift[0], sin, cos, shift[1]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def jitter(images: Tensor, degrees: float = 10, zoom: float = 0.1, shift: float = 0.1) -> Tensor:
    """Turn, scale and move each image (N, C, H, W) at random, up to these limits (`shift` in widths)."""

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(len(images), 1, 1, 1, device=images.device) - 1) * limit

    moves = uniform(2 * shift), uniform(2 * shift)
    return reframe(images, uniform(math.radians(degrees)), uniform(zoom).exp(), moves)


def mirrored(images: Tensor) -> Tensor:
    """Images (N, C, H, W), each of them, with a chance of one half, as its mirror image."""
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(chosen, images.flip(-1), images)


def cut_out(images: Tensor, side: int) -> Tensor:
    """Images (N, C, H, W) with a square of each at 0, somewhere, if need be in part (DeVries and Taylor 2017)."""

    def inside(size: int) -> Tensor:
        start = torch.randint(size, (len(images), 1), device=images.device) - side // 2
        place = torch.arange(size, device=images.device) - start  # (N, size), from the square's edge
        return (place >= 0) & (place < side)

    rows, columns = (inside(size) for size in images.shape[2:])
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])
