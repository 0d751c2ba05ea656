"""Homework 1's network learns, and its steps are autograd's."""

import pytest
import torch

from assignments.hw1 import digits
from assignments.hw1.digits import Config


def test_every_step_is_autograds_and_the_digits_are_learnt():
    torch.set_num_threads(1)
    result = digits.run(Config(epochs=20))
    assert result["largest_difference"] < 1e-10
    assert result["metrics"]["test"]["accuracy"]["mean"] >= 0.96
    assert result["history"][-1]["train_loss"] < result["history"][0]["train_loss"] / 3


def test_a_wrong_step_shows_in_the_difference(monkeypatch):
    step = digits.step_by_hand

    def wrong(net, pixels, targets, rate):
        return step(net, pixels, targets, 1.001 * rate)

    monkeypatch.setattr(digits, "step_by_hand", wrong)
    assert digits.run(Config(epochs=1))["largest_difference"] > 1e-6


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_is_a_function_of_its_seed(seed):
    first, again = (digits.run(Config(epochs=1, seed=seed, hidden=8)) for _ in range(2))
    assert first["history"] == again["history"]
