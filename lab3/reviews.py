"""Sentences about films with their polarity: Rotten Tomatoes' snippets, and a small grammar's sentences (synthetic).

Letters: N sentences.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

CLASSES = ("negative", "positive")
DATASETS = ("grammar", "rotten_tomatoes")
FILES = ("rt-polarity.neg", "rt-polarity.pos")  # in the order of CLASSES
OF_EACH_CLASS = {"train": 4265, "val": 533, "test": 533}  # sentences of Rotten Tomatoes, in this order in a file
SOURCE = (
    "Pang and Lee's sentence polarity dataset v1.0 (rt-polaritydata.tar.gz, "
    "http://www.cs.cornell.edu/people/pabo/movie-review-data/)"
)

GRAMMAR_SIZES = {"train": 2000, "val": 500, "test": 500}
GRAMMAR_SEED = 0
TOPICS = ("acting", "story", "script", "music", "ending", "dialogue", "cast", "pacing", "humour", "camera work")
VERBS = ("is", "was", "seems")
GOOD = ("good", "moving", "clever", "funny", "fresh", "elegant", "gripping", "tender", "witty", "lively", "subtle")
BAD = ("bad", "dull", "clumsy", "stale", "silly", "tedious", "shallow", "lifeless", "noisy", "predictable", "hollow")
INTENSIFIERS = ("", "", "very", "really", "quite", "truly")
NEGATIONS = ("not", "never", "hardly")
NEGATED = 0.4  # of the clauses
CONTRASTED = 0.5  # of the sentences: a second clause says the opposite, and does not count
JOINED = 0.25  # a second clause says the same


class Part(NamedTuple):
    """Sentences with their classes (N), as indices of CLASSES."""

    texts: list[str]
    labels: Tensor


@dataclass(frozen=True)
class Reviews:
    """Sentences in three parts, with as many of each class in each of them."""

    name: str
    source: str  # "real" or "synthetic"
    train: Part
    val: Part
    test: Part

    def describe(self) -> dict:
        """The `data` entry of a result file."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        digest = hashlib.blake2b(digest_size=8)
        for part in parts.values():
            digest.update("\n".join(part.texts).encode() + bytes(part.labels.tolist()))
        sizes = {name: len(part.texts) for name, part in parts.items()}
        names = {"name": self.name, "source": self.source, "digest": digest.hexdigest()}
        return names | {"sizes": sizes, "classes": list(CLASSES)}


def load(name: str, root: str | Path = "data") -> Reviews:
    """One of DATASETS; Rotten Tomatoes is read from `root`/rotten_tomatoes.

    Raises FileNotFoundError that says where the data come from, or ValueError for files of another form.
    """
    if name == "grammar":
        return from_grammar()
    return read_rotten_tomatoes(Path(root) / "rotten_tomatoes")


def subset(part: Part, count: int, seed: int) -> Part:
    """So many sentences at random (0: all), half of each class: with one seed a smaller subset is part of a larger one.

    Raises ValueError for an odd number, or for more than there are.
    """
    if count % 2 or count > len(part.labels):
        raise ValueError(f"--labels is {count}, but must be even and at most {len(part.labels):,}")
    generator = torch.Generator().manual_seed(seed)
    members = [(part.labels == label).nonzero().flatten() for label in range(len(CLASSES))]
    shuffled = [each[torch.randperm(len(each), generator=generator)] for each in members]
    indices = torch.stack(shuffled, 1).flatten()[: count or None]  # the classes take turns
    return Part([part.texts[index] for index in indices.tolist()], part.labels[indices])


# --- Rotten Tomatoes ---------------------------------------------------------------------------------


def read_rotten_tomatoes(folder: Path) -> Reviews:
    """Pang and Lee's 10,662 sentences (2005), 8,530 of them to train, 1,066 to validate and 1,066 to test.

    Raises FileNotFoundError or ValueError that names the file and says where it comes from.
    """
    lines = [read_lines(folder / name) for name in FILES]
    parts, start = {}, 0
    for part, size in OF_EACH_CLASS.items():
        texts = [text for of_class in lines for text in of_class[start : start + size]]
        parts[part] = Part(texts, torch.arange(len(CLASSES)).repeat_interleave(size))
        start += size
    return Reviews("rotten_tomatoes", "real", **parts)


def read_lines(path: Path) -> list[str]:
    """The sentences of one class, one on each line: in UTF-8, or in Latin-1 as they were published."""
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}: unpack {SOURCE} there, or give its folder's parent as --data_root"
        )
    data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    # str.splitlines would also split at characters such as U+0085, which is within sentences
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    expected = sum(OF_EACH_CLASS.values())
    if len(lines) != expected or not all(lines):
        raise ValueError(f"{path} has {sum(map(bool, lines)):,} sentences, but must have {expected:,}: unpack {SOURCE}")
    return lines


# --- a small grammar ---------------------------------------------------------------------------------


def from_grammar() -> Reviews:
    """3,000 different sentences, the classes by turns, whose polarity the grammar knows.

    A negation turns an adjective round, and what a sentence concedes does not count: "although the cast is witty, the
    story is not very moving" is negative. So the words alone, without their order, do not tell.
    """
    generator, seen = random.Random(GRAMMAR_SEED), set()
    parts = {}
    for name, size in GRAMMAR_SIZES.items():
        texts, labels = [], [index % 2 for index in range(size)]
        for label in labels:
            text = sentence(generator, bool(label))
            while text in seen:
                text = sentence(generator, bool(label))
            seen.add(text)
            texts.append(text)
        parts[name] = Part(texts, torch.tensor(labels))
    return Reviews("grammar", "synthetic", **parts)


def sentence(generator: random.Random, positive: bool) -> str:
    main, kind = clause(generator, positive), generator.random()
    if kind < CONTRASTED:
        conceded = clause(generator, not positive)
        return generator.choice(
            (f"{conceded} , but {main}", f"although {conceded} , {main}", f"{main} , even if {conceded}")
        )
    return f"{main} and {clause(generator, positive)}" if kind < CONTRASTED + JOINED else main


def clause(generator: random.Random, positive: bool) -> str:
    negated = generator.random() < NEGATED
    adjective = generator.choice(GOOD if positive != negated else BAD)
    negation = generator.choice(NEGATIONS) if negated else ""
    words = ("the", generator.choice(TOPICS), generator.choice(VERBS), negation, generator.choice(INTENSIFIERS))
    return " ".join(word for word in (*words, adjective) if word)
