"""Image classification data: MedMNIST files, MNIST, and the synthetic scans, checked and normalised."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import math
import struct
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from command_line import launch

PARTS = ("train", "val", "test")
SYNTHETIC_OCT_SIZE = 6000  # training scans; validation and test have a quarter of that each
COURSE_TEST_COUNTS = (182, 55, 42, 250)  # of OCTMNIST's 250 test images in each class
MNIST_VALIDATION_SIZE = 12_000  # training images: MNIST has no validation part of its own
DIGITS_HELD_OUT = 300  # of scikit-learn's 1,797 digits, for validation and again for the test
HOLD_OUT_SEED = 0  # which training images those are
MNIST_LARGEST = 60_000  # images in one file
LEEWAY = 8  # times the official size is what a MedMNIST file may have at most
MOST_COMPRESSED = 1100  # times, rounded up from the 1032 that deflate can reach
SHUFFLE_SEED = 0  # of the one order of shuffled pixels
ENCRYPTED = 1  # a bit of a zip member's flags
IDX_BYTES = 0x800  # the first four bytes of an MNIST file say "unsigned bytes", and the number of dimensions


@dataclass(frozen=True)
class ImageData:
    """Images (N, C, H, W), float32 and normalised, with labels (N,), int64, in three parts."""

    name: str
    source: str  # "real" or "synthetic"
    task: str  # what medmnist's evaluator calls it
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # of the training pixels in [0, 1], one per channel
    std: tuple[float, ...]
    digest: str  # of the arrays of all three parts, before they are normalised
    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def describe(self) -> dict:
        """The `data` entry of a result file."""
        sizes = {part: len(getattr(self, part)[1]) for part in PARTS}
        names = {"name": self.name, "source": self.source, "digest": self.digest}
        return names | {"sizes": sizes, "classes": list(self.class_names)}

    def pixels(self, part: str) -> Tensor:
        """The images of a part as they were before they were normalised, in [0, 1]: (N, C, H, W)."""
        images = getattr(self, part)[0]
        return (
            (images * torch.tensor(self.std).view(-1, 1, 1)).add_(torch.tensor(self.mean).view(-1, 1, 1)).clamp_(0, 1)
        )


def to_pixels(images: np.ndarray) -> Tensor:
    """Turn uint8 images (N, H, W) or (N, H, W, C) into float32 pixels in [0, 1], (N, C, H, W)."""
    images = images[..., None] if images.ndim == 3 else images  # (N, H, W, C)
    return torch.tensor(images.transpose(0, 3, 1, 2)).float().div_(255)


def normalise_(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Standardise pixels (N, C, H, W) in place with one mean and standard deviation per channel."""
    return pixels.sub_(torch.tensor(mean).view(-1, 1, 1)).div_(torch.tensor(std).view(-1, 1, 1))


def load_images(
    name: str,
    root: str | Path = "data",
    *,
    strict_checksum: bool = False,
    validation_size: int = MNIST_VALIDATION_SIZE,
) -> ImageData:
    """Load `synthetic-oct`, `digits`, `mnist`, or a single-label 2-D MedMNIST set such as `octmnist` or `octmnist_64`.

    A MedMNIST set is read from `root`/`name`.npz, MNIST from `root`/MNIST/raw as torchvision lays it out; of its
    training images `validation_size` are kept for validation, the same at every call. `digits` are scikit-learn's 1,797
    real ones of 8x8 pixels (Alpaydin and Kaynak, 1998), enlarged to 28x28: they are there without a download.
    Raises ValueError or FileNotFoundError, naming the file and the mend, for data that are missing, damaged
    or of the wrong form; an MD5 that is not MedMNIST's is only reported, unless `strict_checksum`.
    """
    source, task = "real", "multi-class"
    if name == "synthetic-oct":
        from synthetic import scans

        source, class_names = "synthetic", scans.OCT_CLASSES
        arrays = scans.oct_splits(SYNTHETIC_OCT_SIZE)
    elif name == "mnist":
        class_names, arrays = tuple("0123456789"), _read_mnist(Path(root), validation_size)
    elif name == "digits":
        class_names, arrays = tuple("0123456789"), _read_digits()
    else:
        info, md5 = _medmnist_info(name)
        task, class_names = info["task"], tuple(info["label"].values())
        arrays = _read_medmnist(Path(root) / f"{name}.npz", info, md5, strict_checksum)
    return from_arrays(name, source, task, class_names, arrays)


def from_arrays(
    name: str, source: str, task: str, class_names: tuple[str, ...], arrays: dict[str, np.ndarray]
) -> ImageData:
    """Image data from uint8 `<part>_images` (N, H, W) or (N, H, W, C) and `<part>_labels` (N) of the three parts."""
    pixels = {part: to_pixels(arrays[f"{part}_images"]) for part in PARTS}
    std, mean = torch.std_mean(pixels["train"], dim=(0, 2, 3), correction=0)
    mean, std = tuple(mean.tolist()), tuple(s or 1.0 for s in std.tolist())  # a constant image divides by 1
    labels = {part: torch.from_numpy(arrays[f"{part}_labels"].reshape(-1).astype(np.int64)) for part in PARTS}
    tensors = {part: (normalise_(pixels[part], mean, std), labels[part]) for part in PARTS}
    return ImageData(name, source, task, class_names, mean, std, _digest(arrays), **tensors)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """A hash of the images and labels, whatever the file or its layout."""
    digest = hashlib.blake2b(digest_size=8)
    for part in PARTS:
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int64)
        digest.update(str(images.shape).encode())
        digest.update(np.ascontiguousarray(images))
        digest.update(np.ascontiguousarray(labels))
    return digest.hexdigest()


def with_course_test_split(data: ImageData) -> ImageData:
    """Cut OCTMNIST's test set to what the course's own loader kept: the first 182, 55, 42 and 250 of each class.

    Raises ValueError for a test set that has not as many images of four classes.
    """
    images, labels = data.test
    counts = labels.bincount(minlength=len(COURSE_TEST_COUNTS)).tolist()
    if len(counts) != len(COURSE_TEST_COUNTS) or any(n < m for n, m in zip(counts, COURSE_TEST_COUNTS, strict=True)):
        raise ValueError(f"--course_test_split is for OCTMNIST: this test set has {counts} images of its classes")
    kept = [(labels == c).nonzero().flatten()[:count] for c, count in enumerate(COURSE_TEST_COUNTS)]
    indices = torch.cat(kept).sort().values
    return dataclasses.replace(data, test=(images[indices], labels[indices]))


def with_shuffled_pixels(data: ImageData) -> ImageData:
    """The same images with their pixels in another order, one for all: what is near in an image is near no more."""
    height, width = data.train[0].shape[2:]
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(SHUFFLE_SEED))
    parts = {part: getattr(data, part) for part in PARTS}
    moved = {part: (images.flatten(2)[..., order].view_as(images), labels) for part, (images, labels) in parts.items()}
    return dataclasses.replace(data, **moved)


def _medmnist_info(name: str) -> tuple[dict, str]:
    """MedMNIST's own entry for a set and the MD5 of its file; `octmnist_64` is the set at 64 pixels."""
    from medmnist import INFO

    base, _, size = name.partition("_")
    info, md5_key = INFO.get(base), f"MD5_{size}" if size else "MD5"
    usable = [key for key, entry in INFO.items() if "3d" not in key and "multi-label" not in entry["task"]]
    if info is not None and "multi-label" in info["task"]:
        raise ValueError(f"{name} has several labels per image; this network predicts one: use one of {usable}")
    if base not in usable or md5_key not in info:
        raise ValueError(f"no data set is called {name}: use synthetic-oct, digits, mnist or one of {usable}")
    return info, info[md5_key]


def _download_command(path: Path) -> str:
    base, _, size = path.stem.partition("_")
    flags = (("--dataset", base, "octmnist"), ("--root", str(path.parent), "data"), ("--size", size, ""))
    given = [f"{flag} {value}" for flag, value, default in flags if value != default]
    return " ".join(["python download_octmnist.py", *given])


def _read_medmnist(path: Path, info: dict, md5: str, strict_checksum: bool) -> dict[str, np.ndarray]:
    command = _download_command(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: fetch it with `{command}`, or use `--dataset synthetic-oct`, made offline"
        )
    mend = f"delete it and run `{command}`"
    side = int(path.stem.partition("_")[2] or 28)
    largest = LEEWAY * sum(info["n_samples"].values()) * side**2 * info["n_channels"]
    try:
        arrays = read_npz(path, [f"{part}_{kind}" for part in PARTS for kind in ("images", "labels")], largest)
        _check_parts(path, arrays, info["n_channels"], len(info["label"]))
    except ValueError as error:
        raise ValueError(f"{error}: {mend}") from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        message = f"the MD5 of {path} is not that of the official file ({md5}): its contents or their order differ"
        if strict_checksum:
            raise ValueError(f"{message}: {mend}")
        _warn_once(f"warning: {message}")
    return arrays


@functools.cache
def _warn_once(message: str) -> None:
    if launch()[0] == 0:
        print(message, file=sys.stderr)


def _check_parts(
    path: Path, arrays: dict[str, np.ndarray], channels: int, classes: int, parts: tuple[str, ...] = PARTS
) -> None:
    for part in parts:
        problem = _image_problem(arrays[f"{part}_images"], arrays[f"{part}_labels"], channels, classes)
        if problem:
            raise ValueError(f"{path}, {part} part: {problem}")
    labels = arrays["train_labels"]
    if (labels == labels.flat[0]).all():
        raise ValueError(f"{path}, train part: all labels are {labels.flat[0]}, so there is nothing to tell apart")


def _image_problem(images: np.ndarray, labels: np.ndarray, channels: int, classes: int) -> str | None:
    """What is wrong with one part of a data set, or None."""
    form = "(N, H, W)" if channels == 1 else f"(N, H, W, {channels})"
    if images.dtype != np.uint8:
        return f"images are {images.dtype}, not uint8"
    if (
        images.ndim != (3 if channels == 1 else 4)
        or 0 in images.shape
        or (channels > 1 and images.shape[3] != channels)
    ):
        return f"images have shape {images.shape}, not {form}"
    if not np.issubdtype(labels.dtype, np.integer):
        return f"labels are {labels.dtype}, not integers"
    if labels.ndim not in (1, 2) or labels.shape[1:] not in ((), (1,)):
        return f"labels have shape {labels.shape}, not (N, 1)"
    if len(labels) != len(images):
        return f"{len(images)} images but {len(labels)} labels"
    if len(images) < 2:
        return "one image alone, from which nothing can be measured"
    if labels.min() < 0 or labels.max() >= classes:
        return f"labels run from {labels.min()} to {labels.max()}, not within 0 to {classes - 1}"
    return None


# --- readers of files, which check what a header claims before they take memory for it ---------------


def read_npz(path: Path, names: list[str], largest: int) -> dict[str, np.ndarray]:
    """Read the arrays of these names, at most `largest` bytes together, from an .npz file; others stay unread.

    Raises ValueError, naming the file, for one that is damaged, encrypted, too large or no such file.
    """
    try:
        if not path.is_file():
            raise ValueError("it is a folder or device")
        with path.open("rb") as file:
            if file.read(1000).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
                raise ValueError("it is a web page, such as a server answers when it has no such file")
        with zipfile.ZipFile(path) as archive:
            members = {name: _checked_member(archive, name) for name in names}
            total = sum(member.file_size for member in members.values())
            if total > largest:
                raise ValueError(f"its arrays claim {total:,} bytes, far more than the {largest:,} expected at most")
            return {name: _read_array(archive, member) for name, member in members.items()}
    except MemoryError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy each raise their own, and some raise what they come upon
        raise ValueError(f"{path} is damaged or no .npz file of plain arrays ({error})") from error


def _checked_member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    if f"{name}.npy" not in archive.namelist():
        raise ValueError(f"it has no {name}, only {sorted(archive.namelist())}")
    member = archive.getinfo(f"{name}.npy")
    if member.flag_bits & ENCRYPTED:
        raise ValueError(f"{name} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that NumPy does not write")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = readers[version](file)
        size = file.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    if member.file_size != size or size > MOST_COMPRESSED * member.compress_size or min(shape, default=0) < 0:
        raise ValueError(f"{name} is not of the size that its header claims, {size:,} bytes")
    return member


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:  # whose checksum zipfile compares, since all of it is read
        return np.lib.format.read_array(file, allow_pickle=False)


def read_idx(path: Path, dimensions: int, largest: int) -> np.ndarray:
    """Read an array of at most `largest` bytes from a file of MNIST's format, plain or compressed by gzip.

    Raises ValueError, naming the file, for one that is damaged, too large or no such file.
    """
    try:
        if not path.is_file():
            raise ValueError("it is a folder or device")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic, *shape = struct.unpack(f">{1 + dimensions}I", file.read(4 + 4 * dimensions))
            if magic != IDX_BYTES + dimensions:
                raise ValueError(f"it starts with {magic}, not {IDX_BYTES + dimensions}")
            size = math.prod(shape)
            if size > largest:
                raise ValueError(f"it claims {size:,} bytes, more than the {largest:,} expected at most")
            data = file.read(size + 1)
        if len(data) != size:
            found = f"{len(data):,}" if len(data) < size else "more"
            raise ValueError(f"its header claims {size:,} bytes, but it has {found}")
    except (ValueError, OSError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is damaged or no file of MNIST's format ({error})") from error
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_mnist(root: Path, validation_size: int) -> dict[str, np.ndarray]:
    raw = root / "MNIST" / "raw"
    fetch = f"run `{_download_command(root / 'mnist.npz')}`"
    try:
        arrays = {
            f"{part}_{kind}": read_idx(_mnist_file(raw, f"{prefix}-{kind}-idx{dimensions}-ubyte"), dimensions, largest)
            for part, prefix in (("train", "train"), ("test", "t10k"))
            for kind, dimensions, largest in (("images", 3, MNIST_LARGEST * 28 * 28), ("labels", 1, MNIST_LARGEST))
        }
        sizes = {arrays[f"{part}_images"].shape[1:] for part in ("train", "test")}
        if sizes != {(28, 28)} or len(arrays["train_images"]) < validation_size + 2:
            found = f"{len(arrays['train_images'])} training images of {' and '.join(map(str, sizes))} pixels"
            raise ValueError(f"{raw} has {found}, not MNIST's 60000 of (28, 28), {validation_size} for validation")
        _check_parts(raw, arrays, 1, 10, ("train", "test"))
        _hold_out(arrays, "val", validation_size)
        _check_parts(raw, arrays, 1, 10)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"MNIST in {root} can't be read ({error} is not there): {fetch}, or use `--dataset digits`, which is here"
        ) from error
    except ValueError as error:
        raise ValueError(f"{error}: delete {raw} and {fetch}") from error
    return arrays


def _hold_out(arrays: dict[str, np.ndarray], part: str, size: int) -> None:
    """Move `size` of the training images into a part of their own: at random, but the same at every call."""
    count = len(arrays["train_labels"])
    chosen = np.zeros(count, bool)
    chosen[np.random.default_rng(HOLD_OUT_SEED).permutation(count)[:size]] = True
    for kind in ("images", "labels"):
        every = arrays[f"train_{kind}"]
        arrays[f"train_{kind}"], arrays[f"{part}_{kind}"] = every[~chosen], every[chosen]


def _read_digits() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).float().view(-1, 1, 8, 8) * (255 / 16)
    large = F.interpolate(pixels, size=(28, 28), mode="bilinear").squeeze(1)  # (N, 28, 28)
    arrays = {"train_images": large.round().to(torch.uint8).numpy(), "train_labels": labels.astype(np.uint8)}
    for part in ("test", "val"):
        _hold_out(arrays, part, DIGITS_HELD_OUT)
    return arrays


def _mnist_file(raw: Path, name: str) -> Path:
    for path in (raw / name, raw / f"{name}.gz"):
        if path.exists():
            return path
    raise FileNotFoundError(raw / name)
