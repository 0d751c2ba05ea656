"""The front page's table of answers: each question of the statement, answered in one sentence from results/."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import records
from asr import metrics
from asr import plots as speech_plots
from asr import runs as q3
from common.catalogue import NotRun, Run
from common.speech.text import normalise
from publish import verdicts
from publish.tables import spread, table
from q1 import runs as q1
from q1.monomials import feature_dim
from q2 import runs as q2
from q2.comparison import homework_pair

DIM = 64  # for which the number of features is given as an example
ANAGRAM = ("the cat sat on the mat", "tam eht no tas tac eht")


def answers(root: Path) -> str:
    """Question, points, answer, code and test, and the section of the report: a row each."""
    rows = []
    for (number, title), (points, answer, files) in zip(sections(root), ANSWERS, strict=True):
        try:
            text = answer(root)
        except NotRun as missing:
            text = f"not run here: `{missing}`"
        code, test = files
        links = f"[{code}]({code}), [test]({test})"
        rows.append([f"{number} {title}", str(points), text, links, f"[{number}](report/report.pdf)"])
    return table(["question", "points", "answer", "file", "report"], rows)


def sections(root: Path) -> list[tuple[str, str]]:
    """Numbers and titles of the report's sections, which are the statement's questions in their order."""
    found = []
    for question in (1, 2, 3):
        text = (root / "report" / "sections" / f"question{question}.tex").read_text()
        titles = re.findall(r"^\\subsection\{(.*)\}$", text, re.MULTILINE)
        found += [(f"{question}.{place}", title) for place, title in enumerate(titles, start=1)]
    return found


def softmax_cost(root: Path) -> str:
    return "Time grows as L²(D + E), memory as L²: twice the length costs four times as much."


def features(root: Path) -> str:
    return f"M = (D+1)(D+2)/2 features for three terms ({feature_dim(DIM):,} at D = {DIM}), C(D+K-1, K-1) for K terms."


def linear_form(root: Path) -> str:
    return "Z ≈ Φ(Q)(Φ(K)ᵀV), each row divided by Φ(Q)Φ(K)ᵀ1: no L by L matrix is formed."


def crossover(root: Path) -> str:
    rows = q1.DEMO.result(root)["crossover"]
    lengths = ", ".join(f"{row['length']:,} (D = {row['dim']})" for row in rows)
    return f"About 4LMD operations; measured, faster than softmax attention from L = {lengths}."


def tested(root: Path, run: Run) -> list[dict]:
    """The networks of a sweep that the homework compares: with max-pooling, and without."""
    return homework_pair(run.result(root))


def main_images(root: Path) -> str:
    """The data set that the answers are about: the homework's own where it was run."""
    return next(name for name, run in q2.SWEEPS.items() if run.find(root) or name != "octmnist")


def cnn(root: Path) -> str:
    data = main_images(root)
    model = tested(root, q2.SWEEPS[data])[0]
    accuracy, rate = spread(model["metrics"]["test"]["accuracy"], 100, 1), model["settings"]["learning_rate"]
    shown = f"{accuracy} % of the test images are right, at the rate that validation chose, {rate:g}"
    return f"{q2.DATA[data]}: {shown}."


def pooling(root: Path) -> str:
    data = main_images(root)
    accuracies = [model["metrics"]["test"]["accuracy"] for model in tested(root, q2.SWEEPS[data])]
    pooled, strided = (spread(accuracy, 100, 1) for accuracy in accuracies)
    difference = verdicts.resolved(*accuracies)
    better = f"{'pooling' if difference > 0 else 'no pooling'} is better" if difference else "no difference is resolved"
    return f"{q2.DATA[data]}: {pooled} % with pooling and {strided} % without; {better}."


def parameters(root: Path) -> str:
    """The homework's count is for four classes, which the synthetic scans have too."""
    counts = [f"{model['parameters']:,}" for model in tested(root, q2.SWEEPS["synthetic-oct"])]
    if len(set(counts)) > 1:
        return f"With pooling {counts[0]}, without {counts[1]}, for four classes."
    return f"{counts[0]} for four classes in both networks: neither pooling nor a stride has parameters."


def main_speech(root: Path) -> Run:
    """The homework's own corpus where it was run, or its texts, synthesised."""
    return q3.FULL if q3.FULL.results(root, decoder="lstm") else q3.REVOICED_JOINT


def error_rates(root: Path, run: Run, decoder: str) -> list[dict]:
    """Character error rates of every seed. Raises NotRun where there is none."""
    found = run.results(root, decoder=decoder)
    if not found:
        raise NotRun(run.first_command(decoder=decoder))
    return [result["metrics"]["test"]["cer"] for _, result in found]


def fewer_errors(root: Path, run: Run) -> str | None:
    """The decoder that gets fewer characters wrong, or None where the results cannot tell."""
    return verdicts.fewer_errors({shown: error_rates(root, run, name) for name, shown in speech_plots.NAMES.items()})


def wrong(root: Path, decoder: str) -> str:
    """Percentages of wrong characters, with the data that they were measured on."""
    kind = "LJ Speech (real)" if main_speech(root) == q3.FULL else "synthetic speech"
    shown = []
    for run in (main_speech(root), q3.RECORDED_JOINT):
        rates = [rate["mean"] for rate in error_rates(root, run, decoder)]
        shown.append(f"{spread(records.mean_std(rates), 100, 1)} %")
    return f"{shown[0]} of the characters are wrong on {kind}, {shown[1]} on recorded clips"


def lstm(root: Path) -> str:
    return f"{wrong(root, 'lstm')}."


def transformer(root: Path) -> str:
    better = [fewer_errors(root, run) for run in (main_speech(root), q3.RECORDED_JOINT)]
    if better[0] == better[1]:
        conclusion = f"the {better[0]} is better on both" if better[0] else "no difference is resolved"
    else:
        conclusion = f"better is the {', the '.join(name or '(unresolved)' for name in better)}"
    return f"{wrong(root, 'transformer')}: {conclusion}."


def memories(root: Path) -> str:
    run = q3.FULL_JOINED[0] if q3.FULL_JOINED[0].find(root) else q3.JOINED[0]
    rates = [records.mean_std([rate["mean"] for rate in error_rates(root, run, name)]) for name in speech_plots.NAMES]
    shown = " and ".join(f"{spread(rate, 100, 0)} %" for rate in rates)
    better, data = fewer_errors(root, run), "real" if run is q3.FULL_JOINED[0] else "synthetic"
    conclusion = f"the {better} is better" if better else "not resolved"
    return f"One state against every character: on two joined {data} clips, CER {shown}; {conclusion}."


def similarities(root: Path) -> str:
    pair = tuple(map(normalise, ANAGRAM))
    similarities = (metrics.jaccard, metrics.cosine, metrics.damerau_levenshtein)
    jaccard, cosine, order = (f"{similarity(*pair):.2f}" for similarity in similarities)
    counted = f"Jaccard and cosine count letters: an anagram gets {jaccard} and {cosine}"
    return f"{counted}. Damerau-Levenshtein sees order: {order}."


# in the order of the report's sections: points, the answer, code and test
ANSWERS: tuple[tuple[int, Callable[[Path], str], tuple[str, str]], ...] = (
    (5, softmax_cost, ("q1_linear_attention.py", "tests/q1/test_linear_attention.py")),
    (10, features, ("q1/monomials.py", "tests/q1/test_linear_attention.py")),
    (10, linear_form, ("q1_linear_attention.py", "tests/q1/test_linear_attention.py")),
    (5, crossover, ("q1/chunked.py", "tests/q1/test_linear_attention.py")),
    (20, cnn, ("hw2-q2.py", "tests/q2/test_hw2_q2.py")),
    (10, pooling, ("q2/shift.py", "tests/q2/test_shift.py")),
    (5, parameters, ("hw2-q2.py", "tests/q2/test_hw2_q2.py")),
    (10, lstm, ("asr/model.py", "tests/asr/test_model.py")),
    (10, transformer, ("asr/model.py", "tests/asr/test_model.py")),
    (10, memories, ("hw2-q3.ipynb", "tests/test_notebook.py")),
    (5, similarities, ("asr/metrics.py", "tests/asr/test_metrics.py")),
)
