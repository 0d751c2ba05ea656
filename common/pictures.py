"""Picture files as devices and people save them, read as 8-bit pixels of the form that a network was trained on.

How bright a picture is follows from these rules, in this order:

1. Samples of up to 8 bits are taken as they are: a dark picture stays dark.
2. A range that the file declares: 12 bits a sample, TIFF's MinSampleValue and MaxSampleValue (or SMin, SMax), PNG's
   sBIT, the scale of a PGM or JPEG 2000 file. A range that does not hold all samples, or is merely all that their
   type can hold, declares nothing.
3. Whole samples from 0 to 65,535, or any from 0 to 1: the smallest depth in use that holds them all, of 1, 8, 10, 12,
   14 and 16 bits. Scanners and cameras store 10 to 14 bits in a file of 16 bits, whose whole range would make them
   nearly black. A 16-bit picture none of whose samples reaches a quarter of the range can't be told from those, and is
   brightened like them; what was done is in the notes.
4. Others (negative ones as in a CT scan, larger ones, fractions): from the lowest to the highest.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM", "JPEG2000", "AVIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp", ".webp", ".ppm", ".pgm", ".pnm", ".jp2", ".avif")
LARGEST_FILE = 2**30  # bytes; Pillow bounds the number of pixels, by Image.MAX_IMAGE_PIXELS
WHITE = (1, 255, 1023, 4095, 16383, 65535)  # at the depths in use: 1, 8, 10, 12, 14 and 16 bits
COLOURS = {"1": "black and white", "L": "grey", "P": "palette", "CMYK": "CMYK"}  # all others are colour
BITS, PHOTOMETRIC, SAMPLE_FORMAT, ORIENTATION = 258, 262, 339, 274  # tags of TIFF and EXIF
RANGES = ((280, 281), (340, 341))  # TIFF's MinSampleValue and MaxSampleValue, SMinSampleValue and SMaxSampleValue
WHITE_IS_ZERO, UNSIGNED, SIGNED = 0, 1, 2  # values of PHOTOMETRIC and of SAMPLE_FORMAT
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what undoes each ORIENTATION


@dataclass(frozen=True)
class _Decoded:
    """What a file holds: its first picture as Pillow decodes it, and what that alone does not tell."""

    image: Image.Image
    samples: np.ndarray | None  # (H, W) or (H, W, C) where Pillow's picture is not of 8 bits, or has lost some
    declared: list[tuple[float, float]]  # ranges of the samples
    white_is_zero: bool
    frames: int
    orientation: int


def read_image(path: str | Path, image_shape: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    """Read a picture as uint8 (1, H, W, C), cropped and scaled as MedMNIST did, and notes of what was done to it.

    Of several frames the first is read; transparent parts lie on black, the background of scans and digits.
    Raises OSError, or ValueError for what is no picture, is damaged, or is too large.
    """
    channels, height, width = image_shape
    decoded = _decode(Path(path))
    image, notes = decoded.image, []
    if decoded.frames > 1:
        notes.append(f"first of {decoded.frames} frames")
    if decoded.samples is not None:
        image, note = _eight_bit_image(decoded)
        notes.append(note)
    if decoded.orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[decoded.orientation])
        notes.append("turned upright")
    size = image.size
    if image.has_transparency_data:
        opaque = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
        image = image.convert(f"{opaque}A")
        if image.getchannel("A").getextrema()[0] == 255:
            image = image.convert(opaque)
        else:  # colours multiplied by their alpha are those laid on black
            notes.append("transparent parts laid on black")
            image = ImageOps.fit(image.convert(f"{opaque}a"), (width, height), Image.Resampling.BICUBIC)
            image = Image.merge(opaque, image.split()[:-1])
    kind, wanted = COLOURS.get(image.mode, "colour"), "grey" if channels == 1 else "colour"
    notes += [f"{kind} to {wanted}"] if kind != wanted else []
    notes += [f"{size[0]}x{size[1]} to {width}x{height}"] if size != (width, height) else []
    image = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (width, height), Image.Resampling.BICUBIC)
    return np.array(image).reshape(1, height, width, channels), notes


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what decoders in C print off stderr: a damaged file is one line there, ours. And no warnings."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")  # of oddities that do no harm
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with contextlib.suppress(OSError):  # where there is no stderr
            sys.stderr.flush()
            stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, stderr)
            stack.callback(os.dup2, stderr, 2)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        yield


def _decode(path: Path) -> _Decoded:
    """Decode the first picture of a file, or raise OSError or ValueError."""
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE / 2**30:.0f} GiB: save it smaller")
    if not path.is_file():
        raise ValueError("a folder without pictures" if path.is_dir() else "not a file")
    try:
        with _quiet(), Image.open(path, formats=FORMATS) as image:
            # the second picture of a phone's JPEG is not a frame but an extra, such as a map of depths
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            image.load()
            if image.mode == "LAB":
                raise ValueError("LAB colours")
            orientation = image.getexif().get(ORIENTATION, 1)
            return _Decoded(image, *_samples_and_range(image, path), frames, orientation)
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        unknown = f"not a picture of the formats {', '.join(FORMATS)}, or damaged: save it again, as a PNG"
        large = f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: crop it, or save it smaller"
        raise ValueError(unknown if isinstance(error, UnidentifiedImageError) else large) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes the decoders raise whatever they come upon
        raise ValueError(f"damaged, or of an unknown kind ({error}): save it again, as a PNG") from error


def _samples_and_range(image: Image.Image, path: Path) -> tuple[np.ndarray | None, list[tuple[float, float]], bool]:
    """The `samples`, `declared` and `white_is_zero` of a picture that Pillow has decoded."""
    if image.format == "TIFF":
        tags = image.tag_v2
        return _tiff_samples(image), _tiff_ranges(tags), tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if image.format == "PNG":
        return *_png_samples_and_range(image, path.read_bytes()), False
    scaled = image.format in ("JPEG2000", "PPM") and image.mode[0] == "I"  # by Pillow, from what the file declares
    return np.asarray(image) if image.mode[0] in "IF" else None, [(0, 65535)] if scaled else [], False


def _tiff_samples(image: Image.Image) -> np.ndarray | None:
    bits, sample_format = _tiff_type(image.tag_v2)
    if image.mode == "L" and sample_format == SIGNED:
        return np.asarray(image).view(np.int8)  # which Pillow takes for unsigned ones
    if image.mode[0] in "IF":
        return np.asarray(image).view(np.uint32) if (bits, sample_format) == (32, UNSIGNED) else np.asarray(image)
    if bits == 16 and max(high for _, high in image.getextrema()[:3]) < 64:
        # of several channels Pillow keeps the upper 8 bits alone
        raise ValueError("its colours are of 16 bits, but the upper two of them are not in use")
    return None


def _tiff_type(tags) -> tuple[int, int]:
    return max(tags.get(BITS, (1,))), tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0]


def _tiff_ranges(tags) -> list[tuple[float, float]]:
    bits, sample_format = _tiff_type(tags)
    largest = {UNSIGNED: 2**bits - 1, SIGNED: 2 ** (bits - 1) - 1}.get(sample_format, np.inf)
    ranges = [(np.min(tags.get(low, 0)), np.max(tags[high])) for low, high in RANGES if high in tags]
    ranges = [(float(low), float(high)) for low, high in ranges if high < largest]
    return ranges + ([(0, largest)] if 8 < bits < 16 else [])


def _png_samples_and_range(image: Image.Image, data: bytes) -> tuple[np.ndarray | None, list[tuple[float, float]]]:
    chunks, place = {}, 8
    while place + 8 <= len(data) and b"IDAT" not in chunks:
        length, name = struct.unpack_from(">I4s", data, place)
        chunks[name] = data[place + 8 : place + 8 + length]
        place += 12 + length
    if chunks[b"IHDR"][8] < 16:  # bits a sample
        return None, []
    ranges = [(0, 2 ** max(chunks[b"sBIT"]) - 1)] if 0 < max(chunks.get(b"sBIT", b"\0")) < 16 else []
    if image.mode[0] == "I":
        return np.asarray(image), ranges
    # of several channels Pillow keeps the upper 8 bits alone
    import torch
    from torchvision.io import ImageReadMode, decode_png

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return decode_png(encoded, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy(), ranges


def _eight_bit_image(decoded: _Decoded) -> tuple[Image.Image, str]:
    """Samples of any depth as a picture of 8 bits, by the rules above, and a note of them."""
    samples = decoded.samples[..., None] if decoded.samples.ndim == 2 else decoded.samples  # (H, W, C)
    colours = samples if samples.shape[2] in (1, 3) else samples[..., :-1]
    smallest, largest = colours.min().item(), colours.max().item()
    if not np.isfinite([smallest, largest]).all():
        raise ValueError("some of its samples are not finite (NaN or infinity): replace them")
    low, high = _range(colours, decoded.declared)
    layers = [255 - _scaled(colours, low, high) if decoded.white_is_zero else _scaled(colours, low, high)]
    if colours is not samples:
        alpha = samples[..., -1:]
        layers.append(_scaled(alpha, *_range(alpha, [])))
    elif "transparency" in decoded.image.info:  # the samples of one colour
        visible = (samples != np.array(decoded.image.info["transparency"])).any(2, keepdims=True)
        layers.append(np.where(visible, np.uint8(255), np.uint8(0)))
    pixels = np.concatenate(layers, axis=2)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return image, f"values {smallest:g} to {largest:g} on a scale from {low:g} to {high:g}"


def _range(samples: np.ndarray, declared: list[tuple[float, float]]) -> tuple[float, float]:
    """What black and white are."""
    smallest, largest = samples.min().item(), samples.max().item()
    for low, high in declared:
        if low <= smallest and largest <= high:
            return low, high
    whole = samples.dtype.kind in "iu" or (samples == np.rint(samples)).all()
    if smallest >= 0 and (largest <= 1 or (whole and largest <= WHITE[-1])):
        return 0, next(white for white in WHITE if largest <= white)
    return smallest, largest


def _scaled(samples: np.ndarray, low: float, high: float) -> np.ndarray:
    """Samples from `low` to `high` as uint8, a few rows at a time, since each takes eight bytes on the way."""
    step = (high - low or 1) / 255
    rows = np.array_split(samples, max(1, samples.size // 1_000_000))
    return np.concatenate([np.rint((part.astype(np.float64) - low) / step).astype(np.uint8) for part in rows])
