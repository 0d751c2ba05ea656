"""Studies: which runs they compare, what they select, and that each run equals the same command by itself."""

import dataclasses
import json

import pytest
import torch

import command_line
import records
from deep_features import autoencoder as ae
from deep_features import cnn, stacked_autoencoder, study, vit


def model_of(*histories, name="mse", epochs=None):
    trials = [{"history": [{f"val_{name}": value} for value in history]} for history in histories]
    return {"trials": trials, "settings": {"epochs": epochs or len(histories[0])}}


def test_the_lowest_error_is_selected_at_one_of_the_epochs_that_are_read():
    models = {"a": model_of([0.5] * 59 + [0.1], [0.5] * 59 + [0.3]), "b": model_of([0.4] * 39 + [0.15] + [0.9] * 20)}
    choice = study.select(ae.Config(study="grid"), models)
    assert choice == study.Choice("b", 40)
    # without readings of its own a study takes the last epoch
    assert study.select(ae.Config(study="improved"), models) == study.Choice("a", 60)


def test_the_highest_accuracy_is_selected_over_the_mean_of_the_seeds():
    models = {
        "one lucky seed": model_of([0.99], [0.1], name="accuracy"),
        "both good": model_of([0.9], [0.9], name="accuracy"),
    }
    assert study.select(vit.Config(study="recipe"), models).variant == "both good"


def test_names_of_files_tell_configurations_apart():
    scripts = (ae, stacked_autoencoder, cnn, vit)
    studies = [script.Config(study=name) for script in scripts for name in script.STUDIES]
    configs = [each for config in studies for each in study.variants_of(config).values()]
    configs += [ae.Config(seed=1), ae.Config(dataset="digits"), ae.Config(all_training=True), ae.Config(train_size=10)]
    names = {}
    for config in configs:
        settings = json.dumps(config.settings())
        assert names.setdefault(config.run_name, settings) == settings
        assert records.is_plain_name(config.run_name)


def test_the_commands_of_a_study_are_those_of_its_variants():
    for script in (ae, stacked_autoencoder, cnn, vit):
        for name in script.STUDIES:
            for config in study.variants_of(script.Config(study=name)).values():
                assert command_line.parse(script.Config, config.command()[2:], "") == config


def test_what_is_not_trained_anew_is_tested_as_it_is(monkeypatch):
    asked = []

    def results(configs):
        asked.append(configs)
        scores = [{"accuracy": records.mean_std([each.epochs + each.augment / 2])} for each in configs]
        return [
            {"seeds": [each.seed], "config": each.settings(), "parameters": 1}
            | {"history": [{"val_accuracy": score["accuracy"]["mean"]}] * each.epochs}
            | {"metrics": {"validation": score} | ({} if each.no_test else {"test": score})}
            for each, score in zip(configs, scores, strict=True)
        ]

    monkeypatch.setattr(study, "train_side_by_side", results)
    body = study.compare(vit.Config(study="recipe", seeds=(0, 5)))
    trained, again = asked
    best = [each for each in trained if each.epochs == 60]
    assert [each.seed for each in best] == [0, 5]
    # the same networks, by the same command but for the test: their checkpoints hold all epochs
    assert again == [dataclasses.replace(each, no_test=False, resume=True) for each in best]
    assert [name for name, model in body["models"].items() if "test" in model["metrics"]] == ["and 60 epochs"]
    assert body["metrics"]["test"]["accuracy"]["mean"] == 60.5
    assert "retrained" not in body


def test_flags_that_a_study_sets_itself_are_refused():
    with pytest.raises(ValueError, match=r"--study improved has settings of its own for --code_dim, --hidden_dim"):
        ae.Config(study="improved", code_dim=64, hidden_dim=8, epochs=3)
    assert {config.epochs for config in study.variants_of(ae.Config(study="improved", epochs=3)).values()} == {3}


def test_only_variants_beside_published_figures_see_the_test_images():
    for settings in (ae.Config, vit.Config):
        for name, each in settings.STUDIES.items():
            variants = study.variants_of(settings(study=name)).values()
            assert all(config.no_test != each.tested for config in variants)
            assert not any(config.all_training for config in variants)


def test_the_images_are_cut_as_asked_for():
    data = study.load_data(ae.Config(dataset="digits", train_size=50, test_size=20))
    assert data.describe()["sizes"] == {"train": 50, "val": 300, "test": 20}
    whole = study.load_data(ae.Config(dataset="digits", all_training=True))
    assert len(whole.train[1]) == 1497
    assert torch.equal(whole.train[0][1197:], whole.val[0])


@pytest.mark.slow
def test_a_study_equals_its_runs_one_by_one(tmp_path):
    flags = ["--dataset", "digits", "--epochs", "2", "--train_size", "200", "--out", str(tmp_path)]
    assert ae.main([*flags, "--study", "improved", "--seeds", "3"]) == 0
    path = tmp_path / "deep_features" / "autoencoder-digits-study-improved.json"
    result = json.loads(path.read_text())
    for name, variant in study.variants_of(ae.Config(dataset="digits", study="improved")).items():
        alone = tmp_path / "alone"
        extra = {k: v for k, v in vars(variant).items() if k in (*ae.RECIPE, "code_dim")}
        words = [w for k, v in extra.items() if v for w in ([f"--{k}"] if v is True else [f"--{k}", str(v)])]
        assert ae.main([*flags[:-1], str(alone), *words, "--seed", "3", "--no_test", "--overwrite"]) == 0
        (single,) = [json.loads(p.read_text()) for p in alone.rglob("*.json")]
        found = result["models"][name]["trials"][0]["history"]
        # a study's processes have one OpenMP thread from their start, a single run may have more, which round otherwise
        assert [e["val_mse"] for e in found] == pytest.approx([e["val_mse"] for e in single["history"]], rel=1e-5)
        for file in alone.rglob("*.*"):
            file.unlink()
    selected = min(result["models"], key=lambda n: result["models"][n]["trials"][0]["history"][-1]["val_mse"])
    assert result["selected"]["variant"] == selected
    assert result["metrics"]["test"] == result["retrained"]["metrics"]["test"]
    assert result["retrained"]["settings"]["all_training"]
