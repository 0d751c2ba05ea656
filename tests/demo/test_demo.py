"""`make demo`: what it says, and what it does when a part fails."""

import contextlib
import importlib
import io
import os
import re
import subprocess
import sys

import pytest

import command_line
import image_data
import records
from demo import __main__ as demo
from demo import assignments, deep_features, q1, q2, q3
from demo.part import Part, call
from publish import page
from publish.page import Section
from q1 import demo as q1_demo
from q2 import comparison, saved
from synthetic import speech as synthetic_speech
from tests.publish.test_page import Elements

hw2_q2 = importlib.import_module("hw2-q2")
CROSSOVER = [
    {"dim": 16, "length": 512, "found": True, "seconds": {"linear": 0.001, "softmax": 0.002}},
    {"dim": 64, "length": 16384, "found": False, "seconds": {"linear": 0.004, "softmax": 0.003}},
]
ERRORS = [{"terms": 3, "largest_score": 1.0, "error": {"mean": 0.0123}}, {"terms": 4, "largest_score": 1.0}]


def network(no_maxpool, test, diverged=()):
    metrics = {} if diverged else {"validation": {"accuracy": {"mean": 0.5}}}
    if test is not None:
        metrics["test"] = {"accuracy": {"mean": test}}
    settings = {"no_maxpool": no_maxpool, "learning_rate": 0.1}
    return {"settings": settings, "metrics": metrics, "parameters": 1234, "diverged_seeds": list(diverged)}


def images(*networks):
    return {
        "models": dict(enumerate(networks)),
        "majority_baseline": {"accuracy": {"test": 0.25}},
        "data": {"sizes": {"test": 1500}},
    }


def digits(wrong):
    return {
        "metrics": {part: {"wer": {"values": wrong}} for part in ("validation", "test")},
        "history": [{"validation_loss": 3.04}, {"validation_loss": 0.5}, {"validation_loss": 0.126}],
        "budget": {"clips": 355},
        "seconds": 41.6,
    }


def test_question_1_in_words():
    assert "0.6 % of the attention" in q1.closeness({"errors": ERRORS})
    assert q1.crossovers({"crossover": CROSSOVER}).rows[1] == ["64", "not up to 16,384", "4.00 ms", "3.00 ms"]


def test_question_2_in_words():
    result = images(network(False, 0.9486), network(True, 0.918), network(False, None, diverged=[0]))
    assert "94.9 % of 1,500 synthetic scans" in q2.told_apart(result)
    assert "guessing gets 25 %" in q2.told_apart(result)
    assert "it is 91.8 % (one training each" in q2.without_pooling(result)
    assert [row[2:4] for row in q2.networks(result).rows] == [
        ["50.0 %", "94.9 %"],
        ["50.0 %", "91.8 %"],
        ["diverged", "diverged"],
    ]
    assert "diverged" in q2.without_pooling(images(network(False, 0.9)))


def test_question_3_in_words():
    result = digits([0, 1, 0, 2.0])
    assert "trained on 355 synthetic clips" in q3.digits_right(result)
    assert "gets 2 of 4 right" in q3.digits_right(result)
    assert q3.losses(result) == "Its validation loss is 3.04 after one epoch, 0.13 after 3; training took 42 s."
    assert "gets 93 % of the characters right" in q3.written_right({"cer": {"mean": 0.0749}})


def test_the_assignments_in_words():
    by_hand = {"metrics": {"test": {"accuracy": {"mean": 0.99}}}, "data": {"sizes": {"test": 300}}}
    echo = {"metrics": {"test": {"accuracy": {"mean": 0.987}}}}
    words = {"metrics": {"test": {"paths_exact": {"mean": 0.93}}}}
    patches = {"metrics": {"test": {"accuracy": {"mean": 0.971}}}, "parameters": 60_730}
    told = assignments.told(by_hand, echo, words, patches)
    assert "Of 300 small digits (real), a network trained without autograd recognises 99.0 %" in told
    assert "repeats 98.7 % of random letters (synthetic)" in told
    assert "reads 93 % of rendered words (synthetic)" in told
    assert "a Vision Transformer with 60,730 parameters 97.1 %" in told


def test_voices_are_new():
    """The shipped recogniser was trained on MANY_VOICES, then on recordings."""
    voices = {voice for _, voice in q3.SENTENCES}
    assert voices <= set(synthetic_speech.TEST_VOICES.espeak)
    assert not voices & {*synthetic_speech.MANY_VOICES.espeak, *synthetic_speech.TRAIN_VOICES.espeak}


def test_a_part_is_told_in_eight_lines(tmp_path):
    sounds = [page.Sound(tmp_path / "x.wav", text.lower(), text.lower(), "") for text, _ in q3.SENTENCES]
    longest = q3.written_right({"cer": {"mean": 0.1}})
    told = demo.told(Section("", headline=longest, sounds=tuple(sounds)))
    assert len(told) <= 8
    assert max(map(len, told)) <= demo.WIDTH


def test_quoted_output_is_of_this_demonstration():
    """docs/demo-output.txt, which README.md quotes, is a summary.txt."""
    lines = (records.ROOT / "docs" / "demo-output.txt").read_text().splitlines()
    titles = [line for line in lines if re.search(r" \(about \d+ s\)$", line)]
    assert titles == [f"{part.title} (about {part.seconds} s)" for part in demo.PARTS]
    assert len(lines) <= 45
    assert lines[-1] == "runs/demo/index.html"


# --- when something goes wrong ---


def good(out):
    print("details")
    return Section("Good", headline="It is 1.5 % (synthetic).")


def user_error(out):
    raise ValueError("no disk: make room")


def failing_command(out):
    @command_line.entry_point
    def main(argv):
        raise OSError("cannot write there: make room")

    call(main, "python thing.py", "--out", str(out))


def programmers_error(out):
    return {}["key"]


def interrupted(out):
    raise KeyboardInterrupt


def parts(*functions):
    return tuple(Part(function.__name__, function.__name__, 1, function) for function in functions)


@pytest.mark.parametrize(
    ("fails", "code", "reason"),
    [
        (user_error, 2, "no disk: make room"),
        (failing_command, 2, "cannot write there"),
        (programmers_error, 1, "'key'"),
    ],
)
def test_a_failed_part_hides_no_other(tmp_path, monkeypatch, capsys, fails, code, reason):
    monkeypatch.setattr(demo, "PARTS", parts(fails, good))
    assert demo.main(["--out", str(tmp_path)]) == code
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert "This part failed: " in printed
    assert reason in " ".join(printed.split())
    assert "It is 1.5 % (synthetic)." in printed
    assert printed.splitlines()[-1] == str(tmp_path / "index.html")
    assert "details" not in printed
    assert "details" in (tmp_path / "good.log").read_text()
    assert (tmp_path / "summary.txt").read_text() == printed
    text = Elements(tmp_path / "index.html").text
    assert reason in text
    assert "It is 1.5 % (synthetic)." in text
    assert ("Traceback" in (tmp_path / f"{fails.__name__}.log").read_text()) == (fails is not failing_command)


def test_interruption_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "PARTS", parts(good, interrupted, good))
    assert demo.main(["--out", str(tmp_path)]) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_interruption_of_an_import_is_shown_whatever_stderr_is(monkeypatch, capfd):
    monkeypatch.setattr(command_line.os, "_exit", sys.exit)
    with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as ended:
        command_line._end_interrupted()
    assert ended.value.code == 130
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_an_interrupted_command_interrupts_the_demonstration(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        call(lambda argv: 130, "python thing.py")


# --- the Makefile ---


def make(*arguments, folder=records.ROOT):
    """Run make as from a shell, also where make runs these tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_help_is_grouped():
    groups = re.split(r"\n\n", make("help").stdout.strip())
    assert [group.splitlines()[0] for group in groups[1:]] == ["Try it", "Run the homework", "Publish", "Develop"]
    assert "make demo " in groups[1]


OLD = """exec "$REAL" -c "import sys; sys.version_info = (3, 9, 2); sys.version = '3.9.2'; exec(sys.argv[1])" "$2\""""
WITHOUT_VENV = """case "$2" in *ensurepip*) echo Traceback >&2; exit 1;; esac; exec "$REAL" "$@\""""


@pytest.mark.parametrize(("script", "expected"), [(OLD, "this is 3.9.2"), (WITHOUT_VENV, "apt install python3-venv")])
def test_unusable_python_is_one_line(tmp_path, script, expected):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nREAL={sys.executable}\n{script}\n")
    python.chmod(0o755)
    (tmp_path / "Makefile").write_text((records.ROOT / "Makefile").read_text())
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "pyproject.toml").touch()
    done = make("demo", f"PYTHON={python}", folder=tmp_path)
    first, second = done.stderr.splitlines()  # the second is make's own
    assert expected in first
    assert second.startswith("make: ***")
    assert done.stdout == ""
    assert not (tmp_path / ".venv").exists()


# --- the whole ---


def train_here(configs, data):
    """hw2-q2.py's train_side_by_side without other processes, which would draw all the scans anew."""
    trials = []
    for config in configs:
        model, trial = hw2_q2.train(config, data)
        saved.save_model(config.file(".safetensors"), model, config, data)
        trials.append(trial)
    return trials


def test_parts_of_one_question(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "PARTS", tuple(Part(name, f"Part {name}", 40, good) for name in ("q1", "q3", "q3-b")))
    assert demo.main(["--parts", "q3", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "about 80 seconds" in printed
    assert [line for line in printed.splitlines() if line.startswith("Part")] == [
        "Part q3 (about 40 s)",
        "Part q3-b (about 40 s)",
    ]
    assert demo.main(["--parts", "q3", "q9"]) == 2
    assert capsys.readouterr().err.endswith(
        "--parts is ('q3', 'q9'), but must be of q1, q2, q3, deep_features, assignments\n"
    )


@pytest.mark.slow
def test_demonstration(tmp_path, monkeypatch, capsys):
    """With less of all: every part works, and what is told and shown is what the result files hold."""
    monkeypatch.setattr(hw2_q2, "train_side_by_side", train_here)
    monkeypatch.setattr(comparison, "train_side_by_side", train_here)
    monkeypatch.setattr(image_data, "SYNTHETIC_OCT_SIZE", 400)
    monkeypatch.setattr(q1_demo, "LONGEST", 512)
    monkeypatch.setattr(q1, "FLAGS", ("--length", "16", "--seeds", "0"))
    monkeypatch.setattr(q2, "FLAGS", (*q2.FLAGS, "--epochs", "1"))
    monkeypatch.setattr(q3, "CLIPS", 60)
    monkeypatch.setattr(q3, "FLAGS", ("--hidden_dim", "16", "--num_blocks", "1", "--epochs", "2"))
    briefly = {what: (*network[:2], ("--epochs", "1")) for what, network in deep_features.NETWORKS.items()}
    monkeypatch.setattr(deep_features, "NETWORKS", briefly)
    monkeypatch.setattr(assignments, "ECHO", (*assignments.ECHO, "--epochs", "1", "--steps", "20"))
    reader = (*assignments.READER, "--epochs", "1", "--words", "64", "--tested", "10")
    monkeypatch.setattr(assignments, "READER", reader)
    monkeypatch.setattr(assignments, "TRANSFORMER", (*assignments.TRANSFORMER, "--epochs", "1"))
    monkeypatch.chdir(tmp_path)
    assert demo.main(["--out", "demo"]) == 0, [log.read_text()[-2000:] for log in (tmp_path / "demo").glob("*.log")]
    printed, errors = capsys.readouterr()
    assert errors == ""
    lines = printed.splitlines()
    assert len(lines) <= 45
    assert lines[-1] == "demo/index.html"
    pictures = re.findall(r"Picture:\s+(\S+)", printed)
    assert len(pictures) == 5
    assert all((tmp_path / picture).stat().st_size > 5000 for picture in pictures)
    images, sentences, digits = (
        records.load_result(tmp_path / "demo" / name)
        for name in ("q2/synthetic-oct-sweep.json", "q3/demo-sentences.json", "q3/digits.json")
    )
    elements = Elements(tmp_path / "demo" / "index.html")
    selected = next(iter(images["models"].values()))["metrics"]["test"]["accuracy"]["mean"]
    for text in (printed, elements.text):
        assert f"{100 * selected:.1f} %" in text
        assert f"{sum(rate == 0 for rate in digits['metrics']['test']['wer']['values'])} of 11" in text
        for transcript in sentences["metrics"]["test"]["transcripts"]:
            assert transcript["said"] in text
        assert "synthetic" in text
    assert sentences["metrics"]["test"]["cer"]["mean"] < 0.25  # not what it says, but it does work
    assert len(elements.attributes("audio")) == 3
    assert len(elements.attributes("img")) == 10
    assert all(address.startswith("data:") for address in elements.addresses())
    assert (tmp_path / "demo" / "index.html").stat().st_size < 1_500_000
    assert not [path for path in tmp_path.iterdir() if path.name not in ("demo", "data")]
