"""Result files: written in one piece, with the environment they were measured in, and read back with care."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent


def write_file(path: str | Path, data: bytes) -> None:
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


def mean_std(values: list[float]) -> dict:
    """Mean and sample standard deviation (0 for a single value) over seeds, with the values themselves."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "values": list(values),
    }


def save_results(out: str | Path, result: dict) -> Path:
    """Write a result to `out`/<question>/<run>.json, together with the environment it was measured in."""
    path = Path(out) / result["question"] / f"{result['run']}.json"
    text = json.dumps(_finite({**result, "environment": environment()}), indent=1, allow_nan=False)
    # a list of numbers goes on one line, for readers and for git
    text = re.sub(r"\[\s+((?:(?:[-+.\deE]+|null),?\s+)+)\]", lambda match: f"[{' '.join(match[1].split())}]", text)
    write_file(path, text.encode() + b"\n")
    return path


def _finite(value):
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def environment() -> dict:
    """Library versions, processor, threads and commit: what a figure depends on beside its configuration."""
    import torch  # two seconds, which a script that downloads files does without

    packages = ("torch", "torchvision", "accelerate", "numpy", "medmnist")
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": commit or "unknown",
    }
