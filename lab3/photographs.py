"""Lab 3's pictures: photographs of ants and bees, and the other sets that a network is transferred to, in one form.

All are standardised with a mean and a deviation of 0.5, as EfficientNet-Lite0 takes them, and split alike: validation
images are the same at every call, training images are drawn by a seed.

Letters: N images, C channels, S pixels on a side.
"""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from common import cifar
from common.geometry import jitter, mirrored
from common.pictures import read_image
from image_data import PARTS, ImageData, from_arrays, load_images

DATASETS = ("digits", "ants_bees", "pneumoniamnist", "cifar10_jpeg", "cifar10")
KINDS = ("ants", "bees")
OFFICIAL = ("train", "val")  # the set's own parts
TUTORIAL = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"
HELD_OUT = 22  # training photographs of each class, for validation: the set has none, and its `val` is the test
CIFAR_HELD_OUT = 1000  # of CIFAR-10's 50,000 training images
HOLD_OUT_SEED = 0  # which photographs those are
LARGEST = 2**28  # bytes of the photographs in a zip file
SMALLEST_CROP = 0.35  # share of a photograph's area
SPLIT = 5  # digits below are what a network is pre-trained on, the others what it is transferred to


@dataclass(frozen=True)
class Pictures:
    """A data set as 8-bit arrays: `<part>_images` (N, S, S) or (N, S, S, 3) and `<part>_labels` (N)."""

    name: str
    class_names: tuple[str, ...]
    arrays: dict[str, np.ndarray]


def read(dataset: str, root: str | Path, side: int) -> Pictures:
    """A set of DATASETS; photographs are cropped to squares and scaled to `side` pixels, others stay as they are.

    Raises FileNotFoundError that says where the data come from, or ValueError for damaged ones.
    """
    if dataset == "digits":
        return digits(SPLIT, 10)
    if dataset == "ants_bees":
        return Pictures(dataset, KINDS, photographs(Path(root), side))
    if dataset in cifar.NAMES:
        groups, classes = cifar.read_cifar(dataset, root)
        rest = sum(map(len, groups["train"])) - CIFAR_HELD_OUT
        return Pictures(dataset, classes, cifar.split_by_class(dataset, groups, {"val": CIFAR_HELD_OUT, "train": rest}))
    return as_pictures(load_images(dataset, root))


def read_small(dataset: str, root: str | Path) -> Pictures:
    """A set of DATASETS but for the photographs; of digits all ten."""
    return digits(0, 10) if dataset == "digits" else read(dataset, root, 0)


def as_pictures(data: ImageData) -> Pictures:
    arrays = {}
    for part in PARTS:
        pixels = data.pixels(part).mul(255).round().byte().permute(0, 2, 3, 1).numpy()  # (N, S, S, C)
        arrays[f"{part}_images"] = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        arrays[f"{part}_labels"] = getattr(data, part)[1].numpy()
    return Pictures(data.name, data.class_names, arrays)


def digits(first: int, end: int) -> Pictures:
    """Those of scikit-learn's digits from `first` to before `end`, as classes from 0."""
    every, arrays = as_pictures(load_images("digits")), {}
    for part in PARTS:
        labels = every.arrays[f"{part}_labels"]
        chosen = (first <= labels) & (labels < end)
        arrays[f"{part}_images"] = every.arrays[f"{part}_images"][chosen]
        arrays[f"{part}_labels"] = labels[chosen] - first
    return Pictures("digits", every.class_names[first:end], arrays)


def select(pictures: Pictures, train_size: int = 0, seed: int = 0) -> ImageData:
    """A set with `train_size` training images, as many of each class, or all; a larger size has those of a smaller one.

    Raises ValueError where there are too few, or the size is no multiple of the number of classes.
    """
    arrays = dict(pictures.arrays)
    if train_size:
        chosen = balanced(arrays["train_labels"], train_size, len(pictures.class_names), seed)
        arrays |= {f"train_{kind}": arrays[f"train_{kind}"][chosen] for kind in ("images", "labels")}
    data = from_arrays(pictures.name, "real", "multi-class", pictures.class_names, arrays)
    return with_mean_and_deviation_of_half(data)


def balanced(labels: np.ndarray, size: int, classes: int, seed: int) -> np.ndarray:
    """The places of `size` labels, as many of each class, drawn at random; the first ones stay with a larger size."""
    share, fewest = size // classes, np.bincount(labels, minlength=classes).min()
    if size % classes or share > fewest:
        raise ValueError(
            f"--train_size is {size}, but must be a multiple of {classes}, the number of classes, and at most "
            f"{classes * fewest:,} here; 0 takes all"
        )
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(np.flatnonzero(labels == kind)) for kind in range(classes)]
    return np.concatenate([order[:share] for order in orders])


def with_mean_and_deviation_of_half(data: ImageData) -> ImageData:
    half = (0.5,) * len(data.mean)

    def standardised(part: str) -> Tensor:
        # back to whole numbers first, or an image would depend a little on the others' mean
        return data.pixels(part).mul_(255).round_().div_(127.5).sub_(1)

    parts = {part: (standardised(part), getattr(data, part)[1]) for part in PARTS}
    return replace(data, mean=half, std=half, **parts)


# --- ants and bees -----------------------------------------------------------------------------------


def photographs(root: Path, side: int) -> dict[str, np.ndarray]:
    """The photographs of the PyTorch tutorial on transfer learning (Chilamkurthy 2017), the central square of each.

    They lie in `root`/ants_bees.zip, as {train,val}/{ants,bees}/*.jpg, or in the folder `root`/hymenoptera_data, as the
    tutorial's own file unpacks. Raises FileNotFoundError or ValueError.
    """
    path, folder = root / "ants_bees.zip", root / "hymenoptera_data"
    if path.is_file():
        with tempfile.TemporaryDirectory() as unpacked:
            unpack(path, Path(unpacked))
            return from_folder(Path(unpacked), path, side)
    if folder.is_dir():
        return from_folder(folder, folder, side)
    raise FileNotFoundError(
        f"neither {path} nor {folder} is there: unpack {TUTORIAL} (47 MB) in {root}, or use --dataset digits"
    )


def unpack(path: Path, folder: Path) -> None:
    """Unpack the photographs of a zip file, and nothing else that may be in it. Raises ValueError."""
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = [entry for entry in archive.infolist() if is_photograph(Path(entry.filename))]
            size = sum(entry.file_size for entry in wanted)
            if size > LARGEST:
                raise ValueError(f"its photographs claim {size:,} bytes, not {LARGEST:,} at most")
            for entry in wanted:
                archive.extract(entry, folder)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged, or holds other files ({error}): fetch it again") from error


def is_photograph(path: Path) -> bool:
    """Whether a file is one of the set; the tutorial's has a GIF among them that says "image not found"."""
    part, kind, name = path.parts if len(path.parts) == 3 else ("", "", "")
    return part in OFFICIAL and kind in KINDS and name.lower().endswith(".jpg")


def from_folder(folder: Path, source: Path, side: int) -> dict[str, np.ndarray]:
    """The photographs under a folder in three parts; `source` is what messages name."""
    groups: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    for kind in KINDS:
        train, test = (read_all(folder, source, part, kind, side) for part in OFFICIAL)
        if len(train) <= HELD_OUT:
            raise ValueError(f"{source} has {len(train)} photographs in train/{kind}, not more than {HELD_OUT}")
        order = np.random.default_rng(HOLD_OUT_SEED).permutation(len(train))
        groups["val"].append(train[order[:HELD_OUT]])
        groups["train"].append(train[order[HELD_OUT:]])
        groups["test"].append(test)
    arrays = {}
    for part, each in groups.items():
        arrays[f"{part}_images"] = np.concatenate(each)
        arrays[f"{part}_labels"] = np.repeat(range(len(KINDS)), [len(group) for group in each])
    return arrays


def read_all(folder: Path, source: Path, part: str, kind: str, side: int) -> np.ndarray:
    """The photographs (N, S, S, 3) of one class and part, in the order of their names."""
    images = []
    for path in sorted((folder / part / kind).glob("*")):
        name = path.relative_to(folder)
        if is_photograph(name):
            try:
                images.append(read_image(path, (3, side, side))[0][0])
            except ValueError as error:
                raise ValueError(f"{name} of {source} can't be used: {error}") from error
    if not images:
        raise ValueError(f"{source} has no photographs {part}/{kind}/*.jpg")
    return np.stack(images)


# --- changed at random, to train on ------------------------------------------------------------------


def random_crops(images: Tensor, size: int) -> Tensor:
    """A part of each photograph (N, C, S, S), scaled to `size` pixels, half of them mirrored (Szegedy et al. 2015)."""
    crop = v2.RandomResizedCrop(size, scale=(SMALLEST_CROP, 1), antialias=True)
    return mirrored(torch.stack([crop(image) for image in images]))  # (N, C, size, size)


def augmented(dataset: str, images: Tensor, size: int) -> Tensor:
    """A batch of training images (N, C, S, S) as a set allows: digits and chests have a left and a right."""
    if dataset == "ants_bees":
        return random_crops(images, size)
    return jitter(mirrored(images) if dataset in cifar.NAMES else images)
