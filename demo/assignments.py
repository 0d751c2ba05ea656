"""The assignments in brief: backpropagation by hand, a network that repeats what it reads, one that reads words."""

from __future__ import annotations

from pathlib import Path

import records
from assignments.hw1 import digits
from assignments.hw2 import memory
from assignments.hw3 import ocr, ocr_plots
from demo.part import Part, call
from publish.page import Picture, Section

ECHO = ("--delay", "4", "--hidden_size", "128", "--epochs", "6", "--steps", "100", "--learning_rate", "0.008")
READER = (
    "--method", "nll", "--word_length", "4", "--words", "1500", "--epochs", "4", "--learning_rate", "0.004",
    "--tested", "100",
)  # fmt: skip


def in_brief(out: Path) -> Section:
    """Homework 1's network on small digits, Homework 2's echo of random letters, Homework 3's rendered words."""
    commands = (
        call(digits.main, "python assignments/hw1/mlp.py", "--epochs", "40", "--out", str(out)),
        call(memory.main, "python assignments/hw2/memory.py", *ECHO, "--out", str(out)),
        call(ocr.main, "python assignments/hw3/ocr.py", *READER, "--out", str(out)),
    )
    results, plots = out / "assignments", out / "plots" / "assignments"
    by_hand = records.load_result(results / "hw1-digits.json", "largest_difference:number")
    echo = records.load_result(results / "hw2-echo-delay4-seed0.json", "metrics.test.accuracy.mean:number")
    words = records.load_result(results / "hw3-ocr-nll-seed0.json", *ocr_plots.KEYS, "by_set:dict")
    return Section(
        "Assignments",
        headline=told(by_hand, echo, words),
        lines=(f"The weights found by hand differ from autograd's by {by_hand['largest_difference']:.0e} at most.",),
        pictures=(
            Picture(
                plots / "hw1-digits.png",
                "The loss falls, and the accuracy rises, over the epochs",
                "Backpropagation by hand on scikit-learn's digits (real).",
            ),
            Picture(
                plots / f"{echo['run']}-gates.png",
                "The update gate of each unit at each letter: mostly near 0, so that the state is written anew",
                "What a GRU keeps from letter to letter (synthetic) while it says them four steps later.",
            ),
            Picture(
                plots / f"{words['run']}-hello.png",
                "Low energies at h, e, l, l and o, one after the other",
                "The energies of the word “hello” (synthetic image), window by window.",
            ),
        ),
        commands=commands,
    )


def told(by_hand: dict, echo: dict, words: dict) -> str:
    right, letters = (100 * result["metrics"]["test"]["accuracy"]["mean"] for result in (by_hand, echo))
    count, exact = by_hand["data"]["sizes"]["test"], 100 * words["metrics"]["test"]["paths_exact"]["mean"]
    return (
        f"Trained without autograd, a network recognises {right:.1f} % of {count} small digits (real);"
        f" a GRU repeats {letters:.1f} % of random letters (synthetic) four letters later; a small network reads"
        f" {exact:.0f} % of rendered words (synthetic)."
    )


PARTS = (Part("assignments", "Assignments: backpropagation by hand, an echo, words", 50, in_brief),)
