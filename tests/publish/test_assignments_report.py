"""What the assignments' report says of energies turns with the numbers."""

import pytest

from publish import assignments_report
from records import mean_std


@pytest.mark.parametrize(
    ("growth", "words"),
    [
        ([1.5, 1.6, 1.55], "grows to 1.55 times its value half-way"),
        ([0.5, 0.6, 0.55], "shrinks to 0.55 times its value half-way"),
        ([1.0, 1.02, 1.01], "stands still"),  # within a twentieth
        ([0.5, 1.5, 1.6], "stands still"),  # within two standard errors
    ],
)
def test_whether_a_canyon_gets_deeper(growth, words):
    assert assignments_report.grows({"still_growing": mean_std(growth)}) == words


class Found:
    """Results with one file."""

    def __init__(self, result):
        self.result = result

    def exists(self, name):
        return self.result is not None

    def __call__(self, name):
        return self.result


def test_what_is_read_is_said_in_each_methods_own_way():
    def scores(paths, windows):
        return {"paths_exact": mean_std([paths]), "windows_exact": mean_std([windows])}

    sets = {"4": scores(0.98, 0.1), "8": scores(0.95, 0.1), "noise": scores(0.5, 0.1)}
    result = {"config": {"word_length": 4}, "seeds": [0], "methods": {"nll": {"by_set": sets}, "ctc": {"by_set": sets}}}
    said = assignments_report.reading(Found(result))["hw3-reader"]
    assert "all paths: $98.0$, $95.0$ and $50.0$; CTC: $10.0$, $10.0$ and $10.0$." in said
    assert "(synthetic) of 4 letters" in said
    assert assignments_report.reading(Found(None))["hw3-reader"].startswith("(Not run here: ")
