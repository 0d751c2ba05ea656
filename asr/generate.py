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

import common.search
from asr.ctc import CTCPrefixes
from asr.model import Memory, SpeechRecognizer
from common.speech.text import EMPTY, MAX_TOKENS, START, STOP

MARKS = common.search.Marks(START, STOP)


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
    sentences = common.search.greedy(model.decoder, model.encoder(features, lengths), limits, MARKS)
    return [[token for token in sentence if token != EMPTY] for sentence in sentences]


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
    sentences = []
    for encoded, padding, most in zip(memory.encoded, memory.padding, limits, strict=True):
        judge = CTCPrefixes(model.ctc_head(encoded[~padding]).log_softmax(-1)) if ctc_weight else None
        one = Memory(encoded[None], padding[None])
        sentences.append(common.search.beam_search(model.decoder, one, width, most, MARKS, judge, ctc_weight))
    return sentences


def search(beam: int, ctc_weight: float, per_frame: float = math.inf) -> Callable[..., list[list[int]]]:
    """Of the two above the cheaper one that does: without CTC, a beam of 1 is greedy search."""
    if beam == 1 and not ctc_weight:
        return partial(greedy, per_frame=per_frame)
    return partial(beam_search, width=beam, ctc_weight=ctc_weight, per_frame=per_frame)
