"""How far the series' attention weights can be from softmax's.

Letters: L queries, S keys, D head dimension, K terms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from q1.monomials import check_terms


def approximation_bound(query: Tensor, key: Tensor, terms: int = 3, scale: float | None = None) -> Tensor:
    """A bound on sum_j |a_ij - b_ij|, exact against approximated attention weights, for each query: (..., L).

    By Taylor's theorem a score t has a remainder of at most r = |t|^K e^max(t,0) / K! (eq:remainder). With
    rho = sum_j r_j / sum_j e^t_j the weights differ by at most 2 rho / (1 - rho) while rho < 1 (else by no bound:
    infinity). For an odd K all approximated weights are positive (eq:positivity), so that it is min(2 rho, 2).
    An output differs by at most this times the largest |value|. Quadratic in memory: meant for analysis.
    """
    check_terms(terms)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ key.mT * scale  # (..., L, S)
    remainder = terms * scores.abs().log() + scores.clamp_min(0) - math.lgamma(terms + 1)  # its logarithm
    rho = (remainder.logsumexp(-1) - scores.logsumexp(-1)).exp()
    if terms % 2:
        return (2 * rho).clamp_max(2)
    return torch.where(rho < 1, 2 * rho / (1 - rho), torch.inf)
