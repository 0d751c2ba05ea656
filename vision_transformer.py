"""The Vision Transformer (Dosovitskiy et al. 2021), one for all courses: patches of an image as tokens.

Letters: B batch, C channels, P patch size, N patches of an image, D width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attention import MultiHeadAttention


class PreNormBlock(nn.Module):
    """x + attention(LayerNorm(x)), then the same with an MLP: (B, N + 1, D) -> (B, N + 1, D) (eq:pre-norm)."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, dropout: float, qkv_bias: bool, scale: float | None):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, num_heads, qkv_bias=qkv_bias, scale=scale)
        self.mlp = mlp(dim, mlp_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def weights(self, x: Tensor) -> Tensor:
        """How much each token looks at each: (B, H, N + 1, N + 1)."""
        x = self.attention_norm(x)
        return self.attention.weights(x, x)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two affine layers with GELU between them."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


class VisionTransformer(nn.Module):
    """Class scores (B, num_classes) of images (B, C, height, width).

    A class token and the patches, each an affine function of its pixels, get learned positions and pass through `depth`
    blocks (eq:patch-embedding); the class token's features, normalised, make the scores. `exercise` is the variant of
    the MNIST exercise: queries, keys and values without biases, no final norm, and a head with a hidden layer of
    `mlp_dim` units. `scale` multiplies the scores of attention, by default 1 / sqrt(head dimension).
    Raises ValueError for an image that is no whole number of patches high and wide.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        patch_size: int = 7,
        dim: int = 64,
        depth: int = 6,
        num_heads: int = 8,
        mlp_dim: int = 128,
        num_classes: int = 10,
        dropout: float = 0.0,
        exercise: bool = False,
        scale: float | None = None,
    ):
        super().__init__()
        channels, height, width = image_shape
        if height % patch_size or width % patch_size:
            raise ValueError(f"images of {height}x{width} pixels have no whole number of patches of {patch_size}")
        self.patch_size = patch_size
        count = (height // patch_size) * (width // patch_size)
        self.embedding = nn.Linear(channels * patch_size**2, dim)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, count + 1, dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            PreNormBlock(dim, num_heads, mlp_dim, dropout, qkv_bias=not exercise, scale=scale) for _ in range(depth)
        )
        self.norm = nn.Identity() if exercise else nn.LayerNorm(dim)
        self.head = mlp(dim, mlp_dim, num_classes) if exercise else nn.Linear(dim, num_classes)

    def tokens(self, images: Tensor) -> Tensor:
        """What the first block gets: (B, N + 1, D)."""
        patches = self.embedding(to_patches(images, self.patch_size))  # (B, N, D)
        x = torch.cat([self.class_token.expand(len(images), -1, -1), patches], 1)  # (B, N + 1, D)
        return self.dropout(x + self.positions)

    def forward(self, images: Tensor) -> Tensor:
        x = self.tokens(images)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))  # (B, num_classes)

    def attention_weights(self, images: Tensor) -> Tensor:
        """The weights of every block: (depth, B, H, N + 1, N + 1)."""
        x, found = self.tokens(images), []
        for block in self.blocks:
            found.append(block.weights(x))
            x = block(x)
        return torch.stack(found)


def to_patches(images: Tensor, patch_size: int) -> Tensor:
    """The pixels of each patch, row by row of patches: (B, C, height, width) -> (B, N, C P P)."""
    rows = images.unflatten(-1, (-1, patch_size)).unflatten(-3, (-1, patch_size))  # (B, C, rows, P, columns, P)
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def rollout(weights: Tensor) -> Tensor:
    """How much of each patch reaches the class token through all blocks (Abnar and Zuidema 2020): (B, N).

    `weights` (depth, B, H, N + 1, N + 1) are averaged over heads, and mixed half and half with the residual path.
    """
    identity = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    flow = identity.expand(weights.shape[1], -1, -1)
    for each in weights.mean(2):  # (B, N + 1, N + 1), from the first block to the last
        flow = (each + identity) / 2 @ flow
    return flow[:, 0, 1:] / flow[:, 0, 1:].sum(-1, keepdim=True)
