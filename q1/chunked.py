"""Linear attention in chunks: the forward and the backward pass behind `q1_linear_attention.linear_attention`.

Neither the features of the whole sequence nor any L x L matrix ever exists: a block of features is made, used in
matrix products while it lies in the processor's cache, and overwritten. The backward pass makes them again.

Letters: L queries, S keys, D head dimension, E value dimension, K terms, M features, N leading dimensions as one,
c tokens of a chunk. Within a chunk a row is one feature (or one coordinate) of all tokens: (N, M, c).
"""

from __future__ import annotations

import contextlib
import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from q1.monomials import MonomialRows, feature_dim, series_weights

BUFFER = {"cpu": 2**21, "cuda": 2**26}  # numbers in a block of features: what the caches hold, what fills a GPU
CHUNK = {"cpu": 2048, "cuda": 2**14}  # the most tokens of a block
CAUSAL_CHUNK = 256  # within it, causal attention takes the quadratic form


def attend(query, key, value, hidden, terms, causal, scale) -> tuple[Tensor, Tensor]:
    """(N, L, D), (N, S, D), (N, S, E) -> (N, L, E) and the sums of the weights (N, 1, L); many of the N at a time."""
    output = value.new_empty(*query.shape[:2], value.shape[-1])
    normaliser = value.new_empty(query.shape[0], 1, query.shape[1], dtype=accumulator(value))
    with full_precision(query):
        for heads in _groups(query, terms):
            group = _Group.of(heads, query, key, value, hidden, terms, scale)
            (_attend_causally if causal else _attend)(group, output[heads], normaliser[heads])
    if hidden is not None:
        blind = hidden.cumprod(-1).bool() if causal else hidden.all(-1, keepdim=True).expand(-1, query.shape[1])
        output.masked_fill_(blind[..., None], 0)
        normaliser.masked_fill_(blind[:, None], torch.inf)
    check_positive(normaliser, terms)
    return output, normaliser


def attend_backward(grad, query, key, value, hidden, output, normaliser, terms, causal, scale) -> tuple[Tensor, ...]:
    """Gradients by query, key and value from that by the output, and from what `attend` returned."""
    grads = tuple(x.new_empty(x.shape) for x in (query, key, value))
    with full_precision(query):
        for heads in _groups(query, terms):
            group = _Group.of(heads, query, key, value, hidden, terms, scale)
            grad_sums = functools.partial(_grad_sums, grad[heads], output[heads], normaliser[heads])
            backward = _attend_causally_backward if causal else _attend_backward
            backward(group, grad_sums, *(g[heads] for g in grads))
    if hidden is not None:
        for of_hidden in grads[1:]:
            of_hidden.masked_fill_(hidden[..., None], 0)
    return grads


@dataclass(frozen=True)
class _Group:
    """The inputs of some heads, given out in chunks: queries scaled, padding made zero, in the accumulator's type."""

    query: Tensor  # (N, L, D)
    key: Tensor  # (N, S, D)
    value: Tensor  # (N, S, E)
    hidden: Tensor | None  # (N, S)
    terms: int
    scale: float

    @classmethod
    def of(cls, heads, query, key, value, hidden, terms, scale) -> _Group:
        return cls(query[heads], key[heads], value[heads], None if hidden is None else hidden[heads], terms, scale)

    @property
    def dtype(self) -> torch.dtype:
        return accumulator(self.value)

    def queries(self, part: slice) -> Tensor:
        return self.query[:, part].to(self.dtype) * self.scale  # (N, c, D)

    def keys(self, part: slice) -> Tensor:
        key = self.key[:, part].to(self.dtype)
        # whatever padding holds, NaN too, counts for nothing
        return key if self.hidden is None else key.masked_fill(self.hidden[:, part, None], 0)  # (N, c, D)

    def values(self, part: slice) -> Tensor:
        """Values as rows, and a row of ones: a sum of values is then one matrix product with the sum of weights."""
        value = self.value[:, part].mT
        rows = value.new_ones(value.shape[0], value.shape[1] + 1, value.shape[2], dtype=self.dtype)
        rows[:, :-1] = value
        return rows if self.hidden is None else rows.masked_fill_(self.hidden[:, None, part], 0)  # (N, E+1, c)

    def features(self, chunk: int) -> MonomialRows:
        return MonomialRows(
            len(self.query), self.query.shape[-1], chunk, self.terms, self.value.new_empty(0, dtype=self.dtype)
        )

    def weights(self) -> Tensor:
        return series_weights(self.query.shape[-1], self.terms).to(self.value.device, self.dtype)  # (M,)

    def zeros(self) -> Tensor:
        """An empty state: for each feature the sum over keys of the values, and of one."""
        features = feature_dim(self.query.shape[-1], self.terms)
        return self.value.new_zeros(len(self.value), self.value.shape[-1] + 1, features, dtype=self.dtype)

    def chunk(self) -> int:
        """Tokens of a block of features: a share of the longer input, as even as it can be."""
        device, length = self.value.device.type, max(self.query.shape[1], self.key.shape[1])
        limit = BUFFER.get(device, BUFFER["cuda"]) // (len(self.query) * feature_dim(self.query.shape[-1], self.terms))
        return _even_share(length, max(16, min(limit, CHUNK.get(device, CHUNK["cuda"]))))


def _key_state(group: _Group, features: MonomialRows) -> Tensor:
    """sum_j phi(k_j) (v_j, 1)^T, with the coefficients of the series: (N, E+1, M)."""
    state = group.zeros()
    for part in _parts(group.key, features.chunk):
        state.baddbmm_(group.values(part), features.fill(group.keys(part)).mT)
    return state.mul_(group.weights())


def _divide(sums: Tensor, output: Tensor, normaliser: Tensor) -> None:
    """(N, E+1, c) -> output (N, c, E) and normaliser (N, 1, c); eq:normaliser."""
    normaliser.copy_(sums[:, -1:])
    torch.div(sums[:, :-1], normaliser, out=output.mT)


def _attend(group: _Group, output: Tensor, normaliser: Tensor) -> None:
    features = group.features(group.chunk())
    state = _key_state(group, features)
    for part in _parts(group.query, features.chunk):
        sums = state @ features.fill(group.queries(part))  # (N, E+1, c)
        _divide(sums, output[:, part], normaliser[..., part])


def _grad_sums(grad: Tensor, output: Tensor, normaliser: Tensor, part: slice) -> Tensor:
    """Gradient by numerator and normaliser, from that by their quotient: (N, E+1, c)."""
    numerator = grad[:, part].mT / normaliser[..., part]
    return torch.cat([numerator, -(numerator * output[:, part].mT).sum(1, keepdim=True)], 1)


def _attend_backward(group, grad_sums, grad_query, grad_key, grad_value) -> None:
    features = group.features(group.chunk())
    state = _key_state(group, features)
    grad_state = group.zeros()
    for part in _parts(group.query, features.chunk):
        rows = grad_sums(part)
        grad_state.baddbmm_(rows, features.fill(group.queries(part)).mT)
        grad_query[:, part] = features.backward(state.mT @ rows).mul_(group.scale)
    grad_state.mul_(group.weights())
    for part in _parts(group.key, features.chunk):
        grad_value[:, part] = (grad_state[:, :-1] @ features.fill(group.keys(part))).mT
        grad_key[:, part] = features.backward(grad_state.mT @ group.values(part))


def _truncated_exp(t: Tensor, terms: int) -> Tensor:
    """1 + t + ... + t^(K-1) / (K-1)! by Horner's rule; its derivative is the same with a term less."""
    total = torch.ones_like(t) if terms else torch.zeros_like(t)
    for degree in range(terms - 1, 0, -1):
        total.mul_(t).div_(degree).add_(1)
    return total


def _attend_causally(group: _Group, output: Tensor, normaliser: Tensor) -> None:
    """The quadratic form within a chunk; a running state brings in the chunks before."""
    parts = _parts(group.query, _even_share(group.query.shape[1], CAUSAL_CHUNK))
    features, state = group.features(parts[0].stop), group.zeros()
    for part in parts:
        query, key, values = group.queries(part), group.keys(part), group.values(part)
        weights = _truncated_exp(key @ query.mT, group.terms).triu_()  # (N, c, c), keys by queries
        sums = values @ weights  # (N, E+1, c)
        if part != parts[0]:
            sums.baddbmm_(state * group.weights(), features.fill(query))
        if part != parts[-1]:
            state.baddbmm_(values, features.fill(key).mT)
        _divide(sums, output[:, part], normaliser[..., part])


def _attend_causally_backward(group, grad_sums, grad_query, grad_key, grad_value) -> None:
    """Forwards through the chunks for what depends on the keys before, backwards for the queries after."""
    parts = _parts(group.query, _even_share(group.query.shape[1], CAUSAL_CHUNK))
    features, state, coefficients = group.features(parts[0].stop), group.zeros(), group.weights()
    for part in parts:
        query, key, values, rows = group.queries(part), group.keys(part), group.values(part), grad_sums(part)
        scores = key @ query.mT  # (N, c, c), keys by queries
        grad_value[:, part] = _truncated_exp(scores, group.terms).triu_() @ rows[:, :-1].mT
        grad_scores = (values.mT @ rows).mul_(_truncated_exp(scores, group.terms - 1)).triu_()
        grad_key[:, part] = grad_scores @ query
        grad = grad_scores.mT @ key  # by the scaled query
        if part != parts[0]:
            features.fill(query)
            grad += features.backward((state * coefficients).mT @ rows)
        if part != parts[-1]:
            state.baddbmm_(values, features.fill(key).mT)
        grad_query[:, part] = grad * group.scale
    grad_state = state.zero_()
    for part in reversed(parts):
        if part != parts[-1]:
            weighted = grad_state * coefficients
            grad_value[:, part] += (weighted[:, :-1] @ features.fill(group.keys(part))).mT
            grad_key[:, part] += features.backward(weighted.mT @ group.values(part))
        if part != parts[0]:
            grad_state.baddbmm_(grad_sums(part), features.fill(group.queries(part)).mT)


# --- checks and sizes ---------------------------------------------------------------------------------


def check_positive(normaliser: Tensor, terms: int) -> None:
    """Weights must have a positive sum: an even number of terms, or rounding of huge scores, can break that.

    Passes where there are no numbers to look at: while a program is traced or a CUDA graph captured, on meta tensors.
    """
    if torch.compiler.is_compiling():
        return
    normaliser = torch.func.debug_unwrap(normaliser)  # vmap's tensors refuse .item()
    capturing = normaliser.is_cuda and torch.cuda.is_current_stream_capturing()
    if normaliser.is_meta or type(normaliser) is not Tensor or not normaliser.numel() or capturing:
        return
    smallest = normaliser.min().item()
    if smallest <= torch.finfo(normaliser.dtype).eps:
        reason = (
            "an even number of terms is negative for scores far below zero; use an odd number, always positive"
            if terms % 2 == 0
            else f"the scores are so large that their powers cancel to rounding errors in {normaliser.dtype}"
        )
        raise ValueError(
            f"with terms={terms} the weights of a query sum to {smallest:.3g}: {reason}, or smaller scores"
        )


def full_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """Without autocast, for the device of x; the meta device has none."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _even_share(length: int, limit: int) -> int:
    """`length` cut into the fewest equal parts of at most `limit`."""
    return math.ceil(length / math.ceil(length / limit))


def _parts(x: Tensor, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, x.shape[1], chunk)]


def _groups(query: Tensor, terms: int) -> list[slice]:
    """Slices of the leading dimension, such that 256 tokens of each fill a block."""
    limit = BUFFER.get(query.device.type, BUFFER["cuda"]) // (256 * feature_dim(query.shape[-1], terms))
    size = _even_share(max(1, len(query)), max(1, limit))
    return [slice(start, start + size) for start in range(0, len(query), size)]
