"""Several processes take the steps of one: small networks in forked processes, and the documented commands."""

import datetime
import importlib
import multiprocessing
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import asr.__main__
import q1_linear_attention
import records
import utils
from asr import train as speech
from common import processes, strong
from common.recipes import adamw
from common.speech.audio import Features
from common.speech.data import load_corpus
from synthetic import scans
from synthetic.speech import write_corpus

q2 = importlib.import_module("hw2-q2")
BIN = Path(sys.executable).parent
PAGE = (records.ROOT / "docs" / "several-processes.md").read_text()
DEVICE = "cpu" if torch.cuda.is_available() else "auto"


def in_processes(folder, world, work):
    """What `work(rank)` returns in each of `world` connected processes: forks, as importing torch takes seconds."""

    def child(rank):
        sizes = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}
        os.environ.update({name: str(value) for name, value in sizes.items()})
        torch.set_num_threads(1)
        AcceleratorState._reset_state(reset_partial_state=True)
        meeting, patience = f"file://{folder}/meeting-{world}", datetime.timedelta(seconds=60)
        torch.distributed.init_process_group("gloo", meeting, patience, world, rank)
        torch.save(work(rank), folder / f"{rank}.pt")

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=child, args=(rank,)) for rank in range(world)]
    for process in children:
        process.start()
    for process in children:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in children] == [0] * world
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.fixture(autouse=True)
def one_thread_and_fresh_accelerate(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.getbasetemp())  # where the cache of features goes
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)


def assert_close(first, second, atol):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=atol, msg=name)


# --- the loop, on a small network --------------------------------------------------------------------


def samples():
    generator = torch.Generator().manual_seed(7)
    return torch.randn(50, 6, generator=generator), torch.randint(
        3, (50,), generator=generator
    )  # 6 batches, and 2 more


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def train(epochs=3, *, learning_rate=0.1, config=None, **kwargs):
    """Weights and losses of a network in which every item depends on all others, and on random numbers."""
    torch.manual_seed(0)
    layers = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3), nn.BatchNorm1d(3)
    model = nn.Sequential(*layers)
    history = utils.fit(
        model, utils.Batches(samples(), 8, 0), torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9),
        augment=lambda batch: (batch[0] + torch.randn_like(batch[0]), batch[1]), loss_fn=cross_entropy,
        evaluate=lambda model: {"loss": cross_entropy(model, samples()).mean()},
        epochs=epochs, seed=0, clip_norm=1.0, average_decay=0.5, device=DEVICE, config=config, **kwargs,
    )  # fmt: skip
    return model.state_dict(), [[epoch["train_loss"], epoch["loss"]] for epoch in history]


@pytest.mark.parametrize("world", [2, 3])  # the last batch has two items: enough for two processes, too few for three
def test_processes_take_the_steps_of_one_and_go_on_where_it_was(world, tmp_path):
    train(1, checkpoint=tmp_path / "rank0" / "run.ckpt")  # on one of several machines

    def work(rank):
        checkpoint = tmp_path / f"rank{rank}" / "run.ckpt"
        return train(2, checkpoint=checkpoint, resume=True), checkpoint.exists()

    weights, history = train(2)
    for rank, (result, wrote) in enumerate(in_processes(tmp_path, world, work)):
        assert_close(result[0], weights, atol=1e-5)
        np.testing.assert_allclose(result[1], history, rtol=0, atol=1e-5)
        assert wrote == (rank == 0)
    resumed, _ = train(3, checkpoint=tmp_path / "rank0" / "run.ckpt", resume=True)  # in one process again
    assert_close(resumed, train(3)[0], atol=1e-5)


def test_processes_share_each_part_of_a_batch(tmp_path):
    expected = train(2, rows=3)  # 3, 3 and 2 of 8: with two processes, each has its share of each part
    for weights, history in in_processes(tmp_path, 2, lambda rank: train(2, rows=3)):
        assert_close(weights, expected[0], atol=1e-5)
        np.testing.assert_allclose(history, expected[1], rtol=0, atol=1e-5)


def test_all_processes_notice_divergence_and_other_settings(tmp_path):
    def work(rank):
        with pytest.raises(utils.Diverged) as diverged:
            train(3, learning_rate=1e30, checkpoint=tmp_path / "run.ckpt")
        with pytest.raises(ValueError, match="the processes differ in batch_size: start all"):
            train(1, config={"batch_size": 8 + (rank == 1), "seed": 0})
        return diverged.value.epoch, train(1)  # another run in the same processes

    expected = train(1)
    for epoch, (weights, history) in in_processes(tmp_path, 3, work):
        assert epoch == 1
        assert_close(weights, expected[0], atol=1e-5)
        np.testing.assert_allclose(history, expected[1], rtol=0, atol=1e-5)


def test_strong_recipe_shares_statistics_augmentation_and_dropout(tmp_path):
    # in float64: in float32 Adam makes much of the rounding of PyTorch's own batch normalisation
    images, labels = scans.oct_scans(22, seed=0)

    def work(rank=0):
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        model = strong.StrongCNN(4).to(memory_format=torch.channels_last)
        optimizer = adamw(model, 3e-3, 0.05)
        pixels, classes = torch.from_numpy(images)[:, None] / 255, torch.from_numpy(labels).long().flatten()
        batches = utils.Batches(((pixels - 0.5) / 0.2, classes), 7, 0)  # the last batch has one image
        options = strong.fit_options(optimizer, 4, classes, (0.5,), (0.2,))
        utils.fit(model, batches, optimizer, **options, evaluate=lambda model: {}, epochs=1, seed=0, device=DEVICE)
        return model.state_dict()

    try:
        results = in_processes(tmp_path, 3, work)
        one = work()
    finally:
        torch.set_default_dtype(torch.float32)
    assert_close(results[0], one, atol=1e-10)


@pytest.mark.parametrize("ctc_weight", [0.3, 0.0])  # without it, a part of the network has no gradient
def test_speech_recogniser_shares_its_batches(ctc_weight, tmp_path):
    root = write_corpus(tmp_path / "spoken", n=16, seed=0, workers=1)
    sizes = {"hidden_dim": 16, "num_blocks": 1, "batch_size": 6, "epochs": 1, "device": DEVICE, "mixed_precision": "no"}
    config = speech.Config(data=str(root), out=str(tmp_path), ctc_weight=ctc_weight, **sizes)
    corpus = load_corpus(root, Features())

    def work(rank=0):
        model, history = speech.train(config, corpus)
        # attention does not depend on a bias that all keys share: its gradient is rounding, which Adam scales up
        weights = {name: x for name, x in model.state_dict().items() if not name.endswith("key.bias")}
        return weights, history[0]["train_loss"]

    (weights, loss), other = in_processes(tmp_path, 2, work)
    expected, expected_loss = work()
    assert_close(weights, expected, atol=1e-5)
    assert_close(other[0], weights, atol=0)
    assert loss == pytest.approx(expected_loss, abs=1e-5)


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "words"), [("auto", "--nproc_per_node=1"), ("cuda", "--nproc_per_node=1"), ("mps", "mps")]
)
def test_more_processes_than_gpus_are_refused(device, words, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=words) as caught:
        processes.connect(device, "no", None)
    assert "--device cpu" in str(caught.value)


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (q2.main, ["--predict", "scan.png"]),
        (q2.main, ["--sweep"]),
        (q2.main, ["--seeds", "0", "1", "--dry_run"]),
        (asr.__main__.main, ["evaluate"]),
        (asr.__main__.main, ["transcribe", "a.wav"]),
        (q1_linear_attention.main, []),
    ],
)
@pytest.mark.parametrize("size", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_what_shares_no_work_is_refused_in_one_line(main, flags, size, monkeypatch, capsys):
    monkeypatch.setenv(size, "2")
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert "run it without torchrun" in error
    assert error.count("\n") == 1


# --- the documented commands, as they are ------------------------------------------------------------

ON_ONE_MACHINE = re.findall(r"^(?:torchrun --nproc|accelerate).*", PAGE, re.M)
ON_TWO_MACHINES = re.findall(r"^torchrun --nnodes.*", PAGE, re.M)


def start(command, port):
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(records.ROOT)}
    environment |= {"PET_MASTER_PORT": str(port), "ACCELERATE_CONFIG_FILE": os.devnull}
    script = [str(records.ROOT / word) if word == "hw2-q2.py" else word for word in command]
    return subprocess.Popen(
        script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    """What makes the commands of Question 2 and 3 short."""
    root = tmp_path_factory.mktemp("data")
    np.savez(root / "octmnist.npz", **scans.oct_splits(160, seed=3))
    spoken = write_corpus(root / "spoken", n=40, seed=0, workers=1)
    sizes = f"--epochs 1 --hidden_dim 16 --num_blocks 1 --batch_size 8 --mixed_precision no --data {spoken}"
    return {"hw2-q2.py": f"--data_root {root} --epochs 1 --no_test", "train": sizes}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", ON_ONE_MACHINE)
def test_documented_command_gives_what_one_process_gives(command, small_data, tmp_path):
    kind, main = ("hw2-q2.py", q2.main) if "hw2-q2.py" in command else ("train", asr.__main__.main)
    launch, _, flags = command.partition(f"{kind} ")
    flags = [*shlex.split(f"{flags} {small_data[kind]}"), "--out"]
    several = start([*launch.split(), kind, *flags, str(tmp_path / "several")], free_port())
    out, errors = several.communicate(timeout=240)
    assert several.returncode == 0, errors
    assert main([*(["train"] if kind == "train" else []), *flags, str(tmp_path / "one")]) == 0
    written = sorted(path.relative_to(tmp_path / "several") for path in (tmp_path / "several").rglob("*.*"))
    assert written == sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert out.count("epoch 1/1") + errors.count("epoch 1/1") == 1
    (name,) = (path for path in written if path.suffix == ".safetensors")
    one, two = (load_file(tmp_path / run / name) for run in ("one", "several"))
    difference = torch.cat([(one[key].double() - two[key].double()).abs().flatten() for key in one])
    # Adam and float16 let single weights of the other two differ by more (see the page)
    assert (difference.max() if "strong" not in command and kind != "train" else difference.mean()) < 1e-5
    text = [(tmp_path / run / name.with_suffix(".json")).read_text() for run in ("one", "several")]
    one, two = (list(map(float, re.findall(r'"train_loss": ([\d.]+)', json))) for json in text)
    assert len(one) == 1
    assert two == pytest.approx(one, abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_machines_and_a_run_that_goes_on_with_one(small_data, tmp_path):
    flags, port = shlex.split(small_data["hw2-q2.py"]), str(free_port())
    assert len(ON_TWO_MACHINES) == 2
    machines = []
    for number, command in enumerate(ON_TWO_MACHINES):
        for old, new in {"FIRST_MACHINE": "127.0.0.1", "29500": port, "nproc_per_node=4": "nproc_per_node=1"}.items():
            assert old in command
            command = command.replace(old, new)
        machines.append(start([*command.split(), *flags, "--out", str(tmp_path / str(number))], port))
    for machine in machines:
        errors = machine.communicate(timeout=240)[1]
        assert machine.returncode == 0, errors
    assert not (tmp_path / "1").exists()
    assert q2.main(["--batch_size", "512", *flags, "--out", str(tmp_path / "0"), "--resume"]) == 0  # trains no epoch
    assert q2.main(["--batch_size", "512", *flags, "--out", str(tmp_path / "one")]) == 0
    name = "q2/octmnist-maxpool-sgd-lr0.01-seed0.safetensors"
    assert_close(load_file(tmp_path / "0" / name), load_file(tmp_path / "one" / name), atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_process_ends_the_others_and_leaves_a_checkpoint(small_data, tmp_path):
    flags = [*shlex.split(small_data["hw2-q2.py"]), "--batch_size", "8", "--out", str(tmp_path), "--epochs", "2000"]
    launcher = start(["torchrun", "--nproc_per_node=2", "hw2-q2.py", *flags], free_port())
    checkpoint = tmp_path / "q2" / "octmnist-maxpool-sgd-lr0.01-seed0.ckpt"
    deadline = time.time() + 120
    while not checkpoint.exists() and time.time() < deadline:
        time.sleep(0.1)
    workers = psutil.Process(launcher.pid).children()
    assert len(workers) == 2
    time.sleep(1)
    workers[1].kill()
    errors = launcher.communicate(timeout=60)[1]
    assert launcher.returncode == 1, errors
    assert not any(worker.is_running() for worker in workers)
    assert len(torch.load(checkpoint, weights_only=True)["history"]) < 2000
    assert not list(tmp_path.rglob("*.json"))
    again = start(["torchrun", "--nproc_per_node=2", "hw2-q2.py", *flags, "--epochs", "1", "--resume"], free_port())
    errors = again.communicate(timeout=100)[1]
    assert again.returncode == 1
    (line,) = (line for line in errors.splitlines() if line.startswith("hw2-q2.py: "))  # not one for each process
    assert "other settings (epochs)" in line
