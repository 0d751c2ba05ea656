"""The runs of deep feature learning: the studies of its scripts, and self-attention written out."""

from __future__ import annotations

from pathlib import Path

import records
from common.catalogue import Run, checked, plots, ratio_keys
from deep_features.plots import draw, plots_of


def load_study(path: Path) -> dict:
    """A result of this course, checked for what its plots and tables need."""
    plots_of(path)
    return records.load_result(path)


def study(what: str, script: str, name: str, *kinds: str, flags: str = "") -> Run:
    """A study on MNIST, with the figures that are drawn of it."""
    stem = f"deep_features/{script}-mnist-study-{name}"
    command = " ".join(f"python deep_features/{script}.py --study {name} {flags}".split())
    return Run(what, stem, command, plots(stem, *kinds), load=load_study, draw=draw)


PICTURES = ("curves", "reconstructions", "worst", "walk")
GRID = study("batch size x code x epochs", "autoencoder", "grid", *PICTURES, "grid", "dead_units")
IMPROVED = study("what improves an autoencoder", "autoencoder", "improved", *PICTURES)
LINEAR = study("linear autoencoders, beside PCA", "autoencoder", "linear", *PICTURES)
AS_PUBLISHED = study("an autoencoder as published", "autoencoder", "published", *PICTURES)
AUTOENCODERS = (GRID, IMPROVED, LINEAR, AS_PUBLISHED)
STACKED = (
    study("stacked autoencoders as published", "stacked_autoencoder", "published", "accuracies"),
    study("numbers and sizes of layers", "stacked_autoencoder", "sizes", "accuracies"),
    study("few labels and many, pre-trained or not", "stacked_autoencoder", "labels", "accuracies", "labels"),
)
CNNS = (
    study("CNNs as published", "cnn", "published", "accuracies"),
    study("one factor of a CNN at a time", "cnn", "factors", "accuracies"),
    study("the best CNN under 300,000 parameters", "cnn", "best", "accuracies"),
    study("a CNN and a fully connected network, pixels in order and shuffled", "cnn", "pixels", "accuracies", "shifts"),
)
VITS = (
    study("the exercise's seven Vision Transformers", "vit", "seven", "accuracies", "attention", "positions",
          flags="--seeds 0"),
    study("the exercise's scale of attention, or a head's", "vit", "scale", "accuracies", "attention", "positions"),
    study("a better recipe for the Vision Transformer", "vit", "recipe", "accuracies", "attention", "positions"),
    study("patches of 4 pixels", "vit", "fine", "attention", "positions"),
)  # fmt: skip
SELF_ATTENTION = tuple(
    Run(
        f"self-attention of {what} (synthetic)",
        f"deep_features/{stem}",
        f"python deep_features/self_attention.py{flags}",
        plots(f"deep_features/{stem}", "maps", "sentence"),
        load=load_study,
        draw=draw,
    )
    for what, stem, flags in (
        ("32 tokens", "self_attention-b1-l32-n256-q256-v256", ""),
        (
            "32 sequences of 20 tokens",
            "self_attention-b32-l20-n128-q64-v32",
            " --batch 32 --length 20 --dim 128 --query_dim 64 --value_dim 32",
        ),
    )
)
TRAINING = {"grid": "s", "transformers": "s", "vit_epoch": "images/s"}  # row of the benchmark: its unit
SPEED = Run(
    "the grid and a Vision Transformer, timed",
    "deep_features/training-speed",
    "python benchmarks/deep_features.py",
    load=checked(*ratio_keys(TRAINING), "peak_bytes.*:number", "share_of_matrix_product:number"),
)
STUDIES = (*AUTOENCODERS, *STACKED, *CNNS, *VITS)
RUNS = (*STUDIES, *SELF_ATTENTION, SPEED)
