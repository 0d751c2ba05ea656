"""Question 2: a small CNN for retinal OCT images, with max-pooling and without.

python hw2-q2.py                                 one training run on OCTMNIST, with the homework's settings
python hw2-q2.py --no_maxpool                    the same network with strided convolutions for pooling
python hw2-q2.py --sweep                         the homework: three learning rates x three seeds, then no_maxpool
python hw2-q2.py --shift                         after that: what the networks make of shifted images
python hw2-q2.py --dataset synthetic-oct         the same on synthetic scans: nothing to download
python hw2-q2.py --predict scan.png --checkpoint checkpoints/pneumoniamnist-strong.safetensors
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import contextlib
import dataclasses
import functools
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import records
import utils
from common import strong
from common.classification import (
    confident_mistakes,
    confusion_matrix,
    get_number_trainable_params,
    majority_baseline,
    predict,
    scores,
)
from common.recipes import adamw
from image_data import PARTS, ImageData, load_images, with_course_test_split
from q2 import saved, shift
from q2.comparison import one_per_seed, print_summary, result_head, summarise, sweep, train_side_by_side
from q2.config import Config, parse_config

__all__ = ["CNN", "get_number_trainable_params"]
MISTAKES_KEPT = 12


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


# --- data, network, optimiser ------------------------------------------------------------------------


def load_data(config: Config) -> ImageData:
    data = load_images(config.dataset, config.data_root, strict_checksum=config.strict_checksum)
    if config.course_test_split:
        data = with_course_test_split(data)
    if config.dry_run:
        few = {part: tuple(t[: 10 * config.batch_size] for t in getattr(data, part)) for part in PARTS}
        data = dataclasses.replace(data, **few)
    return data


def build_model(settings: dict, num_classes: int, image_shape: tuple[int, ...]) -> nn.Module:
    """The homework's network (224,892 parameters for four classes, eq:parameters), or the strong recipe's."""
    if settings["recipe"] == "strong":
        model = strong.StrongCNN(num_classes, image_shape[0], settings["dropout"])
        return model.to(memory_format=torch.channels_last)
    return CNN(settings["dropout"], settings["no_maxpool"], num_classes, image_shape)


def build_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    if config.recipe == "strong":
        return adamw(model, config.learning_rate, config.l2_decay)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.optimizer]
    return kind(model.parameters(), lr=config.learning_rate, weight_decay=config.l2_decay, fused=True)


# --- training and test -------------------------------------------------------------------------------


def nll_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.nll_loss(model(images), labels, reduction="none")  # (B,)


def train(config: Config, data: ImageData) -> tuple[nn.Module, dict]:
    """Train one network; returns it with its trial: seed, history, validation scores, or where it diverged."""
    utils.configure_seed(config.seed)
    # PyTorch's plain convolutions beat oneDNN's for the homework's few channels and images a step
    torch.backends.mkldnn.enabled = config.recipe == "strong"
    settings = config.settings()
    model = build_model(settings, len(data.class_names), tuple(data.train[0].shape[1:]))
    optimizer = build_optimizer(config, model)
    images, labels = data.val

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {f"val_{name}": value for name, value in scores(predict(model, images), labels, data.task).items()}

    batches = utils.Batches(data.train, config.batch_size, config.seed)
    options = {"loss_fn": nll_losses}
    if config.recipe == "strong":
        steps = len(batches) * config.epochs
        options = strong.fit_options(optimizer, steps, data.train[1], data.mean, data.std)
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
    return scores(log_probs, labels, data.task) | {
        "confusion_matrix": confusion_matrix(log_probs, labels),
        "mistakes": confident_mistakes(log_probs, labels, MISTAKES_KEPT),
    }


load_model = functools.partial(saved.load_model, build_model=build_model)


def test_saved(config: Config, trials: list[dict], data: ImageData) -> None:
    """Test the saved network of each trial that has not diverged, once."""
    for trial in trials:
        if trial["diverged_in_epoch"] is None:
            model, _ = load_model(dataclasses.replace(config, seed=trial["seed"]).file(".safetensors"))
            trial["test"] = test(model, data)
            if hasattr(model, "conv1"):
                trial["first_layer"] = model.conv1.weight[:, 0].tolist()


# --- one run, or a comparison of several -------------------------------------------------------------


def train_networks(config: Config, data: ImageData) -> tuple[dict[Config, list[dict]], list[Config]]:
    """The trials of each network that the flags ask for, trained here or side by side, and the networks to test."""
    if config.sweep:
        return sweep(config, data)
    if config.seeds:
        return {config: train_side_by_side(one_per_seed(config), data)}, [config]
    model, trial = train(config, data)
    if utils.is_main_process() and not (config.dry_run or trial["diverged_in_epoch"]):
        saved.save_model(config.file(".safetensors"), model, config, data)
    return {config: [trial]}, [config]


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file ({} in torchrun's other processes).

    `models` has an entry for each network; the first is the selected one, whose `metrics` also stand at the top.
    """
    start = time.perf_counter()
    data = load_data(config)
    head = result_head(config, data)
    writes = utils.is_main_process() and not config.dry_run
    with records.claim(config.out, head, config.overwrite) if writes else contextlib.nullcontext():
        trials, tested = train_networks(config, data)
        if not utils.is_main_process():
            return {}  # one process tests and reports
        if not (config.no_test or config.dry_run):
            for network in tested:
                test_saved(network, trials[network], data)
    models = {}
    for network, its_trials in trials.items():
        model = build_model(network.settings(), len(data.class_names), tuple(data.train[0].shape[1:]))
        models[network.variant] = summarise(model, network, its_trials, data)
    return head | {
        "majority_baseline": majority_baseline(data),
        "models": models,
        "metrics": next(iter(models.values()))["metrics"],
        "seconds": time.perf_counter() - start,
    }


def show(config: Config, result: dict) -> None:
    """Save a result, draw it and print it. Raises Diverged where every network did."""
    path = records.save_results(config.out, result)  # before anything else, which might fail
    drawn = []
    if not config.no_test:
        with command_line.attempt(f"drawing {path}"):
            from q2 import plots

            drawn = plots.draw([path], Path(config.out) / "plots", config.data_root)
    print_summary(result)
    print(f"results: {path}")
    if drawn:
        print("plots:  ", *(plot for plot in drawn if plot.suffix == ".png"), sep="\n  ")
    if all(model["diverged_seeds"] for model in result["models"].values()):
        trial = next(iter(result["models"].values()))["trials"][0]
        raise utils.Diverged(trial["diverged_in_epoch"], trial["history"])


@functools.partial(command_line.entry_point, several_processes=True)
def main(argv: list[str] | None = None) -> int:
    config, prediction = parse_config(argv, __doc__)
    # Steps this small gain little from a second thread and lose much beside a busy neighbour; and the sums, so the
    # weights, are the same whatever the number of cores. Runs side by side use the cores instead.
    torch.set_num_threads(1)
    if prediction:
        command_line.refuse_launch("--predict")
        return saved.predict_files(prediction, config.device, build_model)
    if config.shift:
        command_line.refuse_launch("--shift")
        return shift.show(config, load_model)
    if config.seeds:
        command_line.refuse_launch("a comparison (--sweep, --seeds), which starts processes of its own,")
    if config.dry_run and config.seeds:
        print("would train:", *(" ".join(single.command()) for single in one_per_seed(config)), sep="\n  ")
        config = one_per_seed(config)[0]
    result = run(config)
    if result and config.dry_run:
        print_summary(result)
        print("dry run: a short epoch on few images; nothing was written")
    elif result:
        show(config, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
