"""The scores of transcripts against hand-worked cases, brute force, textdistance and scipy."""

import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats
import textdistance

from asr.metrics import character_error_rate, cosine, damerau_levenshtein, jaccard, score, word_error_rate

SIMILARITIES = [jaccard, cosine, damerau_levenshtein]
RATES = [word_error_rate, character_error_rate]
NAMES = ["jaccard", "cosine", "damerau_levenshtein", "wer", "cer"]
SHORT_TEXTS = ["".join(letters) for length in range(4) for letters in itertools.product("abc", repeat=length)]
PAIRS = [pair for pair in itertools.product(SHORT_TEXTS, repeat=2) if all(pair)]  # 39 * 39, none empty


# --- brute force -------------------------------------------------------------------------------------


def common(reference, hypothesis):
    """How many characters can be crossed out in both texts."""
    left = list(hypothesis)
    crossed = 0
    for letter in reference:
        if letter in left:
            left.remove(letter)
            crossed += 1
    return crossed


def edits(reference, hypothesis, swaps):
    """The fewest edits, by trying each of them at the front; with `swaps`, two neighbours may change places."""
    if not reference or not hypothesis:
        return len(reference) + len(hypothesis)
    tries = [
        edits(reference[1:], hypothesis, swaps) + 1,
        edits(reference, hypothesis[1:], swaps) + 1,
        edits(reference[1:], hypothesis[1:], swaps) + (reference[0] != hypothesis[0]),
    ]
    if swaps and len(reference) > 1 and reference[:2] == hypothesis[1::-1]:
        tries.append(edits(reference[2:], hypothesis[2:], swaps) + 1)
    return min(tries)


# --- similarities ------------------------------------------------------------------------------------


@pytest.mark.equation("eq:jaccard")
@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("night", "nacht", 3 / 7),  # common n h t; all of n i g h t a c
        ("aab", "abb", 2 / 4),  # common a b; all of a a b b: repetitions count (as sets it would be 1)
        ("abcd", "a", 1 / 4),
        ("ab", "cd", 0),
        ("listen", "silent", 1),
    ],
)
def test_jaccard_by_hand(reference, hypothesis, expected):
    assert jaccard(reference, hypothesis) == pytest.approx(expected, abs=1e-12)


@pytest.mark.equation("eq:cosine")
@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("night", "nacht", 3 / 5),  # 3 in common, 5 and 5 long
        ("aab", "abb", 2 / 3),  # as vectors of counts, (2, 1) and (1, 2), it would be 4/5; as sets, 1
        ("abcd", "a", 1 / 2),  # 1 / √(4 · 1)
        ("ab", "cd", 0),
        ("listen", "silent", 1),
    ],
)
def test_cosine_by_hand(reference, hypothesis, expected):
    assert cosine(reference, hypothesis) == pytest.approx(expected, abs=1e-12)


@pytest.mark.equation("eq:damerau-levenshtein")
@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the", "teh", 1 - 1 / 3),  # one swap, which would be two edits for Levenshtein
        ("kitten", "sitting", 1 - 3 / 7),  # k -> s, e -> i, + g
        ("listen", "silent", 1 - 4 / 6),  # l -> s, s -> l, - t, + t: order counts
        ("abcd", "a", 1 - 3 / 4),
        ("a", "abcd", 1 - 3 / 4),
        ("ab", "cd", 0),
        ("ca", "abc", 0),  # 3 edits; if what was swapped could be edited again 2: ca -> ac -> abc
        ("a b", "ab ", 1 - 1 / 3),  # spaces are characters
    ],
)
def test_damerau_levenshtein_by_hand(reference, hypothesis, expected):
    assert damerau_levenshtein(reference, hypothesis) == pytest.approx(expected, abs=1e-12)


@pytest.mark.equation("eq:jaccard")
@pytest.mark.equation("eq:cosine")
@pytest.mark.equation("eq:damerau-levenshtein")
def test_similarities_by_brute_force():
    differ = 0
    for reference, hypothesis in PAIRS:
        shared, a, b = common(reference, hypothesis), len(reference), len(hypothesis)
        assert jaccard(reference, hypothesis) == pytest.approx(shared / (a + b - shared), abs=1e-12)
        assert cosine(reference, hypothesis) == pytest.approx(shared / math.sqrt(a * b), abs=1e-12)
        distance = edits(reference, hypothesis, swaps=True)
        assert damerau_levenshtein(reference, hypothesis) == pytest.approx(1 - distance / max(a, b), abs=1e-12)
        differ += distance != edits(reference, hypothesis, swaps=False)
    assert differ > 50  # pairs where a swap matters


@pytest.mark.equation("eq:damerau-levenshtein")
def test_damerau_levenshtein_is_textdistance_restricted():
    """The library of the course, without help from any optional package, on sentences."""
    plain = textdistance.DamerauLevenshtein(restricted=True, external=False).normalized_similarity
    generator = np.random.default_rng(0)
    for length in (1, 5, 20, 60, 60):
        reference = "".join(generator.choice(list("abc "), length))
        letters = list(reference)
        for place in generator.integers(max(length - 1, 1), size=length // 4):
            letters[place], letters[place + 1] = letters[place + 1], letters[place]
        hypothesis = "".join(letters) + "x"
        assert damerau_levenshtein(reference, hypothesis) == plain(reference, hypothesis)
    unrestricted = textdistance.DamerauLevenshtein(restricted=False, external=False)
    assert (unrestricted("ca", "abc"), damerau_levenshtein("ca", "abc")) == (2, plain("ca", "abc"))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_similarity_is_symmetric_and_1_for_the_same(similarity):
    for reference, hypothesis in PAIRS[::7]:
        assert similarity(reference, hypothesis) == similarity(hypothesis, reference)
        assert (similarity(reference, hypothesis) == 1) == (
            reference == hypothesis if similarity is damerau_levenshtein else sorted(reference) == sorted(hypothesis)
        )


# --- error rates -------------------------------------------------------------------------------------


@pytest.mark.equation("eq:wer")
@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat on the mat", "the cat sit on mat", 2 / 6),  # sat -> sit, - the
        ("a b", "a x b y z", 3 / 2),  # + x, + y, + z: more errors than words
        ("a b c d", "", 1),  # - a, - b, - c, - d
        ("on the mat", "on mat the", 2 / 3),  # a swap of words is two errors here
        ("the  cat ", "the cat", 0),  # spaces only part the words
        ("cat", "cats", 1),
    ],
)
def test_word_error_rate_by_hand(reference, hypothesis, expected):
    assert word_error_rate(reference, hypothesis) == pytest.approx(expected, abs=1e-12)


@pytest.mark.equation("eq:wer")
@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("abcd", "abxd", 1 / 4),
        ("a b", "ab", 1 / 3),  # a lost space is an error, out of three characters
        ("the", "teh", 2 / 3),  # a swap of characters is two errors here
        ("ab", "abcde", 3 / 2),
        (" ab", "ab ", 0),  # spaces at the ends are none
    ],
)
def test_character_error_rate_by_hand(reference, hypothesis, expected):
    assert character_error_rate(reference, hypothesis) == pytest.approx(expected, abs=1e-12)


@pytest.mark.equation("eq:wer")
def test_error_rates_by_brute_force():
    for reference, hypothesis in PAIRS:
        expected = pytest.approx(edits(reference, hypothesis, swaps=False) / len(reference), abs=1e-12)
        assert character_error_rate(reference, hypothesis) == expected
        assert word_error_rate(" ".join(reference), " ".join(hypothesis)) == expected


# --- empty texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_similarity_of_empty_texts(similarity):
    assert similarity("", "") == 1
    assert similarity("a b", "") == 0
    assert similarity("", "a b") == 0


@pytest.mark.parametrize("rate", RATES)
def test_error_rate_of_empty_texts(rate):
    assert rate("", "") == 0
    assert rate("a b", "") == 1
    assert rate("", "a b c d") == 1  # by definition: there is no length to divide by
    assert rate("", "a") == 1


def test_corpus_with_empty_texts():
    found = score(["", "a b", ""], ["x y z", "a b", ""])
    assert found["wer"]["values"] == [1, 0, 0]
    assert found["wer"]["mean"] == 3 / 2  # three insertions, two words
    assert found["cer"]["mean"] == 5 / 3  # five insertions, three characters
    assert found["cer"]["insertions"] == 5 / 3
    for name in ("jaccard", "cosine", "damerau_levenshtein"):
        assert found[name]["values"] == [0, 1, 1]


def test_corpus_of_empty_references():
    silent, wrong = score(["", ""], ["", ""]), score(["", ""], ["", "x"])
    assert [silent[name]["mean"] for name in NAMES] == [1, 1, 1, 0, 0]
    assert [wrong[name]["mean"] for name in NAMES] == [0.5, 0.5, 0.5, 1, 1]
    assert np.isfinite([found[name]["interval"] for found in (silent, wrong) for name in NAMES]).all()


# --- scores of a corpus ------------------------------------------------------------------------------


def corpus(errors, lengths):
    """References of `lengths` words, and hypotheses with so many of them wrong."""
    references = [" ".join("a" * length) for length in lengths]
    hypotheses = [" ".join("x" * wrong + "a" * (length - wrong)) for wrong, length in zip(errors, lengths, strict=True)]
    return references, hypotheses


@pytest.fixture(scope="module")
def uneven():
    """Errors and lengths (60,) of clips whose rates go with their lengths: a mean of rates would be far off."""
    generator = np.random.default_rng(3)
    lengths = generator.integers(1, 40, size=60)
    return generator.binomial(lengths, 0.8 / np.sqrt(lengths)), lengths


@pytest.mark.equation("eq:wer")
def test_rates_are_of_the_corpus_and_similarities_means_over_clips():
    # clip 1: 1 word of 1 wrong, 1 character of 1; clip 2: 9 words right, 17 characters
    found = score(["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"])
    assert list(found) == NAMES
    assert found["wer"]["values"] == found["cer"]["values"] == [1, 0]
    assert found["wer"]["mean"] == pytest.approx(1 / 10)
    assert found["cer"]["mean"] == pytest.approx(1 / 18)
    for name in ("jaccard", "cosine", "damerau_levenshtein"):
        assert found[name]["values"] == [0, 1]
        assert found[name]["mean"] == 0.5


def test_insertions_are_counted_apart():
    found = score(["abcd", "xyz"], ["abcde", "xy"])["cer"]  # one insertion, one deletion
    assert (found["mean"], found["insertions"]) == (2 / 7, 1 / 7)


def test_values_are_those_of_the_functions():
    references, hypotheses = zip(*PAIRS[::40], strict=True)
    found = score(list(references), list(hypotheses))
    for name, function in zip(NAMES, SIMILARITIES + RATES, strict=True):
        assert found[name]["values"] == [function(*pair) for pair in PAIRS[::40]]


def averaged_interval(name, errors, lengths):
    """Over seeds, so that the interval's own noise does not hide a wrong percentile."""
    return np.mean([score(*corpus(errors, lengths), seed)[name]["interval"] for seed in range(40)], axis=0)


@pytest.mark.parametrize("name", ["wer", "jaccard"])
def test_interval_is_scipys(uneven, name):
    def ratio(part, whole, axis):
        return part.sum(axis) / whole.sum(axis)

    parts, wholes = uneven
    if name == "jaccard":  # a mean is a ratio to the number of clips
        parts = np.array(score(*corpus(*uneven))["jaccard"]["values"])
        wholes = np.ones(len(parts))
    expected = scipy.stats.bootstrap(
        (parts, wholes), ratio, paired=True, vectorized=True, n_resamples=40_000, method="percentile", rng=1
    ).confidence_interval
    found = averaged_interval(name, *uneven)
    width = expected.high - expected.low
    assert width > 0.02  # there is something to get wrong
    np.testing.assert_allclose(found, [expected.low, expected.high], rtol=0, atol=0.025 * width)


def test_interval_holds_the_mean_and_shrinks_with_the_root_of_the_clips(uneven):
    few, many = score(*corpus(*uneven)), score(*corpus(*(np.tile(column, 16) for column in uneven)))
    for name in NAMES:
        (low, high), (lower, higher) = few[name]["interval"], many[name]["interval"]
        assert low < few[name]["mean"] < high
        assert few[name]["mean"] == pytest.approx(many[name]["mean"])
        assert (higher - lower) / (high - low) == pytest.approx(1 / 4, rel=0.15)


def test_one_clip_has_no_spread():
    found = score(["a b c d"], ["a b x d"])
    assert found["wer"] == {"mean": 0.25, "interval": [0.25, 0.25], "values": [0.25]}


def test_seed_decides_the_interval_alone(uneven):
    first, again, other = (score(*corpus(*uneven), seed=seed) for seed in (0, 0, 1))
    assert first == again == score(*corpus(*uneven))
    for name in NAMES:
        assert first[name]["interval"] != other[name]["interval"]
        assert first[name]["mean"] == other[name]["mean"]
        assert first[name]["values"] == other[name]["values"]


def test_scores_can_be_saved(uneven):
    found = score(*corpus(*uneven))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("references", "hypotheses", "complaint"),
    [
        (["a", "b"], ["a"], "2 references and 1 hypotheses"),
        (["a"], [], "1 references and 0 hypotheses"),
        ([], [], "no clips"),
    ],
)
def test_bad_lists_are_refused(references, hypotheses, complaint):
    with pytest.raises(ValueError, match=complaint):
        score(references, hypotheses)
