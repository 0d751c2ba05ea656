"""Convolutional networks on MNIST: the exercise's two, a study of what matters, and what they have over others.

python deep_features/cnn.py                        the exercise's baseline
python deep_features/cnn.py --example              the worked example: by loops, as a matrix product, by PyTorch
python deep_features/cnn.py --study published      the published figures' networks, on as many images, and on all
python deep_features/cnn.py --study factors        depth, width, kernel, pooling, activation, norm: one at a time
python deep_features/cnn.py --study best           the best network under 300,000 parameters
python deep_features/cnn.py --study pixels         a CNN and a fully connected network, pixels in order and shuffled
python deep_features/cnn.py --dataset digits       on small digits, without a download
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

from command_line import NOT_NEGATIVE, SHARE, Check, flag, within
from common.classification import inference_time, multiply_adds, predict
from common.geometry import in_each_direction
from common.shaped_cnn import ACTIVATIONS, Shape, ShapedCNN
from deep_features import classifier, convolution, study
from deep_features.classifier import schedule_flag
from deep_features.study import Settings, Study, study_flag
from image_data import ImageData, with_shuffled_pixels

SHIFTS = (0, 1, 2, 3, 4)  # pixels
AVERAGE_DECAY = 0.995  # of the moving average of the weights, per step
SIZES = Check(lambda sizes: all(0 <= size <= 4096 for size in sizes), "whole numbers from 0 to 4096")

# the exercise's second network: 901,866 parameters
LARGE = {
    "widths": (16, 32, 64, 128), "kernels": (3, 3, 3, 3), "strides": (1, 1, 1, 1), "paddings": (1, 1, 1, 1),
    "pools": (2, 4), "hidden": 128,
}  # fmt: skip
AS_PUBLISHED = {"train_size": 10_000, "test_size": 2000}
# the base of the study of factors: two blocks of two convolutions, each block ended by max-pooling
BASE = {
    "widths": (8, 8, 16, 16), "kernels": (3, 3, 3, 3), "strides": (1, 1, 1, 1), "paddings": (1, 1, 1, 1),
    "pools": (2, 4), "hidden": 64, "epochs": 6,
}  # fmt: skip
FACTORS = {
    "the base": {},
    "depth 2": {"widths": (8, 16), "kernels": (3, 3), "strides": (1, 1), "paddings": (1, 1), "pools": (1, 2)},
    "depth 6": {
        "widths": (8, 8, 8, 16, 16, 16), "kernels": (3,) * 6, "strides": (1,) * 6, "paddings": (1,) * 6,
        "pools": (3, 6),
    },
    "half the width": {"widths": (4, 4, 8, 8)},
    "twice the width": {"widths": (16, 16, 32, 32)},
    "kernels of 1": {"kernels": (1,) * 4, "paddings": (0,) * 4},
    "kernels of 5": {"kernels": (5,) * 4, "paddings": (2,) * 4},
    "strides instead of pooling": {"strides": (1, 2, 1, 2), "pools": ()},
    "mean-pooling": {"mean_pool": True},
    "tanh": {"activation": "tanh"},
    "sigmoid": {"activation": "sigmoid"},
    "GELU": {"activation": "gelu"},
    "no batch norm": {"no_batch_norm": True},
}  # fmt: skip
BEST = {
    "widths": (32, 32, 64, 64, 96), "kernels": (3,) * 5, "strides": (1,) * 5, "paddings": (1, 1, 1, 1, 0),
    "pools": (2, 4, 5), "hidden": 0, "dropout": 0.3, "schedule": "cycle", "learning_rate": 3e-3,
    "weight_decay": 0.05, "augment": True, "average": True, "epochs": 30,
}  # fmt: skip
WIDE = {"widths": (48, 48, 96, 96, 128)}
CONNECTED = {"widths": (), "kernels": (), "strides": (), "paddings": (), "hidden": 62}  # as many parameters
STUDIES = {
    "published": Study(
        "the exercise's two networks, on as many images as were published, and on all",
        {
            "49,302 parameters, 10,000 images": AS_PUBLISHED,
            "901,866 parameters, 10,000 images": AS_PUBLISHED | LARGE,
            "49,302 parameters, all images": {},
            "901,866 parameters, all images": LARGE,
        },
        tested=True,
    ),
    "factors": Study(
        "one factor at a time around one base, equal epochs",
        {name: BASE | changes for name, changes in FACTORS.items()},
    ),
    "best": Study(
        "what has fewer than 300,000 parameters: width, training longer",
        {
            "32-32-64-64-96, 30 epochs": BEST,
            "48-48-96-96-128, 30 epochs": BEST | WIDE,
            "48-48-96-96-128, 60 epochs": BEST | WIDE | {"epochs": 60},
        },
    ),
    "pixels": Study(
        "a CNN and a fully connected network of as many parameters, pixels in order and in one shuffled order",
        {
            f"{network}, {order}": changes | {"shuffle_pixels": order == "shuffled"}
            for network, changes in (("CNN", {}), ("fully connected", CONNECTED))
            for order in ("in order", "shuffled")
        },
        tested=True,
    ),
}


@dataclass(frozen=True)
class Config(Settings):
    """The flags; their defaults are the exercise's baseline, with 49,302 parameters."""

    batch_size: int = flag(100, "images per step", within(1, 100_000))
    study: str | None = study_flag(STUDIES)
    example: bool = flag(False, "print the worked example instead of training")
    widths: tuple[int, ...] = flag((16, 32, 32, 64), "channels of each convolution", SIZES)
    kernels: tuple[int, ...] = flag((3, 3, 3, 2), "sizes of their kernels", SIZES)
    strides: tuple[int, ...] = flag((2, 2, 2, 2), "their strides", SIZES)
    paddings: tuple[int, ...] = flag((1, 1, 1, 0), "their padding", SIZES)
    pools: tuple[int, ...] = flag((), "numbers of the convolutions that 2x2 pooling follows", SIZES, shown="none")
    mean_pool: bool = flag(False, "mean-pooling instead of max-pooling")
    hidden: int = flag(100, "units of a hidden layer after them (0: none)", within(0, 4096))
    activation: str = flag("relu", "relu, tanh, sigmoid or gelu", choices=tuple(ACTIVATIONS))
    no_batch_norm: bool = flag(False, "leave out batch normalisation")
    dropout: float = flag(0.0, "probability of dropping a feature before the last layer", SHARE)
    weight_decay: float = flag(0.0, "weight decay", NOT_NEGATIVE)
    schedule: str = schedule_flag()
    augment: bool = flag(False, "turn, scale and move the training images at random")
    average: bool = flag(False, "keep a moving average of the weights")
    shuffle_pixels: bool = flag(False, "one fixed permutation of the pixels of all images")

    SCRIPT: ClassVar[str] = "cnn"
    STUDIES: ClassVar[dict[str, Study]] = STUDIES

    def __post_init__(self):
        super().__post_init__()
        _ = self.shape  # raises ValueError where the flags make no network

    @property
    def shape(self) -> Shape:
        return Shape(
            self.widths, self.kernels, self.strides, self.paddings, self.pools, self.mean_pool,
            hidden=(self.hidden,) if self.hidden else (), activation=self.activation,
            batch_norm=not self.no_batch_norm, dropout=self.dropout,
        )  # fmt: skip


def build(config: Config) -> ShapedCNN:
    """Class scores (B, 10) of images (B, 1, 28, 28)."""
    return ShapedCNN(config.shape)


def train(config: Config, data: ImageData) -> tuple[nn.Module, dict]:
    """Train one network; returns it with its trial, and the accuracy on images moved by some pixels."""
    if config.shuffle_pixels:
        data = with_shuffled_pixels(data)
    model = build(config)
    trial = classifier.train(config, data, model, average_decay=AVERAGE_DECAY if config.average else None)
    if not config.all_training:
        trial["shifted_accuracy"] = [accuracy_of_moved(model, *data.val, shift) for shift in SHIFTS]
    return model, trial


def cost(model: nn.Module, images: Tensor) -> dict[str, float]:
    """What one image's forward pass takes: multiply-adds, and microseconds on one core of this processor."""
    return {
        "multiply_adds": multiply_adds(model, images.shape[1:]),
        "inference_us_per_image": inference_time(model, images),
    }


def accuracy_of_moved(model: nn.Module, images: Tensor, labels: Tensor, shift: int) -> float:
    """The share of right answers to images (N, C, H, W) moved by so many pixels, the mean over four directions."""
    copies = in_each_direction(images, shift) if shift else [images]
    right = [(predict(model, copy).argmax(1) == labels).double().mean() for copy in copies]
    return (sum(right) / len(copies)).item()


# --- the worked example ------------------------------------------------------------------------------


def show_example() -> None:
    """Print the exercise's convolutions, computed in three ways."""
    image, kernel = (torch.tensor(rows, dtype=torch.float64) for rows in (convolution.IMAGE, convolution.KERNEL))
    batch, kernels = image[None, None], kernel[None, None]
    results = {
        "by loops": convolution.by_loops(image, kernel, stride=2),
        "as one matrix product": convolution.by_matrix_product(batch, kernels, stride=2)[0, 0],
        "F.conv2d": F.conv2d(batch, kernels, stride=2)[0, 0],
    }
    print(f"X = {[list(row) for row in convolution.IMAGE]}, K = {[list(row) for row in convolution.KERNEL]}, stride 2")
    print("its windows as columns:", convolution.columns_of(batch, 2, 2)[0].int().tolist())
    for name, output in results.items():
        print(f"{name:24}{output.int().tolist()}")
    signal, weights = (torch.tensor(values) for values in (convolution.SIGNAL, convolution.FILTER))
    found = convolution.correlate(signal, weights).tolist()
    print(f"in one dimension: {list(convolution.SIGNAL)} with {list(convolution.FILTER)} gives {found}")


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file, with what each network costs."""
    result, images = study.run(config, train), study.load_data(config).val[0][:1000]
    networks = study.variants_of(config) if config.study else {}
    for name, variant in networks.items():
        result["models"][name] |= cost(build(variant), images)
    return result if networks else result | cost(build(config), images)


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    if config.example:
        show_example()
        return 0
    return study.main(config, run, classifier.print_result)


if __name__ == "__main__":
    sys.exit(main())
