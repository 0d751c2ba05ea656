"""Result files: written whole, read back with care, and never another run's."""

import importlib
import json
import math
import os
import pathlib
import queue
import statistics
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import records
from records import ROOT

HEAD = {"question": "q2", "run": "café 1+1", "config": {"epochs": 3}, "seeds": [0], "data": {"digest": "a"}}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


# --- what is written ---------------------------------------------------------------------------------


def test_save_results_writes_strict_json_with_its_environment(tmp_path):
    result = {
        "question": "q2",
        "run": "sweep-lr0.1",
        "metrics": {"accuracy": [0.5, math.nan, -math.inf], "auc": (1.0, math.inf), "loss": math.nan, "count": 3},
        "history": [{"epoch": 1, "train_loss": 0.1}, {"epoch": 2, "train_loss": math.nan}],
        "config": {"name": "é [1, 2]", "channels": [], "flag": True, "none": None, "nested": [[1, 2], [3]]},
    }
    path = records.save_results(tmp_path, result)
    assert path == tmp_path / "q2" / "sweep-lr0.1.json"

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads(path.read_text("utf-8"), parse_constant=refuse)
    environment = read.pop("environment")
    assert read == {
        "question": "q2",
        "run": "sweep-lr0.1",
        "metrics": {"accuracy": [0.5, None, None], "auc": [1.0, None], "loss": None, "count": 3},
        "history": [{"epoch": 1, "train_loss": 0.1}, {"epoch": 2, "train_loss": None}],
        "config": result["config"],
    }
    assert math.isnan(result["metrics"]["loss"])  # the caller's own result stays as it was
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert environment["numpy"] == np.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert environment["cores"] == os.cpu_count()
    assert environment["gpu"] is None or torch.cuda.is_available()
    assert {"torchvision", "accelerate", "medmnist", "platform", "git_commit"} <= environment.keys()
    assert environment["memory"] is None or 1e9 < environment["memory"] < 1e14
    assert environment["peak_memory"] is None or 50e6 < environment["peak_memory"] < environment["memory"]
    assert environment["processor"] == environment["processor"].strip()
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        assert head.stdout.startswith(environment["git_commit"].removesuffix("-dirty"))
    assert '"accuracy": [0.5, null, null]' in path.read_text("utf-8")  # a list of numbers on one line


@pytest.mark.skipif(sys.platform != "linux", reason="compares with what Linux says")
def test_the_peak_of_memory_is_that_of_this_process():
    code = "import records; x = bytearray(300_000_000); del x; print(records.peak_memory())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 300e6 < int(ended.stdout) < 500e6
    described = dict(line.split(":") for line in pathlib.Path("/proc/meminfo").read_text().splitlines())
    assert records.memory() == 1024 * int(described["MemTotal"].split()[0])


def test_what_a_run_took_in_a_line():
    machine = {"gpu": None, "cores": 2, "processor": "Model 9", "peak_memory": 800_000_000}
    result = {"seconds": 133.4, "environment": machine}
    assert records.cost(result) == "2 min 13 s, 2 cores, Model 9, at most 0.8 GB of memory in one process"
    result |= {"seconds": 59.4, "models": {"a": {"peak_memory": None}, "b": {"peak_memory": 2.04e9}, "c": {}}}
    assert (
        records.cost(result)
        == "59 s, all trainings together, 2 cores, Model 9, at most 2.0 GB of memory in one process"
    )
    unknown = {"seconds": 3600, "environment": machine | {"gpu": "H200", "peak_memory": None}}
    assert records.cost(unknown) == "60 min 0 s, H200"
    assert records.cost({"seconds": 5, "environment": {"gpu": None, "cores": 4}}) == "5 s, 4 cores"  # an older file


@pytest.mark.parametrize("values", [[0.1, 0.4, 0.35], [2.0, 2.0], [3, 1, 4, 1, 5], [0.7]])
def test_mean_std_is_the_sample_standard_deviation(values):
    result = records.mean_std(values)
    assert result["mean"] == pytest.approx(statistics.mean(values), rel=1e-12)
    assert result["std"] == (pytest.approx(statistics.stdev(values), rel=1e-12) if len(values) > 1 else None)
    assert result["values"] == values


@pytest.mark.parametrize(
    ("values", "shown"),
    [([0.961], "96.1"), ([0.95, 0.97], "96.0 ± 1.4"), ([0.9, 0.9], "90.0 ± 0.0"), ([math.nan], "nan")],
)
def test_one_seed_has_no_deviation(values, shown):
    assert records.spread(records.mean_std(values), 100) == shown
    older = records.mean_std(values) | {"std": 0.0}  # as files of one seed had it
    assert len(values) > 1 or records.spread(older, 100) == shown


@pytest.mark.parametrize(
    "name", ["../../x", "..", "", "a/b", ".hidden", "a\\b", "a\nb", "x" * 201, "\0", "\ud800", None]
)
@pytest.mark.parametrize("field", ["question", "run"])
def test_nothing_is_written_or_read_outside_its_folder(tmp_path, name, field):
    result = {**HEAD, field: name}
    with pytest.raises(ValueError, match=field):
        records.save_results(tmp_path / "out" / "deep", result)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"result\.json"):
        records.load_result(write(tmp_path / "result.json", result))


# --- what is read ------------------------------------------------------------------------------------

KEYS = (
    "models.*.trials.*.loss:number",
    "models.*.auc?.mean:number",
    "models.*.name:text",
    "rows?.*.x:number",
    "models.*.end:number?",
)
MODELS = {
    "a-0.1": {"trials": [{"loss": 1.5}, {"loss": 2}], "auc": None, "name": "A", "end": None},
    "b": {"trials": [], "name": "", "end": 3},
}


def models(**fields):
    return {**HEAD, "models": {"a": {"trials": [], "name": "A", "end": None} | fields}}


def test_a_result_with_what_is_asked_for_is_read(tmp_path):
    result = {**HEAD, "models": MODELS}
    assert records.load_result(write(tmp_path / "x.json", result), *KEYS) == result
    assert records.load_result(records.save_results(tmp_path, HEAD)).items() >= HEAD.items()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expecting value"),
        (json.dumps(HEAD).encode()[:40], "no result file"),
        ([1, 2], "list, not dict"),
        (None, "not dict"),
        (b"[" * 100_000, "no result file"),
        (b'{"question": NaN}', "NaN"),
        (b"\xff\xfe{}", "no result file"),
        ({key: value for key, value in HEAD.items() if key != "data"}, "has no data"),
        ({**HEAD, "seeds": None}, "has no seeds"),
        ({**HEAD, "config": []}, "config is list, not dict"),
        ({**HEAD, "seconds": "3"}, "seconds is str, not number"),
        (json.dumps({**HEAD, "seconds": 3}).replace("3}", "1e999}").encode(), "seconds is float, not number"),
        ({**HEAD, "models": {"a": 3}}, "models/a is int, not dict"),
        ({**models(), "rows": [{"x": True}]}, "rows/0/x is bool, not number"),
        (models(trials=[{}]), "models/a/trials/0 has no loss"),
        (models(trials=3), "models/a/trials is int, not dict or list"),
        (models(auc={"mean": None}), "models/a/auc has no mean"),
        (models(name=1), "models/a/name is int, not text"),
        (models(end="x"), "models/a/end is str, not number"),
    ],
)
def test_what_is_no_result_file_is_refused_by_name(tmp_path, content, words):
    with pytest.raises(ValueError, match=r"x\.json") as caught:
        records.load_result(write(tmp_path / "x.json", content), *KEYS)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_missing_result_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"q3/none\.json: python -m asr train"):
        records.load_result(tmp_path / "q3" / "none.json")
    with pytest.raises(ValueError, match="folder"):
        records.load_result(tmp_path)


@pytest.mark.parametrize("plots", ["q1.plots", "q2.plots", "asr.plots"])
def test_plots_name_each_file_that_they_cannot_use(tmp_path, plots, capsys):
    contents = {"half.json": b'{"question": "q1", "run', "list.json": [1], "keys.json": HEAD | {"errors": [{}]}}
    paths = [write(tmp_path / name, content) for name, content in contents.items()]
    command = [*map(str, paths), str(tmp_path / "none.json"), "--out", str(tmp_path / "plots")]
    bad = 3 if plots == "asr.plots" else 4  # another question's result is none of its business
    assert importlib.import_module(plots).main(command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bad
    assert sum(path.name in line for path in paths for line in lines) == bad - 1
    assert "none.json" in lines[-1]
    assert not (tmp_path / "plots").exists()


# --- whose files they are ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": {"epochs": 4}}, "other settings (epochs)"),
        ({"config": {"epochs": 3, "dropout": 0.5}}, "other settings (dropout)"),
        ({"data": {"digest": "b"}}, "other data"),
        ({"data": {"digest": "b"}, "config": {"epochs": 4}}, "other settings (epochs) and other data"),
        ({"seeds": [1, 2]}, "other settings (seeds)"),
    ],
)
def test_another_runs_result_is_not_replaced_unless_asked(tmp_path, change, words):
    path = records.save_results(tmp_path, HEAD)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="--overwrite") as caught, records.claim(tmp_path, {**HEAD, **change}, False):
        pytest.fail("two runs under one name")
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    with records.claim(tmp_path, {**HEAD, **change}, True):
        records.save_results(tmp_path, {**HEAD, **change})
    assert path.read_bytes() != before


def test_the_same_run_and_one_with_more_seeds_may_replace_a_result(tmp_path):
    records.save_results(tmp_path, {**HEAD, "config": {"epochs": 3, "lengths": (1, 2), "seed": 0}})
    for seeds in ([0], [0, 1, 2]):
        head = {**HEAD, "config": {"epochs": 3, "lengths": (1, 2), "clips": None, "seed": 9}, "seeds": seeds}
        with records.claim(tmp_path, head, False):
            pass
    older = write(tmp_path / "q2" / "older.json", {**HEAD, "data": {}})  # from before data had an identity
    with records.claim(tmp_path, {**HEAD, "run": "older"}, False):
        pass
    assert sorted(path.name for path in older.parent.iterdir()) == ["café 1+1.json", "older.json"]


def test_a_second_run_of_the_name_waits_for_the_first(tmp_path, capsys):
    order, entered, leave = [], threading.Event(), threading.Event()

    def first():
        with records.claim(tmp_path, HEAD, False):
            entered.set()
            leave.wait(20)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(20)
    with records.claim(tmp_path, {**HEAD, "run": "another"}, False):  # which nobody holds
        threading.Timer(0.3, leave.set).start()
    with records.claim(tmp_path, HEAD, False):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert f"process {os.getpid()}" in capsys.readouterr().err


def test_who_waits_leaves_the_holder_time_to_say_who_it_is(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    said = queue.Queue()
    monkeypatch.setattr(records, "print", lambda line, file: said.put(line), raising=False)

    def wait():
        with records.locked(tmp_path / "a.json"):
            pass

    waiting = threading.Thread(target=wait)
    with (tmp_path / ".a.json.lock").open("a+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        waiting.start()
        with pytest.raises(queue.Empty):
            said.get(timeout=0.2)
        os.write(holder.fileno(), b"process 7 on a machine")
        assert said.get(timeout=20).startswith("waiting for process 7 on a machine, ")
    waiting.join(timeout=20)
    assert not waiting.is_alive()
