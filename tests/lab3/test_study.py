"""What Lab 3's scripts share: names, variants with their seeds, means over them, and a curve."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from command_line import flag
from lab3 import drawing, study
from lab3.small_pictures import PictureSettings
from lab3.study import Settings


@dataclass(frozen=True)
class Config(Settings):
    kind: str = flag("plain", "a kind")
    rate: float = flag(0.1, "a rate")
    fast: bool = flag(False, "fast")
    download: bool = flag(False, "download first")

    SCRIPT: ClassVar[str] = "walk"


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({}, "walk-digits-base-seed0"),
        ({"kind": "steep", "rate": 1e-5, "fast": True, "seed": 3}, "walk-digits-steep-rate1e-05-fast-seed3"),
        ({"out": "elsewhere", "device": "cpu", "download": True, "resume": True}, "walk-digits-base-seed0"),
        ({"study": "hills", "rate": 2.0}, "walk-hills-digits"),
    ],
)
def test_a_run_is_named_by_what_its_result_depends_on(flags, name):
    assert Config(**flags).run_name == name


def test_every_variant_has_every_seed():
    config = Config(study="hills", seeds=(5, 7), rate=3.0, download=True)
    groups = study.varied(config, {"a": {}, "b": {"kind": "steep"}})
    assert {name: [(each.kind, each.seed) for each in group] for name, group in groups.items()} == {
        "a": [("plain", 5), ("plain", 7)],
        "b": [("steep", 5), ("steep", 7)],
    }
    for single in (*groups["a"], *groups["b"]):  # no study in a study; one fetches the data, not all; the rest stays
        assert (single.study, single.download, single.rate, single.seeds) == (None, False, 3.0, Config.seeds)


def trial(train, validation):
    shares = {"train": train, "validation": validation}
    return {"metrics": {part: {"accuracy": {"mean": share}} for part, share in shares.items()}}


def test_means_over_seeds_and_the_gap_by_hand():
    trials = [trial(0.9, 0.5), trial(1.0, 0.8)]
    found = study.over_seeds(trials)
    assert found["validation"]["accuracy"]["mean"] == pytest.approx(0.65)
    assert found["train"]["accuracy"]["std"] == pytest.approx(0.1 / 2**0.5)
    assert study.gap(trials)["values"] == pytest.approx([0.4, 0.2])


def test_trials_go_to_their_variants(monkeypatch):
    config = Config(study="hills", seeds=(1, 2))
    answers = lambda runs, head, keys: [{"kind": run.kind, "seed": run.seed} for run in runs]  # noqa: E731
    monkeypatch.setattr(study, "results_side_by_side", answers)
    found = study.train_all(study.varied(config, {"a": {}, "b": {"kind": "steep"}}), lambda single: {}, ())
    assert found["b"] == [{"kind": "steep", "seed": 1}, {"kind": "steep", "seed": 2}]


def test_only_what_torchvision_has_is_downloaded():
    assert replace(PictureSettings(), dataset="cifar10", download=True).download
    with pytest.raises(ValueError, match="--download goes with cifar10, not with digits"):
        PictureSettings(download=True)


def test_a_curve_shows_each_score_of_each_epoch():
    history = [{"epoch": 1, "loss": 2.0, "val": 3.0}, {"epoch": 2, "loss": 1.0, "val": 2.5}]
    figure = drawing.curve("hills", [history], {"loss": "training", "val": "validation"}, 10, ylabel="loss")
    (axes,) = figure.axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[20, 10], [30, 25]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation"]
    assert drawing.curve("hills", [history], {"loss": None}, ylabel="loss").axes[0].get_legend() is None
