"""Knowledge distillation: its loss against the formula, teachers that are trained once, and the study on small data."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lab3 import distill, distill_plots, photographs
from lab3.distill import Config


@pytest.fixture
def batch():
    """Scores (B, K), teachers' log-probabilities (B, K) and labels (B,), in double precision."""
    torch.manual_seed(0)
    scores, taught = torch.randn(2, 6, 4, dtype=torch.float64)
    return scores.requires_grad_(), taught.log_softmax(1), torch.arange(6) % 4


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_loss_is_the_divergence_times_the_square_of_the_temperature(batch, temperature):
    scores, taught, _ = batch
    p, q = (np.exp(x.detach().numpy() / temperature) for x in (taught, scores))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    expected = temperature**2 * (p * np.log(p / q)).sum(1)
    found = distill.distillation_losses(scores, taught, temperature)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-10)


def test_at_a_high_temperature_scores_are_matched(batch):
    """Half the mean squared difference of centred scores (Hinton et al. 2015, section 2.1)."""
    scores, taught, _ = batch
    found = distill.distillation_losses(scores, taught, 1e4)
    difference = (scores - scores.mean(1, keepdim=True)) - (taught - taught.mean(1, keepdim=True))
    torch.testing.assert_close(found, (difference**2).mean(1) / 2, rtol=1e-3, atol=1e-4)
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    torch.testing.assert_close(gradient, difference / 4, rtol=1e-3, atol=1e-4)


def test_a_sure_teacher_is_a_label(batch):
    scores, _, labels = batch
    sure = F.one_hot(labels, 4).double().log()  # 0 and minus infinity
    found = distill.distillation_losses(scores, sure, 1.0)
    torch.testing.assert_close(found, F.cross_entropy(scores, labels, reduction="none"))
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    torch.testing.assert_close(gradient, scores.softmax(1) - F.one_hot(labels, 4))


def test_labels_and_teachers_are_weighted(batch):
    scores, taught, labels = batch
    network = nn.Identity()
    targets = 0.8 * F.one_hot(labels, 4) + 0.2 / 4
    plain = -(targets * scores.log_softmax(1)).sum(1)
    found = distill.student_losses(Config(label_weight=1.0, smoothing=0.2), network, (scores, labels))
    torch.testing.assert_close(found, plain)
    config = Config(label_weight=0.25, smoothing=0.2, temperature=2.0)
    expected = 0.25 * plain + 0.75 * distill.distillation_losses(scores, taught, 2.0)
    torch.testing.assert_close(distill.student_losses(config, network, (scores, labels, taught)), expected)


def test_teachers_together_by_hand():
    found = distill.together(torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]], [[0.4, 0.6]]]).log())
    torch.testing.assert_close(found.exp(), torch.tensor([[0.5, 0.5]]))


def test_the_student_is_the_homework_s_network():
    data = photographs.select(photographs.digits(0, 4), 40)
    assert distill.get_number_trainable_params(distill.student_of(data)) == 224_892


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"smoothing": 0.1}, "--smoothing is of labels"),
        ({"member": 3}, "--member is 3"),
    ],
)
def test_what_does_not_go_together(flags, words):
    with pytest.raises(ValueError, match=words):
        Config(**flags)


# --- trainings ---------------------------------------------------------------------------------------


class Small(nn.Module):
    """In the strong network's stead."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.affine = nn.Linear(in_channels * 28 * 28, num_classes)

    def forward(self, images):
        return self.affine(images.flatten(1)).log_softmax(1)


@pytest.fixture
def trained(monkeypatch):
    """Teachers are small, and so are augmentations; gives the names of the runs that were trained."""
    names, train = [], distill.train
    monkeypatch.setattr(distill, "StrongCNN", Small)
    monkeypatch.setattr(distill, "train", lambda config, data: names.append(config.run_name) or train(config, data))
    return names


FEW = ("--train_size", "50", "--epochs", "1")


def read(tmp_path, name):
    return json.loads((tmp_path / "lab3" / f"{name}.json").read_text())


def test_teachers_are_trained_once_and_left_as_they_are(trained, tmp_path, capsys):
    assert distill.main([*FEW, "--label_weight", "1", "--out", str(tmp_path)]) == 0
    assert trained == ["distill-digits-train_size50-label_weight1-epochs1-seed0"]
    assert distill.main([*FEW, "--out", str(tmp_path)]) == 0
    teachers = ["teacher" + name for name in ("", "-member1", "-member2")]
    assert trained[2:] == [f"distill-digits-train_size50-{name}-epochs1-seed0" for name in teachers]
    files = {path: path.read_bytes() for path in sorted((tmp_path / "lab3").glob("*teacher*"))}
    assert len(files) == 6
    assert distill.main([*FEW, "--temperature", "9", "--out", str(tmp_path)]) == 0
    assert len(trained) == 6  # the third student alone
    assert files == {path: path.read_bytes() for path in files}
    assert "its teachers together" in capsys.readouterr().out
    # the ensemble of the three files, by hand
    log_probs = [np.load(path)["test"] for path in files if path.suffix == ".npz"]
    labels = photographs.select(photographs.digits(0, 10)).test[1].numpy()
    right = (np.mean(np.exp(log_probs), 0).argmax(1) == labels).mean()
    found = read(tmp_path, "distill-digits-train_size50-temperature9-epochs1-seed0")
    assert found["teachers"]["test"]["accuracy"]["mean"] == pytest.approx(right)
    assert len({array.tobytes() for array in log_probs}) == 3  # each teacher has a seed of its own


def test_a_teacher_without_its_file_is_trained_again(trained, tmp_path):
    assert distill.main([*FEW, "--out", str(tmp_path)]) == 0
    next((tmp_path / "lab3").glob("*member1*.npz")).unlink()
    trained.clear()
    assert distill.main([*FEW, "--out", str(tmp_path)]) == 0
    assert [name for name in trained if "teacher" in name] == [
        "distill-digits-train_size50-teacher-member1-epochs1-seed0"
    ]


def test_the_study(trained, one_by_one, monkeypatch, tmp_path, capsys):
    few = {"alone": {distill.ALONE: {"label_weight": 1.0}}, "taught": {"T = 1": {"temperature": 1.0}, "T = 9": {}}}
    few["taught"]["T = 9"] = {"temperature": 9.0}
    monkeypatch.setattr(distill, "TRIED", {distill.ALONE: few["alone"], "three teachers": few["taught"]})
    assert distill.main([*FEW, "--study", "students", "--seeds", "3", "4", "--out", str(tmp_path)]) == 0
    assert len(trained) == 6 + 6  # the students trained no teacher anew
    result = read(tmp_path, "distill-students-digits")
    tried = result["tried"]["three teachers"]
    assert result["models"]["three teachers"]["chosen"] == max(tried, key=lambda name: tried[name]["mean"])
    alone, taught = (result["models"][name]["metrics"]["test"]["accuracy"]["values"] for name in result["tried"])
    gains = [a - b for a, b in zip(taught, alone, strict=True)]
    found = result["gains"]["three teachers"]
    assert found["values"] == pytest.approx(gains)
    assert found["standard_error"] == pytest.approx(abs(gains[0] - gains[1]) / 2)  # of two values
    assert len(result["models"]["a teacher"]["history"]) == 6
    assert "gain by three teachers" in capsys.readouterr().out
    tested = distill_plots.plot_students(result).axes[1]
    assert tested.containers[1].lines[0].get_xdata()[0] == pytest.approx(100 * np.mean(taught))


def test_validation_chooses(monkeypatch):
    """The student that is better on validation images is reported, though the other is better on test images."""

    def trial(validation, test):
        parts = {"validation": validation, "test": test}
        metrics = {part: {"accuracy": {"mean": value}} for part, value in parts.items()}
        return {"metrics": metrics, "teachers": metrics, "parameters": 1, "multiply_adds": 2, "seconds": 3,
                "history": [], "baseline": {}}  # fmt: skip

    values = {"T = 1, labels 0": (0.9, 0.5), "T = 3, labels 0": (0.8, 0.7)}
    monkeypatch.setattr(
        distill.study, "train_all",
        lambda groups, *_: {name: [trial(*values.get(name, (0.1, 0.2)))] * 2 for name in groups},
    )  # fmt: skip
    found = distill.compare(Config(study="students", seeds=(0, 1)), lambda single: {})
    assert found["models"]["three teachers"]["chosen"] == "T = 1, labels 0"
    assert found["models"]["three teachers"]["metrics"]["test"]["accuracy"]["mean"] == 0.5
    assert found["gains"]["three teachers"]["mean"] == pytest.approx(0.3)
    assert found["models"]["the teachers together"]["parameters"] == 3
    assert math.isclose(found["gains"]["three teachers"]["standard_error"], 0, abs_tol=1e-12)
