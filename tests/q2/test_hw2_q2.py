import dataclasses
import hashlib
import importlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from scipy.signal import correlate2d
from sklearn.metrics import roc_auc_score

import command_line
import image_data
import records
import utils
from common import classification, saved_models, strong
from q2 import comparison
from q2 import plots as q2_plots
from q2.config import RESULT_KEYS, Config, parse_config
from synthetic import scans

q2 = importlib.import_module("hw2-q2")
SCRIPT = records.ROOT / "hw2-q2.py"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """A folder with a small file of OCTMNIST's form: 160 training scans, 20 steps of 8."""
    root = tmp_path_factory.mktemp("data")
    np.savez(root / "octmnist.npz", **scans.oct_splits(160, seed=3))
    return root


def script(*flags, **kwargs):
    command = [sys.executable, str(SCRIPT), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, **kwargs)


@pytest.fixture
def few_scans(monkeypatch):
    """Synthetic scans where their number does not matter."""
    monkeypatch.setattr(image_data, "SYNTHETIC_OCT_SIZE", 40)


# --- the network -------------------------------------------------------------------------------------


@pytest.mark.equation("eq:parameters")
@pytest.mark.parametrize("no_maxpool", [False, True])
def test_number_of_parameters_is_the_hand_count(no_maxpool):
    model = q2.CNN(0.7, no_maxpool)
    by_hand = {
        "conv1": 8 * (1 * 3 * 3 + 1),
        "conv2": 16 * (8 * 3 * 3 + 1),
        "fc1": (16 * 6 * 6 + 1) * 320,
        "fc2": (320 + 1) * 120,
        "fc3": (120 + 1) * 4,
    }
    for name, count in by_hand.items():
        assert q2.get_number_trainable_params(getattr(model, name)) == count
    assert q2.get_number_trainable_params(model) == sum(by_hand.values()) == 224_892
    model.fc3.weight.requires_grad_(False)
    assert q2.get_number_trainable_params(model) == 224_892 - 480


@pytest.mark.equation("eq:conv-size")
@pytest.mark.parametrize("size", [9, 28, 29, 64])
@pytest.mark.parametrize("no_maxpool", [False, True])
def test_sizes_follow_the_formula_for_other_images_too(size, no_maxpool):
    def formula(n, kernel, stride, padding):
        return (n + 2 * padding - kernel) // stride + 1

    stride = 2 if no_maxpool else 1
    n = formula(size, 3, stride, 1)
    n = n if no_maxpool else formula(n, 2, 2, 0)
    n = formula(n, 3, stride, 0)
    n = n if no_maxpool else formula(n, 2, 2, 0)
    assert q2.CNN(0.7, no_maxpool, 4, (3, size, size)).fc1.in_features == 16 * n * n


def plain_forward(model, image, no_maxpool):
    """The homework's network written out in float64 with SciPy, for one image (28, 28)."""
    p = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    maps = image[None]  # (1, 28, 28)
    for layer, padding in (("conv1", 1), ("conv2", 0)):
        maps = np.pad(maps, ((0, 0), (padding, padding), (padding, padding)))
        maps = np.stack([
            sum(correlate2d(channel, kernel, mode="valid") for channel, kernel in zip(maps, bank, strict=True)) + bias
            for bank, bias in zip(p[f"{layer}.weight"], p[f"{layer}.bias"], strict=True)
        ]).clip(0)  # fmt: skip
        if no_maxpool:
            maps = maps[:, ::2, ::2]
        else:
            rows, columns = (maps.shape[1] // 2 * 2, maps.shape[2] // 2 * 2)
            cut = maps[:, :rows, :columns]
            maps = np.max([cut[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
    x = maps.reshape(-1)
    for layer in ("fc1", "fc2"):
        x = (p[f"{layer}.weight"] @ x + p[f"{layer}.bias"]).clip(0)
    x = p["fc3.weight"] @ x + p["fc3.bias"]
    return x - np.log(np.exp(x).sum())


@pytest.mark.parametrize("no_maxpool", [False, True])
def test_forward_equals_the_network_written_out(no_maxpool):
    utils.configure_seed(5)
    settings = Config(no_maxpool=no_maxpool).settings()
    model = q2.build_model(settings, 4, (1, 28, 28)).double().eval()
    images = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    expected = np.stack([plain_forward(model, image[0].numpy(), no_maxpool) for image in images])
    np.testing.assert_allclose(model(images).detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model(images.flatten(1)), model(images))  # (B, 784) means the same


def test_dropout_acts_in_training_only_and_where_it_should():
    model = q2.CNN(0.7)
    images = torch.randn(2, 1, 28, 28)
    seen = []
    model.fc2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert not torch.equal(model(images), model(images))
    assert 0.6 < (torch.cat(seen) == 0).double().mean() < 0.95  # 0.7 dropped, beside what ReLU made zero
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(("no_maxpool", "conv1_size"), [(False, 28), (True, 14)])
def test_multiply_adds_are_the_hand_count(no_maxpool, conv1_size):
    conv2_size = 6 if no_maxpool else 12
    by_hand = 8 * 9 * conv1_size**2 + 16 * 72 * conv2_size**2 + 576 * 320 + 320 * 120 + 120 * 4
    assert classification.multiply_adds(q2.CNN(0.7, no_maxpool), (1, 28, 28)) == by_hand


def test_scores_against_independent_ones():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(25)
    log_probs = torch.randn(100, 4, generator=generator).log_softmax(1)
    found = q2.scores(log_probs, labels, "multi-class")
    assert found["accuracy"] == pytest.approx(
        sum(int(p.argmax()) == y for p, y in zip(log_probs, labels, strict=True)) / 100
    )
    assert found["auc"] == pytest.approx(roc_auc_score(labels, log_probs.double().exp(), multi_class="ovr"), abs=1e-6)
    assert found["loss"] == pytest.approx(-np.mean([log_probs[i, y].item() for i, y in enumerate(labels)]), abs=1e-6)
    assert np.isnan(q2.scores(log_probs, torch.zeros(100, dtype=torch.int64), "multi-class")["auc"])


def test_confusion_matrix_and_mistakes(few_scans):
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images):  # the image's first pixel is the class, its second the confidence
            probability = images[:, 0, 0, 1]
            others = ((1 - probability) / 3)[:, None].expand(-1, 4).clone()
            return others.scatter(1, images[:, 0, 0, :1].long(), probability[:, None]).log()

    images = torch.zeros(5, 1, 28, 28)
    images[:, 0, 0, 0] = torch.tensor([0, 1, 2, 3, 3])
    images[:, 0, 0, 1] = torch.tensor([0.9, 0.6, 0.8, 0.7, 0.95])
    data = dataclasses.replace(image_data.load_images("synthetic-oct"), test=(images, torch.tensor([0, 2, 2, 1, 0])))
    tested = q2.test(Fixed(), data)
    assert tested["confusion_matrix"] == [[1, 0, 0, 1], [0, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert [(m["index"], m["true"], m["predicted"]) for m in tested["mistakes"]] == [(4, 0, 3), (3, 1, 3), (1, 2, 1)]
    assert tested["accuracy"] == pytest.approx(0.4)


# --- the strong recipe -------------------------------------------------------------------------------


def test_strong_network_stays_within_its_budget_and_averages_five_shifts():
    model = strong.StrongCNN(4).eval()
    assert q2.get_number_trainable_params(model) < 250_000
    images = torch.randn(3, 1, 28, 28)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    views = [padded[:, :, 1 + dy : 29 + dy, 1 + dx : 29 + dx] for dy, dx in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
    expected = sum(model.log_probs(torch.from_numpy(view)).exp() for view in views) / 5
    torch.testing.assert_close(model(images).exp(), expected)


def test_strong_network_ignores_exposure():
    model = strong.StrongCNN(2).eval()
    images = 20 * torch.randn(2, 1, 28, 28)  # so that the constant beside the deviation hardly counts
    torch.testing.assert_close(model(images * 3 + 7), model(images), rtol=0.02, atol=0.02)


def test_smoothed_losses_equal_pytorchs():
    log_probs, labels = torch.randn(6, 4).log_softmax(1), torch.tensor([0, 1, 2, 3, 0, 1])
    weights = torch.tensor([0.5, 1, 2, 4])
    expected = torch.nn.functional.cross_entropy(log_probs, labels, label_smoothing=0.05, reduction="none")
    torch.testing.assert_close(strong.smoothed_losses(log_probs, labels, weights), expected * weights[labels])


def test_augmentation_changes_every_image_differently_and_keeps_the_shape():
    utils.configure_seed(0)
    pixels = torch.from_numpy(scans.oct_scans(1, seed=0)[0]).float().div(255).expand(8, 1, 28, 28)
    varied = strong.augment(pixels)
    assert varied.shape == pixels.shape
    assert varied.isfinite().all()
    assert len({tuple(image.flatten().tolist()) for image in varied}) == 8
    assert (varied - pixels).abs().mean() < 0.3  # still the same scan


# --- flags -------------------------------------------------------------------------------------------


def test_defaults_are_the_homeworks():
    config, prediction = parse_config([], "")
    assert config.settings() == {
        "dataset": "octmnist", "recipe": "homework", "epochs": 15, "batch_size": 8, "learning_rate": 0.01,
        "l2_decay": 0.0, "dropout": 0.7, "optimizer": "sgd", "no_maxpool": False, "seed": 0,
    }  # fmt: skip
    assert prediction is None


def test_flags_take_one_dash_or_two_and_make_the_trip_to_a_subprocess():
    flags = ["epochs=3", "batch_size=4", "learning_rate=0.1", "l2_decay=0.01", "dropout=0.2", "optimizer=adam"]
    one = [part for flag in flags for part in f"-{flag}".split("=")] + ["-no_maxpool", "-seeds", "4", "5"]
    two = [part for flag in flags for part in f"--{flag}".split("=")] + ["--no_maxpool", "--seeds", "4", "5"]
    config = parse_config(one, "")[0]
    assert config == parse_config(two, "")[0]
    assert (config.epochs, config.dropout, config.no_maxpool, config.seeds) == (3, 0.2, True, (4, 5))
    assert parse_config(config.command()[2:], "")[0] == config


@pytest.mark.parametrize(
    "flags",
    ["--epochs 0", "--batch_size 0", "--learning_rate 0", "--learning_rate nan", "--l2_decay -1", "--dropout 1",
     "--dropout -0.1", "--optimizer rmsprop", "--epochs ten", "--seed -1", "--seeds 1 1", "--unknown", "--device tpu",
     "--recipe strong --no_maxpool", "--dataset chestmnist", "--dataset nothing", "--dataset ../../x", "--dataset /x",
     "--seed 99999999999999999999", "--seeds 0 99999999999999999999", "--epochs 1000000000000", "--learning_rate inf",
     "--batch_size 1000000000000", "--l2_decay nan"],
)  # fmt: skip
def test_wrong_flags_are_refused_in_one_line(flags, capsys):
    try:
        code = q2.main(flags.split())
    except SystemExit as stop:  # argparse's own
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert "error" in error


def test_help_lists_every_flag(capsys):
    with pytest.raises(SystemExit, match="0"):
        q2.main(["--help"])
    listed = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{field.name}" in listed
    assert "--predict" in listed


def test_without_the_data_it_says_what_to_run(tmp_path, capsys):
    assert q2.main(["--data_root", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"python download_octmnist.py --root {tmp_path}" in error
    assert "--dataset synthetic-oct" in error
    assert not (tmp_path / "out").exists()


# --- training runs -----------------------------------------------------------------------------------


def test_a_run_leaves_results_model_and_plots(tmp_path, data_root, capsys):
    assert q2.main(["--epochs", "1", "--data_root", str(data_root), "--out", str(tmp_path)]) == 0
    name = "octmnist-maxpool-sgd-lr0.01-seed0"
    result = json.loads((tmp_path / "q2" / f"{name}.json").read_text())
    assert result["question"] == "q2"
    assert result["data"]["source"] == "real"
    assert result["data"]["sizes"] == {"train": 160, "val": 40, "test": 40}
    assert set(result["metrics"]["test"]) == {"loss", "accuracy", "auc"}
    (trial,) = result["models"]["maxpool-sgd-lr0.01"]["trials"]
    assert [record["epoch"] for record in trial["history"]] == [1]
    model, header = q2.load_model(tmp_path / "q2" / f"{name}.safetensors")
    data = image_data.load_images("octmnist", data_root)
    assert q2.test(model, data)["accuracy"] == result["metrics"]["test"]["accuracy"]["mean"]
    assert header["class_names"] == list(scans.OCT_CLASSES)
    digest = hashlib.sha256((tmp_path / "q2" / f"{name}.json").read_bytes()).hexdigest()
    for plot in ("curves", "confusion", "filters", "mistakes"):
        stem = tmp_path / "plots" / "q2" / f"{name}-{plot}"
        assert Image.open(f"{stem}.png").text["Subject"] == f"sha256:{digest}"
        assert digest.encode() in Path(f"{stem}.pdf").read_bytes()
    assert "224,892" in capsys.readouterr().out


def test_dry_run_writes_nothing(tmp_path, data_root, capsys):
    flags = ["--dry_run", "--data_root", str(data_root), "--out", str(tmp_path / "out")]
    assert q2.main(flags) == 0
    assert q2.main([*flags, "--sweep"]) == 0
    assert not (tmp_path / "out").exists()
    assert "--learning_rate" in capsys.readouterr().out


def test_a_diverging_run_says_so_in_one_line(tmp_path, data_root, capsys):
    flags = ["--learning_rate", "1e12", "--epochs", "2", "--data_root", str(data_root), "--out", str(tmp_path)]
    assert q2.main(flags) == 3
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: the MD5")]
    assert len(error) == 1
    assert "diverged" in error[0]
    (path,) = (tmp_path / "q2").glob("*.json")
    (model,) = json.loads(path.read_text())["models"].values()
    assert model["diverged_seeds"] == [0]
    assert model["metrics"] == {}


def trial(seed, accuracy, diverged=None):
    scores = None if diverged else {"loss": 1.0, "accuracy": accuracy, "auc": 0.5}
    return {"seed": seed, "diverged_in_epoch": diverged, "history": [], "validation": scores}


def test_the_sweep_selects_by_validation_and_never_a_diverged_rate(tmp_path, monkeypatch, few_scans):
    accuracy = {0.1: [0.99, 0.99], 0.01: [0.7, 0.9], 0.001: [0.75, 0.75]}  # the mean decides: 0.8 against 0.75
    trained, tested = [], []

    def fake_training(configs, data):
        trained.append(configs)
        return [
            trial(c.seed, accuracy[c.learning_rate][c.seed], 2 if c.learning_rate == 0.1 and c.seed else None)
            for c in configs
        ]

    monkeypatch.setattr(comparison, "train_side_by_side", fake_training)
    monkeypatch.setattr(
        q2, "test_saved", lambda config, trials, data: tested.append((config.learning_rate, config.no_maxpool))
    )
    config = Config(dataset="synthetic-oct", sweep=True, seeds=(0, 1), out=str(tmp_path))
    models = q2.run(config)["models"]
    assert list(models)[:3] == ["maxpool-sgd-lr0.01", "no_maxpool-sgd-lr0.01", "maxpool-sgd-lr0.1"]
    assert tested == [(0.01, False), (0.01, True)]
    assert len(models) == 6
    assert models["maxpool-sgd-lr0.1"]["diverged_seeds"] == [1]
    assert all(config.no_test for configs in trained for config in configs)
    assert [(c.learning_rate, c.no_maxpool) for c in trained[0][-2:]] == [(0.001, True)] * 2
    accuracy.update({0.01: [0.5, 0.9]})  # the best single seed does not decide
    assert next(iter(q2.run(config)["models"])) == "maxpool-sgd-lr0.001"


def test_what_is_read_back_belongs_to_what_was_asked(tmp_path, data_root, capsys, monkeypatch):
    (tmp_path / "B").mkdir()
    np.savez(tmp_path / "B" / "octmnist.npz", **scans.oct_splits(160, seed=4))
    flags = ["--epochs", "1", "--no_test", "--out", str(tmp_path)]
    ours, others = ([*flags, "--data_root", str(root)] for root in (data_root, tmp_path / "B"))
    assert q2.main(ours) == 0
    result, checkpoint = ((tmp_path / "q2" / f"octmnist-maxpool-sgd-lr0.01-seed0{s}") for s in (".json", ".ckpt"))
    before = result.read_bytes(), checkpoint.read_bytes()
    assert json.loads(before[0])["data"]["digest"] == image_data.load_images("octmnist", data_root).digest
    for refused, words in ((others, "other data"), ([*ours, "--batch_size", "4"], "other settings (batch_size)")):
        for more in ([], ["--resume"]):
            assert q2.main([*refused, *more]) == 2
            assert words in capsys.readouterr().err.splitlines()[-1]
    assert (result.read_bytes(), checkpoint.read_bytes()) == before
    # an earlier run's files beside a child that writes none
    monkeypatch.setattr(command_line, "side_by_side", lambda jobs, accepted: None)
    config = Config(out=str(tmp_path), epochs=1, no_test=True)
    assert q2.train_side_by_side([config], image_data.load_images("octmnist", data_root))[0]["seed"] == 0
    for asked, root in ((dataclasses.replace(config, epochs=2), data_root), (config, tmp_path / "B")):
        with pytest.raises(ValueError, match=r"seed0\.json is of a run with other (settings \(epochs\)|data)"):
            q2.train_side_by_side([asked], image_data.load_images("octmnist", root))
    assert q2.main([*others, "--overwrite", "--resume"]) == 0
    assert json.loads(result.read_text())["data"] != json.loads(before[0])["data"]


def test_a_finished_run_survives_its_plots_and_its_terminal(tmp_path, data_root, capsys, monkeypatch):
    def closed(*args, **kwargs):
        raise BrokenPipeError

    monkeypatch.setattr(q2_plots, "plot_curves", lambda result: 1 / 0)
    monkeypatch.setattr(q2, "print_summary", closed)
    assert q2.main(["--epochs", "1", "--data_root", str(data_root), "--out", str(tmp_path)]) == 141
    assert "note: drawing" in capsys.readouterr().err
    records.load_result(tmp_path / "q2" / "octmnist-maxpool-sgd-lr0.01-seed0.json", *RESULT_KEYS)


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_sweep_leaves_nobody_behind_and_goes_on(tmp_path, data_root, end):
    flags = list(map(str, ["--epochs", 8, "--seeds", 0, 1, "--data_root", data_root, "--no_test", "--out", tmp_path]))
    parent = subprocess.Popen([sys.executable, SCRIPT, *flags], stderr=subprocess.DEVNULL)
    deadline = time.time() + 100
    while not list(tmp_path.glob("q2/*.ckpt")) and time.time() < deadline:
        time.sleep(0.05)
    children = children_of(parent.pid)
    assert children
    parent.send_signal(end)
    parent.wait(timeout=20)
    deadline = time.time() + 5
    while any(map(running, children)) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(map(running, children))
    done = script(*flags, "--resume")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "q2" / "octmnist-maxpool-sgd-lr0.01.json").read_text())["seeds"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)  # nine processes, which a busy machine starts slowly
def test_runs_side_by_side_equal_the_same_runs_one_by_one(tmp_path, data_root):
    flags = ["--epochs", "1", "--data_root", str(data_root)]
    assert script(*flags, "--sweep", "--seeds", 0, 1, "--out", tmp_path / "sweep").returncode == 0
    result = json.loads((tmp_path / "sweep" / "q2" / "octmnist-sweep.json").read_text())
    selected, other = list(result["models"])[:2]
    assert other.startswith("no_maxpool")
    rate = result["models"][selected]["settings"]["learning_rate"]
    assert q2.main([*flags, "--seed", "1", "--learning_rate", str(rate), "--out", str(tmp_path / "single")]) == 0
    name = f"octmnist-{selected}-seed1"
    together, alone = (load_file(tmp_path / kind / "q2" / f"{name}.safetensors") for kind in ("sweep", "single"))
    assert all(torch.equal(together[key], alone[key]) for key in alone)
    single = json.loads((tmp_path / "single" / "q2" / f"{name}.json").read_text())
    assert result["metrics"]["test"]["accuracy"]["values"][1] == single["metrics"]["test"]["accuracy"]["mean"]


def test_a_failing_run_of_a_sweep_is_reported_with_its_last_words(tmp_path, data_root):
    config = Config(data_root=str(tmp_path / "nowhere"), out=str(tmp_path / "out"), epochs=1, no_test=True)
    with pytest.raises(ValueError, match="download_octmnist"):
        q2.train_side_by_side([config], None)


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_to_resume(tmp_path, data_root):
    flags = list(map(str, ["--epochs", 100, "--data_root", data_root, "--no_test", "--out", tmp_path / "cut"]))
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *flags],
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job, as CI may be, hands down SIGINT as ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    checkpoint = tmp_path / "cut" / "q2" / "octmnist-maxpool-sgd-lr0.01-seed0.ckpt"
    deadline = time.time() + 60
    while not checkpoint.exists() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    lines = [line for line in process.stderr.read().splitlines() if "MD5" not in line]
    assert len(lines) == 1
    assert "--resume" in lines[0]
    done = len(torch.load(checkpoint, weights_only=True)["history"])
    assert done < 100
    flags[1] = "100"
    assert script(*flags, "--resume", "--epochs", done + 2).returncode == 2  # other settings: refused
    result = script(*flags, "--resume")
    assert result.returncode == 0, result.stderr
    assert q2.main([*flags[:-1], str(tmp_path / "whole")]) == 0
    cut, whole = (
        load_file(checkpoint.parents[2] / kind / "q2" / f"{checkpoint.stem}.safetensors") for kind in ("cut", "whole")
    )
    assert all(torch.equal(cut[key], whole[key]) for key in whole)


# --- prediction --------------------------------------------------------------------------------------


SHIPPED = records.ROOT / "checkpoints" / "pneumoniamnist-strong.safetensors"


def test_shipped_model_predicts_any_image_and_goes_on_after_a_bad_file(tmp_path, capsys):
    assert SHIPPED.stat().st_size < 1_500_000
    Image.new("RGB", (60, 40), (90, 90, 90)).save(tmp_path / "colour.jpg")
    Image.fromarray(np.arange(784, dtype=np.uint8).reshape(28, 28)).save(tmp_path / "exact.png")
    (tmp_path / "text.png").write_text("no image")
    files = [str(tmp_path / name) for name in ("colour.jpg", "text.png", "missing.png", "exact.png")]
    assert q2.main(["--predict", *files]) == 2
    output = capsys.readouterr()
    assert len(output.err.splitlines()) == 2
    assert "text.png: not a picture" in output.err
    first, colour, exact = output.out.splitlines()
    assert "pneumoniamnist (real)" in first
    assert colour.endswith("(colour to grey; 60x40 to 28x28)")
    probabilities = dict(re.findall(r"(\w+) (\d\.\d+)", exact.partition(": ")[2]))
    assert exact.endswith(list(probabilities.values())[-1])  # nothing was done to it, so there are no notes
    assert sum(map(float, probabilities.values())) == pytest.approx(1, abs=0.002)
    assert set(probabilities) == {"normal", "pneumonia"}


def test_prediction_of_folders_and_patterns_as_json_lines(tmp_path, capsys):
    for name in ("b.png", "a.png", "c.TIF", "sub/deep.png", "d[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (30, 28), 99).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture, so a folder leaves it out")
    (tmp_path / "empty").mkdir()
    asked = [tmp_path, tmp_path / "**" / "[ad]*.png", tmp_path / "d[1].png", tmp_path / "empty", tmp_path / "*.gif"]
    assert q2.main(["--json", "--predict", *map(str, asked)]) == 2
    output = capsys.readouterr()
    answers = [json.loads(line) for line in output.out.splitlines()]
    folder, pattern = ["a.png", "b.png", "c.TIF", "d[1].png"], ["a.png", "d[1].png", "sub/deep.png"]
    expected = [*folder, *pattern, "d[1].png", "empty", "*.gif"]
    assert [Path(answer["file"]).relative_to(tmp_path).as_posix() for answer in answers] == expected
    assert [answer["error"] for answer in answers[-2:]] == ["a folder without pictures", "No such file or directory"]
    assert len(output.err.splitlines()) == 2
    for answer in answers[:-2]:
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["prediction"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert answer["notes"] == ["30x28 to 28x28"]
    assert {(answer["checkpoint"], answer["source"]) for answer in answers} == {(SHIPPED.name, "real")}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--json"], "--json goes with --predict"),
        (["--checkpoint", "x"], "--checkpoint goes with --predict"),
        (["--predict", "x.png", "--device", "mps"], "no mps device here: leave out --device, or use --device"),
    ],
)
def test_flags_of_prediction_that_cannot_be_followed(flags, words, capsys):
    if "mps" in flags and torch.backends.mps.is_available():
        pytest.skip("the device is there")
    assert q2.main(flags) == 2
    assert words in capsys.readouterr().err


def test_prediction_refuses_what_is_no_checkpoint(tmp_path, capsys):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\x10" * 100)
    for path in (bad, tmp_path / "missing.safetensors"):
        assert q2.main(["--predict", "x.png", "--checkpoint", str(path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert str(path) in error


@pytest.fixture(scope="module")
def shipped():
    return saved_models.read_weights(SHIPPED)


HEADERS = {
    "class_names": ([], ["normal"] * 3, [1, 2]),
    "image_shape": ([], [1, 28], [1, 28, 28, 28], [2, 28, 28], [3, 28, 28], [1, 0, 28], [1, 10**9, 10**9]),
    "mean": ([], [0.5, 0.5], [float("nan")], [10**400]),
    "std": ([0], [-1.0], [0.5, 0.5], [float("inf")]),
    "source": ("invented",),
    "settings": ({}, []),
}
SETTINGS = {"recipe": ("other", "homework"), "epochs": (0, True), "dropout": (1.5,), "no_maxpool": (True, 1)}


@pytest.mark.parametrize("key", [*HEADERS, *Config().settings()])
def test_headers_that_describe_no_network_are_refused(tmp_path, shipped, key):
    weights, entries = shipped
    header, path = entries["model"], tmp_path / "changed.safetensors"

    def broken(entry, values):
        return [{name: entry[name] for name in entry if name != key}, *({**entry, key: v} for v in (None, "", *values))]

    if key in HEADERS:
        changed = broken(header, HEADERS[key])
    else:
        changed = [{**header, "settings": settings} for settings in broken(header["settings"], SETTINGS.get(key, ()))]
        changed = [new for new in changed if not (key == "dataset" and new["settings"].get(key) == "")]
    for new in [*changed, None, []]:
        text = {"model": json.dumps(new)}
        path.write_bytes(safetensors_bytes(weights, text))
        with pytest.raises(ValueError, match=r"changed.safetensors is no checkpoint of an image classifier") as caught:
            q2.load_model(path)
        assert len(str(caught.value)) < 300 + len(str(path))
    path.write_bytes(safetensors_bytes(weights, {"model": json.dumps({**header, "more": 1})}))
    assert q2.load_model(path)[1]["mean"] == header["mean"]


def test_a_checkpoint_whose_answers_are_not_numbers_is_refused(tmp_path, shipped, capsys):
    weights, entries = shipped
    variance = next(name for name in weights if name.endswith("running_var"))
    saved_models.write_weights(tmp_path / "odd.safetensors", weights | {variance: -weights[variance]}, entries)
    Image.new("L", (28, 28), 99).save(tmp_path / "scan.png")
    assert q2.main(["--predict", str(tmp_path / "scan.png"), "--checkpoint", str(tmp_path / "odd.safetensors")]) == 2
    output = capsys.readouterr()
    assert "output is not finite" in output.err
    assert "nan" not in output.out


# --- what is committed -------------------------------------------------------------------------------


def committed_results():
    return sorted((records.ROOT / "results" / "q2").glob("*-sweep.json")) + sorted(
        (records.ROOT / "results" / "q2").glob("*-strong-*.json")
    )


@pytest.mark.parametrize("path", committed_results(), ids=lambda path: path.stem)
def test_committed_plots_were_drawn_from_the_committed_results(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    plots = sorted((records.ROOT / "plots" / "q2").glob(f"{path.stem}-*.png"))
    assert len(plots) >= 3
    for plot in plots:
        assert Image.open(plot).text["Subject"] == f"sha256:{digest}"
        assert digest.encode() in plot.with_suffix(".pdf").read_bytes()


@pytest.mark.parametrize("path", committed_results(), ids=lambda path: path.stem)
def test_committed_means_are_those_of_their_trials(path):
    result = json.loads(path.read_text())
    assert len(result["seeds"]) >= 3
    for model in result["models"].values():
        for part, metrics in model["metrics"].items():
            values = [trial[part]["accuracy"] for trial in model["trials"]]
            assert metrics["accuracy"]["mean"] == pytest.approx(np.mean(values))
            assert metrics["accuracy"]["std"] == pytest.approx(np.std(values, ddof=1))


def test_synthetic_results_say_synthetic():
    path = records.ROOT / "results" / "q2" / "synthetic-oct-sweep.json"
    result = json.loads(path.read_text())
    assert result["data"]["source"] == "synthetic"
    assert "synthetic" in q2_plots.plot_curves(result).get_suptitle().replace("synthetic-oct", "")
