"""The runs of Question 3: trainings on synthetic and on recorded speech, evaluations, benchmarks."""

from __future__ import annotations

from asr.plots import NAMES, draw, load_speech
from common.catalogue import Run, checked, plots, ratio_keys

DECODERS = tuple(NAMES)
TRAIN, EVALUATE = "python -m asr train --decoder {decoder}", "python -m asr evaluate --checkpoint runs/q3/"
VOICES = "runs/q3/voices-longer-{decoder}-seed0.safetensors"
JOINT, JOINT_FLAGS = "-beam8-ctc_weight0.3", "--beam 8 --ctc_weight 0.3"
TUNED, REHEARSED = (f"ljspeech-345-{how}-{{decoder}}-seed{{seed}}" for how in ("tuned", "rehearsed"))
ON_RECORDED = "{model}-on-ljspeech-345-test"


def speech(what: str, name: str, command: str, seeds: tuple[int, ...] = (0,), **options) -> Run:
    """A run of both decoders."""
    return Run(what, f"q3/{name}", command, each={"decoder": DECODERS, "seed": seeds}, load=load_speech, **options)


def training(
    what: str, name: str, command: str, seeds: tuple[int, ...] = (0,), beside: tuple[Run, ...] = (), more: str = ""
) -> Run:
    """A training of both decoders, with the figures that are drawn of it, `more` among them."""
    stem = "q3/" + name.replace("-{decoder}", "").replace("-seed{seed}", "")
    kinds = ("loss", "scores", "length", "attention", *more.split())
    return speech(what, name, command, seeds, figures=plots(stem, *kinds), draw=draw, beside=beside)


# --- on synthetic speech -----------------------------------------------------------------------------


def joined(what: str, corpus: str, model: str, seeds: tuple[int, ...] = (0,)) -> tuple[Run, ...]:
    """Two and three clips of a corpus's test part after one another, written down by a model."""
    stem = f"q3/{model.partition('-{')[0]}"
    return tuple(
        speech(
            what.format(count),
            f"{model}-on-{corpus}-test-join{join}",
            f"{EVALUATE}{model}.safetensors --data data/{corpus} --join {join}",
            seeds,
            figures=plots(stem, "joined"),
        )
        for join, count in ((2, "two"), (3, "three"))
    )


FULL_NAME, FEW_NAME = "LJSpeech-1.1-{decoder}-seed{seed}", "revoiced-2000-{decoder}-seed{seed}"
SHIPPED_NAME, SEEDS = "revoiced-shipped-{decoder}-seed{seed}", (0, 1, 2)
FULL_JOINED = joined("{} test clips of LJ Speech in a row (real)", "LJSpeech-1.1", FULL_NAME)
FULL = training("LJ Speech (real)", FULL_NAME, TRAIN, beside=FULL_JOINED, more="self_attention")
JOINED = joined("{} re-voiced test clips in a row (synthetic), 2,000 clips", "revoiced", FEW_NAME, SEEDS)
SHIPPED_JOINED = joined(
    "{} re-voiced test clips in a row (synthetic), after the shipped recognisers", "revoiced", SHIPPED_NAME, SEEDS
)
REVOICED = training(
    "its texts, espeak-ng (synthetic), after the many voices",
    "revoiced-{decoder}-seed{seed}",
    f"{TRAIN} --data data/revoiced --init {VOICES} --epochs 5 --learning_rate 0.0025",
)
REVOICED_JOINT = speech(
    "the same, joint search with CTC (a beam of 8)",
    f"revoiced-{{decoder}}-seed{{seed}}-on-revoiced-test{JOINT}",
    f"{EVALUATE}revoiced-{{decoder}}-seed{{seed}}.safetensors --data data/revoiced {JOINT_FLAGS}",
)
SHIPPED = training(
    "its texts, espeak-ng (synthetic), after the shipped recognisers",
    SHIPPED_NAME,
    f"{TRAIN} --data data/revoiced --init checkpoints/ljspeech-345-tuned-{{decoder}}.safetensors --epochs 3"
    f" --learning_rate 0.0025 --seed {{seed}} --name {SHIPPED_NAME}",
    SEEDS,
    beside=SHIPPED_JOINED,
    more="self_attention",
)
FEW = training(
    "its texts, espeak-ng (synthetic), 2,000 clips",
    FEW_NAME,
    f"{TRAIN} --data data/revoiced --clips 2000 --epochs 15 --seed {{seed}} --name {FEW_NAME}",
    SEEDS,
    beside=JOINED,
)
FEW_MACLAURIN = training(
    "the same, `maclaurin` in the encoder",
    "revoiced-2000-maclaurin-{decoder}-seed{seed}",
    f"{TRAIN} --kernel maclaurin --data data/revoiced --clips 2000 --epochs 15 --seed {{seed}}"
    " --name revoiced-2000-maclaurin-{decoder}-seed{seed}",
    (0, 1),
)
ON_SYNTHETIC = (
    FULL,
    training(
        "its texts but LJ001 and LJ002, many voices (synthetic)",
        "voices-{decoder}-seed{seed}",
        f"{TRAIN} --data data/voices --epochs 12",
    ),
    training(
        "the same, trained for longer",
        "voices-longer-{decoder}-seed{seed}",
        f"{TRAIN} --data data/voices --init runs/q3/voices-{{decoder}}-seed0.safetensors --epochs 10"
        " --name voices-longer-{decoder}-seed0",
    ),
    REVOICED,
    REVOICED_JOINT,
    SHIPPED,
    FEW,
    FEW_MACLAURIN,
)

# --- on recorded speech, all scored on the same 65 clips ---------------------------------------------

TUNE = f"{TRAIN} --data data/ljspeech-345 --init {VOICES} --learning_rate 0.0025 --seed {{seed}}"
SCRATCH = training(
    "on the recorded clips alone",
    "ljspeech-345-{decoder}-seed{seed}",
    f"{TRAIN} --data data/ljspeech-345 --epochs 30",
)
UNSEEN = speech(
    "on synthetic voices alone",
    ON_RECORDED.format(model="voices-longer-{decoder}-seed{seed}"),
    f"{EVALUATE}voices-longer-{{decoder}}-seed{{seed}}.safetensors --data data/ljspeech-345",
)
TUNED_RUN = training(
    "on synthetic voices, then on the recorded clips", TUNED, f"{TUNE} --epochs 60 --name {TUNED}", SEEDS
)
REHEARSED_RUN = training(
    "on synthetic voices, then on the recorded clips and as many synthetic ones",
    REHEARSED,
    f"{TUNE} --epochs 45 --rehearse data/voices --name {REHEARSED}",
    SEEDS,
)
RECORDED_BEAM = speech(
    "the same, one seed, a beam of 8",
    f"{ON_RECORDED.format(model=REHEARSED)}-beam8",
    f"{EVALUATE}{REHEARSED}.safetensors --data data/ljspeech-345 --beam 8",
)
RECORDED_CTC = speech(
    "the same, the encoder's CTC head alone",
    f"{ON_RECORDED.format(model=REHEARSED)}-ctc",
    f"{EVALUATE}{REHEARSED}.safetensors --data data/ljspeech-345 --ctc",
)
RECORDED_JOINT = speech(
    "the same, joint search with CTC (a beam of 8)",
    f"{ON_RECORDED.format(model=REHEARSED)}{JOINT}",
    f"{EVALUATE}{REHEARSED}.safetensors --data data/ljspeech-345 {JOINT_FLAGS}",
    SEEDS,
)
SHIPPED_MODEL = "ljspeech-345-tuned-{decoder}"  # in checkpoints/
RECORDED_JOINED = tuple(  # two clips and three, each with greedy search and with the joint one
    Run(
        f"{count} recorded test clips in a row (real), the shipped recognisers{how}",
        f"q3/{ON_RECORDED.format(model=SHIPPED_MODEL)}{suffix}-join{join}",
        " ".join(
            f"python -m asr evaluate --checkpoint checkpoints/{SHIPPED_MODEL}.safetensors --data data/ljspeech-345"
            f" {flags} --join {join}".split()
        ),
        each={"decoder": DECODERS},
        load=load_speech,
    )
    for join, count in ((2, "two"), (3, "three"))
    for how, suffix, flags in (("", "", ""), (", joint search", JOINT, JOINT_FLAGS))
)
ON_RECORDED_SPEECH = (SCRATCH, UNSEEN, TUNED_RUN, REHEARSED_RUN, RECORDED_BEAM, RECORDED_CTC, RECORDED_JOINT)

# --- benchmarks --------------------------------------------------------------------------------------

THROUGHPUT = dict.fromkeys(  # row of the benchmark: its unit
    ("features", "training_lstm", "generation_lstm", "training_transformer", "generation_transformer"), "clips/s"
)
SPEED = Run(
    "training and transcription, timed (real speech)",
    "q3/throughput",
    "python benchmarks/q3_throughput.py",
    load=checked(
        *ratio_keys(THROUGHPUT), "metrics.transcription.beyond_imports.median:number", "config.clips:number",
        "config.hop_ms:number", "config.mixed_precision:text", "data.name:text", "data.source:text",
    ),
)  # fmt: skip
SILENCE = Run(
    "silence around speech (real speech)",
    "q3/silence",
    "python benchmarks/q3_silence.py",
    load=checked("metrics.error_rates.plain.greedy.cer:number", "config.clips:number", "data.source:text"),
)
RUNS = (
    *ON_SYNTHETIC, *FULL_JOINED, *JOINED, *SHIPPED_JOINED, *RECORDED_JOINED, *ON_RECORDED_SPEECH, SPEED, SILENCE,
)  # fmt: skip
