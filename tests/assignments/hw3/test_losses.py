"""Energies, their Gibbs distribution and their losses: a case of three classes by hand, autograd, and the claims."""

import json
import math

import pytest
import torch

import records
from assignments import runs
from assignments.hw3 import ebm, losses

# three classes with energies 0, log 2 and log 4, so that exp(-F) is 1, 1/2 and 1/4
THREE = torch.tensor([0.0, math.log(2), math.log(4)], dtype=torch.float64)


@pytest.mark.equation("eq:hw3-gibbs")
def test_gibbs_by_hand():
    torch.testing.assert_close(losses.gibbs(THREE), torch.tensor([4, 2, 1], dtype=torch.float64) / 7)
    torch.testing.assert_close(losses.gibbs(THREE, 2.0), torch.tensor([16, 4, 1], dtype=torch.float64) / 21)
    torch.testing.assert_close(losses.gibbs(THREE + 5), losses.gibbs(THREE))  # the zero of energies is free
    assert losses.gibbs(THREE, 1000.0)[0] == 1


@pytest.mark.equation("eq:hw3-nll-beta")
def test_nll_by_hand_for_three_classes():
    """-log p / beta: p = 2/7 for beta 1, and 4/21 for beta 2."""
    answer = torch.tensor(1)
    assert losses.nll(THREE, answer).item() == pytest.approx(math.log(7 / 2))
    assert losses.nll(THREE, answer, 2.0).item() == pytest.approx(math.log(21 / 4) / 2)
    assert losses.nll(THREE, answer, math.inf).item() == pytest.approx(math.log(2))
    assert losses.nll(THREE, answer, 1e4).item() == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.equation("eq:hw3-nll-gradient")
@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_the_gradient_is_the_right_one_less_the_expected_one(beta):
    """Energies w . phi(y) of five answers with random features, so dF/dw is phi(y)."""
    features, w = torch.randn(5, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.nll(features @ w, torch.tensor(2), beta), w)
    weights = [math.exp(-beta * energy) for energy in (features @ w).tolist()]
    expected = features[2] - sum(p * phi for p, phi in zip(weights, features, strict=True)) / sum(weights)
    torch.testing.assert_close(gradient, expected.detach())


@pytest.mark.equation("eq:hw3-inference")
def test_the_free_energy_goes_to_the_least_over_the_latent_variable():
    def free_energy(energies, beta):
        return -(-beta * energies).logsumexp(-1) / beta

    energies = torch.randn(4, 6, dtype=torch.float64)  # of four answers, six values of z each
    torch.testing.assert_close(free_energy(energies, 1e4), energies.amin(1), atol=1e-3, rtol=0)
    answer, z = divmod(int(energies.argmin()), 6)
    assert free_energy(energies, 1e4).argmin() == answer
    assert energies[answer].argmin() == z
    assert (free_energy(energies, 1.0) < energies.amin(1)).all()


@pytest.mark.equation("eq:hw3-canyon")
def test_the_likelihood_of_a_canyon_falls_without_end():
    """Energies of 0 within delta of the right answer and h elsewhere on an interval of 3, by a fine sum."""
    beta, found = 0.7, []
    for delta, h in ((0.25, 1.0), (0.25, 40.0), (0.025, 40.0), (0.0025, 400.0)):
        y = torch.arange(-1.5, 1.5, 1e-5, dtype=torch.float64) + 5e-6
        energies = torch.where(y.abs() < delta, 0.0, h)
        measured = (torch.exp(-beta * energies).sum() * 1e-5).log().item() / beta
        assert measured == pytest.approx(math.log(2 * delta + (3 - 2 * delta) * math.exp(-beta * h)) / beta, abs=1e-3)
        found.append(measured)
    assert found == sorted(found, reverse=True)
    assert found[-1] < -7


BY_HAND = {  # F = .5 and 0 for the right answer, .2 and 3 for the wrong one, margin 1
    "simple": (0.5 + 0.8, 0.0),
    "hinge": (1.3, 0.0),
    "log": (math.log(1 + math.exp(0.3)), math.log(1 + math.exp(-3))),
    "square-square": (0.25 + 0.64, 0.0),
}


@pytest.mark.equation("eq:hw3-simple")
@pytest.mark.equation("eq:hw3-hinge")
@pytest.mark.equation("eq:hw3-log")
@pytest.mark.equation("eq:hw3-square-square")
@pytest.mark.parametrize("name", BY_HAND)
def test_contrastive_losses_by_hand(name):
    margin = 0.0 if name == "log" else 1.0
    found = losses.LOSSES[name](torch.tensor([0.5, 0.0]), torch.tensor([0.2, 3.0]), margin)
    assert found.tolist() == pytest.approx(BY_HAND[name], rel=1e-6)


@pytest.mark.equation("eq:hw3-loss-gradients")
@pytest.mark.parametrize("name", losses.LOSSES)
def test_derivatives_of_contrastive_losses(name):
    right, wrong = torch.randn(2, 200, dtype=torch.float64).mul(2).requires_grad_().unbind()
    margin = 0.0 if name == "log" else 1.0
    expected = torch.autograd.grad(losses.LOSSES[name](right, wrong, margin).sum(), (right, wrong))
    found = losses.derivatives(name, right.detach(), wrong.detach(), margin)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_log_loss_of_two_answers_is_their_likelihood():
    energies = torch.randn(50, 2, dtype=torch.float64)
    likelihood = losses.nll(energies, torch.zeros(50, dtype=torch.long))
    torch.testing.assert_close(losses.log(energies[:, 0], energies[:, 1]), likelihood)


def test_wrong_answers_are_those_far_from_both_right_ones():
    x = torch.tensor([0.0, 0.6, 1.0, -0.6])[:, None]
    y = torch.tensor([0.9, 0.5, 0.0, -0.7])
    expected = [
        [False, True, True, True],
        [False, True, True, False],
        [True, True, False, True],
        [False, True, True, False],
    ]
    assert ebm.is_wrong(x, y).tolist() == expected


def test_the_committed_energies_are_what_report_and_notebook_say():
    """Right answers alone collapse; a likelihood goes on digging in the second half, a margin hardly."""
    ways = runs.ENERGIES.result(records.ROOT)["ways"]
    assert ways["right answers only"]["depth"]["mean"] < 0.1 * ways["margin"]["depth"]["mean"]
    growth = {name: way["still_growing"]["mean"] for name, way in ways.items()}
    assert growth["margin"] < 1.2
    assert all(value > 1.3 for name, value in growth.items() if name.startswith("likelihood"))


@pytest.mark.slow
def test_a_short_run_shows_collapse_and_a_canyon(tmp_path, capsys):
    assert ebm.main(["--steps", "600", "--seeds", "0", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "assignments" / "hw3-energies.json").read_text())
    ways = result["ways"]
    assert ways["right answers only"]["depth"]["mean"] < 0.2
    assert ways["margin"]["depth"]["mean"] > 1
    assert ways["likelihood, beta 1"]["still_growing"]["mean"] > ways["margin"]["still_growing"]["mean"]
    assert "synthetic" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "plots" / "assignments").glob("*.png")} == {
        "hw3-energies-surfaces.png", "hw3-energies-depths.png",
    }  # fmt: skip
