"""Transcripts with silence around speech and in it, against those of the plain clips; and of sound without speech.

The test clips of a corpus, and 3 s of digital silence or of low noise before each, after it and in its middle. Each of
these files is transcribed as `python -m asr transcribe` does it, greedily and with joint search, and once as a whole,
without a look at where somebody speaks.
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm

import records
from asr.checkpoint import load_model
from asr.config import SHIPPED
from asr.metrics import score
from asr.transcribe import recognise, transcribe
from command_line import check_flags, flag, within
from common.speech.audio import read_audio
from common.speech.data import Part, load_corpus

SECONDS = 3  # of silence
LEVELS = {"digital silence": 0.0, "low noise": 1e-3}  # of full scale: about what the recorded clips have in pauses
PLACES = ("before", "after", "in the middle")
GREEDY, JOINT = (1, 0.0), (8, 0.3)  # beam, and CTC's share


@dataclass(frozen=True)
class Config:
    """The flags."""

    data: str = flag("data/LJSpeech-1.1", "a corpus in LJ Speech's layout", metavar="DIR")
    clips: int | None = flag(None, "the first CLIPS clips of its test part only", within(1, 100_000), shown="all")
    out: str = flag("runs", "folder of the result file")

    __post_init__ = check_flags


def with_silence(samples: np.ndarray, rate: int, place: str, level: float, seed: int) -> np.ndarray:
    """16-bit sound (n,), with SECONDS of noise of that level at a place."""
    noise = np.random.default_rng(seed).normal(size=SECONDS * rate) * level * 32768
    cut = {"before": 0, "after": len(samples), "in the middle": len(samples) // 2}[place]
    return np.concatenate([samples[:cut], noise.round().astype(np.int16), samples[cut:]])


def without_speech(rate: int = 22050) -> dict[str, np.ndarray]:
    """Five seconds (n,) in which nobody speaks, by what they are."""
    seconds, rng = np.arange(5 * rate) / rate, np.random.default_rng(0)
    mains = sum(np.sin(2 * np.pi * 50 * k * seconds) / k for k in range(1, 8)) / 10
    click = np.zeros(5 * rate)
    click[2 * rate] = 1
    noise = {f"white noise of {level}": level * rng.normal(size=5 * rate) for level in (0.3, 0.01, 0.001)}
    return {"digital silence": 0 * click, **noise, "mains hum": mains, "an offset": 0 * click + 0.5, "a click": click}


def error_rates(part: Part, change: Callable, transcribers: dict[str, Callable]) -> dict:
    """Of each way to transcribe, the rate of wrong characters in a part's clips after a change, with its interval."""
    texts = {name: [] for name in transcribers}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"
        for seed, clip in enumerate(part.paths):
            samples, rate = soundfile.read(clip, dtype="int16")
            soundfile.write(path, change(samples, rate, seed), rate)
            for name, to_text in transcribers.items():
                texts[name].append(to_text(path))
    scores = {name: score(list(part.transcripts), found)["cer"] for name, found in texts.items()}
    return {name: {"cer": rate["mean"], "interval": rate["interval"]} for name, rate in scores.items()}


def run(config: Config, searches: tuple[str, ...] = ("greedy", "joint", "greedy, whole")) -> dict:
    start = time.perf_counter()
    model, features = load_model(SHIPPED)
    ways = {
        "greedy": lambda path: transcribe(model, features, path, *GREEDY).text,
        "joint": lambda path: transcribe(model, features, path, *JOINT).text,
        "greedy, whole": lambda path: recognise([read_audio(path)], model, features, *GREEDY)[0],
    }
    chosen = {name: ways[name] for name in searches}
    with tempfile.TemporaryDirectory() as cache, torch.inference_mode():
        corpus = load_corpus(config.data, features, cache)
        part = corpus.test.first(config.clips or len(corpus.test))
        changes = {"plain": lambda samples, rate, seed: samples}
        for kind, level in LEVELS.items():
            for place in PLACES:
                changes[f"{kind} {place}"] = lambda samples, rate, seed, place=place, level=level: with_silence(
                    samples, rate, place, level, seed
                )
        metrics = {name: error_rates(part, change, chosen) for name, change in tqdm(changes.items(), disable=None)}
        texts = {}
        for name, samples in without_speech().items():
            soundfile.write(Path(cache) / "sound.wav", samples, 22050, "FLOAT")
            texts[name] = transcribe(model, features, Path(cache) / "sound.wav", *GREEDY).text
    return {
        "question": "q3",
        "run": "silence",
        "config": {"clips": len(part), "seconds": SECONDS, "checkpoint": SHIPPED.name},
        "seeds": [0],
        "data": corpus.describe(),
        "metrics": {"error_rates": metrics, "texts_without_speech": texts},
        "seconds": time.perf_counter() - start,
    }


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    config = command_line.parse(Config, argv, __doc__)
    (Path(config.out) / "q3").mkdir(parents=True, exist_ok=True)  # fails now, not after minutes
    result = run(config)
    path = records.save_results(config.out, result)
    for name, rates in result["metrics"]["error_rates"].items():
        cells = [f"{way} {100 * rate['cer']:.1f} %" for way, rate in rates.items()]
        print(f"{name}: CER {', '.join(cells)}")
    print(path)


if __name__ == "__main__":
    sys.exit(main())
