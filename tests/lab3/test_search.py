"""Architecture search: valid samples, rungs and budgets by hand, the best of a known score, and going on."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import utils
from common.classification import get_number_trainable_params
from common.shaped_cnn import ShapedCNN
from lab3 import photographs, search, search_plots
from lab3.search import Config, Rung


def drawn(count, seed=0):
    generator = np.random.default_rng(seed)
    return [search.sample(generator) for _ in range(count)]


def test_samples_are_valid_and_small_enough():
    """That they are valid is Shape's own check; `parameters` builds nothing, so a network that is built counts them."""
    shapes = drawn(60)
    assert all(get_number_trainable_params(ShapedCNN(shape)) <= search.LARGEST for shape in shapes[:10])
    assert all(search.parameters(shape) <= search.LARGEST for shape in shapes)
    assert search.parameters(shapes[0]) == get_number_trainable_params(ShapedCNN(shapes[0]))
    assert shapes[:5] == drawn(5)
    assert shapes[:5] != drawn(5, seed=1)


def test_every_choice_is_drawn_as_often(monkeypatch):
    """Without the limit; each share within four standard errors."""
    monkeypatch.setattr(search, "parameters", lambda shape: 0)
    shapes = drawn(3000)
    choices = {
        4: [len(shape.widths) for shape in shapes],
        3: [width for shape in shapes for width in shape.widths],
        2: [shape.batch_norm for shape in shapes],
    }
    choices_too = {4: [shape.activation for shape in shapes], 2: [k for shape in shapes for k in shape.kernels]}
    places = [place for shape in shapes if len(shape.widths) == 5 for place in shape.pools]
    hidden = [shape.hidden for shape in shapes]
    pools = [len(shape.pools) for shape in shapes if len(shape.widths) > 2]
    for kinds, found in (*choices.items(), *choices_too.items(), (5, places), (4, hidden), (3, pools)):
        counts = Counter(found)
        assert len(counts) == kinds
        error = np.sqrt((1 - 1 / kinds) / kinds / len(found))
        assert all(abs(count / len(found) - 1 / kinds) < 4 * error for count in counts.values()), counts


def test_the_network_made_by_hand_is_that_of_the_cnn_study():
    from deep_features import cnn

    flags = {name: value for name, value in cnn.BASE.items() if name != "epochs"}
    assert cnn.Config(**flags).shape == search.BASE


def test_rungs_by_hand():
    assert search.rungs_of("halving", 3) == [(27, 1), (9, 3), (3, 9)]  # 27 + 9 * 2 + 3 * 6 = 63 epochs
    assert search.rungs_of("random", 3) == [(7, 9)]  # 7 * 9 = 63


@pytest.mark.parametrize("rungs", range(1, 6))
def test_both_methods_spend_the_same_to_the_epoch(rungs):
    spent = {}
    for method in ("halving", "random"):
        trained = Counter()  # epochs that each candidate has been trained for

        def score(candidate, epochs, trained=trained):
            trained[candidate] = epochs
            return 0.0

        trace = search.search(search.rungs_of(method, rungs), score)
        assert trace[-1]["spent"] == trained.total()
        spent[method] = trained.total()
    assert spent["halving"] == spent["random"] == 3 ** (rungs - 1) * (2 * rungs + 1)


def test_the_best_of_a_known_score_is_found():
    """Where the order does not change with training, halving finds the best of all, random search of those it tries."""
    quality = np.random.default_rng(0).permutation(27)
    calls = []

    def score(candidate, epochs):
        calls.append((candidate, epochs))
        return quality[candidate] - 10 / epochs

    trace = search.search(search.rungs_of("halving", 3), score)
    assert search.winner_of(trace) == quality.argmax()
    best = np.argsort(-quality)
    assert {c for c, epochs in calls if epochs == 3} == set(best[:9])
    assert {c for c, epochs in calls if epochs == 9} == set(best[:3])
    assert search.winner_of(search.search(search.rungs_of("random", 3), score)) == quality[:7].argmax()


def test_halving_loses_what_is_slow_to_learn():
    slow = lambda candidate, epochs: 1.0 if (candidate, epochs) == (5, 9) else -candidate * epochs  # noqa: E731
    assert search.winner_of(search.search(search.rungs_of("halving", 3), slow)) == 0
    assert search.winner_of(search.search(search.rungs_of("random", 3), slow)) == 5


def test_of_equal_scores_the_first_drawn_wins():
    trace = search.search([Rung(9, 1), Rung(3, 3)], lambda candidate, epochs: 0.5)
    assert [step["candidate"] for step in trace] == [*range(9), 0, 1, 2]
    assert search.winner_of(trace) == 0


def test_ranks_by_hand():
    """Of three candidates: after one epoch in the opposite order, after three epochs one pair is swapped."""
    curves = {"0": [3.0, 0, 2.0, *[0] * 5, 1.0], "1": [2.0, 0, 1.0, *[0] * 5, 2.0], "2": [1.0, 0, 3.0, *[0] * 5, 3.0]}
    found = search.ranks([{"curves": curves}], 3)
    assert found["1"]["values"] == pytest.approx([-1])
    assert found["3"]["values"] == pytest.approx([0.5])  # 1 - 6 (1 + 1) / (3 (9 - 1))
    assert list(found) == ["1", "3"]


# --- trainings ---------------------------------------------------------------------------------------


@pytest.fixture
def data():
    return photographs.select(photographs.digits(0, 10), 50)


def test_a_search_goes_on_where_it_was(monkeypatch, data, tmp_path):
    fit, calls = utils.fit, []

    def counted(*args, **options):
        calls.append(options)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return fit(*args, **options)

    monkeypatch.setattr(utils, "fit", counted)
    stop, whole = 0, Config(out=str(tmp_path / "whole"))
    expected = search.train(whole, data)
    assert len(calls) == 9 + 3 + search.TRAININGS
    calls.clear()
    stop, stopped = 11, Config(out=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        search.train(stopped, data)
    stop = 0
    epochs = []
    monkeypatch.setattr(utils, "_train_epoch", lambda *args, train=utils._train_epoch: epochs.append(1) or train(*args))
    found = search.train(replace(stopped, resume=True), data)
    assert len(epochs) == 15 - 9 - 2 + 3 * search.TRAININGS  # nine candidates and one that went on are not trained anew
    for name in ("trace", "metrics", "shape", "curves"):
        assert found[name] == expected[name], name


def test_what_goes_on_is_what_one_training_gives(data, tmp_path):
    shape = drawn(1)[0]
    search.fit(Config(out=str(tmp_path)), data, shape, "a", 1, 0, resume=False)
    _, gone_on = search.fit(Config(out=str(tmp_path)), data, shape, "a", 3, 0, resume=True)
    _, at_once = search.fit(Config(out=str(tmp_path)), data, shape, "b", 3, 0, resume=False)
    assert [record["accuracy"] for record in gone_on] == [record["accuracy"] for record in at_once]
    assert [record["train_loss"] for record in gone_on] == [record["train_loss"] for record in at_once]


def test_the_study(one_by_one, tmp_path, capsys):
    flags = ("--study", "methods", "--train_size", "20", "--seeds", "3", "4", "--out", str(tmp_path))
    assert search.main(flags) == 0
    result = json.loads((tmp_path / "lab3" / "search-methods-digits.json").read_text())
    for name, method in search.VARIANTS.items():
        words = "" if method == "halving" else f"{method}-"
        single = json.loads((tmp_path / "lab3" / f"search-digits-{words}train_size20-seed4.json").read_text())
        model = result["models"][name]
        assert model["metrics"]["test"]["accuracy"]["values"][1] == pytest.approx(
            np.mean(single["metrics"]["test"]["accuracy"]["values"])
        )
        assert model["winners"][1]["shape"] == single["shape"]
        assert len(single["metrics"]["test"]["accuracy"]["values"]) == search.TRAININGS
    assert "rank correlation of epoch 1 with the last" in capsys.readouterr().out
    spent, best = search_plots.best_so_far(result["models"]["random search"]["traces"][0])
    assert spent.tolist() == [3, 6, 9, 12, 15]
    assert best.tolist() == sorted(best)
    lines = {line.get_label(): line for line in search_plots.plot_methods(result).axes[0].lines}
    assert lines["successive halving"].get_xdata()[-1] == lines["random search"].get_xdata()[-1] == 15
    errors = [100 * (1 - search_plots.best_so_far(t)[1][-1]) for t in result["models"]["random search"]["traces"]]
    assert lines["random search"].get_ydata()[-1] == pytest.approx(np.mean(errors))
