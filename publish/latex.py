"""Result files, and how their numbers are written in LaTeX."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import records
from common.catalogue import Run
from publish import catalogue


@dataclass(frozen=True)
class Document:
    """A report: report/<name>.tex, its sections in report/<folder>/, and what publish makes for it.

    `numbers` are functions of results that give what \\result{key} stands for; `tables` those of its generated files.
    """

    name: str
    folder: str
    numbers: tuple[Callable[[Results], dict[str, str]], ...]
    tables: dict[str, Callable[[Results], str]]


class Results:
    """Result files by name, which remembers the ones that were read."""

    def __init__(self, root: Path):
        self.root, self.read = root, {}

    def exists(self, name: str) -> bool:
        return (self.root / "results" / f"{name}.json").exists()

    def __call__(self, name: str) -> dict:
        """The contents of results/<name>.json. Raises FileNotFoundError where there is none."""
        path = self.root / "results" / f"{name}.json"
        result = catalogue.run_of(name).load(path)
        self.read[f"results/{name}.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return result

    def speech(self, run: Run, decoder: str) -> list[dict]:
        """The results of the seeds that were run."""
        return [self(name) for name in run.names(decoder=decoder) if self.exists(name)]

    def needed_speech(self, run: Run, decoder: str) -> list[dict]:
        """The same. Raises FileNotFoundError where none was run."""
        found = self.speech(run, decoder)
        if not found:
            raise FileNotFoundError(
                f"{run.names(decoder=decoder)[0]} was not run here: {run.first_command(decoder=decoder)}"
            )
        return found


def absent(run: Run) -> str:
    """What stands in the place of a missing result: its command, which may break at a slash; its dashes stay two."""
    command = plain(run.command).replace("--", "-{}-").replace("/", r"/\allowbreak ")
    return rf"(Not run here: \texttt{{{command}}}.)"


def plain(text: str) -> str:
    """Text for LaTeX."""
    text = text.replace("\\", r"\textbackslash ")
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("~", r"\textasciitilde{}").replace("^", r"\textasciicircum{}").replace("±", r"$\pm$")


def define(key: str, value: str) -> str:
    """What lets \\result{key} stand for the value."""
    return rf"\expandafter\def\csname result@{key}\endcsname{{{value}}}"


def number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}".replace(",", "{,}")  # the braces: a comma of thousands, in formulas too


def percent(value: float, digits: int = 1) -> str:
    return rf"{number(100 * value, digits)}\,\%"


def spread(metric: dict, scale: float = 1, digits: int = 1) -> str:
    return f"${records.spread(metric, scale, digits)}$".replace(" ± ", r"\pm")


def tabular(columns: str, header: list[str], rows: list[list[str] | str]) -> str:
    """A table; a row that is a string is a heading of the rows below it."""
    lines = [rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", " & ".join(header) + r" \\", r"\midrule"]
    for place, row in enumerate(rows):
        if isinstance(row, str):
            lines.append(
                (r"\addlinespace " if place else "") + rf"\multicolumn{{{len(header)}}}{{@{{}}l}}{{\emph{{{row}}}}} \\"
            )
        else:
            lines.append(" & ".join(row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])
