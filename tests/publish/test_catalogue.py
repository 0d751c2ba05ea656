"""The catalogue names every committed file once, and `python -m publish` takes, draws and says what is missing."""

import json
import re
import shutil

import pytest

import records
from asr import runs as q3
from common.catalogue import NotRun, Run, checked
from publish import __main__ as publishing
from publish import catalogue
from q2 import runs as q2

ROOT = records.ROOT


def test_a_run_has_a_file_for_each_combination():
    run = Run("all", "q/a-{decoder}-seed{seed}", "do {decoder} {seed}", each={"decoder": ("x", "y"), "seed": (0, 2)})
    assert run.names() == ["q/a-x-seed0", "q/a-x-seed2", "q/a-y-seed0", "q/a-y-seed2"]
    assert run.names(seed=2) == ["q/a-x-seed2", "q/a-y-seed2"]
    assert run.first_command(decoder="y") == "do y 0"
    assert run.shown_command == "do DECODER SEED  # SEED: 0, 2"
    assert run.stem == "q/a"
    with pytest.raises(NotRun, match="do x 0"):
        run.result(ROOT)


def test_every_committed_file_is_in_the_catalogue_once():
    names = [name for run in catalogue.RUNS for name in run.names()]
    assert len(names) == len(set(names))
    committed = {str(path.relative_to(ROOT / "results").with_suffix("")) for path in ROOT.glob("results/*/*.json")}
    assert committed <= set(names)
    figures = [figure for run in catalogue.RUNS for figure in set(run.figures)]
    drawn = {str(path.relative_to(ROOT / "plots").with_suffix("")) for path in ROOT.glob("plots/*/*.png")}
    assert drawn == {name for name in figures if (ROOT / "plots" / f"{name}.png").exists()} | {q2.EXAMPLES}
    for run in catalogue.RUNS:  # a figure of exactly the runs that it is drawn from
        assert all((ROOT / "plots" / f"{name}.png").exists() for name in run.figures) or not run.results(ROOT), run.name


def test_results_are_what_their_run_says():
    for run in catalogue.RUNS:
        for path, result in run.results(ROOT):
            assert f"{result['question']}/{result['run']}" in run.names(), path


def test_commands_of_the_catalogue_name_their_results():
    """A training's own name, or that of the model it evaluates, stands in its command where it is not the usual one."""
    for run in (*q3.ON_SYNTHETIC, *q3.ON_RECORDED_SPEECH):
        name = re.search(r"--name (\S+)", run.command)
        if name:
            assert f"q3/{name[1]}".replace("-seed0", "-seed{seed}") == run.name


@pytest.fixture
def folder(tmp_path):
    """Runs of a sweep and of one decoder, of which the results know nothing yet."""
    (tmp_path / "runs" / "q2").mkdir(parents=True)
    shutil.copy(ROOT / "results/q2/synthetic-oct-shift.json", tmp_path / "runs/q2")
    (tmp_path / "root").mkdir()
    return tmp_path


def test_publish_takes_draws_and_says_what_is_missing(folder, capsys):
    publishing.publish(folder / "runs", folder / "root", redraw=False)
    out = capsys.readouterr().out
    assert "took q2/synthetic-oct-shift\n" in out
    assert f"1 of {len(catalogue.RUNS)} runs taken" in out
    assert f"  {q2.SWEEPS['octmnist'].what}: python hw2-q2.py --sweep\n" in out
    assert "--shift --dataset synthetic-oct" not in out  # which is there now
    assert (folder / "root/results/q2/synthetic-oct-shift.json").exists()
    assert {path.name for path in (folder / "root/plots/q2").iterdir()} == {
        "synthetic-oct-shift.pdf",
        "synthetic-oct-shift.png",
    }


def test_publish_refuses_what_is_no_result_of_its_kind(folder):
    (folder / "runs/q2/synthetic-oct-shift.json").write_text(json.dumps({"question": "q2", "run": "x"}))
    with pytest.raises(ValueError, match=r"synthetic-oct-shift\.json is no result file of this kind"):
        publishing.publish(folder / "runs", folder / "root", redraw=False)
    assert not (folder / "root/results").exists()


def test_a_file_that_the_catalogue_does_not_name_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        catalogue.run_of("q2/nothing")
    assert checked("x:number")
