"""Homework 2's AttentionRNN: each state is a weighted mean of values of the input and of the states before it.

Letters: B batch, T time, n inputs, m units of a state, d features of queries and keys; i is how far back a state lies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class AttentionRNN(nn.Module):
    """h[t] = sum_i a_i v_i with a = softargmax(w), w_i = q_i . k_i (eq:hw2-attention in report/).

    q_0, k_0, v_0 come from x[t], and q_i, k_i, v_i from h[t - i] for i = 1 ... k. For finite k each i has matrices of
    its own, 3 (k + 1) in all, and states before the first are zero. For k = math.inf their number can't depend on
    the time, so all states share one triple, six matrices in all, and states before the first are left out: infinitely
    many zeros would take all weight. Raises ValueError for a k that is neither at least 1 nor infinite.
    """

    def __init__(self, k: float, input_size: int, state_size: int, key_size: int):
        super().__init__()
        if not (k == math.inf or (k >= 1 and k == int(k))):
            raise ValueError(f"k is {k}, but must be a whole number from 1 on, or math.inf")
        self.k, self.state_size = k, state_size
        sizes = [input_size] + [state_size] * (1 if k == math.inf else int(k))
        self.queries, self.keys, self.values = (
            nn.ModuleList(nn.Linear(size, out, bias=False) for size in sizes)
            for out in (key_size, key_size, state_size)
        )

    def matrices(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Q_i and K_i (d, n or m), V_i (m, n or m)."""
        place = min(i, len(self.queries) - 1)  # beyond the last triple only where it is shared
        return self.queries[place].weight, self.keys[place].weight, self.values[place].weight

    def step(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """h[t] (..., m), a (..., 1 + states) and v (..., 1 + states, m) from x[t] (..., n) and states, latest first."""
        scores, values = [], []
        for i, source in enumerate([x, *states]):
            query, key, value = (source @ matrix.T for matrix in self.matrices(i))
            scores.append((query * key).sum(-1))
            values.append(value)
        weights = torch.stack(scores, -1).softmax(-1)  # (..., 1 + states)
        stacked = torch.stack(values, -2)  # (..., 1 + states, m)
        return (weights[..., None] * stacked).sum(-2), weights, stacked

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, n) -> the states (B, T, m)."""
        infinite = self.k == math.inf
        states = [] if infinite else [x.new_zeros(len(x), self.state_size)] * int(self.k)
        found = []
        for t in range(x.shape[1]):
            h, _, _ = self.step(x[:, t], states)
            found.append(h)
            states = [h, *states] if infinite else [h, *states[:-1]]
        return torch.stack(found, 1)

    @torch.no_grad()
    def jacobian(self, x: Tensor, states: list[Tensor], i: int) -> Tensor:
        """dh[t]/dh[t - i] (m, m) of one example, the other states fixed (eq:hw2-attention-jacobian)."""
        h, weights, values = self.step(x, states)
        query, key, value = self.matrices(i)
        score = states[i - 1] @ (query.T @ key + key.T @ query)  # the row dw_i/dh[t - i]
        return weights[i] * (value + torch.outer(values[i] - h, score))

    @torch.no_grad()
    def gradient(self, x: Tensor, direct: Tensor) -> Tensor:
        """The rows dl/dh[t] of one sequence x (T, n), as (T, m), by eq:hw2-attention-gradient, from the last one on.

        `direct` (T, m) are the loss's derivatives by each state as it enters the loss itself.
        """
        found, length = direct.clone(), len(x)
        h = self.forward(x[None])[0]  # (T, m)
        for t in reversed(range(length)):  # once t is reached, all later states have given their share
            before = [h[t - i] if i <= t else torch.zeros_like(h[0]) for i in range(1, self.reach(t) + 1)]
            for i in range(1, min(self.reach(t), t) + 1):
                found[t - i] += found[t] @ self.jacobian(x[t], before, i)
        return found

    def reach(self, t: int) -> int:
        """How many states the step at t, from 0 on, looks at."""
        return t if self.k == math.inf else int(self.k)
