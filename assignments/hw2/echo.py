"""Homework 2: GRUs that repeat what they read, after a delay that is fixed, or given with the sequence.

Symbols are the letters a to z as 1 to 26; 0 is silence. Letters: B batch, T time, H hidden units.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import IterableDataset

N = 26  # letters
SYMBOLS = N + 1  # with silence
TESTED = 500  # strings
TESTED_LENGTHS = (15, 25)
GATE_BIAS = 4.0


def idx_to_onehot(x: Tensor, k: int = SYMBOLS) -> Tensor:
    """Whole numbers from 0 to k - 1, of any shape (...), as one-hot vectors (..., k)."""
    return F.one_hot(x, k).float()


def delayed(sequence: Tensor, delay: int) -> Tensor:
    """A sequence (T) after so much silence, cut to its length."""
    silence = torch.zeros(min(delay, len(sequence)), dtype=sequence.dtype)
    return torch.cat([silence, sequence])[: len(sequence)]


def letters_to_onehot(s: str) -> Tensor:
    """A string of lower-case letters as one sequence (1, T, 27). Raises ValueError for other characters."""
    if not s or set(s) - set(string.ascii_lowercase):
        raise ValueError(f"{s!r} is not made of the letters a to z")
    return idx_to_onehot(torch.tensor([string.ascii_lowercase.index(letter) + 1 for letter in s]))[None]


def symbols_to_letters(symbols: Tensor) -> str:
    """Symbols (T) as text; silence is a space."""
    return "".join(" " if symbol == 0 else string.ascii_lowercase[symbol - 1] for symbol in symbols.tolist())


class EchoDataset(IterableDataset):
    """`size` pairs of a random sequence (T, 27), one-hot, and what is to be said: it (T) after `delay` silences."""

    def __init__(self, delay: int = 4, seq_length: int = 15, size: int = 1000, seed: int | None = None):
        self.delay, self.seq_length, self.size, self.seed = delay, seq_length, size, seed

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = _generator(self.seed)
        for _ in range(self.size):
            sequence = torch.randint(1, SYMBOLS, (self.seq_length,), generator=generator)
            yield idx_to_onehot(sequence), delayed(sequence, self.delay)


class VariableDelayEchoDataset(IterableDataset):
    """The same with a delay of its own for each sequence, up to `max_delay`: (sequence, delay, answer)."""

    def __init__(self, max_delay: int = 8, seq_length: int = 20, size: int = 1000, seed: int | None = None):
        self.max_delay, self.seq_length, self.size, self.seed = max_delay, seq_length, size, seed

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[Tensor, int, Tensor]]:
        generator = _generator(self.seed)
        for _ in range(self.size):
            sequence = torch.randint(1, SYMBOLS, (self.seq_length,), generator=generator)
            delay = int(torch.randint(0, self.max_delay + 1, (), generator=generator))
            yield idx_to_onehot(sequence), delay, delayed(sequence, delay)


def _generator(seed: int | None) -> torch.Generator | None:
    """A generator of the data set's own, so that two of them yield different data; without a seed, PyTorch's."""
    return None if seed is None else torch.Generator().manual_seed(seed)


@torch.no_grad()
def make_delay_line(gru: nn.GRU) -> nn.GRU:
    """Initialise a GRU such that its state moves on at each step, in full: what was read stays readable for long.

    The candidate's matrix is orthogonal, so no direction fades (Henaff, Szlam and LeCun 2016); the reset gates begin
    open, at .98, and the update gates closed, at .02: the new state is the candidate.
    """
    H = gru.hidden_size
    for bias in (gru.bias_ih_l0, gru.bias_hh_l0):
        bias.zero_()
    gru.bias_ih_l0[:H], gru.bias_ih_l0[H : 2 * H] = GATE_BIAS, -GATE_BIAS  # in the order reset, update, candidate
    nn.init.orthogonal_(gru.weight_hh_l0[2 * H :])
    return gru


class GRUMemory(nn.Module):
    """A GRU and an affine layer: one-hot sequences (B, T, 27) -> logits (B, T, 27) of what is to be said."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.gru = make_delay_line(nn.GRU(SYMBOLS, hidden_size, batch_first=True))
        self.output = nn.Linear(hidden_size, SYMBOLS)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.gru(x)[0])

    @torch.no_grad()
    def test_run(self, s: str) -> str:
        """What is said while the letters of `s` are read, as a string of the same length."""
        return symbols_to_letters(self(letters_to_onehot(s))[0].argmax(-1))


class VariableDelayGRUMemory(nn.Module):
    """The same, told the delay: a step's input is one-hot over the pairs of a symbol and a delay.

    So a delay of d needs only one thing of its own, where in the state a symbol is written: from there it takes d steps
    to what is said. Told beside the symbol instead, a delay can't choose that place by an affine map.
    """

    def __init__(self, hidden_size: int, max_delay: int):
        super().__init__()
        self.max_delay = max_delay
        self.gru = make_delay_line(nn.GRU(SYMBOLS * (max_delay + 1), hidden_size, batch_first=True))
        self.output = nn.Linear(hidden_size, SYMBOLS)

    def pairs(self, x: Tensor, delays: Tensor) -> Tensor:
        """Sequences (B, T, 27) and their delays (B), D in all -> (B, T, 27 D). Raises ValueError for one too long."""
        if int(delays.max()) > self.max_delay or int(delays.min()) < 0:
            raise ValueError(f"delays must be from 0 to {self.max_delay}")
        told = F.one_hot(delays, self.max_delay + 1).to(x.dtype)  # (B, D)
        return torch.einsum("bts,bd->btsd", x, told).flatten(2)

    def forward(self, x: Tensor, delays: Tensor) -> Tensor:
        """Sequences (B, T, 27) and their delays (B) -> logits (B, T, 27). Raises ValueError for a delay too long."""
        return self.output(self.gru(self.pairs(x, delays))[0])

    @torch.no_grad()
    def test_run(self, s: str, delay: int) -> str:
        """What is said while the letters of `s` are read, as a string of the same length."""
        return symbols_to_letters(self(letters_to_onehot(s), torch.tensor([delay]))[0].argmax(-1))


def test_model(
    say: Callable[[str], str], delay: int, seed: int = 0, lengths: tuple[int, int] = TESTED_LENGTHS, count: int = TESTED
) -> float:
    """The share of letters that `say` repeats at the right place, over random strings of these lengths."""
    generator, right, total = random.Random(seed), 0, 0
    for _ in range(count):
        s = "".join(generator.choices(string.ascii_lowercase, k=generator.randint(*lengths)))
        said = say(s)
        if len(said) != len(s):
            raise ValueError(f"{len(said)} characters were said for {len(s)}")
        right += sum(a == b for a, b in zip(s, said[delay:], strict=False))
        total += len(s) - delay
    return right / total


test_model.__test__ = False  # pytest would collect it
