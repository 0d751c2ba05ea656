"""Synthetic scans in OCTMNIST's layout, made from a seed: nothing to download, nothing to trust.

`oct_scans` draws 28 by 28 scans that look like retinal OCT B-scans (cross-sections of the retina) in the four
classes of OCTMNIST, each defined by what defines it in the clinic. It is a teaching stand-in, not a simulator
of optics or of disease, and it has no medical value: an accuracy measured on it says that a model can find
such shapes, nothing about patients. Labels are never wrong; what is hard is that mild disease looks like
normal variation.

    python -m synthetic oct --n 20000 --out data/synthetic-oct.npz

Dimension letters: `N` scans, `K` lesions of one kind in a scan. Lengths are in pixels, rows count downwards
(into the eye's wall), columns are scaled to run from -1 to 1, and brightness goes from 0 to 1.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.random import Generator, SeedSequence

import records
from command_line import SEED, check_value, within

# in the order of OCTMNIST's labels
OCT_CLASSES = ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal")

SCANS = within(len(OCT_CLASSES), 1_000_000)  # to train on: at most 1.2 GB of memory with the others

SIZE = 28
CHUNK = 500  # scans drawn at once: small enough for the processor's cache
ROWS = np.arange(SIZE)[:, None]  # (28, 1)
COLUMNS = np.linspace(-1, 1, SIZE)  # (28,)

# Brightness against depth in the retina, from its inner surface (0) to the photoreceptors' tips (1): nerve
# fibres, ganglion cells and inner plexiform, inner nuclear, outer plexiform, outer nuclear, photoreceptors
LAYER_DEPTH = (0.0, 0.14, 0.24, 0.40, 0.50, 0.60, 0.68, 0.84, 0.92, 1.0)
LAYER_BRIGHTNESS = (0.70, 0.70, 0.52, 0.50, 0.36, 0.48, 0.34, 0.34, 0.60, 0.60)
VITREOUS, FLUID, DRUSE, EPITHELIUM, TUFT, CHOROID = 0.06, 0.05, 0.50, 0.95, 0.9, 0.45


def _bumps(centre: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Sum of K Gaussian bumps, each given by (N, K) arrays, as a height at every column: (N, 1, 28)."""
    distance = (COLUMNS - centre[..., None]) / width[..., None]  # (N, K, 28)
    return (height[..., None] * np.exp(-0.5 * distance**2)).sum(1, keepdims=True)


def _ellipses(
    row: np.ndarray, column: np.ndarray, height: np.ndarray, width: np.ndarray, strength: np.ndarray
) -> np.ndarray:
    """Opacity of K ellipses, soft at the edge: (N, 28, 28). `row` (N, K, 1, 28) bends with a layer."""
    column, height, width = (a[..., None, None] for a in (column, height, width))
    radius = np.hypot((ROWS - row) / height, (COLUMNS - column) / width)  # (N, K, 28, 28)
    return (strength[..., None, None] * np.clip((1.25 - radius) * 2, 0, 1)).max(1)


def _paint(image: np.ndarray | float, colour: np.ndarray | float, opacity: np.ndarray) -> np.ndarray:
    """Lay `colour` over the image where `opacity` is above 0."""
    return image + opacity * (colour - image)


def _below(surface: np.ndarray) -> np.ndarray:
    """Opacity of everything below a surface (N, 1, 28); the pixel that it crosses is covered in part."""
    return np.clip(ROWS - surface + 0.5, 0, 1)  # (N, 28, 28)


def _draw_scans(rng: Generator, labels: np.ndarray) -> np.ndarray:
    """Scans with these labels, brightness of 0 to about 1: (N, 28, 28).

    Every scan draws every lesion, and the lesions of the other classes get size zero.
    """

    def uniform(low: float, high: float, count: int = 1) -> np.ndarray:
        return rng.uniform(low, high, (len(labels), count))  # (N, K)

    neovascular, oedema, drusen = (labels[:, None] == k for k in range(3))
    severity = uniform(0, 1) ** 0.5  # the mildest disease overlaps with what varies in the healthy

    # Bruch's membrane, the floor of the epithelium: placed, tilted, bent and wavy in every class
    bruch = (uniform(17, 19.5) + uniform(-1.5, 1.5) * COLUMNS + uniform(-1.5, 1.5) * COLUMNS**2)[:, None]
    bruch -= _bumps(uniform(-1, 1, 4), uniform(0.1, 0.3, 4), uniform(-0.3, 0.3, 4))
    # drusen: deposits under the epithelium, which lift it in a row of bumps
    lift = (0.5 + 2.5 * severity) * uniform(0.7, 1.2, 4) * (uniform(0, 1, 4) < (1, 1, 0.7, 0.4))
    epithelium = bruch - _bumps(uniform(-0.85, 0.85, 4), uniform(0.06, 0.13, 4), drusen * lift)
    # neovascularisation: a tuft of vessels grows through the epithelium and leaks fluid under the retina
    tuft, tuft_height = uniform(-0.5, 0.5), 0.8 + 2.2 * severity
    tuft_width = uniform(0.1, 0.2) + 0.12 * severity
    leak = _bumps(tuft + uniform(-0.3, 0.3), uniform(0.25, 0.5), neovascular * (1 + 4.5 * severity))
    photoreceptors = epithelium - leak
    # oedema swells the retina; the foveal pit, in the scans that meet it, thins it
    macula = uniform(-0.4, 0.4)
    thickness = uniform(7, 9.5)[:, None] + _bumps(macula, uniform(0.4, 0.8), oedema * (0.5 + 3 * severity))
    thickness -= _bumps(macula, uniform(0.12, 0.25), uniform(0, 3) * (uniform(0, 1) < 0.6))
    # the lifted retina is in part compressed, yet drapes over the highest bumps
    surface = np.minimum(bruch - thickness - 0.5 * leak, photoreceptors - 3)
    # oedema's cysts lie in the nuclear layers
    cyst_row = surface + uniform(0.4, 0.75, 4)[..., None] * (photoreceptors - surface)
    cyst_size = (0.8 + 1.4 * severity) * uniform(0.8, 1.2, 4)
    cyst_opacity = oedema * (0.5 + 0.5 * severity) * (uniform(0, 1, 4) < (1, 1, 0.6, 0.4))
    cyst_column = macula + uniform(-0.5, 0.5, 4)

    # painted from the front of the eye to its back
    depth = (ROWS - surface) / (photoreceptors - surface)  # (N, 28, 28)
    image = _paint(VITREOUS, np.interp(depth, LAYER_DEPTH, LAYER_BRIGHTNESS), _below(surface))
    cysts = _ellipses(cyst_row[:, :, None], cyst_column, cyst_size, 0.08 * cyst_size, cyst_opacity)
    image = _paint(image, FLUID, cysts)
    image = _paint(image, FLUID, _below(photoreceptors))
    image = _paint(image, DRUSE, _below(epithelium))
    image = _paint(image, CHOROID * np.exp((bruch - ROWS) / uniform(3, 7)[..., None]), _below(bruch))
    image = _paint(image, EPITHELIUM, np.exp(-0.5 * ((ROWS - epithelium) / 0.75) ** 2))
    tuft_opacity = neovascular * (0.6 + 0.4 * severity)
    tufts = _ellipses(epithelium[:, None], tuft, tuft_height, tuft_width, tuft_opacity)
    image = _paint(image, TUFT, tufts)
    return _acquire(rng, image, surface)


def _acquire(rng: Generator, image: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """What the scanner adds: shadows under retinal vessels, multiplicative speckle, noise, and gain."""
    ranges = (-1, 1), (0.03, 0.07), (0, 0.4)  # of the column, width and strength of 3 vessels' shadows
    shadow = _bumps(*(rng.uniform(low, high, (len(image), 3)) for low, high in ranges))
    image = image * (1 - np.clip(shadow, 0, 0.7) * _below(surface + 2))  # the vessels run 2 rows deep
    image *= rng.standard_gamma(30, image.shape) / 30
    image += 0.02 * rng.standard_normal(image.shape)
    return image * rng.uniform(0.75, 1.05, (len(image), 1, 1))


def oct_scans(num_images: int, seed: int | SeedSequence) -> tuple[np.ndarray, np.ndarray]:
    """Scans uint8 (N, 28, 28) and their labels uint8 (N,), which index OCT_CLASSES.

    A pure function of both arguments (for one version of NumPy); the classes are as equal in number as N
    allows, in random order.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_images) % len(OCT_CLASSES)).astype(np.uint8)
    images = np.empty((num_images, SIZE, SIZE), np.uint8)
    for start in range(0, num_images, CHUNK):
        chunk = slice(start, start + CHUNK)
        images[chunk] = np.clip(255 * _draw_scans(rng, labels[chunk]), 0, 255)
    return images, labels


def oct_splits(num_images: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A data set laid out as `octmnist.npz`: uint8 images (N, 28, 28) and labels (N, 1), by part.

    `num_images` scans to train on and a quarter as many (at least 4) each to validate and to test on, drawn
    from separate random streams. Raises ValueError unless there are scans of each class, and no more than SCANS allows.
    """
    check_value("n", num_images, SCANS)
    check_value("seed", seed, SEED)
    held_out = max(len(OCT_CLASSES), num_images // 4)
    counts = {"train": num_images, "val": held_out, "test": held_out}
    streams = SeedSequence(seed).spawn(len(counts))
    data = {}
    for (part, count), stream in zip(counts.items(), streams, strict=True):
        images, labels = oct_scans(count, stream)
        data |= {f"{part}_images": images, f"{part}_labels": labels[:, None]}
    return data


def plot_contact_sheet(path_stem: str | Path, seed: int = 0) -> None:
    """Eight scans of each class, saved as `path_stem`.pdf and `path_stem`.png."""
    from matplotlib.figure import Figure  # here: writing a data set needs NumPy alone

    columns = 8
    images, labels = oct_scans(columns * len(OCT_CLASSES), seed)
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    figure.suptitle("Synthetic OCT-like scans")
    axes = figure.subplots(len(OCT_CLASSES), columns)
    for label, name in enumerate(OCT_CLASSES):
        axes[label, 0].set_ylabel(name.replace(" ", "\n"))
        for axis, image in zip(axes[label], images[labels == label], strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
    Path(path_stem).parent.mkdir(parents=True, exist_ok=True)
    for extension in ("pdf", "png"):
        figure.savefig(f"{path_stem}.{extension}", dpi=150)


def write_scans(out: str | Path, num_images: int, seed: int) -> None:
    """Write `oct_splits` as one compressed .npz. Raises ValueError and OSError, before it draws where that is known."""
    if Path(out).is_dir():
        raise IsADirectoryError(f"--out {out} is a folder: name a file, for example {Path(out) / 'synthetic-oct.npz'}")
    with records.locked(out):
        data, buffer = oct_splits(num_images, seed), io.BytesIO()
        np.savez_compressed(buffer, **data)
        records.write_file(out, buffer.getbuffer())
    sizes = ", ".join(f"{len(data[f'{part}_labels'])} {part}" for part in ("train", "val", "test"))
    print(f"{out}: synthetic OCT-like scans, {sizes}")
