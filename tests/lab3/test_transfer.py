"""Transfer: what each method changes and what it leaves as it is, its parts by hand, and what studies make of them."""

import json
import sys
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from common import pretrained
from lab3 import photographs, transfer, transfer_plots
from lab3.transfer import Config, Recipe
from lab3.transfer_networks import Staged, imagenet_network, seen, small_network

TIMM = "pip install -e '.[dreams]'"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def little_training(monkeypatch):
    """All that is trained is trained for one epoch."""
    monkeypatch.setattr(transfer, "PRETRAINING_EPOCHS", 1)
    one = {
        kind: {method: Recipe(1, 10_000, 16, 1e-2) for method in ("partial", "full", "scratch")}
        for kind in transfer.RECIPES
    }
    monkeypatch.setattr(transfer, "RECIPES", one)
    monkeypatch.setattr(Config, "epochs_for", lambda config, images: config.epochs or 1)


def weights_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def changed(before, after):
    """The stages and the head in which anything changed, and those in which every tensor did."""
    places = {name: ".".join(name.split(".")[: 2 if name.startswith("stages") else 1]) for name in before}
    same = {name: torch.equal(before[name], after[name]) for name in before}
    return (
        {places[name] for name in before if not same[name]},
        {place for place in places.values() if not any(same[name] for name in before if places[name] == place)},
    )


# --- networks ----------------------------------------------------------------------------------------


def test_images_are_seen_in_their_centre_or_enlarged_and_in_as_many_channels():
    image = torch.arange(36.0).view(1, 1, 6, 6)
    assert torch.equal(seen(image, 3, 4), image[..., 1:5, 1:5].repeat(1, 3, 1, 1))
    assert torch.equal(seen(image, 1, 6), image)
    large = seen(torch.tensor([[[[0.0, 1.0]] * 2]]), 1, 4)
    # between the centres of pixels, and constant beyond them
    torch.testing.assert_close(large[0, 0], torch.tensor([[0, 0.25, 0.75, 1]]).repeat(4, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("method", "top", "trained"), [("partial", 1, {"stages.2"}), ("partial", 2, {"stages.1",
                         "stages.2"}), ("full", 1, {"stages.0", "stages.1", "stages.2"})])  # fmt: skip
def test_a_method_changes_its_stages_and_nothing_else_bit_by_bit(little_training, method, top, trained):
    config = Config(method=method, top_blocks=top, train_size=100)
    data = photographs.select(photographs.read("digits", "data", 28), 100)
    network = transfer.build(config, data)
    before = weights_of(network)
    fit(config, data, network)
    some, every = changed(before, network.state_dict())
    assert some == every == trained | {"head"}


def fit(config, data, network):
    """`transfer.adapt`, without a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "file", lambda config, suffix: None)
        return transfer.adapt(config, data, network, {"validation": data.val})


def test_frozen_stages_of_efficientnet_keep_their_statistics():
    pytest.importorskip("timm", reason=TIMM)
    network = imagenet_network(2, 32, trained=False)
    network.freeze_all_but(2)
    before = weights_of(network)
    optimizer = transfer.adamw(network, 1e-2, 0.1)
    for _ in range(2):
        transfer.losses(network.train(), (torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))).mean().backward()
        optimizer.step()
    some, _ = changed(before, network.state_dict())
    assert some == {"stages.7", "stages.8", "head"}
    statistics = [name for name in before if name.startswith("stages.8") and "running" in name]
    assert statistics
    assert not any(torch.equal(before[name], network.state_dict()[name]) for name in statistics)
    assert not network.stages[6].training
    assert network.stages[7].training
    with pytest.raises(ValueError, match="--top_blocks is 10, but this network has 9 stages"):
        network.freeze_all_but(10)


def test_stages_give_what_the_network_gave_that_they_are_of(monkeypatch):
    timm = pytest.importorskip("timm", reason=TIMM)
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    monkeypatch.setattr(pretrained, "efficientnet", lambda name, trained: whole)
    staged = imagenet_network(1000, 64, trained=True).eval()
    staged.head = whole.classifier
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(staged(images), whole(images), rtol=1e-4, atol=1e-5)


def test_the_pretrained_stages_are_those_that_learnt_the_other_digits(little_training, monkeypatch):
    trained = small_network(5, 28)
    monkeypatch.setattr(transfer, "trained_on_other_digits", lambda config: trained)
    data = photographs.select(photographs.read("digits", "data", 28), 20)
    for method, same in (("full", True), ("frozen", True), ("scratch", False)):
        network = transfer.build(Config(method=method), data)
        assert torch.equal(network.stages[1][0].first[0].weight, trained.stages[1][0].first[0].weight) == same
        assert network.head is not trained.head


def test_before_transfer_a_network_tells_the_other_digits_apart(little_training, monkeypatch):
    monkeypatch.setattr(transfer, "PRETRAINING_EPOCHS", 2)
    network = transfer.trained_on_other_digits(Config())
    data = photographs.select(photographs.digits(0, 5))
    assert transfer.share_right(network, data.val) > 0.6


def test_missing_weights_are_one_line(monkeypatch, capsys, tmp_path):
    def none(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(photographs, "read", lambda *_: photographs.digits(5, 10))
    monkeypatch.setitem(sys.modules, "timm", sys.modules.get("timm") or type(sys)("timm"))
    monkeypatch.setattr(metadata, "distribution", none)
    assert transfer.main(["--dataset", "ants_bees", "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "efficientnet_lite0 needs timm and its weights" in err
    assert TIMM in err


# --- methods -----------------------------------------------------------------------------------------


def test_logistic_regression_on_features_with_the_penalty_of_least_validation_loss(little_training):
    config = Config(method="frozen")
    data = photographs.select(photographs.read("digits", "data", 28), 50)
    network = transfer.build(config, data)
    before, features = weights_of(network), {}
    with torch.no_grad():
        for part in ("train", "val"):
            maps = data.__dict__[part][0]
            for stage in network.eval().stages:
                maps = stage(maps)
            features[part] = maps.mean((2, 3)).double().numpy()
    found = transfer.classify_features(config, data, network, {"validation": data.val})
    losses, predictions = {}, {}
    truth = data.val[1].numpy()
    for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4):
        each = LogisticRegression(C=strength, max_iter=2000).fit(features["train"], data.train[1].numpy())
        losses[strength] = -np.log(each.predict_proba(features["val"])[range(len(truth)), truth]).mean()
        predictions[strength] = each.predict(features["val"])
    best = min(losses, key=losses.get)
    assert 1e-4 < best < 1e4
    assert found["strength"] == pytest.approx(best)
    assert (found["right"]["validation"].numpy() == (predictions[best] == truth)).mean() > 0.98
    assert found["trainable"] == 5 * (features["train"].shape[1] + 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_fewer_images_are_seen_more_often_but_in_fewer_steps():
    config = Config(method="full")
    assert config.epochs_for(600) == 10
    assert config.epochs_for(150) == 20
    assert replace(config, epochs=7).epochs_for(150) == 7


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"download": True, "dataset": "cifar10_jpeg"}, "--download goes with cifar10, not with cifar10_jpeg"),
        ({"study": "domains"}, "--study domains goes with --dataset cifar10_jpeg or cifar10"),
        ({"dataset": "pneumoniamnist", "study": "domains"}, "goes with --dataset cifar10_jpeg"),
        ({"method": "some"}, "--method is some, but must be one of frozen, partial, full, scratch"),
    ],
)
def test_what_does_not_go_together_is_refused(flags, words):
    with pytest.raises(ValueError, match=words):
        Config(**flags)


def test_a_run_of_each_method(little_training, tmp_path, capsys):
    for method in transfer.METHODS:
        assert transfer.main(["--method", method, "--train_size", "20", "--out", str(tmp_path)]) == 0
        name = "partial1" if method == "partial" else method
        result = json.loads((tmp_path / "lab3" / f"transfer-{name}-digits-20-seed0.json").read_text())
        assert result["data"]["sizes"]["train"] == 20
        assert set(result["metrics"]) == {"validation", "test"}
        share = result["test_right"].count("1") / len(result["test_right"])
        assert len(result["test_right"]) == result["data"]["sizes"]["test"]
        assert result["metrics"]["test"]["accuracy"]["mean"] == pytest.approx(share)
        total, trained = result["parameters"]["total"], result["parameters"]["trainable"]
        assert (trained == total) == (method in ("full", "scratch"))
        assert result["peak_memory"] is None or result["peak_memory"] > 50e6
        assert 0 < result["adapting_seconds"] < result["seconds"]
        assert len(result["history"]) == (0 if method == "frozen" else 1)
    assert "frozen" in capsys.readouterr().out
    curves = sorted(path.name for path in (tmp_path / "plots" / "lab3").glob("*.png"))
    assert [name.split("-")[1] for name in curves] == ["full", "partial1", "scratch"]


# --- studies -----------------------------------------------------------------------------------------


@pytest.fixture
def one_by_one(monkeypatch, little_training, one_by_one):
    """Their pictures are few, too, and networks small."""

    def pictures(dataset, root, side):
        generator, classes = np.random.default_rng(len(dataset)), 2 if dataset == "pneumoniamnist" else 5
        labels = np.arange(40) % classes
        arrays = {f"{part}_labels": labels for part in ("train", "val", "test")}
        shape = (40, 16, 16) if dataset == "pneumoniamnist" else (40, 16, 16, 3)
        arrays |= {f"{part}_images": generator.integers(0, 255, shape, np.uint8) for part in ("train", "val", "test")}
        return photographs.Pictures(dataset, tuple("abcde"[:classes]), arrays)

    def network(num_classes, size, trained):
        body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        return Staged([body, nn.Identity()], 4, num_classes, 3, size)

    monkeypatch.setattr(transfer, "imagenet_network", network)
    monkeypatch.setattr(photographs, "read", pictures)
    return one_by_one


def study(name, tmp_path, *flags):
    assert transfer.main(["--study", name, "--out", str(tmp_path), *flags]) == 0
    dataset = flags[flags.index("--dataset") + 1]
    return json.loads((tmp_path / "lab3" / f"transfer-{name}-{dataset}.json").read_text())


def test_a_study_of_methods(one_by_one, tmp_path, capsys):
    result = study("methods", tmp_path, "--dataset", "ants_bees", "--train_size", "10", "--seeds", "3", "4")
    assert list(result["models"]) == ["frozen", "partial", "full", "scratch"]
    assert [(run.method, run.seed) for run in one_by_one] == [(m, seed) for m in result["models"] for seed in (3, 4)]
    assert {run.train_size for run in one_by_one} == {10}
    single = json.loads((tmp_path / "lab3" / "transfer-full-ants_bees-10-seed4.json").read_text())
    kept = result["models"]["full"]
    assert kept["seeds"] == [3, 4]
    assert kept["metrics"]["test"]["accuracy"]["values"][1] == single["metrics"]["test"]["accuracy"]["mean"]
    assert kept["parameters"] == single["parameters"]
    assert kept["adapting_seconds"] > single["adapting_seconds"]
    assert kept["settings"]["epochs"] == 1
    assert "always a 20.0" in capsys.readouterr().out
    axes = transfer_plots.plot_methods(result).axes[0]
    heights = [container.lines[0].get_ydata()[0] for container in axes.containers]
    means = [model["metrics"]["test"]["accuracy"]["mean"] for model in result["models"].values()]
    assert heights == [100 * mean for mean in means]
    assert "from scratch\n" in axes.get_xticklabels()[3].get_text()
    assert axes.lines[-1].get_ydata()[0] == pytest.approx(20)
    assert (tmp_path / "plots" / "lab3" / "transfer-methods-ants_bees-methods.pdf").exists()


def test_a_study_of_sizes(one_by_one, monkeypatch, tmp_path):
    monkeypatch.setattr(transfer, "SIZES", (10, 20, 0))
    result = study("sizes", tmp_path, "--dataset", "cifar10_jpeg", "--seeds", "1")
    names = [f"{method}, {size}" for size in (10, 20, "all") for method in ("frozen", "full", "scratch")]
    assert list(result["models"]) == names
    assert result["data"]["sizes"]["train"] == 40
    full = [result["models"][f"full, {size}"] for size in (10, 20, "all")]
    assert [model["sizes"]["train"] for model in full] == [10, 20, 40]
    assert full[0]["test_right"].count("1") / 40 == pytest.approx(full[0]["metrics"]["test"]["accuracy"]["mean"])
    line = transfer_plots.plot_sizes(result).axes[0].containers[1].lines[0]
    assert list(line.get_xdata()) == [10, 20, 40]
    assert list(line.get_ydata()) == [100 * model["metrics"]["test"]["accuracy"]["mean"] for model in full]


def test_a_study_of_domains(one_by_one, monkeypatch, tmp_path):
    monkeypatch.setattr(transfer, "DOMAINS", (("pneumoniamnist", 0), ("cifar10", 20)))
    result = study("domains", tmp_path, "--dataset", "cifar10_jpeg", "--seeds", "0", "1")
    assert list(result["models"]) == [
        f"{method}, {place}"
        for place in ("pneumoniamnist, all", "cifar10_jpeg, 20")
        for method in ("frozen", "full", "scratch")
    ]
    axes = transfer_plots.plot_domains(result).axes[0]
    drawn = [list(container.lines[0].get_ydata()) for container in axes.containers]
    models = list(result["models"].values())
    assert drawn == [[100 * models[i + j]["metrics"]["test"]["accuracy"]["mean"] for j in (0, 3)] for i in range(3)]
    levels = [segment[0][1] for segment in axes.collections[-1].get_segments()]
    assert levels == pytest.approx([50, 20])  # of the commonest of two classes, and of five
    assert "CIFAR-10 (JPEG)\n20 training images" in [label.get_text() for label in axes.get_xticklabels()]


def test_a_study_of_step_sizes_leaves_the_test_alone(one_by_one, monkeypatch, tmp_path):
    monkeypatch.setattr(transfer, "TRIED", (1e-3, 1e-2))
    result = study("rates", tmp_path, "--dataset", "ants_bees", "--seeds", "2", "5")
    assert all(set(model["metrics"]) == {"validation"} for model in result["models"].values())
    assert [(run.recipe.rate, run.seed) for run in one_by_one] == [(1e-3, 2), (1e-2, 2)] * 3
    line = transfer_plots.plot_rates(result).axes[0].containers[0].lines[0]
    validation = [result["models"][f"partial, {rate}"]["metrics"]["validation"] for rate in ("0.001", "0.01")]
    assert list(line.get_xdata()) == [1e-3, 1e-2]
    assert list(line.get_ydata()) == [100 * each["accuracy"]["mean"] for each in validation]


@pytest.mark.slow
def test_digits_that_were_never_seen_are_told_apart(tmp_path):
    """From ten images, two of each digit: features of other digits are worth more than none."""
    for method, least in (("frozen", 0.5), ("full", 0.6)):
        assert transfer.main(["--method", method, "--train_size", "10", "--out", str(tmp_path)]) == 0
        result = json.loads((tmp_path / "lab3" / f"transfer-{method}-digits-10-seed0.json").read_text())
        assert result["metrics"]["test"]["accuracy"]["mean"] > least
        assert result["baseline"]["accuracy"]["test"] < 0.25
