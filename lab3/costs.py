"""Lab 3: what a training step costs in time and memory, plain and with techniques that should not change it.

python lab3/costs.py                        all that this machine has, in turn, on random images (synthetic)
python lab3/costs.py --only checkpointing   one of them, in this process

In parts: a batch is computed a quarter at a time. Checkpointing: what a block computes is forgotten, and computed anew
on the way back (Chen et al. 2016). bf16 and fp16: products in 16 bits, by torch.autocast. Compiled: by torch.compile,
where there is a compiler.

Letters: B batch, C channels, S the images' size.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import records
import utils
from command_line import COUNT, DEVICES, check_flags, flag, within
from common.processes import connect
from lab3 import costs_plots
from vision_transformer import VisionTransformer

SHAPE, CLASSES = (3, 32, 32), 10
PATCH, WIDTH, DEPTH, HEADS = 2, 96, 6, 4  # 257 tokens an image, so that most memory is what blocks compute
PARTS = 4
CLIP_NORM = 1.0
TECHNIQUES = ("plain", "parts", "checkpointing", "bf16", "fp16", "compiled")


@dataclass(frozen=True)
class Config:
    """The flags."""

    batch_size: int = flag(64, "images per step", COUNT)
    repetitions: int = flag(7, "rounds, in each of which every technique takes a step", COUNT)
    threads: int = flag(1, "of the processor", within(1, 1024))
    device: str = flag("auto", "auto, cpu, cuda or mps", choices=DEVICES)
    only: str | None = flag(None, "one technique, in this process", choices=TECHNIQUES, metavar="NAME")
    out: str = flag("runs", "folder for the result and its plot")
    overwrite: bool = flag(False, "replace a result of other settings")

    __post_init__ = check_flags

    def settings(self) -> dict:
        return {"batch_size": self.batch_size, "repetitions": self.repetitions, "threads": self.threads}

    def head(self) -> dict:
        """How the result begins."""
        data = {"name": "random images", "source": "synthetic"}
        return {"question": "lab3", "run": "costs", "config": self.settings(), "seeds": [0], "data": data}


def available(device: torch.device) -> list[str]:
    """The techniques that can be had: float16 on a GPU alone, compiled code where there is a compiler."""
    missing = set() if device.type == "cuda" else {"fp16"}
    if not shutil.which("g++") and not shutil.which("clang++"):
        missing.add("compiled")
    return [name for name in TECHNIQUES if name not in missing]


# --- one step ----------------------------------------------------------------------------------------


class Checkpointed(VisionTransformer):
    """A Vision Transformer that keeps what goes into each block alone, and computes the rest again when it needs it."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.tokens(images)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(self.norm(x[:, 0]))  # (B, num_classes)


class Step:
    """One step of training by a technique: gradients of the mean loss, clipped, and a step of SGD."""

    def __init__(self, technique: str, device: torch.device, dropout: float = 0.1):
        utils.configure_seed(0)
        network = Checkpointed if technique == "checkpointing" else VisionTransformer
        self.model = network(SHAPE, PATCH, WIDTH, DEPTH, HEADS, 2 * WIDTH, CLASSES, dropout).to(device)
        self.loss: Callable[[Tensor, Tensor], Tensor] = self.plain_loss
        if technique == "compiled":
            self.loss = torch.compile(self.plain_loss)
        self.parts = PARTS if technique == "parts" else 1
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(technique)
        # the smallest gradients would be 0 in float16: losses are scaled up, and gradients down again
        self.scaler = torch.amp.GradScaler(device.type, enabled=technique == "fp16")
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def plain_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.model(images), labels, reduction="sum")

    def backward(self, images: Tensor, labels: Tensor) -> float:
        """The gradients of the mean loss over images (B, C, S, S), at their own scale; returns that loss."""
        self.optimizer.zero_grad()
        total = 0.0
        for part in zip(images.chunk(self.parts), labels.chunk(self.parts), strict=True):
            with torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
                loss = self.loss(*part) / len(images)
            self.scaler.scale(loss).backward()
            total += loss.item()
        self.scaler.unscale_(self.optimizer)  # before clipping, or the norm would be that of scaled gradients
        return total

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Take the step, and return the mean loss before it."""
        loss = self.backward(images, labels)
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss


def batch(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images (B, C, S, S) with random labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, *SHAPE, generator=generator)
    return images.to(device), torch.randint(CLASSES, (size,), generator=generator).to(device)


def gradients(technique: str, size: int, device: torch.device) -> Tensor:
    """All gradients of a first step, in a row, without dropout, before they are clipped."""
    step = Step(technique, device, dropout=0.0)
    step.backward(*batch(size, device))
    return torch.cat([weight.grad.flatten() for weight in step.model.parameters()])


# --- measuring ---------------------------------------------------------------------------------------


def seconds(step: Step, images: Tensor, labels: Tensor) -> float:
    """The time of a step."""
    start = time.perf_counter()
    step(images, labels)  # which ends with the loss, for which a GPU has to be done
    return time.perf_counter() - start


def alone(config: Config, technique: str, device: torch.device) -> dict:
    """Peak memory of a step in bytes, beyond what there was before it; and the loss."""
    step, (images, labels) = Step(technique, device), batch(config.batch_size, device)
    on_gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated() if on_gpu else records.peak_memory()
    loss = step(images, labels)
    after = torch.cuda.max_memory_allocated() if on_gpu else records.peak_memory()
    return {"memory": None if after is None else after - before, "loss": loss}


def in_its_own_process(config: Config, technique: str) -> dict:
    """What `alone` finds there: the peak of a process's memory never falls.

    The C library gives memory back as soon as it is free, so that what counts is what tensors hold.
    """
    flags = ["--only", technique, "--batch_size", config.batch_size, "--threads", config.threads]
    command = [sys.executable, __file__, *flags, "--device", config.device]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # of glibc
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ValueError(f"{technique} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def measure(config: Config, device: torch.device) -> list[dict]:
    """A row for each technique: times in turn, so that what else the machine does falls on all of them alike."""
    names = available(device)
    steps, (images, labels) = {name: Step(name, device) for name in names}, batch(config.batch_size, device)
    for step in steps.values():
        step(images, labels)  # warms up, and compiles
    rounds = [{name: seconds(step, images, labels) for name, step in steps.items()} for _ in range(config.repetitions)]
    plain, rows = gradients("plain", config.batch_size, device), []
    for name in names:
        difference = gradients(name, config.batch_size, device) - plain
        rows.append(
            {
                "technique": name,
                "seconds": statistics.median(times[name] for times in rounds),
                "share_of_time": statistics.median(times[name] / times["plain"] for times in rounds),
                "gradients_off_by": (difference.norm() / plain.norm()).item(),
                **in_its_own_process(config, name),
            }
        )
    return rows


def run(config: Config) -> dict:
    """Measure, and return it in the form of a result file."""
    start, device = time.perf_counter(), connect(config.device, "no", None).device
    with records.claim(config.out, config.head(), config.overwrite):
        rows = measure(config, device)
    return config.head() | {"seconds": time.perf_counter() - start, "rows": rows}


def print_result(result: dict) -> None:
    print("\nOne training step on random images (synthetic)")
    for row in result["rows"]:
        memory = "?" if row["memory"] is None else f"{row['memory'] / 1e6:,.0f} MB"
        print(
            f"  {row['technique']:15}{row['seconds']:7.3f} s, {row['share_of_time']:.2f} times the plain one's time,"
            f" {memory}, gradients off by {row['gradients_off_by']:.0e}"
        )


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    torch.set_num_threads(config.threads)
    if config.only:
        print(json.dumps(alone(config, config.only, connect(config.device, "no", None).device)))
        return 0
    result = run(config)
    path = records.save_results(config.out, result)
    print_result(result)
    print(f"  {records.cost(records.load_result(path))}")
    print(path, *costs_plots.draw([path], Path(config.out) / "plots"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
