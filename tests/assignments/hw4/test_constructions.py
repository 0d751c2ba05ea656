"""Attention in columns: changes against simulation, constructions against what they construct."""

import pytest
import torch
import torch.nn.functional as F

from assignments.hw4 import constructions as built


def random_attention(n=5, m=7, d=4, t=3):
    return torch.randn(d, n), torch.randn(d, m), torch.randn(t, m)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.equation("eq:hw4-attention")
def test_columns_are_the_rows_of_pytorch():
    Q, K, V = random_attention()
    A, H = built.attend(Q, K, V, 0.3)
    torch.testing.assert_close(A.sum(0), torch.ones(5))
    expected = F.scaled_dot_product_attention(Q.T[None], K.T[None], V.T[None], scale=0.3)[0].T
    torch.testing.assert_close(H, expected)


def test_beta_decides_between_one_value_and_the_mean_of_all():
    Q, K, V = random_attention()
    hard, soft = (built.attend(Q, K, V, beta)[1] for beta in (1e4, 0.0))
    torch.testing.assert_close(hard, V[:, (K.T @ Q).argmax(0)])
    torch.testing.assert_close(soft, V.mean(1, keepdim=True).expand(-1, 5))


@pytest.mark.equation("eq:hw4-scores-variance")
@pytest.mark.parametrize("d", [4, 64, 256])
def test_scores_have_the_variance_of_their_dimension(d):
    torch.manual_seed(0)
    scores = (torch.randn(20_000, d) * torch.randn(20_000, d)).sum(1)
    assert scores.var().item() / d == pytest.approx(1, abs=0.05)  # its standard error is about .012


@pytest.mark.equation("eq:hw4-key-change")
@pytest.mark.equation("eq:hw4-query-change")
def test_first_order_changes_are_the_derivatives():
    Q, K, V = random_attention()
    delta = torch.randn(4)

    def by_key(step):
        return built.attend(Q, K.index_add(1, torch.tensor([2]), step * delta[:, None]), V, 0.7)[1]

    def by_query(step):
        return built.attend(Q.index_add(1, torch.tensor([3]), step * delta[:, None]), K, V, 0.7)[1]

    for function, found in (
        (by_key, built.change_by_key(Q, K, V, 0.7, 2, delta)),
        (by_query, F.pad(built.change_by_query(Q, K, V, 0.7, 3, delta)[:, None], (3, 1))),
    ):
        step = 1e-5
        torch.testing.assert_close(found, (function(step) - function(-step)) / (2 * step), rtol=1e-6, atol=1e-9)


@pytest.mark.equation("eq:hw4-identity")
def test_self_attention_that_is_an_identity():
    X = torch.randn(6, 9)
    torch.testing.assert_close(built.self_attention(X, built.identity_heads(9, 6), 40.0), X, rtol=0, atol=1e-6)


@pytest.mark.equation("eq:hw4-permutation")
def test_self_attention_that_is_a_permutation():
    X, order = torch.randn(6, 9), torch.randperm(9)
    found = built.self_attention(X, built.permutation_heads(order, 6), 40.0)
    torch.testing.assert_close(found, X[:, order], rtol=0, atol=1e-6)


@pytest.mark.equation("eq:hw4-convolution")
def test_self_attention_that_is_a_convolution():
    X, kernel = torch.randn(6, 9), torch.randn(4, 6, 3)
    found = built.self_attention(X, built.convolution_heads(kernel, 9), 40.0)
    torch.testing.assert_close(found, F.conv1d(X[None], kernel, padding=1)[0], rtol=0, atol=1e-6)


@pytest.mark.equation("eq:hw4-look-ahead")
def test_look_ahead_adds_up_over_layers():
    mask = built.visible(10, 2)
    assert mask[3].tolist() == [True] * 6 + [False] * 4
    assert built.visible(10, 0).equal(torch.ones(10, 10).tril().bool())
    assert built.visible(4, 1, 1)[2].tolist() == [False, True, True, True]
    assert built.visible(3, None).all()
    farthest = built.reach([mask] * 3)[0].nonzero().max()
    assert farthest == 6
