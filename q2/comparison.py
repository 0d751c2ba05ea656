"""Comparisons of Question 2: over seeds, learning rates, and with pooling or without; and their results in words."""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np
from torch import nn

import records
from common.classification import get_number_trainable_params, inference_time, layer_times, multiply_adds
from common.grid import results_side_by_side
from image_data import ImageData
from q2.config import RESULT_KEYS, Config

SWEEP_LEARNING_RATES = (0.1, 0.01, 0.001)


def result_head(config: Config, data: ImageData) -> dict:
    """How the result of a run begins: what it is of, by which another run of the same name is told from it."""
    name = f"{config.dataset}-{'sweep' if config.sweep else config.variant}"
    return {
        "question": "q2",
        "run": name if config.seeds else config.run_name,
        "config": config.settings() | {"course_test_split": config.course_test_split},
        "seeds": list(config.seeds or (config.seed,)),
        "data": data.describe(),
    }


def one_per_seed(config: Config) -> list[Config]:
    return [dataclasses.replace(config, sweep=False, seeds=(), no_test=True, seed=seed) for seed in config.seeds]


def train_side_by_side(configs: list[Config], data: ImageData) -> list[dict]:
    """Train each configuration in a process of its own; returns their trials (see `results_side_by_side`)."""
    results = results_side_by_side(configs, lambda config: result_head(config, data), RESULT_KEYS)
    return [trial for result in results for model in result["models"].values() for trial in model["trials"]]


def sweep(config: Config, data: ImageData) -> tuple[dict[Config, list[dict]], list[Config]]:
    """The homework's comparison: a trial per seed of each network at each learning rate, and the networks to test.

    The latter come first: that with pooling (without, for --no_maxpool) at the rate that validation selects, the other
    at the same rate, as the homework asks, and at the rate that validation selects for it.
    """
    networks = [
        dataclasses.replace(config, learning_rate=rate, no_maxpool=no_maxpool)
        for no_maxpool in (config.no_maxpool, not config.no_maxpool)
        for rate in SWEEP_LEARNING_RATES
    ]
    every = train_side_by_side([single for network in networks for single in one_per_seed(network)], data)
    trials = {network: [every.pop(0) for _ in config.seeds] for network in networks}
    selected, tuned = (
        best({network: trials[network] for network in networks if network.no_maxpool == no_maxpool})
        for no_maxpool in (config.no_maxpool, not config.no_maxpool)
    )
    homework = dataclasses.replace(selected, no_maxpool=not config.no_maxpool)
    tested = list(dict.fromkeys([selected, homework, tuned]))
    return {network: trials[network] for network in dict.fromkeys([*tested, *networks])}, tested


def best(trials: dict[Config, list[dict]]) -> Config:
    """The network with the highest validation accuracy, its mean over seeds, of those that never diverged."""
    usable = [network for network in trials if not any(trial["diverged_in_epoch"] for trial in trials[network])]
    if not usable:
        raise ValueError("every learning rate of the sweep diverged: there is nothing to select")
    return max(usable, key=lambda network: np.mean([trial["validation"]["accuracy"] for trial in trials[network]]))


def homework_pair(result: dict) -> list[dict]:
    """Of a sweep's result the two networks that the homework compares, at one learning rate: with pooling, without.

    One of them alone where the other was not tested: it diverged.
    """
    models = [model for model in result["models"].values() if "test" in model["metrics"]]
    rate = models[0]["settings"]["learning_rate"]
    pair = [model for model in models if model["settings"]["learning_rate"] == rate]
    return sorted(pair, key=lambda model: model["settings"]["no_maxpool"])


def summarise(model: nn.Module, config: Config, trials: list[dict], data: ImageData) -> dict:
    """One network's entry in a result file: mean and deviation over its trials, and the trials themselves."""
    image_shape = tuple(data.train[0].shape[1:])
    converged = [trial for trial in trials if trial["diverged_in_epoch"] is None]
    epochs = [record["seconds"] for trial in trials for record in trial["history"]]
    return {
        "settings": {name: value for name, value in config.settings().items() if name != "seed"},
        "parameters": get_number_trainable_params(model),
        "multiply_adds": multiply_adds(model, image_shape),
        "training_us_per_image": 1e6 * statistics.median(epochs) / len(data.train[1]) if epochs else None,
        "inference_us_per_image": inference_time(model, data.val[0][:1000]),
        "layer_us_per_image": layer_times(model, data.val[0][:1000]),
        "diverged_seeds": [trial["seed"] for trial in trials if trial["diverged_in_epoch"] is not None],
        "metrics": {part: over_seeds(converged, part) for part in ("validation", "test") if scored(converged, part)},
        "trials": trials,
    }


def scored(trials: list[dict], part: str) -> bool:
    return bool(trials) and all(trial.get(part) for trial in trials)


def over_seeds(trials: list[dict], part: str) -> dict:
    """Each score of a part over the trials; one that is undefined, null in a child's file, is NaN again."""
    values = {name: [trial[part][name] for trial in trials] for name in ("loss", "accuracy", "auc")}
    return {name: records.mean_std([math.nan if x is None else x for x in values[name]]) for name in values}


def print_summary(result: dict) -> None:
    """A line per network: validation and test scores, mean and deviation over seeds."""
    data, baseline = result["data"], result["majority_baseline"]["accuracy"]
    synthetic = " (synthetic)" if data["source"] == "synthetic" else ""
    seeds = ", ".join(map(str, result["seeds"]))
    trained = f"one seed ({seeds})" if len(result["seeds"]) == 1 else f"mean ± deviation over seeds {seeds}"
    print(f"\n{data['name']}{synthetic}, {trained}, {result['seconds']:.0f} s")
    print(
        f"{'network':28}{'val. accuracy':>16}{'test accuracy':>16}{'test AUC':>16}{'parameters':>12}{'mult-adds':>11}"
    )
    percent = f"{100 * baseline['validation']:14.1f} %{100 * baseline['test']:14.1f} %"
    print(f"{'always the commonest class':28}{percent}{'0.500':>16}{0:12}{0:11}")
    scores = (("validation", "accuracy", 100, 1, " %"), ("test", "accuracy", 100, 1, " %"), ("test", "auc", 1, 3, ""))
    for variant, model in result["models"].items():
        cells = []
        for part, name, scale, digits, unit in scores:
            metric = model["metrics"].get(part, {}).get(name)
            missing = "diverged" if model["diverged_seeds"] else "-"
            cells.append(records.spread(metric, scale, digits) + unit if metric else missing)
        sizes = f"{model['parameters']:12,}{model['multiply_adds']:11,}"
        print(f"{variant:28}" + "".join(f"{cell:>16}" for cell in cells) + sizes)
