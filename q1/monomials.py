"""The monomials behind Question 1's feature map: how many there are, and two ways to compute them.

exp(q.k) = sum_n (q.k)^n / n! is cut after K terms. Each term is an inner product of monomials of q and of k: that is
the feature map. Letters: D head dimension, K terms, M features, N leading dimensions as one, c tokens of a chunk.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import torch
from torch import Tensor


def feature_dim(dim: int, terms: int = 3, symmetric: bool = True) -> int:
    """M, the number of features of `maclaurin_features`: C(D+K-1, K-1), or 1 + D + ... + D^(K-1)."""
    check_terms(terms)
    if symmetric:
        return math.comb(dim + terms - 1, terms - 1)  # eq:dim-K-symmetric
    return sum(dim**degree for degree in range(terms))  # eq:dim-K


def maclaurin_features(x: Tensor, terms: int = 3, symmetric: bool = True) -> Tensor:
    """phi with phi(q).phi(k) = sum_{n<K} (q.k)^n / n! exactly (homework, question 1.2).

    x (..., D) -> (..., M). `symmetric` keeps each monomial x^a once, times (1 / a!)^1/2; otherwise each ordered
    product x_i x_j ... of n coordinates is kept, times (1 / n!)^1/2. The square of the factor is the monomial's
    coefficient in the series.
    """
    check_terms(terms)
    degrees = [torch.ones_like(x[..., :1])]
    for degree in range(1, terms):
        last = degrees[-1]
        if symmetric:
            products = [x[..., i, None] * last[..., start:] for i, start in enumerate(tails(x.shape[-1], degree))]
            degrees.append(torch.cat(products, -1))
        else:
            degrees.append((x[..., None] * last[..., None, :]).flatten(-2) / math.sqrt(degree))
    features = torch.cat(degrees, -1)  # (..., M)
    return features * series_weights(x.shape[-1], terms).sqrt().to(x) if symmetric else features


def tails(dim: int, degree: int) -> list[int]:
    """Where, among the monomials of degree - 1, those begin that have no index below i; for each i.

    The monomials x_i x_j ... (i <= j <= ...) of a degree stand in lexicographic order. Those that begin with i are x_i
    times the monomials of the degree before that have no index below i, which are the last ones of that degree.
    """
    count = [math.comb(dim - i + degree - 2, degree - 1) for i in range(dim)]  # monomials in x_i ... x_{D-1}
    return [count[0] - c for c in count]


@torch.compiler.allow_in_graph  # compiled code holds the numbers, and not the loops that find them
def series_weights(dim: int, terms: int) -> Tensor:
    """1 / a! of each monomial x^a, its coefficient in the series of exp(q.k), in the order of the features: (M,)."""
    return torch.from_numpy(_coefficients(dim, terms))


@functools.lru_cache(maxsize=64)
def _coefficients(dim: int, terms: int) -> np.ndarray:
    # an array: a cached tensor would have the device or the mode (meta, fake, inference) of whoever asked first
    monomials = itertools.chain.from_iterable(
        itertools.combinations_with_replacement(range(dim), degree) for degree in range(terms)
    )
    factorials = [math.prod(math.factorial(len(list(run))) for _, run in itertools.groupby(m)) for m in monomials]
    return 1 / np.array(factorials, dtype=np.float64)


class MonomialRows:
    """The monomials of a chunk of tokens, a contiguous row for each: (N, M, C).

    In this layout a monomial is the product of two rows, element by element: all that begin with x_i come from one
    operation on contiguous memory, and a matrix product reads the rows as they lie.
    """

    def __init__(self, heads: int, dim: int, chunk: int, terms: int, like: Tensor):
        self.dim, self.chunk, self.terms = dim, chunk, terms
        self.buffer = like.new_empty(heads, feature_dim(dim, terms), chunk)
        self.buffer[:, 0] = 1
        self._narrow(chunk)

    def _narrow(self, length: int) -> None:
        """Take views of the first `length` tokens; they serve until the length changes."""
        self.rows = rows = self.buffer[..., :length]  # (N, M, c)
        self.products = []  # views of: x_i, the monomials of lower degree, their products; and the places of these two
        begin = 1
        for degree in range(2, self.terms):
            end = place = begin + math.comb(self.dim + degree - 2, degree - 1)
            for i, start in enumerate(tails(self.dim, degree)):
                lower, product = slice(begin + start, end), slice(place, place + end - begin - start)
                self.products.append((i, rows[:, 1 + i, None], rows[:, lower], rows[:, product], lower, product))
                place = product.stop
            begin = end

    def fill(self, x: Tensor) -> Tensor:
        """(N, c, D) -> (N, M, c), which the next call overwrites."""
        if x.shape[1] != self.rows.shape[-1]:
            self._narrow(x.shape[1])
        if self.terms > 1:
            self.rows[:, 1 : 1 + self.dim] = x.mT
        for _, x_i, lower, product, _, _ in self.products:
            torch.mul(x_i, lower, out=product)
        return self.rows

    def backward(self, grad: Tensor) -> Tensor:
        """Gradient by the `x` of the last call from that by its rows, which it overwrites: (N, M, c) -> (N, c, D)."""
        if self.terms == 1:
            return grad.new_zeros(grad.shape[0], grad.shape[-1], self.dim)
        grad_x = grad[:, 1 : 1 + self.dim]
        for i, x_i, lower, _, at_lower, at_product in reversed(self.products):
            grad[:, at_lower].addcmul_(x_i, grad[:, at_product])
            grad_x[:, i] += grad[:, at_product].mul_(lower).sum(1)
        return grad_x.mT


def check_terms(terms: int) -> None:
    if terms < 1:
        raise ValueError(f"terms is {terms}: the series needs at least its first term, 1")
