"""The runs of Lab 3."""

from __future__ import annotations

from common.catalogue import Run, checked, plots
from lab3 import costs_plots, sentiment_plots, techniques_plots, transfer_plots, translate_plots, vision_plots

DRAWN = {
    "translate": translate_plots, "sentiment": sentiment_plots, "transfer": transfer_plots, "vision": vision_plots,
    "techniques": techniques_plots,
}  # fmt: skip


def study(what: str, script: str, name: str, dataset: str, *kinds: str, flags: str = "") -> Run:
    """A study of one of the scripts, drawn as these kinds of plots."""
    stem, module = f"lab3/{script}-{name}-{dataset}", DRAWN[script]
    command = " ".join(f"python lab3/{script}.py --dataset {dataset} --study {name} {flags}".split())
    return Run(what, stem, command, plots(stem, *kinds), load=checked("data.name:text"), draw=module.draw)


TRANSLATION = study(
    "Multi30k (real), English to German: a Transformer and an LSTM", "translate", "models", "multi30k",
    "curves", "lengths", "heads", flags="--seeds 0",
)  # fmt: skip
POSITIONS = study(
    "an invented language (synthetic): sinusoidal, learned and rotary positions", "translate", "positions", "toy",
    "curves", "lengths", "heads",
)  # fmt: skip
STEP_SIZES = study("Rotten Tomatoes (real): step sizes", "sentiment", "rates", "rotten_tomatoes", "rates")
METHODS = study("Rotten Tomatoes (real): six methods", "sentiment", "methods", "rotten_tomatoes", "methods")
LABELS = study("Rotten Tomatoes (real), by the number of labels", "sentiment", "labels", "rotten_tomatoes", "labels")
SMALLER = "--image_size 112"
PHOTOGRAPH_STEP_SIZES = study(
    "ants and bees (real): step sizes", "transfer", "rates", "ants_bees", "rates", flags=SMALLER
)
PHOTOGRAPHS = study(
    "ants and bees (real): four ways to use ImageNet's features", "transfer", "methods", "ants_bees", "methods",
    flags=SMALLER,
)  # fmt: skip
PHOTOGRAPH_SIZES = study(
    "ants and bees (real), by the number of training images", "transfer", "sizes", "ants_bees", "sizes", flags=SMALLER
)
DOMAINS = study(
    "chest X-rays and CIFAR-10 (JPEG, real), with ImageNet's features and without", "transfer", "domains",
    "cifar10_jpeg", "domains",
)  # fmt: skip
VISION = tuple(
    study(f"{data}: {what}", "vision", name, dataset, name, flags=flags)
    for data, what, name, dataset, flags in (
        (
            "CIFAR-10 (JPEG, real)",
            "step sizes of three families",
            "rates",
            "cifar10_jpeg",
            "--train_size 5000 --epochs 10",
        ),
        ("CIFAR-10 (JPEG, real)", "ten vision networks", "networks", "cifar10_jpeg", "--train_size 5000"),
        ("PneumoniaMNIST (real)", "ten vision networks", "networks", "pneumoniamnist", ""),
    )
)
TECHNIQUES = tuple(
    study(f"CIFAR-10 (JPEG, real): {what}", "techniques", name, "cifar10_jpeg", name, flags="--train_size 2000")
    for what, name in (
        ("step sizes, and a range test", "rates"),
        ("techniques of training, one at a time", "techniques"),
        ("warm-up and clipping, where training is in danger", "stability"),
    )
)
COSTS = Run(
    "random images (synthetic): what a training step costs, with techniques that do not change it", "lab3/costs",
    "python lab3/costs.py", ("lab3/costs",), load=checked(*costs_plots.KEYS), draw=costs_plots.draw,
)  # fmt: skip
RUNS = (
    TRANSLATION, POSITIONS, STEP_SIZES, METHODS, LABELS, PHOTOGRAPH_STEP_SIZES, PHOTOGRAPHS, PHOTOGRAPH_SIZES, DOMAINS,
    *VISION, *TECHNIQUES, COSTS,
)  # fmt: skip
