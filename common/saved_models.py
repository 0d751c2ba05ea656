"""Trained weights as safetensors files, whose header holds in JSON what rebuilds the network; read with care."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

import records

LARGEST_NUMBER = 1e15  # in a header


def write_weights(path: str | Path, weights: dict[str, Tensor], header: dict) -> None:
    """Write tensors and a header, each of whose entries is anything that JSON holds."""
    metadata = {key: json.dumps(value, allow_nan=False) for key, value in header.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    records.write_file(path, safetensors.torch.save(tensors, metadata))


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `write_weights` wrote: tensors, floating-point ones as finite float32, and the header.

    Raises FileNotFoundError, OSError, or ValueError for what is no such file or holds weights that are not finite.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}: a training run writes one, named <run>.safetensors")
    if not path.is_file():
        raise ValueError(f"{path} is no checkpoint but a folder or device: name the .safetensors file itself")
    with path.open("rb"):
        pass  # a file that may not be read: Python's error names it, safetensors' does not
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dictionary
        weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    except Exception as error:  # safetensors, json and torch each raise their own
        raise ValueError(f"{path} is no checkpoint of this repository, or a damaged one ({_brief(error)})") from error
    if broken:
        raise ValueError(f"{path} holds weights that are not finite, in {broken[0]}: train it again")
    return weights, header


def check_like(value, example, name: str = "header") -> None:
    """Raise ValueError unless a JSON value has its example's form: the same keys (or more), types and kinds of item.

    A list may have any length from 1; a whole number may stand for any other; numbers are finite.
    """
    number = type(example) is float and type(value) in (int, float)
    if not number and type(value) is not type(example):
        raise ValueError(f"{name} is {_brief(value)}, not like {_brief(example)}")
    if type(value) in (int, float) and not abs(value) <= LARGEST_NUMBER:  # true of NaN, too
        raise ValueError(f"{name} is {_brief(value)}, not within ±{LARGEST_NUMBER:g}")
    if isinstance(example, list):
        if not value:
            raise ValueError(f"{name} is empty")
        for item in value:
            check_like(item, example[0], f"{name}'s item")
    if isinstance(example, dict):
        for key, wanted in example.items():
            if key not in value:
                raise ValueError(f"{name} has no {key}")
            check_like(value[key], wanted, key)


def load_network(
    path: str | Path, prepare: Callable[[dict, dict[str, Tensor]], Callable[[], nn.Module]], what: str, command: str
) -> tuple[nn.Module, dict]:
    """The network that a file holds, in evaluation mode, and the file's header.

    `prepare` gets header and weights, checks them, and returns what builds the network; it raises ValueError or
    TypeError where they are not of `what`, which `command` would train. Raises what `read_weights` does, or ValueError.
    """
    weights, header = read_weights(path)
    try:
        return rebuild(prepare(header, weights), weights), header
    except (ValueError, TypeError, RuntimeError) as error:  # PyTorch's own, of a size that no layer can have
        raise ValueError(f"{path} is no checkpoint of {what} ({error}): train one with {command}") from error


def rebuild(build: Callable[[], nn.Module], weights: dict[str, Tensor]) -> nn.Module:
    """The network that `build` makes, with these weights, in evaluation mode.

    Raises ValueError where names or shapes differ, before the network takes memory.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in expected | found:
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{name} is {found.get(name, 'missing')} in the weights, {expected.get(name, 'missing')} in the network"
            )
    model = build()
    model.load_state_dict(weights)
    return model.eval()


def _brief(value) -> str:
    text = " ".join(str(value).split()) if isinstance(value, Exception) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
