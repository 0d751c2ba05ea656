"""An entry of the catalogue of runs, of which each course lists its own in its `runs.py`."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import records


class NotRun(Exception):
    """A result that is not there. Its text is the command that measures it."""


@dataclass(frozen=True)
class Run:
    """A run whose results are committed, or would be if its data were at hand.

    `what` says in words what it is, and on which data; `name` is that of its result file, results/<name>.json, and
    `figures` those of its plots, plots/<figure>.png. `{decoder}`, `{seed}` and the like in `name` and `command` stand
    for each of the values that `each` has for them: a result file for every combination. `load` reads such a file and
    checks what it holds. `draw` draws the figures from the run's files, and those of the runs `beside` it.
    """

    what: str
    name: str
    command: str
    figures: tuple[str, ...] = ()
    each: dict[str, tuple] = field(default_factory=dict, hash=False)
    load: Callable[[Path], dict] = records.load_result
    draw: Callable[[Iterable[Path], Path], list[Path]] | None = None
    beside: tuple[Run, ...] = ()

    def names(self, **fixed) -> list[str]:
        """The names of its result files; of those with `fixed` values, as decoder="lstm"."""
        each = self.each | {key: (value,) for key, value in fixed.items()}
        combinations = itertools.product(*each.values())
        return [self.name.format(**dict(zip(each, values, strict=True))) for values in combinations]

    def results(self, root: Path, **fixed) -> list[tuple[Path, dict]]:
        """Its result files that are there, with what they hold."""
        paths = [root / "results" / f"{name}.json" for name in self.names(**fixed)]
        return [(path, self.load(path)) for path in paths if path.exists()]

    def result(self, root: Path, **fixed) -> dict:
        """What the first of its files holds. Raises NotRun where there is none."""
        result = self.find(root, **fixed)
        if result is None:
            raise NotRun(self.first_command(**fixed))
        return result

    def find(self, root: Path, **fixed) -> dict | None:
        """What the first of its files holds, or None where there is none."""
        return next((result for _, result in self.results(root, **fixed)), None)

    def first_command(self, **fixed) -> str:
        """The command for the first of its files."""
        return self.command.format(**{key: values[0] for key, values in self.each.items()} | fixed)

    @property
    def shown_command(self) -> str:
        """The command with DECODER and SEED in capitals where there are several, and the values of the latter."""
        shown = self.command.format(
            **{key: values[0] if len(values) == 1 else key.upper() for key, values in self.each.items()}
        )
        seeds = self.each.get("seed", ())
        return shown + (f"  # SEED: {', '.join(map(str, seeds))}" if len(seeds) > 1 else "")

    @property
    def stem(self) -> str:
        """What the names of its files have in common: without decoder and seed."""
        return re.sub(r"-(seed)?\{\w+\}", "", self.name)


def checked(*keys: str) -> Callable[[Path], dict]:
    """Reads a result file that has to hold these keys (see `records.load_result`)."""
    return functools.partial(_load, keys=keys)


def _load(path: Path, keys: tuple[str, ...]) -> dict:
    return records.load_result(path, *keys)


def plots(stem: str, *kinds: str) -> tuple[str, ...]:
    """The names of a run's figures, `<stem>-<kind>`."""
    return tuple(f"{stem}-{kind}" for kind in kinds)


def ratio_keys(rows: dict[str, str]) -> tuple[str, ...]:
    """What the result file of a benchmark with these rows holds."""
    medians = [f"metrics.{row}.{side}.median:number" for row in rows for side in ("baseline", "ours", "ratio")]
    return *medians, *(f"metrics.{row}.what:text" for row in rows), "environment.cores:number", "environment.torch:text"
