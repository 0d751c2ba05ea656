"""Question 2: a small CNN for retinal OCT images, with max-pooling and without.

python hw2-q2.py                                 one training run on OCTMNIST, with the homework's settings
python hw2-q2.py --no_maxpool                    the same network with strided convolutions for pooling
python hw2-q2.py --sweep                         the homework: three learning rates x three seeds, then no_maxpool
python hw2-q2.py --dataset synthetic-oct         the same on synthetic scans: nothing to download
python hw2-q2.py --predict scan.png --checkpoint checkpoints/pneumoniamnist-strong.safetensors
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import contextlib
import dataclasses
import functools
import json
import math
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import pictures
import q2_strong
import records
import saved_models
import utils
from image_data import PARTS, ImageData, load_images, normalise_, to_pixels, with_course_test_split
from q2_config import RECIPES, RESULT_KEYS, Config, Prediction, parse_config

SWEEP_LEARNING_RATES = (0.1, 0.01, 0.001)
MISTAKES_KEPT = 12
LARGEST_SIDE = 1024  # pixels of an image that a checkpoint may ask for; MedMNIST's largest have 224


class MaxPool2d(nn.MaxPool2d):
    """Max-pooling in channels-last memory order, in which PyTorch's is several times as fast on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous(memory_format=torch.channels_last))


class CNN(nn.Module):
    """Two convolutions and three affine layers; returns log-probabilities (B, num_classes).

    Takes images (B, C, H, W), or flattened (B, C*H*W). `no_maxpool` replaces each pooling by a stride of 2 in
    the convolution before it, which leaves the number of parameters as it is. Source: homework, Question 2.
    """

    def __init__(
        self, dropout_prob: float, no_maxpool: bool = False, num_classes: int = 4, image_shape: tuple = (1, 28, 28)
    ):
        super().__init__()
        self.image_shape = tuple(image_shape)
        stride = 2 if no_maxpool else 1
        self.conv1 = nn.Conv2d(image_shape[0], 8, kernel_size=3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(8, 16, kernel_size=3, stride=stride, padding=0)
        self.pool = nn.Identity() if no_maxpool else MaxPool2d(kernel_size=2, stride=2)
        self.dropout = nn.Dropout(dropout_prob)
        with torch.no_grad():
            affine_inputs = self.features(torch.zeros(1, *image_shape)).shape[1]  # eq:conv-size: 16 * 6 * 6 = 576
        self.fc1 = nn.Linear(affine_inputs, 320)
        self.fc2 = nn.Linear(320, 120)
        self.fc3 = nn.Linear(120, num_classes)

    def features(self, images: Tensor) -> Tensor:
        # ReLU after pooling is ReLU before it, since neither changes an order, on a quarter of the values
        x = F.relu(self.pool(self.conv1(images)))  # (B, 8, 14, 14) for 28x28 images, in both variants
        x = F.relu(self.pool(self.conv2(x)))  # (B, 16, 6, 6)
        return x.flatten(1)  # (B, 576)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images.view(-1, *self.image_shape))
        x = self.dropout(F.relu(self.fc1(x)))  # (B, 320)
        x = F.relu(self.fc2(x))  # (B, 120)
        return F.log_softmax(self.fc3(x), dim=-1)  # (B, num_classes)


def get_number_trainable_params(model: nn.Module) -> int:
    """Number of scalars that training adjusts (eq:parameters: 224,892 for four classes)."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def multiply_adds(model: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Multiply-add operations of one image's forward pass, as PyTorch's FLOP counter sees them."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *image_shape))
    return counter.get_total_flops() // 2


# --- one training run --------------------------------------------------------------------------------


def build_model(settings: dict, num_classes: int, image_shape: tuple[int, ...]) -> nn.Module:
    if settings["recipe"] == "strong":
        model = q2_strong.StrongCNN(num_classes, image_shape[0], settings["dropout"])
        return model.to(memory_format=torch.channels_last)
    return CNN(settings["dropout"], settings["no_maxpool"], num_classes, image_shape)


def build_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    if config.recipe == "strong":
        return q2_strong.build_optimizer(model, config.learning_rate, config.l2_decay)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.optimizer]
    return kind(model.parameters(), lr=config.learning_rate, weight_decay=config.l2_decay, fused=True)


def nll_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.nll_loss(model(images), labels, reduction="none")  # (B,)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Log-probabilities (N, num_classes), on the CPU, of normalised images (N, C, H, W)."""
    device = next(model.parameters()).device
    return torch.cat([model.eval()(batch.to(device)).cpu() for batch in images.split(batch_size)])


def scores(log_probs: Tensor, labels: Tensor, task: str) -> dict[str, float]:
    """Loss, accuracy and macro-AUC (each class against the rest), the latter two by MedMNIST's own evaluator."""
    from medmnist.evaluator import getACC, getAUC

    truth, probabilities = labels.numpy(), log_probs.double().exp().numpy()
    every_class = len(labels.unique()) == log_probs.shape[1]  # or there is no curve to measure
    return {
        "loss": F.nll_loss(log_probs, labels).item(),
        "accuracy": float(getACC(truth, probabilities, task)),
        "auc": float(getAUC(truth, probabilities, task)) if every_class else math.nan,
    }


def load_data(config: Config) -> ImageData:
    data = load_images(config.dataset, config.data_root, strict_checksum=config.strict_checksum)
    if config.course_test_split:
        data = with_course_test_split(data)
    if config.dry_run:
        few = {part: tuple(t[: 10 * config.batch_size] for t in getattr(data, part)) for part in PARTS}
        data = dataclasses.replace(data, **few)
    return data


def train(config: Config, data: ImageData) -> tuple[nn.Module, dict]:
    """Train one network; returns it with its trial: seed, history, validation scores, or where it diverged."""
    utils.configure_seed(config.seed)
    # PyTorch's plain convolutions beat oneDNN's for the homework's few channels and images a step
    torch.backends.mkldnn.enabled = config.recipe == "strong"
    settings, image_shape = config.settings(), tuple(data.train[0].shape[1:])
    model = build_model(settings, len(data.class_names), image_shape)
    optimizer = build_optimizer(config, model)
    images, labels = data.val

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {f"val_{name}": value for name, value in scores(predict(model, images), labels, data.task).items()}

    batches = utils.Batches(data.train, config.batch_size, config.seed)
    options = {"loss_fn": nll_losses}
    if config.recipe == "strong":
        steps = len(batches) * config.epochs
        options = q2_strong.fit_options(optimizer, steps, data.train[1], data.mean, data.std)
    trial = {"seed": config.seed, "diverged_in_epoch": None}
    try:
        trial["history"] = utils.fit(
            model,
            batches,
            optimizer,
            **options,
            evaluate=evaluate,
            epochs=config.epochs,
            seed=config.seed,
            checkpoint=None if config.dry_run else config.file(".ckpt"),
            config=settings | {"data": data.digest},
            resume=config.resume,
            overwrite=config.overwrite,
            device=config.device,
            tensorboard=config.file("").parent / "tensorboard" / config.run_name if config.tensorboard else None,
        )
        trial["validation"] = scores(predict(model, images), labels, data.task)
    except utils.Diverged as diverged:
        trial |= {"history": diverged.history, "diverged_in_epoch": diverged.epoch, "validation": None}
    return model, trial


def test(model: nn.Module, data: ImageData) -> dict:
    """Scores on the test set, the confusion matrix (rows: true classes), and the most confident mistakes."""
    images, labels = data.test
    log_probs = predict(model, images)
    predicted, classes = log_probs.argmax(1), log_probs.shape[1]
    confidence = torch.where(predicted == labels, 0, log_probs.max(1).values.exp())
    worst = [i for i in confidence.argsort(descending=True, stable=True)[:MISTAKES_KEPT].tolist() if confidence[i] > 0]
    return scores(log_probs, labels, data.task) | {
        "confusion_matrix": (labels * classes + predicted).bincount(minlength=classes**2).view(classes, -1).tolist(),
        "mistakes": [
            {
                "index": i,
                "true": labels[i].item(),
                "predicted": predicted[i].item(),
                "probability": confidence[i].item(),
            }
            for i in worst
        ],
    }


# --- saved models and prediction ---------------------------------------------------------------------


def save_model(path: Path, model: nn.Module, config: Config, data: ImageData) -> None:
    """Write the weights, with all that is needed to rebuild the network and prepare an image."""
    header = {
        "settings": config.settings(),
        "image_shape": list(data.train[0].shape[1:]),
        "class_names": list(data.class_names),
        "mean": data.mean,
        "std": data.std,
        "source": data.source,
        "digest": data.digest,
    }
    saved_models.write_weights(path, model.state_dict(), {"model": header})


def load_model(path: str | Path) -> tuple[nn.Module, dict]:
    """Read what `save_model` wrote: the network in evaluation mode, and its header.

    Raises FileNotFoundError, or ValueError for a file that is not what `save_model` writes.
    """
    weights, entries = saved_models.read_weights(path)
    try:
        header = entries.get("model")
        check_header(header)
        build = functools.partial(build_model, header["settings"], len(header["class_names"]), header["image_shape"])
        return saved_models.rebuild(build, weights), header
    except (ValueError, RuntimeError) as error:  # PyTorch's own, of a size that no layer can have
        raise ValueError(f"{path} is no checkpoint of this script: {error}") from error


def check_header(header) -> None:
    """Raise ValueError unless a network and its input can be prepared from this, which may be any JSON."""
    settings = Config().settings()
    example = {"settings": settings, "image_shape": [1], "class_names": ["0"], "mean": [0.5], "std": [0.5]}
    saved_models.check_like(header, example | {"source": "real"})
    Config(**{name: header["settings"][name] for name in settings})  # checks their ranges
    channels, *size = header["image_shape"]
    for valid, problem in (
        (header["settings"]["recipe"] in RECIPES, f"recipe is not one of {', '.join(RECIPES)}"),
        (channels in (1, 3) and len(size) == 2, "image_shape is not channels (1 or 3), height and width"),
        (all(1 <= pixels <= LARGEST_SIDE for pixels in size), f"image_shape is not from 1 to {LARGEST_SIDE} pixels"),
        (len(header["mean"]) == len(header["std"]) == channels, "mean and std are not of one number for each channel"),
        (min(header["std"]) > 0, "std is not positive"),
        (header["source"] in ("real", "synthetic"), "source is neither real nor synthetic"),
    ):
        if not valid:
            raise ValueError(problem)


def predict_files(prediction: Prediction, device: str) -> int:
    """Print the class probabilities of each picture; returns 2 if one of them could not be read.

    For people a line each, after one that names the model; for programs (`json`) a JSON object on each line, with
    `file`, and `error` or `prediction`, `probabilities` and `notes`, and the model's `checkpoint`, `dataset`, `source`.
    """
    here = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if device not in ("auto", "cpu", here.type):
        raise ValueError(f"there is no {device} device here: leave out --device, or use --device {here.type}")
    model, header = load_model(prediction.checkpoint)
    model = model.to("cpu" if device == "auto" else device)
    name, dataset, source = Path(prediction.checkpoint).name, header["settings"]["dataset"], header["source"]
    origin = {"checkpoint": name, "dataset": dataset, "source": source}
    if not prediction.json:
        print(f"{name}, trained on {dataset} ({source}); for teaching, not for medical use")
    failed = 0
    for path in command_line.find_files(prediction.images, pictures.SUFFIXES):
        try:
            answer = classify(model, header, path)
        except (OSError, ValueError) as error:
            answer, failed = {"error": getattr(error, "strerror", None) or " ".join(str(error).split())}, 2
            command_line.say(f"{path}: {answer['error']}")
        if prediction.json:
            print(json.dumps({"file": str(path), **answer, **origin}), flush=True)
        elif "error" not in answer:
            notes = f" ({'; '.join(answer['notes'])})" if answer["notes"] else ""
            ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
            print(f"{path}: {', '.join(f'{name} {probability:.3f}' for name, probability in ranked)}{notes}")
    return failed


def classify(model: nn.Module, header: dict, path: Path) -> dict:
    """The most probable class of a picture, the probability of each, and notes of how the picture was read."""
    image, notes = pictures.read_image(path, header["image_shape"])
    probabilities = predict(model, normalise_(to_pixels(image), header["mean"], header["std"]))[0].exp()
    if not probabilities.isfinite().all():
        raise ValueError("the network's output is not finite: its checkpoint is unusable")
    by_class = dict(zip(header["class_names"], probabilities.tolist(), strict=True))
    return {"prediction": max(by_class, key=by_class.get), "probabilities": by_class, "notes": notes}


# --- comparisons over seeds, learning rates and networks ---------------------------------------------


def train_side_by_side(configs: list[Config], data: ImageData) -> list[dict]:
    """Train each configuration in a one-thread process of this script, as many at a time as there are cores.

    Returns their trials, which equal those of the same commands run one by one. Raises ValueError where one fails
    otherwise than by diverging, or leaves another result than the one asked for.
    """
    jobs = {config.file(".log"): config.command() for config in configs}
    command_line.side_by_side(jobs, accepted=(0, utils.Diverged.exit_code))
    trials = []
    for config in configs:
        path = config.file(".json")
        result = records.load_result(path, *RESULT_KEYS)
        changed = records.differences(result, result_head(config, data))
        ((trial,),) = ([*model["trials"]] for model in result["models"].values())
        if changed or trial["seed"] != config.seed:
            raise ValueError(f"{path} is of a run with {records.in_words(changed) or 'another seed'}: run it again")
        trials.append(trial)
    return trials


def summarise(config: Config, trials: list[dict], data: ImageData) -> dict:
    """One network's entry in a result file: mean and deviation over its trials, and the trials themselves."""
    settings, image_shape = config.settings(), tuple(data.train[0].shape[1:])
    model = build_model(settings, len(data.class_names), image_shape)
    converged = [trial for trial in trials if trial["diverged_in_epoch"] is None]
    metrics = {}
    for part in ("validation", "test"):
        if converged and all(trial.get(part) for trial in converged):
            names = ("loss", "accuracy", "auc")
            values = {name: [trial[part][name] for trial in converged] for name in names}
            # an undefined score, null in a child's file, is NaN again
            metrics[part] = {
                name: records.mean_std([math.nan if value is None else value for value in values[name]])
                for name in names
            }
    epochs = [record["seconds"] for trial in trials for record in trial["history"]]
    return {
        "settings": {name: value for name, value in settings.items() if name != "seed"},
        "parameters": get_number_trainable_params(model),
        "multiply_adds": multiply_adds(model, image_shape),
        "training_us_per_image": 1e6 * statistics.median(epochs) / len(data.train[1]) if epochs else None,
        "inference_us_per_image": inference_time(model, data.val[0][:1000]),
        "diverged_seeds": [trial["seed"] for trial in trials if trial["diverged_in_epoch"] is not None],
        "metrics": metrics,
        "trials": trials,
    }


def inference_time(model: nn.Module, images: Tensor) -> float:
    """Microseconds per image of a forward pass on the CPU: median of five passes, one thread."""
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        predict(model, images)
        seconds.append(time.perf_counter() - start)
    return 1e6 * statistics.median(seconds[1:]) / len(images)  # the first one warms up


def majority_baseline(data: ImageData) -> dict:
    """What always answering the commonest training class gets."""
    majority = data.train[1].bincount().argmax()
    parts = {"validation": data.val[1], "test": data.test[1]}
    accuracy = {part: (labels == majority).double().mean().item() for part, labels in parts.items()}
    return {"class": data.class_names[majority], "accuracy": accuracy}


def test_saved(config: Config, trials: list[dict], data: ImageData) -> None:
    """Test the saved network of each trial, once."""
    for trial in trials:
        model, _ = load_model(dataclasses.replace(config, seed=trial["seed"]).file(".safetensors"))
        trial["test"] = test(model, data)
        if hasattr(model, "conv1"):
            trial["first_layer"] = model.conv1.weight[:, 0].tolist()


def sweep(config: Config, data: ImageData) -> dict:
    """The homework's comparison: {variant: summary}, the selected learning rate's first, `no_maxpool` second."""
    rates = [dataclasses.replace(config, learning_rate=rate) for rate in SWEEP_LEARNING_RATES]
    trials = train_side_by_side([single for rate in rates for single in one_per_seed(rate)], data)
    trials = {rate: [trials.pop(0) for _ in config.seeds] for rate in rates}
    usable = [rate for rate in rates if not any(trial["diverged_in_epoch"] for trial in trials[rate])]
    if not usable:
        raise ValueError("every learning rate of the sweep diverged: there is nothing to select")
    selected = max(usable, key=lambda rate: np.mean([trial["validation"]["accuracy"] for trial in trials[rate]]))
    no_maxpool = dataclasses.replace(selected, no_maxpool=not config.no_maxpool)
    trials[no_maxpool] = train_side_by_side(one_per_seed(no_maxpool), data)
    order = [selected, no_maxpool, *(rate for rate in rates if rate != selected)]
    if not config.no_test:
        for tested in order[:2]:
            test_saved(tested, trials[tested], data)
    return {variant.variant: summarise(variant, trials[variant], data) for variant in order}


def one_per_seed(config: Config) -> list[Config]:
    return [dataclasses.replace(config, sweep=False, seeds=(), no_test=True, seed=seed) for seed in config.seeds]


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


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file ({} in torchrun's other processes).

    `models` has an entry for each network; the first is the selected one, whose `metrics` also stand at the top.
    """
    start = time.perf_counter()
    data = load_data(config)
    head = result_head(config, data)
    writes = utils.is_main_process() and not config.dry_run
    with records.claim(config.out, head, config.overwrite) if writes else contextlib.nullcontext():
        models = sweep(config, data) if config.sweep else compare_seeds(config, data)
    if not models:
        return {}
    return head | {
        "majority_baseline": majority_baseline(data),
        "models": models,
        "metrics": next(iter(models.values()))["metrics"],
        "seconds": time.perf_counter() - start,
    }


def compare_seeds(config: Config, data: ImageData) -> dict:
    """One network, trained with one seed here or with several side by side: {variant: summary}."""
    if config.seeds:
        trials = train_side_by_side(one_per_seed(config), data)
    else:
        model, trial = train(config, data)
        trials = [trial]
        if not utils.is_main_process():
            return {}  # one process tests and reports
        if not (config.dry_run or trial["diverged_in_epoch"]):
            save_model(config.file(".safetensors"), model, config, data)
    if not (config.no_test or config.dry_run):
        test_saved(config, [trial for trial in trials if not trial["diverged_in_epoch"]], data)
    return {config.variant: summarise(config, trials, data)}


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


@functools.partial(command_line.entry_point, several_processes=True)
def main(argv: list[str] | None = None) -> int:
    config, prediction = parse_config(argv, __doc__)
    # Steps this small gain little from a second thread and lose much beside a busy neighbour; and the sums, so the
    # weights, are the same whatever the number of cores. Runs side by side use the cores instead.
    torch.set_num_threads(1)
    if prediction:
        command_line.refuse_launch("--predict")
        return predict_files(prediction, config.device)
    if config.seeds:
        command_line.refuse_launch("a comparison (--sweep, --seeds), which starts processes of its own,")
    if config.dry_run and config.seeds:
        print("would train:", *(" ".join(single.command()) for single in one_per_seed(config)), sep="\n  ")
        config = one_per_seed(config)[0]
    result = run(config)
    if not result:
        return 0
    if config.dry_run:
        print_summary(result)
        print("dry run: a short epoch on few images; nothing was written")
        return 0
    path = records.save_results(config.out, result)  # before anything else, which might fail
    plots = []
    if not config.no_test:
        with command_line.attempt(f"drawing {path}"):
            import q2_plots

            plots = q2_plots.draw(path, Path(config.out) / "plots", config.data_root)
    print_summary(result)
    print(f"results: {path}")
    if plots:
        print("plots:  ", *(plot for plot in plots if plot.suffix == ".png"), sep="\n  ")
    if all(model["diverged_seeds"] for model in result["models"].values()):
        trial = next(iter(result["models"].values()))["trials"][0]
        raise utils.Diverged(trial["diverged_in_epoch"], trial["history"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
