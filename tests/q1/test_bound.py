"""How far linear attention is from softmax: the bound against the formula in 60 digits, and against the error."""

import itertools

import mpmath
import pytest
import torch
from torch.nn import functional as F

from q1_linear_attention import approximation_bound, linear_attention, softmax_attention
from tests.q1.reference import draw, kernel_weights


@pytest.mark.equation("eq:remainder")
@pytest.mark.parametrize("terms", range(1, 7))
def test_remainder_of_the_series(terms):
    with mpmath.workdps(60):
        for t in [mpmath.mpf(n) / 4 for n in range(-120, 121)]:
            remainder = abs(mpmath.exp(t) - sum(t**n / mpmath.factorial(n) for n in range(terms)))
            assert remainder <= abs(t) ** terms * mpmath.exp(max(t, 0)) / mpmath.factorial(terms)


@pytest.mark.equation("eq:remainder")
@pytest.mark.parametrize("terms", range(1, 7))
def test_bound_is_its_formula(terms):
    # for one query over two keys, worked out in 60 digits
    with mpmath.workdps(60):
        for first, second in itertools.product([-20.0, -1.5, -0.25, 0.0, 0.5, 3.0, 30.0], repeat=2):
            scores = [mpmath.mpf(first), mpmath.mpf(second)]
            remainders = [abs(t) ** terms * mpmath.exp(max(t, 0)) / mpmath.factorial(terms) for t in scores]
            rho = sum(remainders) / sum(mpmath.exp(t) for t in scores)
            even = 2 * rho / (1 - rho) if rho < 1 else mpmath.inf
            expected = min(2 * rho, mpmath.mpf(2)) if terms % 2 else even
            key = torch.tensor([[first / 2], [second / 2]], dtype=torch.float64)
            found = approximation_bound(torch.full((1, 1), 2.0, dtype=torch.float64), key, terms, scale=1.0)
            assert found.shape == (1,)
            # 1 - rho loses digits where rho is close to 1
            assert found.item() == pytest.approx(float(expected), rel=1e-9, abs=0)


def weight_error(query, key, terms, scale=None):
    """sum_j |a_ij - b_ij| of the exact and the approximated weights."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = scale * torch.einsum("...id,...jd->...ij", query, key)
    exact = (scores - scores.amax(-1, keepdim=True)).exp()
    approximated = kernel_weights(query, key, terms, scale=scale)
    return (exact / exact.sum(-1, keepdim=True) - approximated / approximated.sum(-1, keepdim=True)).abs().sum(-1)


def adversarial(name):
    query, key, _ = draw(13, length=16, keys=30, leading=())
    if name == "large norms":
        return 30 * query, 30 * key
    if name == "scores far below zero":
        return query.abs() + 1, -10 * key.abs() - 1
    if name == "one huge score":
        key = 0.1 * key
        key[7] = 40 * query[3]
    if name == "huge negative score":
        key = 0.1 * key
        key[7] = -40 * query[3]
    if name == "equal keys":
        key = key[:1].expand(30, -1)
    return query, key


@pytest.mark.equation("eq:remainder")
@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("terms", range(1, 7))
def test_bound_holds(terms, scale):
    names = "large norms", "scores far below zero", "one huge score", "huge negative score", "equal keys"
    cases = [adversarial(name) for name in names]
    cases += [draw(seed, 16, 30, size=size)[:2] for seed, size in enumerate([0.01, 0.1, 0.3, 0.5, 1, 2, 5])]
    finite = 0
    for query, key in cases:
        bound = approximation_bound(query, key, terms, scale)
        assert not bound.isnan().any()
        error = weight_error(query, key, terms, scale)
        says = bound.isfinite()  # an even number of terms may make any error
        assert says.all() or terms % 2 == 0
        assert (error[says] <= bound[says] * (1 + 1e-9) + 1e-14).all()  # the error itself has float64's rounding
        finite += (bound < 1).sum()
    assert finite > 50  # it says something


@pytest.mark.parametrize("terms", [2, 3, 4])
def test_bound_is_not_vacuous(terms):
    query, key, _ = draw(14, length=50, keys=30, size=0.6)
    bound, error = approximation_bound(query, key, terms), weight_error(query, key, terms)
    assert bound.median() < (0.5 if terms == 2 else 0.1)
    assert (error > 0.01 * bound).any()


@pytest.mark.parametrize("terms", range(1, 6))
def test_bound_and_error_shrink_in_the_order_of_the_first_missing_term(terms):
    query, key, _ = draw(15, length=5, keys=20, size=0.1)
    for function in (approximation_bound, weight_error):
        first, half = function(query, key, terms), function(query / 2, key, terms)
        # the next term is of relative size |t| / (K+1), a percent here; an error of 1e-9 still has seven digits
        torch.testing.assert_close(first / half, torch.full_like(first, 2.0**terms), rtol=0.1, atol=0)


@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
def test_outputs_differ_by_at_most_the_bound_times_the_largest_value(size):
    query, key, value = draw(16, length=40, size=size)
    difference = (softmax_attention(query, key, value) - linear_attention(query, key, value)).abs().amax(-1)
    largest = value.abs().amax((-1, -2))[:, None]
    assert (difference <= approximation_bound(query, key) * largest + 1e-13).all()
    assert (difference > 1e-8).all()


def test_more_terms_come_to_softmax():
    query, key, value = draw(17, length=20, size=0.7)
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(linear_attention(query, key, value, terms=13), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(linear_attention(query, key, value, terms=3), expected, rtol=0, atol=1e-3)


def test_bound_needs_a_term():
    with pytest.raises(ValueError, match="terms is 0"):
        approximation_bound(torch.ones(2, 2), torch.ones(2, 2), terms=0)
