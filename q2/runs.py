"""The runs of Question 2: sweeps, the strong recipe, and what shifted images do."""

from __future__ import annotations

from common.catalogue import Run, checked, plots, ratio_keys
from q2.config import RESULT_KEYS, SHIFT_KEYS
from q2.plots import draw

DATA = {
    "octmnist": "OCTMNIST (real)",
    "pneumoniamnist": "PneumoniaMNIST (real)",
    "synthetic-oct": "OCT-like scans (synthetic)",
}
FLAGS = {  # of a sweep
    "octmnist": "--sweep",
    "pneumoniamnist": "--dataset pneumoniamnist --sweep --seeds 0 1 2 3 4",
    "synthetic-oct": "--dataset synthetic-oct --sweep",
}
SWEEPS = {
    name: Run(
        data,
        f"q2/{name}-sweep",
        f"python hw2-q2.py {FLAGS[name]}",
        plots(f"q2/{name}-sweep", "curves", "confusion", "filters", "mistakes", "pooling"),
        load=checked(*RESULT_KEYS),
        draw=draw,
    )
    for name, data in DATA.items()
}
STRONG = {
    name: Run(
        f"{DATA[name]}, strong recipe",
        f"q2/{name}-strong-adam-lr0.003",
        f"python hw2-q2.py {flags}",
        plots(f"q2/{name}-strong-adam-lr0.003", "curves", "confusion", "mistakes"),
        load=checked(*RESULT_KEYS),
        draw=draw,
    )
    for name, flags in {
        "octmnist": "--recipe strong --seeds 0 1 2",
        "pneumoniamnist": "--dataset pneumoniamnist --recipe strong --seeds 0 1 2 3 4",
    }.items()
}
SHIFTS = {
    name: Run(
        f"{data}, shifted images",
        f"q2/{name}-shift",
        f"python hw2-q2.py --shift --dataset {name}",
        (f"q2/{name}-shift",),
        load=checked(*SHIFT_KEYS),
        draw=draw,
    )
    for name, data in DATA.items()
}
TRAINING = {"epoch": "images/s", "epoch_every_core": "images/s", "sweep": "s"}  # row of the benchmark: its unit
TRAINING_SPEED = Run(
    "one epoch and a sweep, timed (synthetic)",
    "q2/training-speed",
    "python benchmarks/q2_training.py",
    load=checked(*ratio_keys(TRAINING)),
)
TRAINED = tuple(runs[name] for name in DATA for runs in (SWEEPS, STRONG) if name in runs)
RUNS = (*TRAINED, *SHIFTS.values(), TRAINING_SPEED)
EXAMPLES = "q2/synthetic-oct-examples"  # a figure of no run: what the synthetic scans look like
