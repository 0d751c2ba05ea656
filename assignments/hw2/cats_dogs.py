"""Homework 2's photographs of cats and dogs: the course's folder, or those of CIFAR-10.

Letters: N images, S their size.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from common.pictures import SUFFIXES, read_image
from image_data import ImageData, from_arrays

CLASSES = ("cat", "dog")
FOLDER = "cats_and_dogs_filtered"
FETCH = "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"
CIFAR = "cifar10_jpeg"  # CIFAR-10 as JPEG files, {train,test}/<class>/<number>.jpg
CIFAR_LABELS = (3, 5)  # cat and dog among the ten
LARGEST = 2**20  # bytes of one of its pictures
SPLIT_SEED = 0


def load_cats_dogs(
    name: str, root: str | Path, train_size: int, validation_size: int, image_size: int = 32
) -> ImageData:
    """Cats (0) and dogs (1): so many to train on and to validate with, half of each, the same at every call.

    `cifar10_jpeg` is read from `root`/cifar10_jpeg.zip, `cifar10` as torchvision lays out the original, and
    `cats_and_dogs_filtered` from that folder, whose pictures are cropped and scaled to `image_size`. CIFAR-10's test
    images are the official 2,000; the folder's are its validation part. Raises FileNotFoundError that says where the
    data come from, or ValueError for too few or damaged pictures.
    """
    reader = {CIFAR: _read_zip, "cifar10": _read_torchvision, FOLDER: _read_folder}[name]
    parts = reader(Path(root), image_size)
    arrays = {"test_images": np.concatenate(parts["test"]), "test_labels": _labels(parts["test"])}
    generator = np.random.default_rng(SPLIT_SEED)
    orders = [generator.permutation(len(images)) for images in parts["train"]]
    start = 0
    for part, size in (("val", validation_size), ("train", train_size)):  # so validation is the same for every size
        chosen = [
            images[order[start : start + size // 2]] for images, order in zip(parts["train"], orders, strict=True)
        ]
        if min(map(len, chosen)) < size // 2:
            most = 2 * min(map(len, parts["train"]))
            raise ValueError(f"{name} has {most:,} training images, not {train_size:,} and {validation_size:,} more")
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = np.concatenate(chosen), _labels(chosen)
        start += size // 2
    return from_arrays(name, "real", "multi-class", CLASSES, arrays)


def _labels(groups: list[np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(len(groups)), [len(group) for group in groups])


def _read_zip(root: Path, image_size: int) -> dict[str, list[np.ndarray]]:
    """Images (N, S, S, 3) of each class, by part."""
    path = root / f"{CIFAR}.zip"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: use `--dataset cifar10 --download`, CIFAR-10 as it was published"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
            return {
                part: [
                    np.stack([_decode(archive, name) for name in names if name.startswith(f"{part}/{kind}/")])
                    for kind in CLASSES
                ]
                for part in ("train", "test")
            }
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged, or holds other pictures ({error}): fetch it again") from error


def _decode(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    if archive.getinfo(name).file_size > LARGEST:
        raise ValueError(f"{name} is larger than {LARGEST:,} bytes")
    with Image.open(io.BytesIO(archive.read(name)), formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"))


def _read_torchvision(root: Path, image_size: int) -> dict[str, list[np.ndarray]]:
    from torchvision.datasets import CIFAR10

    parts = {}
    for part in ("train", "test"):
        try:
            data = CIFAR10(str(root), train=part == "train")
        except RuntimeError as error:
            raise FileNotFoundError(f"CIFAR-10 is not in {root}, or is damaged: add --download, 170 MB") from error
        labels = np.array(data.targets)
        parts[part] = [data.data[labels == label] for label in CIFAR_LABELS]
    return parts


def _read_folder(root: Path, image_size: int) -> dict[str, list[np.ndarray]]:
    folder = root / FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there: unpack {FETCH} in {root}, or use `--dataset {CIFAR}`")
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
