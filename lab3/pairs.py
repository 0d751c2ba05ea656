"""Sentences and their translations: Multi30k, or those of the embedded grammar; their subwords, and batches of them.

Letters: B batch, S tokens of a source sentence, N tokens of a target sentence.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

import utils
from synthetic.translation import translations

PARTS = {"train": "train", "val": "val", "test": "test_2016_flickr"}  # as Multi30k calls them
TOY_SIZES = {"train": 4000, "val": 300, "test": 300}
LARGEST = 2**24  # bytes of one file, unpacked: eight times the largest of Multi30k
PAD, START, STOP = range(3)
SPECIAL = ("<pad>", "<s>", "</s>")
POOL = 50  # batches among which sentences are sorted by length


class Pairs(NamedTuple):
    """Sentences, and the translation of each."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Pairs in three parts."""

    name: str
    source: str  # "real" or "synthetic"
    languages: tuple[str, str]
    train: Pairs
    val: Pairs
    test: Pairs

    def describe(self) -> dict:
        """The `data` entry of a result file."""
        parts = {part: getattr(self, part) for part in PARTS}
        digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()
        sizes = {part: len(pairs.sources) for part, pairs in parts.items()}
        names = {"name": self.name, "source": self.source, "digest": digest}
        return names | {"sizes": sizes, "languages": list(self.languages)}


def load_corpus(name: str, root: str | Path = "data") -> Corpus:
    """`toy`: sentences of a grammar, in an invented language (synthetic); `multi30k`: English to German.

    Raises FileNotFoundError that says how to fetch Multi30k, or ValueError for a damaged file.
    """
    if name == "toy":
        every = translations(sum(TOY_SIZES.values()))
        cuts = itertools.pairwise(itertools.accumulate(TOY_SIZES.values(), initial=0))
        parts = [Pairs(*zip(*every[start:stop], strict=True)) for start, stop in cuts]
        return Corpus("toy", "synthetic", ("English", "an invented language"), *parts)
    folder = Path(root) / "multi30k"
    parts = [Pairs(*(_lines(folder / f"{part}.{language}.gz") for language in ("en", "de"))) for part in PARTS.values()]
    for part, pairs in zip(PARTS.values(), parts, strict=True):
        if len(pairs.sources) != len(pairs.targets):
            counts = " and ".join(str(len(sentences)) for sentences in pairs)
            raise ValueError(f"{part} in {folder} has {counts} sentences: {_fetch(folder)}")
    return Corpus("multi30k", "real", ("English", "German"), *parts)


def _lines(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: {_fetch(path.parent)}, or use `--dataset toy`, made offline")
    try:
        with gzip.open(path) as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"it holds more than {LARGEST:,} bytes")
        return tuple(line.strip() for line in data.decode().splitlines() if line.strip())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and {_fetch(path.parent)}") from error


def _fetch(folder: Path) -> str:
    root = folder.parent
    return "run `python download_multi30k.py" + ("`" if str(root) == "data" else f" --root {root}`")


def train_vocabulary(pairs: Pairs, size: int) -> Tokenizer:
    """One vocabulary of subwords for both languages: byte-pair encoding (Sennrich et al. 2016), of these pairs alone.

    Of bytes, so that every text can be written and comes back as it was.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((*pairs.sources, *pairs.targets), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, sentences: tuple[str, ...], start: bool = False) -> list[list[int]]:
    """The tokens of each sentence with STOP at the end, and START before them if asked for."""
    found = tokenizer.encode_batch(list(sentences))
    return [[START] * start + each.ids + [STOP] for each in found]


def decode(tokenizer: Tokenizer, tokens: list[int]) -> str:
    return tokenizer.decode(tokens).strip()


def padded(sentences: list[list[int]]) -> Tensor:
    """Sentences of tokens as rows (B, the longest), with PAD behind the shorter ones."""
    rows = [torch.tensor(sentence) for sentence in sentences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


class PairBatches:
    """Shuffled batches of sources (B, S) and targets (B, N), of sentences of about one length, for `utils.fit`.

    In each epoch sentences are shuffled, sorted by length within pools of some batches, and the batches shuffled.
    """

    def __init__(self, sources: list[list[int]], targets: list[list[int]], batch_size: int, seed: int):
        self.sources, self.targets, self.batch_size, self.seed = sources, targets, batch_size, seed
        self.lengths = np.array([len(source) + len(target) for source, target in zip(sources, targets, strict=True)])

    def __len__(self) -> int:
        return math.ceil(len(self.sources) / self.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(utils.derived_seed(self.seed, epoch))
        order = rng.permutation(len(self.sources))
        pools = np.split(order, range(POOL * self.batch_size, len(order), POOL * self.batch_size))
        by_length = [pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools]
        size = self.batch_size
        batches = [pool[start : start + size] for pool in by_length for start in range(0, len(pool), size)]
        for number in rng.permutation(len(batches)):
            yield tuple(padded([part[i] for i in batches[number]]) for part in (self.sources, self.targets))
