"""Trained recognisers as files: safetensors, with the settings that rebuild them in the header."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from asr.model import SpeechRecognizer
from common.saved_models import check_like, load_network, write_weights
from common.speech.audio import Features

WIDEST = 10_000  # hidden_dim of a checkpoint: more than any has
EXAMPLE = {
    "model": {"decoder": "lstm", "hidden_dim": 200, "num_heads": 2, "num_blocks": 4, "kernel": "softmax"},
    "features": {"sample_rate": 16000, "window_ms": 25.0, "hop_ms": 16.0, "mel_bins": 80},
}


def save_model(path: str | Path, model: SpeechRecognizer, features: Features) -> None:
    """Write a model that was trained on `features`, its weights in float16."""
    weights = {name: tensor.to("cpu", torch.float16) for name, tensor in model.state_dict().items()}
    write_weights(path, weights, {"model": model.settings, "features": dataclasses.asdict(features)})


def load_model(path: str | Path) -> tuple[SpeechRecognizer, Features]:
    """A trained model in evaluation mode, and the features it was trained on.

    Raises FileNotFoundError, another OSError, or ValueError where the file is no checkpoint of a speech recogniser, or
    holds weights that are not finite.
    """
    model, header = load_network(path, prepare, "a speech recogniser", "python -m asr train")
    return model, Features(**header["features"])


def prepare(header: dict, weights: dict[str, Tensor]) -> Callable[[], SpeechRecognizer]:
    """What builds the network of a checkpoint. Raises ValueError, or TypeError for settings of another version."""
    check_like(header, EXAMPLE)
    settings, features = header["model"], Features(**header["features"])
    if not (1 <= settings["hidden_dim"] <= WIDEST and 1 <= settings["num_heads"] <= WIDEST):
        raise ValueError(f"hidden_dim or num_heads is not within 1 and {WIDEST}")
    if not 1 <= settings["num_blocks"] <= len(weights):
        raise ValueError(f"num_blocks is {settings['num_blocks']}, but there are {len(weights)} tensors")
    return partial(SpeechRecognizer, **settings, mel_bins=features.mel_bins)
