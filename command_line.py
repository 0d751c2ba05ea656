"""The command line of every script: flags with one dash or two, errors in one line, exit codes."""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from utils import Diverged


class ArgumentParser(argparse.ArgumentParser):
    """Accepts each flag with one dash or two, and reports a mistake in one line."""

    def add_flag(self, name: str, **kwargs) -> None:
        self.add_argument(f"--{name}", **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args([re.sub(r"^-(?=[a-z][a-z0-9_])", "--", arg) for arg in args], namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def check_flags(config, checks: dict[str, tuple[bool, str]]) -> None:
    """Raise ValueError for the first flag of a Config that is not valid, with what was expected of it."""
    for name, (valid, expected) in checks.items():
        if not valid:
            raise ValueError(f"--{name} is {getattr(config, name)}, but must be {expected}")


def entry_point(main: Callable[[list[str] | None], int | None]) -> Callable[[list[str] | None], int]:
    """Turn what a user can cause into one line on stderr and an exit code, instead of a traceback.

    2: wrong input or an unusable file; 1: training diverged; 130: Ctrl-C.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            return main(argv) or 0
        except KeyboardInterrupt:
            message, code = "interrupted; a training run goes on where it was with the same command and --resume", 130
        except Diverged as error:
            message, code = str(error), 1
        except (ValueError, OSError) as error:
            message, code = f"error: {error}", 2
        script = Path(sys.argv[0])
        name = f"python -m {script.parent.name}" if script.name == "__main__.py" else script.name
        print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
        return code

    return run
