"""Result files: written in one piece, with the environment they were measured in, and read back with care."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import numpy as np

ROOT = Path(__file__).resolve().parent


def write_file(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file in one piece: its name never holds half of the data, whatever stops the writing.

    Raises OSError that names the file, with nothing left behind, where the disk is full or read-only.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror or error}): make room, or choose another --out") from error
    finally:
        with contextlib.suppress(OSError):  # gone already where all went well
            temporary.unlink()


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Alone with a file, among all processes that ask for it; who has to wait says for whom, in one line on stderr.

    The kernel ends the lock with its holder, however that ends. Its file, .NAME.lock beside `path`, is removed then;
    one that a killed process left is in nobody's way. On Windows and on disks without locks nobody waits. Raises
    OSError.
    """
    path = Path(path).expanduser().resolve()
    lock = path.with_name(f".{path.name}.lock")
    try:
        if not path.parent.exists():  # else what is wrong with it is said better below
            path.parent.mkdir(parents=True, exist_ok=True)
        file = _lock(lock, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot write {path} ({reason}): make room, or choose another folder") from error
    with file:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()


def _lock(lock: Path, path: Path) -> TextIO:
    while True:
        file = lock.open("a+")
        _wait_for(file, path)
        with contextlib.suppress(FileNotFoundError):
            # after a wait it can be one that its holder has removed, and another process may hold the next
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        file.close()


def _wait_for(file: TextIO, path: Path) -> None:
    """Lock an open file, and write into it who holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for {_holder(file)}, which is at work on {path}", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # a network disk without locks
        return
    with contextlib.suppress(OSError):  # a full disk
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())


def _holder(file: TextIO) -> str:
    """Who holds the lock of an open file, as it writes there right after; another process, where it stays silent."""
    for _ in range(20):
        file.seek(0)
        if said := file.read():
            return said
        time.sleep(0.05)
    return "another process"


def mean_std(values: list[float]) -> dict:
    """Mean and sample standard deviation (None of a single value) over seeds, with the values themselves."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": list(values),
    }


def spread(metric: dict, scale: float = 1, digits: int = 1) -> str:
    """A mean_std in figures: mean ± deviation over seeds, the value alone of one seed."""
    if metric["mean"] is None:
        return "undefined"
    mean = f"{scale * metric['mean']:.{digits}f}"
    several = len(metric["values"]) > 1  # a deviation of 0 stands in older files of one seed
    return f"{mean} ± {scale * metric['std']:.{digits}f}" if several else mean


def save_results(out: str | Path, result: dict) -> Path:
    """Write a result to `out`/<question>/<run>.json, together with the environment it was measured in.

    Raises ValueError where `question` or `run` is no plain name, and would lead elsewhere.
    """
    path = result_path(out, result)
    text = json.dumps(_finite({**result, "environment": environment()}), indent=1, allow_nan=False)
    # a list of numbers goes on one line, for readers and for git
    text = re.sub(r"\[\s+((?:(?:[-+.\deE]+|null),?\s+)+)\]", lambda match: f"[{' '.join(match[1].split())}]", text)
    write_file(path, text.encode() + b"\n")
    return path


def result_path(out: str | Path, result: dict) -> Path:
    """Where a result is saved: `out`/<question>/<run>.json. Raises ValueError where that would be elsewhere."""
    for field in ("question", "run"):
        if not is_plain_name(result[field]):
            raise ValueError(f"{result[field]!r} can't be the {field} of a result: it is no name of a file")
    return Path(out) / result["question"] / f"{result['run']}.json"


@contextlib.contextmanager
def claim(out: str | Path, head: dict, overwrite: bool) -> Iterator[None]:
    """Alone with the files of a run among all processes, while it trains: who comes second waits.

    `head` is how its result begins: question, run, config, seeds and data. Raises ValueError where another run's result
    has that name, with other settings or data, or with seeds that this one has not, unless it may `overwrite` it.
    """
    path = result_path(out, head)
    with locked(path):
        if path.exists() and not overwrite:
            other = load_result(path)
            changed = differences(other, head) + ["seeds"] * (not set(other["seeds"]) <= set(head["seeds"]))
            if changed:
                raise ValueError(f"{path} is a run's with {in_words(changed)}: {ANOTHER_RUN}")
        yield


def file_digest(path: str | Path) -> str:
    """A hash of a file's bytes. Raises FileNotFoundError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


ANOTHER_RUN = "give another --out, or --overwrite to replace it"


def differences(result: dict, head: dict) -> list[str]:
    """The settings in which a result differs from how it should begin, and "data" where it was made from other data.

    Seeds are compared elsewhere. A setting that one of them has not is null; data without an identity, as in results of
    older versions, are not compared.
    """
    config, expected = result["config"], json.loads(json.dumps(head["config"]))
    names = sorted((config.keys() | expected.keys()) - {"seed"})
    digests = [data.get("digest") for data in (result["data"], head["data"])]
    other_data = None not in digests and digests[0] != digests[1]
    return [name for name in names if config.get(name) != expected.get(name)] + ["data"] * other_data


def in_words(changed: list[str]) -> str:
    """What differs between two runs, as of `differences`."""
    settings = ", ".join(name for name in changed if name != "data")
    return " and ".join([f"other settings ({settings})"] * bool(settings) + ["other data"] * ("data" in changed))


def _finite(value):
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


FIELDS = (
    "question:text", "run:text", "config:dict", "seeds:list", "seeds.*:number", "data:dict", "models?:dict",
    "metrics?:dict", "history?:list", "rows?:list", "seconds?:number", "environment?:dict",
)  # fmt: skip
COMMANDS = {"q1": "python q1_linear_attention.py", "q2": "python hw2-q2.py", "q3": "python -m asr train"}
LARGEST_RESULT = 100_000_000  # bytes
TYPES = {
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300,
    "text": lambda value: isinstance(value, str),
    "dict": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
    "bool": lambda value: isinstance(value, bool),
}


def is_plain_name(name) -> bool:
    """Whether a text can name a file in a folder, and nothing elsewhere."""
    return (
        isinstance(name, str)
        and 1 <= len(name.encode(errors="replace")) <= 200
        and name.isprintable()
        and not name.startswith(".")
        and not set(name) & set("/\\")
    )


def load_result(path: str | Path, *keys: str) -> dict:
    """Read a result file, which has what all have (FIELDS) and `keys`.

    A key is a path, as `models.*.metrics.test?.accuracy.mean:number`: a star stands for each item of a dictionary or
    list, a field with a question mark may be absent or null. The type is a name of TYPES, or left out; with a question
    mark, null does, too.
    Raises FileNotFoundError, or ValueError for what is no such file, with its name.
    """
    path = Path(path)
    if not path.exists():
        command = COMMANDS.get(path.parent.name, "a run")
        raise FileNotFoundError(f"there is no result file {path}: {command} writes such files, or make benchmark")
    if not path.is_file() or path.stat().st_size > LARGEST_RESULT:
        raise ValueError(f"{path} is no result file: it is a folder, or larger than {LARGEST_RESULT:,} bytes")
    try:
        result = json.loads(path.read_bytes().decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # half a file, not UTF-8, or nested without an end
        raise ValueError(f"{path} is no result file ({error}): delete it and run its command again") from error
    for key in (*FIELDS, *keys):
        if problem := _problem(result, *key.partition(":")[::2]):
            raise ValueError(f"{path} is no result file of this kind: {problem}")
    for field in ("question", "run"):
        if not is_plain_name(result[field]):
            raise ValueError(f"{path} can't be used: its {field} {result[field]!r} is no name of a file")
    return result


def _problem(value, key: str, kind: str, place: str = "the file") -> str | None:
    """What is wrong with the part of a result that a key leads to, or None."""
    if not key:
        fits = not kind or (value is None and kind.endswith("?")) or TYPES[kind.removesuffix("?")](value)
        return None if fits else f"{place} is {type(value).__name__}, not {kind.removesuffix('?')}"
    name, _, rest = key.partition(".")
    if name == "*":
        if not isinstance(value, dict | list):
            return f"{place} is {type(value).__name__}, not dict or list"
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return next((problem for at, item in items if (problem := _problem(item, rest, kind, f"{place}/{at}"))), None)
    if not isinstance(value, dict):
        return f"{place} is {type(value).__name__}, not dict"
    found = value.get(name.removesuffix("?"))
    if found is None and not (kind.endswith("?") and not rest and name in value):
        return None if name.endswith("?") else f"{place} has no {name}"
    return _problem(found, rest, kind, f"{place}/{name.removesuffix('?')}".removeprefix("the file/"))


def _refuse_constant(constant: str):
    raise ValueError(f"{constant} is not JSON")


def environment() -> dict:
    """Library versions, processor, threads, memory and commit: what a figure depends on beside its configuration.

    Memory is in bytes: the machine's, and the most that this process has held at once, of a GPU's, too.
    """
    import torch  # two seconds, which a script that downloads files does without

    packages = ("torch", "torchvision", "accelerate", "numpy", "medmnist")
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": memory(),
        "peak_memory": peak_memory(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "gpu_peak_memory": torch.cuda.max_memory_allocated() if gpu else None,
        "git_commit": commit or "unknown",
    }


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = re.search(r"^model name\s*:\s*(.*\S)", described, re.MULTILINE)
    return named[1] if named else platform.processor()


def memory() -> int | None:
    """The machine's memory in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows has no sysconf
        return None


def peak_memory() -> int | None:
    """The most bytes that this process has held at once; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage's begins with the peak of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def cost(result: dict) -> str:
    """What a saved result took, in a line: time, machine, and the most memory of one of its processes."""
    machine, models = result["environment"], result.get("models", {})
    minutes, seconds = divmod(round(result["seconds"]), 60)
    words = [f"{minutes} min {seconds} s" if minutes else f"{seconds} s"]
    words += ["all trainings together"] * bool(models)
    words += [machine["gpu"]] if machine["gpu"] else [f"{machine['cores']} cores", machine.get("processor")]
    peaks = [each.get("peak_memory") for each in (machine, *models.values())]
    if any(peaks):
        words.append(f"at most {max(filter(None, peaks)) / 1e9:.1f} GB of memory in one process")
    return ", ".join(filter(None, words))
