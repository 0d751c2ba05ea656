"""Sentences of a small English grammar, and their translation into an invented language by known rules: synthetic.

The rules: the verb goes to the end; adjectives follow their noun and agree with it in number; "near" follows what it
governs; past tense, plural and negation are affixes or particles. So a translator has to move words and carry number
from one to another, and what is right is known.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

NOUNS = {
    "dog": "mura", "cat": "siva", "bird": "tilo", "horse": "renka", "child": "pelu", "king": "dorva", "farmer": "hanto",
    "queen": "isma", "sailor": "vesko", "tree": "olda", "house": "kemi", "boat": "narro", "river": "sulu",
    "garden": "yata", "bridge": "pondu", "letter": "lemi",
}  # fmt: skip
PLURALS = {"child": "children"}
ADJECTIVES = {
    "old": "veta", "young": "nimi", "red": "rusa", "small": "piku", "large": "gorda", "quiet": "hus", "happy": "joli",
    "strange": "odra",
}  # fmt: skip
VERBS = {  # present of one, of several, past
    ("sees", "see", "saw"): "vid", ("finds", "find", "found"): "trov", ("likes", "like", "liked"): "lub",
    ("draws", "draw", "drew"): "ris", ("follows", "follow", "followed"): "sek", ("knows", "know", "knew"): "ken",
    ("loses", "lose", "lost"): "perd", ("visits", "visit", "visited"): "bes",
}  # fmt: skip
DETERMINERS = {  # with what they are in the other language, and whether they are plural
    "the": ("", False), "a": ("un", False), "two": ("du", True), "many": ("mul", True), "these": ("ti", True),
}  # fmt: skip
NEAR, NOT, PAST, PLURAL = "apu", "ne", "ka", "i"


class Phrase(NamedTuple):
    """A noun with its determiner and perhaps an adjective, and what it is near, in both languages."""

    english: str
    other: str
    plural: bool


def _phrase(rng: np.random.Generator, depth: int = 0) -> Phrase:
    determiner = _pick(rng, DETERMINERS)
    particle, plural = DETERMINERS[determiner]
    noun, adjective = _pick(rng, NOUNS), _pick(rng, ADJECTIVES) if rng.random() < 0.5 else ""
    if determiner == "the":
        plural = bool(rng.random() < 0.3)
    ending = PLURAL if plural else ""
    words = [("an" if determiner == "a" and (adjective or noun)[0] in "aeiou" else determiner), adjective]
    english = [*words, PLURALS.get(noun, f"{noun}s") if plural else noun]
    other = [particle, NOUNS[noun] + ending, ADJECTIVES[adjective] + ending if adjective else ""]
    if depth == 0 and rng.random() < 0.25:
        near = _phrase(rng, depth + 1)
        english += ["near", near.english]
        other = [near.other, NEAR, *other]
    return Phrase(" ".join(filter(None, english)), " ".join(filter(None, other)), plural)


def _pick(rng: np.random.Generator, words: dict):
    return list(words)[rng.integers(len(words))]


def _sentence(rng: np.random.Generator) -> tuple[str, str]:
    subject, thing, verb = _phrase(rng), _phrase(rng), _pick(rng, VERBS)
    past, negated = rng.random() < 0.4, rng.random() < 0.3
    if negated:
        english = f"{'did' if past else 'do' if subject.plural else 'does'} not {verb[1]}"
    else:
        english = verb[2] if past else verb[1] if subject.plural else verb[0]
    other = f"{NOT} " * negated + (PAST if past else "") + VERBS[verb]
    return f"{subject.english} {english} {thing.english}.", f"{subject.other} {thing.other} {other}."


def translations(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """So many different sentences with their translations, the same for the same seed, the first ones for fewer."""
    rng, found = np.random.default_rng(seed), {}
    while len(found) < count:
        english, other = _sentence(rng)
        found.setdefault(english, other)
    return list(itertools.islice(found.items(), count))
