"""Linear attention as an operator of PyTorch: its derivatives, its form under vmap, and the quadratic form it equals.

The passes of q1.chunked become two operators that no tracer looks into, `q1::attend` and `q1::attend_backward`.
Derivatives beyond the first, and those in forward mode, are taken of the quadratic form.

Letters: L queries, S keys, D head dimension, E value dimension.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, library

from q1 import chunked
from q1.chunked import accumulator, check_positive, full_precision


@library.custom_op("q1::attend", mutates_args=())
def attend(
    query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, terms: int, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """(..., L, D), (..., S, D), (..., S, E), mask (..., S) -> output (..., L, E), sums of the weights (..., 1, L)."""
    flat = _flat(query, key, value, hidden)
    output, normaliser = chunked.attend(*flat, terms, causal, scale)
    leading, length = query.shape[:-2], query.shape[-2]
    return output.view(*leading, length, value.shape[-1]), normaliser.view(*leading, 1, length)


@attend.register_fake
def _(query, key, value, hidden, terms, causal, scale):
    *leading, length, _ = query.shape
    sums = value.new_empty(*leading, 1, length, dtype=accumulator(value))
    return value.new_empty(*leading, length, value.shape[-1]), sums


@library.custom_op("q1::attend_backward", mutates_args=())
def attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hidden: Tensor | None,
    output: Tensor,
    normaliser: Tensor,
    terms: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by query, key and value from that by the output (..., L, E)."""
    grad, output, normaliser = _flat(grad, output, normaliser)
    flat = _flat(query, key, value, hidden)
    grads = chunked.attend_backward(grad, *flat, output, normaliser, terms, causal, scale)
    return tuple(x.view(like.shape) for x, like in zip(grads, (query, key, value), strict=True))


@attend_backward.register_fake
def _(grad, query, key, value, *_):
    return tuple(x.new_empty(x.shape) for x in (query, key, value))


class Attention(torch.autograd.Function):
    """`attend` with derivatives in both modes."""

    @staticmethod
    def forward(*inputs):
        return attend(*inputs)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.settings = inputs[4:]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs[:4], *output)
        ctx.save_for_forward(*inputs[:4])

    @staticmethod
    def backward(ctx, grad, _):
        return *AttentionBackward.apply(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None

    @staticmethod
    def jvp(ctx, *tangents):
        *primals, hidden = ctx.saved_tensors
        return _push_forward(_definition(hidden, *ctx.settings), primals, tangents[:3]), None

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return _lead(apply, info, in_dims, inputs)


class AttentionBackward(torch.autograd.Function):
    """`attend_backward` with derivatives: a function of the gradient that comes in and of query, key and value."""

    @staticmethod
    def forward(*inputs):
        return attend_backward(*inputs)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.settings = inputs[7:]
        ctx.save_for_backward(*inputs[:5])
        ctx.save_for_forward(*inputs[:5])

    @staticmethod
    def backward(ctx, *grads):
        *primals, hidden = ctx.saved_tensors
        _, pull_back = torch.func.vjp(_gradient(hidden, *ctx.settings), *primals)
        return *pull_back(grads), *[None] * 6

    @staticmethod
    def jvp(ctx, *tangents):
        *primals, hidden = ctx.saved_tensors
        return _push_forward(_gradient(hidden, *ctx.settings), primals, tangents[:4])

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return _lead(AttentionBackward.apply, info, in_dims, inputs)


# an exported program holds the operator alone, of which PyTorch takes derivatives in reverse mode
attend.register_autograd(Attention.backward, setup_context=Attention.setup_context)


@torch.compiler.allow_in_graph
def apply(*inputs) -> tuple[Tensor, Tensor]:
    """`attend`, differentiable: what compilers take as it is, with its forward mode."""
    return Attention.apply(*inputs)


def _flat(*inputs: Tensor | None) -> list[Tensor | None]:
    """With the leading dimensions as one, N: those of the first are those of all."""
    leading = inputs[0].dim() - 2
    return [x if x is None else x.reshape(math.prod(x.shape[:leading]), *x.shape[leading:]) for x in inputs]


def _lead(function: Callable, info, in_dims, inputs):
    """Under vmap the mapped dimension becomes one more leading dimension."""

    def lead(x, dim):
        if not isinstance(x, Tensor):
            return x
        return x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)

    outputs = function(*map(lead, inputs, in_dims))
    return outputs, (0,) * len(outputs)


# --- the definition ----------------------------------------------------------------------------------


def attend_by_scores(
    query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, terms: int, causal: bool, scale: float
) -> Tensor:
    """The same by scores: (..., L, D), (..., S, D), (..., S, E), mask (..., S) -> (..., L, E), in O(L S) memory."""
    dtype, visible = accumulator(value), visible_keys(query, key, causal, hidden)
    with full_precision(query):
        if hidden is not None:  # whatever stands there, it may be no number
            key, value = (x.masked_fill(hidden[..., None], 0) for x in (key, value))
        scores = query.to(dtype) @ key.to(dtype).mT * scale  # (..., L, S)
        weights = torch.ones_like(scores)
        for degree in range(terms - 1, 0, -1):
            weights = 1 + scores * weights / degree
        if visible is not None:
            weights = weights.where(visible, 0)
        sums = weights.sum(-1, keepdim=True)  # (..., L, 1)
        if hidden is not None:
            sums = sums.masked_fill(~visible.any(-1, keepdim=True), 1)  # who sees nothing gets 0
        check_positive(sums, terms)
        return (weights / sums @ value.to(dtype)).to(value.dtype)


def visible_keys(query: Tensor, key: Tensor, causal: bool, hidden: Tensor | None) -> Tensor | None:
    """True where a query may look at a key, (L, S) or (..., L or 1, S); None where all may look at all."""
    visible = None if hidden is None else ~hidden[..., None, :]  # (..., 1, S)
    if not causal:
        return visible
    triangle = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()  # (L, S)
    return triangle if visible is None else visible & triangle


def _definition(hidden, terms, causal, scale) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return functools.partial(attend_by_scores, hidden=hidden, terms=terms, causal=causal, scale=scale)


def _gradient(*settings) -> Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """(gradient by the output, query, key, value) -> gradients by query, key and value."""
    return lambda grad, *inputs: torch.func.vjp(_definition(*settings), *inputs)[1](grad)


def _push_forward(function: Callable, primals, tangents):
    """The derivative along `tangents`, as the derivative of the pull-back, which is linear: this nests in any mode."""
    tangents = tuple(torch.zeros_like(x) if t is None else t for x, t in zip(primals, tangents, strict=True))
    output, pull_back = torch.func.vjp(function, *primals)
    zeros = torch.utils._pytree.tree_map(torch.zeros_like, output)
    return torch.func.vjp(pull_back, zeros)[1](tangents)[0]
