"""Which text goes with which clip? Two towers learn a space in which speech and what is said in it lie close (CLIP).

python lab3/two_towers.py                                          invented sentences, spoken here (synthetic)
python lab3/two_towers.py --study choices                          attention or none, and which clips a batch holds
python lab3/two_towers.py --dataset revoiced --go_on --data_root DATA      then the recorded clips of LJ Speech
python lab3/two_towers.py --dataset revoiced --study corpora --data_root DATA

DATA/revoiced is made by `python -m synthetic speech`, DATA/LJSpeech-1.1 fetched by `python download_ljspeech.py`.

Letters: B batch, T frames of a spectrogram, F mel bins, N clips and their texts.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

import records
import utils
from command_line import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, flag, within
from common.classification import get_number_trainable_params
from common.recipes import adamw, cycle
from common.speech.audio import Features
from common.speech.data import Batch, Corpus, Part, SpeechBatches, batches_in_order, load_corpus
from lab3 import board, retrieval, study, two_towers_plots
from lab3.study import Settings, varied
from lab3.towers import TwoTowers, contrastive_losses
from synthetic.speech import write_corpus

FOLDERS = {"spoken": None, "revoiced": "revoiced", "ljspeech": "LJSpeech-1.1"}  # in the folder of the data
SPOKEN = 1000  # sentences of the embedded corpus, 71 % of them to train on
NUM_HEADS = 4
OUTPUTS = 128  # dimensions in which speech and text are compared
NEGATIVES = ("any", "similar")
STUDIES = ("choices", "corpora")
RECORDED_EPOCHS = 100  # of the recorded clips alone, which are few
TUNING_RATE = 5e-4  # largest step size where training goes on
ROWS = 64  # clips that are embedded at once


@dataclass(frozen=True)
class Config(Settings):
    """The flags."""

    dataset: str = flag(
        "spoken", "spoken: invented sentences; revoiced: LJ Speech's, both synthesised; or ljspeech, recorded",
        choices=tuple(FOLDERS), metavar="NAME",
    )  # fmt: skip
    study: str | None = flag(None, "several: choices or corpora", choices=STUDIES, metavar="NAME")
    go_on: bool = flag(False, "after revoiced, go on with the recorded clips")
    clips: int = flag(0, "training clips", within(0, 100_000), shown="all")
    negatives: str = flag("any", "clips of a batch: any, or similar in length", choices=NEGATIVES)
    dim: int = flag(96, "width of both towers", within(4, 4096))
    num_layers: int = flag(0, "Transformer layers of each", within(0, 100))
    dropout: float = flag(0.0, "probability of dropping a feature", SHARE)
    epochs: int = flag(12, "passes over the training clips", COUNT)
    batch_size: int = flag(64, "clips per step, each with its text", within(2, 10_000))
    learning_rate: float = flag(3e-3, "largest step size of AdamW", POSITIVE)
    weight_decay: float = flag(0.05, "weight decay", NOT_NEGATIVE)

    SCRIPT: ClassVar[str] = "two_towers"

    def __post_init__(self):
        super().__post_init__()
        if self.dim % (2 * NUM_HEADS):
            raise ValueError(f"--dim is {self.dim}, but must be a multiple of {2 * NUM_HEADS}")
        if self.dataset != "revoiced" and (self.go_on or self.study == "corpora"):
            raise ValueError("--go_on and --study corpora go with --dataset revoiced")


# --- the corpora -------------------------------------------------------------------------------------


def load(config: Config, dataset: str) -> Corpus:
    """A corpus; the texts of its validation and test parts are distinct, as each is to lead to one clip."""
    folder = Path(config.out) / "lab3"
    if dataset == "spoken":
        root = write_corpus(folder / f"spoken-{SPOKEN}", SPOKEN)
    else:
        root = Path(config.data_root) / FOLDERS[dataset]
    corpus = load_corpus(root, Features(), cache=folder / "features")
    test = retrieval.distinct(corpus.test)
    return replace(corpus, validation=retrieval.distinct(corpus.validation, (test,)), test=test)


def load_all(config: Config) -> dict[str, Corpus]:
    """The corpus that is trained on, as `test`, and `recorded`, with which training goes on: by their test parts.

    No text of validation or test in one of them is trained on in the other.
    """
    corpora = {"test": load(config, config.dataset)}
    if config.go_on or config.study == "corpora":
        corpora["recorded"] = load(config, "ljspeech")
    held_out = tuple(part for corpus in corpora.values() for part in (corpus.validation, corpus.test))
    for name, corpus in corpora.items():
        train = retrieval.distinct(corpus.train, held_out)
        corpora[name] = replace(corpus, train=train.first(config.clips) if config.clips else train)
    return corpora


def described(corpora: dict[str, Corpus]) -> dict:
    """The `data` entry of a result."""
    about = corpora["test"].describe()
    return about | {"digest": "-".join(corpus.digest for corpus in corpora.values())}


class AnyBatches(SpeechBatches):
    """Mini-batches of clips whatever their length."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        order = np.random.default_rng(utils.derived_seed(self.seed, epoch)).permutation(len(self.part))
        for indices in np.array_split(order, len(self)):
            yield self.part.batch(indices)


# --- training and scores -----------------------------------------------------------------------------


def losses(model: TwoTowers, batch: Batch) -> Tensor:
    features, lengths, tokens, _ = batch
    return contrastive_losses(model(features, lengths, tokens))


@torch.no_grad()
def similarity(model: TwoTowers, part: Part) -> Tensor:
    """The logits (N, N) of all clips of a part, in rows, and all its texts."""
    device = next(model.parameters()).device
    speech, text = torch.zeros(2, len(part), OUTPUTS)
    for indices, (features, lengths, tokens, _) in batches_in_order(part, ROWS):
        speech[indices] = model.eval().speech(features.to(device), lengths.to(device)).cpu()
        text[indices] = model.text(tokens.to(device)).cpu()
    return model.scale().cpu() * speech @ text.T


def validate(model: TwoTowers, part: Part) -> dict[str, float]:
    logits = similarity(model, part)
    own = torch.arange(len(part))
    places = [retrieval.recall(table, own, 1) for table in (logits, logits.T)]
    return {"loss": contrastive_losses(logits).mean().item(), "recall": sum(places) / 2}


def fit(config: Config, model: TwoTowers, corpus: Corpus, learning_rate: float) -> list[dict]:
    """Train on a corpus, and keep the epoch with the least loss over its validation part."""
    kind = SpeechBatches if config.negatives == "similar" else AnyBatches
    batches = kind(corpus.train, config.batch_size, config.seed)
    optimizer = adamw(model, learning_rate, config.weight_decay)
    return utils.fit(
        model, batches, optimizer, loss_fn=losses, evaluate=lambda model: validate(model, corpus.validation),
        scheduler=cycle(optimizer, config.epochs * len(batches)), keep_best=lambda metrics: -metrics["loss"],
        epochs=config.epochs, seed=config.seed, device=config.device, tensorboard=board.folder(config),
        checkpoint=config.file(f"-{corpus.name}.ckpt"), config=config.settings() | {"corpus": corpus.digest},
        resume=config.resume, overwrite=config.overwrite,
    )  # fmt: skip


def metrics(model: TwoTowers, part: Part) -> dict[str, dict]:
    found = retrieval.scores(similarity(model, part), part)
    return {name: records.mean_std([value]) for name, value in found.items()}


def train(config: Config, corpora: dict[str, Corpus]) -> dict:
    """Train both towers, and test them; the body of the result."""
    utils.configure_seed(config.seed)
    model = TwoTowers(Features().mel_bins, config.dim, config.num_layers, NUM_HEADS, config.dropout, OUTPUTS)
    history = fit(config, model, corpora["test"], config.learning_rate)
    found = {"validation": metrics(model, corpora["test"].validation)}
    found |= {name: metrics(model, corpus.test) for name, corpus in corpora.items()}
    body = {"parameters": get_number_trainable_params(model), "history": history, "metrics": found}
    if config.go_on:
        body["history_tuned"] = fit(config, model, corpora["recorded"], TUNING_RATE)
        found |= {f"{name}_tuned": metrics(model, corpus.test) for name, corpus in corpora.items()}
    return body


def baselines(corpora: dict[str, Corpus]) -> dict[str, dict]:
    """For each test part: the number of candidates, and what chance and the lengths alone get."""
    return {
        name: {
            "candidates": len(corpus.test),
            "chance": retrieval.chance(len(corpus.test)),
            "length": retrieval.scores(retrieval.by_length(corpus.train, corpus.test), corpus.test),
        }
        for name, corpus in corpora.items()
    }


# --- studies -----------------------------------------------------------------------------------------

CHOICES: dict[str, dict] = {
    "no attention": {"num_layers": 0},
    "a layer of attention": {"num_layers": 1},
    "batches of similar lengths": {"num_layers": 0, "negatives": "similar"},
}


def variants(config: Config) -> dict[str, list[Config]]:
    """What a study trains: for each variant its name, and its configuration with every seed."""
    corpora = {
        "re-voiced": {"go_on": True},
        "re-voiced, attention": {"go_on": True, "num_layers": 1},
        "recorded": {"dataset": "ljspeech", "epochs": RECORDED_EPOCHS},
    }
    return varied(config, {"choices": CHOICES, "corpora": corpora}[config.study])


def compare(config: Config) -> dict:
    """Train every variant with its seeds, side by side; the body of the study's result."""
    keys = ("history:list", "metrics:dict", "parameters:number", "seconds:number")
    trials = study.train_all(variants(config), lambda single: description(replace(single, seed=0)), keys)
    return {
        "models": {name: summary(group) for name, group in trials.items()},
        "seconds": sum(trial["seconds"] for group in trials.values() for trial in group),
    }


def summary(trials: list[dict]) -> dict:
    """One variant: means and deviations over the seeds."""
    return {
        "settings": trials[0]["config"],
        "seeds": [trial["seeds"][0] for trial in trials],
        "parameters": trials[0]["parameters"],
        "metrics": study.over_seeds(trials),
        "history": [trial["history"] for trial in trials],
    }


@functools.cache
def description(config: Config) -> dict:
    return described(load_all(config))


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start, corpora = time.perf_counter(), load_all(config)
    head = config.head(described(corpora))
    with records.claim(config.out, head, config.overwrite):
        body = compare(config) if config.study else train(config, corpora)
    return head | {"seconds": time.perf_counter() - start, "baselines": baselines(corpora)} | body


def print_result(result: dict) -> None:
    print(f"\n{two_towers_plots.title(result)}; the right one is the first, in %")
    for part, methods in two_towers_plots.methods(result).items():
        print(f"  {two_towers_plots.part_in_words(result, part)}")
        for name, scores in methods.items():
            cells = [
                f"{way.replace('_', ' ')} {records.spread(scores[f'{way}_1'], 100)}" for way in retrieval.DIRECTIONS
            ]
            print(f"    {name:34}{', '.join(cells)}")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, print_result, two_towers_plots.draw)


if __name__ == "__main__":
    sys.exit(main())
