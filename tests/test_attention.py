"""Multi-head attention against its formula, a head at a time with plain matrices."""

import math

import pytest
import torch

import attention
from attention import MultiHeadAttention

KERNELS = ("softmax", "maclaurin")
HIDDEN, HEADS = 12, 3
DIM = HIDDEN // HEADS
# with 3 terms and D = 4, linear attention sums M (D + 1) = 75 numbers: more scores than that, and it takes over
EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64, sums of a few dozen numbers of order 1


def make(kernel, terms=3, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    module = MultiHeadAttention(HIDDEN, HEADS, kernel, terms).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():  # larger than usual: scores of order 1 tell the kernels apart
            parameter.normal_(std=0.4)
    return module


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def right_padding(lengths, total):
    return torch.arange(total) >= torch.tensor(lengths)[:, None]


def kernel_function(kernel, terms=3):
    if kernel == "softmax":
        return torch.exp
    return lambda t: sum(t**n / math.factorial(n) for n in range(terms))


def by_hand(module, x, memory=None, causal=False, hidden=None, terms=3):
    """Concat(head_1 ... head_H) W^O for each element of the batch, W_h^Q the rows of `query.weight` for head h."""
    function = kernel_function(module.kernel, terms)
    memory = x if memory is None else memory
    outputs = []
    for b in range(len(x)):
        heads = []
        for h in range(HEADS):
            rows = slice(h * DIM, (h + 1) * DIM)
            query = x[b] @ module.query.weight[rows].T + module.query.bias[rows]
            key = memory[b] @ module.key.weight[rows].T + module.key.bias[rows]
            value = memory[b] @ module.value.weight[rows].T + module.value.bias[rows]
            weights = function(query @ key.T / math.sqrt(DIM))  # (L, S)
            if causal:
                weights = weights * torch.ones(len(query), len(key)).tril()
            if hidden is not None:
                weights = weights * ~hidden[b]
            total = weights.sum(-1, keepdim=True)
            heads.append(weights @ value / torch.where(total == 0, 1, total))
        outputs.append(torch.cat(heads, -1) @ module.output.weight.T + module.output.bias)
    return torch.stack(outputs)


@pytest.mark.equation("eq:multi-head")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [6, 9])
@pytest.mark.parametrize("kernel", KERNELS)
def test_self_attention_is_the_formula(kernel, length, causal, padded):
    module, x = make(kernel), draw(3, length, HIDDEN)
    hidden = right_padding([length, 4, 1], length) if padded else None
    output = module(x, causal=causal, key_padding_mask=hidden)
    torch.testing.assert_close(output, by_hand(module, x, causal=causal, hidden=hidden), **EXACT)


@pytest.mark.equation("eq:multi-head")
@pytest.mark.parametrize(("length", "keys"), [(1, 7), (7, 1), (5, 8), (8, 11)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_cross_attention_is_the_formula(kernel, length, keys):
    module, x, memory = make(kernel), draw(2, length, HIDDEN), draw(2, keys, HIDDEN, seed=2)
    hidden = right_padding([keys, 1], keys)
    torch.testing.assert_close(module(x, memory), by_hand(module, x, memory), **EXACT)
    found = module(x, memory, key_padding_mask=hidden)
    torch.testing.assert_close(found, by_hand(module, x, memory, hidden=hidden), **EXACT)


@pytest.mark.parametrize("terms", [1, 3, 5])
def test_the_number_of_terms_is_passed_on(terms):
    module, x = make("maclaurin", terms), draw(2, 6, HIDDEN)
    torch.testing.assert_close(module(x), by_hand(module, x, terms=terms), **EXACT)
    assert not torch.allclose(module(x), by_hand(module, x, terms=terms + 2), atol=1e-4)


def test_kernels_are_functions_of_the_same_parameters():
    softmax, maclaurin = make("softmax"), MultiHeadAttention(HIDDEN, HEADS, "maclaurin", terms=9).double()
    maclaurin.load_state_dict(softmax.state_dict())
    x = 0.3 * draw(2, 6, HIDDEN)
    query, key = (layer(x).unflatten(-1, (HEADS, DIM)) for layer in (softmax.query, softmax.key))
    scores = torch.einsum("bihd,bjhd->bhij", query, key) / math.sqrt(DIM)
    assert 1 < scores.abs().max() < 2  # the series cut after 9 terms is then off by 2^9 e^2 / 9! = 0.01 at the most
    torch.testing.assert_close(maclaurin(x), softmax(x), rtol=0, atol=1e-2)
    torch.testing.assert_close(maclaurin(x).mean(), softmax(x).mean(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("length", [6, 9])
@pytest.mark.parametrize("kernel", KERNELS)
def test_left_padding_with_causality(kernel, length):
    module, x = make(kernel), draw(2, length, HIDDEN)
    hidden = torch.arange(length) < torch.tensor([[0], [2]])
    output = module(x, causal=True, key_padding_mask=hidden)
    torch.testing.assert_close(output, by_hand(module, x, causal=True, hidden=hidden), **EXACT)
    # positions that see nothing get attention 0, and of the output's affine map the bias is left
    torch.testing.assert_close(output[1, :2], module.output.bias.expand(2, -1), **EXACT)


@pytest.mark.parametrize("keys", [4, 16])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_memory_that_is_all_padding_gives_the_bias_and_finite_gradients(kernel, keys):
    module, x, memory = make(kernel), draw(2, 5, HIDDEN), draw(2, keys, HIDDEN, seed=2)
    hidden = torch.tensor([[True] * keys, [False] * keys])
    output = module(x, memory, key_padding_mask=hidden)
    torch.testing.assert_close(output[0], module.output.bias.expand(5, -1), **EXACT)
    output.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("length", [8, 12])
@pytest.mark.parametrize("kernel", KERNELS)
def test_later_positions_change_nothing_if_causal(kernel, length):
    module, x = make(kernel), draw(2, length, HIDDEN)
    changed = torch.cat([x[:, :5], 10 * draw(2, length - 5, HIDDEN, seed=3)], 1)
    torch.testing.assert_close(module(changed, causal=True)[:, :5], module(x, causal=True)[:, :5], **EXACT)
    assert not torch.allclose(module(changed)[:, :5], module(x)[:, :5], atol=1e-2)


@pytest.mark.parametrize("keys", [7, 17])
@pytest.mark.parametrize("kernel", KERNELS)
def test_padding_has_exactly_no_influence(kernel, keys):
    module, x, memory = make(kernel), draw(2, 5, HIDDEN), draw(2, keys, HIDDEN, seed=2)
    hidden = right_padding([keys, 3], keys)
    garbage = 1e6 if kernel == "softmax" else math.nan  # the library's softmax multiplies padding's values by 0
    dirty = memory.masked_fill(hidden[..., None], garbage).requires_grad_()
    output = module(x, dirty, key_padding_mask=hidden)
    assert torch.equal(output, module(x, memory, key_padding_mask=hidden))
    assert not torch.allclose(output[1], module(x, memory)[1], atol=1e-2)
    (grad,) = torch.autograd.grad(output.square().sum(), dirty)
    assert not grad[hidden].any()
    assert grad[~hidden].any(-1).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_batch_mates_do_not_matter(kernel, causal):
    # alone and unpadded, or beside a longer sequence: the same, up to the order of sums in float32
    module = make(kernel, dtype=torch.float32)
    x = draw(3, 9, HIDDEN).float()
    lengths = [9, 4, 6]
    together = module(x, causal=causal, key_padding_mask=right_padding(lengths, 9))
    for b, length in enumerate(lengths):
        alone = module(x[b : b + 1, :length], causal=causal)
        torch.testing.assert_close(together[b : b + 1, :length], alone, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_token_by_token_with_a_cache_is_the_causal_pass(kernel):
    module, x = make(kernel), draw(2, 6, HIDDEN)
    expected = by_hand(module, x, causal=True)
    for causal in (False, True):  # a single query sees all that were before it
        cache = {}
        steps = [module(x[:, i : i + 1], causal=causal, cache=cache) for i in range(6)]
        torch.testing.assert_close(torch.cat(steps, 1), expected, **EXACT)
        assert cache["key"].shape == cache["value"].shape == (2, HEADS, 6, DIM)
    with pytest.raises(ValueError, match="one query and a cache"):
        module(x[:, :2], causal=True, cache=cache)


@pytest.mark.parametrize("kernel", KERNELS)
def test_keys_and_values_of_a_memory_are_made_once(kernel):
    module, x, memory = make(kernel), draw(2, 3, HIDDEN), draw(2, 5, HIDDEN, seed=2)
    expected = by_hand(module, x, memory)
    calls, cache = [], {}
    for layer in (module.key, module.value):
        layer.register_forward_hook(lambda *_: calls.append(1))
    steps = [module(x[:, i : i + 1], memory, cache=cache) for i in range(3)]
    torch.testing.assert_close(torch.cat(steps, 1), expected, **EXACT)
    assert len(calls) == 2


@pytest.mark.parametrize(("hidden_dim", "heads", "count"), [(12, 3, 624), (64, 4, 16640), (1, 1, 8)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_parameters_are_four_affine_maps_whatever_the_heads(kernel, hidden_dim, heads, count):
    # 4 (12 * 12 + 12) = 624
    module = MultiHeadAttention(hidden_dim, heads, kernel)
    assert sum(parameter.numel() for parameter in module.parameters()) == count
    assert {name for name, _ in module.named_children()} == {"query", "key", "value", "output"}


@pytest.mark.parametrize("keys", [None, 7, 17])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_reach_all_parameters_and_are_those_of_the_formula(kernel, keys):
    module, x = make(kernel), draw(2, 5, HIDDEN)
    memory = draw(2, keys, HIDDEN, seed=2) if keys else None
    parameters = list(module.parameters())
    assert len(parameters) == 8
    found = torch.autograd.grad(module(x, memory).pow(3).sum(), parameters)
    expected = torch.autograd.grad(by_hand(module, x, memory).pow(3).sum(), parameters)
    for (name, _), mine, theirs in zip(module.named_parameters(), found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)
        # softmax's weights don't change with the same number added to all scores, so the keys' bias has none
        assert mine.abs().max() > 1e-3 or (kernel == "softmax" and name == "key.bias")


@pytest.mark.parametrize(("length", "calls"), [(8, 0), (9, 1)])  # 64 scores are fewer than 75 sums, 81 are not
def test_linear_attention_takes_over_where_the_scores_are_more_numbers(length, calls, monkeypatch):
    seen = []
    linear = attention.linear_attention
    monkeypatch.setattr(attention, "linear_attention", lambda *args, **kw: seen.append(1) or linear(*args, **kw))
    make("maclaurin")(draw(2, length, HIDDEN))
    assert len(seen) == calls


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_short_series_is_computed_in_single_precision(dtype):
    query, key, value = (draw(2, 2, 8, 6, seed=seed).to(dtype) for seed in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention._maclaurin_attention(query, key, value, 3, False, None, 6**-0.5)
    scores = torch.einsum("bhld,bhsd->bhls", query.double(), key.double()) / 6**0.5
    weights = 0.5 + 0.5 * (1 + scores).square()
    expected = torch.einsum("bhls,bhsd->bhld", weights / weights.sum(-1, keepdim=True), value.double())
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("length", [4, 9])  # with 2 terms there are 25 sums
def test_weights_of_a_negative_sum_are_refused(length):
    ones = torch.ones(1, 1, length, 4)
    with pytest.raises(ValueError, match="even number of terms"):
        attention._maclaurin_attention(-3 * ones, ones, ones, 2, False, None, 0.5)


def test_bad_sizes_and_kernels_are_refused():
    with pytest.raises(ValueError, match="hidden_dim 10 is not a multiple of num_heads 3"):
        MultiHeadAttention(10, 3)
    with pytest.raises(ValueError, match="unknown kernel 'performer': expected one of softmax, maclaurin"):
        MultiHeadAttention(12, 3, "performer")


def test_causal_attention_to_a_longer_memory_is_refused_by_the_linear_kernel():
    with pytest.raises(ValueError, match="as many queries as keys"):
        make("maclaurin")(draw(2, 3, HIDDEN), draw(2, 5, HIDDEN), causal=True)
    with pytest.raises(ValueError, match="terms is 0"):
        make("maclaurin", terms=0)(draw(2, 3, HIDDEN))


def test_weights_are_those_of_the_attention():
    layer = make("softmax")
    x, z = draw(2, 5, HIDDEN), draw(2, 7, HIDDEN, seed=2)
    hidden = torch.arange(7) >= torch.tensor([7, 4])[:, None]
    weights = layer.weights(x, z, hidden)
    assert weights.shape == (2, layer.num_heads, 5, 7)
    assert (weights[1, ..., 4:] == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, layer.num_heads, 5, dtype=torch.float64), **EXACT)
    value = layer.value(z).unflatten(-1, (layer.num_heads, -1))  # (B, S, H, D)
    heads = torch.einsum("bhls,bshd->blhd", weights, value).flatten(2)
    torch.testing.assert_close(layer.output(heads), layer(x, z, key_padding_mask=hidden), **EXACT)
    torch.testing.assert_close(layer.weights(x, z).sum(-1), weights.sum(-1), **EXACT)
    causal = layer.weights(x, x, causal=True)
    assert (causal.triu(1) == 0).all()
    value = layer.value(x).unflatten(-1, (layer.num_heads, -1))
    heads = torch.einsum("bhls,bshd->blhd", causal, value).flatten(2)
    torch.testing.assert_close(layer.output(heads), layer(x, causal=True), **EXACT)


@pytest.mark.parametrize("written_out", [False, True])  # beyond so many scores, PyTorch's kernel
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_bfloat16_agrees_with_the_definition_in_float64(written_out, causal, padded, monkeypatch):
    length, fused = 40, []
    monkeypatch.setattr(attention, "LARGEST_WRITTEN_OUT", length**2 - (not written_out))
    kernel = attention.F.scaled_dot_product_attention
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", lambda *x, **y: fused.append(1) or kernel(*x, **y))
    query, key, value, direction = (draw(2, 2, length, 6, seed=seed).bfloat16() for seed in range(4))
    hidden = (torch.arange(length) >= torch.tensor([length, length - 4])[:, None])[:, None] if padded else None
    inputs = [x.clone().requires_grad_() for x in (query, key, value)]
    found = attention._softmax_attention(*inputs, causal, hidden, 6**-0.5)
    assert bool(fused) != written_out
    exact = [x.double().requires_grad_() for x in (query, key, value)]
    scores = torch.einsum("bhld,bhsd->bhls", *exact[:2]) / 6**0.5
    if padded:
        scores = scores.masked_fill(hidden[:, :, None], -torch.inf)
    if causal:
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    expected = torch.einsum("bhls,bhsd->bhld", scores.softmax(-1), exact[2])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.03)
    gradients = (torch.autograd.grad(x, y, direction.to(x.dtype)) for x, y in ((found, inputs), (expected, exact)))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0.05, atol=0.05)


def test_a_query_sees_what_is_visible_and_no_padding():
    layer, x = make("softmax"), draw(2, 5, HIDDEN)
    visible = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 0, 0, 1, 1]]).bool()
    hidden = torch.arange(5) >= torch.tensor([5, 4])[:, None]
    found = layer(x, visible=visible, key_padding_mask=hidden)
    for clip, row in [(0, 0), (0, 4), (1, 2), (1, 4)]:
        seen = x[clip : clip + 1, visible[row] & ~hidden[clip]]  # attention to these alone
        torch.testing.assert_close(found[clip, row], layer(x[clip : clip + 1, row : row + 1], seen)[0, 0], **EXACT)
    torch.testing.assert_close(layer(x, visible=torch.ones(5, 5).tril().bool()), layer(x, causal=True), **EXACT)
    for wrong in (make("maclaurin"), layer):
        with pytest.raises(ValueError, match="takes the place of `causal`, and goes with softmax attention alone"):
            wrong(x, visible=visible, causal=wrong is layer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_query_that_sees_nothing_gets_zeros_and_gives_no_gradient(dtype):
    inputs = [draw(2, 2, 6, 4, seed=seed).to(dtype).requires_grad_() for seed in range(3)]
    hidden = (torch.arange(6) < torch.tensor([[0], [2]]))[:, None]  # the second sequence begins with two of padding
    found = attention._softmax_attention(*inputs, True, hidden, 0.5)
    assert (found[1, :, :2] == 0).all()
    assert (found[0] != 0).all()
    gradients = torch.autograd.grad(found.sum(), inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all((gradient[1, :, :2] == 0).all() for gradient in gradients)
