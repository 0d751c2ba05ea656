"""Few-shot learning: prototypes against loops, which classes and images are in an episode, and the study."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch import nn

from image_data import load_images
from lab3 import few_shot, few_shot_plots
from lab3.few_shot import Config


@pytest.fixture(scope="module")
def data():
    return load_images("digits")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(few_shot, "EPISODES", 2)
    monkeypatch.setattr(few_shot, "TESTED", 20)


def test_log_probs_equal_a_loop():
    support, queries = torch.randn(4, 3, 6, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64)
    expected = np.empty((7, 4))
    for row, query in enumerate(queries.numpy()):
        distances = [sum((query - sum(images) / 3) ** 2) for images in support.numpy()]
        expected[row] = -np.array(distances) - np.log(sum(np.exp(-distance) for distance in distances))
    found = few_shot.prototype_log_probs(support, queries)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def test_far_features_do_not_lose_their_distances():
    """Squared distances of 1 and 4, of features whose squares float32 knows to 1 at best."""
    support = 4096 + torch.tensor([[[0.0]], [[3.0]]])
    found = few_shot.prototype_log_probs(support, torch.tensor([[4097.0]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, -4.0]]).log_softmax(1))


def test_rules_equal_scikit_learns():
    support, queries = torch.randn(5, 4, 3), torch.randn(50, 3)
    flat, labels = support.flatten(0, 1), np.repeat(range(5), 4)
    for name, reference in (("nearest_mean", NearestCentroid()), ("nearest_neighbour", KNeighborsClassifier(1))):
        expected = reference.fit(flat, labels).predict(queries)
        assert few_shot.RULES[name](support, queries).tolist() == expected.tolist()


def test_losses_are_of_the_queries_alone():
    """With pixels as features: an episode whose queries are as their prototypes, but for those of one class."""
    model, labels = nn.Flatten(), torch.arange(3)[:, None].expand(3, 5)
    images = torch.zeros(3, 5, 1, 1, 1) + 10 * labels[..., None, None, None]
    images[2, 2:] = 0.0  # queries of class 2 that look like class 0
    found = few_shot.prototype_losses(model, (images, labels), shots=2).view(3, 3)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 400.0])[:, None].expand(3, 3))
    found = few_shot.classifier_losses(nn.Sequential(model, nn.Linear(1, 3)), (images, labels))
    assert found.shape == (15,)


def test_episodes():
    labels = torch.randint(4, (200,))
    episodes = few_shot.draw_episodes(labels, 30, 12, seed=1)
    assert episodes.shape == (30, 4, 12)
    for places in episodes:
        assert len(places.unique()) == places.numel()  # no image is there twice
        assert torch.equal(labels[places], torch.arange(4)[:, None].expand(4, 12))
    assert torch.equal(episodes, few_shot.draw_episodes(labels, 30, 12, seed=1))
    assert not torch.equal(episodes, few_shot.draw_episodes(labels, 30, 12, seed=2))
    with pytest.raises(ValueError, match="an episode takes 100 images of each class, but one has"):
        few_shot.draw_episodes(labels, 1, 100, seed=1)


def test_classes_are_for_training_or_for_the_test():
    drawn = [few_shot.classes_of(seed, 10) for seed in range(20)]
    assert all(sorted(seen + unseen) == list(range(10)) and len(seen) == 5 for seen, unseen in drawn)
    assert len({tuple(seen) for seen, _ in drawn}) > 10


@pytest.mark.parametrize("method", ["prototypes", "classifier"])
def test_classes_held_out_are_never_trained_on(monkeypatch, data, method):
    """A network trains on, and is watched on, images of the one half; it is tested on the other, in the test part."""
    seen, unseen = few_shot.classes_of(3, 10)
    met = {"fit": [], "tested": []}
    fit, accuracies = few_shot.fit, few_shot.accuracies

    def record_fit(config, model, *parts):
        met["fit"] += parts
        return fit(config, model, *parts)

    def record_tested(features, labels, *rest):
        met["tested"].append(len(labels))
        return accuracies(features, labels, *rest)

    monkeypatch.setattr(few_shot, "fit", record_fit)
    monkeypatch.setattr(few_shot, "accuracies", record_tested)
    result = few_shot.train(Config(method=method, epochs=1, seed=3), data)
    for (images, labels), (every, digits) in zip(met["fit"], (data.train, data.val), strict=True):
        chosen = torch.isin(digits, torch.tensor(seen))
        assert torch.equal(images, every[chosen])
        assert [seen[label] for label in labels] == digits[chosen].tolist()
    sizes = [
        int(torch.isin(part[1], torch.tensor(kinds)).sum()) for part, kinds in ((data.val, seen), (data.test, unseen))
    ]
    assert met["tested"] == [sizes[0], *sizes]  # after the epoch, and at the end
    assert result["classes"] == {"train": seen, "test": unseen}


def test_nothing_but_the_training_classes_changes_what_is_learnt(data):
    """Other images of the other half of the classes give the same network's accuracy on the validation images."""
    seen, _ = few_shot.classes_of(0, 10)
    images, labels = data.train
    other = images.clone()
    other[~torch.isin(labels, torch.tensor(seen))] = 1e6
    changed = few_shot.train(Config(epochs=1), dataclasses.replace(data, train=(other, labels)))
    same = few_shot.train(Config(epochs=1), data)
    assert changed["metrics"] == same["metrics"]
    assert [epoch["train_loss"] for epoch in changed["history"]] == [epoch["train_loss"] for epoch in same["history"]]


def test_all_methods_train_and_are_tested_on_the_same_episodes(monkeypatch, data):
    drawn = {}
    draw = few_shot.draw_episodes
    for method in few_shot.METHODS:
        drawn[method] = []
        monkeypatch.setattr(few_shot, "draw_episodes", lambda *a, m=method: drawn[m].append(draw(*a)) or drawn[m][-1])
        few_shot.train(Config(method=method, epochs=1), data)
    same = lambda first, second: all(torch.equal(a, b) for a, b in zip(first, second, strict=True))  # noqa: E731
    assert same(drawn["prototypes"], drawn["classifier"])
    assert len(drawn["untrained"]) == 2  # validation and test
    assert same(drawn["untrained"], drawn["pixels"])
    assert same(drawn["untrained"], drawn["prototypes"][-2:])


def test_shots_share_their_queries_and_one_shot_is_its_own_mean(data):
    features, labels = torch.randn(500, 8), torch.arange(500) % 5
    found = few_shot.accuracies(features, labels, Config(), 20)
    assert found["nearest_mean"][1] == found["nearest_neighbour"][1]
    assert set(found["nearest_mean"]) == set(few_shot.SHOTS)


def test_random_labels_leave_chance():
    features, labels = torch.randn(2000, 8), torch.randint(5, (2000,))
    for by_shots in few_shot.accuracies(features, labels, Config(), 200).values():
        # 200 episodes of 50 queries: a standard error of 0.004, were they independent
        assert all(abs(share - 1 / few_shot.WAYS) < 0.02 for share in by_shots.values())


def test_labels_as_features_leave_no_mistake():
    labels = torch.randint(5, (300,))
    found = few_shot.accuracies(nn.functional.one_hot(labels).float(), labels, Config(), 20)
    assert {share for by_shots in found.values() for share in by_shots.values()} == {1.0}


# --- studies -----------------------------------------------------------------------------------------


def study(tmp_path, name):
    flags = ("--study", name, "--epochs", "1", "--seeds", "3", "4", "--out", str(tmp_path))
    assert few_shot.main(flags) == 0
    return json.loads((tmp_path / "lab3" / f"few_shot-{name}-digits.json").read_text())


def test_the_study_of_shots(one_by_one, tmp_path):
    result = study(tmp_path, "shots")
    assert list(result["models"]) == list(few_shot.CONTENDERS)
    assert len(list(tmp_path.glob("lab3/*-seed*.json"))) == 2 * len(few_shot.METHODS)  # rules share a network
    single = json.loads((tmp_path / "lab3" / "few_shot-digits-classifier-epochs1-seed4.json").read_text())
    neighbour = result["models"]["classifier, nearest neighbour"]["metrics"]["test"]["5"]
    assert neighbour["values"][1] == single["metrics"]["test"]["nearest_neighbour_5"]["mean"]
    best = result["models"]["prototypes"]["metrics"]["test"]["5"]["values"]
    expected = [a - b for a, b in zip(best, neighbour["values"], strict=True)]
    assert result["differences"]["classifier, nearest neighbour"]["5"]["values"] == pytest.approx(expected)
    accuracy, difference = few_shot_plots.plot_shots(result).axes
    assert accuracy.containers[2].lines[0].get_ydata()[1] == pytest.approx(100 * neighbour["mean"])
    assert difference.containers[1].lines[0].get_ydata()[1] == pytest.approx(100 * np.mean(expected))


def test_the_study_of_step_sizes_leaves_the_test_alone(one_by_one, monkeypatch, tmp_path):
    monkeypatch.setattr(few_shot, "TRIED", (1e-3,))
    result = study(tmp_path, "rates")
    assert all(list(model["metrics"]) == ["validation"] for model in result["models"].values())
    (axes,) = few_shot_plots.plot_rates(result).axes
    expected = result["models"]["classifier, 0.001"]["metrics"]["validation"]["10"]["mean"]
    assert axes.containers[1].lines[0].get_ydata()[0] == pytest.approx(100 * expected)
