"""Backpropagation by hand: against automatic differentiation, finite differences, and known wrong implementations."""

import re
import runpy
import shutil
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from assignments.hw1 import mlp
from assignments.hw1.mlp import MLP, bce_loss, mse_loss
from records import ROOT

NAMES = ("W1", "b1", "W2", "b2")
FUNCTIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda z: z, "tanh": torch.tanh}
LOSSES = {"mse": (mse_loss, F.mse_loss), "bce": (bce_loss, F.binary_cross_entropy)}
THE_COURSES = [("relu", "identity", "mse", 5), ("sigmoid", "sigmoid", "bce", 5), ("relu", "relu", "mse", 22)]
sizes = st.integers(1, 6)


def network(inputs, hidden, outputs, f="relu", g="identity", seed=0):
    torch.manual_seed(seed)
    net = MLP(inputs, hidden, f, hidden, outputs, g)
    net.parameters = {name: value.double() for name, value in net.parameters.items()}
    return net


def batch_for(net, batch, loss):
    inputs, outputs = net.parameters["W1"].shape[1], net.parameters["W2"].shape[0]
    x = torch.randn(batch, inputs, dtype=torch.float64)
    return x, torch.rand(batch, outputs, dtype=torch.float64) if loss == "bce" else torch.randn(batch, outputs).double()


def by_hand(net, x, y, loss):
    net.clear_grad_and_cache()
    value, gradient = LOSSES[loss][0](y, net.forward(x))
    net.backward(gradient)
    return value, net.grads


def by_autograd(net, x, y, loss):
    parameters = {name: net.parameters[name].clone().requires_grad_() for name in NAMES}
    hidden = FUNCTIONS[net.f_function](F.linear(x, parameters["W1"], parameters["b1"]))
    y_hat = FUNCTIONS[net.g_function](F.linear(hidden, parameters["W2"], parameters["b2"]))
    value = LOSSES[loss][1](y_hat, y)
    return value, dict(zip(NAMES, torch.autograd.grad(value, list(parameters.values())), strict=True))


def assert_equal(found, expected):
    (value, gradients), (expected_value, expected_gradients) = found, expected
    torch.testing.assert_close(value, expected_value.detach(), rtol=1e-10, atol=1e-12)
    for name in NAMES:  # 1 - y_hat loses digits where a sigmoid is nearly 1
        torch.testing.assert_close(gradients[f"dJd{name}"], expected_gradients[name], rtol=1e-6, atol=1e-8)


@given(sizes, sizes, sizes, sizes, st.sampled_from([*FUNCTIONS]), st.sampled_from([*FUNCTIONS]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_loss_and_gradients_are_autograds(batch, inputs, hidden, outputs, f, g, cross_entropy):
    g, loss = ("sigmoid", "bce") if cross_entropy else (g, "mse")
    net = network(inputs, hidden, outputs, f, g)
    x, y = batch_for(net, batch, loss)
    assert_equal(by_hand(net, x, y, loss), by_autograd(net, x, y, loss))


@pytest.mark.parametrize(("f", "g", "loss", "outputs"), THE_COURSES)
def test_the_courses_own_cases(f, g, loss, outputs):
    net = network(2, 20, outputs, f, g)
    x, y = batch_for(net, 10, loss)
    assert_equal(by_hand(net, x, y, loss), by_autograd(net, x, y, loss))


@pytest.mark.parametrize(("f", "g", "loss"), [("tanh", "identity", "mse"), ("sigmoid", "sigmoid", "bce")])
def test_gradients_are_slopes(f, g, loss):
    """Central differences, which share nothing with either derivation."""
    net = network(3, 4, 2, f, g)
    x, y = batch_for(net, 5, loss)
    _, gradients = by_hand(net, x, y, loss)
    for name in NAMES:
        parameter, step = net.parameters[name].view(-1), 1e-6
        for i in range(len(parameter)):
            value = parameter[i].item()
            losses = []
            for moved in (value + step, value - step):
                parameter[i] = moved
                losses.append(LOSSES[loss][0](y, net.forward(x))[0].item())
            parameter[i] = value
            slope = (losses[0] - losses[1]) / (2 * step)
            assert gradients[f"dJd{name}"].view(-1)[i].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("y", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("y_hat", [0.0, 1e-40, 0.5, 1.0])
def test_cross_entropy_is_pytorchs_at_the_ends_too(y, y_hat):
    label, output = torch.full((2, 3), y), torch.full((2, 3), y_hat, requires_grad=True)
    expected = torch.nn.BCELoss()(output, label)
    value, gradient = bce_loss(label, output.detach())
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, output)[0])


def test_relu_has_slope_zero_at_zero():
    net = network(1, 1, 1)
    net.parameters |= {"b1": torch.zeros(1).double()}
    net.forward(torch.zeros(1, 1).double())
    net.backward(torch.ones(1, 1).double())
    assert net.grads["dJdb1"] == 0


def test_backward_twice_is_the_same_and_leaves_the_cache():
    net = network(2, 20, 5)
    x, y = batch_for(net, 10, "mse")
    _, gradient = mse_loss(y, net.forward(x))
    cache = {name: value.clone() for name, value in net.cache.items()}
    assert net.backward(gradient) is None
    first = net.grads
    net.backward(gradient)
    assert all(torch.equal(first[name], net.grads[name]) for name in first)
    assert all(torch.equal(cache[name], net.cache[name]) for name in cache)
    net.clear_grad_and_cache()
    assert all((gradient == 0).all() for gradient in net.grads.values())
    with pytest.raises(ValueError, match="forward pass before it"):
        net.backward(gradient)


def test_parameters_have_the_courses_names_shapes_and_distribution():
    torch.manual_seed(0)
    net = MLP(300, 200, "relu", 200, 100, "identity")
    shapes = {name: tuple(value.shape) for name, value in net.parameters.items()}
    assert shapes == {"W1": (200, 300), "b1": (200,), "W2": (100, 200), "b2": (100,)}
    assert {name: tuple(value.shape) for name, value in net.grads.items()} == {
        f"dJd{name}": shape for name, shape in shapes.items()
    }
    assert net.parameters["W1"].mean().item() == pytest.approx(0, abs=0.02)
    assert net.parameters["W1"].std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((2, 3, "gelu", 3, 1, "identity"), "f_function is 'gelu', but must be one of identity, relu, sigmoid, tanh"),
        ((2, 3, "relu", 3, 1, None), "g_function is None"),
        ((2, 3, "relu", 4, 1, "identity"), "gives 3 features, but the second takes 4"),
        ((0, 3, "relu", 3, 1, "identity"), "each size must be at least 1"),
    ],
)
def test_networks_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        MLP(*arguments)


def test_arguments_of_another_shape_are_refused():
    net = network(2, 3, 1)
    with pytest.raises(ValueError, match=r"x has shape \(4, 3\), not \(batch, 2\)"):
        net.forward(torch.zeros(4, 3))
    net.forward(torch.zeros(4, 2).double())
    with pytest.raises(ValueError, match=r"dJdy_hat has shape \(4, 2\), y_hat \(4, 1\)"):
        net.backward(torch.zeros(4, 2))
    for loss in (mse_loss, bce_loss):
        with pytest.raises(ValueError, match=r"y has shape \(4,\), y_hat \(4, 1\)"):
            loss(torch.zeros(4), torch.zeros(4, 1))


def test_nothing_differentiates_by_itself():
    source = (ROOT / "assignments" / "hw1" / "mlp.py").read_text()
    code = re.sub(r'""".*?"""|#.*', "", source, flags=re.DOTALL)
    assert not re.search(r"requires_grad|autograd|\bnn\b|functional", code)


def test_it_works_alone_beside_a_graders_script(tmp_path, monkeypatch):
    shutil.copy(ROOT / "assignments" / "hw1" / "mlp.py", tmp_path)
    script = "from mlp import MLP, mse_loss, bce_loss\nnet = MLP(2, 20, 'relu', 20, 5, 'identity')\n"
    (tmp_path / "test1.py").write_text(script + "import torch\nshape = net.forward(torch.zeros(10, 2)).shape\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert runpy.run_path(str(tmp_path / "test1.py"))["shape"] == (10, 5)
    sys.modules.pop("mlp")


# wrong ones, most of which pass the course's public checks or look right at a glance
WRONG = {
    "J is the norm of the squared errors": lambda y, y_hat: (((y_hat - y) ** 2).norm(), 2 * (y_hat - y) / y.numel()),
    "J is halved": lambda y, y_hat: (((y_hat - y) ** 2).mean() / 2, 2 * (y_hat - y) / y.numel()),
    "the mean is over the batch alone": lambda y, y_hat: (((y_hat - y) ** 2).mean(), 2 * (y_hat - y) / len(y)),
    "the gradient's sign": lambda y, y_hat: (((y_hat - y) ** 2).mean(), 2 * (y - y_hat) / y.numel()),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_loss_is_caught(name, monkeypatch):
    monkeypatch.setitem(LOSSES, "mse", (WRONG[name], F.mse_loss))
    with pytest.raises(AssertionError):
        test_the_courses_own_cases(*THE_COURSES[0])


@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_a_wrong_derivative_is_caught(name, monkeypatch):
    function, _ = mlp.ACTIVATIONS[name]
    monkeypatch.setitem(mlp.ACTIVATIONS, name, (function, lambda z, a: torch.ones_like(z)))
    case = next(case for case in THE_COURSES if name in case)
    with pytest.raises(AssertionError):
        test_the_courses_own_cases(*case)


@pytest.mark.parametrize("name", [f"dJd{name}" for name in NAMES])
def test_a_wrong_gradient_is_caught(name, monkeypatch):
    backward = MLP.backward

    def wrong(self, dJdy_hat):
        backward(self, dJdy_hat)
        self.grads[name] = self.grads[name] / len(dJdy_hat)  # a mean over the batch where the sum belongs

    monkeypatch.setattr(MLP, "backward", wrong)
    with pytest.raises(AssertionError):
        test_the_courses_own_cases(*THE_COURSES[0])
