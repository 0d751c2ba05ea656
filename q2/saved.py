"""Saved networks of Question 2, and what they say of pictures: `python hw2-q2.py --predict scan.png`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import command_line
from common import pictures, saved_models
from common.classification import predict
from image_data import ImageData, normalise_, to_pixels
from q2.config import SETTINGS, Config, Prediction

LARGEST_SIDE = 1024  # pixels of an image that a checkpoint may ask for; MedMNIST's largest have 224
Builder = Callable[[dict, int, tuple[int, ...]], nn.Module]  # settings, number of classes, image's shape -> network


def save_model(path: Path, model: nn.Module, config: Config, data: ImageData) -> None:
    """Write the weights, with all that is needed to rebuild the network and prepare an image."""
    header = {
        "settings": config.settings(),
        "image_shape": list(data.train[0].shape[1:]),
        "class_names": list(data.class_names),
        "mean": data.mean,
        "std": data.std,
        "source": data.source,
        "digest": data.digest,
    }
    saved_models.write_weights(path, model.state_dict(), {"model": header})


def load_model(path: str | Path, build_model: Builder) -> tuple[nn.Module, dict]:
    """Read what `save_model` wrote: the network in evaluation mode, and its header.

    Raises FileNotFoundError, or ValueError for a file that is not what `save_model` writes.
    """

    def prepare(entries: dict, _) -> Callable[[], nn.Module]:
        header = entries.get("model")
        check_header(header)
        shape = len(header["class_names"]), header["image_shape"]
        return functools.partial(build_model, header["settings"], *shape)

    model, entries = saved_models.load_network(path, prepare, "an image classifier", "python hw2-q2.py")
    return model, entries["model"]


def check_header(header) -> None:
    """Raise ValueError unless a network and its input can be prepared from this, which may be any JSON."""
    settings = Config().settings()
    example = {"settings": settings, "image_shape": [1], "class_names": ["0"], "mean": [0.5], "std": [0.5]}
    saved_models.check_like(header, example | {"source": "real"})
    Config(**{name: header["settings"][name] for name in SETTINGS})  # checks their ranges
    channels, *size = header["image_shape"]
    for valid, problem in (
        (channels in (1, 3) and len(size) == 2, "image_shape is not channels (1 or 3), height and width"),
        (all(1 <= pixels <= LARGEST_SIDE for pixels in size), f"image_shape is not from 1 to {LARGEST_SIDE} pixels"),
        (len(header["mean"]) == len(header["std"]) == channels, "mean and std are not of one number for each channel"),
        (min(header["std"]) > 0, "std is not positive"),
        (header["source"] in ("real", "synthetic"), "source is neither real nor synthetic"),
    ):
        if not valid:
            raise ValueError(problem)


def predict_files(prediction: Prediction, device: str, build_model: Builder) -> int:
    """Print the class probabilities of each picture; returns 2 if one of them could not be read.

    For people a line each, after one that names the model; for programs (`json`) a JSON object on each line, with
    `file`, and `error` or `prediction`, `probabilities` and `notes`, and the model's `checkpoint`, `dataset`, `source`.
    """
    here = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if device not in ("auto", "cpu", here.type):
        raise ValueError(f"there is no {device} device here: leave out --device, or use --device {here.type}")
    model, header = load_model(prediction.checkpoint, build_model)
    model = model.to("cpu" if device == "auto" else device)
    name, dataset, source = Path(prediction.checkpoint).name, header["settings"]["dataset"], header["source"]
    origin = {"checkpoint": name, "dataset": dataset, "source": source}
    if not prediction.json:
        print(f"{name}, trained on {dataset} ({source}); for teaching, not for medical use")
    failed = 0
    for path in command_line.find_files(prediction.predict, pictures.SUFFIXES):
        try:
            answer = classify(model, header, path)
        except (OSError, ValueError) as error:
            answer, failed = {"error": getattr(error, "strerror", None) or " ".join(str(error).split())}, 2
            command_line.say(f"{path}: {answer['error']}")
        if prediction.json:
            print(json.dumps({"file": str(path), **answer, **origin}), flush=True)
        elif "error" not in answer:
            notes = f" ({'; '.join(answer['notes'])})" if answer["notes"] else ""
            ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
            print(f"{path}: {', '.join(f'{name} {probability:.3f}' for name, probability in ranked)}{notes}")
    return failed


def classify(model: nn.Module, header: dict, path: Path) -> dict:
    """The most probable class of a picture, the probability of each, and notes of how the picture was read."""
    image, notes = pictures.read_image(path, header["image_shape"])
    probabilities = predict(model, normalise_(to_pixels(image), header["mean"], header["std"]))[0].exp()
    if not probabilities.isfinite().all():
        raise ValueError("the network's output is not finite: its checkpoint is unusable")
    by_class = dict(zip(header["class_names"], probabilities.tolist(), strict=True))
    return {"prediction": max(by_class, key=by_class.get), "probabilities": by_class, "notes": notes}
