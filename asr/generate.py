"""From speech to text with a trained model: greedy or beam search, one state carried along.

Letters: B batch, T frames, F mel bins, N tokens, V vocabulary, W width of the beam.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from asr.ctc import CTCPrefixes
from asr.model import Memory, SpeechRecognizer
from asr.text import EMPTY, MAX_TOKENS, START, STOP


@torch.no_grad()
def greedy(
    model: SpeechRecognizer,
    features: Tensor,
    lengths: Tensor,
    limit: int = MAX_TOKENS - 1,
    per_frame: float = math.inf,
) -> list[list[int]]:
    """The most probable token at each step, until each sentence's stop token or its `token_limits`.

    Features (B, T, F), lengths (B,) -> for each clip its tokens, without start and stop.
    """
    limits = token_limits(lengths, limit, per_frame)
    memory = model.encoder(features, lengths)
    running = torch.arange(len(features), device=features.device)  # clips that have not stopped
    token = torch.full((len(features), 1), START, device=features.device)
    sentences = torch.full((len(features), limit), EMPTY)
    state: dict = {}
    for step in range(limit):
        logits, state = model.decoder._forward(token, memory, state)  # (B, 1, V)
        token = logits[:, -1:].argmax(-1)  # (B, 1)
        going = ((token[:, 0] != STOP) & (limits[running] > step)).nonzero()[:, 0]
        if len(going) < len(running):  # finished clips leave the batch
            running, token = running[going], token[going]
            memory, state = Memory(*(x[going] for x in memory)), model.decoder.select(state, going)
            if not len(running):
                break
        sentences[running.cpu(), step] = token[:, 0].cpu()
    return [[token for token in sentence if token != EMPTY] for sentence in sentences.tolist()]


def token_limits(lengths: Tensor, limit: int, per_frame: float) -> Tensor:
    """The most tokens that a search may write for clips of `lengths` frames (B,): `limit`, or `per_frame` if less.

    At least one each. What loops, without an end of its own, ends there.
    """
    if math.isinf(per_frame):
        return torch.full_like(lengths, limit)
    # float64, in which 0.3 of 400 frames are 120 tokens, not 121
    return (lengths.cpu().double() * per_frame).ceil().clamp(1, limit).long().to(lengths.device)


@torch.no_grad()
def ctc_greedy(model: SpeechRecognizer, features: Tensor, lengths: Tensor) -> list[list[int]]:
    """What the encoder alone predicts: the most probable token of CTC at each position, repetitions and blanks dropped.

    Features (B, T, F), lengths (B,) -> for each clip its tokens (Graves et al. 2006, best path).
    """
    tokens = model.ctc_head(model.encoder(features, lengths).encoded).argmax(-1).tolist()  # (B, S)
    paths = [clip[: (length + 1) // 2] for clip, length in zip(tokens, lengths.tolist(), strict=True)]
    return [[token for token, _ in itertools.groupby(path) if token != EMPTY] for path in paths]


@torch.no_grad()
def beam_search(
    model: SpeechRecognizer,
    features: Tensor,
    lengths: Tensor,
    width: int = 8,
    limit: int = MAX_TOKENS - 1,
    ctc_weight: float = 0.0,
    per_frame: float = math.inf,
) -> list[list[int]]:
    """The sentence with the highest mean log-probability per token that a beam of `width` finds, for each clip.

    Of the logarithm, `ctc_weight` is CTC's, the rest the decoder's (joint decoding: Watanabe et al. 2017).
    """
    memory = model.encoder(features, lengths)
    limits = token_limits(lengths, limit, per_frame).tolist()
    return [
        _search_one(model, Memory(encoded[None], padding[None]), width, most, ctc_weight)
        for encoded, padding, most in zip(memory.encoded, memory.padding, limits, strict=True)
    ]


def search(beam: int, ctc_weight: float, per_frame: float = math.inf) -> Callable[..., list[list[int]]]:
    """Of the two above the cheaper one that does: without CTC, a beam of 1 is greedy search."""
    if beam == 1 and not ctc_weight:
        return partial(greedy, per_frame=per_frame)
    return partial(beam_search, width=beam, ctc_weight=ctc_weight, per_frame=per_frame)


def _search_one(model: SpeechRecognizer, memory: Memory, width: int, limit: int, ctc_weight: float) -> list[int]:
    sentences = torch.full((1, 1), START, device=memory.encoded.device)  # (W, n + 1)
    scores = torch.zeros(1, device=memory.encoded.device)  # (W,) sums of the decoder's log-probabilities
    prefixes = CTCPrefixes(model.ctc_head(memory.encoded[~memory.padding]).log_softmax(-1)) if ctc_weight else None
    best_score, best, state = -torch.inf, [], {}
    for step in range(1, limit + 1):
        rows = Memory(*(x.expand(len(sentences), *x.shape[1:]) for x in memory))
        logits, state = model.decoder._forward(sentences[:, -1:], rows, state)
        decoder = scores[:, None] + logits[:, -1].log_softmax(-1)  # (W, V)
        totals = (1 - ctc_weight) * decoder + ctc_weight * prefixes.scores().to(decoder) if prefixes else decoder
        for sentence, total in zip(sentences.tolist(), totals[:, STOP].tolist(), strict=True):
            if total / step > best_score:
                best_score, best = total / step, sentence[1:]
        totals[:, STOP] = -torch.inf
        highest, flat = totals.flatten().topk(min(width, totals.numel() - len(totals)))
        origin, token, scores = flat // totals.shape[1], flat % totals.shape[1], decoder.flatten()[flat]
        if prefixes:
            prefixes.extend(origin.cpu(), token.cpu())
        sentences = torch.cat([sentences[origin], token[:, None]], 1)
        state = model.decoder.select(state, origin)
        if highest[0] / limit < best_score:
            break  # further tokens only add negative numbers: no running sentence can win any more
    return best
