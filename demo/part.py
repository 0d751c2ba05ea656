"""What every part of the demonstration is, and how it runs a command of its course."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import command_line
from publish.page import Section


@dataclass(frozen=True)
class Part:
    """One part of the demonstration: its name, what is printed while it runs, and about how long it takes.

    `name` is its question's, perhaps with more behind a dash, and its log's.
    """

    name: str
    title: str
    seconds: int  # on two cores
    run: Callable[[Path], Section]


def call(main: Callable[[list[str]], int], program: str, *flags: str) -> str:
    """Run a command of this repository, and return it as text. Raises CommandFailed where it fails."""
    command = f"{program} {shlex.join(flags)}"
    print(f"$ {command}", flush=True)
    code = main(list(flags))
    if code == 130:
        raise KeyboardInterrupt
    if code:
        failure = command_line.CommandFailed(f"{command} ended with exit code {code}")
        failure.exit_code = code
        raise failure
    return command
