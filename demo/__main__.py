"""All three questions in brief, on synthetic data: `make demo`. Nothing is downloaded.

Each part runs commands of the homework, with their details in OUT/<part>.log. What they found is printed in a few
sentences (also in OUT/summary.txt), and shown on one page, OUT/index.html, with pictures and sound.
"""

from __future__ import annotations

import command_line  # isort: skip  (first: Ctrl-C during the imports below is one line)

import contextlib
import importlib
import shlex
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import records
from command_line import flag
from publish import page
from publish.page import Page, Picture, Section, Sound, Table

WIDTH = 100  # columns of what is printed
ATTENTION_FLAGS = ("--length", "128", "--seeds", "0", "1", "2")
IMAGE_FLAGS = ("--dataset", "synthetic-oct", "--sweep", "--seeds", "0", "--epochs", "10")
SENTENCES = (  # each with a voice of espeak-ng that no training clip had
    ("Good morning, and welcome to this small demonstration of speech recognition.", "en-us+f1"),
    ("Seven ships came into the harbour before the evening.", "en-gb-x-rp+m5"),
    ("He kept the letters in a wooden box for many years.", "en-gb-scotland"),
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLIPS = 500  # spoken digits, 71 % of them to train on
SPEECH_FLAGS = ("--hidden_dim", "64", "--num_blocks", "2", "--epochs", "15")
GO_ON = (
    "source .venv/bin/activate",
    "python -m asr transcribe FILE   # write down what is said in a sound file of yours",
    "python hw2-q2.py --help         # Question 2 with other settings",
    "make homework                   # the original data: downloads 2.7 GB, takes a night",
    "make help                       # all else",
)


# --- Question 1 --------------------------------------------------------------------------------------


def linear_attention(out: Path) -> Section:
    from q1 import demo as q1_demo

    command = call(q1_demo.main, "python q1_linear_attention.py", *ATTENTION_FLAGS, "--out", str(out))
    result = records.load_result(
        out / "q1" / "demo.json",
        "crossover.*.length:number",
        "crossover.*.seconds.*:number",
        "errors.*.error.mean:number",
    )
    picture = Picture(
        out / "plots" / "q1" / "demo-weights.png",
        "Four heat maps of attention weights: exact softmax, and its approximation by two, three and five terms",
        "Attention weights of synthetic inputs, exact and approximated: the more terms, the more alike.",
    )
    return Section(
        "Question 1: linear attention",
        headline=q1_demo.headline(result),
        lines=(closeness(result),),
        pictures=(picture,),
        tables=(crossovers(result),),
        commands=(command,),
    )


def closeness(result: dict, terms: int = 3, score: float = 1.0) -> str:
    """Half the sum of |exact - approximated weight| is the share of the attention that goes elsewhere."""
    rows = result["errors"]
    error = next(row["error"]["mean"] for row in rows if (row["terms"], row["largest_score"]) == (terms, score))
    missed = f"{50 * error:.1f} % of the attention is on other keys"
    return f"It is an approximation: with scores up to {score:g}, {missed} (synthetic)."


def crossovers(result: dict) -> Table:
    rows = [
        [
            str(row["dim"]),
            f"{row['length']:,}" if row["found"] else f"not up to {row['length']:,}",
            *(f"{1000 * row['seconds'][name]:.2f} ms" for name in ("linear", "softmax")),
        ]
        for row in result["crossover"]
    ]
    header = ["width of a head", "linear is faster from", "linear attention", "softmax attention"]
    return Table("The time of one call at that many tokens (random, so synthetic, inputs)", header, rows)


# --- Question 2 --------------------------------------------------------------------------------------


def small_cnn(out: Path) -> Section:
    hw2_q2 = importlib.import_module("hw2-q2")  # the homework's name, which `import` can't spell
    command = call(hw2_q2.main, "python hw2-q2.py", *IMAGE_FLAGS, "--out", str(out))
    result = records.load_result(
        out / "q2" / "synthetic-oct-sweep.json",
        "models.*.metrics.validation?.accuracy.mean:number",
        "models.*.metrics.test?.accuracy.mean:number",
        "majority_baseline.accuracy.test:number",
    )
    stem = f"{out / 'plots' / 'q2' / 'synthetic-oct-sweep'}"
    pooling = Picture(
        Path(f"{stem}-pooling.png"),
        "Validation accuracy per epoch of two networks, with max-pooling and without, and their test scores",
        "Accuracy on synthetic scans, with max-pooling and without.",
    )
    mistakes = Picture(
        Path(f"{stem}-mistakes.png"),
        "Twelve synthetic scans, each with its true class and the wrong one that was predicted",
        "The synthetic scans that were classified wrongly with the highest probability.",
    )
    return Section(
        "Question 2: a small CNN",
        headline=told_apart(result),
        lines=(without_pooling(result),),
        pictures=(pooling, mistakes),
        tables=(networks(result),),
        commands=(command,),
    )


def tested(result: dict) -> list[dict]:
    """The network that validation chose, and the same without max-pooling."""
    return [model for model in result["models"].values() if "test" in model["metrics"]]


def percent(model: dict, part: str) -> str:
    metric = model["metrics"].get(part)
    return f"{100 * metric['accuracy']['mean']:.1f} %" if metric else "diverged" if model["diverged_seeds"] else ""


def told_apart(result: dict) -> str:
    baseline, count = 100 * result["majority_baseline"]["accuracy"]["test"], result["data"]["sizes"]["test"]
    right = percent(tested(result)[0], "test")
    return f"A small CNN classifies {right} of {count:,} synthetic scans correctly; guessing gets {baseline:.0f} %."


def without_pooling(result: dict) -> str:
    strided = tested(result)[1:]
    right = f"it is {percent(strided[0], 'test')}" if strided else "its training diverged"
    return f"Without max-pooling {right} (one training each, so a small difference may be chance)."


def networks(result: dict) -> Table:
    rows = [
        [
            "none" if model["settings"]["no_maxpool"] else "max-pooling",
            f"{model['settings']['learning_rate']:g}",
            percent(model, "validation"),
            percent(model, "test"),
            f"{model['parameters']:,}",
        ]
        for model in result["models"].values()
    ]
    header = ["pooling", "learning rate", "validation accuracy", "test accuracy", "parameters"]
    return Table(
        "Synthetic scans, one seed. Validation chose the rate; the test set was used after that.", header, rows
    )


# --- Question 3: a trained recogniser ----------------------------------------------------------------


def trained_recogniser(out: Path) -> Section:
    """Three sentences, spoken by espeak-ng and written down by the shipped recogniser."""
    from asr.checkpoint import load_model
    from asr.config import SHIPPED
    from asr.metrics import score
    from asr.text import normalise
    from asr.transcribe import transcribe
    from synthetic.speech import Sentence, speak_into

    folder = out / "sentences"
    folder.mkdir(parents=True, exist_ok=True)
    model, features = load_model(SHIPPED)
    transcripts = []
    for number, (text, voice) in enumerate(SENTENCES, start=1):
        clip = f"sentence-{number}"
        speak_into(folder, Sentence(clip, text, voice, rate=130, pitch=65, loudness=0.6))
        written = transcribe(model, features, folder / f"{clip}.wav").text
        transcripts.append({"clip": clip, "voice": voice, "said": normalise(text), "heard": written})
    scores = score(*([each[side] for each in transcripts] for side in ("said", "heard")))
    result = {
        "question": "q3",
        "run": "demo-sentences",
        "config": {"checkpoint": SHIPPED.name},
        "seeds": [],
        "data": {"name": "three sentences spoken by espeak-ng", "source": "synthetic"},
        "metrics": {"test": {**scores, "transcripts": transcripts}},
    }
    test = records.load_result(records.save_results(out, result))["metrics"]["test"]
    sounds = [
        spoken(folder, each, wrong) for each, wrong in zip(test["transcripts"], test["cer"]["values"], strict=True)
    ]
    return Section(
        "Question 3: a trained recogniser",
        headline=written_right(test),
        sounds=tuple(sounds),
        commands=(f"python -m asr transcribe {folder}/*.wav",),
    )


def spoken(folder: Path, transcript: dict, wrong: float) -> Sound:
    note = f"Synthetic voice {transcript['voice']}: {100 * (1 - wrong):.0f} % of the characters are right."
    return Sound(folder / f"{transcript['clip']}.wav", transcript["said"], transcript["heard"], note)


def written_right(test: dict) -> str:
    right = f"{100 * (1 - test['cer']['mean']):.0f} %"
    return f"The trained recogniser gets {right} of the characters right in synthetic voices that are new to it."


# --- Question 3: one that learns ---------------------------------------------------------------------


def tiny_recogniser(out: Path) -> Section:
    """A recogniser of spoken digits, trained from nothing."""
    import utils
    from asr import plots as speech_plots
    from asr.__main__ import main

    corpus = spoken_digits(out)
    flags = ("train", "--data", str(corpus), *SPEECH_FLAGS, "--name", "digits", "--out", str(out))
    command = call(main, "python -m asr", *flags)
    path, stem = out / "q3" / "digits.json", out / "plots" / "q3" / "digits-loss"
    result = records.load_result(path, "history.*.validation_loss:number", "metrics.*.wer.values.*:number")
    utils.save_figure(speech_plots.plot_loss([result]), stem, path)
    picture = Picture(
        stem.with_suffix(".png"),
        "Training and validation loss per epoch: both curves fall",
        "Its loss per epoch, on synthetic spoken digits.",
    )
    return Section(
        "Question 3: ten words, learnt from nothing",
        headline=digits_right(result),
        lines=(losses(result),),
        pictures=(picture,),
        tables=(digit_table(result),),
        commands=(command,),
    )


def spoken_digits(out: Path) -> Path:
    """A corpus of single digits in LJ Speech's layout, each about as often as the others."""
    from synthetic.speech import write_corpus

    order = np.random.default_rng(0)
    words = [word for _ in range(CLIPS // len(DIGITS)) for word in order.permutation(DIGITS)]
    rows = "".join(f"DIGIT-{number:04d}|{word}|{word}\n" for number, word in enumerate(words, start=1))
    records.write_file(out / "digits.csv", rows.encode())
    return write_corpus(out / "digits", texts=out / "digits.csv")


def counted(result: dict, part: str) -> tuple[int, int]:
    """How many clips of one word are right, and of how many."""
    wrong = result["metrics"][part]["wer"]["values"]
    return sum(rate == 0 for rate in wrong), len(wrong)


def digits_right(result: dict) -> str:
    (right, count), clips = counted(result, "test"), result["budget"]["clips"]
    return f"A tiny one, trained on {clips} synthetic clips of digits, gets {right} of {count} right in new voices."


def losses(result: dict) -> str:
    first, last = (result["history"][epoch]["validation_loss"] for epoch in (0, -1))
    fall = f"{first:.2f} after one epoch, {last:.2f} after {len(result['history'])}"
    return f"Its validation loss is {fall}; training took {result['seconds']:.0f} s."


def digit_table(result: dict) -> Table:
    kinds = {"validation": "in the voices of the training clips", "test": "in other voices, slower and higher"}
    rows = [[kind, "{} of {}".format(*counted(result, part))] for part, kind in kinds.items()]
    return Table("Synthetic clips that the tiny recogniser was not trained on", ["clips", "right"], rows)


# --- telling it --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One part of the demonstration: its log's name, what is printed while it runs, and about how long it takes."""

    name: str
    title: str
    seconds: int  # on two cores
    run: Callable[[Path], Section]


PARTS = (
    Part("q1", "Question 1: linear attention", 20, linear_attention),
    Part("q2", "Question 2: a small CNN, trained four times", 100, small_cnn),
    Part("q3", "Question 3: a trained recogniser", 5, trained_recogniser),
    Part("digits", "Question 3: ten words, learnt from nothing", 35, tiny_recogniser),
)


def call(main: Callable[[list[str]], int], program: str, *flags: str) -> str:
    """Run a command of this repository, and return it as text. Raises CommandFailed where it fails."""
    command = f"{program} {shlex.join(flags)}"
    print(f"$ {command}", flush=True)
    code = main(list(flags))
    if code == 130:
        raise KeyboardInterrupt
    if code:
        failure = command_line.CommandFailed(f"{command} ended with exit code {code}")
        failure.exit_code = code
        raise failure
    return command


@contextlib.contextmanager
def ticking(seconds: int) -> Iterator[None]:
    """Show on a terminal that time passes, in a line that is gone at the end."""
    stream, done, start = sys.stderr, threading.Event(), time.monotonic()
    if not stream.isatty():
        yield
        return

    def tick() -> None:
        while not done.wait(1):
            print(f"\r  {time.monotonic() - start:.0f} s of about {seconds} s ", end="", file=stream, flush=True)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        print("\r\033[K", end="", file=stream, flush=True)


def attempt(part: Part, out: Path) -> tuple[Section, int]:
    """A part's section and exit code. One that fails says so, and does not hide the others."""
    log = out / f"{part.name}.log"
    with contextlib.ExitStack() as stack:
        stack.enter_context(ticking(part.seconds))
        file = stack.enter_context(log.open("w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(file))
        stack.enter_context(contextlib.redirect_stderr(file))
        try:
            return part.run(out), 0
        except command_line.CommandFailed as error:  # whose reason is in the log
            code = error.exit_code
        except Exception as error:
            traceback.print_exc()
            code = 2 if isinstance(error, ValueError | OSError) else 1
    *_, reason = log.read_text(encoding="utf-8").strip().splitlines()
    return Section(part.title, headline=f"This part failed: {reason}", lines=(f"Details are in {log}.",)), code


def told(section: Section) -> list[str]:
    """A section's sentences for the terminal, and its first picture."""
    lines = [section.headline]
    for sound in section.sounds:
        lines += [f"  said     {sound.said}", f"  written  {sound.written}"]
    lines += [*section.lines, *(f"Picture: {picture.path}" for picture in section.pictures[:1])]
    return [
        wrapped for line in lines for wrapped in textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="  ")
    ]


class Teller:
    """Prints lines, and keeps them for the summary."""

    def __init__(self):
        self.lines: list[str] = []

    def __call__(self, *lines: str) -> None:
        self.lines += lines
        print(*lines, sep="\n", flush=True)


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def write_page(sections: list[Section], out: Path, seconds: float) -> Path:
    environment = records.environment()
    machine = f"{environment['cores']} cores ({environment['platform']}, PyTorch {environment['torch']})"
    intro = (
        "**All data on this page is synthetic:** random numbers, drawn scans, sentences spoken by espeak-ng.",
        f"Made by `make demo` in {minutes(seconds)} on {machine}. Every number comes from a result file in `{out}`.",
    )
    title = "Linear attention, a small CNN, and speech recognition"
    go_on = Section("Go on", commands=GO_ON)
    return page.render(Page(title, intro, (*sections, go_on)), out / "index.html", embed=True)


def run(out: Path) -> int:
    """All parts, the summary and the page; returns the exit code of the first part that failed, or 0."""
    out.mkdir(parents=True, exist_ok=True)
    start, tell = time.monotonic(), Teller()
    about = round(sum(part.seconds for part in PARTS) / 60)
    tell(
        "Linear attention, a small CNN, and speech recognition, on synthetic data: nothing is downloaded.",
        f"It takes about {about} minutes on two cores. Details go to {out}/*.log; Ctrl-C stops it.",
    )
    done = []
    for part in PARTS:
        tell("", f"{part.title} (about {part.seconds} s)")
        done.append(attempt(part, out))
        tell(*told(done[-1][0]))
    path = write_page([section for section, _ in done], out, time.monotonic() - start)
    tell(
        "",
        f"Done in {minutes(time.monotonic() - start)}. This page has it all, with sound, tables and commands to go on:",
        f"{path}",
    )
    records.write_file(out / "summary.txt", "\n".join([*tell.lines, ""]).encode())
    return next((code for _, code in done if code), 0)


@dataclass(frozen=True)
class Config:
    """The flags."""

    out: Path = flag(Path("runs/demo"), "folder for the page, results, plots and logs")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__.partition("\n")[0])
    try:
        return run(config.out)
    except KeyboardInterrupt:
        command_line.say("interrupted; `make demo` starts again")
        return 130


if __name__ == "__main__":
    sys.exit(main())
