"""Every run whose result is committed, once: what it is in words, the name of its result file, its command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import records
from asr import plots as speech_plots
from q1.plots import DEMO_KEYS, MEMORY_KEYS, SPEED_KEYS
from q2.config import RESULT_KEYS, SHIFT_KEYS


class NotRun(Exception):
    """A result that is not there. Its text is the command that measures it."""


def ratio_keys(rows: dict[str, str]) -> tuple[str, ...]:
    """What the result file of a benchmark with these rows holds."""
    medians = [f"metrics.{row}.{side}.median:number" for row in rows for side in ("baseline", "ours", "ratio")]
    return *medians, *(f"metrics.{row}.what:text" for row in rows), "environment.cores:number", "environment.torch:text"


TRAINING = {"epoch": "images/s", "epoch_every_core": "images/s", "sweep": "s"}  # row of a benchmark: its unit
THROUGHPUT = dict.fromkeys(
    ("features", "training_lstm", "generation_lstm", "training_transformer", "generation_transformer"), "clips/s"
)
KEYS = {  # what the files hold that are no training, comparison or speech
    "q1/demo": DEMO_KEYS,
    "q1/attention-speed": SPEED_KEYS,
    "q1/attention-memory": MEMORY_KEYS,
    "q2/training-speed": ratio_keys(TRAINING),
    "q3/throughput": (
        *ratio_keys(THROUGHPUT), "metrics.transcription.beyond_imports.median:number", "config.clips:number",
        "config.hop_ms:number", "config.mixed_precision:text", "data.name:text", "data.source:text",
    ),
    "q3/silence": ("metrics.error_rates.plain.greedy.cer:number", "config.clips:number", "data.source:text"),
}  # fmt: skip


def read(path: Path) -> dict:
    """A result file, checked for what its kind holds. Raises FileNotFoundError where there is none."""
    name = f"{path.parent.name}/{path.stem}"
    if name in KEYS:
        return records.load_result(path, *KEYS[name])
    if path.parent.name == "q3":
        return speech_plots.load_speech(path)
    return records.load_result(path, *(SHIFT_KEYS if name.endswith("-shift") else RESULT_KEYS))


def load(root: Path, name: str) -> dict | None:
    """The contents of results/<name>.json under `root`, or None where there is no such file."""
    path = root / "results" / f"{name}.json"
    return read(path) if path.exists() else None


@dataclass(frozen=True)
class Run:
    """A run with one result file, results/<name>.json: on which data, and the command for it."""

    data: str
    name: str
    command: str

    def result(self, root: Path) -> dict:
        """The contents of its file. Raises NotRun where it is not there."""
        result = load(root, self.name)
        if result is None:
            raise NotRun(self.command)
        return result


@dataclass(frozen=True)
class SpeechRun:
    """A run of Question 3 with both decoders: which data, the name of its results, the seeds, the command.

    `{decoder}` and `{seed}` stand in the last two for what they say.
    """

    data: str
    name: str
    command: str
    seeds: tuple[int, ...] = (0,)

    def results(self, root: Path, decoder: str) -> list[tuple[Path, dict]]:
        """The files of the seeds that were run, with what they hold."""
        names = [f"q3/{self.name.format(decoder=decoder, seed=seed)}" for seed in self.seeds]
        found = [(root / "results" / f"{name}.json", load(root, name)) for name in names]
        return [(path, result) for path, result in found if result is not None]

    @property
    def shown_command(self) -> str:
        """The command with DECODER and SEED in capitals, and the values of SEED where there are several."""
        seeds = f"  # SEED: {', '.join(map(str, self.seeds))}" if len(self.seeds) > 1 else ""
        return self.command.format(decoder="DECODER", seed="SEED") + seeds


# --- Question 1 ------------------------------------------------------------------------------------------

DEMO = Run("error, bound and crossover", "q1/demo", "python q1_linear_attention.py")
SPEED = Run("time against other attention", "q1/attention-speed", "python benchmarks/q1_attention.py")
MEMORY = Run("memory against other attention", "q1/attention-memory", "python benchmarks/q1_attention.py --memory")
Q1_RUNS = (DEMO, SPEED, MEMORY)  # all on random numbers
Q1_LENGTH, Q1_LONGEST = "16384", 65536

# --- Question 2 ------------------------------------------------------------------------------------------

Q2_DATA = {
    "octmnist": "OCTMNIST (real)",
    "pneumoniamnist": "PneumoniaMNIST (real)",
    "synthetic-oct": "OCT-like scans (synthetic)",
}
SWEEPS = {
    "octmnist": Run(Q2_DATA["octmnist"], "q2/octmnist-sweep", "python hw2-q2.py --sweep"),
    "pneumoniamnist": Run(
        Q2_DATA["pneumoniamnist"],
        "q2/pneumoniamnist-sweep",
        "python hw2-q2.py --dataset pneumoniamnist --sweep --seeds 0 1 2 3 4",
    ),
    "synthetic-oct": Run(
        Q2_DATA["synthetic-oct"], "q2/synthetic-oct-sweep", "python hw2-q2.py --dataset synthetic-oct --sweep"
    ),
}
STRONG = {
    "octmnist": Run(
        f"{Q2_DATA['octmnist']}, strong recipe",
        "q2/octmnist-strong-adam-lr0.003",
        "python hw2-q2.py --recipe strong --seeds 0 1 2",
    ),
    "pneumoniamnist": Run(
        f"{Q2_DATA['pneumoniamnist']}, strong recipe",
        "q2/pneumoniamnist-strong-adam-lr0.003",
        "python hw2-q2.py --dataset pneumoniamnist --recipe strong --seeds 0 1 2 3 4",
    ),
}
SHIFTS = {
    name: Run(f"{data}, shifted images", f"q2/{name}-shift", f"python hw2-q2.py --shift --dataset {name}")
    for name, data in Q2_DATA.items()
}
Q2_RUNS = tuple(runs[name] for name in Q2_DATA for runs in (SWEEPS, STRONG) if name in runs)
Q2_SPEED = Run("one epoch and a sweep, timed (synthetic)", "q2/training-speed", "python benchmarks/q2_training.py")

# --- Question 3 ------------------------------------------------------------------------------------------

TRAIN, EVALUATE = "python -m asr train --decoder {decoder}", "python -m asr evaluate --checkpoint runs/q3/"
VOICES = "runs/q3/voices-longer-{decoder}-seed0.safetensors"
JOINT = "-beam8-ctc_weight0.3"
FULL = SpeechRun("LJ Speech (real)", "LJSpeech-1.1-{decoder}-seed0", TRAIN)
REVOICED = SpeechRun(
    "its texts, espeak-ng (synthetic), after the many voices",
    "revoiced-{decoder}-seed0",
    f"{TRAIN} --data data/revoiced --init {VOICES} --epochs 5 --learning_rate 0.0025",
)
REVOICED_JOINT = SpeechRun(
    "the same, searched with a beam of 8 that CTC has a share in",
    f"revoiced-{{decoder}}-seed0-on-revoiced-test{JOINT}",
    f"{EVALUATE}revoiced-{{decoder}}-seed0.safetensors --data data/revoiced --beam 8 --ctc_weight 0.3",
)
FEW = SpeechRun(
    "its texts, espeak-ng (synthetic), 2,000 clips",
    "revoiced-2000-{decoder}-seed{seed}",
    f"{TRAIN} --data data/revoiced --clips 2000 --epochs 15 --seed {{seed}}"
    " --name revoiced-2000-{decoder}-seed{seed}",
    (0, 1, 2),
)
Q3_RUNS = (
    FULL,
    SpeechRun(
        "its texts but LJ001 and LJ002, many voices (synthetic)",
        "voices-{decoder}-seed0",
        f"{TRAIN} --data data/voices --epochs 12",
    ),
    SpeechRun(
        "the same, trained on",
        "voices-longer-{decoder}-seed0",
        f"{TRAIN} --data data/voices --init runs/q3/voices-{{decoder}}-seed0.safetensors --epochs 10"
        " --name voices-longer-{decoder}-seed0",
    ),
    REVOICED,
    REVOICED_JOINT,
    FEW,
    SpeechRun(
        "the same, `maclaurin` in the encoder",
        "revoiced-2000-maclaurin-{decoder}-seed{seed}",
        f"{TRAIN} --kernel maclaurin --data data/revoiced --clips 2000 --epochs 15 --seed {{seed}}"
        " --name revoiced-2000-maclaurin-{decoder}-seed{seed}",
        (0, 1),
    ),
)
TUNED, REHEARSED = (f"ljspeech-345-{how}-{{decoder}}-seed{{seed}}" for how in ("tuned", "rehearsed"))
FIRST = REHEARSED.replace("{seed}", "0")
TUNE = f"{TRAIN} --data data/ljspeech-345 --init {VOICES} --learning_rate 0.0025 --seed {{seed}}"
SCRATCH = SpeechRun(
    "on the recorded clips alone",
    "ljspeech-345-{decoder}-seed0",
    f"{TRAIN} --data data/ljspeech-345 --epochs 30",
)
UNSEEN = SpeechRun(
    "on synthetic voices alone",
    "voices-longer-{decoder}-seed0-on-ljspeech-345-test",
    f"{EVALUATE}voices-longer-{{decoder}}-seed0.safetensors --data data/ljspeech-345",
)
REHEARSED_RUN = SpeechRun(
    "on synthetic voices, then on the recorded clips and as many synthetic ones",
    REHEARSED,
    f"{TUNE} --epochs 45 --rehearse data/voices --name {REHEARSED}",
    (0, 1, 2),
)
RECORDED_JOINT = SpeechRun(
    "the same, searched with a beam of 8 that CTC has a share in",
    f"{REHEARSED}-on-ljspeech-345-test{JOINT}",
    f"{EVALUATE}{REHEARSED}.safetensors --data data/ljspeech-345 --beam 8 --ctc_weight 0.3",
    (0, 1, 2),
)
Q3_RECORDED = (  # all scored on the same 65 recorded clips
    SCRATCH,
    UNSEEN,
    SpeechRun(
        "on synthetic voices, then on the recorded clips",
        TUNED,
        f"{TUNE} --epochs 60 --name {TUNED}",
        (0, 1, 2),
    ),
    REHEARSED_RUN,
    SpeechRun(
        "the same, one seed, searched with a beam of 8",
        f"{FIRST}-on-ljspeech-345-test-beam8",
        f"{EVALUATE}{FIRST}.safetensors --data data/ljspeech-345 --beam 8",
    ),
    SpeechRun(
        "the same, heard by the encoder's CTC head alone",
        f"{FIRST}-on-ljspeech-345-test-ctc",
        f"{EVALUATE}{FIRST}.safetensors --data data/ljspeech-345 --ctc",
    ),
    RECORDED_JOINT,
)
Q3_JOINED = tuple(
    SpeechRun(
        f"{count} re-voiced test clips in a row (synthetic)",
        f"revoiced-{{decoder}}-seed0-on-revoiced-test-join{join}",
        f"{EVALUATE}revoiced-{{decoder}}-seed0.safetensors --data data/revoiced --join {join}",
    )
    for join, count in ((2, "two"), (3, "three"))
)
Q3_SILENCE = Run("silence around speech (real speech)", "q3/silence", "python benchmarks/q3_silence.py")
Q3_SPEED = Run("training and transcription, timed (real speech)", "q3/throughput", "python benchmarks/q3_throughput.py")
