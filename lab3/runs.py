"""The runs of Lab 3."""

from __future__ import annotations

from common.catalogue import Run, checked, plots
from lab3 import (
    costs_plots,
    distill_plots,
    explain_plots,
    few_shot_plots,
    search_plots,
    self_supervised_plots,
    sentiment_plots,
    techniques_plots,
    transfer_plots,
    translate_plots,
    two_towers_plots,
    vision_plots,
)

DRAWN = {
    "translate": translate_plots, "sentiment": sentiment_plots, "transfer": transfer_plots, "vision": vision_plots,
    "techniques": techniques_plots, "few_shot": few_shot_plots, "self_supervised": self_supervised_plots,
    "distill": distill_plots, "search": search_plots, "explain": explain_plots, "two_towers": two_towers_plots,
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
SMALL_STEP_SIZES = study(
    "CIFAR-10 (JPEG, real), enlarged: step sizes", "transfer", "rates", "cifar10_jpeg", "rates",
    flags="--train_size 2000",
)  # fmt: skip
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
FEW_SHOT = tuple(
    study(f"MNIST (real), classes held out: {what}", "few_shot", name, "mnist", name)
    for what, name in (
        ("step sizes, on the training classes", "rates"), ("prototypes, by the number of examples", "shots")
    )
)  # fmt: skip
SELF_SUPERVISED = study(
    "CIFAR-10 (JPEG, real): features learnt without labels, by the number of labels", "self_supervised", "labels",
    "cifar10_jpeg", "labels", flags="--train_size 10000 --epochs 40",
)  # fmt: skip
DISTILLED = tuple(
    study(f"{data}: a small CNN taught by three stronger networks", "distill", "students", dataset, "students",
          flags=f"{size}--epochs 20 --batch_size 64")
    for data, dataset, size in (
        ("PneumoniaMNIST (real)", "pneumoniamnist", ""), ("CIFAR-10 (JPEG, real)", "cifar10_jpeg", "--train_size 2000 ")
    )
)  # fmt: skip
SEARCHED = study(
    "MNIST (real): random search and successive halving at one budget", "search", "methods", "mnist", "methods",
    flags="--train_size 5000 --rungs 3",
)  # fmt: skip
EXPLAINED = tuple(
    study(f"{data}: what predictions rest on, and two tests of the answers", "explain", "seeds", dataset, *kinds)
    for data, dataset, kinds in (
        ("PneumoniaMNIST (real)", "pneumoniamnist", ("examples", "curves", "scores")),
        ("ants and bees (real)", "ants_bees", ("curves", "scores")),
        ("Rotten Tomatoes (real)", "rotten_tomatoes", ("examples", "curves", "scores")),
    )
)
SPOKEN = study(
    "invented sentences, spoken (synthetic): which text goes with which clip", "two_towers", "choices", "spoken",
    "choices",
)  # fmt: skip
SPEECH = study(
    "LJ Speech's sentences re-voiced (synthetic), then recorded (real): which text goes with which clip",
    "two_towers", "corpora", "revoiced", "corpora",
)  # fmt: skip
RUNS = (
    TRANSLATION, POSITIONS, STEP_SIZES, METHODS, LABELS, PHOTOGRAPH_STEP_SIZES, PHOTOGRAPHS, PHOTOGRAPH_SIZES,
    SMALL_STEP_SIZES, DOMAINS, *VISION, *TECHNIQUES, COSTS, *FEW_SHOT, SELF_SUPERVISED, *DISTILLED, SEARCHED,
    *EXPLAINED, SPOKEN, SPEECH,
)  # fmt: skip
