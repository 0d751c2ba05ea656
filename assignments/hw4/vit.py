"""Homework 4's Vision Transformer, under the course's names: the repository's one, and its parts.

Letters: B batch, C channels, N patches, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

import vision_transformer
from attention import MultiHeadAttention
from vision_transformer import PreNormBlock, to_patches


class PatchEmbedding(nn.Module):
    """An affine function of each patch's pixels: (B, C, image_size, image_size) -> (B, N, embed_dim).

    Raises ValueError if `image_size` is no multiple of `patch_size`.
    """

    def __init__(self, image_size: int, patch_size: int, in_channels: int, embed_dim: int):
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"images of {image_size} pixels have no whole number of patches of {patch_size}")
        self.patch_size, self.num_patches = patch_size, (image_size // patch_size) ** 2
        self.projection = nn.Linear(in_channels * patch_size**2, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(to_patches(images, self.patch_size))


class MultiHeadSelfAttention(MultiHeadAttention):
    """x (B, N, embed_dim) attends to itself (eq:multi-head)."""

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__(embed_dim, num_heads)


class TransformerBlock(PreNormBlock):
    """x + attention(LayerNorm(x)), then the same with an MLP: (B, N, embed_dim) -> (B, N, embed_dim)."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int, dropout: float = 0.0):
        super().__init__(embed_dim, num_heads, mlp_dim, dropout, qkv_bias=True, scale=None)


class VisionTransformer(vision_transformer.VisionTransformer):
    """Class scores (B, num_classes) of images (B, in_channels, image_size, image_size)."""

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        in_channels: int,
        embed_dim: int,
        num_heads: int,
        mlp_dim: int,
        num_layers: int,
        num_classes: int,
        dropout: float = 0.0,
    ):
        super().__init__(
            (in_channels, image_size, image_size), patch_size, embed_dim, num_layers, num_heads, mlp_dim, num_classes,
            dropout,
        )  # fmt: skip
