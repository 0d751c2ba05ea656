"""How well clips find their texts, and texts their clips: recall among all candidates, and among those of one length.

Letters: N clips, as many texts; clip i and text i belong together, and no two texts are the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.speech.data import Part

PLACES = (1, 5, 10)  # k of recall@k
CLOSE = 20  # candidates of nearly one length
DIRECTIONS = ("to_text", "to_speech")


def recall(scores: Tensor, own: Tensor, k: int) -> float:
    """The share of queries (rows of `scores`) whose own candidate is among the k best.

    Of candidates with equal scores, each is as likely to come before the others: the share is the expected one.
    """
    mine = scores.gather(1, own[:, None])  # (N, 1)
    better, tied = (scores > mine).sum(1), (scores == mine).sum(1)  # the own one is tied with itself
    return ((k - better) / tied).clamp(0, 1).double().mean().item()


def scores(similarity: Tensor, part: Part) -> dict[str, float]:
    """Recall in both directions of similarities (N, N): rows are clips, columns are texts."""
    found, own = {}, torch.arange(len(similarity))
    lengths = {"to_text": characters(part), "to_speech": part.frame_counts()}  # of the candidates
    for direction, table in zip(DIRECTIONS, (similarity, similarity.T), strict=True):
        found |= {f"{direction}_{k}": recall(table, own, k) for k in PLACES}
        near = of_nearly_one_length(lengths[direction])  # (N, CLOSE)
        found[f"{direction}_close"] = recall(table.gather(1, near), torch.zeros_like(own), 1)
    return found


def of_nearly_one_length(lengths: np.ndarray) -> Tensor:
    """For each candidate the CLOSE ones whose lengths (N,) are nearest to its own, itself first."""
    distances = np.abs(lengths[:, None] - lengths).astype(float)
    np.fill_diagonal(distances, -1)
    return torch.from_numpy(distances.argsort(1, kind="stable")[:, :CLOSE])


def chance(count: int) -> dict[str, float]:
    """What guessing among `count` candidates gets."""
    at = {f"{direction}_{k}": min(1.0, k / count) for direction in DIRECTIONS for k in PLACES}
    return at | {f"{direction}_close": 1 / min(CLOSE, count) for direction in DIRECTIONS}


def by_length(train: Part, part: Part) -> Tensor:
    """Similarities (N, N) that know nothing but lengths: how near a text's is to the one that a clip's leads to expect.

    What it leads to expect is on the straight line through the clips of `train`.
    """
    line = np.polyfit(train.frame_counts(), characters(train), 1)
    expected = np.polyval(line, part.frame_counts())  # (N,)
    return -torch.from_numpy(np.abs(expected[:, None] - characters(part)))


def characters(part: Part) -> np.ndarray:
    return np.array([len(transcript) for transcript in part.transcripts])


def distinct(part: Part, others: tuple[Part, ...] = ()) -> Part:
    """A part without clips whose text an earlier clip or another part has."""
    seen, kept = {text for other in others for text in other.transcripts}, []
    for index, text in enumerate(part.transcripts):
        if text not in seen:
            seen.add(text)
            kept.append(index)
    columns = (part.ids, part.paths, part.transcripts, part.tokens, part.spans)
    return Part(*(tuple(column[index] for index in kept) for column in columns), part.store)
