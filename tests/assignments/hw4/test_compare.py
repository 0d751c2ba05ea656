"""The comparison of a Vision Transformer and a CNN: data, networks, and what the studies make of their runs."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import records
from assignments.hw4 import compare, compare_plots
from assignments.hw4.compare import Config, Size
from common.classification import get_number_trainable_params
from tests.common.test_cifar import write_cifar100


def test_both_networks_have_as_many_parameters_and_fewer_than_a_million():
    images = torch.zeros(1, 3, 32, 32)
    data = type("Data", (), {"train": (images,), "class_names": "0123456789"})
    counts = [
        get_number_trainable_params(compare.build(Config(dataset="cifar10", model=m), data)) for m in ("vit", "cnn")
    ]
    assert max(counts) < 1_000_000
    assert max(counts) / min(counts) < 1.01


def test_cifar100_with_the_same_validation_images_for_every_size(tmp_path, monkeypatch):
    write_cifar100(tmp_path, monkeypatch, per_class=9)
    monkeypatch.setattr(compare, "VALIDATION_SIZE", 6)
    found = [
        compare.load(Config(dataset="cifar100", data_root=str(tmp_path), train_size=size)).describe() for size in (9, 0)
    ]
    assert [each["sizes"] for each in found] == [{"train": 9, "val": 6, "test": 3}, {"train": 21, "val": 6, "test": 3}]
    small, large = (
        compare.load(Config(dataset="cifar100", data_root=str(tmp_path), train_size=size)) for size in (9, 0)
    )
    torch.testing.assert_close(small.pixels("val"), large.pixels("val"))
    assert small.train[1].bincount().tolist() == [3, 3, 3]


def test_shuffled_pixels_are_those_of_the_image():
    plain, shuffled = (
        compare.load(Config(train_size=50, shuffle_pixels=flag)).pixels("train") for flag in (False, True)
    )
    assert not torch.equal(plain, shuffled)
    torch.testing.assert_close(plain.flatten(1).sort().values, shuffled.flatten(1).sort().values)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"train_size": 2000}, "digits has 1197 to train on"),
        ({"download": True, "dataset": "cifar10_jpeg"}, "--download goes with cifar10 or cifar100"),
    ],
)
def test_what_cannot_be_loaded_is_said(flags, words):
    with pytest.raises(ValueError, match=words):
        compare.load(Config(**flags))


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="--embed_dim 96 is not a multiple of --num_heads 5"):
        Config(num_heads=5)
    with pytest.raises(ValueError, match="--patch_size is 5, but must divide 28"):
        Config(patch_size=5)


def test_photographs_may_be_mirrored_but_digits_may_not(monkeypatch):
    monkeypatch.setattr(compare, "jitter", lambda images: images)
    batch = torch.arange(200.0).view(100, 1, 1, 2), torch.arange(100)
    found = {name: compare.augmentation(Config(dataset=name))(batch)[0] for name in ("digits", "cifar10")}
    assert torch.equal(found["digits"], batch[0])
    turned = (found["cifar10"] != batch[0]).flatten(1).any(1)
    assert 30 < turned.sum() < 70
    assert torch.equal(found["cifar10"][turned], batch[0][turned].flip(-1))
    assert compare.augmentation(Config(no_augment=True)) is None


def test_accuracy_of_moved_images_is_a_mean_over_four_directions():
    class Left(nn.Module):
        """Says 1 where the upper left pixel is bright."""

        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(()))

        def forward(self, images):
            bright = images[:, 0, 0, 0] > 0.5
            return torch.stack([~bright, bright], 1).float() + self.unused

    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, :] = 1  # a bright row on top, which a move up or down leaves or copies
    image[..., 0, 0] = 0
    # moved right or down by one the corner is repeated and stays dark; left: bright; up: dark
    assert compare.accuracy_of_moved(Left(), image, torch.tensor([0]), 0) == 1
    assert compare.accuracy_of_moved(Left(), image, torch.tensor([0]), 1) == 0.75


def test_some_are_taken_evenly():
    labels = torch.arange(10).repeat_interleave(100)
    kept = compare.some((labels, labels), 100)[1]
    assert kept.bincount().tolist() == [10] * 10


# --- studies -----------------------------------------------------------------------------------------


@pytest.fixture
def one_by_one(monkeypatch):
    """Studies train in this process, small networks; what they trained is kept."""
    trained = []

    def results(runs, head, keys):
        for single in runs:
            assert head(single)["config"] == single.settings()
            trained.append(replace(single, mlp_dim=16, embed_dim=8, num_layers=1, batch_size=32))
        found = [compare.run(single) for single in trained]
        for result, single in zip(found, trained, strict=True):
            records.save_results(single.out, result)
        return found

    monkeypatch.setattr(compare, "results_side_by_side", results)
    monkeypatch.setattr(compare, "WIDTHS", (4, 4, 4))
    return trained


def test_a_study_of_sizes(one_by_one, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(compare.SIZES, "digits", (Size(60, 1, 1), Size(40, 1, 2, tuple(compare.WAYS))))
    assert compare.main(["--study", "sizes", "--seeds", "3", "4", "5", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "assignments" / "hw4-sizes-digits.json").read_text())
    assert {name: model["seeds"] for name, model in result["models"].items()} == {
        f"{model}, {size}, {way}": [3] if size == 60 or way == "shuffled" else [3, 4]
        for size, ways in ((60, ("moved", "as they are")), (40, ("moved", "as they are", "shuffled")))
        for way in ways
        for model in ("vit", "cnn")
    }
    assert [run.learning_rate for run in one_by_one] == [0.0] * len(one_by_one)
    single = json.loads((tmp_path / "assignments" / "hw4-cnn-digits-40-plain-seed4.json").read_text())
    shuffled, kept = (result["models"][f"cnn, 40, {way}"] for way in ("shuffled", "as they are"))
    assert shuffled["settings"]["no_augment"]
    assert shuffled["settings"]["shuffle_pixels"]
    assert not kept["settings"]["shuffle_pixels"]
    assert kept["metrics"]["test"]["accuracy"]["values"][1] == single["metrics"]["test"]["accuracy"]["mean"]
    assert kept["shifted"][2]["values"][1] == single["shifted"][2]
    assert "test_right" not in kept
    alone = result["models"]["vit, 60, moved"]
    share = alone["test_right"].count("1") / len(alone["test_right"])
    assert alone["metrics"]["test"]["accuracy"]["mean"] == pytest.approx(share)
    assert len(result["attention"]["images"]) == 6
    plots = sorted(path.stem for path in (tmp_path / "plots" / "assignments").glob("hw4-sizes*.png"))
    assert plots == [f"hw4-sizes-digits-{name}" for name in ("accuracies", "attention", "gaps", "positions")]
    assert "vit, 40, shuffled" in capsys.readouterr().out
    drawn(result)


def drawn(result):
    """The lines of the plot of accuracies are the result's means."""
    figure = compare_plots.plot_accuracies(result)
    axes = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        f"{name}, {way}" for name in ("Vision Transformer", "CNN") for way in ("moved at random", "as they are")
    ]
    plain = [result["models"][f"cnn, {size}, as they are"]["metrics"]["test"]["accuracy"] for size in (40, 60)]
    line = axes.containers[3].lines[0]
    assert list(line.get_xdata()) == [40, 60]
    assert list(line.get_ydata()) == [100 * each["mean"] for each in plain]


def test_a_study_of_step_sizes_leaves_the_test_alone(one_by_one, monkeypatch, tmp_path):
    monkeypatch.setitem(compare.RATED, "digits", (40, 1))
    monkeypatch.setattr(compare, "TRIED", (1e-4, 1e-2))
    assert compare.main(["--study", "rates", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "assignments" / "hw4-rates-digits.json").read_text())
    assert list(result["models"]) == ["vit, 0.0001", "vit, 0.01", "cnn, 0.0001", "cnn, 0.01"]
    assert all(set(model["metrics"]) == {"train", "validation"} for model in result["models"].values())
    assert [run.rate for run in one_by_one] == [1e-4, 1e-2] * 2


@pytest.mark.slow
def test_both_networks_learn_digits(tmp_path):
    small = ["--embed_dim", "48", "--num_layers", "3", "--mlp_dim", "96", "--epochs", "8"]
    for model, settings, least in (("cnn", ["--epochs", "2"], 0.8), ("vit", small, 0.6)):
        flags = ["--model", model, *settings, "--out", str(tmp_path)]
        assert compare.main(flags) == 0
        result = json.loads((tmp_path / "assignments" / f"hw4-{model}-digits-all-seed0.json").read_text())
        assert result["metrics"]["test"]["accuracy"]["mean"] > least
        assert result["baseline"]["accuracy"]["test"] < 0.15
