"""What a trained Vision Transformer looks at, in numbers that a result file holds, and drawn from them.

Letters: B images, H and W their size, C channels, N patches.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import utils
from vision_transformer import VisionTransformer, rollout

KEYS = ("images.*.*:number", "rollout.*.*:number", "positions.*.*:number")


@torch.no_grad()
def looks(model: VisionTransformer, images: Tensor, pixels: Tensor) -> dict:
    """What reaches the class token from each patch of images (B, C, H, W), and how alike the learned positions are.

    `pixels` are the same images in [0, 1], kept as bytes, row by row, the channels last.
    """
    device = next(model.parameters()).device
    weights = model.eval().attention_weights(images.to(device)).float().cpu()  # (depth, B, heads, N + 1, N + 1)
    positions = nn.functional.normalize(model.positions[0, 1:].float().cpu(), dim=-1)  # (N, D)
    return {
        "images": pixels.permute(0, 2, 3, 1).flatten(1).clamp(0, 1).mul(255).round().int().tolist(),
        "rollout": rounded(rollout(weights)),
        "last_block": rounded(weights[-1].mean(1)[:, 0, 1:]),
        "positions": rounded(positions @ positions.T),
    }


def rounded(values: Tensor) -> list[list[float]]:
    return [[round(value, 3) for value in row] for row in values.tolist()]


@utils.plot_style()
def plot_attention(found: dict, channels: int, title: str) -> Figure:
    """Images, and below each how much of each of its patches reaches the class token (rollout)."""
    shares = np.array(found["rollout"])  # (B, N)
    side, patches = (int((len(row) / depth) ** 0.5) for row, depth in ((found["images"][0], channels), (shares[0], 1)))
    images = np.reshape(found["images"], (-1, side, side, channels))
    figure = Figure(figsize=(1.0 * len(images), 2.4))
    panels = figure.subplots(2, len(images))
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
    for (above, below), image, share in zip(panels.T, images, shares, strict=True):
        above.imshow(image, cmap="Greys", vmin=0, vmax=255)
        below.imshow(share.reshape(patches, patches), cmap="Reds", vmin=0)
    figure.suptitle(f"{title}: patches that reach the class token (darker: more)", fontsize=9)
    return figure


@utils.plot_style()
def plot_positions(found: dict, title: str) -> Figure:
    """How alike the learned positions are: for each patch a map of its cosine with all."""
    similarity = np.array(found["positions"])  # (N, N)
    side = int(len(similarity) ** 0.5)
    figure = Figure(figsize=(3.4, 3.5))
    panels = figure.subplots(side, side)
    for axes, row in zip(panels.flat, similarity, strict=True):
        axes.imshow(row.reshape(side, side), cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
    figure.suptitle(f"{title}\nlikeness of learned positions, a map for each patch", fontsize=9)
    return figure
