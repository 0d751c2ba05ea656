"""How well a classifier does: probabilities in one pass, scores, the confusion matrix, what no learning at all gets.

Letters: N images, C channels, H and W their size.
"""

from __future__ import annotations

import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from image_data import ImageData


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Log-probabilities (N, num_classes), on the CPU, of normalised images (N, C, H, W)."""
    device = next(model.parameters()).device
    return torch.cat([model.eval()(batch.to(device)).cpu() for batch in images.split(batch_size)])


def scores(log_probs: Tensor, labels: Tensor, task: str) -> dict[str, float]:
    """Loss, accuracy and macro-AUC (each class against the rest), the latter two by MedMNIST's own evaluator."""
    from medmnist.evaluator import getACC, getAUC

    truth, probabilities = labels.numpy(), log_probs.double().exp().numpy()
    every_class = len(labels.unique()) == log_probs.shape[1]  # or there is no curve to measure
    return {
        "loss": F.nll_loss(log_probs, labels).item(),
        "accuracy": float(getACC(truth, probabilities, task)),
        "auc": float(getAUC(truth, probabilities, task)) if every_class else math.nan,
    }


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images (N, C, H, W) that a network gives their label (N)."""
    return (predict(model, images).argmax(1) == labels).double().mean().item()


def some(part: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """About so many images and labels of a part, evenly from all of it, since it may go class by class."""
    return tuple(tensor[:: max(1, len(tensor) // count)] for tensor in part)


def confusion_matrix(log_probs: Tensor, labels: Tensor) -> list[list[int]]:
    """How many images of each class (rows) were taken for each class (columns)."""
    classes = log_probs.shape[1]
    return (labels * classes + log_probs.argmax(1)).bincount(minlength=classes**2).view(classes, -1).tolist()


def confident_mistakes(log_probs: Tensor, labels: Tensor, count: int) -> list[dict]:
    """The `count` wrong predictions with the highest probabilities: index, true and predicted class, probability."""
    predicted = log_probs.argmax(1)
    confidence = torch.where(predicted == labels, 0, log_probs.max(1).values.exp())  # (N,)
    worst = [i for i in confidence.argsort(descending=True, stable=True)[:count].tolist() if confidence[i] > 0]
    columns = {"true": labels, "predicted": predicted, "probability": confidence}
    return [{"index": i, **{name: column[i].item() for name, column in columns.items()}} for i in worst]


def majority_baseline(data: ImageData) -> dict:
    """What always answering the commonest training class gets."""
    majority = data.train[1].bincount().argmax()
    parts = {"validation": data.val[1], "test": data.test[1]}
    accuracy = {part: (labels == majority).double().mean().item() for part, labels in parts.items()}
    return {"class": data.class_names[majority], "accuracy": accuracy}


def get_number_trainable_params(model: nn.Module) -> int:
    """Number of scalars that training adjusts."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def multiply_adds(model: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Multiply-add operations of one image's forward pass, as PyTorch's FLOP counter sees them."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *image_shape))
    return counter.get_total_flops() // 2


def layer_times(model: nn.Module, images: Tensor, passes: int = 5) -> dict[str, float]:
    """Microseconds per image that each child of a network takes in a forward pass: medians over some passes.

    What a network computes between its children, such as a rectifier, is in none of them.
    """
    times: dict[str, list[float]] = {}
    starts: dict[nn.Module, float] = {}

    def end(name: str, module: nn.Module) -> None:
        times[name][-1] += time.perf_counter() - starts[module]

    hooks = []
    for name, module in model.named_children():
        hooks.append(module.register_forward_pre_hook(lambda module, _: starts.update({module: time.perf_counter()})))
        hooks.append(module.register_forward_hook(lambda module, _, __, name=name: end(name, module)))
        times[name] = []
    for _ in range(passes + 1):  # the first one warms up
        for each in times.values():
            each.append(0.0)
        predict(model, images)
    for hook in hooks:
        hook.remove()
    return {name: 1e6 * statistics.median(each[1:]) / len(images) for name, each in times.items()}


def inference_time(model: nn.Module, images: Tensor) -> float:
    """Microseconds per image of a forward pass on the CPU: median of five passes."""
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        predict(model, images)
        seconds.append(time.perf_counter() - start)
    return 1e6 * statistics.median(seconds[1:]) / len(images)  # the first one warms up
