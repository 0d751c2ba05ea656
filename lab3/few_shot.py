"""Lab 3: digits from a few examples: does it pay to train a network in episodes, on the task that it will be tested on?

python lab3/few_shot.py                                            prototypes of scikit-learn's digits
python lab3/few_shot.py --method classifier --dataset mnist --data_root DATA
python lab3/few_shot.py --study rates                              step sizes, by validation on the training classes
python lab3/few_shot.py --study shots                              all methods, by the number of examples

Half of the classes, drawn by the seed, are for training, the others for the test alone: a network meets them only in
test episodes, of a few labelled images of each class, the support, and of others to be classified, the queries. There
are no turned images as further classes, as in Snell et al. 2017: a 6 that stands on its head would be a 9.

Letters: B batch, C channels, S the images' size, W classes of an episode, K support images of each, Q queries of each,
D features, E episodes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import records
import utils
from command_line import COUNT, POSITIVE, flag, within
from common.classification import get_number_trainable_params, predict
from common.recipes import adamw, cycle
from image_data import ImageData, load_images
from lab3 import board, few_shot_plots, study
from lab3.study import Settings, varied
from lab3.vision_networks import conv_bn

QUERIES = {"digits": 10, "mnist": 15}  # of each class in an episode; scikit-learn's test set has 21 of a digit
METHODS = ("prototypes", "classifier", "untrained", "pixels")
WAYS = 5  # classes of an episode: all that are for training, or all that are not
SHOTS = (1, 5, 10)  # support images of each class in a test
WIDTH, BLOCKS = 32, 4  # channels, and halvings of an image: 28 pixels become one
EPISODES = 100  # to train on in an epoch
TESTED = 600  # episodes of a test
TEST_SEED = 1  # tells their seed from that of the classes
WEIGHT_DECAY = 0.05
TRIED = (3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Config(Settings):
    """The flags."""

    dataset: str = flag("digits", "digits or mnist", choices=tuple(QUERIES))
    study: str | None = flag(None, "several: rates or shots", choices=("rates", "shots"), metavar="NAME")
    method: str = flag("prototypes", "where features come from: " + ", ".join(METHODS), choices=METHODS)
    shots: int = flag(5, "support images of each class in a training episode", within(1, 50))
    epochs: int = flag(5, f"times {EPISODES} training episodes", COUNT)
    learning_rate: float = flag(1e-3, "largest step size of AdamW", POSITIVE)
    no_test: bool = flag(False, "leave the test images alone")

    SCRIPT: ClassVar[str] = "few_shot"


# --- classes and episodes ----------------------------------------------------------------------------


def classes_of(seed: int, num_classes: int) -> tuple[list[int], list[int]]:
    """The classes that a seed draws to train on, and the others."""
    order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[:WAYS]), sorted(order[WAYS:])


def restricted(part: tuple[Tensor, Tensor], classes: list[int]) -> tuple[Tensor, Tensor]:
    """The images of some classes, labelled from 0 in their order."""
    images, labels = part
    matches = labels[:, None] == torch.tensor(classes)  # (N, W)
    chosen = matches.any(1)
    return images[chosen], matches[chosen].int().argmax(1)


def draw_episodes(labels: Tensor, count: int, images: int, seed: int) -> Tensor:
    """The places (E, W, images) of so many images of each class in each episode, none of them twice in one.

    Raises ValueError where a class has too few.
    """
    fewest = int(labels.bincount().min())
    if images > fewest:
        raise ValueError(f"an episode takes {images} images of each class, but one has {fewest}: lower --shots")
    generator, columns = torch.Generator().manual_seed(seed), []
    for kind in labels.unique():
        places = (labels == kind).nonzero().flatten()
        order = torch.rand(count, len(places), generator=generator).argsort(1)[:, :images]  # (E, images)
        columns.append(places[order])
    return torch.stack(columns, 1)


class Episodes:
    """The batches of `utils.fit`: images (W, K + Q, C, S, S) and labels (W, K + Q) of one episode each."""

    def __init__(self, part: tuple[Tensor, Tensor], images: int, seed: int):
        self.part, self.images, self.seed = part, images, seed

    def __len__(self) -> int:
        return EPISODES

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.part
        for places in draw_episodes(labels, EPISODES, self.images, utils.derived_seed(self.seed, epoch)):
            yield images[places], labels[places]


# --- what is learnt ----------------------------------------------------------------------------------


def prototype_log_probs(support: Tensor, queries: Tensor) -> Tensor:
    """Log-probabilities (N, W) of queries (N, D): a softmax of minus the squared distances to the classes' means.

    The means of `support` (W, K, D) are the prototypes of Snell et al. 2017.
    """
    prototypes = support.mean(1)  # (W, D)
    # the differences themselves: a float32 matrix product would lose the small distances of large features
    squared = (queries[:, None] - prototypes).square().sum(-1)  # (N, W)
    return (-squared).log_softmax(1)


def prototype_losses(model: nn.Module, batch: tuple[Tensor, Tensor], shots: int) -> Tensor:
    """Cross-entropy (W Q,) of an episode's queries."""
    images, labels = batch
    features = model(images.flatten(0, 1)).unflatten(0, labels.shape)  # (W, K + Q, D)
    log_probs = prototype_log_probs(features[:, :shots], features[:, shots:].flatten(0, 1))  # (W Q, W)
    return F.nll_loss(log_probs, labels[:, shots:].flatten(), reduction="none")


def classifier_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy (W (K + Q),) of all images of an episode, as of a batch like any other."""
    images, labels = batch
    return F.cross_entropy(model(images.flatten(0, 1)), labels.flatten(), reduction="none")


def embedding(channels: int) -> nn.Sequential:
    """Features (B, D) of images (B, C, S, S), by the four blocks of Snell et al. 2017, with half their channels."""
    layers, inputs = [], channels
    for _ in range(BLOCKS):
        layers += [conv_bn(inputs, WIDTH, 3), nn.ReLU(), nn.MaxPool2d(2)]
        inputs = WIDTH
    return nn.Sequential(*layers, nn.Flatten()).to(memory_format=torch.channels_last)


def fit(config: Config, model: nn.Module, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> list[dict]:
    """Train on the same episodes, image by image, by either method; returns the history."""
    episodes = Episodes(train, config.shots + QUERIES[config.dataset], config.seed)
    optimizer = adamw(model, config.learning_rate, WEIGHT_DECAY)

    def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if config.method == "classifier":
            return classifier_losses(model, batch)
        return prototype_losses(model, batch, config.shots)

    def evaluate(model: nn.Module) -> dict[str, float]:
        features = predict(model[0] if config.method == "classifier" else model, val[0])
        return {"val_accuracy": accuracies(features, val[1], config, EPISODES)["nearest_mean"][SHOTS[-1]]}

    return utils.fit(
        model, episodes, optimizer, loss_fn=losses, evaluate=evaluate, epochs=config.epochs, seed=config.seed,
        scheduler=cycle(optimizer, config.epochs * EPISODES), device=config.device, tensorboard=board.folder(config),
    )  # fmt: skip


# --- evaluation --------------------------------------------------------------------------------------


def nearest_mean(support: Tensor, queries: Tensor) -> Tensor:
    """The class (N,) whose prototype is nearest to each query (N, D), with `support` (W, K, D)."""
    return prototype_log_probs(support, queries).argmax(1)


def nearest_neighbour(support: Tensor, queries: Tensor) -> Tensor:
    """The class (N,) of the support image (W, K, D) that is nearest to each query (N, D)."""
    nearest = torch.cdist(queries, support.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    return nearest // support.shape[1]


RULES = {"nearest_mean": nearest_mean, "nearest_neighbour": nearest_neighbour}


def accuracies(features: Tensor, labels: Tensor, config: Config, count: int) -> dict[str, dict[int, float]]:
    """The share of queries that each rule classifies rightly, by the number of shots, over the seed's test episodes.

    The episodes are those of every method, and every number of shots has the same queries.
    """
    queries, most = QUERIES[config.dataset], max(SHOTS)
    episodes = draw_episodes(labels, count, queries + most, utils.derived_seed(config.seed, TEST_SEED))
    truth = labels.unique().repeat_interleave(queries)  # (W Q,)
    right = {name: dict.fromkeys(SHOTS, 0) for name in RULES}
    for places in episodes:
        asked, shown = features[places].split([queries, most], 1)  # (W, Q, D), (W, K, D)
        for name, rule in RULES.items():
            for shots in SHOTS:
                right[name][shots] += int((rule(shown[:, :shots], asked.flatten(0, 1)) == truth).sum())
    return {
        name: {shots: number / (count * len(truth)) for shots, number in found.items()} for name, found in right.items()
    }


def scores(config: Config, embed: nn.Module, images: Tensor, labels: Tensor) -> dict[str, dict]:
    """The accuracy of each rule with each number of shots, as the metrics of a result."""
    features = images.flatten(1) if config.method == "pixels" else predict(embed, images)  # (N, D)
    return {
        f"{rule}_{shots}": records.mean_std([share])
        for rule, found in accuracies(features, labels, config, TESTED).items()
        for shots, share in found.items()
    }


def train(config: Config, data: ImageData) -> dict:
    """Train one network, if there is one to train, and test its features; the body of its result."""
    utils.configure_seed(config.seed)
    seen, unseen = classes_of(config.seed, len(data.class_names))
    val, history, trained = restricted(data.val, seen), [], 0
    embed = embedding(data.train[0].shape[1])
    if config.method in ("prototypes", "classifier"):
        model = nn.Sequential(embed, nn.Linear(WIDTH, WAYS)) if config.method == "classifier" else embed
        history, trained = fit(config, model, restricted(data.train, seen), val), get_number_trainable_params(model)
    parts = {"validation": val} | ({} if config.no_test else {"test": restricted(data.test, unseen)})
    return {
        "parameters": trained,
        "classes": {"train": seen, "test": unseen},
        "history": history,
        "metrics": {part: scores(config, embed, *images) for part, images in parts.items()},
        "chance": 1 / WAYS,
    }


# --- studies -----------------------------------------------------------------------------------------

CONTENDERS = {  # the names of the study's models: the method of the features, and the rule of the decision
    "prototypes": ("prototypes", "nearest_mean"),
    "classifier, nearest mean": ("classifier", "nearest_mean"),
    "classifier, nearest neighbour": ("classifier", "nearest_neighbour"),
    "untrained, nearest mean": ("untrained", "nearest_mean"),
    "pixels, nearest mean": ("pixels", "nearest_mean"),
}


def compare(config: Config, described: dict) -> dict:
    """Train every variant with its seeds, side by side; the body of the study's result."""
    if config.study == "rates":
        changes = {
            f"{method}, {rate:g}": {"method": method, "learning_rate": rate, "no_test": True}
            for method in ("prototypes", "classifier")
            for rate in TRIED
        }
        keys, contenders = ("metrics.validation:dict",), {name: (name, "nearest_mean") for name in changes}
    else:
        changes = {method: {"method": method} for method in METHODS}
        keys, contenders = ("metrics.test:dict",), CONTENDERS
    trials = study.train_all(varied(config, changes), lambda single: described, ("seconds:number", *keys))
    body = {
        "models": {name: summary(trials[method], rule) for name, (method, rule) in contenders.items()},
        "classes": [trial["classes"] for trial in next(iter(trials.values()))],
        "chance": 1 / WAYS,
        "seconds": sum(trial["seconds"] for group in trials.values() for trial in group),
    }
    return body if config.study == "rates" else body | {"differences": differences(body["models"])}


def summary(trials: list[dict], rule: str) -> dict:
    """One contender: accuracies by the number of shots, means and deviations over the seeds."""
    metrics = study.over_seeds(trials)
    return {
        "settings": trials[0]["config"],
        "rule": rule,
        "seeds": [trial["seeds"][0] for trial in trials],
        "parameters": trials[0]["parameters"],
        "metrics": {part: {str(n): found[f"{rule}_{n}"] for n in SHOTS} for part, found in metrics.items()},
        "history": [trial["history"] for trial in trials],
        "seconds": records.mean_std([trial["seconds"] for trial in trials]),
    }


def differences(models: dict[str, dict]) -> dict[str, dict]:
    """By how much prototypes are better than each other contender in the test, seed by seed: each has its classes."""
    (_, best), *others = models.items()
    values = lambda model, shots: model["metrics"]["test"][shots]["values"]  # noqa: E731
    return {
        name: {
            shots: records.mean_std([a - b for a, b in zip(values(best, shots), values(model, shots), strict=True)])
            for shots in best["metrics"]["test"]
        }
        for name, model in others
    }


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start = time.perf_counter()
    data = load_images(config.dataset, config.data_root)
    head = config.head(data.describe())
    with records.claim(config.out, head, config.overwrite):
        body = compare(config, head["data"]) if config.study else train(config, data)
    return head | {"seconds": time.perf_counter() - start} | body


def print_result(result: dict) -> None:
    print(f"\n{few_shot_plots.title(result)}; accuracy in %, by examples of each class")
    for name, metrics in few_shot_plots.lines(result).items():
        for part, by_shots in metrics.items():
            cells = [f"{shots}: {records.spread(accuracy, 100)}" for shots, accuracy in by_shots.items()]
            print(f"  {name:31}{part:12}{', '.join(cells)}")
    for name, by_shots in result.get("differences", {}).items():
        cells = [f"{shots}: {records.spread(difference, 100)}" for shots, difference in by_shots.items()]
        print(f"  prototypes less {name:31}{', '.join(cells)} points, seed by seed")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, print_result, few_shot_plots.draw)


if __name__ == "__main__":
    sys.exit(main())
