"""How fast Question 2 trains, against the course's way of training it, measured in turn in one run.

The course's way: a DataLoader that fetches one sample at a time, an unfused optimiser, PyTorch's default number
of threads, and the three learning rates one after another. Run it on an idle machine: `make benchmark`.
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import importlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import records
import utils
from benchmarks.timing import compare, print_ratios
from command_line import COUNT, check_flags, flag
from image_data import load_images
from q2.comparison import SWEEP_LEARNING_RATES, train_side_by_side
from q2.config import Config
from synthetic import scans

q2 = importlib.import_module("hw2-q2")

SEEDS = 3  # of the sweep
THREADS = torch.get_num_threads()  # PyTorch's default: one for each core


def course_epoch(data, learning_rate: float = 0.01) -> float:
    """Seconds of one epoch of the course's loop: forward, loss, backward, step, running loss."""
    torch.set_num_threads(THREADS)
    torch.backends.mkldnn.enabled = True  # PyTorch's default, which our training switches off
    utils.configure_seed(0)
    model = q2.CNN(0.7)
    model.pool = torch.nn.MaxPool2d(2)  # PyTorch's own
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    loader = DataLoader(TensorDataset(*data.train), batch_size=8, shuffle=True)
    model.train()
    losses, start = [], time.perf_counter()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = F.nll_loss(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return time.perf_counter() - start


def our_epoch(data, threads: int) -> float:
    """Seconds of one epoch through `utils.fit`, as its history reports them."""
    torch.set_num_threads(threads)
    config = Config(dataset="synthetic-oct", epochs=1, seed=0, device="cpu", dry_run=True)  # no checkpoint
    _, trial = q2.train(config, data)
    return trial["history"][0]["seconds"]


def course_sweep(root: str, epochs: int) -> float:
    """Seconds of the whole sweep the course's way, in a process of its own, from start to end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--course_sweep", root, "--sweep_epochs", str(epochs)], check=True)
    return time.perf_counter() - start


def our_sweep(root: str, epochs: int) -> float:
    """Seconds of the same runs through the script's own processes, from start to end."""
    data = load_images(Config.dataset, root)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        base = Config(data_root=root, epochs=epochs, out=out, no_test=True, device="cpu")
        rates = [replace(base, learning_rate=rate) for rate in SWEEP_LEARNING_RATES]
        train_side_by_side([replace(rate, seed=seed) for rate in rates for seed in range(SEEDS)], data)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Benchmark:
    """The flags."""

    out: str = flag("runs", "folder of the result file")
    repetitions: int = flag(5, "of each comparison of one epoch", COUNT)
    sweep_scans: int = flag(12000, "training images of the sweep", COUNT)
    sweep_epochs: int = flag(15, "epochs of each run of the sweep", COUNT)
    course_sweep: str | None = flag(None, "only train that way, silently, on what is in that folder", metavar="ROOT")

    __post_init__ = check_flags


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    args = command_line.parse(Benchmark, argv, __doc__)
    if args.course_sweep:
        data = load_images("octmnist", args.course_sweep)
        for rate in SWEEP_LEARNING_RATES:
            for _ in range(args.sweep_epochs * SEEDS):
                course_epoch(data, rate)
        return
    (Path(args.out) / "q2").mkdir(parents=True, exist_ok=True)  # fails now, not after an hour
    data = load_images("synthetic-oct")
    start = time.perf_counter()
    images = len(data.train[1])
    our_epoch(data, 1)  # warms up
    every_core = "the same, ours on every core too"
    metrics = {
        "epoch": compare(
            "one epoch at batch 8, synthetic scans",
            lambda: course_epoch(data),
            lambda: our_epoch(data, 1),
            args.repetitions,
            images,
        ),
        "epoch_every_core": compare(
            every_core, lambda: course_epoch(data), lambda: our_epoch(data, THREADS), args.repetitions, images
        ),
    }
    with tempfile.TemporaryDirectory() as root:  # synthetic scans under OCTMNIST's name
        np.savez(Path(root) / "octmnist.npz", **scans.oct_splits(args.sweep_scans))
        sweep = f"sweep of 3 rates x {SEEDS} seeds, {args.sweep_scans} synthetic scans, {args.sweep_epochs} epochs"
        metrics["sweep"] = compare(
            sweep, lambda: course_sweep(root, args.sweep_epochs), lambda: our_sweep(root, args.sweep_epochs), 1
        )
    result = {
        "question": "q2",
        "run": "training-speed",
        "config": {
            "batch_size": 8,
            "repetitions": args.repetitions,
            "sweep_epochs": args.sweep_epochs,
            "sweep_scans": args.sweep_scans,
        },
        "seeds": list(range(SEEDS)),
        "data": data.describe(),
        "metrics": metrics,
        "load_average_before": os.getloadavg()[0],
        "seconds": time.perf_counter() - start,
    }
    path = records.save_results(Path(args.out), result)
    print_ratios(metrics)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
