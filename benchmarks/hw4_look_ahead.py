"""What a limited look-ahead costs Question 3's encoder: how late its output comes, and how many characters are wrong.

A shipped recogniser, trained to see whole clips, is scored by its CTC head alone, with a mask in each block that hides
what lies too far ahead. Clips: those of `python download_ljspeech.py`, or other ones as `python -m synthetic speech`
writes them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import records
from asr.checkpoint import load_model
from asr.config import checkpoint_flag
from asr.generate import ctc_greedy
from asr.model import Encoder
from asr.train import score_part
from assignments.hw4 import look_ahead_plots
from assignments.hw4.constructions import visible
from attention import MultiHeadAttention
from command_line import Check, check_flags, flag
from common.speech.audio import Features
from common.speech.data import load_corpus

LOOK_AHEADS = (0, 1, 2, 4, 8, 16, 32)  # positions, in each block
CONVOLUTIONS_AHEAD = 2  # frames that the encoder's two convolutions of kernel 3 look ahead of a position's own
FRAMES_PER_POSITION = 2
LOOKS = Check(
    lambda sizes: len(sizes) > 0 and all(0 <= size <= 10_000 for size in sizes), "whole numbers from 0 to 10000"
)


@contextlib.contextmanager
def limited(encoder: Encoder, look_ahead: int | None) -> Iterator[None]:
    """In this block each position of each of the encoder's blocks sees so many after it; None: all of them."""

    def limit(module: MultiHeadAttention, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, kwargs | {"visible": visible(args[0].shape[1], look_ahead)}

    layers = [module for module in encoder.modules() if isinstance(module, MultiHeadAttention)]
    hooks = [layer.register_forward_pre_hook(limit, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def frames_late(encoder: Encoder, look_ahead: int) -> int:
    """How many frames after a position's own its output can be computed (eq:hw4-look-ahead)."""
    return FRAMES_PER_POSITION * len(encoder.blocks) * look_ahead + CONVOLUTIONS_AHEAD


def milliseconds_late(frames: int, features: Features) -> float:
    """The same in time, with the second half of the last frame's window."""
    return frames * features.hop_ms + features.window_ms / 2


@dataclass(frozen=True)
class Flags:
    """The flags."""

    checkpoint: str = checkpoint_flag()
    data: str = flag("data/LJSpeech-1.1", "folder of the clips, of which the test part is scored")
    cache: str = flag("data/features", "folder of their features")
    look_aheads: tuple[int, ...] = flag(LOOK_AHEADS, "positions ahead that each block sees", LOOKS)
    out: str = flag("runs", "folder of the result file and the plot")

    __post_init__ = check_flags


def run(args: Flags) -> dict:
    """Score the recogniser with each look-ahead, and with none; in the form of a result file."""
    start = time.perf_counter()
    model, features = load_model(args.checkpoint)
    corpus = load_corpus(args.data, features, args.cache)
    rows = []
    for look_ahead in (*args.look_aheads, None):
        with limited(model.encoder, look_ahead):
            cer = score_part(model, corpus.test, ctc_greedy)["cer"]
        late = None if look_ahead is None else frames_late(model.encoder, look_ahead)
        row = {"look_ahead": look_ahead, "frames_late": late, "cer": {key: cer[key] for key in ("mean", "interval")}}
        row["milliseconds_late"] = None if late is None else milliseconds_late(late, features)
        rows.append(row)
        print(said(row))
    return {
        "question": "assignments",
        "run": "hw4-look-ahead",
        "config": {"checkpoint": Path(args.checkpoint).name, "blocks": len(model.encoder.blocks)},
        "seeds": [],
        "data": corpus.describe(),
        "rows": rows,
        "metrics": {"test": {"cer": rows[-1]["cer"]}},
        "seconds": time.perf_counter() - start,
    }


def said(row: dict) -> str:
    low, high = (100 * bound for bound in row["cer"]["interval"])
    late = "the whole clip" if row["frames_late"] is None else f"{row['milliseconds_late']:,.0f} ms late"
    sees = "all" if row["look_ahead"] is None else f"{row['look_ahead']}"
    return f"{sees:>4} positions ahead: {late:>15}, CER {100 * row['cer']['mean']:.1f} % [{low:.1f}, {high:.1f}]"


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    args = command_line.parse(Flags, argv, __doc__)
    (Path(args.out) / "assignments").mkdir(parents=True, exist_ok=True)  # fails now, not at the end
    path = records.save_results(args.out, run(args))
    print(path, *look_ahead_plots.draw([path], Path(args.out) / "plots"), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
