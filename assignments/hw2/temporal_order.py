"""Homework 2's temporal order: which of two symbols came first, and which second, long before the end of a sequence?

Task 6a of Hochreiter and Schmidhuber (1997). A sequence is B, then symbols a to d at random, then E; X or Y stands at
each of two places. Their order is the class: XX is Q, XY is R, YX is S, YY is U.
Letters: N sequences, T the length of the longest, H hidden units.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SYMBOLS = "abcdXYBE"
CLASSES = "QRSU"
X, B, E = (SYMBOLS.index(symbol) for symbol in "XBE")  # Y follows X
SEQUENCES = 992  # of an epoch: 31 batches of 32, as many as the course's generator has


class Level(NamedTuple):
    """The least and the greatest length, and place of the first and of the second symbol; B stands at place 0."""

    length: tuple[int, int]
    first: tuple[int, int]
    second: tuple[int, int]


LEVELS = {
    "easy": Level((7, 8), (1, 2), (4, 5)),
    "normal": Level((30, 40), (2, 5), (20, 27)),
    "moderate": Level((60, 80), (10, 20), (45, 54)),
    "hard": Level((100, 110), (10, 20), (50, 60)),
}


def draw_sequences(level: Level, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences (N, T, 8), one-hot, with zeros in front of the shorter ones, and their classes (N) from 0 to 3."""

    def between(limits: tuple[int, int]) -> Tensor:
        return torch.randint(limits[0], limits[1] + 1, (count, 1), generator=generator)

    lengths, first, second = between(level.length), between(level.first), between(level.second)  # (N, 1) each
    order = torch.randint(0, 2, (count, 2), generator=generator)  # (N, 2): 0 for X, 1 for Y
    places = torch.arange(int(lengths.max())) - (lengths.max() - lengths)  # (N, T): below 0 is padding
    symbols = torch.randint(0, 4, places.shape, generator=generator)
    for at, symbol in ((0, B), (lengths - 1, E), (first, X + order[:, :1]), (second, X + order[:, 1:])):
        symbols = torch.where(places == at, symbol, symbols)
    one_hot = F.one_hot(symbols, len(SYMBOLS)) * (places >= 0)[..., None]
    return one_hot.float(), 2 * order[:, 0] + order[:, 1]


def in_letters(sequence: Tensor) -> str:
    """A sequence (T, 8) as text, without its padding."""
    return "".join(SYMBOLS[row.argmax()] for row in sequence if row.any())


class SimpleLSTM(nn.Module):
    """An LSTM and an affine layer on its last output: sequences (N, T, 8) -> logits (N, 4)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.lstm = nn.LSTM(len(SYMBOLS), hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.lstm(x)[0][:, -1])
