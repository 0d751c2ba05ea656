"""Sentences from a decoder that writes token by token: greedy or beam search, one state carried along.

A decoder has `_forward(tokens (B, n), memory, state) -> (logits (B, n, V), state)`, of which {} is the first state, and
`select(state, rows)`, the state of some rows of the batch. Its memory is a tuple of tensors that begin with B.

Letters: B batch, n tokens, V vocabulary, W width of the beam.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Decoder(Protocol):
    def _forward(self, tokens: Tensor, memory: Any, state: dict | None) -> tuple[Tensor, dict | None]: ...

    def select(self, state: dict, rows: Tensor) -> dict: ...


class Prefixes(Protocol):
    """Another judge of W sentences that go on: log-probabilities (W, V), and which of them went on with which token."""

    def scores(self) -> Tensor: ...

    def extend(self, sentences: Tensor, tokens: Tensor) -> None: ...


class Marks(NamedTuple):
    """The tokens that begin and end a sentence."""

    start: int
    stop: int


@torch.no_grad()
def greedy(decoder: Decoder, memory: tuple[Tensor, ...], limits: Tensor, marks: Marks) -> list[list[int]]:
    """The most probable token at each step, until a stop token or a sentence's limit (B,); neither start nor stop."""
    running = torch.arange(len(limits), device=limits.device)  # sentences that have not stopped
    token = torch.full((len(limits), 1), marks.start, device=limits.device)
    sentences: list[list[int]] = [[] for _ in range(len(limits))]
    state: dict | None = {}
    for step in range(int(limits.max())):
        logits, state = decoder._forward(token, memory, state)  # (B, 1, V)
        token = logits[:, -1:].argmax(-1)  # (B, 1)
        going = ((token[:, 0] != marks.stop) & (limits[running] > step)).nonzero()[:, 0]
        if len(going) < len(running):  # finished sentences leave the batch
            running, token = running[going], token[going]
            memory, state = type(memory)(*(x[going] for x in memory)), decoder.select(state, going)
            if not len(running):
                break
        for place, found in zip(running.tolist(), token[:, 0].tolist(), strict=True):
            sentences[place].append(found)
    return sentences


@torch.no_grad()
def beam_search(
    decoder: Decoder,
    memory: tuple[Tensor, ...],
    width: int,
    limit: int,
    marks: Marks,
    judge: Prefixes | None = None,
    weight: float = 0.0,
) -> list[int]:
    """The sentence with the highest mean log-probability per token that a beam of `width` finds, for a memory of one.

    Of the logarithm, `weight` is the judge's, the rest the decoder's (joint decoding: Watanabe et al. 2017).
    """
    sentences = torch.full((1, 1), marks.start, device=memory[0].device)  # (W, n + 1)
    scores = torch.zeros(1, device=memory[0].device)  # (W,) sums of the decoder's log-probabilities
    best_score, best, state = -torch.inf, [], {}
    for step in range(1, limit + 1):
        rows = type(memory)(*(x.expand(len(sentences), *x.shape[1:]) for x in memory))
        logits, state = decoder._forward(sentences[:, -1:], rows, state)
        own = scores[:, None] + logits[:, -1].log_softmax(-1)  # (W, V)
        totals = (1 - weight) * own + weight * judge.scores().to(own) if judge else own
        for sentence, total in zip(sentences.tolist(), totals[:, marks.stop].tolist(), strict=True):
            if total / step > best_score:
                best_score, best = total / step, sentence[1:]
        totals[:, marks.stop] = -torch.inf
        highest, flat = totals.flatten().topk(min(width, totals.numel() - len(totals)))
        origin, token, scores = flat // totals.shape[1], flat % totals.shape[1], own.flatten()[flat]
        if judge:
            judge.extend(origin.cpu(), token.cpu())
        sentences = torch.cat([sentences[origin], token[:, None]], 1)
        state = decoder.select(state, origin)
        if highest[0] / limit < best_score:
            break  # further tokens only add negative numbers: no running sentence can win any more
    return best
