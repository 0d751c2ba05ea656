"""Question 1's demonstration, plots and benchmark."""

import hashlib
import importlib.util
import itertools
import json
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import q1_linear_attention
import records
from q1 import demo as q1_demo
from q1 import plots as q1_plots
from q1_linear_attention import feature_dim, linear_attention

SPEC = importlib.util.spec_from_file_location("q1_benchmark", records.ROOT / "benchmarks" / "q1_attention.py")
benchmark = importlib.util.module_from_spec(SPEC)
sys.modules["q1_benchmark"] = benchmark
SPEC.loader.exec_module(benchmark)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One small run from the command line's side: its folder and its result."""
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(q1_demo, "LONGEST", 256)
        assert (
            q1_linear_attention.main(["-dim", "4", "--length", "12", "--seeds", "0", "1", "2", "--out", str(out)]) == 0
        )
    return out, json.loads((out / "q1" / "demo.json").read_text())


def test_demo_leaves_a_result_and_plots_drawn_from_it(demo):
    out, result = demo
    digest = hashlib.sha256((out / "q1" / "demo.json").read_bytes()).hexdigest()
    for name in ("error", "weights"):
        assert Image.open(out / "plots" / "q1" / f"demo-{name}.png").text["Subject"] == f"sha256:{digest}"
    assert result["data"]["source"] == "synthetic"
    assert result["seeds"] == [0, 1, 2]


def test_demo_counts_features_like_an_enumeration(demo):
    for row in demo[1]["features"]:
        if row["dim"] > 16:
            continue
        degrees = range(row["terms"])
        ordered = sum(1 for n in degrees for _ in itertools.product(range(row["dim"]), repeat=n))
        once = sum(1 for n in degrees for _ in itertools.combinations_with_replacement(range(row["dim"]), n))
        assert (row["ordered"], row["symmetric"]) == (ordered, once)


def test_demo_errors_are_those_of_the_truncated_series_and_within_the_bound(demo):
    result = demo[1]
    for row in result["errors"]:
        if row["bound"] is not None:
            assert max(row["error"]["values"]) <= row["bound"]
    row = next(row for row in result["errors"] if (row["terms"], row["largest_score"]) == (3, 2.0))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 12, 4, generator=generator, dtype=torch.float64).numpy()
    query, key = (v / (v**2).sum(-1, keepdims=True) ** 0.5 for v in x)
    total = 0.0
    for q in query:
        scores = [2 * float(q @ k) for k in key]
        exact, series = [math.exp(t) for t in scores], [1 + t + t * t / 2 for t in scores]
        total += sum(abs(a / sum(exact) - b / sum(series)) for a, b in zip(exact, series, strict=True))
    assert row["error"]["values"][1] == pytest.approx(total / 12, rel=1e-9)


def test_demo_weight_maps_are_distributions(demo):
    maps = demo[1]["maps"]["weights"]
    assert list(maps) == ["exact softmax", "2 terms", "3 terms", "5 terms"]
    for weights in maps.values():
        assert torch.tensor(weights).sum(-1) == pytest.approx([1.0] * 32)
    exact, *approximated = (torch.tensor(weights) for weights in maps.values())
    errors = [(weights - exact).abs().sum() for weights in approximated]
    assert errors[0] > errors[1] > errors[2] > 0


def test_crossover_is_the_first_length_where_linear_attention_is_faster(monkeypatch):
    times = {256: (3, 1), 512: (3, 2), 1024: (3, 4)}  # of linear and softmax attention
    fake = lambda attention, x: times[x.shape[-2]][0 if attention is linear_attention else 1]  # noqa: E731
    monkeypatch.setattr(q1_demo, "seconds", fake)
    row = q1_demo.find_crossover(8, linear_attention)
    assert (row["length"], row["found"], row["seconds"]) == (1024, True, {"linear": 3, "softmax": 4})
    monkeypatch.setattr(q1_demo, "seconds", lambda attention, x: attention is linear_attention)
    monkeypatch.setattr(q1_demo, "LONGEST", 512)
    row = q1_demo.find_crossover(8, linear_attention)
    assert (row["length"], row["found"]) == (512, False)


SEEDS = "one or more different numbers from 0 to 2^63 - 1"
WRONG = {
    "--dim 0": "from 1 to 28 (256 tokens",
    "--dim 100000": "from 1 to 28 (256 tokens in 2 GiB of memory)",
    "--dim 100000 --length 10000000": "--dim is 100000, but must be from 1 to 28",
    "--length 0": "from 1 to 2,743 (D = 16",
    "--length 10000000": "from 1 to 2,743 (D = 16 in 2 GiB of memory)",
    "--seeds -1": SEEDS,
    "--seeds 99999999999999999999": SEEDS,
    "--seeds 3 3": SEEDS,
    "--dim nan": "invalid int value: 'nan'",
    "--wrong": "--wrong",
}


@pytest.mark.parametrize("flags", WRONG)
def test_wrong_flags_are_one_line_that_says_what_works(flags, capsys):
    try:
        code = q1_linear_attention.main(flags.split())
    except SystemExit as stop:  # argparse's own
        code = stop.code
    errors = capsys.readouterr().err
    assert code == 2
    assert errors.count("\n") == 1
    assert WRONG[flags] in errors


def test_the_largest_sizes_are_those_that_the_memory_holds():
    q1_demo.Config(length=2743)
    q1_demo.Config(dim=28, seeds=(0, 2**63 - 1))
    # of all tables that are held at once, the features: D + 5 over 5 of them for six terms, in float64
    assert 4 * 2743 * math.comb(21, 5) * 8 < 2**31 < 5 * 2743 * math.comb(21, 5) * 8
    assert 4 * 256 * math.comb(33, 5) * 8 < 2**31 < 4 * 256 * math.comb(34, 5) * 8


def test_the_script_itself_answers_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["q1_linear_attention.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(records.ROOT / "q1_linear_attention.py"), run_name="__main__")
    assert "--dim" in capsys.readouterr().out


def test_the_report_is_a_sentence_and_at_most_a_dozen_lines_of_table(demo):
    committed = json.loads((records.ROOT / "results" / "q1" / "demo.json").read_text())
    for result in (committed, demo[1]):
        report = q1_demo.report(result)
        first, blank, *table = report.splitlines()
        assert (first, blank) == (q1_demo.headline(result), "")
        assert 8 < len(table) <= 12
        assert max(map(len, table)) <= 100
        assert re.search(r"K = 3 terms +153 +561 +2,145$", report, re.MULTILINE)
        assert "synthetic" in report
        row = next(r for r in result["errors"] if (r["terms"], r["largest_score"]) == (3, 4.0))
        assert re.search(rf"^4 .* {row['error']['mean']:.1g} .* {row['bound']:.1g}$", report, re.MULTILINE)


def test_the_headline_follows_the_measurement():
    rows = [{"dim": dim, "length": dim * 64, "found": True} for dim in (16, 32, 64)]
    said = "Linear attention is faster than PyTorch's softmax attention from 2,048 tokens on (heads 32 wide)."
    assert q1_demo.headline({"crossover": rows}) == said
    rows[1] |= {"length": 16384, "found": False}
    assert "at none of the lengths up to 16,384 (heads 32 wide)" in q1_demo.headline({"crossover": rows})


def test_nothing_that_is_shown_can_lose_the_result(tmp_path, monkeypatch):
    monkeypatch.setattr(q1_demo, "run", lambda config, attention: {"question": "q1", "run": "demo"})
    with pytest.raises(KeyError):  # the report of this result, which comes after it is saved
        q1_linear_attention.main(["--out", str(tmp_path)])
    assert json.loads((tmp_path / "q1" / "demo.json").read_text())["run"] == "demo"


# --- the benchmark -----------------------------------------------------------------------------------


def test_random_features_have_the_exponential_as_their_mean():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 5, 8, generator=generator, dtype=torch.float64) / 6
    directions = benchmark.orthogonal_directions(80000, 8).double()
    products = [benchmark.positive_random_features(x, directions) for x in (query, key)]
    torch.testing.assert_close(products[0] @ products[1].T, (query @ key.T).exp(), rtol=0.02, atol=0)


def test_random_directions_are_orthogonal_in_blocks_and_as_long_as_normal_vectors():
    directions = benchmark.orthogonal_directions(16000, 16)
    block = directions[:16] / directions[:16].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(block @ block.T, torch.eye(16), rtol=0, atol=1e-5)
    assert directions.square().sum(-1).mean().item() == pytest.approx(16, rel=0.02)
    assert (
        directions.mean(0).abs().max() < 0.05
    )  # uniform in direction: no sign convention of the decomposition is left


def test_package_contenders_compute_the_truncated_kernel():
    pytest.importorskip("taylor_series_linear_attention", reason="pip install -e '.[benchmark]'")
    query, key, value = torch.randn(3, 1, 2, 20, 4, dtype=torch.float64)
    scores = query @ key.mT / 2
    weights = 1 + scores + scores**2 / 2
    expected = weights @ value / weights.sum(-1, keepdim=True)
    for contender in (benchmark.package, benchmark.package_without_duplicates):
        torch.testing.assert_close(contender(query, key, value), expected)


def test_elu_contender_is_the_kernel_of_its_paper():
    query, key, value = torch.randn(3, 1, 1, 6, 3, dtype=torch.float64)
    phi = lambda x: torch.where(x > 0, x + 1, x.exp())  # noqa: E731
    weights = phi(query) @ phi(key).mT
    torch.testing.assert_close(
        benchmark.elu_attention(query, key, value), weights @ value / weights.sum(-1, keepdim=True)
    )


def row(contender, length, seconds, name="forward"):
    return {
        "contender": contender,
        "dim": 2,
        "length": length,
        "pass": name,
        "seconds": seconds,
        "error": 0.0,
        "matrix_product_flops": 1000.0,
    }


def test_summary_by_hand():
    rows = []
    for name in benchmark.PASSES:
        rows += [row("this", 512, [1, 1, 1], name), row("this", 1024, [2, 2, 4], name)]
        rows += [row("scaled_dot_product_attention", 512, [0.5, 3, 0.5], name)]
        rows += [row("scaled_dot_product_attention", 1024, [4, 4, 4], name)]
        rows += [row("taylor-series-linear-attention", 1024, [20, 30, 20], name)]
    entry = benchmark.summary(rows, heads=3)["2"]
    assert entry["forward"]["times_faster_than_package"] == {"1024": 10}  # of 10, 15 and 5
    assert entry["forward"]["times_faster_than_sdpa"] == {"512": 0.5, "1024": 2}
    assert entry["forward"]["crossover_with_sdpa"] == 1024
    # 4 H L M D with M = 6 monomials of 2 variables up to degree 2, in 1 s, of 1000 operations per second
    assert entry["share_of_matrix_product_rate"]["512"] == pytest.approx(4 * 3 * 512 * 6 * 2 / 1 / 1000)


def test_error_against_exact_attention_is_zero_for_exact_attention_only():
    x = benchmark.inputs(benchmark.Config(heads=2), 8, 300, backward=False)
    assert benchmark.relative_error(torch.nn.functional.scaled_dot_product_attention, x) < 1e-6
    assert benchmark.relative_error(lambda q, k, v: 1.5 * benchmark.softmax_attention(q, k, v), x) == pytest.approx(0.5)


def test_benchmark_says_what_it_lacks(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "taylor_series_linear_attention", None)
    assert benchmark.main(["--longest", "512"]) == 2
    assert "pip install -e '.[benchmark]'" in capsys.readouterr().err


@pytest.mark.slow
def test_benchmark_runs_and_its_plots_are_drawn_from_it(tmp_path, monkeypatch):
    pytest.importorskip("taylor_series_linear_attention", reason="pip install -e '.[benchmark]'")
    assert benchmark.main(["--longest", "1024", "--dims", "4", "--repetitions", "2", "--out", str(tmp_path)]) == 0
    path = tmp_path / "q1" / "attention-speed.json"
    result = json.loads(path.read_text())
    assert {entry["contender"] for entry in result["rows"]} == set(benchmark.CONTENDERS)
    assert len(result["rows"]) == len(benchmark.CONTENDERS) * 2 * 2  # lengths, passes
    assert {entry["features"] for entry in result["features"]} == {feature_dim(16, terms) for terms in (2, 3, 4, 5)}
    drawn = q1_plots.draw([path], tmp_path / "plots")
    assert {plot.name for plot in drawn if plot.suffix == ".png"} == {
        f"attention-speed-{name}.png" for name in ("time", "features")
    }


@pytest.mark.slow
def test_peak_memory_is_that_of_the_call_and_not_of_making_its_inputs(tmp_path):
    pytest.importorskip("taylor_series_linear_attention", reason="pip install -e '.[benchmark]'")
    script = records.ROOT / "benchmarks" / "q1_attention.py"
    flags = ["--memory", "--longest", "4096", "--dims", "64", "--out", str(tmp_path)]
    subprocess.run([sys.executable, script, *flags], check=True, capture_output=True, timeout=300)
    path = tmp_path / "q1" / "attention-memory.json"
    peaks = {(r["contender"], r["length"], r["pass"]): r["peak_bytes"] for r in json.loads(path.read_text())["rows"]}
    assert len(peaks) == len(benchmark.CONTENDERS) * 2 * 2  # lengths, passes
    output = 4 * 4096 * 64 * 4
    # the features of queries and keys, the output and a quotient: little more, and no second copy of the inputs
    assert 3 * output < peaks["elu + 1", 4096, "forward"] < 7 * output
    scores = 4 * 4096 * 4096 * 4
    assert 1.9 * scores < peaks["plain quadratic", 4096, "forward"] < 3.5 * scores
    (drawn,) = (plot for plot in q1_plots.draw([path], tmp_path) if plot.suffix == ".png")
    assert drawn.name == "attention-memory-length.png"


# --- what is committed -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((records.ROOT / "results" / "q1").glob("*.json")), ids=lambda path: path.stem)
def test_committed_plots_were_drawn_from_the_committed_results(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    plots = sorted((records.ROOT / "plots" / "q1").glob(f"{path.stem}-*.png"))
    assert plots
    for plot in plots:
        assert Image.open(plot).text["Subject"] == f"sha256:{digest}"
        assert digest.encode() in Path(plot.with_suffix(".pdf")).read_bytes()


def test_committed_speed_follows_from_its_rows():
    result = json.loads((records.ROOT / "results" / "q1" / "attention-speed.json").read_text())
    assert benchmark.summary(result["rows"], result["config"]["heads"]) == result["metrics"]
    assert min(len(entry["seconds"]) for entry in result["rows"]) >= 5
