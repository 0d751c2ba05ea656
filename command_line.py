"""The command line of every script: flags with one dash or two, errors in one line, exit codes.

A script imports this module before all others, so that Ctrl-C during its slow imports is one line, too. So it imports
nothing that takes time.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import ctypes
import dataclasses
import errno
import functools
import glob
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import typing
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO, TypeVar

S = TypeVar("S")  # a settings dataclass
INTERRUPTED = "interrupted; the same command goes on where it was, a training run with --resume"
CLOSED_PIPE = 128 + 13  # what a shell shows of a program that ended by SIGPIPE


class CommandFailed(Exception):
    """Ends a command with its message in one line, and with `exit_code`."""

    exit_code = 2


# --- flags -------------------------------------------------------------------------------------------


class Check(NamedTuple):
    """Which values a flag may have, and those in words."""

    valid: Callable[[Any], bool]
    expected: str


def within(low: float, high: float) -> Check:
    """Numbers from one to another, both among them."""
    return Check(lambda value: low <= value <= high, f"from {low:,} to {high:,}")


SEED = within(0, 2**32 - 1)  # as NumPy takes it
SEEDS = Check(
    lambda seeds: 0 < len(set(seeds)) == len(seeds) and all(map(SEED.valid, seeds)),
    f"distinct, each {SEED.expected}",
)
COUNT = within(1, 1_000_000)
POSITIVE = Check(lambda value: 0 < value < math.inf, "positive")
NOT_NEGATIVE = Check(lambda value: 0 <= value < math.inf, "not negative")
SHARE = Check(lambda value: 0 <= value < 1, "at least 0 and less than 1")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "no", "bf16")


def flag(
    default: Any,
    meaning: str,
    check: Check | None = None,
    *,
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
    shown: str | None = None,
    positional: bool = False,
) -> Any:
    """A field of a settings dataclass, and the flag of that name: all that is to be said of it, once.

    Its type makes it a flag without a value (bool), with one (int, float, str, each perhaps `| None`), or with several
    (tuple; with none, too, if that passes the check). `meaning` is its help, to which the default is added, or `shown`
    in its place. A value other than None and the default has to pass `check`. A `positional` argument is a tuple that
    takes what stands without a flag, once or more.
    """
    declared = {"meaning": meaning, "check": check, "choices": choices, "metavar": metavar, "shown": shown}
    return dataclasses.field(default=default, metadata=declared | {"positional": positional})


def check_flags(config: Any) -> None:
    """Raise ValueError for the first flag of a settings dataclass that is not valid, with what was expected of it."""
    for field in dataclasses.fields(config):
        value, check, choices = getattr(config, field.name), field.metadata.get("check"), field.metadata.get("choices")
        if choices and value is not None and value not in choices:
            check = Check(lambda value: False, f"one of {', '.join(choices)}")
        if check and value != field.default:
            check_value(field.name, value, check)


def check_value(name: str, value: Any, check: Check) -> None:
    """Raise ValueError where the value of a flag is not valid; None, for a flag that was left out, is."""
    if value is not None and not check.valid(value):
        raise ValueError(f"--{name} is {value}, but must be {check.expected}")


class ArgumentParser(argparse.ArgumentParser):
    """Accepts each flag with one dash or two, and reports a mistake in one line.

    Its flags are the fields of `settings`, dataclasses; what is not given is not in the parsed arguments.
    """

    def __init__(self, settings: tuple[type, ...] = (), **kwargs):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **{"prog": program()} | kwargs)
        for kind in settings:
            types = typing.get_type_hints(kind)
            for field in dataclasses.fields(kind):
                self._add(field, types[field.name])

    def _add(self, field: dataclasses.Field, kind: Any) -> None:
        declared, options = field.metadata, {"default": argparse.SUPPRESS}
        parts = [part for part in typing.get_args(kind) if part not in (type(None), Ellipsis)]
        if kind is bool:
            options["action"] = "store_true"
        else:
            several = typing.get_origin(kind) is tuple
            options |= {"type": parts[0] if parts else kind, "metavar": declared["metavar"]}
            check = declared["check"]
            may_be_empty = several and field.default != () and check is not None and check.valid(())
            options |= {"nargs": "*" if may_be_empty else "+"} if several else {}
            options |= {"choices": declared["choices"]} if declared["choices"] else {}
        help = " ".join([declared["meaning"], *self._default(field)]).replace("%", "%%")
        if declared["positional"]:
            self.add_argument(field.name, **options | {"help": help, "default": ()})
        else:
            self.add_argument(f"--{field.name}", **options, help=help)

    @staticmethod
    def _default(field: dataclasses.Field) -> list[str]:
        """The default in brackets, where a reader is helped by it."""
        default, shown = field.default, field.metadata["shown"]
        if shown is None and default is not None and default is not False and default != ():
            words = default if isinstance(default, tuple) else [default]
            shown = " ".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words)
        return [f"({shown})"] if shown else []

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        args = [arg if arg == "-h" else re.sub(r"^-(?=[a-z])", "--", arg) for arg in args]
        parsed, rest = super().parse_known_args(args, namespace)
        for name, value in vars(parsed).items():
            if isinstance(value, list) and name != argparse._UNRECOGNIZED_ARGS_ATTR:
                setattr(parsed, name, tuple(value))
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def parse(settings: type[S], argv: list[str] | None, description: str | None) -> S:
    """A command line as an instance of a settings dataclass. Raises SystemExit as argparse does."""
    return settings(**vars(ArgumentParser((settings,), description=description).parse_args(argv)))


def parse_command(
    commands: dict[str, tuple[type, str]], argv: list[str] | None, description: str | None
) -> tuple[str, Any]:
    """The name of the command that a command line begins with, and its settings.

    `commands` has a settings dataclass and a line of help for each name. Raises SystemExit as argparse does.
    """
    parser = ArgumentParser(description=description)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (settings, meaning) in commands.items():
        subparsers.add_parser(name, settings=(settings,), help=meaning, description=meaning)
    given = vars(parser.parse_args(argv))
    name = given.pop("command")
    return name, commands[name][0](**given)


def flags_of(settings: Any) -> list[str]:
    """The flags that give an instance of a settings dataclass."""
    words = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None or value is False or value == field.default == ():
            continue
        values = [] if value is True else map(str, value) if isinstance(value, tuple) else [str(value)]
        words += values if field.metadata["positional"] else [f"--{field.name}", *values]
    return words


def program() -> str:
    """The command that this process runs, as one types it after python."""
    script = Path(sys.argv[0]).absolute()
    if script.name == "__main__.py":
        return f"python -m {script.parent.name}"
    parts = [script.name]
    for folder in script.parents:
        if not (folder / "__init__.py").exists():
            break
        parts.insert(0, folder.name)
    if len(parts) == 1:
        return script.name
    if sys.modules["__main__"].__spec__ is None:  # named by its path
        return f"python {'/'.join(parts)}"
    return f"python -m {'.'.join(parts).removesuffix('.py')}"


def find_files(names: Iterable[str], suffixes: Collection[str]) -> list[Path]:
    """The files that a command names: a file itself, those of a folder with one of the suffixes, a pattern's matches.

    `**` in a pattern leads through folders of any depth. A name that leads to nothing stays, for its reader to refuse.
    """
    found = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = [file for file in path.iterdir() if file.suffix.lower() in suffixes and file.is_file()]
        else:
            # not Path.glob, which takes no absolute pattern
            files = [] if path.exists() else [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207
        found += sorted(files) or [path]
    return found


# --- one of several processes ------------------------------------------------------------------------

# what tells a process which one of how many it is: torchrun and accelerate launch, or three kinds of mpirun
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def launch() -> tuple[int, int]:
    """The number of this process, from 0, and of how many that a launcher started; (0, 1) without one."""
    rank, size = ([int(os.environ[name]) for name in names if name in os.environ] for names in (RANKS, SIZES))
    return next(iter(rank), 0), next(iter(size), 1)


def refuse_launch(what: str) -> None:
    """Raise ValueError in one of several processes: `what` does not share its work."""
    if launch()[1] > 1:
        raise ValueError(f"{what} cannot share its work between processes: run it without torchrun")


# --- errors and exit codes ---------------------------------------------------------------------------


def entry_point(
    main: Callable[[list[str] | None], int | None], several_processes: bool = False
) -> Callable[[list[str] | None], int]:
    """Turn what a user can cause into one line on stderr and an exit code, instead of a traceback.

    2: wrong input, an unusable file or too little memory; 3: training diverged; 130: Ctrl-C; 141, without a word:
    nobody reads the output any more. What is not in the user's hands keeps its traceback, and Python's exit code 1.
    A launch by torchrun is refused, unless `main` shares its work between `several_processes`.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        if parent := os.environ.pop(STARTED_BY, None):
            end_with_parent(int(parent))
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="spelled_out")
        try:
            try:
                if not several_processes:
                    refuse_launch("this command")
                return main(argv) or 0
            finally:
                if sys.stdout:
                    sys.stdout.flush()  # here, where an error has a place to go
        except KeyboardInterrupt:
            message, code = INTERRUPTED, 130
        except CommandFailed as error:
            message, code = str(error), error.exit_code
        except BrokenPipeError:
            _drop_output()
            return CLOSED_PIPE
        except OSError as error:
            if error.errno == errno.ENOSPC:  # perhaps that of the file that stdout is
                _drop_output()
            message, code = f"error: {reason(error)}", 2
        except ValueError as error:
            message, code = f"error: {error}", 2
        except ModuleNotFoundError as error:
            if not (message := how_to_install(error)):
                raise
            code = 2
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            message, code = f"error: out of memory, try a smaller size or batch ({error})", 2
        if launch()[0] > 0:
            time.sleep(3)  # the main process says the same, most likely, and torchrun ends this one after it
        say(message)
        return code

    return run


def reason(error: OSError | ValueError) -> str:
    """What an error says, in one line, with the file's name where the system says it."""
    named = isinstance(error, OSError) and error.filename and error.strerror
    return " ".join(str(f"{error.filename}: {error.strerror}" if named else error).split())


# libraries that few commands need, by the extra of pyproject.toml that installs them
EXTRAS = {"captum": "lab3", "peft": "lab3", "sacrebleu": "lab3", "tokenizers": "lab3", "transformers": "lab3"}


def how_to_install(error: ModuleNotFoundError) -> str | None:
    """What a user without an optional library is told, in one line; None of any other module."""
    extra = EXTRAS.get(error.name)
    return extra and f"error: {error.name} is not installed: pip install -e '.[{extra}]'"


def for_each(paths: Iterable[Path], do: Callable[[Path], None]) -> int:
    """Call `do` for each file, also after one that can't be used, which a line names; returns the exit code."""
    code = 0
    for path in paths:
        try:
            do(path)
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            code, said = 2, reason(error)
            say(f"error: {said if str(path) in said else f'{path}: {said}'}")
    return code


def say(message: str, stream: TextIO | None = None) -> None:
    """One line on stderr, or on another stream, after the name of the program."""
    with contextlib.suppress(OSError):
        print(f"{program()}: {' '.join(message.split())}", file=stream or sys.stderr)


def _drop_output() -> None:
    """Forget what was printed but can't be written: Python would try once more when it exits."""
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or PyTorch, on a CPU or a GPU, had too little memory; the last two by name, unimported."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )


@contextlib.contextmanager
def attempt(what: str) -> Iterator[None]:
    """A part of a command that may fail without harm to the rest, such as a plot of a saved result: with a note."""
    try:
        yield
    except Exception as error:
        say(f"note: {what} failed ({type(error).__name__}: {error})")


# --- runs side by side -------------------------------------------------------------------------------

STARTED_BY = "STARTED_BY_PROCESS"  # the variable that tells a script which process to end with


def usable_cores() -> int:
    """Processor cores that this process may use: taskset, a container or a cluster can leave it fewer than all."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side(jobs: dict[Path, list[str]], accepted: tuple[int, ...] = (0,)) -> None:
    """Run commands of this repository, each with its log file, as many at a time as there are cores to use.

    Raises ValueError, with the last line of its log, when one ends with an exit code that is not accepted; the others
    are ended then. None of them outlives this process.
    """
    from tqdm import tqdm

    waiting, running = list(jobs.items()), {}
    progress = tqdm(total=len(jobs), desc="training runs", disable=None)
    environment = os.environ | {STARTED_BY: str(os.getpid())}
    try:
        while waiting or running:
            while waiting and len(running) < usable_cores():
                log, command = waiting.pop(0)
                log.parent.mkdir(parents=True, exist_ok=True)
                with log.open("w") as file:
                    process = subprocess.Popen(
                        command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environment
                    )
                running[process] = log
            for process in [process for process in running if process.poll() is not None]:
                log = running.pop(process)
                if process.returncode not in accepted:
                    raise ValueError(f"{log.stem} failed: {_last_words(log, process.returncode)}")
                progress.update()
            time.sleep(0.05)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        progress.close()


def _last_words(log: Path, code: int) -> str:
    """The last line of a log, and how its process ended."""
    lines = [line for line in re.split(r"[\r\n]+", log.read_text(errors="replace")) if line.strip()]
    ended = f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
    return f"{lines[-1].strip() if lines else 'it said nothing'} ({ended}; log: {log})"


# --- what a terminal can show ------------------------------------------------------------------------

SPELLED_OUT = {"±": "+-", "≤": "<=", "≥": ">=", "→": "->"}


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that the terminal has not: é is e, and what nothing is like is a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = ""
    for character in error.object[error.start : error.end]:
        letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        plain += SPELLED_OUT.get(character) or letters or "?"
    return plain, error.end


codecs.register_error("spelled_out", _spell_out)  # for a terminal that has no ±

# --- Ctrl-C, and the end of a parent -----------------------------------------------------------------


def _interrupt(signal_number, frame) -> NoReturn:
    """Ctrl-C: KeyboardInterrupt; but the end at once during an import, whose code might swallow or replace that."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _end_interrupted()
        frame = frame.f_back
    raise KeyboardInterrupt


def _end_interrupted() -> NoReturn:
    say(INTERRUPTED, sys.__stderr__)  # not to a log that sys.stderr may be for the moment
    os._exit(130)


def _report_uncaught(kind, error, trace) -> None:
    """Ctrl-C between the imports of a script is one line, and so is an optional library that is not there."""
    if issubclass(kind, KeyboardInterrupt):
        _end_interrupted()
    if issubclass(kind, ModuleNotFoundError) and (message := how_to_install(error)):
        say(message)
        os._exit(2)
    sys.__excepthook__(kind, error, trace)


def _imported_by_script() -> bool:
    """Whether a file that was started as a program imports this module, not a test or a notebook."""
    frame = sys._getframe()
    while frame and (frame.f_globals is globals() or frame.f_code.co_filename.startswith("<frozen importlib")):
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == "__main__" and "__file__" in frame.f_globals


if _imported_by_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _interrupt)
    sys.excepthook = _report_uncaught


def end_with_parent(parent: int | None = None) -> None:
    """Let this process end within a second of its parent, however that ends: nobody would use what it computes.

    `parent` is the parent's process id, where it is known; otherwise a parent that has ended already is not noticed.
    On Linux the kernel does it, when the thread ends that started this process.
    """
    parent = parent or os.getppid()
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    else:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
