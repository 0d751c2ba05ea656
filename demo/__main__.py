"""Every course in brief, on data that are here: `make demo`. Nothing is downloaded.

Each part runs commands of the homework, with their details in OUT/<part>.log. What they found is printed in a few
sentences (also in OUT/summary.txt), and shown on one page, OUT/index.html, with pictures and sound.
"""

from __future__ import annotations

import command_line  # isort: skip  (first: Ctrl-C during the imports below is one line)

import contextlib
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import records
from command_line import Check, flag
from demo import assignments, deep_features, q1, q2, q3
from demo.part import Part
from publish import page
from publish.page import Page, Section

PARTS = (*q1.PARTS, *q2.PARTS, *q3.PARTS, *deep_features.PARTS, *assignments.PARTS)  # a new course adds its own
WIDTH = 100  # columns of what is printed
GO_ON = (
    "source .venv/bin/activate",
    "python -m asr transcribe FILE   # write down what is said in a sound file of yours",
    "python hw2-q2.py --help         # Question 2 with other settings",
    "make homework                   # the original data: downloads 2.7 GB, takes a night",
    "make help                       # all else",
)


@contextlib.contextmanager
def ticking(seconds: int) -> Iterator[None]:
    """Show on a terminal that time passes, in a line that is gone at the end."""
    stream, done, start = sys.stderr, threading.Event(), time.monotonic()
    if not stream.isatty():
        yield
        return

    def tick() -> None:
        while not done.wait(1):
            print(f"\r  {time.monotonic() - start:.0f} s of about {seconds} s ", end="", file=stream, flush=True)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        print("\r\033[K", end="", file=stream, flush=True)


def attempt(part: Part, out: Path) -> tuple[Section, int]:
    """A part's section and exit code. One that fails says so, and does not hide the others."""
    log = out / f"{part.name}.log"
    with contextlib.ExitStack() as stack:
        stack.enter_context(ticking(part.seconds))
        file = stack.enter_context(log.open("w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(file))
        stack.enter_context(contextlib.redirect_stderr(file))
        try:
            return part.run(out), 0
        except command_line.CommandFailed as error:  # whose reason is in the log
            code = error.exit_code
        except Exception as error:
            traceback.print_exc()
            code = 2 if isinstance(error, ValueError | OSError) else 1
    *_, reason = log.read_text(encoding="utf-8").strip().splitlines()
    return Section(part.title, headline=f"This part failed: {reason}", lines=(f"Details are in {log}.",)), code


def told(section: Section) -> list[str]:
    """A section's sentences for the terminal, and its first picture."""
    lines = [section.headline]
    for sound in section.sounds:
        lines += [f"  said     {sound.said}", f"  written  {sound.written}"]
    lines += [*section.lines, *(f"Picture: {picture.path}" for picture in section.pictures[:1])]
    whole = {"break_on_hyphens": False, "break_long_words": False}  # a path is not broken
    return [
        wrapped
        for line in lines
        for wrapped in textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="  ", **whole)
    ]


class Teller:
    """Prints lines, and keeps them for the summary."""

    def __init__(self):
        self.lines: list[str] = []

    def __call__(self, *lines: str) -> None:
        self.lines += lines
        print(*lines, sep="\n", flush=True)


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def write_page(sections: list[Section], out: Path, seconds: float) -> Path:
    environment = records.environment()
    machine = f"{environment['cores']} cores ({environment['platform']}, PyTorch {environment['torch']})"
    intro = (
        "**Data on this page is synthetic:** random numbers and letters, drawn scans, sentences spoken by espeak-ng."
        " Only scikit-learn's small digits, in the last two parts, are real.",
        f"Made by `make demo` in {minutes(seconds)} on {machine}. Every number comes from a result file in `{out}`.",
    )
    title = "A deep-learning course in brief"
    go_on = Section("Go on", commands=GO_ON)
    return page.render(Page(title, intro, (*sections, go_on)), out / "index.html", embed=True)


def run(out: Path, parts: tuple[Part, ...]) -> int:
    """The parts, the summary and the page; returns the exit code of the first part that failed, or 0."""
    out.mkdir(parents=True, exist_ok=True)
    start, tell = time.monotonic(), Teller()
    about = sum(part.seconds for part in parts)
    about = f"{about} seconds" if about < 90 else f"{round(about / 60)} minutes"
    tell(
        "A deep-learning course in brief; nothing is downloaded.",
        f"It takes about {about} on two cores. Details go to {out}/*.log; Ctrl-C stops it.",
    )
    done = []
    for part in parts:
        tell("", f"{part.title} (about {part.seconds} s)")
        done.append(attempt(part, out))
        tell(*told(done[-1][0]))
    path = write_page([section for section, _ in done], out, time.monotonic() - start)
    tell(
        "",
        f"Done in {minutes(time.monotonic() - start)}. This page has it all, with sound, tables and commands to go on:",
        f"{path}",
    )
    records.write_file(out / "summary.txt", "\n".join([*tell.lines, ""]).encode())
    return next((code for _, code in done if code), 0)


def question(part: Part) -> str:
    return part.name.partition("-")[0]


QUESTIONS = tuple(dict.fromkeys(map(question, PARTS)))


@dataclass(frozen=True)
class Config:
    """The flags."""

    parts: tuple[str, ...] = flag(
        (),
        f"only these of {', '.join(QUESTIONS)}",
        Check(lambda names: set(names) <= set(QUESTIONS), f"of {', '.join(QUESTIONS)}"),
        shown="all",
    )
    out: Path = flag(Path("runs/demo"), "folder for the page, results, plots and logs")

    __post_init__ = command_line.check_flags


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__.partition("\n")[0])
    try:
        return run(config.out, tuple(part for part in PARTS if not config.parts or question(part) in config.parts))
    except KeyboardInterrupt:
        command_line.say("interrupted; `make demo` starts again")
        return 130


if __name__ == "__main__":
    sys.exit(main())
