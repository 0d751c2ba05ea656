"""Each script of the course, on the digits: what it writes, draws and prints."""

import json

import pytest

from deep_features import autoencoder, cnn, self_attention, stacked_autoencoder, vit
from deep_features import plots as course_plots

BRIEFLY = ["--dataset", "digits", "--train_size", "128", "--epochs", "1"]
SCRIPTS = {
    "autoencoder": (autoencoder, BRIEFLY, {"curves", "reconstructions", "worst", "walk"}),
    "stacked_autoencoder": (stacked_autoencoder, [*BRIEFLY, "--pretraining_epochs", "1"], {"curves"}),
    "cnn": (cnn, BRIEFLY, {"curves"}),
    "vit": (vit, [*BRIEFLY, "--depth", "1"], {"curves", "attention", "positions"}),
    "self_attention": (self_attention, ["--length", "4", "--dim", "16"], {"maps", "sentence"}),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_run_is_written_drawn_and_told(name, tmp_path, capsys):
    module, flags, kinds = SCRIPTS[name]
    assert module.main([*flags, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    (path,) = (tmp_path / "deep_features").glob("*.json")
    result = json.loads(path.read_text())
    assert result["config"]["script"] == name
    assert str(path) in printed
    drawn = {plot.stem.removeprefix(f"{result['run']}-") for plot in (tmp_path / "plots").rglob("*.png")}
    assert drawn == kinds
    if name != "self_attention":
        assert "digits" in printed
        assert "validation" in printed
        assert "test" in printed
        # a second run of other settings would take another file; the same one again needs no flag
        assert module.main([*flags, "--out", str(tmp_path), "--resume"]) == 0
        assert json.loads(path.read_text())["metrics"] == result["metrics"]


def test_results_of_other_courses_are_refused(tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"question": "q1", "run": "x", "config": {"script": "vit"}, "seeds": [], "data": {}}))
    assert course_plots.main([str(path)]) == 2
    assert "is no result of this course's scripts" in capsys.readouterr().err


def test_a_result_without_what_its_plots_need_is_refused(tmp_path, capsys):
    assert vit.main([*SCRIPTS["vit"][1], "--out", str(tmp_path)]) == 0
    (path,) = (tmp_path / "deep_features").glob("*.json")
    result = json.loads(path.read_text())
    del result["history"]
    path.write_text(json.dumps(result))
    capsys.readouterr()
    assert course_plots.main([str(path), "--out", str(tmp_path)]) == 2
    assert "history" in capsys.readouterr().err
