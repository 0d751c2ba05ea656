"""What the two networks of Question 2 make of a shifted image: `python hw2-q2.py --shift`, after `--sweep`.

The sweep's tested networks see the validation images, and the same moved by a few pixels: how many predictions change,
how far do the features move, and how far does a feature see?
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import records
from command_line import attempt
from common.geometry import in_each_direction
from image_data import load_images
from q2.config import Config

SHIFTS = (1, 2, 3, 4)  # pixels
Loader = Callable[[Path], tuple[nn.Module, dict]]  # reads a saved network and its header


@torch.no_grad()
def response(model: nn.Module, images: Tensor, shift: int) -> dict[str, float]:
    """Means over images and directions, each in [0, 1] or not far beyond.

    `changed_predictions`: the share of predictions that another class replaces. `moved_features`: the distance between
    the features (B, 576) of the image and of its copy, over the length of the former.
    """
    features, classes = model.features(images), model(images).argmax(-1)
    copies = in_each_direction(images, shift)
    changed = [(model(moved).argmax(-1) != classes).double().mean() for moved in copies]
    distances = [((model.features(moved) - features).norm(dim=1) / features.norm(dim=1)).mean() for moved in copies]
    return {
        "changed_predictions": sum(changed).item() / len(copies),
        "moved_features": sum(distances).item() / len(copies),
    }


@torch.no_grad()
def receptive_field(model: nn.Module) -> int:
    """Width in pixels of what a feature depends on: with all weights 1, those that light it when they shine alone."""
    probe = copy.deepcopy(model)
    for parameter in probe.parameters():
        parameter.fill_(1)
    channels, height, width = model.image_shape
    pixels = torch.eye(height * width).view(-1, 1, height, width).expand(-1, channels, -1, -1)
    maps = probe.features(pixels).unflatten(1, (model.conv2.out_channels, -1))  # (H*W, 16, 6*6)
    middle = maps[:, 0, maps.shape[2] // 2 + 3]  # of the fourth row, the fourth
    seen = (middle > middle.min() + 0.5).view(height, width).any(0).nonzero()
    return int(seen.max() - seen.min() + 1)


def network_of(file: Path, settings: dict, digest: str | None, load_model: Loader) -> nn.Module:
    """A sweep's network. Raises ValueError where a later run has written another under its name."""
    network, header = load_model(file)
    if header["settings"] != settings or header.get("digest") not in (None, digest):
        raise ValueError(f"{file} is not the sweep's, but of a later run with other settings or data: sweep again")
    return network


def run(dataset: str, data_root: str, out: str, load_model: Loader) -> dict:
    """The result, from OUT/q2/<dataset>-sweep.json and its networks.

    Raises FileNotFoundError without them, ValueError where the networks or the images are not the sweep's.
    """
    path = Path(out) / "q2" / f"{dataset}-sweep.json"
    if not path.is_file():
        raise FileNotFoundError(f"no sweep at {path}: run python hw2-q2.py --dataset {dataset} --sweep")
    sweep = records.load_result(path, "seeds.*:number", "models.*.settings:dict", "models.*.metrics:dict")
    data = load_images(dataset, data_root)
    images, digest = data.val[0], sweep["data"].get("digest")
    if digest not in (None, data.digest):
        raise ValueError(f"{path} was made from other data than {dataset} in {data_root}: give its --data_root")
    tested = {variant: summary for variant, summary in sweep["models"].items() if "test" in summary["metrics"]}
    if not tested:
        raise ValueError(f"{path} has no tested network: run python hw2-q2.py --dataset {dataset} --sweep")
    models = {}
    for variant, summary in tested.items():
        seeds = [seed for seed in sweep["seeds"] if seed not in summary.get("diverged_seeds", [])]
        files = {seed: path.with_name(f"{dataset}-{variant}-seed{seed}.safetensors") for seed in seeds}
        networks = [
            network_of(file, summary["settings"] | {"seed": seed}, digest, load_model) for seed, file in files.items()
        ]
        answers = [[response(network, images, shift) for network in networks] for shift in SHIFTS]
        models[variant] = {"settings": summary["settings"], "receptive_field": receptive_field(networks[0])} | {
            name: [records.mean_std([answer[name] for answer in seeds]) for seeds in answers] for name in answers[0][0]
        }
    return {
        "question": "q2",
        "run": f"{dataset}-shift",
        "config": {"shifts": SHIFTS, "part": "validation"},
        "seeds": sweep["seeds"],
        "data": sweep["data"],
        "models": models,
    }


def show(config: Config, load_model: Loader) -> int:
    """Measure, save, draw and print."""
    result = run(config.dataset, config.data_root, config.out, load_model)
    path = records.save_results(config.out, result)
    drawn = []
    with attempt(f"drawing {path}"):
        from q2 import plots

        drawn = plots.draw([path], Path(config.out) / "plots")
    for variant, model in result["models"].items():
        changed = ", ".join(f"{100 * answer['mean']:.1f}" for answer in model["changed_predictions"])
        print(f"{variant}: a feature sees {model['receptive_field']} pixels; moved by 1 to 4, {changed} % change class")
    print(path, *drawn, sep="\n")
    return 0
