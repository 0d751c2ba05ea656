"""What TensorBoard shows of Lab 3's runs: the scalars of `utils.fit`, and here the model's graph and pictures."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from common.grid import Training

LOOKS = "looks"  # a folder of their own: TensorBoard leaves a file for good as soon as there is a newer one beside it


def folder(config: Training) -> Path | None:
    """Where the files of a run go, if it is asked for them."""
    return config.file("").parent / "tensorboard" / config.run_name if config.tensorboard else None


def command(config: Training) -> list[str]:
    """How to look at all runs, as a line to be printed; nothing where there is nothing to see."""
    return [f"tensorboard --logdir {config.file('').parent / 'tensorboard'}"] if config.tensorboard else []


def add_graph(folder: Path, model: nn.Module, *inputs: Tensor) -> None:
    """A model's modules, as it computes with these inputs."""
    from torch.utils.tensorboard import SummaryWriter

    was_training = model.training
    with SummaryWriter(folder / LOOKS) as writer, warnings.catch_warnings(
        action="ignore", category=torch.jit.TracerWarning  # its graph of one length holds for that length, as it should
    ):  # fmt: skip
        writer.add_graph(model.eval(), inputs)
    model.train(was_training)


def add_picture(folder: Path, name: str, figure: Figure, epoch: int) -> None:
    """A figure as it is after an epoch."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder / LOOKS) as writer:
        writer.add_figure(name, figure, epoch)
