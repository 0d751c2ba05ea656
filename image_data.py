"""Image classification data: MedMNIST files, MNIST, and the synthetic scans, checked and normalised."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from command_line import launch

PARTS = ("train", "val", "test")
SYNTHETIC_OCT_SIZE = 6000  # training scans; validation and test have a quarter of that each
COURSE_TEST_COUNTS = (182, 55, 42, 250)  # of OCTMNIST's 250 test images in each class
MNIST_VALIDATION_SIZE = 5000  # the last training images: MNIST has no validation part of its own


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


def to_pixels(images: np.ndarray) -> Tensor:
    """Turn uint8 images (N, H, W) or (N, H, W, C) into float32 pixels in [0, 1], (N, C, H, W)."""
    images = images[..., None] if images.ndim == 3 else images  # (N, H, W, C)
    return torch.tensor(images.transpose(0, 3, 1, 2)).float().div_(255)


def normalise_(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Standardise pixels (N, C, H, W) in place with one mean and standard deviation per channel."""
    return pixels.sub_(torch.tensor(mean).view(-1, 1, 1)).div_(torch.tensor(std).view(-1, 1, 1))


def load_images(name: str, root: str | Path = "data", *, strict_checksum: bool = False) -> ImageData:
    """Load `synthetic-oct`, `mnist`, or a single-label 2-D MedMNIST set such as `octmnist` or `octmnist_64`.

    A MedMNIST set is read from `root`/`name`.npz, MNIST from `root`/MNIST/raw as torchvision lays it out.
    Raises ValueError or FileNotFoundError, naming the file and the mend, for data that are missing, damaged
    or of the wrong form; an MD5 that is not MedMNIST's is only reported, unless `strict_checksum`.
    """
    source, task = "real", "multi-class"
    if name == "synthetic-oct":
        import synthetic_data

        source, class_names = "synthetic", synthetic_data.OCT_CLASSES
        arrays = synthetic_data.oct_splits(SYNTHETIC_OCT_SIZE)
    elif name == "mnist":
        class_names, arrays = tuple("0123456789"), _read_mnist(Path(root))
    else:
        info, md5 = _medmnist_info(name)
        task, class_names = info["task"], tuple(info["label"].values())
        arrays = _read_medmnist(Path(root) / f"{name}.npz", info, md5, strict_checksum)

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


def _medmnist_info(name: str) -> tuple[dict, str]:
    """MedMNIST's own entry for a set and the MD5 of its file; `octmnist_64` is the set at 64 pixels."""
    from medmnist import INFO

    base, _, size = name.partition("_")
    info, md5_key = INFO.get(base), f"MD5_{size}" if size else "MD5"
    usable = [key for key, entry in INFO.items() if "3d" not in key and "multi-label" not in entry["task"]]
    if info is not None and "multi-label" in info["task"]:
        raise ValueError(f"{name} has several labels per image; this network predicts one: use one of {usable}")
    if base not in usable or md5_key not in info:
        raise ValueError(f"no data set is called {name}: use synthetic-oct, mnist or one of {usable}")
    return info, info[md5_key]


def _download_command(path: Path) -> str:
    base, _, size = path.stem.partition("_")
    flags = (("--dataset", base, "octmnist"), ("--root", str(path.parent), "data"), ("--size", size, ""))
    given = [f"{flag} {value}" for flag, value, default in flags if value != default]
    return " ".join(["python download_octmnist.py", *given])


def _read_medmnist(path: Path, info: dict, md5: str, strict_checksum: bool) -> dict[str, np.ndarray]:
    command = _download_command(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: fetch it with `{command}`, or use `--dataset synthetic-oct`, made offline"
        )
    mend = f"delete it and run `{command}`"
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        # TypeError: a bare .npy file loads as an array, which is no archive
        raise ValueError(f"{path} is damaged or no .npz file of plain arrays ({error}): {mend}") from error

    for part in PARTS:
        missing = {f"{part}_images", f"{part}_labels"} - arrays.keys()
        if missing:
            raise ValueError(f"{path} has no {sorted(missing)[0]}, only {sorted(arrays)}: {mend}")
        problem = _image_problem(arrays[f"{part}_images"], arrays[f"{part}_labels"], info)
        if problem:
            raise ValueError(f"{path}, {part} part: {problem}: {mend}")
    if hashlib.md5(path.read_bytes()).hexdigest() != md5:
        message = f"the MD5 of {path} is not that of the official file ({md5}): its contents or their order differ"
        if strict_checksum:
            raise ValueError(f"{message}: {mend}")
        _warn_once(f"warning: {message}")
    return arrays


@functools.cache
def _warn_once(message: str) -> None:
    if launch()[0] == 0:
        print(message, file=sys.stderr)


def _image_problem(images: np.ndarray, labels: np.ndarray, info: dict) -> str | None:
    """What is wrong with one part of a MedMNIST file, or None."""
    channels, classes = info["n_channels"], len(info["label"])
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
    if labels.shape not in ((len(labels),), (len(labels), 1)):
        return f"labels have shape {labels.shape}, not (N, 1)"
    if len(labels) != len(images):
        return f"{len(images)} images but {len(labels)} labels"
    if labels.min() < 0 or labels.max() >= classes:
        return f"labels run from {labels.min()} to {labels.max()}, not within 0 to {classes - 1}"
    return None


def _read_mnist(root: Path) -> dict[str, np.ndarray]:
    from torchvision.datasets import MNIST

    mend = f"run `{_download_command(root / 'mnist.npz')}`"
    archives = len(list((root / "MNIST" / "raw").glob("*-ubyte.gz")))
    try:  # with the four archives there, torchvision's download only checks and unpacks them
        train, test = (MNIST(root, train=part, download=archives == 4) for part in (True, False))
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        kind = FileNotFoundError if "not found" in str(error) else ValueError
        raise kind(f"MNIST in {root} can't be read ({str(error).splitlines()[0]}): {mend}") from error
    images, labels, cut = train.data.numpy(), train.targets.numpy(), len(train) - MNIST_VALIDATION_SIZE
    return {
        "train_images": images[:cut],
        "train_labels": labels[:cut],
        "val_images": images[cut:],
        "val_labels": labels[cut:],
        "test_images": test.data.numpy(),
        "test_labels": test.targets.numpy(),
    }


def read_image(path: str, image_shape: tuple[int, int, int]) -> tuple[np.ndarray, str]:
    """Read any common image file as uint8 (1, H, W, C), cropped and scaled as MedMNIST did; and a note of that.

    Raises OSError or ValueError for a file that is no image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    channels, height, width = image_shape
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError:
        raise ValueError("not an image file") from None
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None
    size, mode, wanted = image.size, image.mode, "L" if channels == 1 else "RGB"
    if mode[0] in "IF":  # 16- and 32-bit grey: PIL's own conversion would cut off all above 255
        pixels = np.asarray(image, dtype=np.float64)
        top = 65535 if mode.startswith("I") and pixels.max() > 255 else max(pixels.max(), 1)
        image = Image.fromarray((pixels / top * 255).round().clip(0, 255).astype(np.uint8))
    image = ImageOps.fit(image.convert(wanted), (width, height), Image.Resampling.BICUBIC)
    changes = [f"{size[0]}x{size[1]} to {width}x{height}"] if size != (width, height) else []
    changes += [f"{mode} to {wanted}"] if mode != wanted else []
    note = f" (converted: {', '.join(changes)})" if changes else ""
    return np.array(image).reshape(1, height, width, channels), note
