"""The notebook of Question 3: what is committed, and that every cell runs."""

import json
import re
import time

import nbformat
import pytest
from nbclient import NotebookClient

import records
from publish import readme

PATH = records.ROOT / "hw2-q3.ipynb"
SCORES = ("jaccard", "cosine", "damerau_levenshtein", "wer", "cer")


@pytest.fixture(scope="module")
def cells():
    return [cell for cell in nbformat.read(PATH, as_version=4).cells if cell.cell_type == "code"]


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


def test_cells_were_run_once_from_top_to_bottom(cells):
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


def test_no_cell_complained_or_names_a_folder_of_its_author(cells):
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    assert not re.search(r"/(home|work|root|tmp|Users)/", "\n".join(map(texts, cells)))


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_scores_shown_are_those_of_the_results(cells, decoder):
    test = shown_result(decoder)["metrics"]["test"]
    name = {"lstm": "LSTM", "transformer": "Transformer"}[decoder]
    expected = [name, f"{test['loss']:.3f}"]
    for score in SCORES:
        low, high = test[score]["interval"]
        expected.append(f"{test[score]['mean']:.3f} [{low:.3f}, {high:.3f}]")
    assert f"| {' | '.join(expected)} |" in "\n".join(map(texts, cells))
    for transcript in test["transcripts"][:6]:
        assert transcript["heard"] in "\n".join(map(texts, cells))


@pytest.mark.parametrize("table", [readme.question_3, readme.question_3_recorded])
def test_tables_are_those_of_the_readme(table, cells):
    assert table(records.ROOT) in "\n".join(map(texts, cells))


@pytest.mark.slow
def test_every_cell_runs_in_fast_mode(tmp_path, monkeypatch):
    monkeypatch.setenv("FAST", "1")
    notebook, started = nbformat.read(PATH, as_version=4), time.monotonic()
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "runs" / "notebook" / "q3" / "spoken-lstm-seed0.json").exists()  # trained anew, here
    assert time.monotonic() - started < 240  # twice what is promised, as machines are shared
