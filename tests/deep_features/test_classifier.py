"""What the classifiers of the course share: what is decayed, the learning rate's course, scores."""

import pytest
import torch
import torch.nn.functional as F

from deep_features import classifier, classifier_plots


@pytest.mark.parametrize(("kind", "expected"), [("decay", [1, 1, 0.95, 0.95, 0.95**2]), ("constant", [1] * 5)])
def test_the_rate_falls_by_five_percent_an_epoch(kind, expected):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    scheduler, rates = classifier.scheduler(kind, optimizer, steps=2, epochs=3), []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler:
            scheduler.step()
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 40, 401])
def test_a_cycle_rises_once_and_ends_near_nothing(steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, rates = classifier.scheduler("cycle", optimizer, steps, epochs=1), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.5)
    assert top == pytest.approx(steps / 10, abs=1.2)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert optimizer.param_groups[0]["lr"] < 1e-3 or steps == 1


def test_scores_of_logits_are_pytorchs():
    class Given(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, images):
            return images.flatten(1)[:, :10] * self.scale

    torch.manual_seed(0)
    images, labels = torch.randn(700, 1, 28, 28), torch.randint(10, (700,))
    found = classifier.scores(Given(), images, labels)
    logits = images.flatten(1)[:, :10]
    assert found["loss"] == pytest.approx(F.nll_loss(logits.log_softmax(1), labels).item(), rel=1e-5)
    assert found["accuracy"] == sum(row.argmax() == label for row, label in zip(logits, labels, strict=True)) / 700


def lines_of(figure):
    """The means that a figure's one panel shows, by the names in its legend."""
    (axes,) = figure.axes
    return {line.get_label(): [list(values) for values in line[0].get_data()] for line in axes.containers}


def result_of(models):
    return {"data": {"name": "mnist", "sizes": {"train": 48_000, "val": 12_000}}, "seeds": [0, 1], "models": models}


def test_accuracies_by_labels_are_drawn_of_each_kind_of_training():
    def model(labels, random, mean):
        accuracy = {"mean": mean, "std": 0.01}
        return {"settings": {"labels": labels, "no_pretraining": random}, "metrics": {"test": {"accuracy": accuracy}}}

    models = {"a": model(100, False, 0.5), "b": model(0, False, 0.75), "c": model(100, True, 0.25)}
    found = lines_of(classifier_plots.plot_labels(result_of(models)))
    assert found == {"pre-trained": [[100, 60_000], [50, 75]], "from random weights": [[100], [25]]}


def test_accuracies_of_moved_images_are_means_over_seeds_without_the_shuffled():
    def model(shuffle, *trials):
        return {"settings": {"shuffle_pixels": shuffle}, "trials": [{"shifted_accuracy": each} for each in trials]}

    models = {
        "CNN, in order": model(False, [1.0, 0.5], [0.5, 0.25]),
        "CNN, shuffled": model(True, [0.1, 0.1]),
        "other, in order": model(False, [0.25, 0.125]),
    }
    found = lines_of(classifier_plots.plot_shifts(result_of(models)))
    assert found == {"CNN": [[0, 1], [75, 37.5]], "other": [[0, 1], [25, 12.5]]}
