"""Lab 3's claims: what keeps one, what refutes it, and what leaves it open."""

import pytest

from lab3 import runs
from publish import claims
from records import mean_std


def model(accuracies, seconds=10.0, labels=100):
    return {
        "settings": {"labels": labels},
        "training_seconds": mean_std([seconds]),
        "metrics": {"test": {"accuracy": mean_std(accuracies)}},
    }


@pytest.mark.parametrize(
    ("transferred", "scratch", "words", "verdict"),
    [
        # deviations .01 and .01: standard error of the difference .01 √(2/3) = .816 points
        ((0.81, 0.82, 0.83), (0.69, 0.70, 0.71), "82.0 ± 1.0 % against 70.0 ± 1.0 %: +12.0 points, standard error 0.8",
         claims.KEPT),
        ((0.80, 0.81, 0.82), (0.69, 0.70, 0.71), None, claims.OPEN),
        ((0.78, 0.79, 0.80), (0.69, 0.70, 0.71), None, claims.OPEN),
        ((0.77, 0.78, 0.79), (0.69, 0.70, 0.71), None, claims.REFUTED),
        ((0.59, 0.60, 0.61), (0.69, 0.70, 0.71), "60.0 ± 1.0 % against 70.0 ± 1.0 %: -10.0 points, standard error 0.8",
         claims.REFUTED),
        ((0.90,), (0.60,), "90.0 % against 60.0 %: +30.0 points, one seed each", claims.OPEN),
    ],
)  # fmt: skip
def test_ten_points_more(transferred, scratch, words, verdict):
    found = claims.more_accuracy({"a": model(transferred), "b": model(scratch)}, "a", "b")
    assert words is None or found[0] == words
    assert found[1] == verdict


@pytest.mark.parametrize(
    ("quick", "slow", "words", "verdict"),
    [
        (model([0.8, 0.8], 20), model([0.7, 0.7], 100), "20 s against 100 s: -80 %, as accurate", claims.KEPT),
        (model([0.8, 0.8], 21), model([0.7, 0.7], 100), "21 s against 100 s: -79 %, as accurate", claims.REFUTED),
        (model([0.6, 0.6], 20), model([0.7, 0.7], 100), "20 s against 100 s: -80 %, less accurate", claims.REFUTED),
        (model([0.8, 0.8], 150), model([0.7, 0.7], 100), "150 s against 100 s: +50 %, as accurate", claims.REFUTED),
    ],
)
def test_four_fifths_of_the_time_saved_at_no_loss(quick, slow, words, verdict):
    assert claims.less_time({"a": quick, "b": slow}, "a", "b") == (words, verdict)


def test_a_loss_within_the_seeds_is_none():
    quick, slow = model([0.68, 0.70, 0.72], 10), model([0.69, 0.71, 0.73], 100)
    assert claims.less_time({"a": quick, "b": slow}, "a", "b")[1] == claims.KEPT


def test_time_of_a_study_that_has_the_sum_over_its_seeds():
    assert claims.seconds({"adapting_seconds": 30.0, "seeds": [0, 1, 2]}) == 10


def test_how_much_less_data():
    models = {
        "full, 10": model([0.5, 0.5], labels=10), "full, 100": model([0.72, 0.72], labels=100),
        "full, all": model([0.9, 0.9], labels=1000),
        "random, 10": model([0.4, 0.4], labels=10), "random, all": model([0.7, 0.7], labels=1000),
    }  # fmt: skip
    words, verdict = claims.less_data(models, "full", "random")
    assert words == "72.0 ± 0.0 % with 100, 70.0 ± 0.0 % from random weights with 1,000: 10 times less"
    assert verdict == claims.KEPT
    models["full, 100"] = model([0.62, 0.82], labels=100)  # the same mean, but the seeds differ
    assert claims.less_data(models, "full", "random") == (words.replace("72.0 ± 0.0", "72.0 ± 14.1"), claims.OPEN)
    models["full, 100"] = model([0.69, 0.69], labels=100)
    words, verdict = claims.less_data(models, "full", "random")
    assert words == "90.0 ± 0.0 % with 1,000, 70.0 ± 0.0 % from random weights with 1,000: 1 times less"
    assert verdict == claims.REFUTED
    models["random, all"] = model([0.95, 0.95], labels=1000)
    words, verdict = claims.less_data(models, "full", "random")
    assert words == "95.0 ± 0.0 % from random weights with all 1,000 is not reached"
    assert verdict == claims.REFUTED


def test_photographs_are_counted_in_their_own_way():
    assert claims.training_size({"settings": {"train_size": 0}, "sizes": {"train": 200}}) == 200


def test_every_claim_is_measured_on_every_task():
    found = claims.findings(lambda run: None)
    assert len(found) == len(claims.CLAIMS) * len(claims.TASKS) + 1  # mixed precision has a task of its own
    commands = {f"`{run.command}`" for run in runs.RUNS}
    assert {finding.measured for finding in found} <= commands
    assert {finding.verdict for finding in found} == {"not run"}
    assert any("labels" in each.measured for each in found if each.claim == "10 to 100 times less data")


@pytest.mark.parametrize(
    ("share", "words", "verdict"),
    [
        (0.4, "bfloat16, median of rounds: 2.50 times as fast, gradients 0.3 % off", claims.KEPT),
        (0.5, "bfloat16, median of rounds: 2.00 times as fast, gradients 0.3 % off", claims.KEPT),
        (0.8, "bfloat16, median of rounds: 1.25 times as fast, gradients 0.3 % off", claims.REFUTED),
        (5.0, "float16, median of rounds: 0.50 times as fast, gradients 0.1 % off", claims.REFUTED),
    ],
)
def test_half_the_time_by_sixteen_bits(share, words, verdict):
    rows = [
        {"technique": name, "share_of_time": time, "gradients_off_by": off}
        for name, time, off in (("plain", 1.0, 0.0), ("compiled", 0.1, 0.0), ("bf16", share, 0.003), ("fp16", 2, 0.001))
    ]
    assert claims.more_speed(rows) == (words, verdict)


def test_a_study_is_asked_for_the_networks_that_it_has():
    sizes = {
        f"{name}, {size}": model([0.8], labels=9) for name in ("frozen", "full", "scratch") for size in (10, "all")
    }
    methods = {name: model([0.9, 0.8]) for name in ("frozen", "full", "scratch")}
    studies = {runs.PHOTOGRAPHS: {"models": methods}, runs.PHOTOGRAPH_SIZES: {"models": sizes}}
    found = claims.findings(studies.get)
    assert len([each for each in found if each.verdict != "not run"]) == 6


def test_who_leads_and_whether_the_seeds_tell():
    metrics = {"a": mean_std([0.5, 0.6]), "b": mean_std([0.89, 0.91]), "c": mean_std([0.79, 0.81])}
    assert claims.ranking(metrics) == "Most accurate: b, 10.0 points (standard error 1.4) ahead of c"
    metrics["c"] = mean_std([0.79, 0.99])
    unresolved = "but the seeds do not resolve its lead of 1.0 points (standard error 10.0) over c"
    assert claims.ranking(metrics) == f"Most accurate on average: b, {unresolved}"
    metrics["c"] = mean_std([0.85])
    assert claims.ranking(metrics) == "Most accurate: b, 5.0 points ahead of c, with one seed each"


def test_what_gains_on_a_base():
    metrics = {
        "the base": mean_std([0.49, 0.51]), "mixup": mean_std([0.54, 0.56]), "moved": mean_std([0.6, 0.62]),
        "dropout": mean_std([0.51, 0.53]), "none": mean_std([0.44, 0.46]),
    }  # fmt: skip
    # a standard error of each difference of 1.41 points
    assert claims.gains(metrics, "the base") == (
        "More accurate than the base: moved (+11.0 points), mixup (+5.0 points). Less: none (-5.0). "
        "Not told apart from it by the seeds: 1."
    )


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([(30, 36, 38)], [(30, 33, 35)], "The Transformer translates better than the LSTM"),
        ([(30, 32, 34)], [(30, 35, 38)], "The LSTM translates better than the Transformer"),
        ([(36, 34, 38)], [(34, 32, 36)], "36.0 and 34.0 BLEU: which translates better is not resolved"),
        ([(36, 0, 99), (37, 0, 99)], [(33, 0, 99), (34, 0, 99)], "The Transformer translates better than the LSTM"),
        ([(36, 0, 1), (30, 0, 1)], [(33, 4, 5), (34, 4, 5)],
         "33.0 ± 4.2 and 33.5 ± 0.7 BLEU: which translates better is not resolved"),
    ],
)  # fmt: skip
def test_better_translator(first, second, words):
    """By intervals with one seed, by the seeds with more: (BLEU, and the interval's bounds) of each seed."""
    models = {
        name: {
            "seeds": list(range(len(seeds))),
            "intervals": [[low, high] for _, low, high in seeds],
            "metrics": {"test": {"bleu": mean_std([float(bleu) for bleu, *_ in seeds])}},
        }
        for name, seeds in (("transformer", first), ("lstm", second))
    }
    assert claims.better_translator({"models": models}) == words
