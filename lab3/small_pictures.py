"""What Lab 3's scripts on pictures share: the flags of their data, and how they run on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import records
from command_line import flag, within
from common import cifar
from image_data import ImageData
from lab3 import photographs
from lab3.study import Settings

DATASETS = tuple(name for name in photographs.DATASETS if name != "ants_bees")  # photographs are larger
Select = Callable[[Any], ImageData]  # of a script's settings, the images that a training with them has


@dataclass(frozen=True)
class PictureSettings(Settings):
    """The lab's flags, and those of pictures."""

    dataset: str = flag("digits", ", ".join(DATASETS), choices=DATASETS, metavar="NAME")
    download: bool = flag(False, "let torchvision fetch cifar10 first (170 MB)")
    train_size: int = flag(0, "training images, as many of each class", within(0, 50_000), shown="all")

    def __post_init__(self):
        super().__post_init__()
        if self.download and self.dataset != "cifar10":
            raise ValueError(f"--download goes with cifar10, not with {self.dataset}")


def fetch(config: PictureSettings) -> None:
    """Download the data, if the flags ask for that."""
    if config.download:
        cifar.torchvision_set(config.dataset)(config.data_root, download=True)


def read(config: PictureSettings) -> Select:
    """The data set of a configuration, read once, and selected from as each training asks for."""
    fetch(config)
    pictures = photographs.read_small(config.dataset, config.data_root)
    return lambda single: photographs.select(pictures, single.train_size, single.seed)


def run(
    config: PictureSettings,
    train: Callable[[Any, ImageData], dict],
    compare: Callable[[Any, Select], dict],
) -> dict:
    """`train` one network, or `compare` several in a study; in the form of a result file."""
    start, select = time.perf_counter(), read(config)
    data = select(config)
    head = config.head(data.describe())
    with records.claim(config.out, head, config.overwrite):
        body = compare(config, select) if config.study else train(config, data)
    return head | {"seconds": time.perf_counter() - start} | body
