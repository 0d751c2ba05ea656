"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), as torchvision lays them out, or as JPEG files in one zip file.

Letters: N images of 32x32 pixels.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

JPEG = "cifar10_jpeg"  # {train,test}/<class>/<number>.jpg in <root>/cifar10_jpeg.zip
NAMES = (JPEG, "cifar10", "cifar100")
TITLES = {JPEG: "CIFAR-10 (JPEG)", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
SIZES = {"cifar10": 170, "cifar100": 169}  # MB to download
LARGEST = 2**20  # bytes of one JPEG file
SPLIT_SEED = 0
Groups = dict[str, list[np.ndarray]]  # of each part, images (N, 32, 32, 3) of each class


def read_cifar(name: str, root: str | Path, classes: Sequence[str] | None = None) -> tuple[Groups, tuple[str, ...]]:
    """The official training and test images of some classes, or of all, class by class; and the classes' names.

    Raises FileNotFoundError that says where the data come from, or ValueError for a damaged file.
    """
    return _read_zip(Path(root), classes) if name == JPEG else _read_torchvision(name, Path(root), classes)


def split_by_class(name: str, groups: Groups, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Arrays for `image_data.from_arrays`: so many training images for each part of `sizes`, as many of every class.

    They are drawn in the order of the parts and are the same at every call, so a part does not depend on those after
    it. Raises ValueError where there are too few.
    """
    arrays = {"test_images": np.concatenate(groups["test"]), "test_labels": _labels(groups["test"])}
    generator = np.random.default_rng(SPLIT_SEED)
    orders = [generator.permutation(len(images)) for images in groups["train"]]
    start, fewest = 0, min(map(len, groups["train"]))
    for part, size in sizes.items():
        share = size // len(orders)
        if start + share > fewest:
            wanted = " and ".join(f"{each:,}" for each in sizes.values())
            raise ValueError(f"{name} has {len(orders) * fewest:,} training images, not {wanted} together")
        chosen = [images[order[start : start + share]] for images, order in zip(groups["train"], orders, strict=True)]
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = np.concatenate(chosen), _labels(chosen)
        start += share
    return arrays


def _labels(groups: list[np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(len(groups)), [len(group) for group in groups])


def _read_zip(root: Path, classes: Sequence[str] | None) -> tuple[Groups, tuple[str, ...]]:
    path = root / f"{JPEG}.zip"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: use `--dataset cifar10 --download`, CIFAR-10 as it was published"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
            kinds = tuple(classes or sorted({name.split("/")[1] for name in names}))
            parts = {
                part: [
                    np.stack([_decode(archive, name) for name in names if name.startswith(f"{part}/{kind}/")])
                    for kind in kinds
                ]
                for part in ("train", "test")
            }
    except (zipfile.BadZipFile, OSError, ValueError, IndexError, EOFError) as error:
        raise ValueError(f"{path} is damaged, or holds other pictures ({error}): fetch it again") from error
    return parts, kinds


def _decode(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    if archive.getinfo(name).file_size > LARGEST:
        raise ValueError(f"{name} is larger than {LARGEST:,} bytes")
    with Image.open(io.BytesIO(archive.read(name)), formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"))


def _read_torchvision(name: str, root: Path, classes: Sequence[str] | None) -> tuple[Groups, tuple[str, ...]]:
    parts = {}
    for part in ("train", "test"):
        try:
            data = torchvision_set(name)(str(root), train=part == "train")
        except RuntimeError as error:
            raise FileNotFoundError(
                f"{TITLES[name]} is not in {root}, or is damaged: add --download, {SIZES[name]} MB"
            ) from error
        labels, kinds = np.array(data.targets), tuple(classes or data.classes)
        parts[part] = [data.data[labels == data.class_to_idx[kind]] for kind in kinds]
    return parts, kinds


def torchvision_set(name: str) -> type:
    """The class of torchvision that reads CIFAR-10 or CIFAR-100, and downloads it."""
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
