"""Question 3's networks and search, against formulas written out plainly."""

import dataclasses
import itertools
import math
import time

import pytest
import torch

from asr.checkpoint import load_model, save_model
from asr.ctc import CTCPrefixes
from asr.generate import beam_search, ctc_greedy, greedy, search
from asr.model import (
    DECODERS,
    Encoder,
    Memory,
    SpeechRecognizer,
    TextDecoderRecurrent,
    TextDecoderTransformer,
    sinusoidal_positions,
)
from attention import Block, MultiHeadAttention, SubBlock
from common.saved_models import write_weights
from common.speech.audio import Features
from common.speech.text import EMPTY, MAX_TOKENS, START, STOP, VOCABULARY


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=list(DECODERS))
def small_model(request):
    """A model whose random weights are large enough to write something, and with another length for other clips."""
    torch.manual_seed(13)
    model = SpeechRecognizer(request.param, mel_bins=8, hidden_dim=16, num_heads=2, num_blocks=2).eval()
    for parameter in model.decoder.output.parameters():
        torch.nn.init.normal_(parameter, std=2)
    return model


def speech(lengths, mel_bins=8):
    return torch.randn(len(lengths), max(lengths), mel_bins), torch.tensor(lengths)


# --- the formulas ------------------------------------------------------------------------------------


def layer_norm(x, norm):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias


def affine(x, linear):
    return x @ linear.weight.T + linear.bias


def attend(x, z, layer, visible=None):
    """Softmax attention of two heads, head by head."""
    query, key, value = affine(x, layer.query), affine(z, layer.key), affine(z, layer.value)
    heads, width = [], query.shape[-1] // layer.num_heads
    for h in range(layer.num_heads):
        q, k, v = (t[..., h * width : (h + 1) * width] for t in (query, key, value))
        weights = (q @ k.mT / math.sqrt(width)).exp()
        if visible is not None:
            weights = weights * visible
        heads.append(weights @ v / weights.sum(-1, keepdim=True))
    return affine(torch.cat(heads, -1), layer.output)


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


@pytest.mark.equation("eq:residual-layer")
def test_residual_attention_layer_is_its_formula():
    layer = SubBlock(8, MultiHeadAttention(8, 2)).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    inner = layer_norm(x, layer.before)
    expected = layer_norm(x + attend(inner, inner, layer.module), layer.after)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.equation("eq:sub-block")
def test_block_is_attention_then_mlp():
    block = Block(8, 2).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(block(x), block_formula(x, None, block))


@pytest.mark.equation("eq:cross-block")
def test_cross_block_attends_to_the_memory_as_it_is():
    block = Block(8, 2).double()
    x, z = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(block(x, z), block_formula(x, z, block))


def block_formula(x, z, block, visible=None):
    inner = layer_norm(x, block.attention.before)
    y = layer_norm(x + attend(inner, inner if z is None else z, block.attention.module, visible), block.attention.after)
    first, _, second = block.mlp.module
    hidden = gelu(affine(layer_norm(y, block.mlp.before), first))
    assert hidden.shape[-1] == 2 * x.shape[-1]
    return layer_norm(y + affine(hidden, second), block.mlp.after)


@pytest.mark.equation("eq:lstm-gates")
@pytest.mark.equation("eq:lstm-state")
def test_the_recurrent_decoder_keeps_the_state_of_the_equations():
    """Gates and state from the weights, in PyTorch's order i, f, g, o, character by character."""
    decoder = TextDecoderRecurrent(hidden_dim=6, num_heads=2).double().eval()
    lstm, tokens = decoder.lstm, torch.tensor([[START, 7, 20, 5]])
    inputs = decoder.input_norm(decoder.embedding(tokens))[0]
    h, c = torch.zeros(2, 6, dtype=torch.float64)
    weights, recurrent = lstm.weight_ih_l0.view(4, 6, 6), lstm.weight_hh_l0.view(4, 6, 6)
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).view(4, 6)
    for x in inputs:
        i, f, g, o = (weights[gate] @ x + recurrent[gate] @ h + bias[gate] for gate in range(4))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    memory = Memory(torch.randn(1, 3, 6, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.bool))
    state = {}
    decoder._forward(tokens, memory, state)
    torch.testing.assert_close(state["lstm"][0][0, 0], h)
    torch.testing.assert_close(state["lstm"][1][0, 0], c)


@pytest.mark.equation("eq:positions")
def test_positions_are_sines_and_cosines():
    table = sinusoidal_positions(50, 6)
    for position, i in itertools.product((0, 1, 49), range(3)):
        angle = position / 10000 ** (2 * i / 6)
        assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
        assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def convolve(x, conv, stride):
    """(T, channels) -> (T', channels'), one output at a time, zeros beyond both ends."""
    padded = torch.cat([torch.zeros(1, x.shape[1]).double(), x, torch.zeros(1, x.shape[1]).double()])
    rows = [sum(conv.weight[:, :, j] @ padded[t + j] for j in range(3)) + conv.bias for t in range(0, len(x), stride)]
    return torch.stack(rows)


@pytest.mark.parametrize("frames", [1, 2, 9, 10])
def test_encoder_is_its_formula(frames):
    encoder = Encoder(4, 8, 2, num_blocks=2).double()
    features = torch.randn(frames, 4, dtype=torch.float64)
    x = gelu(convolve(gelu(convolve(features, encoder.conv1, 1)), encoder.conv2, 2))
    x = x + sinusoidal_positions(len(x), 8).double()
    for block in encoder.blocks:
        x = block_formula(x[None], None, block)[0]
    memory = encoder(features[None], torch.tensor([frames]))
    assert memory.encoded.shape == (1, math.ceil(frames / 2), 8)
    assert not memory.padding.any()
    torch.testing.assert_close(memory.encoded[0], x)


def test_lstm_decoder_is_its_formula():
    decoder = TextDecoderRecurrent(8, 2).double()
    tokens, encoded = torch.tensor([[0, 9, 12, 7]]), torch.randn(1, 6, 8, dtype=torch.float64)
    lstm, hidden, cell, outputs = decoder.lstm, torch.zeros(8).double(), torch.zeros(8).double(), []
    for x in layer_norm(decoder.embedding.weight[tokens[0]], decoder.input_norm):
        gates = lstm.weight_ih_l0 @ x + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ hidden + lstm.bias_hh_l0
        i, f, g, o = gates.split(8)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outputs.append(hidden)
    x = block_formula(torch.stack(outputs)[None], encoded, decoder.cross_block)
    expected = affine(layer_norm(x, decoder.output_norm), decoder.output)
    memory = Memory(encoded, torch.zeros(1, 6, dtype=torch.bool))
    torch.testing.assert_close(decoder(tokens, memory), expected)


def test_transformer_decoder_is_its_formula():
    decoder = TextDecoderTransformer(8, 2).double()
    tokens, encoded = torch.tensor([[0, 9, 12, 7]]), torch.randn(1, 6, 8, dtype=torch.float64)
    x = decoder.embedding.weight[tokens] + decoder.positions.weight[:4]
    layer, inner = decoder.self_attention, layer_norm(x, decoder.self_attention.before)
    x = layer_norm(x + attend(inner, inner, layer.module, torch.ones(4, 4).tril()), layer.after)
    x = block_formula(x, encoded, decoder.cross_block)
    expected = affine(layer_norm(x, decoder.output_norm), decoder.output)
    memory = Memory(encoded, torch.zeros(1, 6, dtype=torch.bool))
    torch.testing.assert_close(decoder(tokens, memory), expected)


# --- sizes and shapes --------------------------------------------------------------------------------


def test_parameters_by_hand():
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    h, v, f = 200, 35, 80
    attention, norm, mlp = 4 * (h * h + h), 2 * h, (h * 2 * h + 2 * h) + (2 * h * h + h)
    block = attention + mlp + 4 * norm
    encoder = (f * h * 3 + h) + (h * h * 3 + h) + 4 * block
    output, lstm = h * v + v, 4 * (h * h + h * h + 2 * h)
    assert count(Block(h, 2)) == block == 323_000
    assert count(Encoder(f, h, 2, 4)) == encoder
    assert count(TextDecoderRecurrent(h, 2)) == v * h + norm + lstm + block + norm + output
    residual = attention + 2 * norm
    assert count(TextDecoderTransformer(h, 2)) == v * h + MAX_TOKENS * h + residual + block + norm + output
    assert count(SpeechRecognizer("lstm")) == encoder + count(TextDecoderRecurrent(h, 2)) + output


def test_shapes(small_model):
    features, lengths = speech([21, 10])
    logits, ctc_logits = small_model(features, lengths, torch.randint(4, 35, (2, 7)))
    assert logits.shape == (2, 7, len(VOCABULARY))
    assert ctc_logits.shape == (2, 11, len(VOCABULARY))


def test_self_attention_is_what_the_decoder_attends_with():
    """Its output comes from these weights, and no position looks at a later one."""
    model = SpeechRecognizer("transformer", mel_bins=8, hidden_dim=16, num_heads=2, num_blocks=1).eval()
    features, lengths = speech([30])
    tokens = torch.randint(4, 35, (1, 9))
    weights = model.self_attention(features, lengths, tokens)
    assert weights.shape == (1, 2, 9, 9)
    assert (weights.triu(1) == 0).all()
    layer = model.decoder.self_attention
    x = model.decoder.embedding(tokens) + model.decoder.positions.weight[:9]
    value = layer.module.value(layer.before(x)).unflatten(-1, (2, 8))  # (1, 9, 2, 8)
    heads = torch.einsum("bhls,bshd->blhd", weights, value).flatten(2)
    torch.testing.assert_close(layer.after(x + layer.module.output(heads)), layer(x, causal=True))


def test_cross_attention_is_what_the_decoder_attends_with(small_model):
    features, lengths = speech([21, 10])
    tokens = torch.randint(4, 35, (2, 7))
    weights = small_model.cross_attention(features, lengths, tokens)
    assert weights.shape == (2, 2, 7, 11)
    assert (weights[1, ..., 5:] == 0).all()
    logits, _ = small_model(features, lengths, tokens)
    # the same weights, put in the place of the attention's own, give the same logits
    attention = small_model.decoder.cross_block.attention.module
    memory = small_model.encoder(features, lengths).encoded
    value = attention.value(memory).unflatten(-1, (2, -1))  # (B, S, H, D)
    heads = torch.einsum("bhns,bshd->bnhd", weights, value).flatten(2)
    attention.register_forward_hook(lambda *_: attention.output(heads))
    torch.testing.assert_close(small_model(features, lengths, tokens)[0], logits, rtol=1e-5, atol=1e-5)


# --- what may not leak -------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["softmax", "maclaurin"])
@pytest.mark.parametrize("decoder", list(DECODERS))
def test_a_clip_does_not_see_its_batch_mates(decoder, kernel):
    model = SpeechRecognizer(decoder, mel_bins=8, hidden_dim=16, num_blocks=2, kernel=kernel).eval()
    features, lengths = speech([33, 12, 7])
    tokens = torch.randint(4, 35, (3, 9))
    together, _ = model(features, lengths, tokens)
    for i, length in enumerate(lengths.tolist()):
        alone, _ = model(features[i : i + 1, :length], lengths[i : i + 1], tokens[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)
    garbage = features.clone()
    garbage[1, 12:], garbage[2, 7:] = 1e4, -1e4  # beyond the clips' ends
    torch.testing.assert_close(model(garbage, lengths, tokens)[0], together, rtol=0, atol=1e-5)


def test_a_later_token_never_changes_an_earlier_logit(small_model):
    features, lengths = speech([30])
    tokens = torch.randint(4, 35, (1, 12))
    before, _ = small_model(features, lengths, tokens)
    for position in range(1, 12):
        changed = tokens.clone()
        changed[0, position:] = (tokens[0, position:] - 4 + 1) % 31 + 4
        after, _ = small_model(features, lengths, changed)
        torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=1e-6)
        assert not torch.allclose(after[:, position], before[:, position], atol=1e-4)


# --- generation --------------------------------------------------------------------------------------


@torch.no_grad()
def greedy_by_recomputing(model, features, lengths, limit):
    """One clip at a time, the whole prefix at each step, nothing carried along."""
    sentences = []
    for i, length in enumerate(lengths.tolist()):
        tokens = [START]
        for _ in range(limit):
            logits, _ = model(features[i : i + 1, :length], lengths[i : i + 1], torch.tensor([tokens]))
            best = int(logits[0, -1].argmax())
            if best == STOP:
                break
            tokens.append(best)
        sentences.append([token for token in tokens[1:] if token != EMPTY])
    return sentences


def test_greedy_with_carried_state_equals_recomputing(small_model):
    features, lengths = speech([41, 40, 26, 25, 9, 3])
    with torch.no_grad():
        small_model.decoder.output.bias[STOP] += 1.5  # sentences end at different lengths
    expected = greedy_by_recomputing(small_model, features, lengths, limit=40)
    assert len({len(sentence) for sentence in expected}) > 1
    assert greedy(small_model, features, lengths, limit=40) == expected


def test_greedy_reaches_the_decoders_last_position(small_model):
    with torch.no_grad():
        small_model.decoder.output.bias[STOP] -= 1e4
        small_model.decoder.output.bias[EMPTY] -= 1e4
    (sentence,) = greedy(small_model, *speech([10]))
    assert len(sentence) == MAX_TOKENS - 1
    (sentence,) = beam_search(small_model, *speech([10]), width=2)
    assert len(sentence) == MAX_TOKENS - 2  # the last token must be its stop


def test_each_clip_has_a_limit_of_its_own(small_model):
    with torch.no_grad():
        small_model.decoder.output.bias[[STOP, EMPTY]] -= 1e4  # no sentence ends by itself
    features, lengths = speech([40, 3, 25, 400])
    unlimited = greedy(small_model, features, lengths)
    limited = greedy(small_model, features, lengths, per_frame=0.3)
    assert list(map(len, limited)) == [12, 1, 8, 120]  # rounded up
    assert limited == [sentence[: len(short)] for sentence, short in zip(unlimited, limited, strict=True)]
    searched = beam_search(small_model, features, lengths, width=2, per_frame=0.3)
    assert list(map(len, searched)) == [11, 0, 7, 119]  # the last token must be its stop
    assert len(greedy(small_model, *speech([400]), per_frame=1.0)[0]) == MAX_TOKENS - 1


def test_transformer_refuses_more_tokens_than_it_has_positions():
    model = SpeechRecognizer("transformer", mel_bins=8, hidden_dim=16, num_blocks=1)
    with pytest.raises(ValueError, match="200 positions"):
        model(*speech([10]), torch.zeros(1, MAX_TOKENS + 1, dtype=torch.long))


@torch.no_grad()
def test_a_wide_beam_finds_what_trying_all_sentences_finds(small_model):
    features, lengths = speech([30])
    allowed = [STOP, 5, 9, 20]
    with torch.no_grad():
        forbidden = [i for i in range(len(VOCABULARY)) if i not in allowed]
        small_model.decoder.output.bias[forbidden] -= 1e4
    candidates = {}
    for length in range(4):
        for sentence in itertools.product(allowed[1:], repeat=length):
            logits, _ = small_model(features, lengths, torch.tensor([[START, *sentence]]))
            log_probs = logits[0].log_softmax(-1)
            total = sum(log_probs[i, token].item() for i, token in enumerate([*sentence, STOP]))
            candidates[sentence] = total / (length + 1)
    best = max(candidates, key=candidates.get)
    (found,) = beam_search(small_model, features, lengths, width=100, limit=4)
    assert candidates[tuple(found)] == pytest.approx(candidates[best])


def probabilities_of_ctc(log_probs):
    """Of each transcript, by adding up all paths."""
    probabilities = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        sentence = tuple(token for token, _ in itertools.groupby(path) if token != EMPTY)
        along = math.exp(sum(log_probs[position, token].item() for position, token in enumerate(path)))
        probabilities[sentence] = probabilities.get(sentence, 0) + along
    return probabilities


def test_ctc_prefixes_add_up_all_paths():
    log_probs = 2 * torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_probs = log_probs.log_softmax(-1)
    probabilities = probabilities_of_ctc(log_probs)
    sentences, prefixes = [()], CTCPrefixes(log_probs)
    for origin, tokens in (([0, 0, 0], [4, 5, 3]), ([0, 0, 2, 1], [4, 5, 3, 4]), ([3, 0], [4, 4])):
        prefixes.extend(torch.tensor(origin), torch.tensor(tokens))
        sentences = [(*sentences[i], token) for i, token in zip(origin, tokens, strict=True)]
        for sentence, scores in zip(sentences, prefixes.scores().exp(), strict=True):
            assert scores[STOP] == pytest.approx(probabilities.get(sentence, 0))
            for token in {*range(6)} - {STOP, EMPTY}:
                begun = (*sentence, token)
                expected = sum(p for whole, p in probabilities.items() if whole[: len(begun)] == begun)
                assert scores[token] == pytest.approx(expected)
    assert sentences == [(5, 4, 4), (4, 4, 4)]  # with letters doubled, which need a blank between them


@pytest.mark.parametrize("ctc_weight", [0.3, 0.9])
def test_a_wide_joint_beam_finds_what_trying_all_sentences_finds(small_model, ctc_weight):
    heard = [5, 9, EMPTY, 20]  # EMPTY, which is 2, in place 2
    forbidden = [i for i in range(len(VOCABULARY)) if i not in (*heard, STOP)]
    features, lengths = speech([11, 7])  # six positions, and four
    with torch.no_grad():
        small_model.decoder.output.bias[[*forbidden, EMPTY]] -= 1e4
        small_model.ctc_head.bias[[*forbidden, STOP]] -= 1e4
        small_model.ctc_head.bias[EMPTY] -= 1  # so that CTC, untrained, hears some letters
        found = beam_search(small_model, features, lengths, width=100, limit=4, ctc_weight=ctc_weight)
    for clip in range(2):
        memory = small_model.encoder(features[clip : clip + 1, : lengths[clip]], lengths[clip : clip + 1])
        log_probs = small_model.ctc_head(memory.encoded)[0].log_softmax(-1)
        ctc = probabilities_of_ctc(log_probs[:, heard].double())
        candidates = {}
        for length in range(4):
            for sentence in itertools.product((5, 9, 20), repeat=length):
                logits = small_model.decoder(torch.tensor([[START, *sentence]]), memory)[0].log_softmax(-1)
                decoder = sum(logits[i, token].item() for i, token in enumerate([*sentence, STOP]))
                encoder = ctc.get(tuple(map(heard.index, sentence)), 0)
                joint = (1 - ctc_weight) * decoder + ctc_weight * (math.log(encoder) if encoder else -math.inf)
                candidates[sentence] = joint / (length + 1)
        assert candidates[tuple(found[clip])] == pytest.approx(max(candidates.values()))


def test_a_beam_of_one_is_greedy_search_unless_ctc_has_a_share():
    assert (search(1, 0.0).func, search(2, 0.0).func, search(1, 0.3).func) == (greedy, beam_search, beam_search)


class Says(torch.nn.Module):
    """A head whose most probable tokens are given."""

    def __init__(self, tokens):
        super().__init__()
        self.logits = torch.nn.functional.one_hot(tokens, len(VOCABULARY)).float()

    def forward(self, _):
        return self.logits


def test_ctc_reads_the_best_path_of_each_clip(small_model):
    a, b = 9, 10
    best = torch.tensor([[a, a, EMPTY, a, b, b, EMPTY, EMPTY], [EMPTY, b, a, a, EMPTY, b, a, b]])  # (B, S)
    small_model.ctc_head = Says(best)
    features, lengths = torch.zeros(2, 16, 8), torch.tensor([16, 9])  # 8 and 5 positions
    assert ctc_greedy(small_model, features, lengths) == [[a, a, b], [b, a]]


# --- checkpoints -------------------------------------------------------------------------------------


def test_checkpoint_gives_the_same_model_back_in_half_precision(small_model, tmp_path):
    small_model.half().float()  # or it would differ by rounding
    save_model(tmp_path / "m.safetensors", small_model, Features(mel_bins=8))
    loaded, features = load_model(tmp_path / "m.safetensors")
    assert features == Features(mel_bins=8)
    assert type(loaded.decoder) is type(small_model.decoder)
    for name, weight in small_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    clip = speech([20])
    assert greedy(loaded, *clip) == greedy(small_model, *clip)


def test_what_is_no_checkpoint_is_refused(small_model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: a training run writes one"):
        load_model(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.safetensors is no checkpoint"):
        load_model(tmp_path / "text.safetensors")
    with torch.no_grad():
        small_model.ctc_head.bias[0] = torch.nan
    save_model(tmp_path / "nan.safetensors", small_model, Features(mel_bins=8))
    with pytest.raises(ValueError, match=r"nan\.safetensors holds weights that are not finite"):
        load_model(tmp_path / "nan.safetensors")


HUGE = {"hidden_dim": 10**9, "num_heads": 0, "num_blocks": 10**8, "mel_bins": 10**9, "window_ms": 1e9, "hop_ms": 0.01}


@pytest.mark.parametrize("value", [None, "x", [], -1, 1e300, "huge", "missing"])
def test_a_header_is_checked_whole_before_memory_is_taken(small_model, tmp_path, value):
    path = tmp_path / "m.safetensors"
    parts = {"model": small_model.settings, "features": dataclasses.asdict(Features(mel_bins=8))}
    for part, settings in parts.items():
        for name in settings:
            changed = settings | {name: HUGE.get(name, 10**9) if value == "huge" else value}
            if value == "missing":
                del changed[name]
            write_weights(path, small_model.state_dict(), parts | {part: changed})
            start = time.perf_counter()
            with pytest.raises(ValueError, match=r"m\.safetensors is no checkpoint of a speech recogniser \("):
                load_model(path)
            assert time.perf_counter() - start < 5  # a network of that size is never built
