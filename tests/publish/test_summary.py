"""Each number of the report's first page, computed anew from the result file that its sentence is about."""

import json
import re

import numpy as np
import pytest

import records
from publish import report

ROOT = records.ROOT
SUMMARY = (ROOT / "report" / "sections" / "summary.tex").read_text()
WORDS = {  # phrases, which have tests of their own or say which data there is
    "q2-data", "q3-few-data", "method-missing", "q2-main-steadier", "q2-main-verdict", "q3-few-verdict",
    "q3-shipped-verdict",
}  # fmt: skip


def result(name):
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def seeds(pattern):
    return [json.loads(path.read_text()) for path in sorted((ROOT / "results" / "q3").glob(pattern))]


def plain(text):
    """A number of LaTeX as one types it."""
    return re.sub(r"[${},\\% ]|MiB", "", text.replace(r"\pm", "±"))


def over_seeds(values):
    mean = f"{np.mean(values):.1f}"
    return f"{mean}±{np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def cer(pattern):
    return over_seeds([100 * each["metrics"]["test"]["cer"]["mean"] for each in seeds(pattern)])


def question_1():
    speed, memory, demo = result("q1/attention-speed"), result("q1/attention-memory"), result("q1/demo")
    times = {
        (row["contender"], row["dim"], row["length"]): np.array(row["seconds"])
        for row in speed["rows"]
        if row["pass"] == "forward"
    }
    package = [
        np.median(theirs / times["this", dim, length])
        for (name, dim, length), theirs in times.items()
        if name == "taylor-series-linear-attention" and length >= 1024
    ]
    peaks = {
        row["contender"]: f"{row['peak_bytes'] / 2**20:.0f}"
        for row in memory["rows"]
        if (row["dim"], row["length"], row["pass"]) == (64, 65536, "forward")
    }
    (error,) = (
        row["error"]
        for row in speed["rows"]
        if (row["contender"], row["dim"], row["length"], row["pass"]) == ("this", 64, 16384, "forward")
    )
    assert int(peaks["scaled_dot_product_attention"]) < int(peaks["this"])  # the sentence says so
    return {
        **{f"q1-crossover-{row['dim']}": str(row["length"]) for row in demo["crossover"]},
        "q1-package-least": f"{min(package):.1f}",
        "q1-package-most": f"{max(package):.1f}",
        "q1-package-from": "1024",
        "q1-longest": "65536",
        "q1-length": "16384",
        "q1-memory-this": peaks["this"],
        "q1-memory-package": peaks["taylor-series-linear-attention"],
        "q1-memory-sdpa": peaks["scaled_dot_product_attention"],
        "q1-elu-faster": f"{1 / np.median(times['elu + 1', 64, 16384] / times['this', 64, 16384]):.1f}",
        "q1-error-this": f"{error:.2f}",
    }


def question_2():
    models = result("q2/pneumoniamnist-sweep")["models"]
    shift = result("q2/pneumoniamnist-shift")["models"]
    rate = next(iter(models)).rpartition("-lr")[2]
    pooled, strided = (models[f"{kind}-sgd-lr{rate}"] for kind in ("maxpool", "no_maxpool"))
    accuracy = [[100 * trial["test"]["accuracy"] for trial in model["trials"]] for model in (pooled, strided)]
    return {
        "q2-main-pooled": over_seeds(accuracy[0]),
        "q2-main-strided": over_seeds(accuracy[1]),
        "q2-main-rate": rate,
        "q2-adds-ratio": f"{pooled['multiply_adds'] / strided['multiply_adds']:.2f}",
        "q2-main-time-ratio": f"{pooled['inference_us_per_image'] / strided['inference_us_per_image']:.1f}",
        "q2-main-pooled-field": str(shift[f"maxpool-sgd-lr{rate}"]["receptive_field"]),
        "q2-main-strided-field": str(shift[f"no_maxpool-sgd-lr{rate}"]["receptive_field"]),
    }


def question_3():
    joint = "-on-ljspeech-345-test-beam8-ctc_weight0.3"
    few = seeds("revoiced-2000-lstm-seed?.json")
    expected = {
        "q3-few-clips": str(few[0]["budget"]["clips"]),
        "q3-few-seeds": str(len(few)),
        "q3-shipped-seeds": str(len(seeds("revoiced-shipped-lstm-seed?.json"))),
        "q3-recorded-train": str(result(f"q3/ljspeech-345-rehearsed-lstm-seed0{joint}")["data"]["sizes"]["train"]),
    }
    for decoder in ("lstm", "transformer"):
        expected |= {
            f"q3-few-{decoder}-cer": cer(f"revoiced-2000-{decoder}-seed?.json"),
            f"q3-shipped-{decoder}-cer": cer(f"revoiced-shipped-{decoder}-seed?.json"),
            f"q3-rehearsed-{decoder}-cer": cer(f"ljspeech-345-rehearsed-{decoder}-seed?.json"),
            f"q3-joint-{decoder}-cer": cer(f"ljspeech-345-rehearsed-{decoder}-seed?{joint}.json"),
        }
    return expected


def numbers_of_the_report():
    text = report.build(report.DOCUMENTS["report"], ROOT)["numbers.tex"]
    return dict(re.findall(r"result@(.+?)\\endcsname\{(.*)\}", text))


def test_every_number_of_the_summary_is_that_of_its_file():
    numbers = dict(
        re.findall(r"result@(.+?)\\endcsname\{(.*)\}", report.build(report.DOCUMENTS["report"], ROOT)["numbers.tex"])
    )
    expected = question_1() | question_2() | question_3()
    assert set(re.findall(r"\\result\{([^}]+)\}", SUMMARY)) == expected.keys() | WORDS
    assert {key: plain(numbers[key]) for key in expected} == expected


@pytest.mark.parametrize("key", ["q2-main-verdict", "q3-few-verdict", "q3-shipped-verdict"])
def test_the_summarys_verdicts_are_about_its_numbers(key):
    numbers = dict(
        re.findall(r"result@(.+?)\\endcsname\{(.*)\}", report.build(report.DOCUMENTS["report"], ROOT)["numbers.tex"])
    )
    names = {"q2-main-verdict": ("q2-main-pooled", "q2-main-strided"),
             "q3-few-verdict": ("q3-few-transformer-cer", "q3-few-lstm-cer"),
             "q3-shipped-verdict": ("q3-shipped-transformer-cer", "q3-shipped-lstm-cer")}[key]  # fmt: skip
    first, second = (float(plain(numbers[name]).partition("±")[0]) for name in names)
    size = float(re.search(r"([\d.]+) points", numbers[key])[1])
    assert size == pytest.approx(abs(first - second), abs=0.11)  # of rounded numbers
    word = re.search(r"is (better|worse)|do not resolve", numbers[key])[1]
    better_is_more = key.startswith("q2")
    assert word in (None, "better" if (first > second) == better_is_more else "worse")
