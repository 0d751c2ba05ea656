"""What is explained of pictures and sentences, the result of a run and of a study, and what the plots show."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("captum")

import records
from lab3 import encoders, explain, explain_plots, explained, photographs, reviews, transfer
from lab3.explain import Config
from lab3.transfer import Recipe
from lab3.transfer_networks import imagenet_network, small_network


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


# --- pictures ----------------------------------------------------------------------------------------


@pytest.fixture
def pictures():
    return explained.subject_of(Config(items=6))


class Sums(nn.Module):
    """Class scores of images: the sums of their upper and their lower half."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.scale * torch.stack([half.sum((1, 2, 3)) for half in images.chunk(2, 2)], 1)


def test_removed_pixels_are_those_of_the_blurred_picture(pictures):
    kept = torch.zeros(2, 28, 28, dtype=torch.bool)
    kept[0, :14], kept[1] = True, True
    upper, whole = pictures.outputs(Sums(), 3, kept.flatten(1))
    image, blurred = pictures.images[3, 0], pictures.blurred[3, 0]
    torch.testing.assert_close(whole, torch.stack([image[:14].sum(), image[14:].sum()]), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(upper, torch.stack([image[:14].sum(), blurred[14:].sum()]), rtol=1e-4, atol=1e-3)
    steepness = lambda picture: picture.diff(dim=0).abs().mean()  # noqa: E731
    assert steepness(blurred) < 0.5 * steepness(image)
    torch.testing.assert_close(blurred.mean(), image.mean(), rtol=0, atol=0.1)  # its brightness stays


def test_cells_are_squares_and_each_pixel_is_in_one(pictures):
    cells = pictures.cells.view(28, 28)
    assert pictures.cells.bincount().tolist() == [16] * 49
    assert (cells[4:8, 4:8] == 8).all()


def test_every_method_scores_every_pixel(pictures, generator):
    network = small_network(5, 28).eval().requires_grad_(False)
    maps = {name: pictures.explain(name, network, 0, 2, generator) for name in pictures.METHODS}
    assert {len(scores) for scores in maps.values()} == {pictures.parts(0)} == {28 * 28}
    image = pictures.images[:1].clone().requires_grad_()
    network(image)[0, 2].backward()
    torch.testing.assert_close(maps["saliency"], image.grad.abs().flatten(), rtol=1e-4, atol=1e-7)
    of_blurred, of_image = (network(each[:1])[0, 2] for each in (pictures.blurred, pictures.images))
    torch.testing.assert_close(maps["integrated gradients"].sum(), of_image - of_blurred, rtol=0.01, atol=2e-3)
    example = pictures.example(0, maps)
    assert (
        np.array(example["pixels"]).reshape(28, 28).tolist()
        == (pictures.images[0, 0] + 1).mul(127.5).round().int().tolist()
    )
    strongest = np.array(example["maps"]["integrated gradients"])
    assert abs(strongest).max() == 100
    assert abs(strongest).argmax() == maps["integrated gradients"].abs().argmax()


def test_of_photographs_what_is_explained_is_what_the_network_sees(monkeypatch, generator):
    """The central 112 of the 128 pixels that they are read with, by stages of which most are frozen."""
    pytest.importorskip("timm", reason="pip install -e '.[dreams]'")
    pixels = np.random.default_rng(0).integers(256, size=(4, 128, 128, 3), dtype=np.uint8)
    arrays = {f"{part}_{name}": value for part in ("train", "val", "test")
              for name, value in (("images", pixels), ("labels", np.arange(4) % 2))}  # fmt: skip
    monkeypatch.setattr(photographs, "photographs", lambda root, side: arrays if side == 128 else None)
    subject = explained.subject_of(Config(dataset="ants_bees", items=2))
    network = imagenet_network(2, subject.config.pixels, trained=False).eval()
    network.freeze_all_but(2)
    assert subject.config.method == "partial"
    torch.testing.assert_close(network(subject.images), network(subject.data.test[0][[0, 3]]), rtol=1e-4, atol=1e-6)
    for name in ("Grad-CAM", "saliency"):
        scores = subject.explain(name, network, 0, 0, generator)
        assert scores.shape == (112 * 112,)
        assert scores.max() > 0
    assert subject.example(0, {})["size"] == [56, 56, 3]
    assert subject.shown(3) == []


# --- sentences ---------------------------------------------------------------------------------------


@pytest.fixture
def sentences(monkeypatch):
    """Those of a small grammar, with a tokenizer of their words."""
    pytest.importorskip("transformers")
    monkeypatch.setattr(reviews, "GRAMMAR_SIZES", {"train": 64, "val": 40, "test": 40})
    subject = explained.subject_of(Config(dataset="grammar", items=5))
    subject.tokenizer, encoder = encoders.load("tiny", subject.data.train.texts)
    subject.network = encoders.SentenceClassifier(encoder, 2).eval().requires_grad_(False)
    return subject


def test_removed_words_leave_their_sentence(sentences, monkeypatch):
    said = []
    monkeypatch.setattr(sentences, "classify", lambda network, texts: said.extend(texts))
    sentences.words[2] = ["the", "cast", "was", "not", "funny"]
    kept = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 1], [0, 0, 0, 0, 0]]).bool()
    sentences.outputs(None, 2, kept)
    assert said == ["the cast was not funny", "the cast was funny", "[UNK]"]


def test_every_method_scores_every_word(sentences, generator):
    words = sentences.words[1]
    for method in sentences.METHODS:
        scores = sentences.explain(method, sentences.network, 1, 0, generator)
        assert scores.shape == (len(words),)
    kept = torch.stack([torch.ones(len(words)).bool(), torch.arange(len(words)) != 2])
    fall = -sentences.outputs(sentences.network, 1, kept)[:, 0].diff()
    found = sentences.explain("occlusion", sentences.network, 1, 0, generator)
    torch.testing.assert_close(found[2:3], fall, rtol=1e-3, atol=1e-5)
    rare = sentences.explain("rare words", None, 1, 0, generator)
    counts = [sum(text.split().count(word) for text in sentences.data.train.texts) for word in words]
    assert torch.equal(rare.argsort(stable=True), torch.tensor(counts).argsort(descending=True, stable=True))


def test_integrated_gradients_of_words_sum_to_the_difference_from_padding(sentences):
    words, network = sentences.words[0], sentences.network
    found = sentences.integrated_gradients(network, words, 1)
    tokens = encoders.tokenize(sentences.tokenizer, [" ".join(words)])
    padding = torch.full_like(tokens.ids, sentences.tokenizer.pad_token_id)
    difference = (network(tokens.ids, tokens.mask) - network(padding, tokens.mask))[0, 1]
    torch.testing.assert_close(found.sum(), difference, rtol=0.01, atol=1e-3)


def test_a_word_of_several_tokens_has_their_sum(sentences, monkeypatch):
    """Scores by token are the token's place, among two that belong to no word."""

    class Pieces(dict):
        word_ids = staticmethod(lambda: [None, 0, 1, 1, None])

    class Tokenizer:
        pad_token_id = 0

        def __call__(self, words, **options):
            return Pieces(input_ids=torch.tensor([[1, 2, 3, 4, 1]]))

    sentences.tokenizer = Tokenizer()
    places = torch.arange(5.0).view(1, 5, 1)
    monkeypatch.setattr(explained.explanations, "integrated_gradients", lambda score, inputs, baseline: places)
    assert sentences.integrated_gradients(sentences.network, ["a", "bc"], 0).tolist() == [1, 5]


def test_examples_are_short_where_there_are_short_ones(sentences):
    sentences.words = [["a"] * length for length in (30, 5, 40, 6, 7)]
    assert sentences.shown(2) == [1, 4]
    sentences.words = [["a"] * 30]
    assert sentences.shown(2) == [0]


# --- a run -------------------------------------------------------------------------------------------


@pytest.fixture
def little_training(monkeypatch):
    monkeypatch.setattr(transfer, "RECIPES", {"digits": {"scratch": Recipe(1, 600, 64, 1e-2)}})
    monkeypatch.setattr(reviews, "GRAMMAR_SIZES", {"train": 64, "val": 40, "test": 40})
    monkeypatch.setattr(explained, "LIME_SAMPLES", 40)
    monkeypatch.setattr(explained.explanations, "IG_STEPS", 16)


def result_of(out, name):
    return json.loads((out / "lab3" / f"explain-{name}.json").read_text())


def test_the_class_that_is_explained_is_the_predicted_one(pictures):
    """Of a network whose scores are the halves' sums: by hand, which class it is and where its curves begin and end."""
    networks = dict.fromkeys(("trained", *explain.REDRAWN), Sums().eval())
    pictures.METHODS = ("random", "saliency")
    kind, maps, tests = explain.explain_item(pictures, networks, 2, seed=0)
    halves, blurred = (
        torch.stack([half.sum() for half in each[2, 0].chunk(2)]) for each in (pictures.images, pictures.blurred)
    )
    assert kind == halves.argmax()
    expected = F.one_hot(torch.tensor(kind), 2).repeat_interleave(392)
    assert torch.equal(maps["saliency"], expected.float())
    deletion, insertion = tests["saliency"]["curves"].values()
    for curve in (deletion, insertion.flip(0)):
        assert curve[0].item() == pytest.approx(halves.softmax(0)[kind].item(), abs=1e-4)
        assert curve[-1].item() == pytest.approx(blurred.softmax(0)[kind].item(), abs=1e-4)
    assert tests["saliency"]["similarities"] == dict.fromkeys(explain.REDRAWN, 1)


def test_the_study_of_seeds(little_training, one_by_one, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(explain_plots, "draw", lambda paths, out: [])
    flags = ("--study", "seeds", "--items", "3", "--seeds", "3", "5", "--out", str(tmp_path))
    assert explain.main(flags) == 0
    result = result_of(tmp_path, "seeds-digits")
    singles = [result_of(tmp_path, f"digits-items3-seed{seed}") for seed in (3, 5)]
    saliency, random = (
        np.array([single["by_item"][name]["deletion"] for single in singles]) for name in ("saliency", "random")
    )
    assert saliency.shape == (2, 3)
    found = result["methods"]["saliency"]
    assert found["scores"]["deletion"]["values"] == pytest.approx(saliency.mean(1))
    differences = (saliency - random).mean(0)
    assert found["less_random"]["deletion"]["mean"] == pytest.approx(differences.mean(), abs=1e-6)
    error = differences.std(ddof=1) / 3**0.5
    assert found["less_random"]["deletion"]["standard_error"] == pytest.approx(error, abs=1e-6)
    for method, layers in (("contrast", "all layers"), ("saliency", "nothing")):
        assert result["methods"][method]["scores"][layers]["mean"] == pytest.approx(1)
    assert result["methods"]["saliency"]["scores"]["all layers"]["mean"] < 0.9
    assert result["metrics"]["test"]["accuracy"]["values"] == [
        single["metrics"]["test"]["accuracy"]["mean"] for single in singles
    ]
    assert result["seeds"] == [3, 5]
    assert "integrated gradients" in capsys.readouterr().out

    figure = explain_plots.plot_curves(result)
    line = figure.axes[0].lines[2]
    assert line.get_label() == "saliency"
    mean = np.mean([single["by_item"]["saliency"]["curves"]["deletion"] for single in singles], 0)
    assert line.get_ydata() == pytest.approx(mean, abs=1e-4)
    points = explain_plots.plot_scores(result).axes[0].containers[0].lines[0]
    assert points.get_xdata()[2] == pytest.approx(found["less_random"]["deletion"]["mean"])
    assert len(explain_plots.plot_pictures(result).axes) == 3 * 7
    path = tmp_path / "lab3" / "explain-seeds-digits.json"
    assert explain_plots.plots(path).keys() == {"examples", "curves", "scores"}


def test_pictures_that_may_not_be_shown_are_in_no_result_and_no_plot(monkeypatch, tmp_path):
    assert explained.NOT_SHOWN == ("ants_bees",)
    monkeypatch.setattr(explained, "NOT_SHOWN", ("digits",))
    right = dict.fromkeys(("validation", "test"), torch.ones(2))
    monkeypatch.setattr(explained.Pictures, "train", lambda subject: (small_network(5, 28), right))
    result = explain.run(Config(items=2, out=str(tmp_path)))
    assert result["examples"] == []
    assert result["methods"].keys() == set(explained.Pictures.METHODS)
    assert explain_plots.plots(records.save_results(tmp_path, result)).keys() == {"curves", "scores"}
    assert "pixels removed" in explain_plots.plot_curves(result).axes[2].get_xlabel()


def test_sentences_from_the_command_to_the_plots(little_training, tmp_path, capsys):
    pytest.importorskip("transformers")
    assert explain.main(("--dataset", "grammar", "--items", "2", "--epochs", "1", "--out", str(tmp_path))) == 0
    result = result_of(tmp_path, "grammar-items2-epochs1-seed0")
    assert result["data"]["source"] == "synthetic"
    assert {path.name.rpartition("-")[2] for path in (tmp_path / "plots" / "lab3").glob("*.png")} == {
        "examples.png", "curves.png", "scores.png"
    }  # fmt: skip
    assert "synthetic" in capsys.readouterr().out
    axes = explain_plots.plot_sentences(result).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == result["examples"][0]["words"]
    assert "synthetic" in explain_plots.plot_sentences(result).get_suptitle()
    assert not list(tmp_path.glob("lab3/*.ckpt"))


@pytest.mark.parametrize(
    ("seen", "words"), [("ant", "predicted: ant"), ("bee", "predicted: ant\n(it is bee)")]
)  # fmt: skip
def test_a_mistake_is_said(seen, words):
    assert explain_plots.prediction({"class": seen, "predicted": "ant"}) == words
