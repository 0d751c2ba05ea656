"""Homework 4's attention in columns, its first-order changes, and weights that make it do something exactly.

Letters: d features of a key, t features of a value, m keys, n queries; all vectors are columns, as in the statement.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(Q: Tensor, K: Tensor, V: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """A = softargmax over the keys of beta K^T Q (m, n), and H = V A (t, n) (eq:hw4-attention).

    Q (d, n), K (d, m), V (t, m).
    """
    A = (beta * K.T @ Q).softmax(0)
    return A, V @ A


def change_by_key(Q: Tensor, K: Tensor, V: Tensor, beta: float, j: int, delta: Tensor) -> Tensor:
    """First-order change of H (t, n) when key j moves by `delta` (d) (eq:hw4-key-change)."""
    A, H = attend(Q, K, V, beta)
    return beta * (A[j] * (delta @ Q)) * (V[:, j : j + 1] - H)


def change_by_query(Q: Tensor, K: Tensor, V: Tensor, beta: float, i: int, delta: Tensor) -> Tensor:
    """First-order change of h_i (t) when query i moves by `delta` (d); the others stay (eq:hw4-query-change)."""
    A, H = attend(Q, K, V, beta)
    return beta * (V - H[:, i : i + 1]) @ (A[:, i] * (K.T @ delta))


# --- self-attention that is an identity, a permutation, a convolution ---------------------------------


def with_positions(X: Tensor) -> Tensor:
    """X (t, n) with a one-hot position below each column, and one more, empty token at the end: (t + n + 1, n + 1)."""
    n = X.shape[1]
    return torch.cat([F.pad(X, (0, 1)), torch.eye(n + 1, dtype=X.dtype)])


def moving_head(source: Tensor, features: int, value: Tensor | None = None) -> dict[str, Tensor]:
    """W_Q, W_K and W_V of a head in which token i takes the value of token `source[i]`, both from 0 to n.

    Token n is the empty one. Queries say where to look, keys where they are: W_Q maps a token's position to that of its
    source, W_K keeps it. W_V keeps the t features, or multiplies them with `value` (t', t).
    """
    tokens = len(source)
    nothing = torch.zeros(tokens, features, dtype=torch.float64)
    positions = F.one_hot(source, tokens).double().T  # (n + 1, n + 1): column i is the place that token i looks at
    value = torch.eye(features, dtype=torch.float64) if value is None else value
    return {
        "query": torch.cat([nothing, positions], 1),
        "key": torch.cat([nothing, torch.eye(tokens, dtype=torch.float64)], 1),
        "value": torch.cat([value, torch.zeros(len(value), tokens, dtype=torch.float64)], 1),
    }


def self_attention(X: Tensor, heads: list[dict[str, Tensor]], beta: float) -> Tensor:
    """The sum of heads over X (t, n), whose tokens get their positions: (t', n)."""
    tokens = with_positions(X)
    outputs = [attend(head["query"] @ tokens, head["key"] @ tokens, head["value"] @ tokens, beta)[1] for head in heads]
    return sum(outputs)[:, :-1]


def identity_heads(tokens: int, features: int) -> list[dict[str, Tensor]]:
    """Each token looks at itself (eq:hw4-identity)."""
    return [moving_head(torch.arange(tokens + 1), features)]


def permutation_heads(order: Tensor, features: int) -> list[dict[str, Tensor]]:
    """Token i takes the value of token `order[i]` (eq:hw4-permutation)."""
    return [moving_head(torch.cat([order, torch.tensor([len(order)])]), features)]


def convolution_heads(kernel: Tensor, tokens: int) -> list[dict[str, Tensor]]:
    """A head for each tap of a kernel (t', t, 3), as in `F.conv1d` with padding 1 (eq:hw4-convolution).

    Beyond the ends a head looks at the empty token, whose value is 0.
    """
    heads = []
    for tap in range(kernel.shape[2]):
        source = torch.arange(tokens + 1) + tap - kernel.shape[2] // 2
        source[(source < 0) | (source >= tokens)] = tokens
        source[tokens] = tokens
        heads.append(moving_head(source, kernel.shape[1], kernel[:, :, tap]))
    return heads


# --- masks --------------------------------------------------------------------------------------------


def visible(length: int, look_ahead: int | None, look_back: int | None = None) -> Tensor:
    """Which keys (columns) each query (rows) may see: so many after it, and so many before it; None is all of them."""
    distance = torch.arange(length)[None] - torch.arange(length)[:, None]  # key minus query
    after = torch.ones_like(distance, dtype=torch.bool) if look_ahead is None else distance <= look_ahead
    return after if look_back is None else after & (distance >= -look_back)


def reach(masks: list[Tensor]) -> Tensor:
    """Which inputs (columns) each output (rows) depends on, after layers with these masks (L, L) and residual paths."""
    found = torch.eye(len(masks[0]), dtype=torch.bool)
    for mask in masks:
        found = found | (mask.double() @ found.double() > 0)
    return found
