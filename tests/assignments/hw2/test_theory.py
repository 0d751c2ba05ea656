"""Homework 2's theory: every formula of the report against automatic differentiation in float64, and cases by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import jacrev

import records
from assignments.hw2 import convolution, gated
from assignments.hw2.attention_rnn import AttentionRNN
from assignments.hw2.gated import GatedRNN

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


# --- convolution -------------------------------------------------------------------------------------


@pytest.mark.equation("eq:hw2-output-size")
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "filters", "expected"),
    [((17, 11), (3, 5), 2, 0, 1, 1, (1, 8, 4)), ((9, 8), (3, 3), 2, 1, 2, 6, (6, 4, 3)), ((5, 5), 5, 3, 0, 1, 2, None)],
)
def test_output_size_is_pytorchs(size, kernel, stride, padding, dilation, filters, expected):
    kernels = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    sides = [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(size, kernels, strict=True)]
    layer = nn.Conv2d(3, filters, kernel, stride, padding, dilation)
    assert layer(torch.zeros(3, *size)).shape == (filters, *sides)
    assert expected in (None, (filters, *sides))


@pytest.mark.equation("eq:hw2-cross-correlation")
@pytest.mark.parametrize(("length", "size"), [(1, 1), (7, 3), (9, 9)])
def test_convolution_is_the_correlation_with_the_turned_filter(length, size):
    x, weight = randn(length), randn(size)
    convolved = [sum(weight[k] * x[n - k] for k in range(size)) for n in range(size - 1, length)]
    found = F.conv1d(x[None, None], weight.flip(0)[None, None])[0, 0]
    torch.testing.assert_close(found, torch.stack(convolved), **CLOSE)


CASES = [(7, 11, 3, 2), (1, 3, 3, 1), (2, 10, 4, 3), (3, 6, 1, 2)]  # channels, places, size, stride
sizes = pytest.mark.parametrize(("channels", "places", "size", "stride"), CASES)


def convolve(weight, x, stride):
    return F.conv1d(x[None], weight[None], stride=stride)[0, 0]


@pytest.mark.equation("eq:hw2-forward")
@pytest.mark.equation("eq:hw2-by-weight")
@pytest.mark.equation("eq:hw2-by-input")
@sizes
def test_derivatives_of_the_convolution_are_autograds(channels, places, size, stride):
    x, weight = randn(channels, places), randn(channels, size)
    f = convolution.forward(x, weight, stride)
    torch.testing.assert_close(f, convolve(weight, x, stride), **CLOSE)
    by_weight, by_input = jacrev(convolve, argnums=(0, 1))(weight, x, stride)
    torch.testing.assert_close(convolution.by_weight(x, size, stride), by_weight.flatten(1), **CLOSE)
    torch.testing.assert_close(convolution.by_input(weight, places, stride), by_input.flatten(1), **CLOSE)


@pytest.mark.equation("eq:hw2-loss-by-weight")
@sizes
def test_stride_becomes_a_dilation_of_the_upstream_gradient(channels, places, size, stride):
    x, weight = randn(channels, places), randn(channels, size)
    upstream = randn((places - size) // stride + 1)
    found = convolution.loss_by_weight(x, upstream, size, stride)
    expected = jacrev(lambda weight: convolve(weight, x, stride) @ upstream)(weight)
    torch.testing.assert_close(found, expected, **CLOSE)
    dilated = F.conv1d(x[:, None], upstream[None, None], dilation=stride)[:, 0, :size]  # PyTorch's own dilation
    torch.testing.assert_close(found, dilated, **CLOSE)


def test_sizes_of_the_sheet():
    x, weight = randn(7, 11), randn(7, 3)
    assert convolution.forward(x, weight, 2).shape == (5,)
    assert convolution.by_weight(x, 3, 2).shape == (5, 1 * 7 * 3)
    assert convolution.by_input(weight, 11, 2).shape == (5, 7 * 11)


# --- the gated network -------------------------------------------------------------------------------

RNN_SIZES = pytest.mark.parametrize(("inputs", "units", "length"), [(1, 1, 1), (3, 5, 6), (6, 2, 9)])


@pytest.mark.equation("eq:hw2-gated")
def test_gated_step_by_hand():
    model = GatedRNN(1, 1).double()
    for matrix, value in ((model.W_c, math.log(3)), (model.W_h, 0), (model.W_x, 10)):
        matrix.data.fill_(value)
    c, h = model.step(torch.ones(1).double(), torch.full((1,), 2.0).double())
    assert c.item() == pytest.approx(3 / 4)
    assert h.item() == pytest.approx(3 / 4 * 2 + 1 / 4 * 10)
    model.W_c.data.fill_(0)
    model.W_h.data.fill_(math.log(3))
    assert model.step(torch.ones(1).double(), torch.ones(1).double())[0].item() == pytest.approx(3 / 4)


@pytest.mark.equation("eq:hw2-gated-jacobians")
@RNN_SIZES
def test_jacobians_of_the_gated_network_are_autograds(inputs, units, length):
    model, x, h = GatedRNN(inputs, units).double(), randn(inputs), 3 * randn(units)
    expected = jacrev(lambda h: model.step(x, h))(h)
    for found, other in zip(model.jacobians(x, h), expected, strict=True):
        torch.testing.assert_close(found, other, **CLOSE)


@pytest.mark.equation("eq:hw2-gated-gradient")
@RNN_SIZES
def test_gradient_of_w_x_through_time_is_autograds(inputs, units, length):
    model, x, direct = GatedRNN(inputs, units).double(), randn(length, inputs), randn(length, units)

    def loss(w_x):
        return (torch.func.functional_call(model, {"W_x": w_x}, (x,)) * direct).sum()

    expected = jacrev(loss)(model.W_x.detach()).T  # numerator layout
    torch.testing.assert_close(model.gradient_of_w_x(x, direct), expected, **CLOSE)


@pytest.mark.equation("eq:hw2-bounded")
def test_states_stay_within_the_largest_new_value():
    model, x = GatedRNN(4, 8).double(), 5 * randn(200, 4)
    model.W_h.data *= 20
    largest = (x @ model.W_x.T).abs().amax(0)  # of each unit
    assert (model(x).abs().amax(0) <= largest * (1 + 1e-12)).all()  # but for rounding


def test_measured_norms_are_those_of_the_whole_jacobian():
    model, x = gated.network(gated.Config(inputs=3, hidden=4, length=7), gain=8, bias=1, seed=3)
    norms, gate = gated.norms_through_time(model, x)
    for t in (1, 4, 7):
        whole = jacrev(lambda h, t=t: model(x[:t], h)[-1])(torch.zeros(4).double())
        assert norms[t - 1] == pytest.approx(torch.linalg.svdvals(whole)[0].item(), rel=1e-9)
    assert 0.5 < gate < 1


def test_result_is_drawn_from_its_file(tmp_path):
    """Small gates let gradients vanish, a large matrix lets them explode, whatever the bias."""
    result = gated.run(gated.Config(length=30, seeds=(0, 1)))
    factors = {(row["gain"], row["bias"]): row["factor_per_step"]["mean"] for row in result["rows"]}
    assert factors[1, 0] < 0.8 < 0.9 < factors[1, 4] < 1 < min(factors[16, 0], factors[16, 4])
    path = records.save_results(tmp_path, result)
    assert records.load_result(path, *gated.KEYS)["seeds"] == [0, 1]
    assert all(drawn.stat().st_size > 1000 for drawn in gated.draw([path], tmp_path))


@pytest.mark.parametrize("flags", [["--gains", "0"], ["--biases", "1000"], ["--length", "1"]])
def test_a_mistake_is_one_line(flags, capsys):
    assert gated.main(flags) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- AttentionRNN ------------------------------------------------------------------------------------

kinds = pytest.mark.parametrize("k", [1, 2, 5, math.inf])
rnn_sizes = pytest.mark.parametrize(("inputs", "units", "features"), [(1, 1, 1), (3, 4, 2), (4, 2, 5)])


def attention(k, inputs, units, features, seed=0):
    torch.manual_seed(seed)
    return AttentionRNN(k, inputs, units, features).double()


@pytest.mark.equation("eq:hw2-attention")
@kinds
def test_attention_rnn_step_by_step(k):
    """Sum by sum, from the definition, with states before the first zero for finite k and absent for infinite k."""
    model, x = attention(k, 3, 4, 2), randn(6, 3)
    found, states = model(x[None])[0], []
    for t in range(6):
        looked = states[::-1] if k == math.inf else [*states[::-1], *[torch.zeros(4).double()] * k][:k]
        weights, values = [], []
        for i, source in enumerate([x[t], *looked]):
            place = min(i, 1) if k == math.inf else i
            query, key, value = (part[place].weight @ source for part in (model.queries, model.keys, model.values))
            weights.append(torch.exp(sum(a * b for a, b in zip(query, key, strict=True))))
            values.append(value)
        states.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
        torch.testing.assert_close(found[t], states[-1], **CLOSE)


@pytest.mark.parametrize(("k", "count"), [(1, 6), (2, 9), (7, 24), (math.inf, 6)])
def test_number_of_matrices(k, count):
    assert len(list(attention(k, 3, 4, 2).parameters())) == count


def test_tied_matrices_do_not_see_the_order_of_states():
    states = [randn(4) for _ in range(3)]
    for k, blind in ((3, False), (math.inf, True)):
        model, x = attention(k, 3, 4, 2), randn(3)
        first, turned = (model.step(x, order)[0] for order in (states, states[::-1]))
        assert torch.allclose(first, turned, rtol=1e-9) == blind


@pytest.mark.equation("eq:hw2-attention-jacobian")
@kinds
@rnn_sizes
def test_jacobians_of_the_attention_rnn_are_autograds(k, inputs, units, features):
    model, x = attention(k, inputs, units, features), randn(inputs)
    states = [randn(units) for _ in range(4 if k == math.inf else k)]
    for i in range(1, len(states) + 1):

        def h(state, i=i):
            return model.step(x, [*states[: i - 1], state, *states[i:]])[0]

        torch.testing.assert_close(model.jacobian(x, states, i), jacrev(h)(states[i - 1]), **CLOSE)


@pytest.mark.equation("eq:hw2-attention-gradient")
@kinds
@pytest.mark.parametrize("length", [1, 3, 8])
def test_gradients_by_states_are_autograds(k, length):
    """Autograd's, by something that is added to the state, and so to all that later steps see of it."""
    model, x, direct = attention(k, 3, 4, 2), randn(length, 3), randn(length, 4)

    def loss(added):
        states = [] if k == math.inf else [torch.zeros(4).double()] * k
        total = 0.0
        for t in range(length):
            h = model.step(x[t], states)[0] + added[t]
            total = total + h @ direct[t]
            states = [h, *states] if k == math.inf else [h, *states[:-1]]
        return total

    expected = jacrev(loss)(torch.zeros(length, 4).double())
    torch.testing.assert_close(model.gradient(x, direct), expected, **CLOSE)


@pytest.mark.parametrize("k", [0, -1, 1.5, math.nan])
def test_other_k_are_refused(k):
    with pytest.raises(ValueError, match="whole number from 1 on"):
        AttentionRNN(k, 3, 4, 2)


# --- debugging ---------------------------------------------------------------------------------------


@pytest.mark.equation("eq:hw2-loss-bound")
def test_loss_of_a_wrong_answer_grows_as_its_lead():
    for lead in (0.0, 3.0, 50.0):
        logits = torch.tensor([0.0, lead, -1.0, -40.0], dtype=torch.float64)
        loss = F.cross_entropy(logits, torch.tensor(0)).item()
        assert lead <= loss <= lead + math.log(4)
    assert F.cross_entropy(torch.zeros(1, 4), torch.tensor([2])).item() == pytest.approx(math.log(4))
