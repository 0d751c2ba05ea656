"""The assignments in brief: backpropagation by hand, an echo, rendered words, a small Vision Transformer."""

from __future__ import annotations

from pathlib import Path

import records
from assignments.hw1 import digits
from assignments.hw2 import memory
from assignments.hw3 import ocr, ocr_plots
from assignments.hw4 import compare, compare_plots
from demo.part import Part, call
from publish.page import Picture, Section

ECHO = ("--delay", "4", "--hidden_size", "128", "--epochs", "6", "--steps", "100", "--learning_rate", "0.008")
READER = (
    "--method", "nll", "--word_length", "4", "--words", "1500", "--epochs", "4", "--learning_rate", "0.004",
    "--tested", "100",
)  # fmt: skip
TRANSFORMER = (
    "--embed_dim", "48", "--num_layers", "3", "--mlp_dim", "96", "--epochs", "10", "--learning_rate", "0.003",
)  # fmt: skip


def in_brief(out: Path) -> Section:
    """One small network a homework: digits by hand, an echo of random letters, rendered words, digits in patches."""
    commands = (
        call(digits.main, "python assignments/hw1/mlp.py", "--epochs", "40", "--out", str(out)),
        call(memory.main, "python assignments/hw2/memory.py", *ECHO, "--out", str(out)),
        call(ocr.main, "python assignments/hw3/ocr.py", *READER, "--out", str(out)),
        call(compare.main, "python assignments/hw4/compare.py", *TRANSFORMER, "--out", str(out)),
    )
    results, plots = out / "assignments", out / "plots" / "assignments"
    by_hand = records.load_result(results / "hw1-digits.json", "largest_difference:number")
    echo = records.load_result(results / "hw2-echo-delay4-seed0.json", "metrics.test.accuracy.mean:number")
    words = records.load_result(results / "hw3-ocr-nll-seed0.json", *ocr_plots.KEYS, "by_set:dict")
    patches = records.load_result(results / "hw4-vit-digits-all-rate0.003-seed0.json", *compare_plots.TRIAL_KEYS)
    return Section(
        "Assignments",
        headline=told(by_hand, echo, words, patches),
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
            Picture(
                plots / f"{patches['run']}-attention.png",
                "Six digits, and below each how much the network looks at each of its patches",
                "Where a small Vision Transformer looks in digits (real) to recognise them.",
            ),
        ),
        commands=commands,
    )


def told(by_hand: dict, echo: dict, words: dict, patches: dict) -> str:
    right, letters, seen = (100 * result["metrics"]["test"]["accuracy"]["mean"] for result in (by_hand, echo, patches))
    count, exact = by_hand["data"]["sizes"]["test"], 100 * words["metrics"]["test"]["paths_exact"]["mean"]
    return (
        f"Of {count} small digits (real), a network trained without autograd recognises {right:.1f} %, a Vision"
        f" Transformer with {patches['parameters']:,} parameters {seen:.1f} %; a GRU repeats {letters:.1f} % of random"
        f" letters (synthetic) four letters later; a small network reads {exact:.0f} % of rendered words (synthetic)."
    )


PARTS = (Part("assignments", "Assignments: backpropagation by hand, an echo, words, patches", 60, in_brief),)
