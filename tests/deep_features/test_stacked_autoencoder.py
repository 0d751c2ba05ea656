"""Stacked autoencoders: what each phase trains, and what it leaves alone, bit for bit."""

import copy

import pytest
import torch
import torch.nn.functional as F

from deep_features import stacked_autoencoder as sa
from deep_features import study

FEW = {
    "dataset": "digits",
    "train_size": 300,
    "layers": (32, 16),
    "pretraining_epochs": 2,
    "epochs": 2,
    "dry_run": False,
}


def config(tmp_path, **flags):
    return sa.Config(**FEW | {"out": str(tmp_path)} | flags)


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(module, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_each_layer_is_trained_alone_and_those_below_stay_as_they_are(tmp_path, monkeypatch):
    settings = config(tmp_path)
    data = study.load_data(settings)
    model = sa.StackedAutoencoder(settings.layers)
    seen, fit = [], study.fit

    def watched(config, data, layer, tensors, *args, **options):
        before = weights(model)
        history = fit(config, data, layer, tensors, *args, **options)
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        seen.append((tensors[0].shape[1], changed))
        return history

    monkeypatch.setattr(study, "fit", watched)
    pixels = data.pixels("train").flatten(1)
    sa.pretrain(settings, data, model, pixels)
    assert seen == [
        (784, {"encoders.0.0.weight", "encoders.0.0.bias"}),
        (32, {"encoders.1.0.weight", "encoders.1.0.bias"}),
    ]
    before = weights(model.encoders)
    sa.train_classifier(settings, data, model, (pixels, data.train[1]))
    assert same(model.encoders, before)
    assert seen[-1][1] == {"classifier.weight", "classifier.bias"}


def test_pretraining_takes_away_error(tmp_path):
    settings = config(tmp_path, pretraining_epochs=20, noise=0)
    data = study.load_data(settings)
    histories = sa.pretrain(settings, data, sa.StackedAutoencoder(settings.layers), data.pixels("train").flatten(1))
    for history in histories:
        assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]


def test_the_stack_is_its_encoders_one_after_another():
    torch.manual_seed(0)
    model = sa.StackedAutoencoder((5, 3), "sigmoid").double().eval()
    images = torch.rand(4, 1, 28, 28, dtype=torch.float64)
    (first, _), (second, _) = model.encoders
    codes = torch.sigmoid(F.linear(torch.sigmoid(F.linear(images.view(4, 784), first.weight, first.bias)),
                                   second.weight, second.bias))  # fmt: skip
    torch.testing.assert_close(model.codes(images.flatten(1), 2), codes)
    torch.testing.assert_close(model(images), codes @ model.classifier.weight.T + model.classifier.bias)


def test_labels_that_are_left_out_are_not_used(tmp_path):
    settings = config(tmp_path, labels=40)
    data = study.load_data(settings)
    images, labels = data.train
    other = copy.copy(data)
    object.__setattr__(other, "train", (images, torch.cat([labels[:40], 9 - labels[40:]])))
    torch.manual_seed(0)
    _, found = sa.train(settings, data)
    torch.manual_seed(0)
    _, again = sa.train(config(tmp_path / "again", labels=40), other)
    assert found["history"][-1]["train_loss"] == again["history"][-1]["train_loss"]
    assert found["test"] == again["test"]


def test_without_pretraining_there_is_no_accuracy_before(tmp_path):
    settings = config(tmp_path, no_pretraining=True)
    _, trial = sa.train(settings, study.load_data(settings))
    assert trial["pretraining"] == []
    assert "before" not in trial["test"]
    assert len(trial["code_deviation"]) == 2


def test_codes_that_do_not_vary_have_no_deviation():
    model = sa.StackedAutoencoder((4, 2))
    for parameter in model.encoders[1].parameters():
        torch.nn.init.zeros_(parameter)
    pixels = torch.rand(50, 784)
    assert sa.deviation(model, pixels, 2) == 0
    first = model.encoders[0](pixels)
    assert sa.deviation(model, pixels, 1) == pytest.approx(first.std(0).mean().item())
