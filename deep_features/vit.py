"""A Vision Transformer on MNIST: the exercise's seven configurations, and better recipes.

python deep_features/vit.py                          the exercise's base configuration
python deep_features/vit.py --study seven            its seven configurations, beside the published accuracies
python deep_features/vit.py --study scale            what the exercise's wrong scale of the scores costs
python deep_features/vit.py --study recipe           a better recipe within the base's parameters
python deep_features/vit.py --study fine             patches of 4 pixels, within 250,000 parameters
python deep_features/vit.py --dataset digits         on small digits, without a download
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from command_line import NOT_NEGATIVE, SHARE, flag, within
from common.vit_looks import looks
from deep_features import classifier, study
from deep_features.classifier import schedule_flag
from deep_features.published import VIT
from deep_features.study import Settings, Study, study_flag
from image_data import ImageData
from vision_transformer import VisionTransformer

SHOWN = 6  # images whose attention a result keeps
BETTER = {"design": "standard", "scale": "head", "schedule": "cycle", "learning_rate": 2e-3, "weight_decay": 0.05}
STUDIES = {
    "seven": Study(
        "the exercise's configurations",
        {
            f"dim {dim}, depth {depth}, {heads} heads, MLP {mlp}": {
                "dim": dim, "depth": depth, "num_heads": heads, "mlp_dim": mlp
            }
            for dim, depth, heads, mlp in VIT
        },
        tested=True,
    ),
    "scale": Study(
        "scores divided by the square root of the width, as in the exercise, or of a head's",
        {"width (the exercise)": {}, "head": {"scale": "head"}},
        tested=True,
    ),
    "recipe": Study(
        "what a better recipe is made of, within the base's parameters",
        {
            "the exercise": {},
            "and its scale mended": {"scale": "head"},
            "and a standard design, a cycle": BETTER,
            "and moved images": BETTER | {"augment": True},
            "and 60 epochs": BETTER | {"augment": True, "epochs": 60},
        },
        anew=False,
    ),
    "fine": Study(
        "patches of 4 pixels, within 250,000 parameters",
        {"patches of 4, 60 epochs": BETTER | {"augment": True, "patch_size": 4, "epochs": 60}},
        tested=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Config(Settings):
    """The flags; their defaults are the exercise's base configuration."""

    batch_size: int = flag(128, "images per step", within(1, 100_000))
    study: str | None = study_flag(STUDIES)
    patch_size: int = flag(7, "pixels on a side of a patch", within(1, 28))
    dim: int = flag(64, "width of a token", within(1, 4096))
    depth: int = flag(6, "blocks", within(1, 100))
    num_heads: int = flag(8, "heads of attention", within(1, 256))
    mlp_dim: int = flag(128, "units of each block's hidden layer", within(1, 16_384))
    design: str = flag(
        "exercise",
        "exercise: no biases of queries, keys, values, no last norm, a hidden layer in the head; or standard",
        choices=("exercise", "standard"),
    )
    scale: str = flag(
        "width", "scores are divided by the square root of the width, as in the exercise, or of a head's dimension",
        choices=("width", "head"),
    )  # fmt: skip
    dropout: float = flag(0.0, "probability of dropping a feature", SHARE)
    weight_decay: float = flag(0.0, "weight decay", NOT_NEGATIVE)
    schedule: str = schedule_flag("decay")
    augment: bool = flag(False, "turn, scale and move the training images at random")

    SCRIPT: ClassVar[str] = "vit"
    STUDIES: ClassVar[dict[str, Study]] = STUDIES

    def __post_init__(self):
        super().__post_init__()
        if self.dim % self.num_heads:
            raise ValueError(f"--dim {self.dim} is not a multiple of --num_heads {self.num_heads}")
        if 28 % self.patch_size:
            raise ValueError(f"--patch_size is {self.patch_size}, but must divide 28")


def build(config: Config) -> VisionTransformer:
    return VisionTransformer(
        patch_size=config.patch_size,
        dim=config.dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_dim=config.mlp_dim,
        dropout=config.dropout,
        exercise=config.design == "exercise",
        scale=config.dim**-0.5 if config.scale == "width" else None,
    )


def train(config: Config, data: ImageData) -> tuple[nn.Module, dict]:
    """Train one Vision Transformer; returns it with its trial, and where it looks in some validation images."""
    model = build(config)
    trial = classifier.train(config, data, model)
    some = data.val[0][:SHOWN], data.pixels("val")[:SHOWN]
    return model, trial | {"attention": looks(model, *some)}


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    return study.run(config, train)


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, classifier.print_result)


if __name__ == "__main__":
    sys.exit(main())
