"""How fast Homework 3's reader trains, against a loop over the cells of each word's matrix, in turn in one run.

The course's way: one word after another, its dynamic programme cell by cell. Needs an idle machine: `make benchmark`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import records
import utils
from assignments.hw3 import ocr, paths
from benchmarks.timing import compare, print_ratios
from command_line import COUNT, check_flags, flag, within


def path_by_cells(cells: list[list]) -> list[tuple[int, int]]:
    """The best path through one matrix, cell by cell: of numbers, or of tensors without a dimension."""
    windows, codes = len(cells), len(cells[0])
    least = [[paths.INVALID] * codes for _ in range(windows)]
    least[0][0] = cells[0][0]
    for i in range(1, windows):
        for j in range(codes):
            before = least[i - 1][j] if j == 0 else min(least[i - 1][j], least[i - 1][j - 1])
            least[i][j] = cells[i][j] + before
    i, j = windows - 1, codes - 1
    path = [(i, j)]
    while i:
        i, j = i - 1, j - 1 if j and least[i - 1][j - 1] < least[i - 1][j] else j
        path.append((i, j))
    return path[::-1]


def as_tensors(pm: Tensor) -> list[list[Tensor]]:
    return [list(row) for row in pm]


def loss_by_cells(energies: Tensor, targets: Tensor, cells: Callable[[Tensor], list[list]] = as_tensors) -> Tensor:
    """The course's loss (B,), word by word; its cells are tensors, as in the course's skeleton, or numbers."""
    pm, ce = paths.build_path_matrix(energies, targets).detach(), paths.build_ce_matrix(energies, targets)
    found = [path_by_cells(cells(each)) for each in pm]
    return torch.stack([paths.path_cross_entropy(each, path) for each, path in zip(ce, found, strict=True)])


def loss_by_numbers(energies: Tensor, targets: Tensor) -> Tensor:
    return loss_by_cells(energies, targets, Tensor.tolist)


def epoch(criterion, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Seconds of one epoch of a fresh network."""
    utils.configure_seed(0)
    model = ocr.SimpleNet()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    start = time.perf_counter()
    ocr.train_ebm_model(model, 1, batches, criterion, optimizer)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Benchmark:
    """The flags."""

    words: int = flag(2500, "words of an epoch", COUNT)
    word_length: int = flag(5, "letters of a word", within(1, 50))
    batch_size: int = flag(32, "words per step", COUNT)
    repetitions: int = flag(3, "of the comparison", COUNT)
    threads: int = flag(2, "threads of PyTorch", COUNT)
    out: str = flag("runs", "folder of the result file")

    __post_init__ = check_flags


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    args = command_line.parse(Benchmark, argv, __doc__)
    torch.set_num_threads(args.threads)
    (Path(args.out) / "assignments").mkdir(parents=True, exist_ok=True)  # fails now, not at the end
    start, load = time.perf_counter(), os.getloadavg()[0]
    dataset = ocr.SimpleWordsDataset(args.word_length, args.words, jitter=True, seed=0)
    batches = list(ocr.batches_of(dataset, args.batch_size))
    epoch(ocr.viterbi_loss, batches[:5])  # warms up
    contenders = {"epoch": ("cells are tensors", loss_by_cells), "numbers": ("cells are numbers", loss_by_numbers)}
    metrics = {
        name: compare(
            f"one epoch of {args.words:,} words, {what}",
            lambda loss=loss: epoch(loss, batches),
            lambda: epoch(ocr.viterbi_loss, batches),
            args.repetitions,
        )
        for name, (what, loss) in contenders.items()
    }
    result = {
        "question": "assignments",
        "run": "hw3-training-speed",
        "config": {name: value for name, value in vars(args).items() if name != "out"},
        "seeds": [0],
        "data": ocr.DATA,
        "metrics": metrics,
        "load_average_before": load,
        "seconds": time.perf_counter() - start,
    }
    path = records.save_results(Path(args.out), result)
    print_ratios(metrics)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
