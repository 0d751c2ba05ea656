"""Temporal order: the sequences by hand, and what a spike is."""

import dataclasses
import itertools
import json
import math
import statistics

import pytest
import torch

import records
from assignments import runs
from assignments.hw2 import spike_plots, spikes, temporal_order
from assignments.hw2.temporal_order import LEVELS, SYMBOLS, SimpleLSTM, draw_sequences, in_letters

CLASSES = {"XX": "Q", "XY": "R", "YX": "S", "YY": "U"}


@pytest.mark.parametrize("name", LEVELS)
def test_sequences_are_those_of_the_task(name):
    level = LEVELS[name]
    sequences, classes = draw_sequences(level, 400, torch.Generator().manual_seed(0))
    lengths, places = set(), ([], [])
    for sequence, label in zip(sequences, classes.tolist(), strict=True):
        text = in_letters(sequence)
        first, second = (i for i, letter in enumerate(text) if letter in "XY")
        assert CLASSES[text[first] + text[second]] == temporal_order.CLASSES[label]
        assert (text[0], text[-1]) == ("B", "E")
        assert set(text[1:-1]) <= set("abcdXY")
        assert sequence.sum() == len(text)  # one-hot, and nothing else
        assert not sequence[: len(sequence) - len(text)].any()  # padding stands in front
        lengths.add(len(text))
        places[0].append(first), places[1].append(second)
    assert lengths == set(range(level.length[0], level.length[1] + 1))
    for found, limits in zip(places, (level.first, level.second), strict=True):
        assert (min(found), max(found)) == limits
    assert min(torch.bincount(classes)) > 60  # of 100 each
    assert {letter for text in map(in_letters, sequences) for letter in text} == set(SYMBOLS)


def test_a_set_is_a_function_of_its_generator():
    first, again, other = (
        draw_sequences(LEVELS["easy"], 5, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_only_the_last_output_is_classified():
    torch.manual_seed(0)
    model, sequences = SimpleLSTM(5), draw_sequences(LEVELS["easy"], 3, torch.Generator().manual_seed(0))[0]
    cell = torch.nn.LSTMCell(8, 5)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in model.lstm.state_dict().items()})
    h, c = torch.zeros(2, 3, 5)
    for x in sequences.unbind(1):
        h, c = cell(x, (h, c))
    torch.testing.assert_close(model(sequences), model.output(h))


@pytest.mark.parametrize(
    ("losses", "learnt", "found"),
    [
        ([1.4, 0.5, 0.2], None, []),
        ([0.2, 0.5, 0.15, 0.09, 0.18], 4, []),  # twice is not more than twice; and before .1 nothing counts
        ([0.09, 0.19, 0.05, 0.11, 0.1, 0.04, 0.8], 1, [(2, 0.19 / 0.09), (4, 2.2), (7, 20)]),
    ],
)
def test_spikes_are_epochs_above_twice_the_least_before(losses, learnt, found):
    assert spikes.epochs_to_learn(losses) == learnt
    assert [epoch for epoch, _ in spikes.spikes(losses)] == [epoch for epoch, _ in found]
    assert [quotient for _, quotient in spikes.spikes(losses)] == pytest.approx([quotient for _, quotient in found])


def test_steps_are_recorded_as_rmsprop_takes_them():
    """Against RMSprop by its formula, on one weight: v = .99 v + .01 g^2, and a step of lr g / (sqrt v + eps)."""
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.1)
    recorder, v, expected = spikes.StepRecorder(model, optimizer, spikes.FollowsLoss()), 0.0, []
    for gradient in (3.0, -0.01, 0.5):
        model.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        v = 0.99 * v + 0.01 * gradient**2
        expected.append((abs(gradient), math.sqrt(v), 0.1 * abs(gradient) / (math.sqrt(v) + 1e-8)))
    found = zip(*(recorder.steps[name] for name in ("gradient", "root", "step")), strict=True)
    assert list(itertools.chain(*found)) == pytest.approx(list(itertools.chain(*expected)), rel=1e-4)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("loss", [0.2, 0.1, 0.02, 0.16]), ("falling", [0.18, 0.16, 0.14 * 0.2**1.5, 0.12 * 0.2**1.5])],
)
def test_the_step_size_follows_the_loss(schedule, expected):
    """Worked out in full for running losses of 1.2, .5, .1 and, again up, .8, as four of ten steps."""
    model = torch.nn.Linear(1, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    follower = spikes.FallsWithLoss(10) if schedule == "falling" else spikes.FollowsLoss()
    scheduler = spikes.scheduler_of(spikes.Config(schedule=schedule), optimizer, follower)
    rates = []
    for running in (1.2, 0.5, 0.1, 0.8):
        follower.running = running
        follower.see(running)
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
    assert rates == pytest.approx(expected)


def test_the_running_loss_moves_a_twentieth_of_the_way():
    model = torch.nn.Linear(1, 4)
    recorder = spikes.StepRecorder(model, torch.optim.Adam(model.parameters()), spikes.FollowsLoss())
    assert recorder.follower.running == pytest.approx(math.log(4))
    recorder.follower.running = 1.0
    losses = recorder.losses(model, (torch.zeros(8, 1), torch.zeros(8, dtype=torch.long)))
    assert recorder.follower.running == pytest.approx(0.95 + 0.05 * losses.mean().item())


def test_a_short_run_learns_the_easy_level_and_leaves_its_plots(tmp_path, capsys):
    flags = [
        "--level",
        "easy",
        "--epochs",
        "12",
        "--optimizer",
        "adam",
        "--learning_rate",
        "0.03",
        "--schedule",
        "loss",
    ]
    assert spikes.main([*flags, "--out", str(tmp_path)]) == 0
    (path,) = (tmp_path / "assignments").glob("*.json")
    result = json.loads(path.read_text())
    assert result["metrics"]["test"]["accuracy"]["mean"] > 0.95
    assert result["epochs_to_learn"] <= 12
    assert len(result["steps"]["loss"]) == len(result["steps"]["gradient"]) > 100
    assert "% right" in capsys.readouterr().out
    assert all(drawn.stat().st_size > 1000 for drawn in spike_plots.draw([path], tmp_path / "again"))


@pytest.mark.parametrize("schedule", ["loss", "falling"])
def test_a_run_that_was_stopped_goes_on_with_the_same_step_size(tmp_path, monkeypatch, schedule):
    """The running loss, too, is in the checkpoint: the history equals that of a run in one piece."""
    settings = {"level": "easy", "optimizer": "adam", "learning_rate": 0.03, "schedule": schedule, "epochs": 6}
    whole = spikes.train(spikes.Config(**settings, out=str(tmp_path / "whole")))
    stopped = spikes.Config(**settings, out=str(tmp_path / "stopped"))
    epoch = spikes.FreshBatches.epoch

    def stop(batches, number):
        if number == 5:
            raise KeyboardInterrupt
        return epoch(batches, number)

    with monkeypatch.context() as patch:
        patch.setattr(spikes.FreshBatches, "epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            spikes.train(stopped)
    again = spikes.train(dataclasses.replace(stopped, resume=True))
    assert [record["train_loss"] for record in again["history"]] == [
        record["train_loss"] for record in whole["history"]
    ]
    assert "steps" in whole
    assert "steps" not in again


def test_the_committed_spike_is_what_the_notebook_says_of_it():
    """Second moments fall while it is quiet; then the gradient grows by orders of magnitude, and steps tenfold."""
    steps = runs.SPIKES.result(records.ROOT)["steps"]
    worst = steps["worst"] - steps["start"]
    quiet, about = slice(worst - 60, worst - 25), slice(worst - 25, worst + 5)
    root = steps["root"][quiet]
    falls = [later < earlier for earlier, later in itertools.pairwise(root)]
    assert sum(falls) > 0.9 * len(falls)  # a single hard batch may lift them for a step
    assert root[-1] < 0.95 * root[0]
    for name, factor in (("gradient", 100), ("step", 10), ("loss", 100)):
        assert max(steps[name][about]) > factor * statistics.median(steps[name][quiet])


def test_what_is_said_of_a_study_turns_with_it():
    def row(*trials):
        kept = [{"epochs_to_learn": 3, "spikes": found, "test_accuracy": right} for found, right in trials]
        return {"trials": kept, "metrics": {"test": {"accuracy": records.mean_std([1.0])}}}

    spiky, smooth, poor = ([[5, 3.0]], 1.0), ([], 1.0), ([], 0.9)
    result = {"seeds": [1, 2], "recipes": {"as the course trains": row(spiky, smooth), "other": row(smooth, smooth)}}
    assert spikes.finding(result) == (
        "As the course trains, 1 of 2 networks have a spike. Without any, and at least 99 % right: “other”."
    )
    result["recipes"]["as the course trains"]["trials"][1]["epochs_to_learn"] = None
    assert "1 of 2 networks have a spike, and 1 have not learnt at the end." in spikes.finding(result)
    result["recipes"]["other"] = row(poor, smooth)
    assert spikes.finding(result).endswith(
        "No way to train makes all 2 learn without one, to at least 99 %; the most are 1: “other”."
    )
    result["recipes"]["third"] = row(smooth, spiky)
    assert spikes.finding(result).endswith("the most are 1: “other”, “third”.")
    result["recipes"] |= {spikes.CHOSEN: row(smooth, smooth), spikes.CONFIRMED: row(smooth, spiky)}
    assert spikes.finding(result).endswith(
        "right: “Adam, clipped, only falls”. “Adam, clipped, only falls” does so with 2, and with 1 of 2 other seeds."
    )
