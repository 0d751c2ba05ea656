"""What `make` promises: every target that help lists is there, and runs the commands of its question."""

import os
import re
import shutil
import subprocess

import pytest

from records import ROOT


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """What a target would run, where everything is set up."""
    folder = tmp_path_factory.mktemp("make")
    (folder / ".venv").mkdir()
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("demo", "publish", "tests"):  # folders of these names must not stand for the targets
        (folder / name).mkdir()
    for name in ("installed", "installed-dev", "installed-benchmark"):  # in this order: each depends on the one before
        (folder / ".venv" / name).touch()

    # a make that runs these tests hands its flags and its level down
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}

    def run(*arguments):
        command = ["make", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_every_target_of_help_is_there(make):
    targets = re.findall(r"^  make (\S+)  ", make("help"), re.MULTILINE)
    assert {"demo", "test", "homework", "publish", "notebooks", "reports", "demo-q1", "test-q1"} <= set(targets)
    for target in targets:
        assert make("-n", target).strip(), target


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("demo", "-m demo"),
        ("demo-q2", "-m demo --parts q2"),
        ("test-q2", '-m "not slow and not real_data" tests/q2'),
        ("test-q3", '-m "not slow and not real_data" tests/asr tests/common/speech'),
        ("homework-q1", "q1_linear_attention.py"),
        ("publish", "-m publish"),
        ("tables", "-m publish --tables"),
    ],
)
def test_a_target_runs_the_command_of_its_question(make, target, command):
    assert make("-n", target).rstrip().endswith(command)


def test_homework_does_every_question_then_publishes(make):
    lines = make("-n", "homework").splitlines()
    order = ["q1_linear_attention.py", "hw2-q2.py --sweep", "-m asr train", "-m publish", "jupyter execute"]
    places = [next(place for place, line in enumerate(lines) if part in line) for part in order]
    assert places == sorted(places)
