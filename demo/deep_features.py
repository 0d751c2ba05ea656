"""Deep feature learning in brief, on scikit-learn's digits: real, small, and there without a download."""

from __future__ import annotations

from pathlib import Path

import records
from deep_features import autoencoder, cnn, self_attention, stacked_autoencoder, vit
from demo.part import Part, call
from publish.page import Picture, Section, Table

DIGITS = ("--dataset", "digits")
NETWORKS = {  # the classifiers: what they are, their command, and flags beyond the data
    "stacked autoencoder": (stacked_autoencoder, "stacked_autoencoder", ("--epochs", "15")),
    "CNN": (cnn, "cnn", ("--epochs", "6", "--batch_size", "32")),
    "Vision Transformer": (vit, "vit", ("--epochs", "15", "--batch_size", "32", "--schedule", "cycle")),
}


def on_digits(out: Path) -> Section:
    """Run all five scripts, each in seconds."""
    scripts = {
        "self_attention": (self_attention, ()),
        "autoencoder": (autoencoder, (*DIGITS, "--epochs", "30", "--batch_size", "16")),
        **{name: (module, (*DIGITS, *flags)) for module, name, flags in NETWORKS.values()},
    }
    commands = [
        call(module.main, f"python deep_features/{name}.py", *flags, "--out", str(out))
        for name, (module, flags) in scripts.items()
    ]
    networks = {what: saved(out, name) for what, (_, name, _) in NETWORKS.items()}
    rebuilt = saved(out, "autoencoder")
    stem = out / "plots" / "deep_features"
    return Section(
        "Deep feature learning",
        headline=told(networks),
        lines=(
            f"An autoencoder squeezes 784 pixels into {rebuilt['config']['code_dim']} numbers and back: "
            f"its squared error is {1000 * rebuilt['metrics']['test']['mse']['mean']:.1f} thousandths.",
        ),
        pictures=(
            Picture(
                stem / f"{rebuilt['run']}-reconstructions.png",
                "Six digits, and below each what an autoencoder made of it",
                "Validation digits (real), and what is left of them after the autoencoder.",
            ),
            Picture(
                stem / "self_attention-b1-l32-n256-q256-v256-sentence.png",
                "Weights of attention between the ten words of a sentence; the pronoun looks at the cat",
                "Attention over a sentence whose features were made by hand.",
            ),
        ),
        tables=(accuracies(networks),),
        commands=tuple(commands),
    )


def saved(out: Path, script: str) -> dict:
    """The result of the one run of a script on the digits."""
    (path,) = (out / "deep_features").glob(f"{script}-digits-*.json")
    return records.load_result(path, "metrics.test:dict", "parameters:number", "config:dict")


def accuracy(result: dict) -> float:
    return 100 * result["metrics"]["test"]["accuracy"]["mean"]


def told(networks: dict[str, dict]) -> str:
    first, *others = (f"{accuracy(result):.1f} %" for result in networks.values())
    names, count = [f"a {what}" for what in networks], next(iter(networks.values()))["data"]["sizes"]["test"]
    rest = ", ".join(f"{name} {share}" for name, share in zip(names[1:], others, strict=True))
    return f"Of {count} small handwritten digits (real), {names[0]} recognises {first}, {rest}."


def accuracies(networks: dict[str, dict]) -> Table:
    rows = [
        [what, f"{result['parameters']:,}", f"{accuracy(result):.1f} %", f"{result['seconds']:.0f} s"]
        for what, result in networks.items()
    ]
    caption = "scikit-learn's digits (real), one seed, so small differences may be chance"
    return Table(caption, ["network", "parameters", "test accuracy", "time"], rows)


PARTS = (Part("deep_features", "Deep feature learning: five scripts on small digits", 60, on_digits),)
