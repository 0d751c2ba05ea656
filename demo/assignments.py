"""The assignments in brief: backpropagation by hand, and a network that repeats what it reads."""

from __future__ import annotations

from pathlib import Path

import records
from assignments.hw1 import digits
from assignments.hw2 import memory
from demo.part import Part, call
from publish.page import Picture, Section

ECHO = ("--delay", "4", "--hidden_size", "128", "--epochs", "6", "--steps", "100", "--learning_rate", "0.008")


def in_brief(out: Path) -> Section:
    """Homework 1's network on small digits, and Homework 2's echo on random letters."""
    commands = (
        call(digits.main, "python assignments/hw1/mlp.py", "--epochs", "40", "--out", str(out)),
        call(memory.main, "python assignments/hw2/memory.py", *ECHO, "--out", str(out)),
    )
    results, plots = out / "assignments", out / "plots" / "assignments"
    by_hand = records.load_result(results / "hw1-digits.json", "largest_difference:number")
    echo = records.load_result(results / "hw2-echo-delay4-seed0.json", "metrics.test.accuracy.mean:number")
    return Section(
        "Assignments",
        headline=told(by_hand, echo),
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
        ),
        commands=commands,
    )


def told(by_hand: dict, echo: dict) -> str:
    right, letters = (100 * result["metrics"]["test"]["accuracy"]["mean"] for result in (by_hand, echo))
    count = by_hand["data"]["sizes"]["test"]
    return (
        f"Trained without autograd, a network recognises {right:.1f} % of {count} small digits (real);"
        f" a GRU repeats {letters:.1f} % of random letters (synthetic) four letters later."
    )


PARTS = (Part("assignments", "Assignments: backpropagation by hand, and an echo", 35, in_brief),)
