"""Homework 2's photographs of cats and dogs: the course's folder, or those of CIFAR-10.

Letters: N images, S their size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import cifar
from common.pictures import SUFFIXES, read_image
from image_data import ImageData, from_arrays

CLASSES = ("cat", "dog")
FOLDER = "cats_and_dogs_filtered"
FETCH = "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"


def load_cats_dogs(
    name: str, root: str | Path, train_size: int, validation_size: int, image_size: int = 32
) -> ImageData:
    """Cats (0) and dogs (1): so many to train on and to validate with, half of each, the same at every call.

    `cifar10_jpeg` is read from `root`/cifar10_jpeg.zip, `cifar10` as torchvision lays out the original, and
    `cats_and_dogs_filtered` from that folder, whose pictures are cropped and scaled to `image_size`. CIFAR-10's test
    images are the official 2,000; the folder's are its validation part. Raises FileNotFoundError that says where the
    data come from, or ValueError for too few or damaged pictures.
    """
    groups = _read_folder(Path(root), image_size) if name == FOLDER else cifar.read_cifar(name, root, CLASSES)[0]
    # validation first, so that it is the same for every size of the training part
    arrays = cifar.split_by_class(name, groups, {"val": validation_size, "train": train_size})
    return from_arrays(name, "real", "multi-class", CLASSES, arrays)


def _read_folder(root: Path, image_size: int) -> cifar.Groups:
    folder = root / FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there: unpack {FETCH} in {root}, or use `--dataset {cifar.JPEG}`")
    parts = {}
    for part, name in (("train", "train"), ("test", "validation")):
        parts[part] = []
        for kind in CLASSES:
            paths = sorted(p for p in (folder / name / f"{kind}s").glob("*") if p.suffix.lower() in SUFFIXES)
            if not paths:
                raise ValueError(f"{folder / name / f'{kind}s'} holds no pictures: unpack {FETCH} again")
            parts[part].append(np.concatenate([_read_picture(path, image_size) for path in paths]))
    return parts


def _read_picture(path: Path, image_size: int) -> np.ndarray:
    try:
        return read_image(path, (3, image_size, image_size))[0]  # (1, S, S, 3)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
