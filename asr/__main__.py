"""Question 3 from the command line: python -m asr train | evaluate | transcribe (each has --help)."""

from __future__ import annotations

import sys
from pathlib import Path

# the repository's modules come before those of the working folder, which may have a utils.py of its own
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import command_line  # first, for Ctrl-C during the others

# isort: split

import argparse
import json
import math
from functools import partial

import records
from asr.text import MAX_TOKENS

SHIPPED = records.ROOT / "checkpoints" / "ljspeech-345-tuned-lstm.safetensors"
CACHE = "data/features"
SIMILARITIES = {"jaccard": "Jaccard", "cosine": "cosine", "damerau_levenshtein": "Damerau-Levenshtein"}
ERROR_RATES = {"wer": "WER", "cer": "CER"}  # the share of wrong words, of wrong characters


def add_training_flags(parser: command_line.ArgumentParser) -> None:
    flag = lambda name, text, **kwargs: parser.add_flag(name, help=text, default=argparse.SUPPRESS, **kwargs)  # noqa: E731
    flag("decoder", "lstm (default) or transformer", choices=("lstm", "transformer"))
    flag("data", "a corpus in LJ Speech's layout (data/LJSpeech-1.1)", metavar="DIR")
    flag("epochs", "passes over the training part (15)", type=int)
    flag("batch_size", "clips per step, over all processes together (16)", type=int)
    flag("learning_rate", "of Muon at its highest; AdamW's is a fifth of it (0.005)", type=float)
    flag("weight_decay", "of both optimisers (0.01)", type=float)
    flag("warmup", "share of the steps in which the learning rate rises; then it falls as a cosine (0.1)", type=float)
    flag("clip_norm", "largest norm of the gradient (1)", type=float)
    flag("label_smoothing", "probability spread over all tokens in the training loss (0.1)", type=float)
    flag("ctc_weight", "share of the encoder's CTC loss in the training loss (0.3)", type=float)
    flag("hidden_dim", "width (200)", type=int)
    flag("num_heads", "attention heads (2)", type=int)
    flag("num_blocks", "blocks of the encoder (4)", type=int)
    flag("kernel", "attention of the encoder: softmax (default) or Question 1's maclaurin",
         choices=("softmax", "maclaurin"))  # fmt: skip
    flag("hop_ms", "milliseconds between frames of the spectrogram (16)", type=float)
    flag("clips", "train on the first CLIPS clips of the training part only (all)", type=int)
    flag("init", "start from the weights of a trained recogniser (.safetensors), to tune it on other speech",
         metavar="FILE")  # fmt: skip
    flag("rehearse", "after each batch, one of this other corpus, so that what was learnt from it is not forgotten",
         metavar="DIR")  # fmt: skip
    flag("seed", "seed of the weights, the order and SpecAugment (0)", type=int)
    flag("device", "auto (default), cpu, cuda or mps", choices=("auto", "cpu", "cuda", "mps"))
    flag("mixed_precision", "auto (default): bf16 where the device computes in it; no; or bf16",
         choices=("auto", "no", "bf16"))  # fmt: skip
    flag("out", "folder for results and checkpoints (runs)")
    flag("cache", f"folder for features of sound ({CACHE})", metavar="DIR")
    flag("name", "name of the run (corpus-decoder-seed)")
    flag("resume", "go on from the checkpoint of the same command", action="store_true")
    flag("overwrite", "replace a run of the same name with other settings or data", action="store_true")
    flag("tensorboard", "log to OUT/q3/NAME-tensorboard", action="store_true")


def add_search_flags(parser: command_line.ArgumentParser, beam: int, ctc_weight: float) -> None:
    text = f"a .safetensors file that a training run wrote ({SHIPPED.relative_to(records.ROOT)}, tuned on LJ Speech)"
    parser.add_flag("checkpoint", default=str(SHIPPED), metavar="FILE", help=text)
    parser.add_flag("beam", type=int, default=beam, help=f"width of the beam; 1 is greedy search ({beam})")
    text = f"share that the encoder's CTC head has in the scores of sentences ({ctc_weight:g})"
    parser.add_flag("ctc_weight", type=float, default=ctc_weight, help=text)


def build_parser() -> command_line.ArgumentParser:
    parser = command_line.ArgumentParser(prog="python -m asr", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a recogniser, then score it on the test part")
    add_training_flags(train)
    evaluate = commands.add_parser("evaluate", help="loss and scores of a trained recogniser")
    add_search_flags(evaluate, beam=1, ctc_weight=0.0)  # the decoder alone
    evaluate.add_flag("data", default="data/LJSpeech-1.1", metavar="DIR", help="a corpus in LJ Speech's layout")
    evaluate.add_flag("part", default="test", choices=("train", "validation", "test"), help="part of it (test)")
    evaluate.add_flag("ctc", action="store_true", help="read off the encoder's CTC head alone, without the decoder")
    text = f"most characters to write per second of sound, never more than {MAX_TOKENS - 1} in all (0: no such limit)"
    evaluate.add_flag("pace", type=float, default=0.0, help=text)
    text = "score JOIN neighbouring clips after one another as one: longer than any in training (1)"
    evaluate.add_flag("join", type=int, default=1, help=text)
    evaluate.add_flag("overwrite", action="store_true", help="replace another model's or corpus's result of that name")
    evaluate.add_flag("out", default="runs", help="folder for the result file (runs)")
    evaluate.add_flag("cache", default=CACHE, metavar="DIR", help=f"folder for features of sound ({CACHE})")
    transcribe = commands.add_parser("transcribe", help="write down what is said in sound files")
    text = "sound files of any kind and rate, folders of them, and patterns ('*.wav')"
    transcribe.add_argument("files", nargs="+", metavar="FILE", help=text)
    add_search_flags(transcribe, beam=8, ctc_weight=0.3)  # with the fewest errors
    transcribe.add_flag("timestamps", action="store_true", help="a line for each piece of a file, with its time")
    transcribe.add_flag("json", action="store_true", help="for programs: a JSON object on each line, one per file")
    return parser


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


def run_train(args: dict) -> None:
    from asr import train
    from asr.metrics import NOT_CONVERGED

    result = train.run(train.Config(**args))
    if not result:
        return
    path = records.save_results(args.get("out", train.Config.out), result)  # before it is shown
    for part, metrics in result["metrics"].items():
        print(summary(part, metrics))
    error_rate = result["metrics"]["validation"]["cer"]["mean"]
    if error_rate > NOT_CONVERGED:
        print(f"not converged: {error_rate:.0%} of the characters are wrong; train on more clips, for more epochs")
    print(path)


def run_evaluate(args: dict) -> None:
    from asr import train
    from asr.checkpoint import load_model
    from asr.data import load_corpus
    from asr.generate import ctc_greedy, search

    model, features = load_model(args["checkpoint"])
    corpus = load_corpus(args["data"], features, args["cache"])
    part = getattr(corpus, args["part"]).joined(args["join"])
    per_frame = args["pace"] * features.hop_ms / 1000 if args["pace"] else math.inf
    listen = ctc_greedy if args["ctc"] else search(args["beam"], args["ctc_weight"], per_frame)
    usual = {"ctc": False, "beam": 1, "ctc_weight": 0, "pace": 0, "join": 1}
    others = ((name, args[name]) for name in usual if args[name] != usual[name])
    suffix = "".join(f"-{name}" if value is True else f"-{name}{value:g}" for name, value in others)
    checkpoint = {"checkpoint": Path(args["checkpoint"]).name, "digest": records.file_digest(args["checkpoint"])}
    head = {
        "question": "q3",
        "run": f"{Path(args['checkpoint']).stem}-on-{corpus.name}-{args['part']}{suffix}",
        "config": {name: args[name] for name in ("part", *usual)}
        | checkpoint
        | {"corpus": corpus.name, "decoder": model.settings["decoder"], "hop_ms": features.hop_ms},
        "seeds": [],
        "data": corpus.describe(),
    }
    with records.claim(args["out"], head, args["overwrite"]):
        metrics = train.score_part(model, part, listen)
        if args["join"] == 1 and not args["ctc"]:  # the Transformer has no positions for the loss of longer texts
            metrics["loss"] = train.mean_loss(model, part)
        attention = train.attention_map(model, getattr(corpus, args["part"]))
        path = records.save_results(args["out"], head | {"metrics": {args["part"]: metrics}, "attention": attention})
    print(summary(args["part"], metrics))
    print(path)


def run_transcribe(args: dict) -> int:
    """Print what is said in each file; returns 2 if one of them could not be read."""
    from asr.checkpoint import load_model
    from asr.transcribe import SUFFIXES, transcribe

    model, features = load_model(args["checkpoint"])

    def show(path: Path) -> None:
        try:
            transcript = transcribe(model, features, path, args["beam"], args["ctc_weight"])
        except (OSError, ValueError) as error:
            if args["json"]:
                print(json.dumps({"file": str(path), "error": command_line.reason(error)}), flush=True)
            raise
        for note in transcript.notes:
            command_line.say(f"note: {path}: {note}")
        print(written(path, transcript, args), flush=True)

    return command_line.for_each(command_line.find_files(args["files"], SUFFIXES), show)


def written(path: Path, transcript, args: dict) -> str:
    """A transcript as it is printed."""
    if args["json"]:
        segments = [segment._asdict() for segment in transcript.segments]
        answer = {"file": str(path), "text": transcript.text, "segments": segments, "notes": transcript.notes}
        return json.dumps(answer)
    if args["timestamps"]:
        times = (f"[{clock(start)} - {clock(stop)}] {text}" for start, stop, text in transcript.segments)
        return "\n".join([f"{path}:", *times])
    return f"{path}: {transcript.text}"


def clock(seconds: float) -> str:
    """Minutes and seconds, as in 00:03.2."""
    tenths = round(seconds * 10)
    return f"{tenths // 600:02}:{tenths % 600 // 10:02}.{tenths % 10}"


def check_search(args: dict) -> None:
    ranges = {"beam": (1, 100), "join": (1, 100), "ctc_weight": (0, 0.99), "pace": (0, 1000)}
    checks = {name: command_line.within(args[name], *ranges[name]) for name in ranges if name in args}
    command_line.check_flags(argparse.Namespace(**args), checks)
    if args.get("ctc") and (args["beam"] > 1 or args["ctc_weight"] or args["pace"]):
        raise ValueError("--ctc does without the decoder and its search: leave out --beam, --ctc_weight and --pace")


@partial(command_line.entry_point, several_processes=True)
def main(argv: list[str] | None = None) -> int | None:
    args = vars(build_parser().parse_args(argv))
    if args["command"] != "train":
        command_line.refuse_launch(f"asr {args['command']}")
        check_search(args)
    return {"train": run_train, "evaluate": run_evaluate, "transcribe": run_transcribe}[args.pop("command")](args)


if __name__ == "__main__":
    sys.exit(main())
