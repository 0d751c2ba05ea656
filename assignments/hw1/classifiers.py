"""The classifiers whose inputs Homework 1 optimises, each with a second one that is never optimised against.

Letters: C channels, H and W an image's size, K classes.
"""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import utils
from common import pretrained
from common.classification import predict
from common.geometry import jitter

# of each model the one that is not optimised against
SECOND = {
    "digits": "digits_wide",
    "efficientnet_lite0": "efficientnet_lite2",
    "vgg13_bn": "resnet18",
}
MODELS = tuple(SECOND)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIGIT_EPOCHS = 12


@dataclass(frozen=True)
class Classifier:
    """A trained network in evaluation mode, frozen, with the images that it takes: (1, C, size, size) in [0, 1].

    `mean` and `std`, one for each channel, standardise them before the network sees them.
    """

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    class_names: tuple[str, ...]
    layers: tuple[str, ...] = ()  # some in the middle of the network, from its input on

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Of each class (N, K), for images (N, C, H, W) of any size, as 8-bit files hold them."""
        pixels = images.clamp(0, 1).mul(255).round() / 255
        if pixels.shape[-2:] != (self.size, self.size):
            pixels = F.interpolate(pixels, size=(self.size, self.size), mode="bilinear", antialias=True)
        mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return self.network((pixels - mean) / std).softmax(1)


def load(name: str, seed: int = 0) -> Classifier:
    """A model of MODELS, or the second one of any of them; networks for digits are trained now, from `seed`.

    Raises ValueError or FileNotFoundError where packages or weights are missing.
    """
    if name.startswith("digits"):
        classifier = digits(name, seed)
    elif name.startswith("efficientnet"):
        classifier = efficientnet(name)
    else:
        classifier = from_torchvision(name)
    classifier.network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # faster on CPUs
    return classifier


# --- handwritten digits ------------------------------------------------------------------------------


def small_cnn() -> nn.Module:
    """Three convolutions with batch normalisation, and an affine layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 10))


def wide_cnn() -> nn.Module:
    """Two convolutions of 5x5 with pooling and two affine layers, as LeNet has them (LeCun et al. 1998)."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.Tanh(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 5), nn.Tanh(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 5 * 5, 64), nn.Tanh(), nn.Linear(64, 10),
    )  # fmt: skip


DIGIT_LAYERS = ("2", "5", "8")  # of `small_cnn`, the three ReLUs
DIGIT_NETWORKS: dict[str, Callable[[], nn.Module]] = {"digits": small_cnn, "digits_wide": wide_cnn}


def digits(name: str, seed: int) -> Classifier:
    """A network that is trained on scikit-learn's digits, moved and turned a little, in a few seconds."""
    data = utils.load_images("digits")
    utils.configure_seed(seed)
    network = DIGIT_NETWORKS[name]()
    utils.fit(
        network, utils.Batches(data.train, 32, seed), torch.optim.Adam(network.parameters(), lr=2e-3),
        loss_fn=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="none"),
        evaluate=lambda model: {"val_accuracy": (predict(model, data.val[0]).argmax(1) == data.val[1]).double().mean()},
        augment=lambda batch: (jitter(batch[0]), batch[1]), epochs=DIGIT_EPOCHS, seed=seed, device="cpu",
    )  # fmt: skip
    return Classifier(network, data.mean, data.std, data.pixels("test").shape[-1], data.class_names, DIGIT_LAYERS)


# --- ImageNet ----------------------------------------------------------------------------------------


def imagenet_classes() -> tuple[str, ...]:
    from torchvision.models import VGG13_BN_Weights

    return tuple(VGG13_BN_Weights.IMAGENET1K_V1.meta["categories"])


def efficientnet(name: str) -> Classifier:
    network = pretrained.efficientnet(name)
    size = network.default_cfg["input_size"][-1]
    return Classifier(network, (0.5,) * 3, (0.5,) * 3, size, imagenet_classes(), ("blocks.1", "blocks.3", "blocks.5"))


def from_torchvision(name: str) -> Classifier:
    """A network of torchvision, whose weights are downloaded once. Raises FileNotFoundError without a network."""
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(name).IMAGENET1K_V1
    network = get_model(name)
    try:
        network.load_state_dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except urllib.error.URLError as error:
        size = f"{weights.meta['_file_size']:.0f} MB"
        raise FileNotFoundError(
            f"{weights.url} ({size}) can't be fetched ({error.reason}): use --model efficientnet_lite0 or digits"
        ) from None
    layers = ("features.10", "features.20", "features.30") if name == "vgg13_bn" else ()
    return Classifier(network, IMAGENET_MEAN, IMAGENET_STD, 224, imagenet_classes(), layers)
