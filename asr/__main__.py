"""Question 3 from the command line: python -m asr train | evaluate | transcribe (each has --help)."""

from __future__ import annotations

import sys
from pathlib import Path

# the repository's modules come before those of the working folder, which may have a utils.py of its own
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import command_line  # first, for Ctrl-C during the others

# isort: split

import json
import math
from functools import partial

import records
from asr.config import COMMANDS, Config, Evaluation, Transcription

SIMILARITIES = {"jaccard": "Jaccard", "cosine": "cosine", "damerau_levenshtein": "Damerau-Levenshtein"}
ERROR_RATES = {"wer": "WER", "cer": "CER"}  # the share of wrong words, of wrong characters


def summary(part: str, metrics: dict) -> str:
    """The scores of a part, each with its 95 % interval over clips, and its first transcript."""
    cells = [f"loss {metrics['loss']:.3f}"] if "loss" in metrics else []
    for name, shown in SIMILARITIES.items():
        low, high = metrics[name]["interval"]
        cells.append(f"{shown} {metrics[name]['mean']:.3f} [{low:.3f}, {high:.3f}]")
    for name, shown in ERROR_RATES.items():
        low, high = (100 * bound for bound in metrics[name]["interval"])
        cells.append(f"{shown} {100 * metrics[name]['mean']:.1f} % [{low:.1f}, {high:.1f}]")
    example = metrics["transcripts"][0]
    return f"{part}: {', '.join(cells)}\n  said:       {example['said']}\n  recognised: {example['heard']}"


def run_train(config: Config) -> None:
    from asr import train
    from asr.metrics import NOT_CONVERGED

    result = train.run(config)
    if not result:
        return
    path = records.save_results(config.out, result)  # before it is shown
    for part, metrics in result["metrics"].items():
        print(summary(part, metrics))
    error_rate = result["metrics"]["validation"]["cer"]["mean"]
    if error_rate > NOT_CONVERGED:
        print(f"not converged: {error_rate:.0%} of the characters are wrong; train on more clips, for more epochs")
    print(path)


def run_evaluate(config: Evaluation) -> None:
    from asr import train
    from asr.checkpoint import load_model
    from asr.generate import ctc_greedy, search
    from common.speech.data import load_corpus

    model, features = load_model(config.checkpoint)
    corpus = load_corpus(config.data, features, config.cache)
    part = getattr(corpus, config.part).joined(config.join)
    per_frame = config.pace * features.hop_ms / 1000 if config.pace else math.inf
    write = ctc_greedy if config.ctc else search(config.beam, config.ctc_weight, per_frame)
    head = {
        "question": "q3",
        "run": f"{Path(config.checkpoint).stem}-on-{corpus.name}-{config.part}{config.suffix}",
        "config": {
            "part": config.part,
            **config.search_settings(),
            "checkpoint": Path(config.checkpoint).name,
            "digest": records.file_digest(config.checkpoint),
            "corpus": corpus.name,
            "decoder": model.settings["decoder"],
            "hop_ms": features.hop_ms,
        },
        "seeds": [],
        "data": corpus.describe(),
    }
    with records.claim(config.out, head, config.overwrite):
        metrics = train.score_part(model, part, write)
        if config.join == 1 and not config.ctc:  # the Transformer has no positions for the loss of longer texts
            metrics["loss"] = train.mean_loss(model, part)
        attention = train.attention_map(model, getattr(corpus, config.part))
        path = records.save_results(config.out, head | {"metrics": {config.part: metrics}, "attention": attention})
    print(summary(config.part, metrics))
    print(path)


def run_transcribe(config: Transcription) -> int:
    """Print what is said in each file; returns 2 if one of them could not be read."""
    from asr.checkpoint import load_model
    from asr.transcribe import SUFFIXES, transcribe

    model, features = load_model(config.checkpoint)

    def show(path: Path) -> None:
        try:
            transcript = transcribe(model, features, path, config.beam, config.ctc_weight)
        except (OSError, ValueError) as error:
            if config.json:
                print(json.dumps({"file": str(path), "error": command_line.reason(error)}), flush=True)
            raise
        for note in transcript.notes:
            command_line.say(f"note: {path}: {note}")
        print(written(path, transcript, config), flush=True)

    return command_line.for_each(command_line.find_files(config.files, SUFFIXES), show)


def written(path: Path, transcript, config: Transcription) -> str:
    """A transcript as it is printed."""
    if config.json:
        segments = [segment._asdict() for segment in transcript.segments]
        answer = {"file": str(path), "text": transcript.text, "segments": segments, "notes": transcript.notes}
        return json.dumps(answer)
    if config.timestamps:
        times = (f"[{clock(start)} - {clock(stop)}] {text}" for start, stop, text in transcript.segments)
        return "\n".join([f"{path}:", *times])
    return f"{path}: {transcript.text}"


def clock(seconds: float) -> str:
    """Minutes and seconds, as in 00:03.2."""
    tenths = round(seconds * 10)
    return f"{tenths // 600:02}:{tenths % 600 // 10:02}.{tenths % 10}"


RUN = {"train": run_train, "evaluate": run_evaluate, "transcribe": run_transcribe}


@partial(command_line.entry_point, several_processes=True)
def main(argv: list[str] | None = None) -> int | None:
    command, config = command_line.parse_command(COMMANDS, argv, __doc__)
    if command != "train":
        command_line.refuse_launch(f"asr {command}")
    return RUN[command](config)


if __name__ == "__main__":
    sys.exit(main())
