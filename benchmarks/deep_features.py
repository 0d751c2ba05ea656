"""How fast deep feature learning trains, against the exercise's way of training it, measured in turn in one run.

The exercise's way: a DataLoader that fetches one sample at a time, an unfused optimiser, PyTorch's default number of
threads, and one run after another. Needs MNIST, and an idle machine: `make benchmark`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import itertools
import os
import resource
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import records
import utils
from benchmarks.timing import compare, print_ratios
from command_line import COUNT, check_flags, flag
from common.classification import accuracy, multiply_adds
from deep_features import autoencoder, study, vit

THREADS = torch.get_num_threads()  # PyTorch's default: one for each core
TRANSFORMER_EPOCHS = 3
MATRIX = 2048  # rows of the large matrices whose product's rate is the limit


def exercise_grid(root: str, epochs: int) -> None:
    """The nine autoencoders of the grid, one after another, the exercise's way."""
    data = study.load_data(autoencoder.Config(data_root=root))
    pixels = data.pixels("train").flatten(1)
    for batch, code in itertools.product(autoencoder.BATCHES, autoencoder.CODES):
        utils.configure_seed(0)
        model = autoencoder.Autoencoder(code)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(epochs):
            for (images,) in DataLoader(TensorDataset(pixels), batch_size=batch, shuffle=True):
                loss = F.mse_loss(model(images), images)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            autoencoder.errors_of(model, data.pixels("val").flatten(1))


def our_grid(root: str, epochs: int) -> None:
    """The same through the script's own processes."""
    with tempfile.TemporaryDirectory() as out:
        base = autoencoder.Config(data_root=root, epochs=epochs, study="grid", device="cpu", out=out)
        study.train_side_by_side([replace(each, seed=0) for each in study.variants_of(base).values()])


def exercise_transformers(root: str, epochs: int) -> None:
    """As many base Vision Transformers as there are threads, one after another, the exercise's way."""
    data = study.load_data(vit.Config(data_root=root))
    for seed in range(THREADS):
        model, optimizer = base_transformer(seed)
        for _ in range(epochs):
            exercise_epoch(model, optimizer, data.train)
            accuracy(model, *data.val)


def our_transformers(root: str, epochs: int) -> None:
    """The same through the script's own processes, side by side."""
    with tempfile.TemporaryDirectory() as out:
        base = vit.Config(data_root=root, epochs=epochs, device="cpu", out=out, no_test=True)
        study.train_side_by_side([replace(base, seed=seed) for seed in range(THREADS)])


JOBS = {
    "exercise_grid": exercise_grid,
    "our_grid": our_grid,
    "exercise_transformers": exercise_transformers,
    "our_transformers": our_transformers,
}


def timed(job: str, root: str, epochs: int, peaks: dict[str, int]) -> float:
    """Seconds of a job in a process of its own, from start to end; its peak memory goes into `peaks`."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--only", job, "--data_root", root, "--epochs", str(epochs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peaks[job] = int(done.stdout.split()[-1])
    return time.perf_counter() - start


def peak_memory(processes: int) -> int:
    """Bytes that this process took at most; of `processes` children that run side by side, the sum of the largest."""
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return 1024 * (own + processes * child)


def base_transformer(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    utils.configure_seed(seed)
    model = vit.build(vit.Config())
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)


def exercise_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, images_labels: tuple[Tensor, Tensor]) -> float:
    """Seconds of one epoch of a classifier, the exercise's way."""
    torch.set_num_threads(THREADS)
    model.train()
    start = time.perf_counter()
    for images, labels in DataLoader(TensorDataset(*images_labels), batch_size=128, shuffle=True):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def our_epoch(config: vit.Config, data) -> float:
    """Seconds of the same epoch through `utils.fit`, on as many threads."""
    torch.set_num_threads(THREADS)
    _, trial = vit.train(config, data)
    return trial["history"][0]["seconds"]


def rate_of_matrix_product() -> float:
    """Multiply-adds a second of a large matrix product, the best of five."""
    torch.set_num_threads(THREADS)
    a, b = torch.randn(2, MATRIX, MATRIX)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return MATRIX**3 / min(seconds)


@dataclass(frozen=True)
class Benchmark:
    """The flags."""

    data_root: str = flag("data", "folder of MNIST")
    out: str = flag("runs", "folder of the result file")
    repetitions: int = flag(2, "of each comparison", COUNT)
    epochs: int = flag(20, "epochs of each run of the grid", COUNT)
    only: str | None = flag(None, "do that job alone, and print the peak of its memory", choices=tuple(JOBS))

    __post_init__ = check_flags


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    args = command_line.parse(Benchmark, argv, __doc__)
    if args.only:
        ours = args.only.startswith("our")
        torch.set_num_threads(1 if ours else THREADS)
        JOBS[args.only](args.data_root, args.epochs)
        print(peak_memory(THREADS if ours else 0))
        return
    config = vit.Config(data_root=args.data_root, epochs=1, device="cpu", no_test=True)
    load = os.getloadavg()[0]
    data, start = study.load_data(config), time.perf_counter()
    (Path(args.out) / study.QUESTION).mkdir(parents=True, exist_ok=True)  # fails now, not after an hour
    images, peaks = len(data.train[1]), {}
    one_epoch = replace(config, dry_run=True)  # no checkpoint
    our_epoch(one_epoch, data)  # warms up

    def jobs(what: str, name: str, epochs: int) -> dict:
        contenders = (lambda job=job: timed(job, args.data_root, epochs, peaks) for job in JOBS if job.endswith(name))
        return compare(f"{what}, {epochs} epochs each", *contenders, args.repetitions)

    metrics = {
        "grid": jobs("the grid of nine autoencoders", "grid", args.epochs),
        "transformers": jobs(f"{THREADS} base Vision Transformers", "transformers", TRANSFORMER_EPOCHS),
        "vit_epoch": compare(
            "one epoch of one of them, on every core",
            lambda: exercise_epoch(*base_transformer(0), data.train),
            lambda: our_epoch(one_epoch, data),
            args.repetitions,
            images,
        ),
    }
    # a step's backward pass takes about twice the forward pass's multiply-adds
    work = 3 * multiply_adds(vit.build(config), (1, 28, 28))
    share = work * metrics["vit_epoch"]["ours"]["median"] / rate_of_matrix_product()
    result = {
        "question": study.QUESTION,
        "run": "training-speed",
        "config": {"epochs": args.epochs, "repetitions": args.repetitions, "threads": THREADS},
        "seeds": [0],
        "data": data.describe(),
        "metrics": metrics,
        "peak_bytes": peaks,
        "share_of_matrix_product": share,
        "load_average_before": load,
        "seconds": time.perf_counter() - start,
    }
    path = records.save_results(Path(args.out), result)
    print_ratios(metrics)
    for name in ("grid", "transformers"):
        baseline, ours = (peaks[job] / 2**20 for job in JOBS if job.endswith(name))
        print(f"peak memory, {name}: {baseline:,.0f} MiB -> {ours:,.0f} MiB on {THREADS} processes")
    print(f"the Vision Transformer computes at {100 * share:.0f} % of the rate of a large matrix product")
    print(path)


if __name__ == "__main__":
    sys.exit(main())
