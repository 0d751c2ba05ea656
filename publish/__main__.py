"""Take what runs/ holds of the catalogue's runs over into results/, draw it, and write all that is made from it.

README.md, docs/, results/index.html and report/generated/ follow; the report itself is typeset by `make reports`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # before a working folder with a records.py of its own

import command_line  # first, for Ctrl-C during the others

# isort: split

from collections.abc import Iterable
from dataclasses import dataclass

import records
from command_line import flag
from common.catalogue import Run
from publish import catalogue, readme, report, results_page


@dataclass(frozen=True)
class Config:
    """The flags."""

    runs: Path = flag(Path("runs"), "folder that trainings and benchmarks have written to")
    tables: bool = flag(False, "only write the tables, pages and the report's numbers anew: take and draw nothing")
    redraw: bool = flag(False, "draw every figure anew, also those of results that stand in results/ already")


def take(run: Run, source: Path, root: Path) -> list[str]:
    """Copy a run's result files from `source` to results/, and return their names. Raises ValueError as its `load`."""
    found = [name for name in run.names() if (source / f"{name}.json").exists()]
    for name in found:
        path = source / f"{name}.json"
        run.load(path)  # refuses what is none of its kind
        records.write_file(root / "results" / f"{name}.json", path.read_bytes())
    return found


def draw(runs: Iterable[Run], root: Path) -> list[Path]:
    """Draw the figures of runs from their files in results/."""
    drawn = []
    for run in runs:
        paths = [path for each in (run, *run.beside) for path, _ in each.results(root)]
        if run.draw and run.results(root):
            drawn += run.draw(paths, root / "plots")
    return drawn


def publish(source: Path, root: Path, redraw: bool) -> None:
    """Take, draw, and say what was taken, and what is nowhere."""
    taken, missing = {}, []
    for run in catalogue.RUNS:
        names = take(run, source, root)
        if names:
            taken[run.name] = run
            print(f"took {', '.join(names)}")
        elif not run.results(root):
            missing.append(f"  {run.what}: {run.shown_command}")
    changed = [run for run in catalogue.RUNS if redraw or {run.name, *(each.name for each in run.beside)} & {*taken}]
    print(f"{len(taken)} of {len(catalogue.RUNS)} runs taken from {source}, {len(draw(changed, root))} files drawn")
    if missing:
        print("no result, neither there nor in results/:", *missing, sep="\n")


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    config = command_line.parse(Config, argv, __doc__)
    if not config.tables:
        if not config.runs.is_dir():
            raise FileNotFoundError(f"there is no folder {config.runs}: run a training first, or give --tables")
        publish(config.runs, records.ROOT, config.redraw)
    readme.write()
    results_page.write()
    report.write()
    print("written anew: README.md, docs/, results/index.html, report/generated/")


if __name__ == "__main__":
    sys.exit(main())
