"""The training of the echoes: its sequences, the gates that are drawn, and that it learns."""

import json

import pytest
import torch

from assignments import runs
from assignments.hw2 import echo, memory
from records import ROOT


def test_what_is_to_be_said_after_delays_that_differ():
    symbols, delays = torch.randint(1, 27, (5, 6)), torch.tensor([0, 1, 4, 6, 9])
    expected = torch.stack([echo.delayed(s, int(d)) for s, d in zip(symbols, delays, strict=True)])
    assert torch.equal(memory.said_after(symbols, delays), expected)


@pytest.mark.parametrize(("flags", "delays"), [({"delay": 3}, {3}), ({"max_delay": 2}, {0, 1, 2})])
def test_every_epoch_has_sequences_of_its_own(flags, delays):
    batches = memory.FreshBatches(memory.Config(steps=4, batch_size=8, seq_length=7, **flags))
    first, again, second = (list(batches.epoch(epoch)) for epoch in (1, 1, 2))
    assert len(first) == len(batches) == 4
    assert all(torch.equal(a, b) for a, b in zip(first[0], again[0], strict=True))
    assert not torch.equal(first[0][0], second[0][0])
    sequences, told, said = (torch.cat(parts) for parts in zip(*first, strict=True))
    assert sequences.shape == (32, 7, 27)
    assert set(told.tolist()) == delays
    assert torch.equal(said, memory.said_after(sequences.argmax(-1), told))


@torch.no_grad()
def test_the_gates_that_are_drawn_give_the_states_of_pytorch_s_gru():
    gru, inputs = torch.nn.GRU(5, 7, batch_first=True).double(), torch.randn(9, 5).double()
    reset, update, states = memory.gates(gru, inputs)
    torch.testing.assert_close(states, gru(inputs[None])[0][0], rtol=1e-12, atol=1e-12)
    assert reset.shape == update.shape == (9, 7)
    before = torch.cat([torch.zeros(1, 7).double(), states[:-1]])
    new = (states - update * before) / (1 - update)
    assert (new.abs() <= 1).all()  # what is mixed in is a hyperbolic tangent


def test_a_network_told_delays_is_scored_at_each():
    class Perfect(echo.VariableDelayGRUMemory):
        def test_run(self, s, delay):
            return (" " * delay + s)[: len(s)]

    model = Perfect(2, 5)
    assert [memory.accuracy(model, delay, 0, count=20) for delay in range(6)] == [1] * 6


@pytest.mark.parametrize(
    ("flags", "words"),
    [({"room": 3, "max_delay": 4}, "--room is 3, less than --max_delay 4"), ({"delay": -1}, "--delay is -1")],
)
def test_flags_that_cannot_be_followed(flags, words):
    with pytest.raises(ValueError, match=words):
        memory.Config(**flags)


@pytest.mark.slow
def test_two_seeds_learn_and_are_put_together(tmp_path, capsys):
    flags = ["--delay", "1", "--hidden_size", "64", "--epochs", "2", "--steps", "60", "--learning_rate", "0.01"]
    assert memory.main([*flags, "--seeds", "0", "7", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "assignments" / "hw2-echo-delay1.json").read_text())
    assert [trial["seed"] for trial in result["trials"]] == [0, 7]
    assert min(result["metrics"]["test"]["accuracy"]["values"]) > 0.95
    assert result["data"]["source"] == "synthetic"
    assert len(list((tmp_path / "plots" / "assignments").glob("hw2-echo-delay1-[gl]*.png"))) == 2
    assert "delay   1: " in capsys.readouterr().out


@pytest.mark.parametrize("run", runs.ECHOES[:3], ids=lambda run: run.name)
def test_what_the_notebook_concludes_holds_in_the_committed_results(run):
    """Three seeds, each delay by itself above 99 %, and long strings no worse than that."""
    result = run.result(ROOT)
    assert len(result["trials"]) == 3
    for trial in result["trials"]:
        assert min(trial["by_delay"].values()) > 0.99
        assert min(trial["by_length"].values()) > 0.99
