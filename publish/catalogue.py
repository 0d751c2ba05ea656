"""Every run whose result is committed, once, by question; a new course adds the runs of its `runs.py` here."""

from __future__ import annotations

from asr import runs as q3
from assignments import runs as assignments
from common.catalogue import Run
from deep_features import runs as deep_features
from lab3 import runs as lab3
from q1 import runs as q1
from q2 import runs as q2

QUESTIONS = {
    "q1": q1.RUNS,
    "q2": q2.RUNS,
    "q3": q3.RUNS,
    "deep_features": deep_features.RUNS,
    "assignments": assignments.RUNS,
    "lab3": lab3.RUNS,
}
RUNS = tuple(run for runs in QUESTIONS.values() for run in runs)


def run_of(name: str) -> Run:
    """The run with the result file results/<name>.json. Raises KeyError where the catalogue has none."""
    for run in RUNS:
        if name in run.names():
            return run
    raise KeyError(f"no run of the catalogue writes {name}.json")
