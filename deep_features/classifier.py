"""Classifiers of this course: their loss, their scores, and how a study of them is printed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import records
from command_line import flag
from common.classification import confusion_matrix, predict
from common.geometry import jitter
from common.recipes import adamw, cycle
from deep_features import study
from deep_features.study import Settings
from image_data import ImageData

SCHEDULES = ("constant", "decay", "cycle")
DECAY = 0.95  # of the learning rate, an epoch


def schedule_flag(default: str = "constant"):
    """The flag of the learning rate's course."""
    return flag(default, "constant; decay, by 5 % an epoch; cycle: up, then down to 0 as a cosine", choices=SCHEDULES)


def scheduler(kind: str, optimizer: torch.optim.Optimizer, steps: int, epochs: int):
    """The scheduler of one of SCHEDULES, which advances once per step; None for a constant rate."""
    if kind == "cycle":
        return cycle(optimizer, steps * epochs)
    if kind == "decay":
        return torch.optim.lr_scheduler.StepLR(optimizer, steps, DECAY)
    return None


def cross_entropies(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels, reduction="none")  # (B,)


def scores(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean cross-entropy and accuracy."""
    logits = predict(model, images)
    return {
        "loss": F.cross_entropy(logits, labels).item(),
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
    }


def moved(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A batch with its images turned, scaled and moved at random."""
    images, labels = batch
    return jitter(images), labels


def train(config: Settings, data: ImageData, model: nn.Module, **options) -> dict:
    """Train a classifier in place and return its trial: history, validation scores, test scores and mistakes."""
    images, labels = data.val
    optimizer = adamw(model, config.learning_rate, config.weight_decay)
    steps = -(-len(data.train[0]) // config.batch_size)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {f"val_{name}": value for name, value in scores(model, images, labels).items()}

    history = study.fit(
        config, data, model, data.train, optimizer, loss_fn=cross_entropies, evaluate=evaluate,
        scheduler=scheduler(config.schedule, optimizer, steps, config.epochs),
        augment=moved if config.augment else None, **options,
    )  # fmt: skip
    trial = {"history": history}
    if not config.all_training:
        trial["validation"] = scores(model, images, labels)
        some = tuple(part[: len(labels)] for part in data.train)
        trial["train_accuracy"] = scores(model, *some)["accuracy"]  # of as many images
    if not config.no_test:
        logits = predict(model, data.test[0])
        trial |= {"test": scores(model, *data.test), "confusion_matrix": confusion_matrix(logits, data.test[1])}
    return trial


def standard_error(accuracy: float, count: int) -> float:
    """Of the share of right answers among `count` independent images (eq:standard-error)."""
    return math.sqrt(accuracy * (1 - accuracy) / count)


def print_result(result: dict) -> None:
    """A line for each variant: parameters, and its accuracies, mean and deviation over seeds."""
    data = result["data"]
    print(f"\n{data['name']}, accuracy in %, seeds {', '.join(map(str, result['seeds']))}")
    rows = dict(result.get("models", {"network": result}))
    if "retrained" in result:
        rows["{variant}, {epochs} epochs, trained anew".format(**result["selected"])] = result["retrained"]
    for name, model in rows.items():
        cells = [
            f"{part} {records.spread(metrics['accuracy'], 100, 2)}"
            + (f" (before fine-tuning {records.spread(metrics['before'], 100, 1)})" if "before" in metrics else "")
            for part, metrics in model["metrics"].items()
        ]
        print(f"  {name:45}{model['parameters']:10,}  {', '.join(cells)}")
