"""Paths through energies: which window of an image shows which letter of a word.

Windows come in order, and so do a word's codes: a path z is at the first code in the first window, at the last code in
the last window, and from each window to the next it stays or goes on by one. Its energy is the sum along it. The word's
free energy is that of its best path, or of all paths together, -1/beta log sum exp(-beta E).
Letters: B images, L windows, T codes of a word (with BETWEEN after each letter), N letters of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from assignments.hw3.words import BETWEEN, collapse, transform_word

INVALID = 2.0**30  # the energy of what is no path; finite, so that gradients are too


def build_path_matrix(energies: Tensor, targets: Tensor) -> Tensor:
    """The energy of each code of a word in each window: energies (B, L, 27), targets (B, T) -> (B, L, T)."""
    return energies.gather(2, targets[:, None].expand(-1, energies.shape[1], -1))


def build_ce_matrix(energies: Tensor, targets: Tensor) -> Tensor:
    """The same of cross-entropies, -log of the softmax over negated energies: (B, L, 27), (B, T) -> (B, L, T)."""
    return build_path_matrix(-(-energies).log_softmax(-1), targets)


def columns_of(path: Sequence[int] | Sequence[tuple[int, int]] | Tensor) -> list[int]:
    """A path as the code of each window (L), also where it is given as pairs of window and code."""
    steps = path.tolist() if isinstance(path, Tensor) else path
    return [int(step[1]) if isinstance(step, Sequence) else int(step) for step in steps]


def path_energy(pm: Tensor, path: Sequence[int] | Sequence[tuple[int, int]] | Tensor) -> Tensor:
    """The energy of one path through a matrix (L, T), or 2**30 if it is none (eq:hw3-path)."""
    columns = columns_of(path)
    ends = len(columns) == len(pm) and columns[0] == 0 and columns[-1] == pm.shape[1] - 1
    if not ends or any(later - earlier not in (0, 1) for earlier, later in itertools.pairwise(columns)):
        return pm.new_tensor(INVALID)
    return pm[range(len(pm)), columns].sum()


def path_cross_entropy(ce: Tensor, path: Sequence[int] | Sequence[tuple[int, int]] | Tensor) -> Tensor:
    """The sum of a matrix (L, T) of cross-entropies along a path."""
    columns = columns_of(path)
    return ce[range(len(columns)), columns].sum()


def path_table(pm: Tensor, beta: float = math.inf) -> Tensor:
    """The free energy of the paths that end at each cell of matrices (B, L, T): (B, L, T) (eq:hw3-recursion).

    Those of the whole words are at [:, -1, -1], and at least 2**30 where there are fewer windows than codes.
    """
    start = torch.full_like(pm[:, 0, 1:], INVALID)
    rows = [torch.cat([pm[:, 0, :1], start], 1)]  # (B, T)
    for energies in pm[:, 1:].unbind(1):
        stays, moves = rows[-1], F.pad(rows[-1][:, :-1], (1, 0), value=INVALID)
        rows.append(energies + soft_minimum(stays, moves, beta))
    return torch.stack(rows, 1)


def soft_minimum(a: Tensor, b: Tensor, beta: float = math.inf) -> Tensor:
    """-1/beta log(exp(-beta a) + exp(-beta b)); for beta infinite the minimum, all of whose gradient goes one way."""
    return torch.where(b < a, b, a) if math.isinf(beta) else -torch.logaddexp(-beta * a, -beta * b) / beta


def free_energies(pm: Tensor, beta: float = math.inf) -> Tensor:
    """Of each word, through its matrix (B, L, T): (B,)."""
    return path_table(pm, beta)[:, -1, -1]


@torch.no_grad()
def best_paths(table: Tensor) -> Tensor:
    """The code of each window along each best path (B, L), from the `path_table` (B, L, T)."""
    columns = [torch.full_like(table[:, 0, 0], table.shape[2] - 1, dtype=torch.long)]
    for row in table[:, :-1].flip(1).unbind(1):  # (B, T), from the last window but one to the first
        here, before = columns[-1][:, None], (columns[-1] - 1).clamp(min=0)[:, None]
        moved = (row.gather(1, before) < row.gather(1, here))[:, 0]
        columns.append(columns[-1] - moved.long())
    return torch.stack(columns[::-1], 1)


def find_path(pm: Tensor) -> tuple[Tensor, list[tuple[int, int]], Tensor]:
    """The free energy of one word, its best path as pairs of window and code, and the table (L, T) behind them."""
    table = path_table(pm[None])
    return table[0, -1, -1], list(enumerate(best_paths(table)[0].tolist())), table[0]


def best_wrong_energies(energies: Tensor, targets: Tensor) -> Tensor:
    """The least free energy of all wrong words with as many letters as the right one: (B, L, 27), (B, T) -> (B,).

    Two programmes run side by side: paths that have been right so far, and paths with a wrong letter behind them.
    """
    letters = targets[:, ::2]  # (B, N)
    is_right = F.one_hot(letters, BETWEEN).bool()  # (B, N, 26)
    rows = energies.unbind(1)  # L times (B, 27)
    nothing = torch.full_like(energies[:, 0, :1], INVALID).expand(letters.shape)  # (B, N)

    def of_letters(row: Tensor) -> tuple[Tensor, Tensor]:
        return row.gather(1, letters), row[:, None, :BETWEEN]  # (B, N) and (B, 1, 26)

    def entered(between: Tensor) -> Tensor:
        return F.pad(between[:, :-1], (1, 0), value=INVALID)  # a letter follows what is between it and the one before

    first = torch.arange(letters.shape[1], device=energies.device) == 0  # (N)
    own, other = of_letters(rows[0])
    right = torch.where(first, own, nothing)
    wrong = torch.where(first[:, None] & ~is_right, other, nothing[..., None])  # (B, N, 26)
    right_between, wrong_between = nothing, nothing
    for row in rows[1:]:
        own, other = of_letters(row)
        between = row[:, BETWEEN:]  # (B, 1)
        came_right, came_wrong = entered(right_between), entered(wrong_between)
        came = torch.where(is_right, came_wrong[..., None], torch.minimum(came_right, came_wrong)[..., None])
        right_between, wrong_between, right, wrong = (
            between + torch.minimum(right_between, right),
            between + torch.minimum(wrong_between, wrong.amin(2)),
            own + torch.minimum(right, came_right),
            other + torch.minimum(wrong, came),
        )
    return wrong_between[:, -1]


@torch.no_grad()
def read_words(energies: Tensor) -> list[str]:
    """The word of any length with the least energy of all, for each image (B, L, 27).

    A path's states are the 27 codes themselves: a letter stays or goes to BETWEEN, BETWEEN stays or goes to any letter;
    the first window shows a letter, the last one BETWEEN.
    """
    states = torch.arange(energies.shape[2], device=energies.device)
    allowed = (states[:, None] == states) | (states[:, None] == BETWEEN) | (states == BETWEEN)  # (27 before, 27 after)
    barrier = torch.where(allowed, 0.0, INVALID).to(energies)
    table, origins = energies[:, 0] + INVALID * (states == BETWEEN), []
    for row in energies[:, 1:].unbind(1):
        least, origin = (table[:, :, None] + barrier).min(1)  # (B, 27)
        table = row + least
        origins.append(origin)
    codes = [torch.full_like(table[:, 0], BETWEEN, dtype=torch.long)]
    for origin in reversed(origins):
        codes.append(origin.gather(1, codes[-1][:, None])[:, 0])
    return [collapse(word) for word in torch.stack(codes[::-1], 1)]


@torch.no_grad()
def nearest_words(energies: Tensor, words: Sequence[str]) -> list[str]:
    """The word with the least free energy of some words, for each image (B, L, 27); by trying all of them."""
    least = torch.full_like(energies[:, 0, 0], torch.inf)  # (B)
    found = [""] * len(energies)
    for length in sorted({len(word) for word in words}):
        group = [word for word in words if len(word) == length]
        targets = torch.stack([transform_word(word) for word in group])  # (V, T)
        for image, each in enumerate(energies):
            pm = each[:, targets].transpose(0, 1)  # (V, L, T)
            energy, index = free_energies(pm).min(0)
            if energy < least[image]:
                least[image], found[image] = energy, group[int(index)]
    return found
