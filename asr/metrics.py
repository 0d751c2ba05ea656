"""How close a transcript is to its reference: three similarities of characters, two error rates.

Texts are compared as given: lower-casing and the like come before. Two empty texts agree (similarity 1, error
rate 0); where only one of the two is empty nothing agrees (similarity 0, error rate 1).
"""

from __future__ import annotations

from collections.abc import Callable

import jiwer
import numpy as np
import textdistance
from rapidfuzz.distance import OSA

RESAMPLES = 1000  # of the bootstrap
LEVEL = 95  # percent of them that the interval covers
NOT_CONVERGED = 0.5  # a character error rate above it is reported as that of an unfinished training

# external=False: their values shall not depend on which other packages are installed
_JACCARD = textdistance.Jaccard(external=False)
_COSINE = textdistance.Cosine(external=False)


def jaccard(reference: str, hypothesis: str) -> float:
    """Σ min(a, b) / Σ max(a, b) over the characters, found a times in one text and b times in the other (eq:jaccard).

    The size of the intersection over that of the union, of two multisets, as textdistance defines it.
    In [0, 1]; blind to the order of the characters.
    """
    return float(_JACCARD.normalized_similarity(reference, hypothesis))


def cosine(reference: str, hypothesis: str) -> float:
    """Σ min(a, b) / √(Σ a · Σ b) over the characters, found a and b times in the two texts (eq:cosine).

    Ochiai's coefficient of two multisets, as textdistance defines it, and not the cosine of the two vectors of
    counts: for "aab" and "abb" this is 2/3, that 4/5. In [0, 1]; blind to the order of the characters.
    """
    return float(_COSINE.normalized_similarity(reference, hypothesis))


def damerau_levenshtein(reference: str, hypothesis: str) -> float:
    """1 - d / max(|reference|, |hypothesis|) (eq:damerau-levenshtein), in [0, 1].

    d is the fewest insertions, deletions, substitutions and swaps of two neighbours that make one text of the
    other, in the restricted variant (optimal string alignment), textdistance's default: what was swapped is not
    edited again, so that d("ca", "abc") is 3, not 2. RapidFuzz gives textdistance's value, thousands of times faster.
    """
    return OSA.normalized_similarity(reference, hypothesis)


def word_error_rate(reference: str, hypothesis: str) -> float:
    """(S + D + I) / N: word substitutions, deletions and insertions over reference words (eq:wer), from jiwer.

    Above 1 if there are more errors than words. Without a reference word, 1 for any hypothesis but an empty one.
    """
    return float(_rate(*_errors(jiwer.process_words, reference, hypothesis)))


def character_error_rate(reference: str, hypothesis: str) -> float:
    """The same as `word_error_rate` (eq:wer), of characters: spaces count, but not those at either end."""
    return float(_rate(*_errors(jiwer.process_characters, reference, hypothesis)))


def score(references: list[str], hypotheses: list[str], seed: int = 0) -> dict[str, dict]:
    """Every score over N clips: {"mean": float, "interval": [low, high], "values": N floats} under its name.

    "jaccard", "cosine" and "damerau_levenshtein" are means over clips. "wer" and "cer" are rates of the corpus:
    the errors of all clips over the words or characters of all references; the hypothesis of an empty reference
    adds its insertions. The interval is the 95 % percentile interval of a bootstrap over clips (Efron, 1979) with
    1000 resamples, the same ones for every score. "cer" also has its "insertions" alone, as a rate of the corpus: what
    was written beyond the text, of which there can be more than the text is long.

    Raises ValueError for no clips, or not one hypothesis for each reference.
    """
    if len(references) != len(hypotheses):
        raise ValueError(
            f"there are {len(references)} references and {len(hypotheses)} hypotheses: give one hypothesis each"
        )
    if not references:
        raise ValueError("there are no clips to score: give at least one reference and its hypothesis")
    clips, count = list(zip(references, hypotheses, strict=True)), len(references)
    pairs = {
        "jaccard": [(jaccard(*clip), 1) for clip in clips],
        "cosine": [(cosine(*clip), 1) for clip in clips],
        "damerau_levenshtein": [(damerau_levenshtein(*clip), 1) for clip in clips],
        "wer": [_errors(jiwer.process_words, *clip) for clip in clips],
        "cer": [_errors(jiwer.process_characters, *clip) for clip in clips],
    }
    # (RESAMPLES, N): how often each clip is drawn when N of them are drawn with replacement
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(float)
    scores = {name: _summary(*np.array(pair, dtype=float).T, draws) for name, pair in pairs.items()}
    inserted = sum(jiwer.process_characters(*clip).insertions for clip in clips)
    scores["cer"]["insertions"] = float(_rate(inserted, sum(length for _, length in pairs["cer"])))
    return scores


def _summary(parts: np.ndarray, wholes: np.ndarray, draws: np.ndarray) -> dict:
    """The ratio Σ parts / Σ wholes over clips (N,), with its bootstrap interval and each clip's own ratio."""
    resampled = _rate(draws @ parts, draws @ wholes)  # (RESAMPLES,)
    tail = (100 - LEVEL) / 2
    return {
        "mean": float(_rate(parts.sum(), wholes.sum())),
        "interval": np.percentile(resampled, [tail, 100 - tail]).tolist(),
        "values": _rate(parts, wholes).tolist(),
    }


def _errors(process: Callable, reference: str, hypothesis: str) -> tuple[int, int]:
    """The errors of one clip, and the length of its reference, in the units that jiwer's `process` counts."""
    found = process(reference, hypothesis)
    wrong = found.substitutions + found.deletions
    return wrong + found.insertions, wrong + found.hits


def _rate(errors, length) -> np.ndarray:
    """errors / length; where the length is 0, by definition 1 if there are errors and 0 if there are none."""
    return np.where(np.equal(length, 0), np.greater(errors, 0), errors / np.maximum(length, 1))
