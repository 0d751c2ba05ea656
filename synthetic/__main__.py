"""Synthetic stand-ins for data that have to be downloaded: python -m synthetic oct | speech (each has --help)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # before a working folder with a records.py of its own

import command_line  # first, for Ctrl-C during the others

# isort: split

from dataclasses import dataclass

from command_line import SEED, check_flags, flag
from synthetic import scans, speech


@dataclass(frozen=True)
class Scans:
    """The flags of `python -m synthetic oct`."""

    n: int = flag(20_000, "scans to train on", scans.SCANS)
    out: str = flag("data/synthetic-oct.npz", "file to write")
    contact_sheet: str | None = flag(None, "draw examples: STEM.pdf and STEM.png", metavar="STEM")
    seed: int = flag(0, "seed of what is drawn", SEED)

    __post_init__ = check_flags


@dataclass(frozen=True)
class Speech:
    """The flags of `python -m synthetic speech`."""

    n: int | None = flag(None, "sentences", speech.SENTENCES, shown="2000, or all of --texts")
    out: str = flag("data/spoken", "folder to write")
    texts: str | None = flag(
        None, "speak the texts of a metadata.csv like LJ Speech's", metavar="FILE", shown="sentences of a grammar"
    )
    engine: str = flag("espeak", "who speaks: espeak, flite, or both", choices=(*speech.ENGINES, speech.BOTH))
    seed: int = flag(0, "seed of what is said, and how", SEED)

    __post_init__ = check_flags


COMMANDS = {
    "oct": (Scans, "OCT-like scans, in a file shaped like octmnist.npz"),
    "speech": (Speech, "spoken sentences, in the layout of LJ Speech"),
}


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    command, config = command_line.parse_command(COMMANDS, argv, __doc__)
    if command == "speech":
        speech.write_corpus(config.out, config.n, config.seed, config.texts, config.engine)
        return
    scans.write_scans(config.out, config.n, config.seed)
    if config.contact_sheet:
        scans.plot_contact_sheet(config.contact_sheet, config.seed)


if __name__ == "__main__":
    sys.exit(main())
