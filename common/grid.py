"""Several runs of one script side by side: seeds, or a grid of configurations, each resumable by itself."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

import command_line
import records
import utils


class Run(Protocol):
    """A configuration of a script, as its settings dataclass: the command that runs it, and where its files go."""

    seed: int
    resume: bool

    def command(self) -> list[str]: ...

    def file(self, suffix: str) -> Path: ...


class Training:
    """What makes a script's dataclass of flags such a run: its settings, files and command line."""

    QUESTION: ClassVar[str]  # the folder of its results
    ASIDE: ClassVar[tuple[str, ...]]  # flags that a trained network does not depend on
    seed: int
    seeds: tuple[int, ...]
    out: str

    @property
    def run_name(self) -> str:
        raise NotImplementedError

    def settings(self) -> dict:
        """What a trained network depends on."""
        return {name: value for name, value in vars(self).items() if name not in self.ASIDE}

    def head(self, described: dict) -> dict:
        """How its result begins, by which another run of the same name is told from it; with its data described."""
        return {
            "question": self.QUESTION,
            "run": self.run_name,
            "config": self.settings(),
            "seeds": list(self.seeds or (self.seed,)),
            "data": described,
        }

    def file(self, suffix: str) -> Path:
        return Path(self.out) / self.QUESTION / f"{self.run_name}{suffix}"

    def command(self) -> list[str]:
        """The command line that gives this configuration."""
        return [sys.executable, str(Path(inspect.getfile(type(self))).resolve()), *command_line.flags_of(self)]


def results_side_by_side(runs: list[Run], head: Callable[[Run], dict], keys: tuple[str, ...] = ()) -> list[dict]:
    """The results of runs, each in a one-thread process of its script, as many at a time as there are cores.

    They equal those of the same commands run one by one; with `resume`, those that are there are read. `head` is how
    the result of a run begins, and `keys` are what it has to hold (see `records.load_result`). Raises ValueError where
    one fails otherwise than by diverging, or leaves another result than the one asked for.
    """
    jobs = {run.file(".log"): run.command() for run in runs if not (run.resume and is_finished(run, head, keys))}
    command_line.side_by_side(jobs, accepted=(0, utils.Diverged.exit_code))
    return [result_of(run, head, keys) for run in runs]


def is_finished(run: Run, head: Callable[[Run], dict], keys: tuple[str, ...]) -> bool:
    """Whether its result is there."""
    try:
        result_of(run, head, keys)
    except (OSError, ValueError):
        return False
    return True


def result_of(run: Run, head: Callable[[Run], dict], keys: tuple[str, ...]) -> dict:
    """The result of a run. Raises OSError or ValueError where there is none, or that of another run."""
    path = run.file(".json")
    result = records.load_result(path, *keys)
    changed = records.differences(result, head(run))
    if changed or result["seeds"] != [run.seed]:
        raise ValueError(f"{path} is of a run with {records.in_words(changed) or 'another seed'}: run it again")
    return result
