"""Multi-head attention and the residual blocks around it (homework, Appendices A to C).

The kernel is an argument: softmax, or Question 1's linear form instead.
Letters: B batch, L queries, S keys, H heads, D head dimension.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from q1.monomials import feature_dim
from q1.operators import attend_by_scores, visible_keys
from q1_linear_attention import linear_attention

KERNELS = ("softmax", "maclaurin")


def position_angles(length: int, dim: int) -> Tensor:
    """position / 10000^(2i / dim) for each position and each pair i of entries: (length, dim / 2)."""
    rates = torch.exp(-math.log(10000) * torch.arange(0, dim, 2) / dim)
    return torch.arange(length)[:, None] * rates


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """sin and cos of these angles, side by side: (length, dim) (eq:positions)."""
    angles = position_angles(length, dim)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class MultiHeadAttention(nn.Module):
    """Concat(head_1 ... head_H) W^O with head_h = attention(x W_h^Q, z W_h^K, z W_h^V) (eq:multi-head).

    `kernel` is "softmax", or "maclaurin": `terms` terms of the exponential's series instead, otherwise the same
    function of the same parameters. Softmax is quadratic in the length; `linear_attention` takes over where it is less
    work than as many scores. `scale` multiplies the scores, by default 1 / sqrt(head dimension). Works under what
    `linear_attention` works under; but PyTorch's softmax attention has no forward mode on processors.
    Raises ValueError if `hidden_dim` is no multiple of `num_heads`, or for another kernel.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        kernel: str = "softmax",
        terms: int = 3,
        qkv_bias: bool = True,
        scale: float | None = None,
    ):
        super().__init__()
        if hidden_dim % num_heads:
            raise ValueError(f"hidden_dim {hidden_dim} is not a multiple of num_heads {num_heads}")
        if kernel not in KERNELS:
            raise ValueError(f"unknown kernel {kernel!r}: expected one of {', '.join(KERNELS)}")
        self.num_heads, self.kernel, self.terms = num_heads, kernel, terms
        self.scale = (hidden_dim // num_heads) ** -0.5 if scale is None else scale
        self.query, self.key, self.value = (nn.Linear(hidden_dim, hidden_dim, bias=qkv_bias) for _ in range(3))
        self.output = nn.Linear(hidden_dim, hidden_dim)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        causal: bool = False,
        key_padding_mask: Tensor | None = None,
        visible: Tensor | None = None,
        cache: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """x (B, L, hidden_dim) attends to `memory` (B, S, hidden_dim), or to itself: (B, L, hidden_dim).

        `key_padding_mask` (B, S) is True where the memory is padding, which gets weight exactly zero. `causal` lets
        position i see the positions 0 ... i; `visible` (L, S) is True where a query may look at a key. For generation
        token by token, `cache` is a dictionary, empty at first, that keeps keys and values from call to call: a
        memory's are made once, x's own are added to those before. Raises ValueError for `causal` with L != S, unless a
        single query follows those in the cache, and for `visible` with a kernel other than softmax, or with `causal`.
        """
        start = cache["key"].shape[2] if cache and memory is None else 0  # tokens before x, in its own sequence
        query = self.place(self._heads(self.query(x)), start)
        key, value = self._keys_values(x, memory, cache, start)
        if causal and query.shape[2] != key.shape[2]:
            if cache is None or query.shape[2] > 1:
                lengths = f"{query.shape[2]} and {key.shape[2]}"
                raise ValueError(f"causal attention needs as many queries as keys, or one query and a cache: {lengths}")
            causal = False  # the last token sees all that were before it
        hidden = None if key_padding_mask is None else key_padding_mask[:, None]  # (B, 1, S)
        if visible is not None:
            if causal or self.kernel != "softmax":
                raise ValueError("`visible` takes the place of `causal`, and goes with softmax attention alone")
            visible = visible if hidden is None else visible & ~hidden[:, :, None]  # (L, S) or (B, 1, L, S)
            heads = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=self.scale)
        elif self.kernel == "maclaurin":
            heads = _maclaurin_attention(query, key, value, self.terms, causal, hidden, self.scale)
        else:
            heads = _softmax_attention(query, key, value, causal, hidden, self.scale)
        return self.output(heads.transpose(1, 2).flatten(2))  # (B, L, hidden_dim)

    def weights(
        self, x: Tensor, memory: Tensor, key_padding_mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """The softmax weights with which x (B, L, hidden_dim) looks at `memory` (B, S, hidden_dim): (B, H, L, S)."""
        query, key = (self.place(self._heads(layer(y)), 0) for layer, y in ((self.query, x), (self.key, memory)))
        scores = query @ key.mT * self.scale
        if key_padding_mask is not None:
            scores = scores.masked_fill(key_padding_mask[:, None, None], -torch.inf)
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        return scores.softmax(-1)

    def place(self, heads: Tensor, start: int) -> Tensor:
        """Queries or keys (B, H, L, D) at the positions from `start` on, as they enter the scores: here unchanged."""
        return heads

    def _keys_values(
        self, x: Tensor, memory: Tensor | None, cache: dict[str, Tensor] | None, start: int
    ) -> tuple[Tensor, Tensor]:
        if cache and memory is not None:
            return cache["key"], cache["value"]
        source = x if memory is None else memory
        key, value = self.place(self._heads(self.key(source)), start), self._heads(self.value(source))
        if cache:
            key, value = torch.cat([cache["key"], key], 2), torch.cat([cache["value"], value], 2)
        if cache is not None:
            cache.update(key=key, value=value)
        return key, value

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, L, D)


class RotaryAttention(MultiHeadAttention):
    """Self-attention whose queries and keys are turned by their positions (Su et al. 2021).

    Entries 2i and 2i + 1 of a head are a point in a plane, turned by position / 10000^(2i / D): a score then depends on
    the distance of two positions alone. Raises ValueError for an odd head dimension.
    """

    def __init__(self, hidden_dim: int, num_heads: int, **options):
        super().__init__(hidden_dim, num_heads, **options)
        if hidden_dim // num_heads % 2:
            raise ValueError(f"rotary positions need an even head dimension, not {hidden_dim // num_heads}")

    def place(self, heads: Tensor, start: int) -> Tensor:
        turned = position_angles(start + heads.shape[2], heads.shape[3])[start:].to(heads.device)  # (L, D / 2)
        cos, sin = turned.cos().to(heads.dtype), turned.sin().to(heads.dtype)
        even, odd = heads.unflatten(-1, (-1, 2)).unbind(-1)  # (B, H, L, D / 2)
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


LARGEST_WRITTEN_OUT = 2**20  # scores of a head: beyond that their memory counts
FEW_KEYS = 50  # as the Vision Transformer has


def _softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, hidden: Tensor | None, scale: float
) -> Tensor:
    # on processors PyTorch's fused kernel takes up to three times as long in bfloat16, most of it in its backward pass,
    # and up to twice as long with few keys; a program for any length, which torch.export makes, cannot choose by that
    written_out = query.device.type == "cpu" and not torch.compiler.is_exporting()
    written_out = written_out and (query.dtype == torch.bfloat16 or key.shape[-2] <= FEW_KEYS)
    if not written_out or query.shape[-2] * key.shape[-2] > LARGEST_WRITTEN_OUT:
        is_causal = causal and hidden is None
        visible = None if is_causal else visible_keys(query, key, causal, hidden)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, is_causal=is_causal, scale=scale)
    scores = (query * scale) @ key.mT  # (B, H, L, S)
    visible = visible_keys(query, key, causal, hidden)
    if visible is None:
        weights = scores.softmax(-1)
    else:  # a query that sees nothing gets weights of 0, and finite gradients
        weights = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~visible, 0)
    return weights.to(value.dtype) @ value


def _maclaurin_attention(
    query: Tensor, key: Tensor, value: Tensor, terms: int, causal: bool, hidden: Tensor | None, scale: float
) -> Tensor:
    """`linear_attention`, or the same by scores where those are no more than its sums over keys (M, D + 1).

    They then take less memory and, with two terms or more, fewer operations: L S / (L + S) < M (D + 1) / 2 D.
    """
    scores_size, sums_size = query.shape[-2] * key.shape[-2], feature_dim(key.shape[-1], terms) * (key.shape[-1] + 1)
    # a program for any length, which torch.export makes, cannot choose by the length
    if torch.compiler.is_exporting() or scores_size > sums_size:
        return linear_attention(query, key, value, terms=terms, causal=causal, key_padding_mask=hidden, scale=scale)
    return attend_by_scores(query, key, value, hidden, terms, causal, scale)


class SubBlock(nn.Module):
    """LayerNorm(x + module(LayerNorm(x))) (eq:sub-block); with attention, Appendix A's layer (eq:residual-layer)."""

    def __init__(self, hidden_dim: int, module: nn.Module):
        super().__init__()
        self.before, self.module, self.after = nn.LayerNorm(hidden_dim), module, nn.LayerNorm(hidden_dim)

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        return self.after(x + self.module(self.before(x), *args, **kwargs))


class Block(nn.Module):
    """An attention sub-block, then one with an MLP whose hidden layer is twice as wide (Appendix B).

    Given a `memory`, x attends to that instead of to itself: Appendix C's block (eq:cross-block).
    """

    def __init__(self, hidden_dim: int, num_heads: int, kernel: str = "softmax"):
        super().__init__()
        mlp = nn.Sequential(nn.Linear(hidden_dim, 2 * hidden_dim), nn.GELU(), nn.Linear(2 * hidden_dim, hidden_dim))
        self.attention = SubBlock(hidden_dim, MultiHeadAttention(hidden_dim, num_heads, kernel))
        self.mlp = SubBlock(hidden_dim, mlp)

    def forward(self, x: Tensor, memory: Tensor | None = None, **attention) -> Tensor:
        return self.mlp(self.attention(x, memory, **attention))  # (B, L, hidden_dim)
