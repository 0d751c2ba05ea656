"""The runs of the assignments."""

from __future__ import annotations

from assignments.hw1 import derivatives, digits, dreams
from assignments.hw2 import cnn, gated, memory, permuted, spike_plots
from assignments.hw3 import ebm, ocr_plots
from assignments.hw4 import compare_plots, look_ahead_plots
from common.catalogue import Run, checked, plots

DIGITS = Run(
    "backpropagation by hand on scikit-learn's digits (real)",
    "assignments/hw1-digits",
    "python assignments/hw1/mlp.py",
    ("assignments/hw1-digits",),
    load=checked("history.*.train_loss:number", "metrics.test.accuracy.mean:number", "largest_difference:number"),
    draw=digits.draw,
)
DERIVATIVES = Run(
    "derivatives of activations, and where softmax is exact (synthetic)",
    "assignments/hw1-derivatives",
    "python assignments/hw1/derivatives.py",
    ("assignments/hw1-derivatives",),
    load=checked(*derivatives.KEYS),
    draw=derivatives.draw,
)
GRADIENTS = Run(
    "gradients through the time of gated networks (synthetic)",
    "assignments/hw2-gradients",
    "python assignments/hw2/gated.py",
    ("assignments/hw2-gradients",),
    load=checked(*gated.KEYS),
    draw=gated.draw,
)
SEEDS = "--seeds 0 1 2"


def dreamt(what: str, model: str, flags: str) -> Run:
    stem = f"assignments/hw1-dreams-{model}"
    command = f"python assignments/hw1/dreams.py {flags}"
    return Run(what, stem, command, plots(stem, "parts", "pictures"), load=checked(*dreams.KEYS), draw=dreams.draw)


DREAMS = (
    dreamt("images that a network takes for a digit (real), by the parts of the recipe", "digits",
           "--labels 0 1 2 3 4 5 6 7 8 9 --iterations 64"),
    dreamt("images that a network trained on ImageNet (real) takes for a class", "efficientnet_lite0",
           "--model efficientnet_lite0 --seeds 0"),
)  # fmt: skip


def cats_and_dogs(what: str, name: str, flags: str) -> Run:
    stem = f"assignments/hw2-cnn-{name}"
    command = " ".join(f"python assignments/hw2/cnn.py {flags} {SEEDS}".split())
    return Run(what, stem, command, plots(stem, *cnn.PLOTS), load=checked(*cnn.KEYS), draw=cnn.draw)


def echo(what: str, name: str, flags: str = "") -> Run:
    stem = f"assignments/hw2-echo-{name}"
    command = " ".join(f"python assignments/hw2/memory.py {flags} {SEEDS}".split())
    keys = (*memory.KEYS, "trials.*.by_delay:dict", "trials.*.by_length:dict")
    return Run(what, stem, command, plots(stem, "learning", "gates"), load=checked(*keys), draw=memory.draw)


CATS_AND_DOGS = (
    cats_and_dogs("2,000 cats and dogs of CIFAR-10 (JPEG, real)", "cifar10_jpeg-2000", ""),
    cats_and_dogs("9,000 of them", "cifar10_jpeg-9000",
                  "--train_size 9000 --validation_size 1000 --epochs 120"),
    cats_and_dogs("9,000 cats and dogs of CIFAR-10 as it was published (real)", "cifar10-9000",
                  "--dataset cifar10 --download --train_size 9000 --validation_size 1000 --epochs 120"),
    cats_and_dogs("the course's cats and dogs (real)", "cats_and_dogs_filtered-1500",
                  "--dataset cats_and_dogs_filtered --train_size 1500 --validation_size 500 --image_size 64"),
)  # fmt: skip
PERMUTED = Run(
    "two small networks on MNIST (real), pixels in order and shuffled",
    "assignments/hw2-permuted-mnist",
    f"python assignments/hw2/permuted.py {SEEDS}",
    plots("assignments/hw2-permuted-mnist", "accuracies"),
    load=checked(*permuted.KEYS),
    draw=permuted.draw,
)
ECHOES = (
    echo("echoes after 4 letters (synthetic)", "delay4"),
    echo("echoes after 0 to 8 letters, as told (synthetic)", "to8", "--max_delay 8"),
    echo("echoes after 0 to 12 letters, as told (synthetic)", "to12", "--max_delay 12"),
    echo("trained for 0 to 8 letters, told up to 12 (synthetic)", "to8-room12", "--max_delay 8 --room 12"),
)
SPIKES = Run(
    "temporal order (synthetic): spikes of the loss, and ways to train",
    "assignments/hw2-spikes",
    "python assignments/hw2/spikes.py --study",
    plots("assignments/hw2-spikes", "worst", "recipes"),
    load=checked(*spike_plots.STUDY_KEYS),
    draw=spike_plots.draw,
)
ENERGIES = Run(
    "energies of a circle (synthetic): collapse, canyon, margin",
    "assignments/hw3-energies",
    "python assignments/hw3/ebm.py",
    plots("assignments/hw3-energies", "surfaces", "depths"),
    load=checked(*ebm.KEYS),
    draw=ebm.draw,
)
READERS = Run(
    "rendered words (synthetic), read in four ways",
    "assignments/hw3-ocr",
    "python assignments/hw3/ocr.py --study",
    plots("assignments/hw3-ocr", *ocr_plots.PLOTS),
    load=checked(*ocr_plots.STUDY_KEYS),
    draw=ocr_plots.draw,
)
READING_SPEED = Run(
    "an epoch of the reader, timed (synthetic)",
    "assignments/hw3-training-speed",
    "python benchmarks/hw3_paths.py",
    load=checked("metrics.epoch.ratio.median:number"),
)


def compared(what: str, name: str, flags: str, *kinds: str) -> Run:
    stem, keys = f"assignments/hw4-{name}", compare_plots.KEYS
    command = f"python assignments/hw4/compare.py {flags}"
    return Run(what, stem, command, plots(stem, *kinds), load=checked(*keys), draw=compare_plots.draw)


STEP_SIZES = compared(
    "step sizes for a Vision Transformer and a CNN, 5,000 images of CIFAR-10 (JPEG, real)",
    "rates-cifar10_jpeg", "--dataset cifar10_jpeg --study rates", "rates",
)  # fmt: skip
SIZES = compared(
    "a Vision Transformer and a CNN on CIFAR-10 (JPEG, real), by the number of training images",
    "sizes-cifar10_jpeg", "--dataset cifar10_jpeg --study sizes", "accuracies", "gaps", "attention", "positions",
)  # fmt: skip
SIZES_AS_PUBLISHED = compared(
    "the same on CIFAR-10 as it was published (real)",
    "sizes-cifar10", "--dataset cifar10 --download --study sizes", "accuracies", "gaps", "attention", "positions",
)  # fmt: skip
CIFAR100 = compared(
    "a Vision Transformer on CIFAR-100 (real), the course's data",
    "vit-cifar100-all-seed0", "--dataset cifar100 --download", "curves", "attention", "positions",
)  # fmt: skip
LOOK_AHEAD = Run(
    "Question 3's encoder with a limited look-ahead, recorded clips (real)",
    "assignments/hw4-look-ahead",
    "python benchmarks/hw4_look_ahead.py --data data/ljspeech-345",
    ("assignments/hw4-look-ahead",),
    load=checked(*look_ahead_plots.KEYS),
    draw=look_ahead_plots.draw,
)
RUNS = (
    DIGITS, DERIVATIVES, *DREAMS, GRADIENTS, *CATS_AND_DOGS, PERMUTED, *ECHOES, SPIKES, ENERGIES, READERS,
    READING_SPEED, STEP_SIZES, SIZES, SIZES_AS_PUBLISHED, CIFAR100, LOOK_AHEAD,
)  # fmt: skip
