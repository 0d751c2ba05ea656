"""Lab 3: knowledge distillation: does a small CNN learn more from three stronger networks' probabilities than labels?

The student is the CNN of Homework 2; its teachers are three of that question's residual networks, whose probabilities
are averaged (Hinton et al. 2015). The residual networks have fewer parameters, but take many times the multiply-adds.

python lab3/distill.py                                             three teachers and a student of scikit-learn's digits
python lab3/distill.py --label_weight 1                            a student of the labels alone
python lab3/distill.py --study students --dataset pneumoniamnist --epochs 20 --batch_size 64 --data_root DATA
python lab3/distill.py --study students --dataset cifar10_jpeg --train_size 2000 --epochs 20 --data_root DATA

Letters: B batch, N images, K classes, M teachers.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import functools
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import records
import utils
from command_line import COUNT, POSITIVE, SHARE, flag, within
from common.classification import get_number_trainable_params, majority_baseline, multiply_adds, predict, scores
from common.grid import is_finished
from common.recipes import adamw, cycle
from common.shaped_cnn import Shape, ShapedCNN
from common.strong import StrongCNN, fit_options
from image_data import PARTS, ImageData, read_npz
from lab3 import board, distill_plots, small_pictures, study
from lab3.small_pictures import PictureSettings
from lab3.study import varied

TEACHERS = 3
TEACHER = {"learning_rate": 3e-3, "weight_decay": 0.05}  # of hw2-q2.py --recipe strong
STUDENT = {"learning_rate": 1e-3, "weight_decay": 0.0}
LARGEST = 2**28  # bytes of a teacher's log-probabilities
NAMES = {"val": "validation"}  # of parts, in results
KEYS = ("metrics.*.accuracy.mean:number", "parameters:number", "multiply_adds:number", "seconds:number")


@dataclass(frozen=True)
class Config(PictureSettings):
    """The flags."""

    study: str | None = flag(
        None, "students: of labels, smoothed ones, and teachers", choices=("students",), metavar="NAME"
    )
    network: str = flag("student", "which network to train: student, or teacher", choices=("student", "teacher"))
    member: int = flag(0, "which of the teachers", within(0, TEACHERS - 1))
    temperature: float = flag(3.0, "by which teachers' and student's scores are divided before they meet", POSITIVE)
    label_weight: float = flag(0.0, "share of the labels in the student's loss; 1: without teachers", within(0, 1))
    smoothing: float = flag(0.0, "share of a label that is spread over all classes", SHARE)
    epochs: int = flag(6, "passes over them, of each network", COUNT)
    batch_size: int = flag(16, "images per step", COUNT)

    SCRIPT: ClassVar[str] = "distill"

    def __post_init__(self):
        super().__post_init__()
        if self.smoothing and not self.label_weight:
            raise ValueError("--smoothing is of labels, which have no part in the loss: add --label_weight 1")


# --- networks and their losses -----------------------------------------------------------------------


def student_of(data: ImageData) -> ShapedCNN:
    """The homework's CNN, without dropout."""
    channels, size = data.train[0].shape[1:3]
    shape = Shape(
        widths=(8, 16), kernels=(3, 3), strides=(1, 1), paddings=(1, 0), pools=(1, 2), hidden=(320, 120),
        batch_norm=False, in_channels=channels, image_size=size, num_classes=len(data.class_names),
    )  # fmt: skip
    return ShapedCNN(shape)


def distillation_losses(scores: Tensor, log_probs: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) (B,) of scores (B, K) and the teachers' log-probabilities, both divided by T first.

    The factor keeps the gradient's size whatever T is: that of the soft probabilities shrinks with its square (Hinton
    et al. 2015).
    """
    targets = (log_probs / temperature).softmax(1)
    cross_entropy = F.cross_entropy(scores / temperature, targets, reduction="none")
    return temperature**2 * (cross_entropy - torch.special.entr(targets).sum(1))  # entr(p) = -p ln p, 0 at 0


def student_losses(config: Config, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """What a student learns from (B,): labels, teachers' log-probabilities, which come last, or both by their weights.

    The latter's gradient has about the size of the labels' own.
    """
    images, labels, *taught = batch
    found = model(images)
    losses = F.cross_entropy(found, labels, reduction="none", label_smoothing=config.smoothing)
    if taught:
        distilled = distillation_losses(found, taught[0], config.temperature)
        losses = config.label_weight * losses + (1 - config.label_weight) * distilled
    return losses


def together(log_probs: Tensor) -> Tensor:
    """The logarithm of the mean of several networks' probabilities: (M, N, K) -> (N, K)."""
    return log_probs.logsumexp(0) - math.log(len(log_probs))


# --- training ----------------------------------------------------------------------------------------


def train(config: Config, data: ImageData) -> dict:
    """Train one network, and test it; its result."""
    start, head = time.perf_counter(), config.head(data.describe())
    with records.claim(config.out, head, config.overwrite):
        body = teach(config, data) if config.network == "teacher" else learn(config, data)
    return head | {"seconds": time.perf_counter() - start} | body


def teach(config: Config, data: ImageData) -> dict:
    """Train a teacher, and keep its log-probabilities of all images in a file; the body of its result."""
    seed = utils.derived_seed(config.seed, config.member)
    utils.configure_seed(seed)
    model = StrongCNN(len(data.class_names), data.train[0].shape[1]).to(memory_format=torch.channels_last)
    optimizer = adamw(model, **TEACHER)
    steps = config.epochs * len(utils.Batches(data.train, config.batch_size, seed))
    options = fit_options(optimizer, steps, data.train[1], data.mean, data.std)
    history = fit(config, data, model, data.train, optimizer, seed, **options)
    found = {part: predict(model, getattr(data, part)[0]) for part in PARTS}
    buffer = io.BytesIO()
    np.savez(buffer, **{part: log_probs.numpy() for part, log_probs in found.items()})
    records.write_file(config.file(".npz"), buffer.getbuffer())
    return body_of(data, model, found, history)


def learn(config: Config, data: ImageData) -> dict:
    """Train a student, and its teachers before it where they are not there yet; the body of its result.

    Its images are not moved at random, so that each teacher looks at each image once.
    """
    taught = {} if config.label_weight == 1 else taught_by(config, data)
    utils.configure_seed(config.seed)
    model = student_of(data)
    optimizer = adamw(model, **STUDENT)
    tensors = (*data.train, taught["train"]) if taught else data.train
    steps = config.epochs * len(utils.Batches(tensors, config.batch_size, config.seed))
    history = fit(
        config, data, model, tensors, optimizer, config.seed,
        loss_fn=functools.partial(student_losses, config), scheduler=cycle(optimizer, steps),
    )  # fmt: skip
    found = {part: predict(model, getattr(data, part)[0]).log_softmax(1) for part in PARTS}
    return body_of(data, model, found, history) | {"teachers": metrics_of(data, taught)}


def fit(config, data, model, tensors, optimizer, seed, **options) -> list[dict]:
    """`utils.fit` as both kinds of network need it; its history."""
    images, labels = data.val
    return utils.fit(
        model, utils.Batches(tensors, config.batch_size, seed), optimizer, epochs=config.epochs, seed=seed,
        evaluate=lambda model: scores(predict(model, images).log_softmax(1), labels, data.task),
        device=config.device, tensorboard=board.folder(config), **options,
    )  # fmt: skip


def body_of(data: ImageData, model: nn.Module, found: dict[str, Tensor], history: list[dict]) -> dict:
    """What a result says of a network, which `found` these log-probabilities of each part."""
    return {
        "parameters": get_number_trainable_params(model),
        "multiply_adds": multiply_adds(model.cpu(), tuple(data.train[0].shape[1:])),
        "baseline": majority_baseline(data),
        "history": history,
        "metrics": metrics_of(data, found),
    }


def metrics_of(data: ImageData, found: dict[str, Tensor]) -> dict:
    """Loss, accuracy and AUC of the log-probabilities (N, K) of each part."""
    return {
        NAMES.get(part, part): {
            name: records.mean_std([value])
            for name, value in scores(log_probs, getattr(data, part)[1], data.task).items()
        }
        for part, log_probs in found.items()
    }


# --- what teachers say -------------------------------------------------------------------------------


def teachers_of(config: Config) -> list[Config]:
    """The trainings of the teachers that a student has: on its images, each with a seed of its own."""
    plain = {name: getattr(Config, name) for name in ("temperature", "label_weight", "smoothing", "download")}
    return [replace(config, network="teacher", member=member, **plain) for member in range(TEACHERS)]


def taught_by(config: Config, data: ImageData) -> dict[str, Tensor]:
    """The log-probabilities (N, K) of each part by a student's teachers together, trained here unless they are there.

    Raises ValueError where a file of theirs is missing or damaged.
    """
    teachers = teachers_of(config)
    for teacher in teachers:
        finished = is_finished(teacher, lambda single: single.head(data.describe()), KEYS)
        if not (finished and teacher.file(".npz").exists()):
            records.save_results(config.out, train(teacher, data))
    found = [read_npz(teacher.file(".npz"), list(PARTS), LARGEST) for teacher in teachers]
    return {part: together(torch.stack([torch.from_numpy(each[part]) for each in found])) for part in PARTS}


# --- the study ---------------------------------------------------------------------------------------

ALONE = "labels alone"
TRIED: dict[str, dict[str, dict]] = {  # kinds of students; validation chooses one of each
    ALONE: {ALONE: {"label_weight": 1.0}},
    "smoothed labels": {f"smoothing {s:g}": {"label_weight": 1.0, "smoothing": s} for s in (0.05, 0.1, 0.2)},
    "three teachers": {
        f"T = {t:g}, labels {w:g}": {"temperature": t, "label_weight": w} for w in (0.0, 0.5) for t in (1.0, 3.0, 9.0)
    },
}


def compare(config: Config, described: Callable[[Config], dict]) -> dict:
    """Train teachers, then every student, with every seed; the body of the study's result."""

    def trained(changes: dict[str, dict]) -> dict[str, list[dict]]:
        return study.train_all(varied(config, changes), described, KEYS)

    teachers = trained({str(member): {"network": "teacher", "member": member} for member in range(TEACHERS)})
    students = trained({name: change for kind in TRIED.values() for name, change in kind.items()})
    chosen = {kind: max(names, key=lambda name: validated(students[name])["mean"]) for kind, names in TRIED.items()}
    models = {kind: summary(students[name]) | {"chosen": name} for kind, name in chosen.items()}
    every = [trial for group in teachers.values() for trial in group]
    models["a teacher"] = summary(every)
    taught = next(group for group in students.values() if group[0]["teachers"])  # all have the same teachers
    ensembles = [{"metrics": trial["teachers"]} for trial in taught]
    sizes = {name: TEACHERS * models["a teacher"][name] for name in ("parameters", "multiply_adds")}
    models["the teachers together"] = sizes | {"metrics": study.over_seeds(ensembles)}
    return {
        "models": models,
        "tried": {kind: {name: validated(students[name]) for name in names} for kind, names in TRIED.items()},
        "gains": {kind: gain(students[name], students[ALONE]) for kind, name in chosen.items() if kind != ALONE},
        "baseline": every[0]["baseline"],
        "seconds": sum(trial["seconds"] for group in (*teachers.values(), *students.values()) for trial in group),
    }


def summary(trials: list[dict]) -> dict:
    """Networks that differ in their seed: their cost, means and deviations."""
    costs = {name: trials[0][name] for name in ("parameters", "multiply_adds")}
    return costs | {"metrics": study.over_seeds(trials), "history": [trial["history"] for trial in trials]}


def validated(trials: list[dict]) -> dict:
    return study.over_seeds(trials)["validation"]["accuracy"]


def gain(trials: list[dict], others: list[dict]) -> dict:
    """By how much the test accuracy is above that of others with the same seeds, and the mean's standard error."""
    pairs = zip(trials, others, strict=True)
    values = [a["mean"] - b["mean"] for a, b in ([t["metrics"]["test"]["accuracy"] for t in pair] for pair in pairs)]
    found = records.mean_std(values)
    return found | {"standard_error": found["std"] / math.sqrt(len(values)) if len(values) > 1 else None}


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    select = small_pictures.read(config)
    if not config.study:
        return train(config, select(config))
    described = functools.cache(lambda size, seed: select(replace(config, train_size=size, seed=seed)).describe())
    head = config.head(described(config.train_size, config.seed))
    with records.claim(config.out, head, config.overwrite):
        return head | compare(config, lambda single: described(single.train_size, single.seed))


def print_result(result: dict) -> None:
    print(f"\n{distill_plots.title(result)}; accuracy in %")
    models = result.get("models", {result["config"]["network"]: result})
    if result.get("teachers"):
        models["its teachers together"] = {"metrics": result["teachers"]}
    for name, model in models.items():
        cells = [f"{part} {records.spread(s['accuracy'], 100)}" for part, s in model["metrics"].items()]
        cells += [f"{model['parameters']:,} parameters"] if "parameters" in model else []
        print(f"  {name:24}{', '.join(cells)}", f"({model['chosen']})" if "chosen" in model else "")
    for name, found in result.get("gains", {}).items():
        error = found["standard_error"]
        words = "" if error is None else f", standard error {100 * error:.1f}"
        print(f"  gain by {name}: {100 * found['mean']:+.1f} points{words}")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, print_result, distill_plots.draw)


if __name__ == "__main__":
    sys.exit(main())
