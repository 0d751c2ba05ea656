"""Question 2, images that are moved: shifts, the networks' answers to them, and how far a feature sees."""

import dataclasses
import importlib
import json

import numpy as np
import pytest
import torch
from torch import nn

from image_data import load_images
from q2 import plots as q2_plots
from q2 import saved, shift
from q2.config import Config
from synthetic import scans

q2 = importlib.import_module("hw2-q2")


class Brightest(nn.Module):
    """Features: the pixels; the class: the quarter of the width in which the brightest one lies."""

    def features(self, images):
        return images.flatten(1)

    def forward(self, images):
        return images.amax((1, 2)).view(len(images), 4, -1).amax(-1)


def test_answers_to_a_shift_are_those_worked_out_by_hand():
    images = torch.zeros(2, 1, 8, 8)
    images[0, 0, 4, 1] = 5.0  # at the right border of the first quarter: one of four directions changes the class
    images[1, 0, 4, 4] = 1.0  # at the left border of the third
    found = shift.response(Brightest(), images, 1)
    assert found["changed_predictions"] == pytest.approx(1 / 4)
    assert found["moved_features"] == pytest.approx(2**0.5)  # one bright pixel to another place
    found = shift.response(Brightest(), images, 2)
    assert found["changed_predictions"] == pytest.approx((1 + 2) / 8)  # the first image moved left leaves the image
    # ... and loses its pixel: the border that comes in was black
    assert found["moved_features"] == pytest.approx((7 * 2**0.5 + 1) / 8)


@pytest.mark.parametrize(("no_maxpool", "width"), [(False, 10), (True, 7)])  # 3+1+2*2+2 and 3+2*2, by hand
@pytest.mark.parametrize("channels", [1, 3])
def test_a_feature_sees_as_far_as_the_sizes_of_its_windows_say(no_maxpool, width, channels):
    model = q2.CNN(0.7, no_maxpool, image_shape=(channels, 28, 28))
    before = [parameter.clone() for parameter in model.parameters()]
    assert shift.receptive_field(model) == width
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.fixture
def sweep(tmp_path):
    """A small data file, and the files of a sweep on it of untrained networks: two with a test, one without."""
    np.savez(tmp_path / "octmnist.npz", **scans.oct_splits(160, seed=3))
    data = load_images("octmnist", tmp_path)
    models = {}
    for no_maxpool, rate in ((False, 0.1), (True, 0.1), (False, 0.01)):
        config = Config(dataset="octmnist", no_maxpool=no_maxpool, learning_rate=rate, out=str(tmp_path))
        for seed in (0, 1):
            torch.manual_seed(seed)
            single = dataclasses.replace(config, seed=seed)
            saved.save_model(single.file(".safetensors"), q2.CNN(0.7, no_maxpool), single, data)
        models[config.variant] = {
            "settings": {name: value for name, value in config.settings().items() if name != "seed"},
            "metrics": {"validation": {}} | ({"test": {}} if rate == 0.1 else {}),
        }
    head = {"question": "q2", "run": "octmnist-sweep", "config": {}, "seeds": [0, 1], "data": data.describe()}
    (tmp_path / "q2" / "octmnist-sweep.json").write_text(json.dumps(head | {"models": models}))
    return tmp_path


def test_tested_networks_of_a_sweep_are_shifted_and_drawn(sweep, capsys):
    assert q2.main(["--shift", "--data_root", str(sweep), "--out", str(sweep)]) == 0
    result = json.loads((sweep / "q2" / "octmnist-shift.json").read_text())
    assert list(result["models"]) == ["maxpool-sgd-lr0.1", "no_maxpool-sgd-lr0.1"]
    images = load_images("octmnist", sweep).val[0]
    for variant, model in result["models"].items():
        network, _ = q2.load_model(sweep / "q2" / f"octmnist-{variant}-seed1.safetensors")
        inner = [np.roll(images.numpy(), step, axis) for axis in (2, 3) for step in (3, -3)]
        for roll, (axis, step) in zip(inner, [(a, s) for a in (2, 3) for s in (3, -3)], strict=True):
            edge = [slice(None)] * 4  # what came in from the other side repeats the border instead
            edge[axis] = slice(None, 3) if step > 0 else slice(-3, None)
            border = [slice(None)] * 4
            border[axis] = slice(0, 1) if step > 0 else slice(-1, None)
            roll[tuple(edge)] = images.numpy()[tuple(border)]
        classes = network(images).argmax(1)
        changed = [(network(torch.from_numpy(x)).argmax(1) != classes).double().mean().item() for x in inner]
        assert model["changed_predictions"][2]["values"][1] == pytest.approx(np.mean(changed), abs=1e-12)
        assert len(model["moved_features"]) == len(result["config"]["shifts"])
    assert (sweep / "plots" / "q2" / "octmnist-shift.png").exists()
    assert "7 pixels" in capsys.readouterr().out


def test_the_plot_says_synthetic_and_both_networks(sweep):
    result = shift.run("octmnist", sweep, sweep, q2.load_model)
    result["data"]["source"] = "synthetic"
    figure = q2_plots.plot_shift(result)
    assert "synthetic" in figure.get_suptitle()
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == [
        "max-pool, rate 0.1",
        "no max-pool, rate 0.1",
    ]


def test_a_network_or_data_of_a_later_run_is_refused(sweep, capsys):
    (sweep / "other").mkdir()
    np.savez(sweep / "other" / "octmnist.npz", **scans.oct_splits(160, seed=4))
    assert q2.main(["--shift", "--data_root", str(sweep / "other"), "--out", str(sweep)]) == 2
    assert "made from other data" in capsys.readouterr().err
    later = Config(dataset="octmnist", learning_rate=0.1, epochs=3, seed=1, out=str(sweep))
    saved.save_model(later.file(".safetensors"), q2.CNN(0.7), later, load_images("octmnist", sweep))
    assert q2.main(["--shift", "--data_root", str(sweep), "--out", str(sweep)]) == 2
    assert later.file(".safetensors").name in capsys.readouterr().err


def test_without_a_sweep_it_says_what_to_run(tmp_path, capsys):
    assert q2.main(["--shift", "--dataset", "synthetic-oct", "--out", str(tmp_path)]) == 2
    assert "python hw2-q2.py --dataset synthetic-oct --sweep" in capsys.readouterr().err
