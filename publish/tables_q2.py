"""Question 2 in the report: the networks layer by layer, the sweeps, and what shifted images do."""

from __future__ import annotations

import importlib
import math

import numpy as np
import torch
from torch import nn

from common.classification import get_number_trainable_params, multiply_adds
from publish.latex import Results, number, percent, plain, spread, tabular
from publish.verdicts import verdict
from q2.comparison import homework_pair

# the first of which a sweep was run is the one that the text is about
DATA = {
    "octmnist": "OCTMNIST (real)",
    "pneumoniamnist": "PneumoniaMNIST (real)",
    "synthetic-oct": "OCT-like scans (synthetic)",
}


def q2_data(results: Results) -> list[str]:
    """The data sets of which a sweep was run, the one that the text is about first.

    Raises FileNotFoundError where there is none.
    """
    found = [name for name in DATA if results.exists(f"q2/{name}-sweep")]
    if not found:
        raise FileNotFoundError("no sweep of Question 2 was run here: python hw2-q2.py --sweep")
    return found


def q2_pair(results: Results, data: str) -> tuple[dict, dict]:
    """The networks that the homework compares, at one rate: with max-pooling and without."""
    return tuple(homework_pair(results(f"q2/{data}-sweep")))


def q2_numbers(results: Results) -> dict[str, str]:
    """Numbers, each with the data in its key: q2-main-… of the set that the text is about, q2-synthetic-… of scans."""
    main = q2_data(results)[0]
    pooled, strided = q2_pair(results, main)
    settings, missed = pooled["settings"], missed_by_class(results(f"q2/{main}-sweep"), pooled)
    worst = max(missed, key=missed.get)
    return {
        "q2-run": f"{main}-sweep",
        "q2-shift-run": f"{main}-shift",
        "q2-data": DATA[main],
        **data_numbers(results, "main", main),
        **data_numbers(results, "synthetic", "synthetic-oct"),
        "q2-pooled-adds": number(pooled["multiply_adds"]),
        "q2-strided-adds": number(strided["multiply_adds"]),
        "q2-adds-ratio": number(pooled["multiply_adds"] / strided["multiply_adds"], 2),
        "q2-dropout": f"{settings['dropout']:g}",
        "q2-epochs": str(settings["epochs"]),
        "q2-batch": str(settings["batch_size"]),
        "q2-main-worst-class": worst,
        "q2-main-missed": ", ".join(f"{percent(share, 0)} of \\emph{{{name}}}" for name, share in missed.items()),
        "q2-main-majority": majorities(results(f"q2/{main}-sweep")),
    }


def data_numbers(results: Results, key: str, data: str) -> dict[str, str]:
    """Accuracies, times and shifts of the networks of one data set."""
    (pooled, strided), tuned = q2_pair(results, data), tuned_network(results, data)
    rate = pooled["settings"]["learning_rate"]
    answers = [m for m in results(f"q2/{data}-shift")["models"].values() if m["settings"]["learning_rate"] == rate]
    answers.sort(key=lambda model: model["settings"]["no_maxpool"])
    accuracy = {name: model["metrics"]["test"]["accuracy"] for name, model in
                (("pooled", pooled), ("strided", strided), ("tuned", tuned))}  # fmt: skip
    numbers = {f"q2-{key}-{name}": spread(metric, 100) + r"\,\%" for name, metric in accuracy.items()}
    for name, model, answer in zip(("pooled", "strided"), (pooled, strided), answers, strict=True):
        times = model["layer_us_per_image"]
        numbers |= {
            f"q2-{key}-{name}-changed": percent(answer["changed_predictions"][1]["mean"]),
            f"q2-{key}-{name}-field": str(answer["receptive_field"]),
            f"q2-{key}-{name}-time": rf"{number(model['inference_us_per_image'], 1)}\,\textmu s",
            f"q2-{key}-{name}-convolutions": rf"{number(times['conv1'] + times['conv2'], 1)}\,\textmu s",
        }
    return numbers | {
        f"q2-{key}-rate": f"{rate:g}",
        f"q2-{key}-tuned-rate": f"{tuned['settings']['learning_rate']:g}",
        f"q2-{key}-pooling-time": rf"{number(pooled['layer_us_per_image']['pool'], 1)}\,\textmu s",
        f"q2-{key}-time-ratio": number(pooled["inference_us_per_image"] / strided["inference_us_per_image"], 1),
        f"q2-{key}-verdict": verdict("max-pooling", accuracy["pooled"], accuracy["strided"]),
        f"q2-{key}-tuned-verdict": verdict("max-pooling", accuracy["pooled"], accuracy["tuned"]),
        f"q2-{key}-seeds": str(len(pooled["trials"])),
        f"q2-{key}-steadier": steadier(answers),
    }


def tuned_network(results: Results, data: str) -> dict:
    """The network without pooling at the rate that validation selected for it: the last that was tested."""
    models = results(f"q2/{data}-sweep")["models"].values()
    return [model for model in models if model["settings"]["no_maxpool"] and "test" in model["metrics"]][-1]


def missed_by_class(sweep: dict, model: dict) -> dict[str, float]:
    """What share of each class's test images is taken for another class, all seeds together."""
    counts = sum(np.array(trial["test"]["confusion_matrix"]) for trial in model["trials"] if trial.get("test"))
    return dict(zip(sweep["data"]["classes"], 1 - counts.diagonal() / counts.sum(1), strict=True))


def majorities(sweep: dict) -> str:
    """The share of the commonest class among validation and among test images."""
    baseline = sweep["majority_baseline"]
    validation, test = (percent(baseline["accuracy"][part]) for part in ("validation", "test"))
    return f"{validation} of the validation images and {test} of the test images are {baseline['class']}"


def steadier(answers: list[dict]) -> str:
    """Which of two networks, pooled and strided, keeps more of its predictions under every shift."""
    pooled, strided = ([step["mean"] for step in answer["changed_predictions"]] for answer in answers)
    if all(a < b for a, b in zip(pooled, strided, strict=True)):
        return "the network with pooling changes its answer less often at every size of the shift"
    if all(a > b for a, b in zip(pooled, strided, strict=True)):
        return "the network with pooling changes its answer more often at every size of the shift"
    return "neither network is the steadier one at every size of the shift"


def q2_layers(results: Results) -> str:
    """Shapes, parameters and multiply-adds of the homework's networks, layer by layer, from the networks."""
    q2 = importlib.import_module("hw2-q2")
    networks = [q2.CNN(0.7).eval(), q2.CNN(0.7, no_maxpool=True).eval()]
    shapes = [layer_shapes(network) for network in networks]
    rows = []
    for name, module in networks[0].named_children():
        if name == "dropout":
            continue
        cells = [plain(name), number(sum(parameter.numel() for parameter in module.parameters()))]
        for layers in shapes:
            outputs = layers.get(name, [])
            positions = sum(math.prod(shape[1:]) for shape in outputs)  # of a convolution; 1 of an affine layer
            shown = [r"$\times$".join(map(str, shape)) for shape in outputs]
            cells += [", ".join(shown), number(module.weight.numel() * positions) if hasattr(module, "weight") else "0"]
        rows.append(cells)
    sizes = [get_number_trainable_params(network) for network in networks]
    adds = [multiply_adds(network, (1, 28, 28)) for network in networks]
    size = " / ".join(sorted({number(size) for size in sizes}))  # one number where both have as many
    rows.append(["in all", size, "", number(adds[0]), "", number(adds[1])])
    header = ["layer", "parameters", "output", "multiply-adds", "output, no pooling", "multiply-adds"]
    return tabular("lrrrrr", header, rows)


@torch.no_grad()
def layer_shapes(network: nn.Module) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of each layer's outputs for one image, without the batch, in the order of its calls."""
    shapes: dict[str, list] = {}
    for name, module in network.named_children():
        if not isinstance(module, nn.Identity):
            keep = shapes.setdefault(name, []).append
            module.register_forward_hook(lambda _, __, output, keep=keep: keep(tuple(output.shape[1:])))
    network(torch.zeros(1, 1, 28, 28))
    return shapes


def q2_results(results: Results) -> str:
    """Every network of every sweep that was run, with the baseline that learns nothing."""
    rows = []
    for data in q2_data(results):
        sweep = results(f"q2/{data}-sweep")
        rows.append(f"{DATA[data]}, {len(sweep['seeds'])} seeds")
        accuracy = sweep["majority_baseline"]["accuracy"]
        guess = [number(100 * accuracy[part], 1) for part in ("validation", "test")]
        rows.append(["always the largest class", "", *guess, number(0.5, 1), ""])
        for model in sweep["models"].values():
            settings, test = model["settings"], model["metrics"].get("test")
            rows.append([
                "no pooling" if settings["no_maxpool"] else "max-pooling",
                f"{settings['learning_rate']:g}",
                spread(model["metrics"]["validation"]["accuracy"], 100),
                spread(test["accuracy"], 100) if test else "not selected",
                spread(test["auc"], 1, 3) if test else "",
                number(model["inference_us_per_image"], 1) if test else "",
            ])  # fmt: skip
    header = ["network", "rate", r"validation (\%)", r"test (\%)", "test AUC", r"\textmu s an image"]
    return tabular("lrrrrr", header, rows)
