"""The plots of this course, from result files: `python -m deep_features.plots results/deep_features/*.json`."""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

import records
import utils
from command_line import flag
from deep_features import attention_plots, autoencoder_plots, classifier_plots

SCRIPTS = {  # of each the plots that a result has
    "autoencoder": autoencoder_plots.plots,
    "self_attention": attention_plots.plots,
    "cnn": classifier_plots.plots,
    "stacked_autoencoder": classifier_plots.plots,
    "vit": classifier_plots.plots,
}


def plots_of(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file of another course, or without what they need."""
    result = records.load_result(path, "config.script:text")
    if result["question"] != "deep_features" or result["config"]["script"] not in SCRIPTS:
        raise ValueError(f"{path} is no result of this course's scripts")
    return SCRIPTS[result["config"]["script"]](path)


def draw(paths: Iterable[Path], out: str | Path) -> list[Path]:
    """Draw every plot of each result, as OUT/deep_features/<run>-<plot>.pdf and .png."""
    written = []
    for path in paths:
        result = records.load_result(path)
        for name, plot in plots_of(path).items():
            written += utils.save_figure(plot(result), Path(out) / "deep_features" / f"{result['run']}-{name}", path)
    return written


@dataclass(frozen=True)
class Config:
    """The flags."""

    results: tuple[Path, ...] = flag((), "result files of the scripts in deep_features/", positional=True)
    out: str = flag("runs/plots", "folder for the plots")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    return command_line.for_each(sorted(config.results), lambda path: print(*draw([path], config.out), sep="\n"))


if __name__ == "__main__":
    matplotlib.use("Agg")
    sys.exit(main())
