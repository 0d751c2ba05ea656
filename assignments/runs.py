"""The runs of the assignments."""

from __future__ import annotations

from assignments.hw1 import digits
from common.catalogue import Run, checked

DIGITS = Run(
    "backpropagation by hand on scikit-learn's digits (real)",
    "assignments/hw1-digits",
    "python assignments/hw1/mlp.py",
    ("assignments/hw1-digits",),
    load=checked("history.*.train_loss:number", "metrics.test.accuracy.mean:number", "largest_difference:number"),
    draw=digits.draw,
)
RUNS = (DIGITS,)
