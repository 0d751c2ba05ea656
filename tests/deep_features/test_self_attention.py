"""Self-attention in NumPy and PyTorch, against each other, the shared module, PyTorch's own, and a case by hand."""

import numpy as np
import pytest
import torch

from deep_features import self_attention as sa


@pytest.mark.parametrize("flags", [{}, {"batch": 3, "length": 20, "dim": 128, "query_dim": 64, "value_dim": 32}])
def test_all_implementations_agree(flags):
    result = sa.run(sa.Config(**flags))
    for kind in result["differences"].values():
        assert len(kind) == 2
        assert max(kind.values()) < sa.TOLERANCE


@pytest.mark.equation("eq:self-attention")
def test_two_tokens_by_hand():
    x = np.array([[1.0, 0.0], [0.0, 2.0]])
    w_query, w_key, w_value = np.array([[np.log(2)], [0.0]]), np.array([[1.0], [0.0]]), np.array([[3.0], [6.0]])
    # queries log 2 and 0, keys 1 and 0, values 3 and 12: the first looks 2 to 1 at both, the second equally
    np.testing.assert_allclose(sa.attention_weights(x, w_query, w_key), [[2 / 3, 1 / 3], [1 / 2, 1 / 2]])
    np.testing.assert_allclose(sa.self_attention(x, w_query, w_key, w_value), [[6], [7.5]])


def test_large_scores_do_not_overflow():
    np.testing.assert_allclose(sa.softmax(np.array([1000.0, 1000.0, 0.0])), [0.5, 0.5, 0])


def scores(length=32):
    return np.random.default_rng(0).standard_normal((length, length))


def test_the_exercise_s_softmax_gives_equal_weights_and_is_caught():
    found = sa.exercise_softmax(scores())
    np.testing.assert_allclose(found, 1 / 32)
    with pytest.raises(ValueError, match="do not follow the scores"):
        sa.check_weights(found, scores())
    sa.check_weights(sa.softmax(scores()), scores())


def test_a_sum_without_keepdims_is_caught():
    weights = np.exp(scores())
    with pytest.raises(ValueError, match="not to 1"):
        sa.check_weights(weights / weights.sum(-1), scores())  # row i by the sum of row j
    with pytest.raises(ValueError, match="shape"):
        sa.check_weights(weights[0], scores())
    with pytest.raises(ValueError, match="not positive"):
        sa.check_weights(np.eye(32), scores())


def test_a_pronoun_looks_at_the_living_noun():
    x, w_query = sa.sentence_matrices()
    weights = sa.attention_weights(x, w_query, np.eye(len(sa.FEATURES)))
    sa.check_weights(weights, (x @ w_query) @ x.T / np.sqrt(len(sa.FEATURES)))
    word = {name: i for i, name in enumerate(sa.SENTENCE)}
    assert weights[word["it"]].argmax() == word["cat"]
    assert weights[word["it"], word["cat"]] > 0.9
    assert weights[word["sat"], word["cat"]] == pytest.approx(weights[word["sat"], word["it"]])


def test_the_shapes_are_those_of_the_arrays():
    config = sa.Config(batch=2, length=5, dim=8, query_dim=3, value_dim=4, num_heads=2)
    layer = sa.SelfAttention(8, 3, 4)
    x = torch.randn(2, 5, 8)
    stated = {name: shape for name, shape, _ in sa.shapes(config)}
    written = {"x": x, "output": layer(x), "V = x W_V": layer.value(x), "W_V": layer.value.weight.T}
    for name, array in written.items():
        assert stated[name] == " x ".join(map(str, array.shape))
