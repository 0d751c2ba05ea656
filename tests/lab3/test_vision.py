"""The comparison of vision networks: sizes, scores, studies."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lab3 import vision, vision_plots
from lab3.vision import Config


def test_networks_are_of_one_size_but_those_that_are_scaled():
    sizes = {
        name: sum(p.numel() for p in vision.build(name, 3, 32, 10).parameters()) for name in vision.NETWORKS
    }  # fmt: skip
    alike = [size for name, size in sizes.items() if name not in ("efficient1", "efficient2")]
    assert max(alike) / min(alike) < 1.12
    assert sizes["efficient0"] < sizes["efficient1"] < sizes["efficient2"]


@pytest.mark.parametrize("name", vision.NETWORKS)
def test_networks_take_grey_images_of_other_sizes(name):
    assert vision.build(name, 1, 28, 5)(torch.randn(3, 1, 28, 28)).shape == (3, 5)


def test_scaled_networks_see_larger_images():
    assert [vision.build(f"efficient{phi}", 3, 32, 10).resolution for phi in range(3)] == [None, 36, 42]


class Says(torch.nn.Module):
    """A network that gives each image the class that its first pixel names."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return torch.nn.functional.one_hot(images[:, 0, 0, 0].long(), 3).float()


def test_scores_worked_out_by_hand():
    """Classes 0, 0, 0, 1, 1, 2 taken for 0, 0, 1, 1, 1, 0: F1 of 4/6, 4/5 and 0."""
    images = torch.zeros(6, 1, 2, 2)
    images[:, 0, 0, 0] = torch.tensor([0, 0, 1, 1, 1, 0])
    found = vision.scores(Says(), (images, torch.tensor([0, 0, 0, 1, 1, 2])))
    assert found == pytest.approx({"accuracy": 4 / 6, "f1": (4 / 6 + 4 / 5 + 0) / 3})


@pytest.fixture(autouse=True)
def timed_briefly(monkeypatch):
    monkeypatch.setattr(vision, "TIMED", 5)


def test_the_study_of_networks(one_by_one, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(vision, "NETWORKS", ("basic", "vit"))
    flags = ("--study", "networks", "--train_size", "50", "--epochs", "1", "--seeds", "3", "4", "--out", str(tmp_path))
    assert vision.main(flags) == 0
    result = json.loads((tmp_path / "lab3" / "vision-networks-digits.json").read_text())
    assert [(run.network, run.seed) for run in one_by_one] == [("basic", 3), ("basic", 4), ("vit", 3), ("vit", 4)]
    singles = [
        json.loads((tmp_path / "lab3" / f"vision-digits-train_size50-epochs1-seed{seed}.json").read_text())
        for seed in (3, 4)
    ]
    model = result["models"]["basic"]
    values = [single["metrics"]["test"]["f1"]["mean"] for single in singles]
    assert model["metrics"]["test"]["f1"]["mean"] == pytest.approx(np.mean(values))
    assert model["metrics"]["test"]["f1"]["std"] == pytest.approx(np.std(values, ddof=1))
    gaps = [s["metrics"]["train"]["accuracy"]["mean"] - s["metrics"]["validation"]["accuracy"]["mean"] for s in singles]
    assert model["gap"]["values"] == pytest.approx(gaps)
    assert model["multiply_adds"] == singles[0]["multiply_adds"] > 1e6
    assert model["inference_us_per_image"]["mean"] > 1
    assert "million multiply-adds" in capsys.readouterr().out
    axes = vision_plots.plot_networks(result).axes[0]
    drawn = [container.lines[0].get_xdata()[0] for container in axes.containers]
    assert drawn == sorted(100 * m["metrics"]["test"]["accuracy"]["mean"] for m in result["models"].values())[::-1]


def test_the_study_of_step_sizes_leaves_the_test_images_alone(one_by_one, monkeypatch, tmp_path):
    monkeypatch.setattr(vision, "FAMILIES", {"vit": "vit"})
    monkeypatch.setattr(vision, "TRIED", (1e-3, 2e-3))
    flags = ("--study", "rates", "--train_size", "50", "--epochs", "1", "--out", str(tmp_path))
    assert vision.main(flags) == 0
    result = json.loads((tmp_path / "lab3" / "vision-rates-digits.json").read_text())
    assert list(result["models"]) == ["vit, 0.001", "vit, 0.002"]
    assert all(set(model["metrics"]) == {"train", "validation"} for model in result["models"].values())
    (line,) = vision_plots.plot_rates(result).axes[0].lines
    assert list(line.get_xdata()) == [1e-3, 2e-3]


def test_each_family_has_its_step_size():
    rates = {name: Config(network=name).rate for name in ("basic", "efficient2", "vit")}
    assert rates == {"basic": 2e-3, "efficient2": 2e-3, "vit": 1e-3}
    assert replace(Config(), learning_rate=0.5).rate == 0.5


@pytest.mark.slow
def test_digits_are_learnt(tmp_path):
    assert vision.main(["--network", "cbam", "--epochs", "8", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "lab3" / "vision-digits-cbam-epochs8-seed0.json").read_text())
    assert result["metrics"]["test"]["accuracy"]["mean"] > 0.95
