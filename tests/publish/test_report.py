"""The report: every equation tested, every number and figure from results/, and a PDF that is not stale."""

import ast
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import records
from deep_features import runs as deep_features
from publish import latex, report, tables_q2, tables_q3
from publish.report import DOCUMENTS

REPORT = records.ROOT / "report"
HOMEWORK, DEEP_FEATURES = DOCUMENTS["report"], DOCUMENTS["deep_features"]
SECTIONS = {
    f"{document.folder}/{path.name}": path.read_text()
    for document in DOCUMENTS.values()
    for path in sorted((REPORT / document.folder).glob("*.tex"))
}
every_document = pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
PROMISED = {
    f"eq:{name}"
    for name in (
        "standard-error", "autoencoder", "pca", "convolution", "output-size", "self-attention", "patch-embedding",
        "pre-norm", "vit-parameters",
        "softmax-attention", "phi-3", "dim-3", "dim-3-symmetric", "dim-K", "dim-K-symmetric", "linear-attention",
        "normaliser", "cost-linear", "crossover", "remainder", "positivity", "conv-size", "parameters", "multi-head",
        "residual-layer", "sub-block", "cross-block", "positions", "lstm-gates", "lstm-state",
        "jaccard", "cosine", "damerau-levenshtein", "wer",
        "hw1-forward", "hw1-forward-values", "hw1-backward", "hw1-regression", "hw1-sigmoid", "hw1-bce",
        "hw1-bce-product", "hw1-softmax", "hw1-graph", "hw1-activations", "hw2-output-size", "hw2-cross-correlation",
        "hw2-forward", "hw2-by-weight", "hw2-by-input", "hw2-loss-by-weight", "hw2-gated", "hw2-gated-jacobians",
        "hw2-gated-gradient", "hw2-bounded", "hw2-attention", "hw2-attention-jacobian", "hw2-attention-gradient",
        "hw2-loss-bound",
        "hw3-gibbs", "hw3-inference", "hw3-nll-beta", "hw3-nll-gradient", "hw3-canyon", "hw3-simple", "hw3-hinge",
        "hw3-log", "hw3-square-square", "hw3-loss-gradients", "hw3-path", "hw3-letters", "hw3-recursion",
        "hw3-viterbi", "hw3-nll", "hw3-ctc",
        "hw4-attention", "hw4-scores-variance", "hw4-key-change", "hw4-query-change", "hw4-multi-head", "hw4-identity",
        "hw4-permutation", "hw4-convolution", "hw4-look-ahead",
    )
}  # fmt: skip


def text_of(document):
    return "\n".join(text for name, text in SECTIONS.items() if name.startswith(f"{document.folder}/"))


def numbers_of(texts):
    return dict(re.findall(r"result@(.+?)\\endcsname\{(.*)\}", texts["numbers.tex"]))


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# --- equations ---------------------------------------------------------------------------------------


def marked_labels():
    """The arguments of every `@pytest.mark.equation(...)` in tests/, from the syntax trees, with their tests."""
    found = {}
    for path in (records.ROOT / "tests").rglob("test_*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or not function.name.startswith("test_"):
                continue
            for mark in function.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.equation":
                    found.setdefault(mark.args[0].value, []).append(function)
    return found


def labels():
    return re.findall(r"\\label\{(eq:[^}]+)\}", "\n".join(SECTIONS.values()))


def test_every_promised_equation_stands_in_the_report_once():
    assert set(labels()) >= PROMISED
    assert len(labels()) == len(set(labels()))


def test_every_equation_has_a_test_and_every_mark_an_equation():
    assert set(labels()) == set(marked_labels())


def test_tests_of_equations_assert_something():
    for label, functions in marked_labels().items():
        for function in functions:
            body = ast.unparse(function)
            assert re.search(r"\bassert|raises\(", body), f"{function.name} claims {label} and asserts nothing"


def test_every_displayed_line_has_a_label():
    for name, text in SECTIONS.items():
        assert not re.search(r"\\\[|\$\$|\{(equation|align|gather|multline)\*\}", text), name
        for body in re.findall(r"\\begin\{equation\}(.*?)\\end\{equation\}", text, re.DOTALL):
            assert body.count(r"\label{eq:") == 1, body
        for body in re.findall(r"\\begin\{align\}(.*?)\\end\{align\}", text, re.DOTALL):
            lines = [line for line in re.split(r"\\\\", body) if line.strip()]
            assert all(line.count(r"\label{eq:") == 1 for line in lines), body


@every_document
def test_every_reference_has_its_target(document):
    text = text_of(document)
    targets = set(re.findall(r"\\label\{([^}]+)\}", text))
    assert set(re.findall(r"\\(?:eq)?ref\{([^}]+)\}", text)) <= targets
    floats = {target for target in targets if target.startswith(("fig:", "tab:"))}
    assert floats == {target for target in re.findall(r"\\ref\{([^}]+)\}", text) if target in floats}
    cited = {key for keys in re.findall(r"\\cite\{([^}]+)\}", text) for key in keys.split(",")}
    assert cited == set(re.findall(r"\\bibitem\{([^}]+)\}", text))


# --- numbers and tables ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every_build():
    return {name: report.build(document, records.ROOT) for name, document in DOCUMENTS.items()}


@pytest.fixture
def built(every_build):
    return every_build["report"]


@every_document
def test_generated_files_are_what_the_results_give(document, every_build):
    generated = {path.name: path.read_text() for path in report.generated(document).glob("*.tex")}
    generated.pop("sources.tex")
    assert generated == every_build[document.name], "run make reports"


@pytest.mark.parametrize(
    ("document", "name"),
    [(document, f"{name}.tex") for document in DOCUMENTS.values() for name in ("numbers", *document.tables)],
    ids=lambda part: getattr(part, "name", part),
)
def test_generated_files_name_their_sources_with_their_hashes(document, name):
    text = (report.generated(document) / name).read_text()
    sources = re.findall(r"^%   (\S+) sha256:(\w{64})$", text, re.MULTILINE)
    # two are made from the network and from texts, not from results
    assert sources or "not run here" in text or name in ("q2-layers.tex", "q3-pairs.tex")
    for path, digest in sources:
        assert digest == sha256(records.ROOT / path), f"{name} is older than {path}: run make reports"


def test_a_changed_result_changes_the_tables(tmp_path, built):
    shutil.copytree(records.ROOT / "results", tmp_path / "results")
    path = tmp_path / "results" / "q2" / "synthetic-oct-sweep.json"
    sweep = json.loads(path.read_text())
    next(iter(sweep["models"].values()))["metrics"]["test"]["accuracy"]["mean"] = 0.4321
    path.write_text(json.dumps(sweep))
    changed = report.build(HOMEWORK, tmp_path)
    assert {name for name in built if built[name] != changed[name]} >= {"numbers.tex", "q2-results.tex"}
    assert "$43.2" in changed["q2-results.tex"]
    assert changed["q1-speed.tex"] == built["q1-speed.tex"]


def test_what_was_not_run_is_a_row_and_a_note(tmp_path, built, capsys):
    shutil.copytree(records.ROOT / "results" / "q1", tmp_path / "results" / "q1")
    texts = report.build(HOMEWORK, tmp_path)
    assert texts["q1-speed.tex"] == built["q1-speed.tex"]
    for name in ("q2-results.tex", "q3-transcripts.tex", "data.tex"):
        assert "not run here" in texts[name]
    numbers = set(re.findall(r"result@(.+?)\\endcsname", texts["numbers.tex"]))
    assert "q1-crossover-16" in numbers
    assert not any(name.startswith(("q2-", "q3-")) for name in numbers)
    notes = capsys.readouterr().err
    assert "hw2-q2.py --sweep" in notes
    assert "asr train" in notes


def test_results_of_the_homeworks_own_data_take_over(tmp_path):
    shutil.copytree(records.ROOT / "results", tmp_path / "results")
    for kind in ("sweep", "shift"):
        text = (tmp_path / "results" / "q2" / f"pneumoniamnist-{kind}.json").read_text()
        (tmp_path / "results" / "q2" / f"octmnist-{kind}.json").write_text(text.replace("pneumoniamnist", "octmnist"))
    for path in (tmp_path / "results" / "q3").glob("revoiced-2000-[lt]*-seed0*.json"):
        text = path.read_text().replace('"synthetic"', '"real"').replace("revoiced-2000", "LJSpeech-1.1")
        name = path.name.replace("revoiced-2000", "LJSpeech-1.1").replace("revoiced", "LJSpeech-1.1")
        path.with_name(name).write_text(text.replace("revoiced", "LJSpeech-1.1"))
    text = report.build(HOMEWORK, tmp_path)["numbers.tex"]
    numbers = dict(re.findall(r"result@(.+?)\\endcsname\{(.*)\}", text))
    assert numbers["q2-data"] == "OCTMNIST (real)"
    assert numbers["q2-run"] == "octmnist-sweep"
    assert numbers["q3-data"] == "LJ Speech (recorded)"
    assert numbers["q3-run"] == "LJSpeech-1.1"
    assert numbers["method-missing"] == ""


@every_document
def test_every_number_asked_for_is_there(document, every_build):
    numbers = set(re.findall(r"result@(.+?)\\endcsname", every_build[document.name]["numbers.tex"]))
    assert set(re.findall(r"\\result\{([^}]+)\}", text_of(document))) <= numbers


@every_document
def test_no_table_is_typed_by_hand(document):
    text = text_of(document)
    assert not re.search(r"\\begin\{(tabular|array|longtable)", text)
    inputs = re.findall(rf"\\input\{{generated/{document.name}/([^}}]+)\}}", text)
    assert sorted(inputs) == sorted(document.tables)


def prose(text):
    """Without formulas, pictures, references and the widths of figures."""
    text = re.sub(r"\\begin\{(equation|align|tikzpicture|thebibliography)\}.*?\\end\{\1\}", "", text, flags=re.DOTALL)
    text = re.sub(
        r"\\includegraphics\[.*?\]|\\(ref|eqref|cite|label|result|input|setlength\{\\tabcolsep\})\{.*?\}", "", text
    )
    return re.sub(r"\$.*?\$", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_no_measured_number_is_typed_by_hand(name):
    """Decimals and percentages come through \\result; 100 % alone is no measurement."""
    typed = re.findall(r"\d+\.\d+|\d+\\,\\%", prose(SECTIONS[name]))
    assert [number for number in typed if number != r"100\,\%"] == []


def test_numbers_agree_with_the_results(built):
    """A few of them, read from the files by other code."""
    numbers = numbers_of(built)
    sweep = json.loads((records.ROOT / "results" / "q2" / "synthetic-oct-sweep.json").read_text())
    trials = sweep["models"]["no_maxpool-sgd-lr0.1"]["trials"]
    accuracies = [100 * trial["test"]["accuracy"] for trial in trials]
    assert numbers["q2-synthetic-strided"] == rf"${np.mean(accuracies):.1f}\pm{np.std(accuracies, ddof=1):.1f}$\,\%"
    shift = json.loads((records.ROOT / "results" / "q2" / "synthetic-oct-shift.json").read_text())
    changed = np.mean(shift["models"]["maxpool-sgd-lr0.1"]["changed_predictions"][1]["values"])
    assert numbers["q2-synthetic-pooled-changed"] == rf"{100 * changed:.1f}\,\%"
    speed = json.loads((records.ROOT / "results" / "q1" / "attention-speed.json").read_text())
    seconds = {
        row["contender"]: row["seconds"]
        for row in speed["rows"]
        if (row["dim"], row["length"], row["pass"]) == (32, 16384, "forward")
    }
    ratio = np.median(np.array(seconds["scaled_dot_product_attention"]) / np.array(seconds["this"]))
    assert f" & {ratio:.1f} & " in built["q1-speed.tex"].splitlines()[-4]


def test_the_kernels_paragraph_agrees_with_the_results(built):
    numbers = numbers_of(built)
    folder = records.ROOT / "results" / "q3"
    softmax, series = (
        [json.loads(path.read_text()) for path in sorted(folder.glob(f"revoiced-2000-{kernel}transformer-seed?.json"))]
        for kernel in ("", "maclaurin-")
    )
    rates = [np.array([100 * run["metrics"]["test"]["cer"]["mean"] for run in runs]) for runs in (series, softmax)]
    difference = abs(rates[0].mean() - rates[1].mean())
    error = np.sqrt(sum(rate.var(ddof=1) / len(rate) for rate in rates))
    assert f"{difference:.1f} points (standard error {error:.1f})" in numbers["q3-kernel-verdict"]
    assert {run["config"]["kernel"] for run in series} == {"maclaurin"}
    assert (numbers["q3-kernel-seeds"], numbers["q3-few-seeds"]) == (str(len(series)), str(len(softmax)))
    dim = 100  # M = 101 * 102 / 2, and L* = M (D + 1) / D
    assert numbers["q3-kernel-crossover"].replace("{,}", "") == f"{101 * 102 / 2 * (dim + 1) / dim:.0f}"


# --- the generator's parts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [((1, 2), (3, 4), "less often"), ((3, 4), (1, 2), "more often"), ((1, 4), (3, 2), "neither")],
)
def test_steadier_needs_every_size_of_the_shift(first, second, word):
    answers = [{"changed_predictions": [{"mean": value} for value in values]} for values in (first, second)]
    assert word in tables_q2.steadier(answers)


@pytest.mark.parametrize(
    ("lstm", "transformer", "expected"),
    [
        ([(0.1, 0.2, 0.15)], [(0.3, 0.42, 0.35)], "the LSTM is better, by 20.0 to 2"),
        ([(0.3, 0.42, 0.35)], [(0.1, 0.2, 0.15)], "the Transformer is better, by 20.0 to 2"),
        ([(0.1, 0.9, 0.2)], [(0.9, 0.1, 0.3)], "a paired bootstrap over clips does not tell them apart"),
        ([(0.5,), (0.52,)], [(0.3,), (0.32,)], "the Transformer is better by 20.0 points (standard error 1.4)"),
        ([(0.5,), (0.3,)], [(0.4,), (0.38,)], "1.0 points (standard error 10.0), which the seeds do not resolve"),
    ],
)
def test_speech_verdict_follows_the_clips_or_the_seeds(lstm, transformer, expected):
    """Single runs are compared clip by clip, several by their seeds."""
    found = {
        decoder: [
            {"metrics": {"test": {"cer": {"mean": float(np.mean(values)), "values": list(values)}}}} for values in runs
        ]
        for decoder, runs in (("lstm", lstm), ("transformer", transformer))
    }
    assert expected in tables_q3.speech_verdict(found)


def test_diagonal_tells_order_from_disorder():
    weights = np.zeros((20, 50))
    weights[np.arange(20), 2 * np.arange(20) + 3] = 1.0
    assert tables_q3.diagonal(weights.tolist()) == pytest.approx(1)
    assert tables_q3.diagonal(weights[::-1].tolist()) == pytest.approx(-1)
    shuffled = np.random.default_rng(0).permutation(weights)
    assert abs(tables_q3.diagonal(shuffled.tolist())) < 0.4


def test_text_is_made_safe_for_latex():
    assert latex.plain("50 % of a_b & {c} ± #1 $2") == r"50 \% of a\_b \& \{c\} $\pm$ \#1 \$2"
    assert latex.number(12345.67, 1) == "12{,}345.7"


# --- figures and the document ------------------------------------------------------------------------


def results_by_hash():
    return {sha256(path): path for path in (records.ROOT / "results").rglob("*.json")}


def subjects(path):
    """The hashes that a PDF, or the plots within it, carry as their Subjects."""
    return [re.findall(rb"sha256:(\w{64})", found) for found in re.findall(rb"/Subject ?\((.*?)\)", path.read_bytes())]


@pytest.mark.parametrize("path", sorted((records.ROOT / "plots").rglob("*.pdf")), ids=lambda path: path.stem)
def test_plots_are_drawn_from_the_results_that_stand_there(path):
    if path.stem == "synthetic-oct-examples":  # drawn from the generator, not from a result
        return
    known, found = results_by_hash(), subjects(path)
    assert found
    assert found[0]
    for digest in found[0]:
        assert digest.decode() in known, f"{path} is older than results/: run make publish"


def test_figures_of_the_homeworks_report_are_plots_that_stand_there(built):
    numbers = numbers_of(built)
    used = re.findall(r"\\includegraphics(?:\[.*?\])?\{((?:[^{}]|\{[^{}]*\})+)\}", text_of(HOMEWORK))
    assert used
    for name in used:
        plot = re.sub(r"\\result\{(.*?)\}", lambda match: numbers[match[1]], name)
        assert (records.ROOT / "plots" / f"{plot}.pdf").exists(), plot


def test_figures_of_deep_feature_learning_are_those_of_its_catalogue():
    """A figure of a study that was not run is missing, and the text says so; but its name is that of a figure."""
    used = re.findall(r"\\drawn\{.*?\}\{(.*?)\}", text_of(DEEP_FEATURES))
    figures = {name for run in deep_features.RUNS for name in run.figures}
    assert used
    assert {f"deep_features/{name}" for name in used} <= figures


@every_document
def test_the_document_was_made_from_these_sources_and_plots(document):
    digest, pdf = report.hash_of_sources(document).encode(), REPORT / f"{document.name}.pdf"
    own, *plots = sorted(subjects(pdf), key=lambda found: found != [digest])
    assert own == [digest], f"{pdf.name} is older than its sources: run make reports"
    known = results_by_hash()
    assert plots
    assert all(digest.decode() in known for plot in plots for digest in plot), (
        f"{pdf.name} holds older plots: run make reports"
    )


@pytest.mark.skipif(shutil.which("pdfinfo") is None, reason="needs poppler-utils")
@pytest.mark.parametrize(("name", "most"), [("deep_features", 10), ("assignments", 20)])
def test_the_reports_of_the_other_courses_are_short(name, most):
    info = subprocess.run(["pdfinfo", REPORT / f"{name}.pdf"], capture_output=True, text=True, check=True).stdout
    assert int(re.search(r"Pages: +(\d+)", info)[1]) <= most


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs poppler-utils")
def test_the_document_is_short_and_shows_the_numbers(built):
    info = subprocess.run(["pdfinfo", REPORT / "report.pdf"], capture_output=True, text=True, check=True).stdout
    assert int(re.search(r"Pages: +(\d+)", info)[1]) <= 15  # the last is the appendix
    command = ["pdftotext", "-layout", REPORT / "report.pdf", "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = numbers_of(built)
    for key in ("q1-features-64", "q1-memory-package", "q2-strided-adds", "q3-lstm-parameters"):
        assert numbers[key].replace("{,}", ",").replace(r"\,MiB", "") in text
    assert "??" not in text
    assert text.lower().count("synthetic") > 10


def test_without_latex_one_line_says_what_to_install(tmp_path):
    (tmp_path / ".venv").mkdir()
    (tmp_path / "bash").symlink_to(shutil.which("bash"))
    result = subprocess.run(
        [shutil.which("make"), "-f", records.ROOT / "Makefile", "-o", ".venv/installed", "-o", "tables", "reports"],
        cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode != 0
    assert "apt install texlive-latex-recommended" in result.stderr
