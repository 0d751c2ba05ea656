"""The command line: flags, errors in one line, exit codes, and what a terminal, Ctrl-C or a lost parent can do."""

import ast
import errno
import itertools
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

import command_line
from command_line import flag
from records import ROOT
from utils import Diverged

PACKAGES = [path.parent.name for path in ROOT.glob("*/__init__.py")]

# --- flags -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    files: tuple[Path, ...] = flag((), "what to read", metavar="FILE", positional=True)
    no_maxpool: bool = flag(False, "strides instead of pooling")
    learning_rate: float = flag(0.1, "step size, 50 % more than usual", command_line.POSITIVE)
    optimizer: str = flag("sgd", "sgd or adam", choices=("sgd", "adam"))
    seeds: tuple[int, ...] = flag((0, 1), "one run each", command_line.SEEDS)
    n: int | None = flag(None, "how many", command_line.within(1, 5), shown="all")
    sizes: tuple[int, ...] = flag((3, 2), "of each layer", command_line.Check(lambda sizes: 0 not in sizes, "positive"))

    __post_init__ = command_line.check_flags


def make_parser():
    return command_line.ArgumentParser((Settings,), prog="hw2-q2.py")


@pytest.mark.parametrize("dash", ["-", "--"])
def test_flags_take_one_dash_or_two(dash):
    words = ["a", f"{dash}no_maxpool", f"{dash}learning_rate", "0.5", f"{dash}optimizer=adam", f"{dash}n", "3"]
    expected = Settings((Path("a"),), no_maxpool=True, learning_rate=0.5, optimizer="adam", n=3)
    assert command_line.parse(Settings, words, "") == expected
    assert command_line.parse(Settings, ["a", "b", f"{dash}seeds", "4", "2"], "").seeds == (4, 2)
    assert vars(make_parser().parse_args(["a"])) == {"files": (Path("a"),)}  # what is not given is the dataclass's


def test_flags_of_settings_give_them_again():
    for settings in (
        Settings((Path("a b"), Path("c"))),
        Settings((Path("a"),), no_maxpool=True, learning_rate=1e-5, optimizer="adam", seeds=(7,), n=5),
        Settings((Path("a"),), sizes=()),
    ):
        assert command_line.parse(Settings, command_line.flags_of(settings), "") == settings


def test_help_has_each_flag_with_its_default(capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["-h"])
    text = " ".join(capsys.readouterr().out.split())
    for part in ("FILE", "50 % more than usual (0.1)", "sgd or adam (sgd)", "one run each (0 1)", "how many (all)"):
        assert part in text
    assert "instead of pooling (" not in text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"learning_rate": 0.0}, "--learning_rate is 0.0, but must be positive"),
        ({"learning_rate": float("nan")}, "--learning_rate is nan, but must be positive"),
        ({"optimizer": "x"}, "--optimizer is x, but must be one of sgd, adam"),
        ({"n": 6}, "--n is 6, but must be from 1 to 5"),
        ({"seeds": (1, 1)}, "--seeds is (1, 1), but must be distinct, each from 0 to 4,294,967,295"),
        ({"seeds": (-1,)}, "--seeds is (-1,), but must be distinct, each from 0 to 4,294,967,295"),
    ],
)
def test_a_value_that_is_not_valid_says_what_would_be(given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Settings(**given)


def test_commands_have_settings_of_their_own():
    commands = {"train": (Settings, "train"), "test": (Settings, "test")}
    assert command_line.parse_command(commands, ["test", "a", "-n", "2"], "") == ("test", Settings((Path("a"),), n=2))


@pytest.mark.parametrize("argv", [["--unknown"], ["-learning_rate", "fast"], ["-optimizer", "x"], ["--learning_rate"]])
def test_a_wrong_flag_is_one_line_and_exit_code_2(capsys, argv):
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(["a", *argv])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("hw2-q2.py: error: ")
    assert "--help" in err


# --- errors and exit codes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("the learning rate\nis -1"), 2, "error: the learning rate is -1"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.npz"), 2, "x.npz"),
        (Diverged(3, []), 3, "epoch 3"),
        (KeyboardInterrupt(), 130, "--resume"),
    ],
)
def test_a_users_mistake_is_one_line_and_an_exit_code(capsys, monkeypatch, error, code, words):
    monkeypatch.setattr(sys, "argv", ["/some/where/hw2-q2.py"])

    @command_line.entry_point
    def main(argv=None):
        raise error

    assert main([]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hw2-q2.py: ")
    assert words in err
    assert err.count("\n") == 1
    assert err.endswith("\n")


def test_messages_name_a_module_as_it_was_typed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/some/where/asr/__main__.py"])
    command_line.say("error: no clip")
    assert capsys.readouterr().err == "python -m asr: error: no clip\n"


def test_success_is_zero_and_a_bug_keeps_its_traceback(capsys):
    @command_line.entry_point
    def main(argv=None):
        if argv == ["bug"]:
            raise KeyError("bug")
        return 3 if argv else None

    assert main([]) == 0
    assert main(["x"]) == 3
    with pytest.raises(KeyError):
        main(["bug"])
    assert capsys.readouterr() == ("", "")
    assert main.__name__ == "main"


@pytest.mark.parametrize(
    "error", [MemoryError("x"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_too_little_memory_is_a_line(capsys, error):
    @command_line.entry_point
    def main(argv=None):
        raise error if argv else RuntimeError("a bug")

    assert main(["x"]) == 2
    assert "out of memory" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a bug"):
        main([])


def test_what_fails_beside_the_work_is_a_note(capsys):
    with command_line.attempt("drawing x.json"):
        raise IndexError("no such image")
    assert "note: drawing x.json failed (IndexError: no such image)" in capsys.readouterr().err


# --- what a terminal, Ctrl-C and a lost parent can do ------------------------------------------------


def script(folder, body, imports=""):
    """A program of the house: command_line first, then its imports, then main."""
    lines = ["import command_line", imports, "@command_line.entry_point", "def main(argv=None):"]
    path = folder / "script.py"
    path.write_text("\n".join([*lines, *(f"    {line}" for line in body.splitlines()), "raise SystemExit(main())"]))
    return [sys.executable, str(path)]


def start(command, **kwargs):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **kwargs.pop("env", {})}
    kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "latin-1"} | kwargs
    return subprocess.Popen(command, env=environment, **kwargs)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("cp1252", "96.1 \xb1 0.2 <= \xe9 -> ?"), ("ascii", "96.1 +- 0.2 <= e -> ?"), ("utf-8", "96.1 ± 0.2 ≤ é → 日")],
)
def test_a_terminal_shows_what_it_can(tmp_path, encoding, shown):
    command = script(tmp_path, "print('96.1 ± 0.2 ≤ é → 日')")
    process = start(
        command, env={"PYTHONIOENCODING": encoding}, encoding="latin-1" if encoding != "utf-8" else encoding
    )
    assert process.communicate(timeout=30) == (f"{shown}\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize("buffered", [{"PYTHONUNBUFFERED": "1"}, {"PYTHONUNBUFFERED": ""}])
def test_a_closed_pipe_ends_a_command_without_a_word(tmp_path, buffered):
    process = start(script(tmp_path, "for line in range(100_000):\n    print(line)"), env=buffered)
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 141
    late = start(script(tmp_path, "input()\nprint('one line')"), env=buffered, stdin=subprocess.PIPE)
    late.stdout.close()
    late.stdin.write("\n")
    late.stdin.close()
    assert late.stderr.read() == ""
    assert late.wait(timeout=30) == 141


def test_a_full_disk_behind_stdout_is_one_line(tmp_path):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = start(script(tmp_path, "print('x')"), stdout=full)
        error = process.communicate(timeout=30)[1]
    assert process.returncode == 2
    assert error.count("\n") == 1
    assert "No space left" in error


SWALLOWS = (
    "try:\n    import time\n    print('ready', flush=True)\n    time.sleep(30)\nexcept BaseException:\n    pass\n"
)


@pytest.mark.parametrize("place", ["in an import", "between imports", "in main"])
def test_ctrl_c_is_one_line_wherever_it_comes(tmp_path, place):
    (tmp_path / "slow_library.py").write_text(SWALLOWS)
    waits = "import time; print('ready', flush=True); time.sleep(30)"
    imports = {"in an import": "import slow_library", "between imports": waits, "in main": ""}[place]
    process = start(
        script(tmp_path, waits, imports),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # whatever the test's shell does
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, "")
    assert error.count("\n") == 1
    assert "interrupted" in error


@pytest.mark.parametrize("place", ["between imports", "in main"])
def test_a_library_of_an_extra_that_is_missing_is_one_line(tmp_path, place):
    import_it = "import sys; sys.modules['sacrebleu'] = None; import sacrebleu"
    body, imports = (import_it, "") if place == "in main" else ("pass", import_it)
    ended = start(script(tmp_path, body, imports))
    output, error = ended.communicate(timeout=20)
    assert (ended.returncode, output) == (2, "")
    assert error.endswith("script.py: error: sacrebleu is not installed: pip install -e '.[lab3]'\n")
    assert error.count("\n") == 1


def test_other_missing_modules_keep_their_traceback(tmp_path):
    for body, imports in (("import nowhere_to_be_found", ""), ("pass", "import nowhere_to_be_found")):
        ended = start(script(tmp_path, body, imports))
        error = ended.communicate(timeout=20)[1]
        assert ended.returncode == 1
        assert error.startswith("Traceback")


def test_the_extras_are_those_of_the_project():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {re.match(r"[\w-]+", line)[0] for line in extras["lab3"]} == set(command_line.EXTRAS)
    assert set(command_line.EXTRAS.values()) == {"lab3"}


def test_every_script_is_ready_for_ctrl_c_before_it_imports_anything_slow():
    paths = [path for folder in (".", *PACKAGES, "benchmarks") for path in ROOT.joinpath(folder).glob("*.py")]
    scripts = [path for path in paths if '__name__ == "__main__"' in path.read_text()]
    assert len(scripts) > 10
    for path in scripts:
        imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [node.names[0].name for node in imports if getattr(node, "module", None) != "__future__"]
        assert next(name for name in names if name not in ("sys", "Path")) == "command_line", path


def gone(pid):
    """Whether a process has ended, or is only remembered by a parent that does not ask."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_runs_side_by_side_end_with_their_parent(tmp_path, end):
    child = script(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    log = tmp_path / "child.log"
    code = f"import pathlib, command_line; command_line.side_by_side({{pathlib.Path({str(log)!r}): {child!r}}})"
    parent = start([sys.executable, "-c", code])
    assert wait_until(lambda: log.exists() and log.read_text().strip())
    pid = int(log.read_text())
    assert not gone(pid)
    parent.send_signal(end)
    assert wait_until(lambda: gone(pid), 5)
    parent.communicate(timeout=20)


def test_a_parent_that_has_ended_already_is_noticed(tmp_path):
    process = start(script(tmp_path, "print('alive')"), env={command_line.STARTED_BY: "1"})
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('a'); raise ValueError('no such data')", "script.py: error: no such data (exit code 2; log: "),
        ("raise KeyError('a bug')", "KeyError: 'a bug' (exit code 1; log: "),
        ("import os; print('50 %\\r60 %', flush=True); os.kill(os.getpid(), 9)", "60 % (ended by SIGKILL; log: "),
        ("import sys; sys.exit(7)", "it said nothing (exit code 7; log: "),
    ],
)
def test_a_run_that_fails_is_reported_with_its_last_words(tmp_path, body, words):
    with pytest.raises(ValueError, match=r"^run failed: ") as caught:
        command_line.side_by_side({tmp_path / "logs" / "run.log": script(tmp_path, body)}, accepted=(0, 3))
    assert words in str(caught.value)


def test_exit_codes_that_are_accepted(tmp_path):
    command = script(tmp_path, "import sys, pathlib; pathlib.Path(__file__).with_suffix('.done').touch(); sys.exit(3)")
    command_line.side_by_side({tmp_path / f"{name}.log": command for name in "abc"}, accepted=(0, 3))
    assert (tmp_path / "script.done").exists()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="asks Linux for one core")
def test_as_many_runs_at_a_time_as_there_are_cores_to_use(tmp_path):
    body = "import sys, time; print(time.time()); time.sleep(0.3); print(time.time())"
    jobs = {str(tmp_path / f"{name}.log"): script(tmp_path, body) for name in "abc"}
    code = (
        "import os, pathlib, command_line; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        f"command_line.side_by_side({{pathlib.Path(log): command for log, command in {jobs!r}.items()}})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    spans = sorted([float(time) for time in Path(log).read_text().split()] for log in jobs)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ("path", "by_path", "expected"),
    [
        ("hw2-q2.py", True, "hw2-q2.py"),
        ("benchmarks/q2_training.py", True, "q2_training.py"),
        ("deep_features/vit.py", True, "python deep_features/vit.py"),
        ("assignments/hw1/mlp.py", True, "python assignments/hw1/mlp.py"),
        ("q1/plots.py", False, "python -m q1.plots"),
        ("asr/__main__.py", False, "python -m asr"),
    ],
)
def test_a_command_is_called_as_one_types_it(path, by_path, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / path)])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None if by_path else object())
    assert command_line.program() == expected
