"""Sentences with their polarity: Rotten Tomatoes' split, nested subsets, the grammar against a reading of its own."""

import re

import pytest
import torch

import records
from lab3 import reviews

DATA = records.ROOT.parent / "shared" / "data"


def write_files(root, change=lambda lines: lines, encoding="utf-8"):
    """Two files of 5,331 numbered sentences; of the positive ones `change` may alter the list."""
    folder = root / "rotten_tomatoes"
    folder.mkdir()
    for name in ("neg", "pos"):
        lines = [f"{name} {index} " for index in range(5331)]
        lines = change(lines) if name == "pos" else lines
        (folder / f"rt-polarity.{name}").write_bytes(("\n".join(lines) + "\n").encode(encoding))


def test_each_part_has_its_lines_of_both_files(tmp_path):
    write_files(tmp_path)
    data = reviews.load("rotten_tomatoes", tmp_path)
    for part, first, size in ((data.train, 0, 4265), (data.val, 4265, 533), (data.test, 4798, 533)):
        assert part.texts == [f"{name} {first + index}" for name in ("neg", "pos") for index in range(size)]
        assert part.labels.tolist() == [text.startswith("pos") for text in part.texts]
    assert data.describe()["sizes"] == {"train": 8530, "val": 1066, "test": 1066}
    assert data.source == "real"


def test_another_sentence_or_label_gives_another_digest(tmp_path):
    data = reviews.load("grammar")
    swapped = reviews.Part(data.val.texts[1::-1] + data.val.texts[2:], data.val.labels)
    relabelled = reviews.Part(data.val.texts, 1 - data.val.labels)
    digests = [
        reviews.Reviews("grammar", "synthetic", data.train, val, data.test).describe()["digest"]
        for val in (data.val, swapped, relabelled)
    ]
    assert len(set(digests)) == 3
    assert digests[0] == reviews.load("grammar").describe()["digest"]


def test_the_original_in_latin_1_is_read_too(tmp_path):
    # in Latin-1 the byte 0x85 is a control character at which str.splitlines would cut
    write_files(tmp_path, lambda lines: ["a d\xe9j\xe0-vu \x85 film", *lines[1:]], "latin-1")
    assert reviews.load("rotten_tomatoes", tmp_path).train.texts[4265] == "a déjà-vu \x85 film"


@pytest.mark.parametrize(
    "change", [lambda lines: lines[:-1], lambda lines: [*lines, "one"], lambda lines: ["", *lines[1:]]]
)
def test_files_of_another_length_are_refused(tmp_path, change):
    write_files(tmp_path, change)
    with pytest.raises(ValueError, match=r"rt-polarity.pos has 5,33\d sentences, but must have 5,331: .*Pang and Lee"):
        reviews.load("rotten_tomatoes", tmp_path)


def test_missing_files_are_named_with_their_source(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*rt-polarity.neg: .*rt-polaritydata.tar.gz.*--data_root"):
        reviews.load("rotten_tomatoes", tmp_path)


@pytest.mark.real_data
def test_the_real_files():
    if not DATA.exists():
        pytest.skip(f"{DATA} is not there")
    data = reviews.load("rotten_tomatoes", DATA)
    assert data.train.texts[4265].startswith("the rock is destined to be the 21st century's new")
    assert data.describe()["sizes"] == {"train": 8530, "val": 1066, "test": 1066}
    assert data.train.labels.bincount().tolist() == [4265, 4265]


def test_subsets_are_balanced_and_nested():
    part = reviews.Part([str(index) for index in range(60)], torch.arange(2).repeat_interleave(30))
    previous = set()
    for count in (2, 10, 32, 0):
        texts, labels = reviews.subset(part, count, seed=3)
        assert labels.bincount().tolist() == [(count or 60) // 2] * 2
        assert labels.tolist() == [int(text) >= 30 for text in texts]  # each keeps its own label
        assert len(set(texts)) == (count or 60)
        assert previous < set(texts)
        previous = set(texts)
    assert reviews.subset(part, 10, seed=3).texts == reviews.subset(part, 10, seed=3).texts
    assert set(reviews.subset(part, 10, seed=3).texts) != set(reviews.subset(part, 10, seed=4).texts)


@pytest.mark.parametrize("count", [7, 62])
def test_a_subset_that_cannot_be_had_is_refused(count):
    part = reviews.Part(["x"] * 60, torch.arange(2).repeat_interleave(30))
    with pytest.raises(ValueError, match=f"--labels is {count}, but must be even and at most 60"):
        reviews.subset(part, count, seed=0)


# --- the grammar -------------------------------------------------------------------------------------


def polarity(text):
    """Whether a sentence of the grammar is positive, read from its words alone."""
    if text.startswith("although"):
        text = text.split(" , ")[1]
    text = text.split(" , even if ")[0].split(" , but ")[-1]
    found = set()
    for clause in re.split(r" and (?=the )", text):
        words = clause.split()
        praise = {
            "good",
            "moving",
            "clever",
            "funny",
            "fresh",
            "elegant",
            "gripping",
            "tender",
            "witty",
            "lively",
            "subtle",
        }
        found.add((words[-1] in praise) ^ bool({"not", "never", "hardly"} & set(words)))
    assert len(found) == 1, text
    return found.pop()


def test_the_grammar_says_what_its_sentences_say():
    data = reviews.load("grammar")
    assert data.source == "synthetic"
    every = [data.train, data.val, data.test]
    assert [len(part.texts) for part in every] == [2000, 500, 500]
    assert len({text for part in every for text in part.texts}) == 3000
    for part in every:
        assert part.labels.tolist() == [polarity(text) for text in part.texts]
        assert part.labels.bincount().tolist() == [len(part.texts) // 2] * 2
    joined = " ".join(data.train.texts)
    assert all(
        f" {word} " in joined for word in ("although", "but", "even", "and", "never", "really", "witty", "hollow")
    )


def test_words_without_their_order_do_not_tell_the_grammars_polarity():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    data = reviews.load("grammar")
    words = CountVectorizer()
    features = words.fit_transform(data.train.texts)
    scores = LogisticRegression(max_iter=1000).fit(features, data.train.labels)
    assert 0.45 < scores.score(words.transform(data.test.texts), data.test.labels) < 0.65
