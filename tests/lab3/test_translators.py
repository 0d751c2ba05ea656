"""The encoder-decoders: positions, masks of padding and future, caches, each against a plain reference."""

import math

import pytest
import torch

from attention import MultiHeadAttention, RotaryAttention
from lab3 import translators
from lab3.pairs import PAD, START

SIZES = {"dim": 8, "num_layers": 2, "num_heads": 2, "mlp_dim": 12, "dropout": 0.3}
NETWORKS = {
    **{kind: lambda kind=kind: translators.transformer(11, positions=kind, **SIZES) for kind in translators.POSITIONS},
    "lstm": lambda: translators.lstm(11, 8, 2, 0.3),
}
EXACT = {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture(params=NETWORKS, scope="module")
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]().double().eval()


SOURCES = torch.tensor([[3, 4, 5, 6, 2], [7, 8, 2, PAD, PAD]])
TARGETS = torch.tensor([[START, 9, 10, 3], [START, 4, 4, 5]])


def test_rotary_turns_each_pair_by_its_position():
    torch.manual_seed(0)
    layer, x = RotaryAttention(12, 3).double(), torch.randn(1, 5, 12, dtype=torch.float64)
    heads = x.unflatten(-1, (3, 4)).transpose(1, 2)  # (1, H, L, D)
    found = torch.view_as_complex(layer.place(heads, start=7).unflatten(-1, (2, 2)).contiguous())
    points = torch.view_as_complex(heads.unflatten(-1, (2, 2)).contiguous())
    for place in range(5):
        for pair in range(2):
            turn = complex(math.cos((7 + place) / 100**pair), math.sin((7 + place) / 100**pair))
            torch.testing.assert_close(found[:, :, place, pair], points[:, :, place, pair] * turn, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="even head dimension, not 3"):
        RotaryAttention(12, 4)


def test_rotary_scores_depend_on_the_distance_alone():
    torch.manual_seed(0)
    layer = RotaryAttention(8, 2).double()
    query, key = torch.randn(2, 1, 2, 1, 4, dtype=torch.float64)

    def score(i, j):
        return (layer.place(query, i) * layer.place(key, j)).sum(-1)

    torch.testing.assert_close(score(3, 1), score(40, 38), rtol=1e-5, atol=1e-6)
    assert (score(3, 1) - score(3, 2)).abs().min() > 1e-3


def test_rotary_and_plain_attention_agree_at_position_zero_and_in_their_weights():
    torch.manual_seed(0)
    rotary, plain = RotaryAttention(8, 2).double(), MultiHeadAttention(8, 2).double()
    plain.load_state_dict(rotary.state_dict())
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(rotary(x[:, :1]), plain(x[:, :1]), **EXACT)
    assert (rotary(x) - plain(x)).abs().max() > 1e-3
    weights = rotary.weights(x, x)
    value = rotary.value(x).unflatten(-1, (2, 4))
    heads = torch.einsum("bhls,bshd->blhd", weights, value).flatten(2)
    torch.testing.assert_close(rotary.output(heads), rotary(x), **EXACT)


def test_padding_and_batch_mates_change_nothing(network):
    both = network(SOURCES, TARGETS)
    alone = network(SOURCES[1:, :3], TARGETS[1:])
    torch.testing.assert_close(both[1:], alone, **EXACT)


def test_no_output_depends_on_a_later_token(network):
    changed = TARGETS.clone()
    changed[:, 2] = 7
    before, after = network(SOURCES, TARGETS), network(SOURCES, changed)
    torch.testing.assert_close(before[:, :2], after[:, :2], **EXACT)
    assert (before[:, 2:] - after[:, 2:]).abs().amax((0, 2)).min() > 1e-6


def test_token_by_token_equals_all_at_once(network):
    memory, state, found = network.encoder(SOURCES), {}, []
    for place in range(TARGETS.shape[1]):
        logits, state = network.decoder._forward(TARGETS[:, place : place + 1], memory, state)
        found.append(logits)
        if place == 1:  # rows change places, as in a beam
            swap = torch.tensor([1, 0])
            state, memory = network.decoder.select(state, swap), translators.Memory(*(x[swap] for x in memory))
            state, memory = network.decoder.select(state, swap), translators.Memory(*(x[swap] for x in memory))
    torch.testing.assert_close(torch.cat(found, 1), network(SOURCES, TARGETS), **EXACT)


def test_attention_of_a_decoder_is_what_it_computes_with(network):
    memory = network.encoder(SOURCES)
    weights = network.decoder.attention(TARGETS, memory)
    assert weights.shape[1:] == (2, 1 if isinstance(network.decoder, translators.LSTMDecoder) else 2, 4, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), **EXACT)
    assert (weights[:, 1, ..., 3:] == 0).all()
    if isinstance(network.decoder, translators.LSTMDecoder):
        return
    seen = []
    layer = network.decoder.layers[-1].cross_attention
    hook = layer.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    network(SOURCES, TARGETS)
    hook.remove()
    ((_, output),) = seen
    value = layer.value(memory.encoded).unflatten(-1, (2, 4))
    heads = torch.einsum("bhls,bshd->blhd", weights[-1], value).flatten(2)
    torch.testing.assert_close(layer.output(heads), output, **EXACT)


def test_order_matters_to_every_encoder(network):
    swapped = SOURCES[:1, [1, 0, 2, 3, 4]]
    assert (network(SOURCES[:1], TARGETS[:1]) - network(swapped, TARGETS[:1])).abs().max() > 1e-6


def test_positions_that_were_not_learned_are_refused():
    network = NETWORKS["learned"]()
    with pytest.raises(ValueError, match="257 tokens, but 256 positions were learned"):
        network.encoder(torch.full((1, 257), 5))
    with pytest.raises(ValueError, match="unknown positions 'none'"):
        translators.Embedding(5, 4, "none", 0.0)
