"""How fast Question 2 trains, against the course's way of training it, measured in turn in one run.

The course's way: a DataLoader that fetches one sample at a time, an unfused optimiser, PyTorch's default number
of threads, and the three learning rates one after another. Run it on an idle machine: `make benchmark`.
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import records
import synthetic_data
import utils

q2 = importlib.import_module("hw2-q2")
from q2_config import Config  # noqa: E402

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


def course_sweep(root: str, epochs: int, seeds: int) -> float:
    """Seconds of the whole sweep the course's way, in a process of its own, from start to end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--course_sweep", root, str(epochs), str(seeds)], check=True)
    return time.perf_counter() - start


def our_sweep(root: str, epochs: int, seeds: int) -> float:
    """Seconds of the same runs through the script's own processes, from start to end."""
    data = q2.load_images(Config.dataset, root)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        base = Config(data_root=root, epochs=epochs, out=out, no_test=True, device="cpu")
        rates = [replace(base, learning_rate=rate) for rate in q2.SWEEP_LEARNING_RATES]
        q2.train_side_by_side([replace(rate, seed=seed) for rate in rates for seed in range(seeds)], data)
    return time.perf_counter() - start


def compare(what: str, baseline, ours, repetitions: int, per_second: int | None = None) -> dict:
    """Time two contenders in turn; `per_second` turns seconds into items per second."""
    times = [(baseline(), ours()) for _ in tqdm(range(repetitions), what)]
    show = (lambda seconds: per_second / seconds) if per_second else float
    sides = {side: [show(pair[i]) for pair in times] for i, side in enumerate(("baseline", "ours"))}
    sides["ratio"] = [first / second for first, second in times]
    return {"what": what, **{side: {"median": statistics.median(v), "values": v} for side, v in sides.items()}}


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    parser = command_line.ArgumentParser(description=__doc__)
    parser.add_flag("out", default="runs", help="folder of the result file (runs)")
    parser.add_flag("repetitions", type=int, default=5, help="of each comparison of one epoch (5)")
    parser.add_flag("sweep_scans", type=int, default=12000, help="training images of the sweep (12000)")
    parser.add_flag("sweep_epochs", type=int, default=15, help="epochs of each run of the sweep (15)")
    parser.add_flag("course_sweep", nargs=3, metavar=("ROOT", "EPOCHS", "SEEDS"), help="only train that way, silently")
    args = parser.parse_args(argv)
    if args.course_sweep:
        root, epochs, seeds = args.course_sweep
        data = q2.load_images("octmnist", root)
        for rate in q2.SWEEP_LEARNING_RATES:
            for _ in range(int(epochs) * int(seeds)):
                course_epoch(data, rate)
        return
    (Path(args.out) / "q2").mkdir(parents=True, exist_ok=True)  # fails now, not after an hour
    data = q2.load_images("synthetic-oct")
    start = time.perf_counter()
    images, seeds = len(data.train[1]), 3
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
        np.savez(Path(root) / "octmnist.npz", **synthetic_data.oct_splits(args.sweep_scans))
        sweep = f"sweep of 3 rates x {seeds} seeds, {args.sweep_scans} synthetic scans, {args.sweep_epochs} epochs"
        lengths = (root, args.sweep_epochs, seeds)
        metrics["sweep"] = compare(sweep, lambda: course_sweep(*lengths), lambda: our_sweep(*lengths), 1)
    result = {
        "question": "q2",
        "run": "training-speed",
        "config": {
            "batch_size": 8,
            "repetitions": args.repetitions,
            "sweep_epochs": args.sweep_epochs,
            "sweep_scans": args.sweep_scans,
        },
        "seeds": list(range(seeds)),
        "data": data.describe(),
        "metrics": metrics,
        "load_average_before": os.getloadavg()[0],
        "seconds": time.perf_counter() - start,
    }
    path = records.save_results(Path(args.out), result)
    for row in metrics.values():
        baseline, ours, ratio = (row[side]["median"] for side in ("baseline", "ours", "ratio"))
        print(f"{row['what']}: {baseline:.1f} -> {ours:.1f}, ratio {ratio:.2f}")
    print(path)


if __name__ == "__main__":
    sys.exit(main())
