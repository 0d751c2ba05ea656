"""What the report says of Homework 4's runs turns with the numbers."""

import pytest

from publish import transformers_report as report
from records import mean_std
from tests.publish.test_assignments_report import Found


def model(kind, count, test, train=0.9, shuffled=False, shifted=(0.6, 0.5)):
    """One variant; `test` are the accuracies of its seeds, or the right answers of one."""
    right = {"test_right": test} if isinstance(test, str) else {}
    values = [test.count("1") / len(test)] if right else list(test)
    return right | {
        "settings": {"model": kind, "train_size": count, "shuffle_pixels": shuffled},
        "parameters": 1200 if kind == "vit" else 1100,
        "multiply_adds": 3_000_000,
        "metrics": {"test": {"accuracy": mean_std(values)}, "train": {"accuracy": mean_std([train])}},
        "shifted": [{"mean": each} for each in shifted],
    }


def study(few, many, **more):
    """A study with three seeds of `few` images and one of `many`: (vit, cnn) each."""
    found = {}
    for place, kind in enumerate(("vit", "cnn")):
        for way in ("moved", "as they are"):
            found[f"{kind}, 100, {way}"] = model(kind, 100, few[place])
            found[f"{kind}, 900, {way}"] = model(kind, 900, many[place], **more.get(kind, {}))
        found[f"{kind}, 100, shuffled"] = model(kind, 100, (0.2, 0.2, 0.2), shuffled=True)
    return found


SURE = ((0.30, 0.31, 0.32), (0.50, 0.51, 0.52))


@pytest.mark.parametrize(
    ("many", "words"),
    [
        ((60, 70), "$+20.0$ with 100, $+10.0$ with 900; it is largest with 100, and smaller, but not gone, with 900"),
        ((60, 61), "$+0.0$ with 900; with 900 images the Vision Transformer has caught up"),
        ((40, 70), "$+30.0$ with 900; within these sizes it does not shrink"),
        ((70, 40), "$-30.0$ with 900; with 900 images the Vision Transformer has caught up"),
    ],
)  # fmt: skip
def test_whether_the_transformer_catches_up(many, words):
    right = tuple("1" * count + "0" * (100 - count) for count in many)
    assert words in report.catching_up(study(SURE, right))


def test_seeds_that_cannot_tell_give_no_lead():
    close = study(((0.3, 0.5, 0.4), (0.31, 0.52, 0.42)), ("10", "10"))
    assert report.lead(close["vit, 100, moved"], close["cnn, 100, moved"]) == 0


@pytest.mark.parametrize(
    ("train", "words"), [(0.8, "mostly there on training images too"), (0.95, "one of generalisation")]
)
def test_what_the_gap_is_made_of(train, words):
    more = {"vit": {"train": train, "shifted": (0.6, 0.52)}, "cnn": {"train": 0.96, "shifted": (0.7, 0.69)}}
    said = report.what_the_gap_is(study(SURE, ("1" * 6 + "0" * 4, "1" * 8 + "0" * 2), **more))
    assert words in said
    assert "by $-11.0$ (the Vision Transformer) and $-31.0$ (the CNN)" in said
    assert "most changes by $-8.0$ (the Vision Transformer) and $-1.0$ (the CNN)" in said


def test_what_moving_images_adds():
    found = study(SURE, ("1" * 6 + "0" * 4, "1" * 8 + "0" * 2))
    found["vit, 900, moved"] = model("vit", 900, "1" * 7 + "0" * 3)
    assert (
        "with 100, 900 of them: $+0.0$, $+10.0$ for the Vision Transformer; $+0.0$, $+0.0$ for"
        in report.moving_helps(found)
    )


def test_the_table_and_what_was_not_run():
    rows = report.transformer_table(Found({"models": study(SURE, ("10", "11"))})).splitlines()
    assert rows[4:7] == [
        r"Vision Transformer & moved & $31.0\pm1.0$ & $50.0$ \\",
        r"CNN & moved & $51.0\pm1.0$ & $100.0$ \\",
        r"Vision Transformer & as they are & $31.0\pm1.0$ & $50.0$ \\",
    ]
    assert rows[8] == r"Vision Transformer & pixels shuffled & $20.0\pm0.0$ &  \\"
    for make in (report.transformer_table, report.look_ahead_table):
        assert make(Found(None)).startswith("(Not run here: ")
    assert report.transformers(Found(None))["hw4-compared"].startswith("(Not run here: ")


def test_the_table_of_a_limited_look_ahead():
    cer = {"mean": 0.25, "interval": [0.2, 0.3]}
    rows = [
        {"look_ahead": 2, "milliseconds_late": 1234, "cer": cer},
        {"look_ahead": None, "milliseconds_late": None, "cer": cer},
    ]
    found = Found({"rows": rows, "config": {"blocks": 4}, "data": {"source": "real", "sizes": {"test": 65}}})
    assert report.look_ahead_table(found).splitlines()[4:6] == [
        r"2 & 1.23 & 25.0 [20.0, 30.0] \\",
        r"all & the clip & 25.0 [20.0, 30.0] \\",
    ]
    assert report.limited_look(found)["hw4-look-ahead"].endswith("65 recorded clips (real)")


def test_answers_from_mnist_say_what_the_seeds_resolve():
    close, far = mean_std([0.98, 0.981, 0.979]), mean_std([0.95, 0.951, 0.949])
    said = report.compared("this", close, "that", far)
    assert said.startswith(r"accuracies are $98.00\pm0.10$\,\% (this) and $95.00\pm0.10$\,\% (that): ")
    assert "the former is better by 3.00 points" in said
    assert report.compared("this", close, "that", close).endswith("which the seeds do not resolve")
    assert set(report.on_mnist(Found(None))) == {"hw4-scale", "hw4-patches"}
