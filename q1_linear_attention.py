"""Question 1: softmax attention, and linear attention by the Maclaurin series of the exponential.

exp(q.k) = sum_n (q.k)^n / n! is cut after K terms; each term is an inner product of monomials of q and of k, so that
a sum over keys can be taken before any query is known. The cost is then linear in the number of tokens.

Letters: L queries, S keys, D head dimension, E value dimension, K terms, M features. Run as a script it shows what
this buys: `python q1_linear_attention.py`.
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import sys

import torch
from torch import Tensor

from q1 import operators
from q1.bound import approximation_bound
from q1.chunked import accumulator, check_positive, full_precision
from q1.monomials import check_terms, feature_dim, maclaurin_features

__all__ = [
    "LinearAttentionState",
    "approximation_bound",
    "feature_dim",
    "linear_attention",
    "maclaurin_features",
    "softmax_attention",
]


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Softmax(scale * Q K^T) V, quadratic in time and memory (homework, question 1.1).

    Shapes: query (..., L, D), key (..., S, D), value (..., S, E) -> (..., L, E). `scale` None means D^-1/2; the
    homework's own form is 1.
    """
    scores = query @ key.mT * _scale(query, scale)  # (..., L, S)
    return scores.softmax(-1) @ value  # eq:softmax-attention


def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    terms: int = 3,
    causal: bool = False,
    scale: float | None = None,
    key_padding_mask: Tensor | None = None,
) -> Tensor:
    """D^-1 Phi(Q) Phi(K)^T V with D = Diag(Phi(Q) Phi(K)^T 1), in O(L M E) time (homework, questions 1.3 and 1.4).

    Shapes: query (..., L, D), key (..., S, D), value (..., S, E) -> (..., L, E); leading dimensions broadcast.
    `scale` multiplies q.k; None means D^-1/2. `key_padding_mask` (..., S) is True where a key is to be ignored; a
    query that sees no key gets 0, as in `F.scaled_dot_product_attention`. `causal` lets query i see the keys 0 ... i.

    Beyond the inputs and the output it takes O(M E) memory and one chunk, forward and backward: features are
    computed again where they are needed. float16 and bfloat16 are computed in float32. The output has the type of the
    inputs, under autocast too; of several types, which only autocast allows, they are first cast to its own. NaN
    spreads to every output that depends on it (causal: and may to those before it in its chunk).

    Works under `torch.func` (vmap, grad, jvp and what nests them), `torch.compile(fullgraph=True)`, `torch.export` (a
    saved program needs this module imported), `torch.jit.trace`, activation checkpointing, and on meta tensors.
    Derivatives beyond the first, or in forward mode, take O(L S) memory. Of compiled code PyTorch has no second
    derivative, and of an exported program only the first, in reverse mode. `torch.jit.script` cannot read this.

    Raises ValueError for shapes that don't fit, for `causal` with L != S, and for a query whose weights don't have a
    positive sum: with an even number of terms they can be negative, while 1 + t + t^2/2 is at least 1/2; but in float32
    scores of 1000 and more leave rounding errors of the size of that 1/2. The sums are not checked where there are
    none: on meta tensors, and while a CUDA graph is captured.
    """
    check_terms(terms)
    query, key, value = _cast_by_autocast(query, key, value)
    _check_inputs(query, key, value, causal)
    leading = _leading(query, key, value)
    inputs = [x.expand(*leading, -1, -1) for x in (query, key, value)]
    hidden = None
    if key_padding_mask is not None:
        _check_mask(key_padding_mask, leading, key.shape[-2])
        hidden = key_padding_mask.expand(*leading, -1)  # (..., S)
    output, _ = operators.apply(*inputs, hidden, terms, causal, _scale(query, scale))
    return output


class LinearAttentionState:
    """What linear attention keeps of all keys and values seen so far: (..., M, E+1) numbers, however many they were.

    `step` is causal attention for one more token; `add` and `read` are its halves (a memory that is read only, in
    cross-attention). For generation: no gradient is recorded. It works under vmap, torch.compile and torch.export, but
    in compiled code and on meta tensors the sums of the weights are not checked.
    """

    def __init__(self, terms: int = 3, scale: float | None = None):
        check_terms(terms)
        self.terms, self.scale = terms, scale
        self.sums: Tensor | None = None

    def add(self, key: Tensor, value: Tensor) -> None:
        """Takes in S more tokens: key (..., S, D), value (..., S, E)."""
        dtype = accumulator(value)
        with torch.no_grad(), full_precision(value):
            value = torch.cat([value, torch.ones_like(value[..., :1])], -1).to(dtype)  # (..., S, E+1)
            sums = maclaurin_features(key.to(dtype), self.terms).mT @ value  # (..., M, E+1)
            self.sums = sums if self.sums is None else self.sums + sums

    def read(self, query: Tensor) -> Tensor:
        """Attention of query (..., L, D) to all tokens taken in: (..., L, E)."""
        if self.sums is None:
            raise ValueError("the state is empty: add keys and values before reading")
        with torch.no_grad(), full_precision(query):
            scaled = query.to(self.sums.dtype) * _scale(query, self.scale)
            sums = maclaurin_features(scaled, self.terms) @ self.sums  # (..., L, E+1)
            check_positive(sums[..., -1:], self.terms)
            return (sums[..., :-1] / sums[..., -1:]).to(query.dtype)

    def step(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One token: query and key (..., D), value (..., E) -> (..., E)."""
        self.add(key[..., None, :], value[..., None, :])
        return self.read(query[..., None, :])[..., 0, :]


# --- checks -------------------------------------------------------------------------------------------


def _cast_by_autocast(*inputs: Tensor) -> tuple[Tensor, ...]:
    """Inputs of several types get autocast's, as those of `F.scaled_dot_product_attention` do; float64 never does."""
    device, types = inputs[0].device.type, [x.dtype for x in inputs]
    if types[0] == types[1] == types[2] or torch.float64 in types or not all(x.is_floating_point() for x in inputs):
        return inputs
    if inputs[0].is_meta or not torch.is_autocast_enabled(device):
        return inputs
    return tuple(x.to(torch.get_autocast_dtype(device)) for x in inputs)


def _check_inputs(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> None:
    if min(query.dim(), key.dim(), value.dim()) < 2:
        raise ValueError(f"expected (..., L, D), (..., S, D), (..., S, E), got {_shapes(query, key, value)}")
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        shapes = _shapes(query, key, value)
        raise ValueError(f"query and key need the same last dimension, key and value the same length: {shapes}")
    if 0 in (*query.shape[-2:], *key.shape[-2:], *value.shape[-2:]):
        raise ValueError(f"there is nothing to attend to in an empty sequence: {_shapes(query, key, value)}")
    if not query.dtype == key.dtype == value.dtype or not query.is_floating_point():
        raise ValueError(f"expected one floating type, got {query.dtype}, {key.dtype}, {value.dtype}")
    if causal and query.shape[-2] != key.shape[-2]:
        raise ValueError(f"causal attention needs as many queries as keys: {_shapes(query, key, value)}")


def _shapes(query: Tensor, key: Tensor, value: Tensor) -> str:
    return f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"


def _leading(query: Tensor, key: Tensor, value: Tensor) -> torch.Size:
    shapes = [x.shape[:-2] for x in (query, key, value)]
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        shown = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"the leading dimensions of query, key and value do not fit each other: {shown}") from None


def _check_mask(mask: Tensor, leading: torch.Size, length: int) -> None:
    if mask.dtype != torch.bool or mask.shape[-1:] != (length,):
        raise ValueError(f"key_padding_mask is {mask.dtype} {tuple(mask.shape)}, expected bool (..., {length})")
    missing = len(leading) - (mask.dim() - 1)
    if missing < 0 or any(m not in (1, n) for m, n in zip(mask.shape[:-1], leading[missing:], strict=True)):
        raise ValueError(f"key_padding_mask {tuple(mask.shape)} does not fit leading dimensions {tuple(leading)}")


def _scale(query: Tensor, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    from q1 import demo  # not needed by those who import this module for its functions

    demo.show(command_line.parse(demo.Config, argv, demo.__doc__), linear_attention)


if __name__ == "__main__":
    sys.exit(main())
