"""Question 1 against references that share no code with it: sums written out, sympy and plain autograd."""

import itertools
import math

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from q1 import chunked
from q1.chunked import check_positive
from q1_linear_attention import (
    LinearAttentionState,
    feature_dim,
    linear_attention,
    maclaurin_features,
    softmax_attention,
)
from tests.q1.reference import (
    EXACT,
    EXACT_GRADIENT,
    check_against_quadratic,
    draw,
    draw_mask,
    gradients,
    kernel_weights,
    monomials,
    phi,
    quadratic,
    series,
    set_chunks,
)


@pytest.fixture
def small_chunks(monkeypatch):
    set_chunks(monkeypatch)


# --- softmax -----------------------------------------------------------------------------------------


@pytest.mark.equation("eq:softmax-attention")
def test_softmax_attention_by_hand():
    # scores log 1, log 2, log 5 at scale 1: weights 1/8, 2/8, 5/8
    query = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    key = torch.tensor([[0, 0], [math.log(2), 0], [0, math.log(5) / 2]], dtype=torch.float64)
    value = torch.tensor([[8.0, 0], [16, 0], [0, 8]], dtype=torch.float64)
    output = softmax_attention(query, key, value, scale=1.0)
    torch.testing.assert_close(output, torch.tensor([[5.0, 5.0]], dtype=torch.float64))


@pytest.mark.equation("eq:softmax-attention")
@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_softmax_attention_is_the_sum_over_keys(scale):
    query, key, value = draw(1, length=5, keys=7, dim=4, value_dim=2, leading=(2,))
    output = softmax_attention(query, key, value, scale)
    factor = 0.5 if scale is None else scale  # 4^-1/2
    for n, i in itertools.product(range(2), range(5)):
        weights = [math.exp(factor * sum(a * b for a, b in zip(query[n, i], key[n, j], strict=True))) for j in range(7)]
        expected = sum(w * value[n, j] for j, w in enumerate(weights)) / sum(weights)
        torch.testing.assert_close(output[n, i], expected, **EXACT)


# --- features ----------------------------------------------------------------------------------------


@pytest.mark.equation("eq:phi-3")
def test_features_by_hand():
    x = torch.tensor([3.0, 5.0], dtype=torch.float64)
    half = 1 / math.sqrt(2)
    symmetric = [1, 3, 5, 9 * half, 15, 25 * half]
    ordered = [1, 3, 5, 9 * half, 15 * half, 15 * half, 25 * half]
    torch.testing.assert_close(maclaurin_features(x), torch.tensor(symmetric, dtype=torch.float64), **EXACT)
    found = maclaurin_features(x, symmetric=False)
    torch.testing.assert_close(found, torch.tensor(ordered, dtype=torch.float64), **EXACT)


@pytest.mark.equation("eq:phi-3")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("dim", "terms"), [(2, 3), (3, 3), (2, 4), (2, 5)])
def test_symbols_prove_the_identity_and_the_code_computes_these_symbols(dim, terms, symmetric):
    q, k = sympy.symbols(f"q:{dim}"), sympy.symbols(f"k:{dim}")
    t = sum(a * b for a, b in zip(q, k, strict=True))
    product = sum(a * b for a, b in zip(phi(q, terms, symmetric), phi(k, terms, symmetric), strict=True))
    assert sympy.expand(product - series(t, terms)) == 0

    points = torch.tensor([[1.5, -2.0, 0.75], [0.0, 3.0, -1.0], [-0.4, -0.3, 2.2]], dtype=torch.float64)[:, :dim]
    numbers = [sympy.lambdify([q], phi(q, terms, symmetric))(point.tolist()) for point in points]
    found = maclaurin_features(points, terms, symmetric)
    torch.testing.assert_close(found, torch.tensor(numbers, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("terms", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dim", range(1, 9))
def test_product_of_features_is_the_truncated_series(dim, terms, symmetric):
    query, key, _ = draw(dim, length=6, keys=5, dim=dim, leading=(2, 3))
    features = maclaurin_features(query, terms, symmetric), maclaurin_features(key, terms, symmetric)
    expected = kernel_weights(query, key, terms, scale=1.0)
    torch.testing.assert_close(torch.einsum("...im,...jm->...ij", *features), expected, **EXACT)
    torch.testing.assert_close(features[0][1, 2, 3], maclaurin_features(query[1, 2, 3], terms, symmetric), **EXACT)


@pytest.mark.equation("eq:dim-K")
@pytest.mark.equation("eq:dim-K-symmetric")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("terms", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dim", [1, 2, 3, 5, 7])
def test_feature_dim_counts_the_monomials(dim, terms, symmetric):
    count = len(monomials(dim, terms, symmetric))
    assert feature_dim(dim, terms, symmetric) == count
    assert maclaurin_features(torch.ones(2, dim), terms, symmetric).shape == (2, count)


@pytest.mark.equation("eq:dim-3")
@pytest.mark.equation("eq:dim-3-symmetric")
@pytest.mark.parametrize("dim", [1, 2, 16, 64])
def test_feature_dim_of_three_terms(dim):
    assert feature_dim(dim, symmetric=False) == 1 + dim + dim**2
    assert feature_dim(dim) == 1 + dim + dim * (dim + 1) // 2
    assert (feature_dim(64), feature_dim(64, symmetric=False)) == (2145, 4161)  # the numbers in the report's example


@pytest.mark.parametrize("function", [lambda k: feature_dim(4, k), lambda k: maclaurin_features(torch.ones(4), k)])
def test_features_need_a_term(function):
    with pytest.raises(ValueError, match="terms is 0"):
        function(0)


# --- positivity --------------------------------------------------------------------------------------


@pytest.mark.equation("eq:positivity")
def test_symbols_prove_that_three_terms_are_at_least_one_half():
    t = sympy.symbols("t", real=True)
    assert sympy.expand(series(t, 3) - ((1 + t) ** 2 + 1) / 2) == 0
    assert sympy.minimum(series(t, 3), t) == sympy.Rational(1, 2)
    # an odd number of terms has no real root, and is 1 at 0; an even number has one
    for terms in (1, 3, 5, 7):
        assert sympy.real_roots(sympy.Poly(series(t, terms), t)) == []
    for terms in (2, 4, 6):
        assert len(sympy.real_roots(sympy.Poly(series(t, terms), t))) == 1


@pytest.mark.equation("eq:positivity")
@pytest.mark.parametrize("terms", [1, 3, 5])
@pytest.mark.parametrize("causal", [True, False])
def test_with_odd_terms_every_output_is_a_mean_of_the_values(terms, causal, small_chunks):
    # the weight of each key is an output where the values are one-hot
    query, key, _ = draw(3, length=24, leading=(), size=4.0)
    key[:12] = -3 * query[:12]  # among them scores far below zero
    weights = linear_attention(query, key, torch.eye(24, dtype=torch.float64), terms=terms, causal=causal)
    visible = torch.ones(24, 24).tril().bool() if causal else torch.ones(24, 24).bool()
    assert (query @ key.T)[visible].min() < -50
    assert (weights[visible] > 0).all()
    assert (weights[~visible] == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(24, dtype=torch.float64), **EXACT)


# --- linear attention --------------------------------------------------------------------------------


@pytest.mark.equation("eq:linear-attention")
def test_linear_attention_by_hand():
    # D = 1, scale 1, q.k = 2, 0, -1: weights 1 + t + t^2/2 = 5, 1, 1/2
    query = torch.tensor([[2.0]], dtype=torch.float64)
    key = torch.tensor([[1.0], [0.0], [-0.5]], dtype=torch.float64)
    value = torch.tensor([[1.0, 0.0], [2.0, 13.0], [6.0, 0.0]], dtype=torch.float64)
    found = linear_attention(query, key, value, scale=1.0)
    torch.testing.assert_close(found, torch.tensor([[10 / 6.5, 13 / 6.5]], dtype=torch.float64), **EXACT)


@pytest.mark.equation("eq:linear-attention")
@pytest.mark.equation("eq:normaliser")
@pytest.mark.parametrize("terms", [1, 3, 4])
def test_linear_attention_is_the_formula_of_the_features(terms):
    query, key, value = draw(2, length=6, keys=9, dim=3, leading=(), size=0.5)
    rows = [np.array([phi(row, terms) for row in x.tolist()], dtype=float) for x in (query / math.sqrt(3), key)]
    numerator = rows[0] @ (rows[1].T @ value.numpy())
    diagonal = np.diag(rows[0] @ rows[1].T @ np.ones(9))
    expected = np.linalg.inv(diagonal) @ numerator
    torch.testing.assert_close(linear_attention(query, key, value, terms=terms), torch.tensor(expected), **EXACT)


@pytest.mark.equation("eq:normaliser")
@pytest.mark.parametrize("causal", [True, False])
def test_the_sum_of_the_weights_is_divided_out(causal, small_chunks):
    query, key, _ = draw(4, length=40)
    ones = torch.ones(3, 40, 2, dtype=torch.float64)
    torch.testing.assert_close(linear_attention(query, key, ones, causal=causal), ones, **EXACT)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("terms", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("length", [1, 16, 17, 50])
def test_output_and_gradients_equal_the_quadratic_form(length, terms, causal, masked, small_chunks):
    # even terms are positive, and so defined, for small scores only
    inputs = draw(length, length=length, size=0.4 if terms % 2 == 0 else 1.5, leading=(2, 2))
    hidden = draw_mask(length, (2, 2), length) if masked else None
    if masked and causal and terms % 2 == 0:
        hidden[..., 0] = False
    check_against_quadratic(inputs, terms=terms, causal=causal, hidden=hidden)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", [1, 2 * 256 * 15, 3 * 256 * 15, 2**21])  # D = 4 has 15 features
@pytest.mark.parametrize("heads", [1, 4, 5])
def test_groups_of_heads_of_any_size(heads, block, causal, monkeypatch):
    set_chunks(monkeypatch, block=block)
    hidden = draw_mask(0, (heads,), 40)
    check_against_quadratic(draw(heads, length=40, leading=(heads,)), causal=causal, hidden=hidden)


@pytest.mark.parametrize("causal", [False, True])
def test_the_small_chunks_of_these_tests_are_really_used(causal, monkeypatch):
    seen = []
    fill = chunked.MonomialRows.fill

    def record(self, x):
        seen.append(tuple(x.shape))
        return fill(self, x)

    monkeypatch.setattr(chunked.MonomialRows, "fill", record)
    set_chunks(monkeypatch, block=2 * 256 * 15)
    linear_attention(*draw(length=35, leading=(4,)), causal=causal)
    assert {heads for heads, _, _ in seen} == {2}
    assert {tokens for _, tokens, _ in seen} == {12, 11}  # 35 = 12 + 12 + 11
    assert len(seen) == 2 * (4 if causal else 6)  # the causal first chunk needs no state, its last gives none


@pytest.mark.parametrize("length", [255, 256, 257, 513])
def test_causal_attention_about_the_real_chunk(length):
    assert chunked.CAUSAL_CHUNK == 256
    check_against_quadratic(draw(length, length=length, dim=3, leading=(2,)), causal=True)


@pytest.mark.parametrize("length", [2047, 2048, 2049])
def test_attention_about_the_real_chunk(length):
    assert chunked.CHUNK["cpu"] == 2048
    check_against_quadratic(draw(length, length=length, keys=300, dim=2, value_dim=2, leading=()))
    check_against_quadratic(draw(length, length=300, keys=length, dim=2, value_dim=2, leading=()))


@pytest.mark.parametrize(("length", "keys"), [(1, 40), (40, 1), (10, 33), (33, 10), (64, 16)])
def test_cross_attention(length, keys, small_chunks):
    hidden = draw_mask(5, (3,), keys)
    check_against_quadratic(draw(length, length=length, keys=keys), hidden=hidden)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 1.0, 0.37, -0.5])
def test_scale(scale, causal, small_chunks):
    check_against_quadratic(draw(6, length=20, dim=9), scale=scale, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("dim", "value_dim"), [(1, 1), (1, 5), (6, 1), (5, 8)])
def test_values_of_another_dimension(dim, value_dim, causal, small_chunks):
    check_against_quadratic(draw(7, length=20, dim=dim, value_dim=value_dim), causal=causal)


@pytest.mark.parametrize("causal", [False, True])
def test_leading_dimensions_broadcast(causal, small_chunks):
    query, _, _ = draw(0, length=20, leading=(2, 1, 3))
    _, key, _ = draw(1, length=20, leading=(4, 1))
    _, _, value = draw(2, length=20, leading=())
    hidden = draw_mask(3, (2, 1, 1), 20)
    assert linear_attention(query, key, value).shape == (2, 4, 3, 20, 3)
    check_against_quadratic([query, key, value], causal=causal, hidden=hidden)


@pytest.mark.parametrize("causal", [False, True])
def test_transposed_heads_and_gradients(causal, small_chunks):
    batch, heads, length, dim = 2, 3, 20, 4
    leaves = [torch.randn(batch, length, heads * dim, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def run(function):
        query, key, value = (x.unflatten(-1, (heads, dim)).transpose(1, 2) for x in leaves)
        assert not query.is_contiguous()
        output = function(query, key, value, causal=causal).transpose(1, 2).flatten(2)
        return output, torch.autograd.grad((output**3).sum(), leaves)

    output, found = run(linear_attention)
    reference, expected = run(quadratic)
    torch.testing.assert_close(output, reference, **EXACT)
    torch.testing.assert_close(found, expected, **EXACT_GRADIENT)


def test_inputs_stay_as_they_were(small_chunks):
    inputs = draw(8, length=40)
    before = [x.clone() for x in inputs]
    hidden = draw_mask(8, (3,), 40)
    gradients(lambda *x: linear_attention(*x, causal=True, key_padding_mask=hidden), inputs)
    gradients(lambda *x: linear_attention(*x, key_padding_mask=hidden), inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(data=st.data())
def test_any_shape_equals_the_quadratic_form(data):
    leading = tuple(data.draw(st.lists(st.integers(1, 3), max_size=3), "leading"))
    length, dim, value_dim = (data.draw(st.integers(1, n), name) for n, name in ((70, "L"), (6, "D"), (5, "E")))
    causal, masked = data.draw(st.booleans(), "causal"), data.draw(st.booleans(), "masked")
    keys = length if causal else data.draw(st.integers(1, 70), "S")
    terms = data.draw(st.sampled_from([1, 3, 5]), "terms")
    seed = data.draw(st.integers(0, 2**16), "seed")
    hidden = None
    if masked:  # whole rows hidden, too
        hidden = torch.rand(*leading, keys, generator=torch.Generator().manual_seed(seed)) < 0.5
    with pytest.MonkeyPatch.context() as patch:
        causal_chunk, full_chunk = (
            data.draw(st.integers(1, 40), "causal chunk"),
            data.draw(st.integers(16, 40), "chunk"),
        )
        set_chunks(patch, causal_chunk, full_chunk, data.draw(st.sampled_from([1, 2**14, 2**21]), "block"))
        inputs = draw(seed, length, keys, dim, value_dim, leading)
        check_against_quadratic(inputs, terms=terms, causal=causal, hidden=hidden)


# --- gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("terms", [1, 2, 3, 4])
def test_gradients_equal_finite_differences(terms, causal, masked, monkeypatch):
    set_chunks(monkeypatch, causal=3)
    length, keys = (7, 7) if causal else (17, 18)  # several chunks: 3, 3, 1 and 9, 9
    size = 0.4 if terms % 2 == 0 else 1.0
    inputs = [x.requires_grad_() for x in draw(1, length, keys, 2, 2, leading=(2,), size=size)]
    hidden = draw_mask(2, (2,), keys) if masked else None
    if masked:
        hidden[:, 0] = False

    def function(*x):
        return linear_attention(*x, terms=terms, causal=causal, key_padding_mask=hidden)

    # by random projections; with tangents, and gradients of a batch at once
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True, check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_a_longer_sequence(causal, masked, monkeypatch):
    set_chunks(monkeypatch, causal=24, full=40, block=2**13)
    hidden = draw_mask(3, (2, 3), 300) if masked else None
    check_against_quadratic(draw(3, 300, dim=8, value_dim=6, leading=(2, 3)), causal=causal, hidden=hidden)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_by_one_input_only(causal, small_chunks):
    inputs = draw(4, length=20)
    _, expected = gradients(lambda *x: quadratic(*x, causal=causal), inputs)
    for place in range(3):
        single = [x.clone().requires_grad_(i == place) for i, x in enumerate(inputs)]
        generator = torch.Generator().manual_seed(9)
        grad = torch.randn(3, 20, 3, generator=generator, dtype=torch.float64)
        linear_attention(*single, causal=causal).backward(grad)
        torch.testing.assert_close(single[place].grad, expected[place], **EXACT_GRADIENT)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("causal", [False, True])
def test_padding_counts_for_nothing_whatever_it_holds(causal, garbage, small_chunks):
    query, key, value = draw(5, length=40)
    hidden = draw_mask(5, (3,), 40)
    dirty_key, dirty_value = (x.masked_fill(hidden[..., None], garbage) for x in (key, value))

    def function(*x):
        return linear_attention(*x, causal=causal, key_padding_mask=hidden)

    clean, expected = gradients(function, (query, key, value))
    dirty, found = gradients(function, (query, dirty_key, dirty_value))
    assert torch.equal(dirty, clean)
    assert dirty.isfinite().all()
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)
        assert mine.isfinite().all()
    assert not found[1][hidden].any()
    assert not found[2][hidden].any()
    assert found[1][~hidden].any(-1).sum() > 50  # where the loss does depend on the keys, there is a gradient


@pytest.mark.parametrize("terms", [2, 3])
def test_where_all_keys_are_hidden_the_output_is_zero(terms, small_chunks):
    inputs = draw(6, length=20, size=0.4)
    hidden = torch.zeros(3, 20, dtype=torch.bool)
    hidden[1] = True
    output, found = gradients(lambda *x: linear_attention(*x, terms=terms, key_padding_mask=hidden), inputs)
    _, expected = gradients(lambda *x: F.scaled_dot_product_attention(*x, ~hidden[:, None]), inputs)
    for x in (output, *found, *expected):
        assert (x[1] == 0).all()
        assert x[[0, 2]].isfinite().all()
        assert x[[0, 2]].any()


@pytest.mark.parametrize("terms", [2, 3])
def test_causal_queries_before_the_first_key_get_zero(terms, small_chunks):
    inputs = draw(7, length=40, size=0.4)
    hidden = torch.arange(40) < torch.tensor([[0], [3], [20]])  # left padding, over a whole chunk in the last row
    options = {"terms": terms, "causal": True}
    output, (by_query, _, _) = gradients(lambda *x: linear_attention(*x, key_padding_mask=hidden, **options), inputs)
    assert (output[hidden] == 0).all()
    assert (by_query[hidden] == 0).all()
    assert output[~hidden].all()
    check_against_quadratic(inputs, hidden=hidden, **options)


# --- causality ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 7, 15, 16, 30])
def test_later_tokens_change_nothing(place, small_chunks):
    inputs = draw(8, length=40)
    others = [
        torch.cat([x[:, : place + 1], 7 * y[:, place + 1 :]], 1) for x, y in zip(inputs, draw(9, 40), strict=True)
    ]

    def function(*x):
        return linear_attention(*x, causal=True)[:, : place + 1]

    output, found = gradients(function, inputs)
    changed, found_changed = gradients(function, others)
    torch.testing.assert_close(changed, output, rtol=1e-14, atol=0)
    for mine, other in zip(found, found_changed, strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-12, atol=1e-14)
        assert not mine[:, place + 1 :].any()
    assert not torch.allclose(linear_attention(*others, causal=True)[:, -1], linear_attention(*inputs)[:, -1])


# --- bad input ---------------------------------------------------------------------------------------


ok = torch.ones(2, 5, 4)
BAD = {
    "one dimension": ((torch.ones(4), ok, ok), {}, r"expected \(\.\.\., L, D\).*query \(4,\)"),
    "query and key of other dimensions": ((ok[..., :3], ok, ok), {}, r"the same last dimension.*\(2, 5, 3\)"),
    "keys and values of other lengths": ((ok, ok, ok[:, :4]), {}, r"the same length.*\(2, 4, 4\)"),
    "no token": ((ok[:, :0], ok, ok), {}, "empty sequence"),
    "no key": ((ok, ok[:, :0], ok[:, :0]), {}, "empty sequence"),
    "mixed types": ((ok, ok, ok.double()), {}, "one floating type, got torch.float32, torch.float32, torch.float64"),
    "query of another type": ((ok.half(), ok, ok), {}, "one floating type"),
    "integers": ((ok.int(), ok.int(), ok.int()), {}, "one floating type, got torch.int32"),
    "causal with fewer queries": ((ok[:, :3], ok, ok), {"causal": True}, "as many queries as keys"),
    "causal with more queries": ((ok, ok[:, :3], ok[:, :3]), {"causal": True}, "as many queries as keys"),
    "no term": ((ok, ok, ok), {"terms": 0}, "terms is 0"),
    "a negative number of terms": ((ok, ok, ok), {"terms": -3}, "terms is -3"),
    "a mask of numbers": ((ok, ok, ok), {"key_padding_mask": torch.ones(2, 5)}, "torch.float32.*expected bool"),
    "a mask too short": (
        (ok, ok, ok),
        {"key_padding_mask": torch.ones(2, 4).bool()},
        r"\(2, 4\), expected bool \(\.\.\., 5",
    ),
    "a mask with one column": ((ok, ok, ok), {"key_padding_mask": torch.ones(2, 1).bool()}, "expected bool"),
    "a mask with more heads": ((ok, ok, ok), {"key_padding_mask": torch.ones(3, 2, 5).bool()}, "does not fit leading"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    inputs, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        linear_attention(*inputs, **options)


@pytest.mark.parametrize("case", ["heads", "mask"])
def test_leading_dimensions_that_do_not_broadcast_are_refused(case):
    mask = torch.zeros(3, 5, dtype=torch.bool) if case == "mask" else None
    with pytest.raises(ValueError, match=r"leading|fit|broadcast"):
        linear_attention(ok, ok if case == "mask" else torch.ones(3, 5, 4), ok, key_padding_mask=mask)


@pytest.mark.parametrize("causal", [False, True])
def test_nan_in_a_query_stays_in_its_row(causal, small_chunks):
    query, key, value = draw(18, length=40)
    query[1, 20, 2] = math.nan
    output = linear_attention(query, key, value, causal=causal)
    where = output.isnan()
    assert where[1, 20].all()
    where[1, 20] = False
    assert not where.any()


@pytest.mark.parametrize("place", ["key", "value"])
def test_nan_in_a_key_or_value_shows_in_its_head_only(place, small_chunks):
    query, key, value = draw(18, length=40)
    (key if place == "key" else value)[1, 20] = math.nan
    where = linear_attention(query, key, value).isnan()
    assert where[1].all()
    assert not where[[0, 2]].any()
    where = linear_attention(query, key, value, causal=True).isnan()
    assert where[1, 20:].all()
    assert not where[1, :14].any()  # 40 = 14 + 14 + 12: the first chunk lies before
    assert not where[[0, 2]].any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("terms", [1, 2, 3, 4, 5])
def test_even_terms_refuse_scores_far_below_zero(terms, dtype, causal):
    query, key = torch.full((2, 20, 4), 3.0, dtype=dtype), torch.full((2, 20, 4), -3.0, dtype=dtype)
    if terms % 2:
        torch.testing.assert_close(linear_attention(query, key, query, terms=terms, causal=causal), query)
        return
    with pytest.raises(ValueError, match=f"terms={terms} .*even number of terms"):
        linear_attention(query, key, query, terms=terms, causal=causal)


def test_one_bad_query_among_good_ones_is_enough(small_chunks):
    query, key, value = draw(19, length=40, size=0.1)
    linear_attention(query, key, value, terms=2)
    query[2, 33], key[2] = -40.0, key[2].abs()
    with pytest.raises(ValueError, match="even number of terms"):
        linear_attention(query, key, value, terms=2)


@pytest.mark.parametrize("causal", [False, True])
def test_a_sum_of_exactly_zero_is_refused(causal):
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="even number of terms"):
        linear_attention(one, -one, one, terms=2, scale=1.0, causal=causal)  # 1 + t = 0
    state = LinearAttentionState(terms=2, scale=1.0)
    state.add(-one, one)
    with pytest.raises(ValueError, match="even number of terms"):
        state.read(one)
    assert linear_attention(one, -one, one, terms=3, scale=1.0, causal=causal) == 1


def test_a_sum_that_rounding_made_negative_is_refused():
    with pytest.raises(ValueError, match=r"rounding errors in torch\.float32"):
        check_positive(torch.tensor([0.5, -1e-3]), terms=3)
    with pytest.raises(ValueError, match="even number of terms"):
        check_positive(torch.tensor([0.5, 0.0]), terms=2)
    check_positive(torch.tensor([0.5, math.inf, math.nan]), terms=3)


# --- types -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_result_only(dtype, causal, small_chunks):
    inputs = draw(20, length=70, dim=8, dtype=dtype)
    output, found = gradients(lambda *x: linear_attention(*x, causal=causal), inputs)
    reference, expected = gradients(lambda *x: quadratic(*x, causal=causal), [x.double() for x in inputs])
    assert output.dtype == dtype
    eps = torch.finfo(dtype).eps  # rounding the result costs half of it; float32's part is 1e-5 at the very most
    torch.testing.assert_close(output.double(), reference, rtol=0.51 * eps, atol=1e-5)
    for mine, theirs in zip(found, expected, strict=True):
        # the gradient is also made from the rounded output and the rounded gradient that comes in
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), theirs, rtol=2 * eps, atol=2 * eps * theirs.abs().max().item())


@pytest.mark.parametrize("causal", [False, True])
def test_long_sums_of_bfloat16_are_made_in_float32(causal, small_chunks):
    # 16 added to 4096 is 4096 in bfloat16: sums would stop growing, and the mean of the values would be 1
    length = 8192
    ones = torch.ones(1, length, 1, dtype=torch.bfloat16)
    value = (torch.arange(length) >= length // 2).to(torch.bfloat16)[None, :, None]
    assert linear_attention(ones, ones, value, causal=causal)[0, -1].item() == 0.5


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_long_bfloat16_sums_are_made_in_float32(causal, small_chunks):
    # the value of the first key is seen by all queries alike: without causality each gets a weight of 1 / length
    length = 8192
    ones = torch.ones(1, length, 1, dtype=torch.bfloat16)
    value = ones.clone().requires_grad_()
    linear_attention(ones, ones, value, causal=causal).sum().backward()
    expected = sum(1 / n for n in range(1, length + 1)) if causal else 1.0
    assert value.grad[0, 0].item() == pytest.approx(expected, rel=0.005)  # bfloat16's rounding is 0.004 at most


@pytest.mark.parametrize("causal", [False, True])
def test_long_float32_sequences_stay_close_to_float64(causal):
    inputs = draw(21, length=20000, leading=(1,), dim=8, value_dim=8)
    found = linear_attention(*(x.float() for x in inputs), causal=causal)
    assert found.dtype == torch.float32
    if causal:  # a row of the full matrix here and there
        rows = [0, 1, 255, 256, 9999, 19999]
        expected = torch.cat(
            [quadratic(inputs[0][:, i : i + 1], *(x[:, : i + 1] for x in inputs[1:])) for i in rows], 1
        )
    else:
        rows = slice(0, 20000, 500)
        expected = quadratic(inputs[0][:, rows], *inputs[1:])
    # float32 has 6e-8, and features of size 10 are summed over 20,000 keys
    torch.testing.assert_close(found[:, rows].double(), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_autocast_leaves_float32_its_precision(causal, small_chunks):
    inputs = draw(22, length=70, dim=8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, found = gradients(lambda *x: linear_attention(*x, causal=causal), inputs)
    reference, expected = gradients(lambda *x: quadratic(*x, causal=causal), [x.double() for x in inputs])
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), reference, rtol=1e-5, atol=1e-5)  # bfloat16 would be off by 1e-2
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)


# --- the state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("terms", [1, 2, 3, 5])
def test_state_makes_the_causal_pass_token_by_token(terms, scale):
    query, key, value = draw(9, length=30, leading=(2, 2), size=0.5)
    state = LinearAttentionState(terms, scale)
    steps, sizes = [], set()
    for i in range(30):
        steps.append(state.step(query[..., i, :], key[..., i, :], value[..., i, :]))
        sizes.add(state.sums.shape)
    torch.testing.assert_close(torch.stack(steps, -2), quadratic(query, key, value, terms, True, scale), **EXACT)
    assert sizes == {(2, 2, len(monomials(4, terms)), 3 + 1)}


def test_state_is_a_memory_that_can_be_filled_in_pieces():
    query, key, value = draw(10, length=6, keys=25)
    state = LinearAttentionState()
    for part in (slice(0, 1), slice(1, 20), slice(20, 25)):
        state.add(key[:, part], value[:, part])
    expected = quadratic(query, key, value)
    torch.testing.assert_close(state.read(query), expected, **EXACT)
    torch.testing.assert_close(state.read(query), expected, **EXACT)  # reading changes nothing


def test_state_records_no_gradient():
    query, key, value = (x.requires_grad_() for x in draw(11))
    state = LinearAttentionState()
    state.add(key, value)
    assert not state.read(query).requires_grad


def test_empty_state_cannot_be_read():
    with pytest.raises(ValueError, match="the state is empty"):
        LinearAttentionState().read(torch.ones(1, 2))
    with pytest.raises(ValueError, match="terms is 0"):
        LinearAttentionState(terms=0)


def test_state_of_bfloat16_tokens_is_summed_in_float32():
    # 1 added to 256 is 256 in bfloat16: half of 512 tokens would be lost
    state = LinearAttentionState()
    one = torch.ones(1, dtype=torch.bfloat16)
    for i in range(512):
        output = state.step(one, one, one * (i >= 256))
    assert state.sums.dtype == torch.float32
    assert output.dtype == torch.bfloat16
    assert output.item() == 0.5


def test_state_under_autocast_keeps_float32():
    query, key, value = draw(12, length=50, dtype=torch.float32)
    state = LinearAttentionState()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state.add(key, value)
        output = state.read(query)
    expected = quadratic(*(x.double() for x in (query, key, value)))
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
