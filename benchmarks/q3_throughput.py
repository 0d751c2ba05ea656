"""Speech recognition's throughput against the course's way of doing it, measured in turn in one run.

The course's way: every clip padded to 2754 frames (hop 160 of 22,050 Hz), features computed anew for each item, a
generation that puts the whole prefix through the decoder for each token, 98 tokens whatever the clip. Both sides train
networks of the same sizes on the same clips; ours with the flags' defaults, which choose bf16 where the processor
computes in it. `python -m asr transcribe` is timed on 10 s of speech. Run it on an idle machine: `make benchmark`.
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

import records
import utils
from asr.checkpoint import save_model
from asr.generate import greedy
from asr.model import SpeechRecognizer
from asr.train import Config as TrainConfig
from asr.train import augment, build_optimizer, training_loss
from command_line import COUNT, POSITIVE, check_flags, flag
from common.speech.audio import SAMPLE_RATE, Features, log_mel, read_audio
from common.speech.data import Part, SpeechBatches, batches_in_order, load_corpus
from common.speech.text import EMPTY, START, STOP

warnings.filterwarnings("ignore", "At least one mel filterbank")  # so it is with the course's settings

COURSE_FRAMES, COURSE_TOKENS, COURSE_HOP, COURSE_RATE = 2754, 98, 160, 22050


@dataclass(frozen=True)
class Config:
    """The flags."""

    data: str = flag("data/LJSpeech-1.1", "a corpus in LJ Speech's layout", metavar="DIR")
    clips: int = flag(96, "clips of its training part", COUNT)
    batch_size: int = flag(16, "clips per step, on both sides", COUNT)
    repetitions: int = flag(5, "of each comparison", COUNT)
    threads: int = flag(2, "threads of PyTorch", COUNT)
    num_blocks: int = flag(4, "blocks of the encoder, on both sides", COUNT)
    hop_ms: float = flag(TrainConfig.hop_ms, "our hop; the course's is 160 samples, 7.3 ms", POSITIVE)
    out: str = flag("runs", "folder of the result file")

    __post_init__ = check_flags


# --- the course's way --------------------------------------------------------------------------------


def course_batch(paths: list[Path], tokens: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Features made on the spot and padded to one size, targets cut and padded to one size."""
    transform = torchaudio.transforms.MelSpectrogram(COURSE_RATE, n_fft=400, hop_length=COURSE_HOP, n_mels=80)
    features = torch.zeros(len(paths), COURSE_FRAMES, 80)
    for row, path in zip(features, paths, strict=True):
        samples, _ = soundfile.read(path, dtype="float32")
        mel = transform(torch.from_numpy(samples)).clamp_min(1e-10).log10().mT[:COURSE_FRAMES]
        row[: len(mel)] = mel
    targets = torch.full((len(paths), COURSE_TOKENS), EMPTY)
    for row, sentence in zip(targets, tokens, strict=True):
        row[: min(len(sentence), COURSE_TOKENS)] = torch.tensor(sentence[:COURSE_TOKENS])
    return features, torch.full((len(paths),), COURSE_FRAMES), targets


def course_training(config: Config, model: SpeechRecognizer, optimizer, part: Part) -> None:
    """An epoch."""
    for first in range(0, len(part), config.batch_size):
        chosen = slice(first, first + config.batch_size)
        features, lengths, tokens = course_batch(part.paths[chosen], part.tokens[chosen])
        logits, _ = model(features, lengths, tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()


@torch.no_grad()
def course_generation(config: Config, model: SpeechRecognizer, part: Part) -> list[list[int]]:
    """What the model hears in every clip: the whole prefix at each step, as many steps for each clip."""
    heard = []
    for first in range(0, len(part), config.batch_size):
        chosen = slice(first, first + config.batch_size)
        features, lengths, _ = course_batch(part.paths[chosen], part.tokens[chosen])
        memory = model.encoder(features, lengths)
        tokens = torch.full((len(features), 1), START)
        for _ in range(COURSE_TOKENS - 1):
            best = model.decoder(tokens, memory)[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, best], 1)
        heard += tokens[:, 1:].tolist()
    return heard


# --- ours --------------------------------------------------------------------------------------------


def our_training(config: Config, model: SpeechRecognizer, optimizer, part: Part) -> None:
    settings = TrainConfig(ctc_weight=0.0, device="cpu")  # the course's loss has no such part
    for batch in SpeechBatches(part, config.batch_size, seed=0).epoch(1):
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
            losses = training_loss(settings, model, augment(batch))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        losses.sum().item()


def our_generation(config: Config, model: SpeechRecognizer, part: Part) -> None:
    for _, (features, lengths, *_) in batches_in_order(part, config.batch_size):
        greedy(model, features, lengths, limit=COURSE_TOKENS - 1)


# --- measuring ---------------------------------------------------------------------------------------


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def summary(values: list[float]) -> dict:
    return {"median": statistics.median(values), "values": values}


def compare(what: str, clips: int, course, ours, repetitions: int) -> dict:
    """Time both in turn, after one call of each to warm up: clips per second, and their ratio."""
    pairs = [(seconds(course), seconds(ours)) for _ in range(repetitions + 1)][1:]
    sides = {
        "baseline": [clips / first for first, _ in pairs],
        "ours": [clips / second for _, second in pairs],
        "ratio": [first / second for first, second in pairs],
    }
    entry = {side: summary(values) for side, values in sides.items()}
    baseline, faster, ratio = (entry[side]["median"] for side in ("baseline", "ours", "ratio"))
    print(f"{what}: {baseline:.1f} -> {faster:.1f} clips/s, ratio {ratio:.1f}", flush=True)
    return {"what": what, **entry}


def new_model(config: Config, decoder: str, mel_bins: int = 80) -> SpeechRecognizer:
    utils.configure_seed(0)
    return SpeechRecognizer(decoder, mel_bins=mel_bins, num_blocks=config.num_blocks)


def with_adamw(model: SpeechRecognizer):
    return model, torch.optim.AdamW(model.parameters(), 1e-3)


def with_ours(model: SpeechRecognizer):
    return model, build_optimizer(TrainConfig(device="cpu"), model)


def never_stopping(model: SpeechRecognizer) -> SpeechRecognizer:
    """The worst case for ours: no sentence ends early."""
    with torch.no_grad():
        model.decoder.output.bias[STOP] -= 1e4
    return model.eval()


def compute_features(part: Part, features: Features) -> None:
    for path in part.paths:
        log_mel(read_audio(path), features).sum()


def read_features(part: Part) -> None:
    for _, batch in batches_in_order(part, 16):
        batch[0].sum()


def transcription(config: Config, part: Part, folder: Path) -> dict:
    """Seconds of `python -m asr transcribe` on 10 s of speech, beyond those of importing PyTorch, in turn."""
    samples = np.concatenate([read_audio(path) for path in part.paths[:10]])[: 10 * SAMPLE_RATE]
    soundfile.write(folder / "speech.wav", samples, SAMPLE_RATE)
    model = new_model(config, "transformer")
    save_model(folder / "model.safetensors", never_stopping(model), Features(hop_ms=config.hop_ms))
    imports = [sys.executable, "-c", "import torch, torchaudio"]
    transcribe = [sys.executable, "-m", "asr", "transcribe", str(folder / "speech.wav")]
    transcribe += ["--checkpoint", str(folder / "model.safetensors")]
    call = partial(subprocess.run, cwd=records.ROOT, check=True, capture_output=True, timeout=300)
    pairs = [
        (seconds(lambda: call(imports)), seconds(lambda: call(transcribe))) for _ in range(config.repetitions + 1)
    ][1:]
    entry = {
        "imports": summary([first for first, _ in pairs]),
        "transcribe": summary([second for _, second in pairs]),
        "beyond_imports": summary([second - first for first, second in pairs]),
    }
    print(f"transcription of 10 s of speech: {entry['beyond_imports']['median']:.2f} s beyond imports", flush=True)
    return {"what": "seconds to transcribe 10 s of speech", **entry}


def run(config: Config) -> dict:
    torch.set_num_threads(config.threads)
    start = time.perf_counter()
    settings, features = TrainConfig(hop_ms=config.hop_ms, device="cpu"), Features(hop_ms=config.hop_ms)
    with tempfile.TemporaryDirectory() as cache:
        corpus = load_corpus(config.data, features, cache=cache)
        part = corpus.train.first(config.clips)
        metrics = {
            "features": compare(
                "features read from the cache instead of computed",
                len(part),
                lambda: compute_features(part, features),
                lambda: read_features(part),
                config.repetitions,
            )
        }
        for decoder in ("lstm", "transformer"):
            course, ours = with_adamw(new_model(config, decoder)), with_ours(new_model(config, decoder))
            metrics[f"training_{decoder}"] = compare(
                f"training, {decoder} decoder",
                len(part),
                lambda course=course: course_training(config, *course, part),
                lambda ours=ours: our_training(config, *ours, part),
                config.repetitions,
            )
            model = never_stopping(new_model(config, decoder))
            metrics[f"generation_{decoder}"] = compare(
                f"greedy generation of {COURSE_TOKENS - 1} tokens, {decoder} decoder",
                len(part),
                lambda model=model: course_generation(config, model, part),
                lambda model=model: our_generation(config, model, part),
                config.repetitions,
            )
        metrics["transcription"] = transcription(config, part, Path(cache))
        data = corpus.describe()
    return {
        "question": "q3",
        "run": "throughput",
        "config": {key: value for key, value in dataclasses.asdict(config).items() if key not in ("out", "data")}
        | {"mixed_precision": settings.precision},
        "seeds": [0],
        "data": data,
        "metrics": metrics,
        "seconds": time.perf_counter() - start,
    }


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    config = command_line.parse(Config, argv, __doc__)
    (Path(config.out) / "q3").mkdir(parents=True, exist_ok=True)  # fails now, not after an hour
    print(records.save_results(config.out, run(config)))


if __name__ == "__main__":
    sys.exit(main())
