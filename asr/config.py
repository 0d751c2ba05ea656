"""The flags of `python -m asr train | evaluate | transcribe`.

Light, so that a mistake is reported before PyTorch is imported.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import records
from command_line import (
    COUNT,
    DEVICES,
    NOT_NEGATIVE,
    POSITIVE,
    PRECISIONS,
    SEED,
    SHARE,
    Check,
    check_flags,
    flag,
    within,
)
from common.speech.defaults import HOP_MS, corpus_name
from common.speech.text import MAX_TOKENS

SHIPPED = records.ROOT / "checkpoints" / "ljspeech-345-tuned-lstm.safetensors"


def corpus_flag() -> Any:
    check = Check(lambda root: records.is_plain_name(corpus_name(root)), "a folder whose name a file can have")
    return flag("data/LJSpeech-1.1", "a corpus in LJ Speech's layout", check, metavar="DIR")


def cache_flag() -> Any:
    return flag("data/features", "folder for features of sound", metavar="DIR")


def out_flag() -> Any:
    return flag("runs", "folder for results and checkpoints")


@dataclass(frozen=True)
class Config:
    """The flags of `python -m asr train`."""

    decoder: str = flag("lstm", "lstm or transformer", choices=("lstm", "transformer"))
    data: str = corpus_flag()
    epochs: int = flag(15, "passes over the training part", within(1, 10_000))
    batch_size: int = flag(16, "clips per step, over all processes together", within(1, 10_000))
    learning_rate: float = flag(5e-3, "of Muon at its highest; AdamW's is a fifth of it", POSITIVE)
    weight_decay: float = flag(0.01, "of both optimisers", NOT_NEGATIVE)
    warmup: float = flag(0.1, "share of the steps in which the learning rate rises; then it falls as a cosine", SHARE)
    clip_norm: float = flag(1.0, "largest norm of the gradient; 0: no clipping", NOT_NEGATIVE)
    label_smoothing: float = flag(0.1, "probability spread over all tokens in the training loss", SHARE)
    ctc_weight: float = flag(0.3, "share of the encoder's CTC loss in the training loss", SHARE)
    hidden_dim: int = flag(
        200, "width", Check(lambda width: 2 <= width <= 1024 and width % 2 == 0, "even, from 2 to 1,024")
    )
    num_heads: int = flag(2, "attention heads", COUNT)
    num_blocks: int = flag(4, "blocks of the encoder", within(1, 32))
    kernel: str = flag(
        "softmax",
        "attention of the encoder: softmax or Question 1's maclaurin",
        choices=("softmax", "maclaurin"),
    )
    hop_ms: float = flag(HOP_MS, "milliseconds between frames of the spectrogram", within(1, 25))  # the window's length
    clips: int | None = flag(
        None, "train on the first CLIPS clips of the training part only", within(1, 1_000_000), shown="all"
    )
    init: str | None = flag(
        None,
        "start from the weights of a trained recogniser (.safetensors), to tune it on other speech",
        Check(lambda path: Path(path).is_file(), "a file that a training run wrote"),
        metavar="FILE",
    )
    rehearse: str | None = flag(
        None,
        "after each batch, one of this other corpus, so that what was learnt from it is not forgotten",
        metavar="DIR",
    )
    seed: int = flag(0, "seed of the weights, the order and SpecAugment", SEED)
    device: str = flag("auto", "auto, cpu, cuda or mps", choices=DEVICES)
    mixed_precision: str = flag("auto", "auto: bf16 where the device computes in it; no; or bf16", choices=PRECISIONS)
    out: str = out_flag()
    cache: str = cache_flag()
    name: str | None = flag(
        None,
        "name of the run",
        Check(records.is_plain_name, "the name of a file, without a folder"),
        shown="corpus-decoder-seed",
    )
    resume: bool = flag(False, "go on from the checkpoint of the same command")
    overwrite: bool = flag(False, "replace a run of the same name with other settings or data")
    tensorboard: bool = flag(False, "log to OUT/q3/NAME-tensorboard")

    def __post_init__(self):
        check_flags(self)
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"--num_heads is {self.num_heads}, but must be a divisor of --hidden_dim, which is {self.hidden_dim}"
            )

    def settings(self) -> dict:
        """What the trained weights depend on."""
        elsewhere = ("data", "device", "out", "cache", "name", "resume", "overwrite", "tensorboard")
        settings = {k: v for k, v in dataclasses.asdict(self).items() if k not in elsewhere}
        names = {
            "corpus": corpus_name(self.data),
            "init": self.init and Path(self.init).name,
            "init_digest": self.init and records.file_digest(self.init),
            "rehearse": self.rehearse and corpus_name(self.rehearse),
        }
        return settings | names | {"mixed_precision": self.precision}

    @property
    def precision(self) -> str:
        """bf16 or no, as `precision_of` decides."""
        from common.processes import precision_of

        return precision_of(self.mixed_precision, self.device)

    @property
    def run_name(self) -> str:
        return self.name or f"{corpus_name(self.data)}-{self.decoder}-seed{self.seed}"

    def file(self, suffix: str) -> Path:
        return Path(self.out) / "q3" / f"{self.run_name}{suffix}"


def checkpoint_flag() -> Any:
    shown = f"{SHIPPED.relative_to(records.ROOT)}, tuned on LJ Speech"
    return flag(str(SHIPPED), "a .safetensors file that a training run wrote", metavar="FILE", shown=shown)


def beam_flag(width: int) -> Any:
    return flag(width, "width of the beam; 1 is greedy search", within(1, 100))


def ctc_flag(share: float) -> Any:
    return flag(share, "share that the encoder's CTC head has in the scores of sentences", within(0, 0.99))


@dataclass(frozen=True)
class Evaluation:
    """The flags of `python -m asr evaluate`: by default the decoder alone writes, greedily."""

    checkpoint: str = checkpoint_flag()
    beam: int = beam_flag(1)
    ctc_weight: float = ctc_flag(0.0)
    data: str = corpus_flag()
    part: str = flag("test", "part of it", choices=("train", "validation", "test"))
    ctc: bool = flag(False, "read off the encoder's CTC head alone, without the decoder")
    pace: float = flag(
        0.0,
        f"most characters to write per second of sound, never more than {MAX_TOKENS - 1} in all",
        within(0, 1000),
        shown="0: no such limit",
    )
    join: int = flag(1, "score JOIN neighbouring clips after one another as one: longer than any in training",
                     within(1, 100))  # fmt: skip
    overwrite: bool = flag(False, "replace another model's or corpus's result of that name")
    out: str = out_flag()
    cache: str = cache_flag()

    def __post_init__(self):
        check_flags(self)
        if self.ctc and (self.beam > 1 or self.ctc_weight or self.pace):
            raise ValueError("--ctc does without the decoder and its search: leave out --beam, --ctc_weight and --pace")

    def search_settings(self) -> dict:
        """What tells its result from that of a plain greedy search."""
        return {name: getattr(self, name) for name in ("ctc", "beam", "ctc_weight", "pace", "join")}

    @property
    def suffix(self) -> str:
        """Of the result's name: the settings of the search that are not the usual ones."""
        usual = Evaluation().search_settings()
        others = {name: value for name, value in self.search_settings().items() if value != usual[name]}
        return "".join(f"-{name}" if value is True else f"-{name}{value:g}" for name, value in others.items())


@dataclass(frozen=True)
class Transcription:
    """The flags of `python -m asr transcribe`; by default the search with the fewest errors."""

    files: tuple[str, ...] = flag(
        (), "sound files of any kind and rate, folders of them, and patterns ('*.wav')", metavar="FILE", positional=True
    )
    checkpoint: str = checkpoint_flag()
    beam: int = beam_flag(8)
    ctc_weight: float = ctc_flag(0.3)
    timestamps: bool = flag(False, "a line for each piece of a file, with its time")
    json: bool = flag(False, "for programs: a JSON object on each line, one per file")

    __post_init__ = check_flags


COMMANDS = {
    "train": (Config, "train a recogniser, then score it on the test part"),
    "evaluate": (Evaluation, "loss and scores of a trained recogniser"),
    "transcribe": (Transcription, "write down what is said in sound files"),
}
