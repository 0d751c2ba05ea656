"""Question 3 in brief: the shipped recogniser on new voices, and one that learns ten words from nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import records
from demo.part import Part, call
from publish.page import Picture, Section, Sound, Table

SENTENCES = (  # each with a voice of espeak-ng that no training clip had
    ("Good morning, and welcome to this small demonstration of speech recognition.", "en-us+f1"),
    ("Seven ships came into the harbour before the evening.", "en-gb-x-rp+m5"),
    ("He kept the letters in a wooden box for many years.", "en-gb-scotland"),
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLIPS = 500  # spoken digits, 71 % of them to train on
FLAGS = ("--hidden_dim", "64", "--num_blocks", "2", "--epochs", "15")

# --- a trained recogniser ----------------------------------------------------------------------------


def trained_recogniser(out: Path) -> Section:
    """Three sentences, spoken by espeak-ng and written down by the shipped recogniser."""
    from asr.checkpoint import load_model
    from asr.config import SHIPPED
    from asr.metrics import score
    from asr.transcribe import transcribe
    from common.speech.text import normalise
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


# --- one that learns ---------------------------------------------------------------------------------


def tiny_recogniser(out: Path) -> Section:
    """A recogniser of spoken digits, trained from nothing."""
    import utils
    from asr import plots as speech_plots
    from asr.__main__ import main

    corpus = spoken_digits(out)
    flags = ("train", "--data", str(corpus), *FLAGS, "--name", "digits", "--out", str(out))
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


PARTS = (
    Part("q3", "Question 3: a trained recogniser", 5, trained_recogniser),
    Part("q3-digits", "Question 3: ten words, learnt from nothing", 35, tiny_recogniser),
)
