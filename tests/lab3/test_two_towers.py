"""The two towers: their loss and scores against loops, what padding and splits must not do, and a training."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from common.speech.data import Part
from common.speech.text import encode
from lab3 import retrieval, towers, two_towers, two_towers_plots
from lab3.two_towers import Config


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def part_of(transcripts, frame_counts, mel_bins=8):
    """Clips of noise; clip i is called C<i>."""
    stops = np.cumsum(frame_counts).tolist()
    store = np.random.default_rng(0).normal(size=(stops[-1], mel_bins)).astype(np.float16)
    ids = tuple(f"C{index}" for index in range(len(transcripts)))
    spans = tuple(zip([0, *stops], stops, strict=False))
    return Part(ids, tuple(map(Path, ids)), tuple(transcripts), tuple(map(encode, transcripts)), spans, store)


def small(mel_bins=8):
    """Towers whose attention does something, as it does not at first."""
    model = towers.TwoTowers(mel_bins, dim=16, num_layers=1, num_heads=2, dropout=0.1, outputs=12)
    for reader in (model.speech.reader, model.text.reader):
        for layer in reader.layers:
            torch.nn.init.normal_(layer.self_attention.output.weight)
            torch.nn.init.normal_(layer.mlp[-1].weight)
    return model


def test_without_layers_or_before_they_learn_a_tower_is_a_bag():
    readers = [towers.Reader(16, layers, num_heads=2, dropout=0.0, outputs=12) for layers in (0, 1)]
    readers[1].project.load_state_dict(readers[0].project.state_dict())
    x, padding = torch.randn(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    torch.testing.assert_close(readers[0](x, padding), readers[1](x, padding))
    torch.testing.assert_close(readers[0](x, padding), readers[0](x.flip(1), padding))


# --- the loss ----------------------------------------------------------------------------------------


def test_the_loss_is_what_its_definition_says():
    logits = 3 * torch.randn(5, 5, dtype=torch.float64)
    expected = []
    for i in range(5):
        row = -math.log(math.exp(logits[i, i]) / sum(math.exp(logits[i, j]) for j in range(5)))
        column = -math.log(math.exp(logits[i, i]) / sum(math.exp(logits[j, i]) for j in range(5)))
        expected.append((row + column) / 2)
    found = towers.contrastive_losses(logits)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(towers.contrastive_losses(logits.T), found, rtol=1e-12, atol=0)  # neither side is first
    assert torch.autograd.gradcheck(towers.contrastive_losses, logits.requires_grad_())


def test_logits_are_cosines_by_a_learnt_temperature():
    model, part = small().eval(), part_of(["one", "a second", "third, and last"], [30, 21, 40])
    features, lengths, tokens, _ = part.batch(np.arange(3))
    cosines = model(features, lengths, tokens) / model.scale()
    speech, text = model.speech(features, lengths), model.text(tokens)
    torch.testing.assert_close(cosines, torch.cosine_similarity(speech[:, None], text[None], dim=-1))
    model(features, lengths, tokens).trace().backward()
    assert model.log_scale.grad != 0
    with torch.no_grad():
        model.log_scale.fill_(50)
    assert model.scale() == 100


@pytest.mark.parametrize("frames", range(21, 30))
def test_padding_changes_nothing(frames):
    """Alone or beside a longer one, a clip and a text have the same vector, and their batch mates no gradient."""
    model, part = small().eval(), part_of(["short", "a good deal longer"], [frames, 57])
    features, lengths, tokens, token_lengths = part.batch(np.arange(2))
    features[0, frames:] = 7.0  # what stands there must not matter
    alone = model.speech(features[:1, :frames], lengths[:1])
    torch.testing.assert_close(model.speech(features, lengths)[:1], alone, rtol=1e-4, atol=1e-5)
    alone = model.text(tokens[:1, : token_lengths[0]])
    torch.testing.assert_close(model.text(tokens)[:1], alone, rtol=1e-4, atol=1e-5)


# --- scores ------------------------------------------------------------------------------------------


def test_recall_by_hand():
    scores = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [5, 5, 5, 0]])
    own = torch.tensor([0, 1, 3, 2])  # places 1, 2 and 4, and one of the first three
    assert retrieval.recall(scores, own, 1) == pytest.approx((1 + 0 + 0 + 1 / 3) / 4)
    assert retrieval.recall(scores, own, 2) == pytest.approx((1 + 1 + 0 + 2 / 3) / 4)
    assert retrieval.recall(scores, own, 4) == 1


def test_ties_are_broken_as_if_at_random():
    """On average over many orders of the candidates, what sorting finds."""
    scores, own = torch.randint(4, (30, 12)).double(), torch.randint(12, (30,))
    found = []
    for _ in range(2000):
        shaken = scores + 0.5 * torch.rand(scores.shape)
        places = (shaken > shaken.gather(1, own[:, None])).sum(1)
        found.append((places < 3).double().mean())
    assert retrieval.recall(scores, own, 3) == pytest.approx(np.mean(found), abs=0.01)


def test_both_directions_and_chance():
    part = part_of(["a", "bb", "ccc"], [10, 20, 30])
    similarity = torch.tensor([[3.0, 0, 0], [2, 1, 0], [0, 0, 5]])  # clip 1 takes text 0; text 1 still finds its clip
    found = retrieval.scores(similarity, part)
    assert found["to_text_1"] == pytest.approx(2 / 3)
    assert found["to_speech_1"] == 1
    guessed = [retrieval.scores(torch.zeros(3, 3), part), retrieval.chance(3)]
    assert guessed[0] == pytest.approx(guessed[1])


def test_candidates_of_nearly_one_length(monkeypatch):
    monkeypatch.setattr(retrieval, "CLOSE", 3)
    near = retrieval.of_nearly_one_length(np.array([10, 50, 11, 12, 49, 90]))
    assert near[:, 0].tolist() == list(range(6))
    assert [set(row) for row in near.tolist()] == [{0, 2, 3}, {1, 4, 3}, {2, 0, 3}, {3, 2, 0}, {4, 1, 3}, {5, 1, 4}]


def test_lengths_alone_find_texts_of_different_lengths():
    texts = ["a" * count for count in (5, 9, 14, 30)]
    train = part_of(["b" * count for count in (10, 20)], [50, 90])  # 4 frames a character, and 10
    part = part_of(texts, [4 * len(text) + 10 for text in texts])
    expected = [[-abs(len(clip) - len(text)) for text in texts] for clip in texts]
    torch.testing.assert_close(retrieval.by_length(train, part), torch.tensor(expected).double(), atol=1e-9, rtol=0)


def test_a_text_leads_to_one_clip_and_stays_out_of_training():
    train = part_of(["a", "b", "a", "c", "d"], [10] * 5)
    held_out = part_of(["c", "x"], [10] * 2)
    assert retrieval.distinct(train).ids == ("C0", "C1", "C3", "C4")
    kept = retrieval.distinct(train, (held_out,))
    assert kept.transcripts == ("a", "b", "d")
    assert [kept.tokens[2], kept.spans[2]] == [train.tokens[4], train.spans[4]]


# --- the script --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [({"dim": 20}, "multiple of 8"), ({"go_on": True}, "with --dataset revoiced"),
     ({"study": "corpora"}, "with --dataset revoiced")],
)  # fmt: skip
def test_what_does_not_go_together(flags, words):
    with pytest.raises(ValueError, match=words):
        Config(**flags)


@pytest.fixture
def few(monkeypatch):
    """Sentences of the embedded corpus that are spoken in a moment."""
    monkeypatch.setattr(two_towers, "SPOKEN", 60)


def test_a_run(few, tmp_path, capsys):
    flags = ("--epochs", "2", "--dim", "16", "--batch_size", "8", "--out", str(tmp_path))
    assert two_towers.main(flags) == 0
    (path,) = (tmp_path / "lab3").glob("two_towers-*.json")
    result = json.loads(path.read_text())
    assert result["data"]["source"] == "synthetic"
    count = result["data"]["sizes"]["test"]
    assert result["baselines"]["test"]["candidates"] == count <= 11
    assert result["baselines"]["test"]["chance"]["to_text_5"] == 5 / count
    assert "synthetic" in capsys.readouterr().out
    assert len(list((tmp_path / "plots" / "lab3").glob("*.png"))) == 2
    corpora = two_towers.load_all(Config(out=str(tmp_path)))
    texts = [set(getattr(corpora["test"], part).transcripts) for part in ("train", "validation", "test")]
    assert sum(map(len, texts)) == len(set.union(*texts))  # none in two parts


@pytest.mark.slow
def test_content_is_learnt(tmp_path):
    """What the lengths alone find is well surpassed, also among candidates of nearly one length."""
    result = two_towers.run(Config(out=str(tmp_path)))
    length, found = result["baselines"]["test"]["length"], result["metrics"]["test"]
    for score in ("to_text_1", "to_speech_1", "to_text_close", "to_speech_close"):
        assert found[score]["mean"] > 2 * length[score]


def write_noise(root, count):
    """A corpus of clips of noise, each with a text of its own, which a larger corpus has in another place."""
    (root / "wavs").mkdir(parents=True)
    for index in range(count):
        noise = np.random.default_rng(index).normal(size=4000 + 200 * index)
        soundfile.write(root / "wavs" / f"C{index:03}.wav", 0.1 * noise, 16000)
    rows = [f"C{index:03}|raw|{'ab' * (1 + (7 * index) % count)}" for index in range(count)]
    (root / "metadata.csv").write_text("\n".join(rows))


def test_recorded_clips_after_revoiced_ones(tmp_path, one_by_one, monkeypatch):
    """Two small corpora that share texts: what is held out in one is trained on in neither."""
    for name, count in (("revoiced", 60), ("LJSpeech-1.1", 30)):
        write_noise(tmp_path / name, count)
    monkeypatch.setattr(two_towers, "RECORDED_EPOCHS", 1)
    flags = ("--dataset", "revoiced", "--study", "corpora", "--epochs", "1", "--dim", "16", "--seeds", "3")
    assert two_towers.main((*flags, "--data_root", str(tmp_path), "--out", str(tmp_path))) == 0
    result = json.loads((tmp_path / "lab3" / "two_towers-corpora-revoiced.json").read_text())
    both = result["models"]["re-voiced"]["metrics"]
    assert both.keys() == {"validation", "test", "recorded", "test_tuned", "recorded_tuned"}
    assert result["models"]["recorded"]["metrics"].keys() == {"validation", "test"}
    methods = two_towers_plots.methods(result)
    trained = [f"re-voiced{attention}{then}" for attention in ("", ", attention") for then in ("", ", then recorded")]
    assert list(methods["test"]) == ["chance", "length alone", *trained]
    assert list(methods["recorded"]) == [*methods["test"], "recorded"]
    corpora = two_towers.load_all(Config(dataset="revoiced", go_on=True, data_root=str(tmp_path), out=str(tmp_path)))
    for corpus in corpora.values():
        for other in corpora.values():
            assert not set(corpus.train.transcripts) & set(other.test.transcripts + other.validation.transcripts)
