"""Stacked autoencoders: layers trained one by one without labels, then a classifier, then all of it together.

python deep_features/stacked_autoencoder.py                      the default recipe: rectifiers, Adam, noise
python deep_features/stacked_autoencoder.py --study published    the exercise's settings
python deep_features/stacked_autoencoder.py --study sizes        do other numbers and sizes of layers do better?
python deep_features/stacked_autoencoder.py --study labels       what pre-training is worth with few labels and many
python deep_features/stacked_autoencoder.py --dataset digits     on small digits, without a download

Each layer is the encoder of an autoencoder of the codes below it (Bengio et al. 2007), which stay as they are. Letters:
B batch, N images, I and O inputs and outputs of a layer.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from command_line import POSITIVE, SHARE, Check, flag, within
from common.classification import confusion_matrix, predict
from deep_features import classifier, study
from deep_features.classifier import schedule_flag
from deep_features.study import Settings, Study, study_flag
from image_data import ImageData

ACTIVATIONS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}
EXERCISE = {
    "activation": "sigmoid", "optimizer": "sgd", "pretraining_rate": 0.1, "learning_rate": 1.0, "noise": 0.0,
    "dropout": 0.0, "schedule": "constant", "batch_size": 64, "pretraining_epochs": 60, "epochs": 60,
    "train_size": 6000, "test_size": 1000,
}  # fmt: skip
LABELS = {100: 300, 1000: 150, 10_000: 60, 0: 30}  # labelled images (0: all), and epochs, so that steps do not get few
STUDIES = {
    "published": Study(
        "the exercise's settings",
        {
            "784-256-64-10": EXERCISE | {"layers": (256, 64)},
            "784-128-64-10": EXERCISE | {"layers": (128, 64)},
        },
        tested=True,
    ),
    "sizes": Study(
        "numbers and sizes of layers",
        {
            "-".join(map(str, (784, *layers, 10))): {"layers": layers}
            for layers in ((64,), (256, 64), (512, 256), (512, 256, 128), (1000, 500), (1000, 500, 250))
        },
    ),
    "labels": Study(
        "with and without pre-training, by the number of labels",
        {
            f"{count or 'all'} labels, {what}": {
                "labels": count, "epochs": epochs, "no_pretraining": not pretrained, "all_training": True
            }
            for count, epochs in LABELS.items()
            for what, pretrained in (("pre-trained", True), ("from random weights", False))
        },
        tested=True,
    ),
}  # fmt: skip
LAYERS = Check(lambda sizes: 0 < len(sizes) <= 10 and all(1 <= n <= 10_000 for n in sizes), "sizes from 1 to 10000")


@dataclass(frozen=True)
class Config(Settings):
    """The flags."""

    epochs: int = flag(30, "passes over the labelled images: of the classifier, and of all layers", within(1, 10_000))
    batch_size: int = flag(128, "images per step", within(1, 100_000))
    learning_rate: float = flag(2e-3, "step size of the classifier, and of all layers", POSITIVE)
    study: str | None = study_flag(STUDIES)
    layers: tuple[int, ...] = flag((512, 256), "units of each layer", LAYERS)
    activation: str = flag("relu", "sigmoid or relu", choices=tuple(ACTIVATIONS))
    optimizer: str = flag("adam", "sgd or adam", choices=("sgd", "adam"))
    pretraining_epochs: int = flag(15, "passes over all training images for each layer", within(1, 10_000))
    pretraining_rate: float = flag(1e-3, "step size of pre-training", POSITIVE)
    noise: float = flag(0.25, "share of an autoencoder's inputs that are set to 0 while it learns", SHARE)
    dropout: float = flag(0.3, "probability of dropping a unit while all layers are trained", SHARE)
    schedule: str = schedule_flag("cycle")
    labels: int = flag(0, "use the labels of the first LABELS training images only", within(0, 60_000), shown="all")
    no_pretraining: bool = flag(False, "train all layers from random weights")

    SCRIPT: ClassVar[str] = "stacked_autoencoder"
    STUDIES: ClassVar[dict[str, Study]] = STUDIES


class StackedAutoencoder(nn.Module):
    """Encoders on top of each other, and a softmax classifier: class scores (B, 10) of images (B, 1, 28, 28)."""

    def __init__(self, layers: tuple[int, ...], activation: str = "relu", dropout: float = 0.0):
        super().__init__()
        sizes = (784, *layers)
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, outputs), ACTIVATIONS[activation]())
            for inputs, outputs in zip(sizes, layers, strict=False)
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(layers[-1], 10)

    def codes(self, pixels: Tensor, depth: int) -> Tensor:
        """The codes of the first `depth` layers of pixels (B, 784)."""
        for encoder in self.encoders[:depth]:
            pixels = encoder(pixels)
        return pixels

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.flatten(1)
        for encoder in self.encoders:
            x = self.dropout(encoder(x))  # (B, O)
        return self.classifier(x)


class LayerAutoencoder(nn.Module):
    """One encoder, with a decoder of its own: inputs (B, I) -> their reconstruction (B, I).

    Inputs that lie in [0, 1] are decoded by a sigmoid, others by an affine function alone.
    """

    def __init__(self, encoder: nn.Sequential, bounded: bool):
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.Linear(encoder[0].out_features, encoder[0].in_features)
        self.bounded = bounded

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.decoder(self.encoder(inputs))
        return outputs.sigmoid() if self.bounded else outputs


# --- the phases --------------------------------------------------------------------------------------


def build_optimizer(config: Config, model: nn.Module, rate: float) -> torch.optim.Optimizer:
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.optimizer]
    return kind((p for p in model.parameters() if p.requires_grad), lr=rate, fused=True)


@torch.no_grad()
def codes_of(model: StackedAutoencoder, pixels: Tensor, depth: int) -> Tensor:
    """The codes of `depth` layers of many images (N, 784), on the CPU."""
    device = next(model.parameters()).device
    return torch.cat([model.codes(batch.to(device), depth).cpu() for batch in pixels.split(2000)])


def pretrain(config: Config, data: ImageData, model: StackedAutoencoder, pixels: Tensor) -> list[list[dict]]:
    """Train each layer as an autoencoder of the codes below it (N, I), from the bottom up; returns the histories."""
    histories = []
    for depth, encoder in enumerate(model.encoders):
        inputs = codes_of(model, pixels, depth)
        layer = LayerAutoencoder(encoder, bounded=depth == 0 or config.activation == "sigmoid")

        def reconstruction(layer: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            (clean,) = batch
            kept = torch.rand_like(clean) >= config.noise  # denoising (Vincent et al. 2010)
            return F.mse_loss(layer(clean * kept), clean, reduction="none").mean(1)  # (B,)

        histories.append(
            study.fit(
                config, data, layer, (inputs,), build_optimizer(config, layer, config.pretraining_rate),
                loss_fn=reconstruction, evaluate=lambda layer: {}, phase=f"-layer{depth + 1}",
                epochs=config.pretraining_epochs,
            )
        )  # fmt: skip
    return histories


def train_classifier(
    config: Config, data: ImageData, model: StackedAutoencoder, labelled: tuple[Tensor, Tensor]
) -> None:
    """Train the classifier alone, on the top codes, which stay as they are."""
    pixels, labels = labelled
    codes = codes_of(model, pixels, len(model.encoders))
    optimizer = build_optimizer(config, model.classifier, config.learning_rate)
    study.fit(
        config, data, model.classifier, (codes, labels), optimizer, loss_fn=classifier.cross_entropies,
        evaluate=lambda model: {}, phase="-classifier",
    )  # fmt: skip


def train(config: Config, data: ImageData) -> tuple[nn.Module, dict]:
    """All phases; returns the network with its trial: accuracies before and after the last, spread of the codes."""
    model = StackedAutoencoder(config.layers, config.activation, config.dropout)
    parts = {part: (data.pixels(part).flatten(1), getattr(data, part)[1]) for part in ("train", "val", "test")}
    labelled = tuple(tensor[: config.labels or None] for tensor in parts["train"])
    scored = {"validation": parts["val"]} if not config.all_training else {}
    scored |= {} if config.no_test else {"test": parts["test"]}
    trial = {"pretraining": [] if config.no_pretraining else pretrain(config, data, model, parts["train"][0])}
    trial["code_deviation"] = [deviation(model, parts["train"][0], depth + 1) for depth in range(len(config.layers))]
    before = {}
    if not config.no_pretraining:
        train_classifier(config, data, model, labelled)
        before = {part: classifier.scores(model, *images)["accuracy"] for part, images in scored.items()}

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {f"val_{name}": value for name, value in classifier.scores(model, *parts["val"]).items()}

    optimizer = build_optimizer(config, model, config.learning_rate)
    steps = -(-len(labelled[0]) // config.batch_size)
    trial["history"] = study.fit(
        config, data, model, labelled, optimizer, loss_fn=classifier.cross_entropies, evaluate=evaluate,
        scheduler=classifier.scheduler(config.schedule, optimizer, steps, config.epochs),
    )  # fmt: skip
    for part, images in scored.items():
        trial[part] = classifier.scores(model, *images) | ({"before": before[part]} if before else {})
    if "test" in scored:
        trial["confusion_matrix"] = confusion_matrix(predict(model, parts["test"][0]), parts["test"][1])
    return model, trial


def deviation(model: StackedAutoencoder, pixels: Tensor, depth: int) -> float:
    """How much the codes of `depth` layers vary over images (N, 784): the standard deviation of a unit, their mean."""
    return codes_of(model, pixels, depth).std(0).mean().item()


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    return study.run(config, train)


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, classifier.print_result)


if __name__ == "__main__":
    sys.exit(main())
