"""Every command of the repository, used wrongly: one line on stderr that names what is wrong, and exit code 2."""

import importlib.util
import os
import subprocess
import sys

import pytest

import image_data
from records import ROOT

NOWHERE, FOLDER, FILE = "{nowhere}", "{folder}", "{file}"  # a path that is not there, an empty folder, a text file

# of each command its calls with a path that is missing, or a folder instead of a file, or a file instead of a folder
COMMANDS = {
    "hw2-q2.py": [
        ("--data_root", NOWHERE),
        ("--data_root", FILE),
        ("--predict", NOWHERE),
        ("--predict", FILE),
        ("--predict", FILE, "--checkpoint", NOWHERE),
        ("--predict", FILE, "--checkpoint", FOLDER),
        ("--predict", FILE, "--checkpoint", FILE),
        ("--dataset", "synthetic-oct", "--out", FILE),
        ("--shift", "--out", NOWHERE),
        ("--shift", "--out", FILE),
    ],
    "q1_linear_attention.py": [("--out", FILE)],
    "-m asr train": [("--data", NOWHERE), ("--data", FILE), ("--init", NOWHERE), ("--init", FOLDER)],
    "-m asr evaluate": [
        ("--data", NOWHERE),
        ("--checkpoint", NOWHERE),
        ("--checkpoint", FOLDER),
        ("--checkpoint", FILE),
    ],
    "-m asr transcribe": [(NOWHERE,), (FILE,), (FOLDER,), (FILE, "--checkpoint", FOLDER)],
    **{
        f"deep_features/{script}.py": [("--data_root", NOWHERE), ("--dataset", "digits", "--out", FILE)]
        for script in ("autoencoder", "stacked_autoencoder", "cnn", "vit")
    },
    "deep_features/self_attention.py": [("--out", FILE)],
    "download_octmnist.py": [("--root", FILE)],
    "download_ljspeech.py": [("--root", FILE)],
    "download_multi30k.py": [("--root", FILE)],
    "lab3/translate.py": [("--out", FILE), ("--dataset", "multi30k", "--data_root", NOWHERE)],
    "lab3/sentiment.py": [("--out", FILE), ("--dataset", "rotten_tomatoes", "--data_root", NOWHERE)],
    "lab3/transfer.py": [("--out", FILE), ("--dataset", "ants_bees", "--data_root", NOWHERE)],
    "lab3/vision.py": [("--out", FILE), ("--dataset", "cifar10_jpeg", "--data_root", NOWHERE)],
    "lab3/techniques.py": [("--out", FILE), ("--dataset", "cifar10_jpeg", "--data_root", NOWHERE)],
    "lab3/costs.py": [("--out", FILE)],
    "lab3/two_towers.py": [("--out", FILE), ("--dataset", "revoiced", "--data_root", NOWHERE)],
    "lab3/few_shot.py": [("--out", FILE), ("--dataset", "mnist", "--data_root", NOWHERE)],
    "lab3/self_supervised.py": [("--out", FILE), ("--dataset", "cifar10_jpeg", "--data_root", NOWHERE)],
    "lab3/distill.py": [("--out", FILE), ("--dataset", "cifar10_jpeg", "--data_root", NOWHERE)],
    "lab3/search.py": [("--out", FILE), ("--dataset", "mnist", "--data_root", NOWHERE)],
    "lab3/explain.py": [("--out", FILE), ("--dataset", "ants_bees", "--data_root", NOWHERE)],
    "-m synthetic oct": [("--out", FOLDER)],
    "-m synthetic speech": [("--texts", NOWHERE), ("--texts", FOLDER), ("--out", FILE)],
    "-m q1.plots": [(NOWHERE,), (FOLDER,), (FILE,)],
    "-m q2.plots": [(NOWHERE,), (FOLDER,), (FILE,)],
    "-m asr.plots": [(NOWHERE,), (FOLDER,), (FILE,)],
    "-m deep_features.plots": [(NOWHERE,), (FOLDER,), (FILE,)],
    "-m assignments.hw1.digits": [("--out", FILE)],
    "assignments/hw2/cnn.py": [
        ("--data_root", NOWHERE),
        ("--dataset", "cats_and_dogs_filtered", "--data_root", NOWHERE),
    ],
    "assignments/hw2/memory.py": [("--out", FILE)],
    "assignments/hw2/permuted.py": [("--data_root", NOWHERE)],
    "assignments/hw2/spikes.py": [("--out", FILE)],
    "assignments/hw3/ebm.py": [("--out", FILE)],
    "assignments/hw3/ocr.py": [("--out", FILE)],
    "assignments/hw4/compare.py": [("--out", FILE), ("--dataset", "cifar10_jpeg", "--data_root", NOWHERE)],
    "assignments/hw1/derivatives.py": [("--out", FILE)],
    "assignments/hw1/sgd.py": [("--out", FILE)],
    "assignments/hw1/dreams.py": [("--out", FILE)],
    "assignments/hw2/gated.py": [("--out", FILE)],
    "benchmarks/deep_features.py": [("--data_root", NOWHERE)],
    "benchmarks/hw3_paths.py": [("--out", FILE)],
    "benchmarks/hw4_look_ahead.py": [("--out", FILE), ("--data", NOWHERE), ("--checkpoint", FILE)],
    "benchmarks/q1_attention.py": [("--out", FILE)],
    "benchmarks/q2_training.py": [("--out", FILE)],
    "benchmarks/q3_silence.py": [("--data", NOWHERE), ("--data", FILE)],
    "benchmarks/q3_throughput.py": [("--data", NOWHERE), ("--data", FILE)],
    "-m demo": [("--out", FILE)],
    "-m publish": [("--runs", NOWHERE), ("--runs", FILE)],
}
CALLS = [(command, *call) for command, calls in COMMANDS.items() for call in calls]


def is_command(path):
    text = (ROOT / path).read_text()
    return '\nif __name__ == "__main__":\n' in text and "\ndef main(" in text


def test_every_command_is_here():
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    commands = {path for path in tracked if is_command(path) and not path.startswith("tests/")}
    assert {file_of(command) for command in COMMANDS} == commands


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """What stands for the paths in a call; the test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_data, "SYNTHETIC_OCT_SIZE", 40)  # or drawing them takes longer than all else
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("nothing that anybody wants")
    return {"nowhere": tmp_path / "nowhere", "folder": tmp_path / "folder", "file": tmp_path / "file.txt"}


def split(command):
    """What Python runs, a file or -m and a module, and the subcommand."""
    first, *rest = command.split()
    return ([first, rest[0]], rest[1:]) if first == "-m" else ([first], rest)


def file_of(command):
    """The file that holds the main() of a command."""
    program, _ = split(command)
    if program[0] != "-m":
        return program[0]
    path = program[1].replace(".", "/")
    return f"{path}.py" if (ROOT / f"{path}.py").exists() else f"{path}/__main__.py"


def main_of(command):
    path = ROOT / file_of(command)
    spec = importlib.util.spec_from_file_location(f"command_{path.parent.stem}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.main


def call(command, *flags):
    """The exit code of a command."""
    try:
        return main_of(command)([*split(command)[1], *flags])
    except SystemExit as ended:
        return ended.code


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_flag_is_one_line(command, capsys):
    assert call(command, "--no_such_flag", "1") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "--help" in err


@pytest.mark.parametrize(
    ("command", "flags"),
    [(call[0], call[1:]) for call in CALLS],
    ids=lambda part: part if isinstance(part, str) else " ".join(part),
)
def test_a_path_that_will_not_do_is_named_in_one_line(command, flags, paths, capsys):
    assert call(command, *(flag.format(**paths) for flag in flags)) == 2
    lines = capsys.readouterr().err.splitlines()
    named = [line for line in lines if any(str(path) in line for path in paths.values())]
    assert len(named) == 1
    assert all(line == named[0] or "note" in line or "warning" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_into_a_closed_pipe_ends_without_a_word(command):
    reader, writer = os.pipe()
    os.close(reader)
    program, subcommand = split(command)
    done = subprocess.run([sys.executable, *program, *subcommand, "--help"], cwd=ROOT, stdout=writer,
                          stderr=subprocess.PIPE, text=True, timeout=120)  # fmt: skip
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode in (0, 141)
