"""The 35 characters that speech is written with, and how any transcript becomes a row of them."""

from __future__ import annotations

import unicodedata

VOCABULARY = tuple("<>@# ,.?-abcdefghijklmnopqrstuvwxyz")
START, STOP, EMPTY, UNKNOWN = range(4)  # EMPTY pads a batch, and is CTC's blank
MAX_TOKENS = 200  # with START and STOP; LJ Speech's longest transcript has 187 characters

_IDS = {character: index for index, character in enumerate(VOCABULARY)}
_WRITTEN = frozenset(VOCABULARY[UNKNOWN + 1 :])  # what a transcript may hold beside the unknown character
_DROPPED = "'\"`;:()[]!“”„‟‘’‚‛«»‹›"  # punctuation that nobody hears, so that it is not to be predicted  # noqa: RUF001
_MARKS = ("Mn", "Me")  # categories of accents, and of what else only shapes the character before
_REPLACED = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-") | dict.fromkeys(_DROPPED, ""))  # noqa: RUF001


def normalise(text: str) -> str:
    """What targets and references both go through: the text in the 31 written characters and `#`.

    Lower case, accents folded (é to e), dashes to `-`, unpredicted punctuation and invisible characters dropped, runs
    of white space made one space, none at the ends. Whatever is still not in the vocabulary becomes `#`, and so do
    `<`, `>` and `@`.
    """
    # NFKD: é is e and an accent, … is three full stops, ﬁ is two letters
    decomposed = unicodedata.normalize("NFKD", text).lower().translate(_REPLACED)
    letters = (c for c in visible(decomposed) if not (unicodedata.combining(c) or unicodedata.category(c) in _MARKS))
    written = (c if c in _WRITTEN or c.isspace() else VOCABULARY[UNKNOWN] for c in letters)
    return " ".join("".join(written).split())


def visible(text: str) -> str:
    """The text without format characters: soft hyphens, spaces of no width, byte-order marks and the like."""
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


def encode(text: str) -> list[int]:
    """START, the characters of the normalised text, STOP."""
    return [START, *(_IDS[character] for character in normalise(text)), STOP]


def decode(ids: list[int]) -> str:
    """The characters up to the first STOP, START and EMPTY left out."""
    ids = list(ids)
    spoken = ids[: ids.index(STOP)] if STOP in ids else ids
    return "".join(VOCABULARY[i] for i in spoken if i not in (START, EMPTY))
