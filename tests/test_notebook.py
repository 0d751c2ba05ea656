"""The notebooks: what is committed, and that every cell runs."""

import json
import re
import subprocess
import time

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import records

PATH = records.ROOT / "hw2-q3.ipynb"
NOTEBOOKS = (
    "hw2-q3.ipynb", "assignments/hw2/hw2_cnn.ipynb", "assignments/hw2/hw2_rnn.ipynb",
    "assignments/hw2/seq_classification.ipynb", "assignments/hw3/hw3_ebm.ipynb",
    "assignments/hw4/hw4_vit.ipynb", "lab3/Lab3.ipynb",
)  # fmt: skip
SCORES = ("jaccard", "cosine", "damerau_levenshtein", "wer", "cer")


def code(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def cells():
    return code(PATH)


def texts(cell) -> str:
    """Everything that a cell printed or displayed as text."""
    found = []
    for output in cell.outputs:
        found.append(output.get("text", ""))
        found += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(found)


def shown_result(decoder: str) -> dict:
    """Trained on the recorded corpus, or where that could not be had on the re-voiced one."""
    folder = records.ROOT / "results" / "q3"
    paths = [folder / f"{corpus}-{decoder}-seed0.json" for corpus in ("LJSpeech-1.1", "revoiced")]
    return json.loads(next(path for path in paths if path.exists()).read_text())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_were_run_once_from_top_to_bottom(name):
    cells = code(records.ROOT / name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_cell_complained_or_names_a_folder_of_its_author(name):
    cells = code(records.ROOT / name)
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    assert not re.search(r"/(home|work|root|tmp|Users)/", "\n".join(map(texts, cells)))


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_scores_shown_are_those_of_the_results(cells, decoder):
    """One seed with its interval over clips, several with their mean and deviation."""
    test = shown_result(decoder)["metrics"]["test"]
    name = {"lstm": "LSTM", "transformer": "Transformer"}[decoder]
    row = [name, "1", f"{test['loss']:.3f}"]
    for score in SCORES:
        scale, digits = (100, 1) if score in ("wer", "cer") else (1, 3)
        mean, low, high = (scale * value for value in (test[score]["mean"], *test[score]["interval"]))
        row.append(f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
    every = "\n".join(map(texts, cells))
    assert f"| {' | '.join(row)} |" in every
    for transcript in test["transcripts"][:6]:
        assert transcript["heard"] in every
    paths = sorted((records.ROOT / "results" / "q3").glob(f"revoiced-2000-{decoder}-seed?.json"))
    rates = [100 * json.loads(path.read_text())["metrics"]["test"]["cer"]["mean"] for path in paths]
    assert re.search(
        rf"\| from scratch \| {name} \| 3 \|.*\| {np.mean(rates):.1f} ± {np.std(rates, ddof=1):.1f} \|", every
    )


def test_what_is_trained_before_the_reader_converges(cells):
    every = "\n".join(map(texts, cells))
    losses = re.search(r"validation loss: ([\d.]+) after one epoch, ([\d.]+) at last", every).groups()
    right, count = map(int, re.search(r"test: (\d+) of (\d+) words right", every).groups())
    start, end = map(float, losses)
    assert end < start / 5
    assert right > 0.8 * count


def test_the_makefile_runs_every_notebook():
    (line,) = re.findall(r"jupyter execute .*", (records.ROOT / "Makefile").read_text())
    assert [word for word in line.split() if word.endswith(".ipynb")] == list(NOTEBOOKS)
    tracked = subprocess.run(["git", "ls-files", "*.ipynb"], cwd=records.ROOT, capture_output=True, text=True).stdout
    assert set(tracked.split()) == set(NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_runs_in_fast_mode(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FAST", "1")
    notebook, started = nbformat.read(records.ROOT / name, as_version=4), time.monotonic()
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    if name == PATH.name:
        assert (tmp_path / "runs" / "notebook" / "q3" / "digits.json").exists()  # trained anew, here
    assert time.monotonic() - started < 240  # twice what is promised, as machines are shared
