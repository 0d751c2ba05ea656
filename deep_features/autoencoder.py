"""Autoencoders of MNIST: 784 pixels, a small code, 784 pixels again; the exercise's grid, and what improves on it.

python deep_features/autoencoder.py                      one autoencoder with a code of 128 units
python deep_features/autoencoder.py --study grid         batch x code x epochs, three seeds; selects, then tests
python deep_features/autoencoder.py --study improved     what depth, schedule and the code's rectifier are worth
python deep_features/autoencoder.py --study linear       linear ones approach PCA, the best that there is
python deep_features/autoencoder.py --dataset digits     on small digits, without a download

Errors are squared, means over images and pixels in [0, 1]. Letters: B batch, N images, K code.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import records
from command_line import flag, within
from common.recipes import cycle
from deep_features import study
from deep_features.published import DIVISOR, TEST_IMAGES
from deep_features.study import Settings, Study, study_flag, to_bytes
from image_data import ImageData

PIXELS = 28 * 28
BATCHES, CODES = (16, 32, 64), (32, 64, 128)
SHOWN, STEPS = 6, 8  # images that a result keeps: reconstructed ones, and those of a walk between two
RECIPE = {"linear_code": True, "cycle": True, "learning_rate": 3e-3, "hidden_dim": 256}  # the improved one
IMPROVEMENTS = {  # what it has beyond the exercise, one after another
    "as the grid's best": {},
    "and a linear code": {"linear_code": True},
    "and a cycle of the learning rate": RECIPE | {"hidden_dim": 0},
    "and hidden layers": RECIPE,
    "a code of 32, as in the grid": {"code_dim": 32},
    "a code of 32, with all of these": RECIPE | {"code_dim": 32},
}
STUDIES = {
    "grid": Study(
        "batch size x code x epochs, as the exercise asks",
        {
            f"batch {batch}, code {code}": {"batch_size": batch, "code_dim": code}
            for batch, code in itertools.product(BATCHES, CODES)
        },
        read_at=(40, 60),
    ),
    "improved": Study(
        "what the improved recipe is made of, with a code of 128 units, and its worth with one of 32", IMPROVEMENTS
    ),
    "published": Study(
        "the published figures' settings, on as many images",
        {"10,000 images": {"train_size": 10_000, "test_size": TEST_IMAGES}},
        tested=True,
    ),
    "linear": Study(
        "linear autoencoders, beside PCA",
        {f"code {code}": {"code_dim": code, "linear": True} for code in CODES},
        tested=True,
    ),
}


@dataclass(frozen=True)
class Config(Settings):
    """The flags."""

    epochs: int = flag(60, "passes over the training images", within(1, 10_000))
    study: str | None = study_flag(STUDIES)
    code_dim: int = flag(128, "units of the code", within(1, 10_000))
    hidden_dim: int = flag(0, "units of a hidden layer on both sides of the code (0: none)", within(0, 10_000))
    linear_code: bool = flag(False, "a code without a rectifier")
    linear: bool = flag(False, "no rectifier and no sigmoid either: what PCA is the optimum of")
    cycle: bool = flag(False, "a learning rate that rises, then falls to 0 as a cosine")

    SCRIPT: ClassVar[str] = "autoencoder"
    STUDIES: ClassVar[dict[str, Study]] = STUDIES
    SCORE: ClassVar[str] = "mse"
    MORE_IS_BETTER: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        if self.linear and self.hidden_dim:
            raise ValueError("--linear has no hidden layer: leave out --hidden_dim")


class Autoencoder(nn.Module):
    """sigmoid(W' relu(W x + b) + b') for pixels x in [0, 1] (eq:autoencoder).

    `hidden_dim` adds a hidden layer on both sides of the code. `linear` leaves out both functions; `linear_code` the
    rectifier alone.
    """

    def __init__(self, code_dim: int, hidden_dim: int = 0, linear_code: bool = False, linear: bool = False):
        super().__init__()
        self.encoder = nn.Sequential(*_layers(PIXELS, hidden_dim, code_dim))
        self.decoder = nn.Sequential(*_layers(code_dim, hidden_dim, PIXELS))
        self.code_activation = nn.Identity() if linear or linear_code else nn.ReLU()
        self.output_activation = nn.Identity() if linear else nn.Sigmoid()

    def encode(self, pixels: Tensor) -> Tensor:
        return self.code_activation(self.encoder(pixels))  # (B, 784) -> (B, K)

    def decode(self, codes: Tensor) -> Tensor:
        return self.output_activation(self.decoder(codes))  # (B, K) -> (B, 784)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.decode(self.encode(pixels))


def _layers(inputs: int, hidden: int, outputs: int) -> list[nn.Module]:
    if not hidden:
        return [nn.Linear(inputs, outputs)]
    return [nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs)]


def build(config: Config) -> Autoencoder:
    return Autoencoder(config.code_dim, config.hidden_dim, config.linear_code, config.linear)


# --- errors, and what they are compared with ---------------------------------------------------------


def squared_errors(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """The mean over the pixels of each image's squared error (B,)."""
    (pixels,) = batch
    return F.mse_loss(model(pixels), pixels, reduction="none").mean(1)


@torch.no_grad()
def errors_of(model: nn.Module, pixels: Tensor, batch_size: int = 2000) -> Tensor:
    """`squared_errors` of many images (N, 784), on the CPU: (N,)."""
    device = next(model.parameters()).device
    return torch.cat([squared_errors(model, (batch.to(device),)).cpu() for batch in pixels.split(batch_size)])


def as_published(errors: Tensor) -> float:
    """What the published notebooks call the mean: the sum of the errors of 1,000 images (N,), divided by 10,000."""
    return errors[:TEST_IMAGES].sum().item() / DIVISOR


def pca(train: Tensor, pixels: Tensor, code_dim: int) -> Tensor:
    """Images (N, 784) from their projections onto the principal components of `train` (M, 784).

    No linear autoencoder has a smaller error on `train` (eq:pca; Baldi and Hornik 1989).
    """
    from sklearn.decomposition import PCA  # a slow import, which most runs have no use for

    fitted = PCA(code_dim, svd_solver="covariance_eigh").fit(train.double().numpy())
    return torch.from_numpy(fitted.inverse_transform(fitted.transform(pixels.double().numpy())))


def baselines(config: Config) -> dict:
    """What needs no gradients: PCA with each size of code, and the mean image.

    For validation they are fitted to the training part, for the test to all images, as the network that is tested.
    """
    errors, shown = {}, {}
    for part, name in (("validation", "val"), ("test", "test")):
        plain = Config(dataset=config.dataset, data_root=config.data_root, all_training=part == "test")
        data = study.load_data(plain)
        train, pixels = data.pixels("train").flatten(1), data.pixels(name).flatten(1)
        errors.setdefault("mean image", {})[part] = F.mse_loss(train.mean(0).expand_as(pixels), pixels).item()
        for code in CODES:
            projected = pca(train, pixels, code)
            errors.setdefault(f"PCA, {code} components", {})[part] = F.mse_loss(projected, pixels.double()).item()
            shown.setdefault(str(code), to_bytes(projected[:SHOWN]))  # of validation images, which come first
    return {"baselines": errors, "pca_reconstructions": shown}


# --- training ----------------------------------------------------------------------------------------


def train(config: Config, data: ImageData) -> tuple[nn.Module, dict]:
    """Train one autoencoder; returns it with its trial: history, errors, units of the code that are never active."""
    model = build(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    train, validation = data.pixels("train").flatten(1), data.pixels("val").flatten(1)  # (N, 784)
    options = {}
    if config.cycle:
        steps = config.epochs * -(-len(train) // config.batch_size)
        options["scheduler"] = cycle(optimizer, steps)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"val_mse": errors_of(model, validation).mean().item(), "dead_units": dead_units(model, validation)}

    history = study.fit(config, data, model, (train,), optimizer, loss_fn=squared_errors, evaluate=evaluate, **options)
    trial = {"history": history, "dead_units": dead_units(model, train)}
    if not config.all_training:
        trial["validation"] = {"mse": errors_of(model, validation).mean().item()}
        trial["reconstructions"] = to_bytes(rebuilt(model, validation[:SHOWN]))
    if not config.no_test:
        test = data.pixels("test").flatten(1)
        errors = errors_of(model, test)
        trial |= {"test": {"mse": errors.mean().item()}, "as_published": as_published(errors)}
        trial |= pictures(model, test, errors)
    return model, trial


@torch.no_grad()
def dead_units(model: Autoencoder, pixels: Tensor) -> int:
    """How many units of the code are 0 for every image (N, 784)."""
    device = next(model.parameters()).device
    active = torch.zeros(model.encoder[-1].out_features, dtype=torch.bool)
    for batch in pixels.split(2000):
        active |= (model.encode(batch.to(device)) != 0).any(0).cpu()
    return int((~active).sum())


@torch.no_grad()
def rebuilt(model: Autoencoder, pixels: Tensor) -> Tensor:
    """A few images (N, 784) after the network, on the CPU."""
    return model(pixels.to(next(model.parameters()).device)).cpu()


@torch.no_grad()
def pictures(model: Autoencoder, test: Tensor, errors: Tensor) -> dict:
    """Test images (N, 784) that a result keeps, as bytes: those of the largest errors, and a walk between two codes."""
    worst = test[errors.topk(min(SHOWN, len(errors))).indices]
    first, last = model.encode(test[:2].to(next(model.parameters()).device))
    shares = torch.linspace(0, 1, STEPS, device=first.device)[:, None]
    codes, pixels = (((1 - shares) * a + shares * b) for a, b in ((first, last), test[:2].to(first.device)))
    return {
        "worst": {
            "mse": errors.topk(len(worst)).values.tolist(),
            "images": to_bytes(worst),
            "reconstructions": to_bytes(rebuilt(model, worst)),
        },
        "walk": {"codes": to_bytes(model.decode(codes).cpu()), "pixels": to_bytes(pixels.cpu())},
    }


# --- what was found ----------------------------------------------------------------------------------


def print_result(result: dict) -> None:
    """A line for each variant: its errors, mean and deviation over seeds."""
    print(
        f"\n{result['data']['name']}, mean squared errors in thousandths, seeds {', '.join(map(str, result['seeds']))}"
    )
    rows = {
        name: {part: {"mse": records.mean_std([error])} for part, error in errors.items()}
        for name, errors in result.get("baselines", {}).items()
    }
    rows |= {name: model["metrics"] for name, model in result.get("models", {"autoencoder": result}).items()}
    if "retrained" in result:
        rows["{variant}, {epochs} epochs, trained anew".format(**result["selected"])] = result["retrained"]["metrics"]
    for name, metrics in rows.items():
        cells = [f"{part} {records.spread(scores['mse'], 1000, 2)}" for part, scores in metrics.items()]
        print(f"  {name:45} {', '.join(cells)}")


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    result = study.run(config, train) | {"images": to_bytes(study.load_data(config).pixels("val").flatten(1)[:SHOWN])}
    return result | baselines(config) if config.study in ("grid", "linear") else result


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, print_result)


if __name__ == "__main__":
    sys.exit(main())
