"""Techniques that should not change a step: they do not, and what they cost is measured as said."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import records
from lab3 import costs, costs_plots
from lab3.costs import Config, Step

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(costs, "SHAPE", (3, 8, 8))
    monkeypatch.setattr(costs, "WIDTH", 16)
    monkeypatch.setattr(costs, "DEPTH", 2)


def weights_after(step, steps=2, size=10):
    losses = [step(*costs.batch(size, CPU)) for _ in range(steps)]
    return losses, {name: weight.clone() for name, weight in step.model.state_dict().items()}


@pytest.mark.parametrize("technique", ["parts", "checkpointing"])
def test_steps_are_the_same(technique):
    """A batch of 10 in four parts: 3, 3, 3 and 1."""
    losses, expected = weights_after(Step("plain", CPU, dropout=0.0))
    found_losses, found = weights_after(Step(technique, CPU, dropout=0.0))
    assert found_losses == pytest.approx(losses, abs=1e-6)
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6, msg=name)


def test_checkpointing_draws_the_same_dropout_on_its_way_back():
    expected, found = (weights_after(Step(name, CPU, dropout=0.5))[1] for name in ("plain", "checkpointing"))
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6, msg=name)


def test_a_step_is_that_of_clipped_gradients():
    step = Step("plain", CPU, dropout=0.0)
    before = {name: weight.clone() for name, weight in step.model.named_parameters()}
    images, labels = costs.batch(10, CPU)
    loss = nn.functional.cross_entropy(50 * step.model(images), labels)  # steep
    step.plain_loss = step.loss = lambda *part: 10 * nn.functional.cross_entropy(50 * step.model(part[0]), part[1])
    gradients = dict(zip(before, torch.autograd.grad(loss, list(step.model.parameters())), strict=True))
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert norm > 2  # so that clipping matters
    step(images, labels)
    for name, weight in step.model.named_parameters():
        torch.testing.assert_close(weight, before[name] - 0.1 * gradients[name] / norm, rtol=1e-4, atol=1e-6, msg=name)


def test_sixteen_bits_are_near():
    plain, rounded = (costs.gradients(name, 10, CPU) for name in ("plain", "bf16"))
    assert 1e-4 < (plain - rounded).norm() / plain.norm() < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 with scaled gradients needs a GPU")
def test_scaled_gradients_are_clipped_at_their_own_size():
    """A step of float16 is that of float32, though its gradients were scaled by 65,536 on the way."""
    device = torch.device("cuda")
    batch = costs.batch(10, device)
    steps = {name: Step(name, device, dropout=0.0) for name in ("plain", "fp16")}
    before = torch.cat([weight.detach().flatten() for weight in steps["plain"].model.parameters()]).clone()
    moved = {}
    for name, step in steps.items():
        step(*batch)
        moved[name] = torch.cat([weight.detach().flatten() for weight in step.model.parameters()]) - before
    assert (moved["fp16"] - moved["plain"]).norm() / moved["plain"].norm() < 0.02


def test_what_is_not_here_is_left_out(monkeypatch):
    monkeypatch.setattr(costs.shutil, "which", lambda name: None)
    assert costs.available(CPU) == ["plain", "parts", "checkpointing", "bf16"]
    monkeypatch.setattr(costs.shutil, "which", lambda name: "/usr/bin/g++")
    assert costs.available(CPU) == ["plain", "parts", "checkpointing", "bf16", "compiled"]
    assert costs.available(torch.device("cuda")) == list(costs.TECHNIQUES)


def test_a_result(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(costs, "available", lambda device: ["plain", "parts"])
    monkeypatch.setattr(costs, "in_its_own_process", lambda config, name: {"memory": len(name) * 10**6, "loss": 2.3})
    assert costs.main(["--batch_size", "8", "--repetitions", "3", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "lab3" / "costs.json").read_text())
    plain, parts = result["rows"]
    assert plain["share_of_time"] == 1
    assert plain["gradients_off_by"] == 0
    assert parts["gradients_off_by"] < 1e-5
    assert "(synthetic)" in capsys.readouterr().out
    time, memory = costs_plots.plot(result).axes
    assert [bar.get_width() for bar in time.patches] == [1, parts["share_of_time"]]
    assert [bar.get_width() for bar in memory.patches] == [1, 1]  # both names have five letters


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's way to give memory back")
def test_parts_and_checkpoints_take_less_memory():
    """The real sizes, in processes of their own."""
    peaks = {
        name: costs.in_its_own_process(Config(batch_size=32, device="cpu"), name)["memory"]
        for name in ("plain", "parts", "checkpointing")
    }
    assert peaks["parts"] < 0.6 * peaks["plain"]
    assert peaks["checkpointing"] < 0.6 * peaks["plain"]


def test_an_unknown_technique_is_one_line():
    command = [sys.executable, "lab3/costs.py", "--only", "magic"]
    ended = subprocess.run(command, cwd=records.ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
