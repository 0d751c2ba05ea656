"""Homework 3's losses of energies, with their (sub)gradients as formulae.

`right` is the energy F(x, y) of a right answer, `wrong` that of a wrong one; both of any one shape.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gibbs(energies: Tensor, beta: float = 1.0) -> Tensor:
    """exp(-beta F) / sum exp(-beta F) over the last dimension (eq:hw3-gibbs)."""
    return (-beta * energies).softmax(-1)


def nll(energies: Tensor, answers: Tensor, beta: float = 1.0) -> Tensor:
    """F(x, y) + 1/beta log sum exp(-beta F) (eq:hw3-nll-beta): energies (..., C), answers (...) -> (...).

    -log of the Gibbs probability, divided by beta; with beta infinite, how far y is above the least energy.
    """
    right = energies.gather(-1, answers[..., None])[..., 0]
    if math.isinf(beta):
        return right - energies.amin(-1)
    return right + (-beta * energies).logsumexp(-1) / beta


def simple(right: Tensor, wrong: Tensor, margin: float = 1.0) -> Tensor:
    """[F(y)]+ + [m - F(wrong)]+ (eq:hw3-simple): two wishes, each with a level of its own."""
    return right.relu() + (margin - wrong).relu()


def hinge(right: Tensor, wrong: Tensor, margin: float = 1.0) -> Tensor:
    """[F(y) - F(wrong) + m]+ (eq:hw3-hinge): only the difference counts."""
    return (right - wrong + margin).relu()


def log(right: Tensor, wrong: Tensor, margin: float = 0.0) -> Tensor:
    """log(1 + exp(F(y) - F(wrong) + m)) (eq:hw3-log): a hinge without its corner."""
    return F.softplus(right - wrong + margin)


def square_square(right: Tensor, wrong: Tensor, margin: float = 1.0) -> Tensor:
    """[F(y)]+^2 + [m - F(wrong)]+^2 (eq:hw3-square-square)."""
    return right.relu() ** 2 + (margin - wrong).relu() ** 2


LOSSES = {"simple": simple, "hinge": hinge, "log": log, "square-square": square_square}


def derivatives(name: str, right: Tensor, wrong: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """dl/dF(y) and dl/dF(wrong) of a loss (eq:hw3-loss-gradients); 0 is taken at a corner."""
    if name == "simple":
        return (right > 0).to(right), -(wrong < margin).to(wrong)
    if name == "square-square":
        return 2 * right.relu(), -2 * (margin - wrong).relu()
    difference = right - wrong + margin
    slope = (difference > 0).to(right) if name == "hinge" else torch.sigmoid(difference)
    return slope, -slope
