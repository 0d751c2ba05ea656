"""Two small networks, and what their study says."""

import json

import pytest
import torch

import records
from assignments import runs
from assignments.hw2 import permuted
from common.classification import get_number_trainable_params


@pytest.mark.parametrize(("network", "count"), [("fully connected", 6442), ("CNN", 6422)])
def test_the_networks_are_those_of_the_lectures(network, count):
    model = permuted.build(network)
    assert get_number_trainable_params(model) == count
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_the_order_of_pixels_is_nothing_to_a_fully_connected_network_alone():
    """Its first weights permuted likewise give the same scores; those of a convolution can't be."""
    data = permuted.load_images("digits", "data")
    other = permuted.with_shuffled_pixels(data)
    numbers = torch.arange(784.0).view(1, 1, 28, 28)
    each = permuted.ImageData(**vars(data) | dict.fromkeys(("train", "val", "test"), (numbers, torch.zeros(1))))
    order = permuted.with_shuffled_pixels(each).train[0].flatten().long()
    model = permuted.build("fully connected").double()
    before = model(data.test[0].double())
    model[1].weight.data = model[1].weight.data[:, order]
    torch.testing.assert_close(model(other.test[0].double()), before, rtol=1e-12, atol=1e-12)


def test_a_short_study_on_digits_leaves_its_plot(tmp_path, capsys):
    flags = ["--dataset", "digits", "--epochs", "2", "--seeds", "0", "1", "--out", str(tmp_path)]
    assert permuted.main(flags) == 0
    path = tmp_path / "assignments" / "hw2-permuted-digits.json"
    result = records.load_result(path, *permuted.KEYS)
    assert set(result["models"]) == {
        f"{network}, {order}" for network in ("CNN", "fully connected") for order in ("in order", "shuffled")
    }
    for model in result["models"].values():
        assert len(model["histories"]) == 2
        assert model["metrics"]["test"]["accuracy"]["mean"] > 0.15  # ten classes
    assert "with pixels in order" in capsys.readouterr().out
    assert (tmp_path / "plots" / "assignments" / "hw2-permuted-digits-accuracies.png").stat().st_size > 1000
    again = json.loads((tmp_path / "assignments" / "hw2-permuted-digits-seed1.json").read_text())
    kept = again["models"]["CNN, shuffled"]["metrics"]["test"]["accuracy"]["mean"]
    assert kept in result["models"]["CNN, shuffled"]["metrics"]["test"]["accuracy"]["values"]


def test_what_is_said_turns_with_the_numbers():
    def result(*accuracies, std=0.001):
        names = [f"{network}, {order}" for order in permuted.ORDERS for network in permuted.NETWORKS]
        scores = [{"metrics": {"test": {"accuracy": {"mean": value, "std": std}}}} for value in accuracies]
        return {"seeds": [0, 1, 2, 3], "models": dict(zip(names, scores, strict=True))}

    assert permuted.finding(result(0.9, 0.96, 0.91, 0.85)) == (
        "The CNN is 6.0 points better with pixels in order, and 6.0 points worse with the same pixels shuffled."
    )
    assert "0.5 points worse with pixels in order" in permuted.finding(result(0.9, 0.895, 0.9, 0.95))
    # two standard errors of a difference of means of four: 2 sqrt(2) .004 / 2 = .0057
    assert "0.6 points better" in permuted.finding(result(0.9, 0.906, 0.9, 0.9, std=0.004))
    assert "0.5 points" not in permuted.finding(result(0.9, 0.905, 0.9, 0.9, std=0.004))
    assert "neither better nor worse, as far as the seeds tell, with the same pixels shuffled" in permuted.finding(
        result(0.9, 0.95, 0.9, 0.905, std=0.004)
    )


def test_the_committed_study_is_of_three_seeds_and_tested_once():
    result = runs.PERMUTED.result(records.ROOT)
    assert result["seeds"] == [0, 1, 2]
    assert result["data"]["sizes"]["test"] == 10_000
    assert "better with pixels in order" in permuted.finding(result)
