"""Runs side by side of a tiny script: results in order, and nothing that was not asked for."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from command_line import flag, flags_of
from common.grid import results_side_by_side

SCRIPT = """
import json, pathlib, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
seed, rate = int(flags["--seed"]), float(flags["--rate"])
if rate > 1:
    sys.exit("a rate that is too high")
path = pathlib.Path(flags["--out"]) / f"run-{rate:g}-{seed}.json"
config = {"seed": seed, "rate": rate}
head = {"question": "q", "run": path.stem, "config": config, "seeds": [seed], "data": {}}
path.write_text(json.dumps(head | {"metrics": {"value": 10 * rate + seed}}))
"""


@dataclass(frozen=True)
class Config:
    seed: int = flag(0, "seed")
    rate: float = flag(0.5, "rate")
    out: str = flag("", "folder")
    resume: bool = flag(False, "read what is there")

    def command(self):
        return [sys.executable, str(Path(self.out) / "script.py"), *flags_of(self)]

    def file(self, suffix):
        return Path(self.out) / f"run-{self.rate:g}-{self.seed}{suffix}"


def head(config):
    return {"config": {"seed": config.seed, "rate": config.rate}, "data": {}}


@pytest.fixture
def out(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    return str(tmp_path)


def test_results_come_in_the_order_of_the_runs(out):
    runs = [Config(seed, rate, out) for rate in (0.5, 0.25) for seed in (1, 0)]
    results = results_side_by_side(runs, head, ("metrics.value:number",))
    assert [result["metrics"]["value"] for result in results] == [6, 5, 3.5, 2.5]
    assert all(run.file(".log").exists() for run in runs)


def test_with_resume_only_what_is_not_there_or_of_another_run_is_run(out):
    runs = [Config(seed, 0.5, out, resume=True) for seed in (0, 1, 2)]
    results_side_by_side(runs[:2], head, ("metrics.value:number",))
    kept, changed = (json.loads(run.file(".json").read_text()) for run in runs[:2])
    runs[0].file(".json").write_text(json.dumps(kept | {"metrics": {"value": -1}}))
    runs[1].file(".json").write_text(json.dumps(changed | {"config": {"seed": 1, "rate": 9}}))
    values = [result["metrics"]["value"] for result in results_side_by_side(runs, head, ("metrics.value:number",))]
    assert values == [-1, 6, 7]
    anew = [Config(seed, 0.5, out) for seed in (0, 1)]
    assert [result["metrics"]["value"] for result in results_side_by_side(anew, head)] == [5, 6]


def test_a_run_that_fails_is_named_with_its_last_words(out):
    with pytest.raises(ValueError, match=r"run-2-0 failed: a rate that is too high \(exit code 1;"):
        results_side_by_side([Config(0, 2.0, out)], head)


@pytest.mark.parametrize(
    ("change", "said"), [({"rate": 0.75}, r"other settings \(rate\)"), ({"data": "x"}, "other data")]
)
def test_a_result_of_another_run_is_refused(out, change, said):
    def other_head(config):
        settings = head(config)
        if "data" in change:
            return settings | {"data": {"digest": "x"}}
        return settings | {"config": settings["config"] | change}

    script = Path(out) / "script.py"
    script.write_text(script.read_text().replace('"data": {}', '"data": {"digest": "y"}'))
    with pytest.raises(ValueError, match=rf"run-0.5-0\.json is of a run with {said}"):
        results_side_by_side([Config(0, 0.5, out)], other_head)
