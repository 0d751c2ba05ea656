"""Homework 1's theory: every formula of the report against automatic differentiation in float64, and cases by hand."""

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import jacrev

import records
from assignments.hw1 import derivatives as d

SIZES = [(1, 1, 1), (2, 5, 3), (6, 3, 4)]
PARAMETERS = ("W1", "b1", "W2", "b2")
ACTIVATIONS = {
    "ReLU": F.relu,
    "LeakyReLU(.01)": lambda z: F.leaky_relu(z, 0.01),
    "Softplus(1)": F.softplus,
    "GELU": F.gelu,
}
LAYERS = {
    "5 relu": lambda z: 5 * F.relu(z), "identity": lambda z: z, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
}  # fmt: skip
LOSSES = {"se": lambda y_hat, y: ((y_hat - y) ** 2).sum(), "bce": F.binary_cross_entropy}


def example(inputs, hidden, outputs):
    torch.manual_seed(inputs)
    shapes = {"W1": (hidden, inputs), "b1": (hidden,), "W2": (outputs, hidden), "b2": (outputs,)}
    parameters = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    return torch.randn(inputs, dtype=torch.float64), torch.rand(outputs, dtype=torch.float64), parameters


def by_autograd(x, y, parameters, f, g, loss):
    """The Jacobians between layers, and the gradients, with PyTorch's layers."""

    def value(parameters):
        hidden = LAYERS[f](F.linear(x, parameters["W1"], parameters["b1"]))
        return LOSSES[loss](LAYERS[g](F.linear(hidden, parameters["W2"], parameters["b2"])), y)

    z1 = F.linear(x, parameters["W1"], parameters["b1"])
    z3 = F.linear(LAYERS[f](z1), parameters["W2"], parameters["b2"])
    gradients = jacrev(value)(parameters)
    return {
        "dz2_dz1": jacrev(LAYERS[f])(z1),
        "dy_hat_dz3": jacrev(LAYERS[g])(z3),
        "dl_dy_hat": jacrev(LOSSES[loss])(LAYERS[g](z3), y)[None],
        # numerator layout: a loss's gradient by a column is a row, and by a matrix of the shape transposed
        **{f"dl_d{name}": gradients[name].T if name[0] == "W" else gradients[name][None] for name in PARAMETERS},
    }


@pytest.mark.equation("eq:hw1-backward")
@pytest.mark.equation("eq:hw1-regression")
@pytest.mark.equation("eq:hw1-sigmoid")
@pytest.mark.equation("eq:hw1-bce")
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    ("f", "g", "loss"), [("5 relu", "identity", "se"), ("tanh", "sigmoid", "se"), ("tanh", "sigmoid", "bce")]
)
def test_every_jacobian_and_gradient_is_autograds(sizes, f, g, loss):
    x, y, parameters = example(*sizes)
    found, expected = (way(x, y, parameters, f, g, loss) for way in (d.derivatives, by_autograd))
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name].shape == expected[name].shape, name
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.equation("eq:hw1-bce-product")
@pytest.mark.parametrize("sizes", SIZES)
def test_cross_entropy_cancels_the_slope_of_the_sigmoid(sizes):
    x, y, parameters = example(*sizes)
    found = d.derivatives(x, y, parameters, "tanh", "sigmoid", "bce")
    expected = (d.forward(x, parameters, "tanh", "sigmoid")["y_hat"] - y) / len(y)
    torch.testing.assert_close((found["dl_dy_hat"] @ found["dy_hat_dz3"])[0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.equation("eq:hw1-forward")
@pytest.mark.equation("eq:hw1-forward-values")
def test_forward_pass_by_hand():
    parameters = {
        "W1": torch.tensor([[1.0, -1.0], [2.0, 0.0]]), "b1": torch.tensor([1.0, -3.0]),
        "W2": torch.tensor([[2.0, 7.0]]), "b2": torch.tensor([-4.0]),
    }  # fmt: skip
    layers = d.forward(torch.tensor([3.0, 1.0]), parameters, "5 relu", "identity")
    assert {name: value.tolist() for name, value in layers.items()} == {
        "z1": [3, 3], "z2": [15, 15], "z3": [131], "y_hat": [131],
    }  # fmt: skip
    layers = d.forward(torch.tensor([0.0, 2.0]), parameters, "5 relu", "identity")
    assert layers["z1"].tolist() == [-1, -3]
    assert layers["y_hat"].tolist() == [-4]  # both units are off, and the bias is left


@pytest.mark.equation("eq:hw1-graph")
def test_graph_is_autograds():
    leaves = {name: torch.tensor(value, dtype=torch.float64) for name, value in zip("xyzo", (2, -3, 5, 7), strict=True)}

    def w(x, y, z, o):
        return (x + y) * (z * o) + z

    value, gradients = d.graph(2, -3, 5, 7)
    assert value == w(**leaves) == -30
    expected = jacrev(w, argnums=(0, 1, 2, 3))(*leaves.values())
    assert [gradients[name] for name in "xyzo"] == [each.item() for each in expected] == [35, 35, -6, -5]
    assert (gradients["a"], gradients["b"], gradients["c"]) == (35, -1, 1)


@pytest.mark.equation("eq:hw1-activations")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_of_activations_are_autograds(name):
    value, derivative = d.ACTIVATIONS[name]
    z = torch.linspace(-5, 5, 101, dtype=torch.float64)  # 0 is among them
    torch.testing.assert_close(value(z), ACTIVATIONS[name](z), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.diag(derivative(z)), jacrev(ACTIVATIONS[name])(z), rtol=1e-10, atol=1e-12)


@pytest.mark.equation("eq:hw1-softmax")
@pytest.mark.parametrize("size", [1, 2, 7])
def test_softmax_jacobian_is_autograds(size):
    z = 3 * torch.randn(size, dtype=torch.float64)
    torch.testing.assert_close(d.softmax_jacobian(z), jacrev(lambda z: z.softmax(0))(z), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "one", "zero", "flushed"), [("float32", 17, 104, 88), ("float64", 37, 746, 709)])
def test_softmax_is_exact_from_where_the_precision_ends(dtype, one, zero, flushed):
    """1 where exp(-d) is at most half of the distance from 1 to the next number; 0 where it rounds to nothing.

    On some processors, that is already where it is below the least normal number.
    """
    kind = getattr(torch, dtype)
    assert d.first_exact(kind, 1) == one
    assert d.first_exact(kind, 0) in (flushed, zero)
    eps, normal = (mpmath.mpf(float(getattr(np.finfo(dtype), name))) for name in ("eps", "tiny"))
    for limit, first in ((eps / 2, one), (normal * eps / 2, zero), (normal, flushed)):
        assert mpmath.exp(-first) < limit < mpmath.exp(1 - first)


def test_result_is_drawn_from_its_file(tmp_path):
    path = records.save_results(tmp_path, d.run(d.Config(points=9)))
    assert all(drawn.stat().st_size > 1000 for drawn in d.draw([path], tmp_path))
    result = records.load_result(path, *d.KEYS)
    assert result["curves"]["ReLU"]["derivative"] == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_a_mistake_is_one_line(capsys):
    assert d.main(["--points", "1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
