"""Features learnt without labels: the contrastive loss against loops, views, what stays as it is, and the study."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from common.classification import predict
from lab3 import photographs, self_supervised, self_supervised_plots
from lab3.self_supervised import Config


@pytest.fixture(scope="module")
def data():
    return photographs.select(photographs.digits(0, 10), 100)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setitem(self_supervised.LABELS, "digits", (20, 50, 1000))
    monkeypatch.setattr(self_supervised, "SCRATCH_EPOCHS", 1)
    monkeypatch.setattr(self_supervised, "SCRATCH_IMAGES", 40)
    monkeypatch.setattr(self_supervised, "STRENGTHS", (1e-3, 1e-1))


def test_nt_xent_equals_a_loop():
    """Equation 1 of Chen et al. 2020, image by image."""
    first, second = torch.randn(2, 4, 3, dtype=torch.float64)
    both = [*first.numpy(), *second.numpy()]

    def similarity(i, j):
        return math.exp(both[i] @ both[j] / np.linalg.norm(both[i]) / np.linalg.norm(both[j]) / 0.3)

    expected = []
    for i in range(8):
        partner = i + 4 if i < 4 else i - 4
        expected.append(-math.log(similarity(i, partner) / sum(similarity(i, k) for k in range(8) if k != i)))
    found = self_supervised.nt_xent(first, second, 0.3)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_nt_xent_has_the_right_gradient():
    first, second = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda *views: self_supervised.nt_xent(*views, 0.5), (first, second))


@pytest.mark.parametrize("channels", [1, 3])
def test_views(channels):
    images = torch.rand(64, channels, 12, 12) * 2 - 1
    first, second = (self_supervised.views(images, mirror=True) for _ in range(2))
    assert first.shape == images.shape
    assert first.abs().max() <= 1
    assert all((a - b).abs().max() > 0.05 for a, b in zip(first, second, strict=True))
    spread = first.std(1, correction=0).amax((1, 2))  # over the channels of each view
    if channels == 3:
        assert 0 < (spread < 1e-6).sum() < 32  # some are grey


def test_views_are_crops(monkeypatch):
    """With colours left alone, of images that hold their own places: straight, of the sides asked for, and inside."""
    for name in ("BRIGHTNESS", "CONTRAST", "TINT", "GREY"):
        monkeypatch.setattr(self_supervised, name, 0.0)
    places = (2 * torch.arange(32) + 1) / 32 - 1  # of pixels, from -1 to 1
    rows, columns = places[:, None].expand(32, 32), places.expand(32, 32)
    images = torch.stack([rows, columns, columns]).expand(200, 3, 32, 32)
    for mirror in (False, True):
        down, right, _ = self_supervised.views(images, mirror).unbind(1)
        middle = slice(2, -2)  # beyond the pixels' centres an image repeats its border
        steps = down.diff(dim=1)[:, middle], right.diff(dim=2)[:, :, middle]
        sides = steps[0].mean((1, 2)) * 16
        assert 0.49 < sides.min() < 0.6 < 0.95 < sides.max() < 1.01  # areas from a quarter to the whole
        assert torch.allclose(steps[1].mean((1, 2)).abs() * 16, sides, atol=0.02)
        share = (steps[1].mean((1, 2)) < 0).double().mean()
        assert share == 0 if not mirror else 0.3 < share < 0.7


def test_frozen_features_stay_bit_for_bit(monkeypatch, data):
    """Probes leave the network as it is after the training without labels."""
    seen = []
    pretrain, balanced = self_supervised.pretrain, self_supervised.labelled

    def record(config, network, images):
        history = pretrain(config, network, images)
        seen.append((network, {name: tensor.clone() for name, tensor in network.state_dict().items()}))
        return history

    monkeypatch.setattr(self_supervised, "pretrain", record)
    result = self_supervised.train(Config(epochs=1, batch_size=50), data)
    ((network, before),) = seen
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(name.startswith("head") for name in after)  # the projection is gone
    assert predict(network, data.val[0]).shape == (300, 4 * self_supervised.WIDTH)
    assert list(result["metrics"]["test"]) == ["20", "50"] == [str(size) for size in balanced(data, 0)]


def test_training_without_labels_does_not_look_at_them(data):
    images, labels = data.train
    states = []
    for part in ((images, labels), (images, labels.flip(0))):
        torch.manual_seed(0)
        network = self_supervised.backbone(data)
        self_supervised.pretrain(Config(epochs=1, batch_size=50), network, replace(data, train=part))
        states.append(network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_labelled_images_are_nested_and_balanced(data):
    found = self_supervised.labelled(data, seed=1)
    assert list(found) == [20, 50]  # there are no 1,000
    for size, places in found.items():
        assert len(set(places)) == size
        assert np.bincount(data.train[1][places]).tolist() == [size // 10] * 10
    assert set(found[20]) < set(found[50])
    assert set(self_supervised.labelled(data, seed=2)[20]) != set(found[20])


def test_the_probe_picks_its_penalty_on_validation_images(monkeypatch):
    """Where 39 of 40 features are noise, the best penalty is neither the strongest nor the weakest."""
    monkeypatch.setattr(self_supervised, "STRENGTHS", (1e-4, 1e-2, 1.0, 1e2))
    generator = np.random.default_rng(0)
    features = generator.normal(size=(600, 40))
    labels = (features[:, 0] + generator.normal(size=600) > 0).astype(int)
    train, val = (features[:60], labels[:60]), (features[60:], labels[60:])
    best, chosen = self_supervised.probe(train, val)
    mean, std = train[0].mean(0), train[0].std(0)
    losses = {}
    for strength in self_supervised.STRENGTHS:
        plain = LogisticRegression(C=strength, max_iter=500).fit((train[0] - mean) / std, train[1])
        losses[strength] = log_loss(val[1], plain.predict_proba((val[0] - mean) / std))
    assert chosen == min(losses, key=losses.get) == 1e-2
    assert log_loss(val[1], best.predict_proba(val[0])) == pytest.approx(losses[chosen])


def test_from_scratch_sees_the_labelled_images_alone(monkeypatch, data):
    seen = []
    monkeypatch.setattr(self_supervised, "train_on", lambda config, network, train, data: seen.append(train) or [])
    self_supervised.from_scratch(Config(method="scratch"), data)
    places = self_supervised.labelled(data, 0)
    for (images, labels), (size, chosen), repeats in zip(seen, places.items(), (2, 1), strict=True):
        assert len(images) == repeats * size
        assert torch.equal(images[:size], data.train[0][chosen])
        assert torch.equal(labels[-size:], data.train[1][chosen])


def test_the_study_of_labels(one_by_one, tmp_path):
    flags = ("--study", "labels", "--train_size", "100", "--epochs", "1", "--seeds", "3", "4", "--out", str(tmp_path))
    assert self_supervised.main(flags) == 0
    result = json.loads((tmp_path / "lab3" / "self_supervised-labels-digits.json").read_text())
    assert list(result["models"]) == list(self_supervised.METHODS)
    single = json.loads(
        (tmp_path / "lab3" / "self_supervised-digits-train_size100-pixels-epochs1-seed4.json").read_text()
    )
    found = result["models"]["pixels"]["metrics"]["test"]["50"]
    assert found["values"][1] == single["metrics"]["test"]["50"]["mean"]
    axes, *_ = self_supervised_plots.plot_labels(result).axes
    assert axes.containers[3].lines[0].get_xydata()[1].tolist() == pytest.approx([50, 100 * found["mean"]])
    assert self_supervised_plots.plot_labels(single).axes
    assert result["models"]["random"]["parameters"] == 0 < result["models"]["simclr"]["parameters"]
