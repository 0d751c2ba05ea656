"""Homework 3's pictures of words: random letters, drawn. All of it is synthetic.

Letters: W width of an image in pixels, n letters of a word.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import Dataset

ALPHABET_SIZE = 27  # a to z, and what lies between two letters
BETWEEN = 26
HEIGHT, LETTER_WIDTH = 32, 18  # pixels
FONT_SIZE, TOP, LARGEST_JITTER = 20, 5, 7
NOISE = 0.1  # share of the pixels that noise turns on
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FONT = str(FONTS / "DejaVuSansMono.ttf")  # ships with matplotlib


@functools.cache
def load_font(path: str = FONT) -> ImageFont.FreeTypeFont:
    """Raises ValueError for a font with a letter that is wider than its share of an image."""
    font = ImageFont.truetype(path, FONT_SIZE)
    widest = max(font.getlength(letter) for letter in string.ascii_lowercase)
    if widest > LETTER_WIDTH:
        raise ValueError(f"{path}: a letter is {widest:.1f} pixels wide, but must fit {LETTER_WIDTH}")
    return font


class SimpleWordsDataset(Dataset):
    """`len` pairs of an image (32, 18 n), of zeros and ones, and the word of n = `max_length` letters that it shows.

    `jitter` moves the text by 0 to 7 pixels, `noise` turns a tenth of all pixels on. Item i is a function of `seed`
    and i; without a seed everything is drawn anew each time.
    """

    def __init__(
        self,
        max_length: int,
        len: int = 100,
        jitter: bool = False,
        noise: bool = False,
        seed: int | None = None,
        font: str = FONT,
    ):
        self.max_length, self.len, self.jitter, self.noise, self.seed = max_length, len, jitter, noise, seed
        self.font = load_font(font)

    def __len__(self) -> int:
        return self.len

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        if not 0 <= index < self.len:
            raise IndexError(index)  # so that iteration ends
        rng = self._generator(index)
        text = self.random_text(rng)
        return self.draw_text(text, rng=rng), text

    def random_text(self, rng: np.random.Generator) -> str:
        return "".join(rng.choice(list(string.ascii_lowercase), self.max_length))

    def draw_text(self, text: str, length: int | None = None, rng: np.random.Generator | None = None) -> Tensor:
        """An image (32, `length`), by default (32, 18 n), of a text."""
        rng = rng or self._generator(0)
        image = Image.new("L", (length or LETTER_WIDTH * len(text), HEIGHT))
        left = int(rng.integers(LARGEST_JITTER + 1)) if self.jitter else 0
        ImageDraw.Draw(image).text((left, TOP), text, fill=255, font=self.font)
        pixels = np.asarray(image) > 0
        if self.noise:
            pixels = pixels | (rng.random(pixels.shape) < NOISE)
        return torch.from_numpy(pixels.astype(np.float32))

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.default_rng(None if self.seed is None else [self.seed, index])


class DoubleLetters(SimpleWordsDataset):
    """Words whose second letter stands twice."""

    def random_text(self, rng: np.random.Generator) -> str:
        text = super().random_text(rng)
        return text[:2] + text[1] + text[3:]


class RealWords(SimpleWordsDataset):
    """Words of `most_frequent_words`, in images (32, 18 `max_length`) of one width."""

    def random_text(self, rng: np.random.Generator) -> str:
        return str(rng.choice(most_frequent_words()))

    def draw_text(self, text: str, length: int | None = None, rng: np.random.Generator | None = None) -> Tensor:
        return super().draw_text(text, length or LETTER_WIDTH * self.max_length, rng)


@functools.cache
def most_frequent_words(count: int = 2000) -> tuple[str, ...]:
    """The most frequent words of 2 to 12 lower-case letters in Python's documentation, which comes with Python."""
    from pydoc_data.topics import topics

    words = re.findall(r"(?<![\w.])[a-z]{2,12}(?![\w.(])", " ".join(topics.values()))
    return tuple(word for word, _ in Counter(words).most_common(count))


def transform_word(s: str) -> Tensor:
    """The codes of a word (2 n): each letter, from 0 to 25, and BETWEEN after it."""
    if not s or set(s) - set(string.ascii_lowercase):
        raise ValueError(f"{s!r} is not made of the letters a to z")
    return torch.tensor([code for letter in s for code in (string.ascii_lowercase.index(letter), BETWEEN)])


def indices_to_str(indices: Iterable[int] | Tensor) -> str:
    """Codes from 0 to 26 as text, with _ for BETWEEN."""
    return "".join((string.ascii_lowercase + "_")[int(index)] for index in indices)


def collapse(indices: Iterable[int] | Tensor) -> str:
    """The word that a sequence of codes stands for: each run of one letter once, without BETWEEN."""
    text = indices_to_str(indices)
    return "".join(letter for letter, before in zip(text, "_" + text, strict=False) if letter not in (before, "_"))


def collate_fn(samples: list[tuple[Tensor, str]]) -> tuple[Tensor, Tensor]:
    """Images (B, 32, W) and codes (B, T) of several words; shorter ones end in empty pixels and in BETWEEN."""
    images, codes = zip(*((image, transform_word(text)) for image, text in samples), strict=True)
    width, length = max(image.shape[1] for image in images), max(map(len, codes))
    return (
        torch.stack([F.pad(image, (0, width - image.shape[1])) for image in images]),
        torch.stack([F.pad(word, (0, length - len(word)), value=BETWEEN) for word in codes]),
    )
