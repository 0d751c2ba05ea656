"""Scores of classifiers against scikit-learn and hand-worked cases."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, roc_auc_score

from common import classification


@pytest.fixture
def answers():
    """Log-probabilities (50, 4) and labels (50,) of all classes, none of which is always right."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(50, 4, generator=generator).log_softmax(-1), torch.arange(50) % 4


def test_scores_are_those_of_scikit_learn(answers):
    log_probs, labels = answers
    probabilities = log_probs.double().softmax(-1).numpy()
    found = classification.scores(log_probs, labels, "multi-class")
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, probabilities.argmax(1)))
    assert found["loss"] == pytest.approx(
        log_loss(labels, probabilities / probabilities.sum(1, keepdims=True)), rel=1e-5
    )
    one_hot = np.eye(4)[labels]  # each class against the rest
    assert found["auc"] == pytest.approx(roc_auc_score(one_hot, probabilities, average="macro"))
    alone = classification.scores(log_probs, labels.clamp_max(2), "multi-class")  # no image of the last class
    assert math.isnan(alone["auc"])


def test_confusion_matrix_is_scikit_learns(answers):
    log_probs, labels = answers
    labels = labels.clamp_max(2)
    expected = confusion_matrix(labels, log_probs.argmax(1), labels=range(4))
    assert classification.confusion_matrix(log_probs, labels) == expected.tolist()


def test_confident_mistakes_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4], [0.3, 0.7]])
    found = classification.confident_mistakes(probabilities.log(), torch.tensor([1, 1, 0, 1, 0]), count=3)
    assert [mistake["index"] for mistake in found] == [0, 2, 4]  # of equal ones the first
    assert {key: found[0][key] for key in ("true", "predicted")} == {"true": 1, "predicted": 0}
    assert found[1]["probability"] == pytest.approx(0.7)
    assert classification.confident_mistakes(probabilities.log(), probabilities.argmax(1), count=3) == []


def test_majority_is_that_of_the_training_part():
    parts = {"train": [0, 2, 2], "val": [0, 0, 2, 2], "test": [0, 1, 2, 1, 1]}
    data = SimpleNamespace(class_names=("a", "b", "c"), **{k: (None, torch.tensor(v)) for k, v in parts.items()})
    assert classification.majority_baseline(data) == {"class": "c", "accuracy": {"validation": 0.5, "test": 0.2}}


class Slow(torch.nn.Module):
    def forward(self, x):
        time.sleep(0.02)
        return x


def test_times_of_layers_are_those_of_all_their_calls():
    """A layer that is called twice takes twice its time; what is no layer counts for none."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.once, self.twice, self.weight = Slow(), Slow(), torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            time.sleep(0.02)
            return self.twice(self.twice(self.once(x)))

    times = classification.layer_times(Network(), torch.zeros(10, 1, 2, 2), passes=3)
    assert times["once"] == pytest.approx(2000, rel=0.3)  # of ten images, in microseconds
    assert times["twice"] == pytest.approx(4000, rel=0.3)
