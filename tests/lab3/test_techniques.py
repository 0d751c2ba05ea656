"""One technique of training at a time: each against its formula, and the studies on small data."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import records
import utils
from attention import MultiHeadAttention
from lab3 import photographs, techniques, techniques_plots
from lab3.techniques import Config


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def shares(schedule, steps):
    """The step size of each step, the largest being 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = techniques.schedule_of(Config(schedule=schedule), optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_schedules():
    cosine = [(1 + math.cos(math.pi * step / 30)) / 2 for step in range(30)]
    assert shares("constant", 30) == [1] * 30
    assert shares("cosine", 30) == pytest.approx(cosine)
    assert shares("warmup", 30) == pytest.approx([1 / 3, 2 / 3, *[1] * 28])
    assert shares("restarts", 30) == pytest.approx(cosine[::3] * 3)  # three times the whole fall in ten steps
    rising = shares("cycle", 30)
    assert rising[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rising[3:] == sorted(rising[3:], reverse=True)


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_decay_is_apart_from_adams_gradient_or_part_of_it(optimizer):
    """The first step by hand: Adam's is the gradient's sign, whatever its size."""
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]]))
    before, config = layer.weight.detach().clone(), Config(optimizer=optimizer, learning_rate=0.01, weight_decay=0.1)
    gradient = torch.tensor([[0.05, 0.05, 0.5], [-0.4, 0.4, -0.4]])  # of the first, L2 changes nothing; of the second
    layer.weight.grad, layer.bias.grad = gradient.clone(), torch.ones(2)
    bias = layer.bias.detach().clone()
    techniques.optimizer_of(config, layer).step()
    if optimizer == "adamw":
        expected = before * (1 - 0.01 * 0.1) - 0.01 * gradient.sign()
    else:
        expected = before - 0.01 * (gradient + 0.1 * before).sign()  # -0.15 there: the sign turns
        assert (gradient + 0.1 * before)[0, 1] < 0
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(layer.bias.detach(), bias - 0.01, rtol=0, atol=1e-6)  # biases do not decay


def test_sgd_has_momentum():
    (group,) = {g["momentum"] for g in techniques.optimizer_of(Config(optimizer="sgd"), nn.Linear(2, 2)).param_groups}
    assert group == 0.9


def test_mixed_images_and_their_losses():
    images, labels = torch.rand(64, 1, 4, 4), torch.arange(64) % 5
    mixed, first, second, share = techniques.mixup((images, labels))
    assert torch.equal(first, labels)
    others = [images[labels == kind] for kind in range(5)]
    for image, own, other, part, mixture in zip(images, first, second, share, mixed, strict=True):
        gaps = (part * image + (1 - part) * others[other] - mixture).abs().amax((1, 2, 3))
        assert gaps.min() < 1e-6, own
    assert 0 <= share.min() < 0.01 < 0.99 < share.max() <= 1  # Beta(0.2, 0.2): most images are hardly mixed
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    found = techniques.losses(linear, (mixed, first, second, share))
    targets = share[:, None] * F.one_hot(first, 5) + (1 - share[:, None]) * F.one_hot(second, 5)
    torch.testing.assert_close(found, F.cross_entropy(linear(mixed), targets, reduction="none"))


def test_smoothed_labels():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    images, labels = torch.rand(6, 1, 4, 4), torch.arange(6) % 5
    targets = 0.9 * F.one_hot(labels, 5) + 0.1 / 5
    expected = -(targets * linear(images).log_softmax(1)).sum(1)
    torch.testing.assert_close(techniques.losses(linear, (images, labels), 0.1), expected)


def test_one_batch_is_broken():
    augment = techniques.Augment(Config(spike=True), 28, steps=10)
    images, labels = torch.rand(3, 1, 28, 28), torch.zeros(3, dtype=torch.long)
    found = [augment((images, labels))[0] for _ in range(10)]
    for step, each in enumerate(found):
        torch.testing.assert_close(each, images * (100 if step == 5 else 1))


def test_dropped_attention():
    """Without dropout and in evaluation it is attention; in training a weight is kept, and grown, or it is 0."""
    plain, dropped = MultiHeadAttention(8, 2), techniques.DroppedAttention(8, 2, 0.25)
    dropped.load_state_dict(plain.state_dict())
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(dropped.eval()(x), plain(x), rtol=1e-5, atol=1e-6)
    weights = dropped.weights(x, x)
    seen = []
    dropped.dropout.register_forward_hook(lambda module, inputs, output: seen.append(output))
    dropped.train()(x)
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0][kept], (weights / 0.75)[kept])
    assert 0.5 < kept.double().mean() < 0.95


@pytest.mark.parametrize("norm", techniques.NORMS)
def test_normalisation(norm):
    x = 5 + 3 * torch.randn(16, 6, 4, 4)
    found = techniques.normalisation(norm, 6)(x)
    if norm == "none":
        assert found is x
    else:
        dims = (0, 2, 3) if norm == "batch" else (1, 2, 3)
        torch.testing.assert_close(found.mean(dims), torch.zeros(6 if norm == "batch" else 16), rtol=0, atol=1e-5)
        torch.testing.assert_close(found.var(dims, False), torch.ones(6 if norm == "batch" else 16), rtol=0, atol=1e-3)


def test_spatial_dropout_drops_channels():
    features = techniques.SmallCNN(1, 5, "none", 0.0, 0.5).features
    maps = features.train()(torch.rand(4, 1, 32, 32))
    gone = (maps == 0).all((2, 3))
    assert 0.2 < gone.double().mean() < 0.9


def test_the_range_test_finds_where_the_loss_is_least():
    assert techniques.smoothed([4.0, 2.0, 2.0], keep=0.5) == pytest.approx(
        [4.0, (1 + 1) / 0.75, (0.5 + 0.5 + 1) / 0.875]
    )
    assert techniques.picked([1e-3, 1e-2, 1e-1, 1.0], [3.0, 2.0, 1.0, 9.0]) == pytest.approx(1e-2)
    found = techniques.range_test(Config(), photographs.select(photographs.digits(0, 10)))
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"])
    assert found["rates"] == sorted(found["rates"])
    assert 1e-4 < found["picked"] < 0.1


def test_an_ensemble_by_hand():
    """Two images of class 0: on the first one network is sure and right, on the second both are wrong."""
    sure, unsure = (
        [[math.log(p), math.log(1 - p)] for p in probabilities] for probabilities in ((0.9, 0.2), (0.4, 0.4))
    )
    found = techniques.ensemble(
        [{"test_log_probs": sure}, {"test_log_probs": unsure}], torch.zeros(2, dtype=torch.long)
    )
    assert found["together"] == 0.5
    assert found["alone"]["values"] == [0.5, 0.0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"network": "vit", "spatial_dropout": 0.1}, "--spatial_dropout goes with --network cnn"),
        ({"attention_dropout": 0.1}, "--attention_dropout goes with --network vit"),
    ],
)
def test_what_does_not_go_together(flags, words):
    with pytest.raises(ValueError, match=words):
        Config(**flags)


def test_names_tell_all_variants_apart():
    variants = [*techniques.TECHNIQUES.values(), *techniques.STABILITY.values()]
    names = {replace(Config(), **change).run_name for change in variants}
    assert len(names) == len(variants)
    assert all(records.is_plain_name(name) for name in names)


# --- studies -----------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch, one_by_one):
    """Studies train in this process, for two variants."""
    monkeypatch.setattr(techniques, "TECHNIQUES", {"base": {}, "mixup": {"augment": "mixup"}})
    monkeypatch.setattr(techniques, "TRIED", (1e-3, 1e-2))


def study(tmp_path, name):
    flags = ("--study", name, "--train_size", "50", "--epochs", "1", "--seeds", "3", "4", "--out", str(tmp_path))
    assert techniques.main(flags) == 0
    return json.loads((tmp_path / "lab3" / f"techniques-{name}-digits.json").read_text())


def test_the_study_of_techniques(few, tmp_path, capsys):
    result = study(tmp_path, "techniques")
    singles = [
        json.loads((tmp_path / "lab3" / f"techniques-digits-train_size50-epochs1-seed{seed}.json").read_text())
        for seed in (3, 4)
    ]
    base = result["models"]["base"]
    gaps = [s["metrics"]["train"]["accuracy"]["mean"] - s["metrics"]["validation"]["accuracy"]["mean"] for s in singles]
    assert base["gap"]["mean"] == pytest.approx(np.mean(gaps))
    assert base["diverged"] == 0
    assert result["ensemble"]["images"] == len(singles[0]["test_log_probs"]) == 300
    members = [s["metrics"]["test"]["accuracy"]["mean"] for s in singles]
    assert result["ensemble"]["alone"]["values"] == pytest.approx(members, abs=0.01)
    assert "three together" not in capsys.readouterr().err
    accuracy, gap = techniques_plots.plot_techniques(result).axes
    assert accuracy.containers[0].lines[0].get_xdata()[0] == pytest.approx(
        100 * base["metrics"]["test"]["accuracy"]["mean"]
    )
    assert gap.containers[0].lines[0].get_xdata()[0] == pytest.approx(100 * base["gap"]["mean"])


def test_the_study_of_step_sizes(few, tmp_path):
    result = study(tmp_path, "rates")
    assert list(result["models"]) == ["0.001", "0.01"]
    assert len(result["range_tests"]) == 2
    assert len(techniques_plots.plot_rates(result).axes) == 2


def test_what_diverges_is_counted(few, monkeypatch, tmp_path, capsys):
    steps = {"large steps, plain": {"optimizer": "sgd", "learning_rate": 1e9}, "large steps, none": {}}
    monkeypatch.setattr(techniques, "STABILITY", steps)
    result = study(tmp_path, "stability")
    lost, learnt = result["models"].values()
    assert (lost["diverged"], lost["metrics"], lost["gap"]) == (2, [], None)
    assert learnt["diverged"] == 0
    assert "2 of 2 diverged" in capsys.readouterr().out
    labels = [text.get_text() for text in techniques_plots.plot_stability(result).axes[0].get_legend().get_texts()]
    accuracy = records.spread(learnt["metrics"]["test"]["accuracy"], 100)
    assert labels == ["plain: 2 of 2 diverged", f"none: {accuracy} %"]


def test_the_best_epoch_is_kept(monkeypatch):
    kept = {}
    monkeypatch.setattr(utils, "fit", lambda *_, keep_best, **options: kept.update(best=keep_best) or [])
    data = photographs.select(photographs.digits(0, 10), 50)
    for stops in (True, False):
        techniques.train(Config(early_stopping=stops), data)
        assert (kept["best"] is not None) == stops
    techniques.train(Config(early_stopping=True), data)
    assert kept["best"]({"loss": 0.3, "accuracy": 0.5}) > kept["best"]({"loss": 0.4, "accuracy": 0.9})
