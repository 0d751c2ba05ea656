"""What Question 1's tests compare with: sums written out, and inputs drawn in float64."""

import collections
import itertools
import math

import sympy
import torch

from q1 import chunked
from q1_linear_attention import linear_attention

# float64 with sums of up to a few thousand numbers of order 1 to 10, and a quotient: a hundredth of this is usual
EXACT = {"rtol": 1e-10, "atol": 1e-12}
EXACT_GRADIENT = {"rtol": 1e-9, "atol": 1e-9}


def set_chunks(patch, causal=16, full=16, block=1):
    """Short chunks; a block of one number means one head at a time, and 16 tokens, the fewest there can be."""
    patch.setattr(chunked, "CAUSAL_CHUNK", causal)
    patch.setitem(chunked.CHUNK, "cpu", full)
    patch.setitem(chunked.BUFFER, "cpu", block)


def series(t, terms):
    """1 + t + ... + t^(K-1) / (K-1)!, for numbers, symbols and tensors."""
    return sum(t**n / math.factorial(n) for n in range(terms))


def kernel_weights(query, key, terms=3, causal=False, scale=None, hidden=None):
    """The matrix of weights, not yet divided by its sums: (..., L, S)."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    weights = series(scale * torch.einsum("...id,...jd->...ij", query, key), terms) * torch.ones(())
    visible = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool)
    if causal:
        visible = torch.arange(key.shape[-2]) <= torch.arange(query.shape[-2])[:, None]
    if hidden is not None:
        visible = visible & ~hidden[..., None, :]
    return torch.where(visible, weights, torch.zeros_like(weights))


def quadratic(query, key, value, terms=3, causal=False, scale=None, hidden=None):
    """Attention with the truncated series as its kernel, the whole matrix written out; a query without keys gets 0."""
    weights = kernel_weights(query, key, terms, causal, scale, hidden)
    total = weights.sum(-1, keepdim=True)
    return torch.einsum("...ij,...je->...ie", weights / torch.where(total == 0, 1, total), value)


def monomials(dim, terms, symmetric=True):
    """Index tuples, sorted ones or all, by brute force."""
    tuples = [t for n in range(terms) for t in itertools.product(range(dim), repeat=n)]
    return sorted({tuple(sorted(t)) for t in tuples}, key=lambda t: (len(t), t)) if symmetric else tuples


def coefficient(monomial, symmetric=True):
    """Of x^a in the feature: (1 / a!)^1/2, or (1 / n!)^1/2 if each order of the factors has a feature of its own."""
    factorials = map(math.factorial, collections.Counter(monomial).values()) if symmetric else ()
    return sympy.sqrt(sympy.Rational(1, math.prod(factorials) if symmetric else math.factorial(len(monomial))))


def phi(x, terms, symmetric=True):
    """The features of a list of numbers or symbols, as the documentation defines them."""
    return [coefficient(m, symmetric) * sympy.prod(x[i] for i in m) for m in monomials(len(x), terms, symmetric)]


def draw(seed=0, length=20, keys=None, dim=4, value_dim=3, leading=(3,), size=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    keys = length if keys is None else keys
    shapes = (length, dim), (keys, dim), (keys, value_dim)
    query, key, value = (torch.randn(*leading, *s, generator=generator, dtype=torch.float64) for s in shapes)
    return [x.to(dtype) for x in (query * size, key * size, value)]


def draw_mask(seed, leading, keys):
    """About a third hidden, one key of each row always visible so that an odd kernel's sum is not tiny."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.rand(*leading, keys, generator=generator) < 0.35
    hidden[..., keys // 2] = False
    return hidden


def gradients(function, inputs, seed=9):
    """Output, and gradients of a random sum of its numbers."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    output = function(*inputs)
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    return output.detach(), torch.autograd.grad(output, inputs, grad)


def check_against_quadratic(inputs, **options):
    """Output and gradients, both ways."""
    hidden = options.pop("hidden", None)
    output, found = gradients(lambda *x: linear_attention(*x, key_padding_mask=hidden, **options), inputs)
    reference, expected = gradients(lambda *x: quadratic(*x, hidden=hidden, **options), inputs)
    torch.testing.assert_close(output, reference, **EXACT)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT_GRADIENT)
