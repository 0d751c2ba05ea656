"""The runs of Question 1, all on random numbers."""

from __future__ import annotations

from common.catalogue import Run, checked, plots
from q1.plots import DEMO_KEYS, MEMORY_KEYS, SPEED_KEYS, draw

DEMO = Run(
    "error, bound and crossover",
    "q1/demo",
    "python q1_linear_attention.py",
    plots("q1/demo", "error", "weights"),
    load=checked(*DEMO_KEYS),
    draw=draw,
)
SPEED = Run(
    "time against other attention",
    "q1/attention-speed",
    "python benchmarks/q1_attention.py",
    plots("q1/attention-speed", "features", "time"),
    load=checked(*SPEED_KEYS),
    draw=draw,
)
MEMORY = Run(
    "memory against other attention",
    "q1/attention-memory",
    "python benchmarks/q1_attention.py --memory",
    plots("q1/attention-memory", "length"),
    load=checked(*MEMORY_KEYS),
    draw=draw,
)
RUNS = (DEMO, SPEED, MEMORY)
LENGTH, LONGEST = 16384, 65536  # of the tables
