"""Trained recognisers as files: safetensors, with the settings that rebuild them in the header."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import safetensors.torch
import torch

import records
from asr.audio import Features
from asr.model import SpeechRecognizer


def save_model(path: str | Path, model: SpeechRecognizer, features: Features) -> None:
    """Write a model that was trained on `features`, its weights in float16."""
    header = {"model": json.dumps(model.settings), "features": json.dumps(dataclasses.asdict(features))}
    weights = {name: tensor.to("cpu", torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    records.write_file(path, safetensors.torch.save(weights, header))


def load_model(path: str | Path) -> tuple[SpeechRecognizer, Features]:
    """A trained model in evaluation mode, and the features it was trained on.

    Raises FileNotFoundError, or ValueError where the file is no checkpoint of a speech recogniser.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}: train one with python -m asr train")
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118, no dictionary
        features = Features(**header["features"])
        model = SpeechRecognizer(**header["model"], mel_bins=features.mel_bins)
        model.load_state_dict(weights)
    except Exception as error:  # safetensors, json and torch each raise their own
        raise ValueError(f"{path} is no checkpoint of a speech recogniser: {type(error).__name__}") from error
    return model.eval(), features
