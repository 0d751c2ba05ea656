"""Question 1 under what PyTorch does to functions: transforms, compilers, export, meta tensors, autocast, checkpoints.

The reference is the same transform of the quadratic form, or the function itself, one element after another.
"""

import copy
import functools
import io
import pickle

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from attention import KERNELS, Block, MultiHeadAttention
from q1 import monomials
from q1_linear_attention import (
    LinearAttentionState,
    approximation_bound,
    linear_attention,
    maclaurin_features,
    softmax_attention,
)
from tests.q1.reference import EXACT, EXACT_GRADIENT, check_against_quadratic, draw, draw_mask, quadratic, set_chunks

compiled = functools.partial(torch.compile, fullgraph=True, backend="aot_eager")


def cube(function):
    """A number whose third derivatives are not 0."""
    return lambda *x: (function(*x) ** 3).sum()


def grad_of_grad(f):
    return grad(lambda q, k, v: sum((g**2).sum() for g in grad(cube(f), (0, 1, 2))(q, k, v)), (0, 1, 2))


def second_backward(f):
    def function(*inputs):
        leaves = [x.clone().requires_grad_() for x in inputs]
        first = torch.autograd.grad(cube(f)(*leaves), leaves, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), leaves)

    return function


def third_derivative(f):
    once = grad(cube(f))
    return grad(lambda *x: (grad(lambda *y: (once(*y) ** 2).sum())(*x) ** 2).sum())


TRANSFORMS = {
    "vjp": lambda f: lambda q, k, v: vjp(f, q, k, v)[1](v),
    "vjp of many": lambda f: lambda q, k, v: vmap(vjp(f, q, k, v)[1], 1)(torch.stack([v, 2 * v], 1)),
    "jvp": lambda f: lambda q, k, v: jvp(f, (q, k, v), (k, v, q)),
    "jvp by one input": lambda f: lambda q, k, v: jvp(lambda k: f(q, k, v), (k,), (q,)),
    "jacrev": lambda f: jacrev(f, (0, 1, 2)),
    "jacfwd": lambda f: jacfwd(f, (0, 1, 2)),
    "hessian": lambda f: hessian(cube(f), (0, 1)),
    "gradient of a gradient": grad_of_grad,
    "backward twice": second_backward,
    "third derivative": third_derivative,
    "gradients one by one": lambda f: vmap(grad(cube(f), (0, 1, 2))),
    "vmap of one input": lambda f: lambda q, k, v: vmap(lambda q: f(q, k, v), 1, 2)(torch.stack([q, k, v], 1)),
}


@pytest.mark.parametrize(("causal", "masked"), [(False, False), (True, True)])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_that_of_the_quadratic_form(name, causal, masked, monkeypatch):
    set_chunks(monkeypatch, causal=4)
    hidden = draw_mask(3, (7,), 7)[0] if masked else None

    def function(*x):
        return linear_attention(*x, causal=causal, key_padding_mask=hidden)

    inputs = draw(1, 7, dim=3, leading=(2,))
    found = TRANSFORMS[name](function)(*inputs)
    expected = TRANSFORMS[name](lambda *x: quadratic(*x, causal=causal, hidden=hidden))(*inputs)
    torch.testing.assert_close(found, expected, **EXACT_GRADIENT)


def test_mapped_masks_and_maps_of_maps():
    query, key, value = draw(2, 9, leading=(4, 3))
    hidden = draw_mask(2, (4, 3), 9)
    expected = quadratic(query, key, value, hidden=hidden)

    def function(q, k, v, mask):
        return linear_attention(q, k, v, key_padding_mask=mask)

    once = vmap(function, (0, 2, None, 0))(query, key.permute(1, 2, 0, 3), value[0], hidden)
    torch.testing.assert_close(once, quadratic(query, key, value[0], hidden=hidden), **EXACT)
    torch.testing.assert_close(vmap(vmap(function))(query, key, value, hidden), expected, **EXACT)
    assert vmap(function)(query[:0], key[:0], value[:0], hidden[:0]).shape == (0, 3, 9, 3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("leading", [(0,), (2, 0), (0, 3)])
def test_an_empty_batch_has_an_empty_output_and_gradients(leading, causal):
    hidden = torch.zeros(*leading, 5, dtype=torch.bool)
    inputs = draw(0, 5, leading=leading)
    check_against_quadratic(inputs, causal=causal, hidden=hidden)
    assert linear_attention(*inputs).shape == (*leading, 5, 3)
    with pytest.raises(ValueError, match="empty sequence"):
        linear_attention(*(x[..., :0, :] for x in inputs))


@pytest.mark.parametrize(
    "types",
    [(torch.float32, torch.bfloat16, torch.float32), (torch.float16, torch.bfloat16, torch.float32)],
    ids=["two", "three"],
)
def test_mixed_types_under_autocast_are_those_of_scaled_dot_product_attention(types):
    inputs = [x.to(dtype).requires_grad_() for x, dtype in zip(draw(4, 30, leading=(2,)), types, strict=True)]
    with pytest.raises(ValueError, match="one floating type"):
        linear_attention(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, theirs = linear_attention(*inputs), F.scaled_dot_product_attention(*inputs)
        with pytest.raises(ValueError, match="one floating type"):  # as PyTorch's, which autocast leaves in float64
            linear_attention(inputs[0].double(), *inputs[1:])
    assert output.dtype == theirs.dtype == torch.bfloat16
    expected = quadratic(*(x.bfloat16().double() for x in inputs))
    torch.testing.assert_close(output.double(), expected, rtol=torch.finfo(torch.bfloat16).eps, atol=1e-5)
    output.sum().backward()
    assert [x.grad.dtype for x in inputs] == list(types)


def use_meta():
    with torch.device("meta"):
        return maclaurin_features(torch.ones(2, 4))


def use_fake():
    with torch._subclasses.FakeTensorMode():
        return maclaurin_features(torch.ones(2, 4))


@torch.inference_mode()
def use_inference():
    return maclaurin_features(torch.ones(2, 4))


@pytest.mark.parametrize("first_use", [use_meta, use_fake, use_inference])
def test_who_asks_first_leaves_nothing_behind_for_the_next(first_use):
    monomials._coefficients.cache_clear()
    assert first_use().shape == (2, 15)
    assert monomials._coefficients.cache_info().currsize == 1
    check_against_quadratic(draw(5, 9))
    x = torch.ones(2, 4, requires_grad=True)
    maclaurin_features(x).sum().backward()
    assert x.grad.isfinite().all()


class Module(torch.nn.Module):
    """A function as a module, for export and for meta tensors."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def fill_and_read(query, key, value):
    state = LinearAttentionState()
    state.add(key[..., :4, :], value[..., :4, :])
    state.add(key[..., 4:, :], value[..., 4:, :])
    return state.read(query)


def two_steps(query, key, value):
    state = LinearAttentionState()
    steps = [state.step(query[..., i, :], key[..., i, :], value[..., i, :]) for i in range(2)]
    return torch.stack(steps, -2)


FUNCTIONS = {
    "linear_attention": linear_attention,
    "causal": functools.partial(linear_attention, causal=True),
    "softmax_attention": softmax_attention,
    "maclaurin_features": lambda q, k, v: maclaurin_features(q) @ maclaurin_features(k).mT @ v,
    "ordered features": lambda q, k, v: maclaurin_features(q, symmetric=False) @ maclaurin_features(k, 3, False).mT,
    "approximation_bound": lambda q, k, v: approximation_bound(q, k),
    "state": fill_and_read,
    "step": two_steps,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_can_be_mapped_compiled_exported_and_planned(name):
    function, inputs = FUNCTIONS[name], draw(6, 7, leading=(3,))
    expected = function(*inputs)
    torch.testing.assert_close(vmap(function)(*inputs), torch.stack([*map(function, *inputs)]), **EXACT)
    torch.testing.assert_close(compiled(function)(*inputs), expected, **EXACT)
    exported = torch.export.export(Module(function), tuple(inputs), strict=False)
    torch.testing.assert_close(exported.module()(*inputs), expected, **EXACT)
    planned = function(*(x.to("meta") for x in inputs))
    assert (planned.shape, planned.dtype, planned.device.type) == (expected.shape, expected.dtype, "meta")
    assert function(*(x[:0] for x in inputs)).shape == (0, *expected.shape[1:])


@pytest.mark.parametrize("causal", [False, True])
def test_compiled_attention_with_its_gradients_at_any_length(causal):
    def function(*inputs):
        return linear_attention(*inputs, causal=causal)

    compiled_function = compiled(function, dynamic=True)
    for length in (5, 8):
        inputs = [x.requires_grad_() for x in draw(7, length)]
        found, expected = (f(*inputs) for f in (compiled_function, lambda *x: quadratic(*x, causal=causal)))
        torch.testing.assert_close(found, expected, **EXACT)
        gradients = (torch.autograd.grad(cube(lambda y: y)(y), inputs) for y in (found, expected))
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs, **EXACT_GRADIENT)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: vmap(grad(cube(f), (0, 1, 2))),
        lambda f: lambda q, k, v: jvp(f, (q, k, v), (k, v, q)),
    ],
    ids=["vmap of grad", "jvp"],
)
def test_a_transform_can_be_compiled(transform):
    inputs = draw(8, 5, value_dim=4)
    torch.testing.assert_close(compiled(transform(linear_attention))(*inputs), transform(quadratic)(*inputs))


@pytest.mark.parametrize("run", [vmap, compiled], ids=["vmap", "compile"])
def test_weights_that_do_not_sum_to_a_positive_number_are_still_refused(run):
    one = torch.ones(2, 3, 1)
    with pytest.raises(ValueError, match="even number of terms"):
        run(functools.partial(linear_attention, terms=2, scale=1.0))(one, -3 * one, one)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_takes_other_sizes_and_derivatives_and_can_be_saved(strict):
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    module = Module(functools.partial(linear_attention, causal=True))
    program = torch.export.export(
        module, tuple(draw(9, 7)), dynamic_shapes=(({0: batch, 1: length},) * 3,), strict=strict
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    inputs = [x.requires_grad_() for x in draw(10, 11, leading=(2,))]
    found, expected = torch.export.load(file).module()(*inputs), quadratic(*inputs, causal=True)
    torch.testing.assert_close(found, expected, **EXACT)
    gradients = (torch.autograd.grad((y**2).sum(), inputs) for y in (found, expected))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT_GRADIENT)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_attention_has_the_same_gradients(reentrant):
    results = []
    for function in (functools.partial(checkpoint, linear_attention, use_reentrant=reentrant), quadratic):
        inputs = [x.requires_grad_() for x in draw(11, 20)]
        cube(function)(*inputs).backward()
        results.append([x.grad for x in inputs])
    torch.testing.assert_close(*results, **EXACT_GRADIENT)


# --- multi-head attention and its blocks --------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 12])  # by scores, and by linear attention
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_block_can_be_mapped_compiled_exported_planned_and_copied(kernel, length):
    torch.manual_seed(0)
    block = Block(8, 2, kernel).double()
    x, hidden = torch.randn(2, length, 8).double(), torch.arange(length) >= torch.tensor([[length], [2]])

    def function(x, hidden):
        return block(x, causal=True, key_padding_mask=hidden)

    expected = function(x, hidden)
    alone = vmap(lambda x, hidden: function(x[None], hidden[None])[0])
    torch.testing.assert_close(alone(x, hidden), expected, **EXACT)
    found = compiled(function)(x, hidden)
    gradients = [torch.autograd.grad((y**3).sum(), [*block.parameters()]) for y in (found, expected)]
    torch.testing.assert_close((found, gradients[0]), (expected, gradients[1]), **EXACT_GRADIENT)

    parameters, loss = dict(block.named_parameters()), lambda p, x: (functional_call(block, p, x[None]) ** 3).sum()
    one_by_one = vmap(grad(loss), (None, 0))(parameters, x)
    together = torch.autograd.grad((block(x) ** 3).sum(), [*parameters.values()])
    torch.testing.assert_close(tuple(g.sum(0) for g in one_by_one.values()), together, **EXACT_GRADIENT)

    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}  # of x and of the mask
    exported = torch.export.export(
        Module(function), (torch.ones(3, 5, 8).double(), hidden.new_ones(3, 5)), dynamic_shapes=((sizes, sizes),)
    )
    torch.testing.assert_close(exported.module()(x, hidden), expected, **EXACT)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        torch.testing.assert_close(other(x, causal=True, key_padding_mask=hidden), expected, **EXACT)
    assert function(x[:0], hidden[:0]).shape == (0, length, 8)
    with torch.device("meta"):
        assert Block(8, 2, kernel)(torch.ones(2, length, 8)).shape == (2, length, 8)


def test_bfloat16_too_is_exported_for_any_length():
    layer, sizes = MultiHeadAttention(8, 2).bfloat16(), {1: torch.export.Dim("length")}
    program = torch.export.export(layer, (torch.ones(1, 5, 8).bfloat16(),), dynamic_shapes=(sizes,))
    x = torch.randn(1, 9, 8).bfloat16()
    torch.testing.assert_close(program.module()(x), layer(x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("length", [3, 12])
def test_a_maclaurin_block_has_forward_derivatives(length):
    block = Block(4, 1, "maclaurin").double()
    x = torch.randn(1, length, 4).double()
    torch.testing.assert_close(jacfwd(block)(x), jacrev(block)(x), **EXACT_GRADIENT)
    gradient = grad(cube(block))
    torch.testing.assert_close(jacfwd(gradient)(x), jacrev(gradient)(x), **EXACT_GRADIENT)
