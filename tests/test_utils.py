"""The training loop, its checkpoints and the writing of results, against hand computations and real kills."""

import contextlib
import copy
import errno
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch import nn
from torch.nn import functional as F

import records
import utils
from utils import Batches, Diverged, fit

ROOT = Path(__file__).parents[1]
SAMPLES, BATCH = 50, 8
STEPS = 7  # per epoch; the last batch has 2 samples


@pytest.fixture(autouse=True)
def one_thread_and_fresh_accelerate():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # another test file may have chosen another device
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)


# --- a small problem ---------------------------------------------------------------------------------


def samples(count=SAMPLES):
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(count, 6, generator=generator)
    return inputs, torch.randint(3, (count,), generator=generator)


def make_model(dropout=0.3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def cross_entropy(model, batch):
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels, reduction="none")


def validation_loss(model):
    return {"val_loss": float(cross_entropy(model, samples()).detach().mean())}


def no_metrics(model):
    return {}


def train(epochs=3, *, seed=0, model=None, optimizer=None, batch_size=BATCH, count=SAMPLES, **kwargs):
    """Weights and history of a run of `fit` on the CPU."""
    model = model or make_model()
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=0.01)
    batches = Batches(samples(count), batch_size, seed)
    options = {"loss_fn": cross_entropy, "evaluate": validation_loss, "device": "cpu"} | kwargs
    history = fit(model, batches, optimizer, epochs=epochs, seed=seed, **options)
    return model.state_dict(), history


def without_seconds(history):
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in history]


def same(first, second):
    """Whether two nested structures of tensors and numbers are equal, bit for bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def finite(weights):
    return all(tensor.isfinite().all() for tensor in weights.values())


def load(path):
    return torch.load(path, weights_only=True)


def raise_at(call, error):
    """A loss function that raises `error` at its `call`-th call."""
    calls = 0

    def loss_fn(model, batch):
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return cross_entropy(model, batch)

    return loss_fn


# --- training ----------------------------------------------------------------------------------------


def test_one_batch_can_be_overfitted():
    model = make_model(dropout=0)
    _, history = train(150, model=model, batch_size=8, count=8)
    inputs, labels = samples(8)
    assert len(set(labels.tolist())) > 1
    assert history[0]["train_loss"] > 0.5
    assert history[-1]["train_loss"] < 0.02
    assert (model.eval()(inputs).argmax(1) == labels).all()


def test_same_seed_gives_identical_weights_and_another_seed_others():
    first, history = train(seed=3)
    torch.rand(5)  # what ran before, in the same process, does not matter
    second, again = train(seed=3)
    other, _ = train(seed=4)
    assert same(first, second)
    assert without_seconds(history) == without_seconds(again)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_dropout_follows_the_seed_where_the_order_of_the_batches_cannot():
    # one batch of all samples, of one value: the order makes no difference, only dropout's mask is left
    def loss_fn(model, batch):
        return model[3](torch.ones(4, 50)).sum(1) * model[0].weight.sum()

    first, again, other = (train(1, seed=seed, count=8, loss_fn=loss_fn)[1][0]["train_loss"] for seed in (0, 0, 1))
    assert first == again != other


def test_each_epoch_draws_other_dropout_masks():
    masks = []

    def loss_fn(model, batch):
        masks.append(model[3](torch.ones(1000)) > 0)
        return cross_entropy(model, batch)

    train(2, loss_fn=loss_fn)
    assert len(masks) == 2 * STEPS
    agreement = torch.stack([(a == b).float().mean() for i, a in enumerate(masks) for b in masks[:i]])
    assert agreement.max() < 0.7  # 0.58 is expected of independent masks with p = 0.3, standard error 0.016


# --- evaluation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("average_decay", [None, 0.9])
def test_evaluation_has_no_effect_on_training(average_decay):
    modes, grad_modes, training_modes = [], [], []

    def evaluate(model):
        modes.extend(module.training for module in model.modules())
        grad_modes.append(torch.is_grad_enabled())
        before = copy.deepcopy(model.state_dict())
        torch.rand(3)  # draws from the generator that dropout uses
        model(samples()[0])
        assert same(before, model.state_dict())
        return {}

    def loss_fn(model, batch):
        training_modes.append(all(module.training for module in model.modules()))
        return cross_entropy(model, batch)

    busy, _ = train(average_decay=average_decay, evaluate=evaluate, loss_fn=loss_fn)
    idle, _ = train(average_decay=average_decay, evaluate=no_metrics)
    assert len(grad_modes) == 3
    assert not any(modes)
    assert not any(grad_modes)
    assert len(training_modes) == 3 * STEPS
    assert all(training_modes)  # training mode is back in the epochs after the first evaluation
    assert same(busy, idle)


def test_evaluation_sees_the_weights_of_its_epoch():
    history = []
    for epochs in (1, 2, 3):
        weights, _ = train(epochs)
        model = make_model()
        model.load_state_dict(weights)
        history.append(validation_loss(model.eval())["val_loss"])
    assert [epoch["val_loss"] for epoch in train(3)[1]] == history


# --- batches -----------------------------------------------------------------------------------------


def order(seed, epoch, count=SAMPLES):
    indices = torch.arange(count)
    return torch.cat([batch for (batch,) in Batches((indices,), BATCH, seed).epoch(epoch)]).tolist()


def test_each_epoch_is_a_permutation_of_its_own():
    orders = [order(0, epoch) for epoch in range(1, 6)]
    assert all(sorted(one) == list(range(SAMPLES)) for one in orders)
    assert len({tuple(one) for one in orders}) == 5
    assert tuple(range(SAMPLES)) not in {tuple(one) for one in orders}


def test_the_order_depends_on_seed_and_epoch_alone():
    batches = Batches((torch.arange(SAMPLES),), BATCH, 0)
    expected = order(0, 3)
    for epoch in (1, 2):
        list(batches.epoch(epoch))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.cat([batch for (batch,) in batches.epoch(3)]).tolist() == expected
    assert torch.equal(torch.get_rng_state(), state)
    assert order(1, 3) != expected
    assert order(1, 2) != order(2, 1)  # not a function of their sum


def test_batches_keep_samples_together_and_end_with_a_short_one():
    inputs = torch.arange(SAMPLES * 2).view(SAMPLES, 2)
    batches = Batches((inputs, torch.arange(SAMPLES)), BATCH, 0)
    seen = list(batches.epoch(1))
    assert len(batches) == len(seen) == STEPS
    assert [len(labels) for _, labels in seen] == [8, 8, 8, 8, 8, 8, 2]
    assert all(torch.equal(batch[:, 0], 2 * labels) for batch, labels in seen)
    assert len(Batches((inputs[:16],), BATCH, 0)) == len(list(Batches((inputs[:16],), BATCH, 0).epoch(1))) == 2


def test_training_uses_a_new_order_in_each_epoch():
    seen = []

    def loss_fn(model, batch):
        seen.extend(batch[0][:, 0].tolist())
        return cross_entropy(model, batch)

    train(2, loss_fn=loss_fn)
    first, second = seen[:SAMPLES], seen[SAMPLES:]
    assert sorted(first) == sorted(second) == sorted(samples()[0][:, 0].tolist())
    assert first != second
    assert first != samples()[0][:, 0].tolist()


# --- the reported loss -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [8, 49])  # 49: a last batch of one sample would weigh as much as the others
def test_train_loss_is_the_mean_over_samples(batch_size):
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    inputs, labels = samples()
    total = 0.0
    for x, label in zip(inputs.double(), labels, strict=True):  # by hand, in float64
        logits = model.weight.double() @ x + model.bias.double()
        total += (torch.log(torch.exp(logits).sum()) - logits[label]).item()
    _, history = train(3, model=model, optimizer=optimizer, batch_size=batch_size)
    # float32 rounds each of the 50 additions to 6e-8
    assert [epoch["train_loss"] for epoch in history] == pytest.approx([total / SAMPLES] * 3, rel=1e-6)


def test_train_loss_is_of_its_own_epoch_and_of_all_its_steps():
    losses = []

    def loss_fn(model, batch):
        loss = cross_entropy(model, batch)
        losses.append(loss.detach().double().numpy())
        return loss

    steps = 120
    assert steps > 2 * utils.DIVERGENCE_CHECK_STEPS
    model = nn.Linear(6, 3)
    _, history = train(3, model=model, batch_size=1, count=120, loss_fn=loss_fn)
    expected = [np.concatenate(losses[epoch * steps : (epoch + 1) * steps]).mean() for epoch in range(3)]
    assert [epoch["train_loss"] for epoch in history] == pytest.approx(expected, rel=1e-5)
    assert expected[2] < 0.97 * np.mean(expected)  # what an accumulated loss would have reported is far away
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3]


# --- divergence --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [2 * STEPS + 1, 2 * STEPS + 4, 3 * STEPS])  # of the third epoch
def test_non_finite_loss_raises_and_leaves_the_last_good_epoch(tmp_path, value, step):
    calls = 0

    def loss_fn(model, batch):
        nonlocal calls
        calls += 1
        return cross_entropy(model, batch) * (value if calls == step else 1.0)

    checkpoint = tmp_path / "run.pt"
    with pytest.raises(Diverged, match="epoch 3") as caught:
        train(5, loss_fn=loss_fn, checkpoint=checkpoint)
    good, history = train(2)
    assert caught.value.epoch == 3
    assert without_seconds(caught.value.history) == without_seconds(history)
    state = load(checkpoint)
    assert without_seconds(state["history"]) == without_seconds(history)
    assert same(state["model"], good)
    assert finite(state["model"])


def test_a_non_finite_loss_is_noticed_within_the_epoch_though_the_weights_are_finite():
    calls = []

    def loss_fn(model, batch):
        calls.append(0)
        return cross_entropy(model, batch) + (math.nan if len(calls) == 3 else 0.0)  # a constant has no gradient

    model = nn.Linear(6, 3)
    with pytest.raises(Diverged, match="epoch 1"):
        train(1, model=model, batch_size=1, count=120, loss_fn=loss_fn)
    assert finite(model.state_dict())
    assert len(calls) == utils.DIVERGENCE_CHECK_STEPS


def test_weights_that_are_finite_and_of_no_use_raise_too(tmp_path):
    checkpoint = tmp_path / "run.pt"
    values = iter([0.5, math.nan])
    with pytest.raises(Diverged, match="epoch 2") as caught:
        train(3, checkpoint=checkpoint, evaluate=lambda model: {"val_loss": next(values), "val_auc": math.nan})
    assert [record["val_loss"] for record in load(checkpoint)["history"]] == [0.5]
    assert len(caught.value.history) == 1


def test_weights_broken_by_the_last_step_raise_too(tmp_path):
    losses, learning_rates = [], [1e-3] * (2 * STEPS - 1) + [1e38, 1e38]  # the scheduler's 0-based step

    def loss_fn(model, batch):
        loss = cross_entropy(model, batch) * 1e4
        losses.append(float(loss.detach().sum()))
        return loss

    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rates[step])
    checkpoint = tmp_path / "run.pt"
    with pytest.raises(Diverged, match="epoch 2") as caught:
        train(2, model=model, optimizer=optimizer, scheduler=scheduler, loss_fn=loss_fn, checkpoint=checkpoint)
    assert len(losses) == 2 * STEPS
    assert np.isfinite(losses).all()
    assert not finite(model.state_dict())
    assert [epoch["epoch"] for epoch in caught.value.history] == [1]
    assert finite(load(checkpoint)["model"])
    assert len(load(checkpoint)["history"]) == 1


# --- a run that is killed, interrupted or has no room to write ---------------------------------------

KILLED = textwrap.dedent('''
    """Kill a run at each of the moments in argv[1], resume it each time, and train one without a break."""

    import json
    import os
    import signal
    import sys
    from pathlib import Path

    import torch
    import torch._dynamo  # what the first optimiser step imports: once for all the forks
    from torch import nn
    from torch.nn import functional as F

    import utils

    EPOCHS, SAMPLES, BATCH, STEPS = 14, 50, 8, 7
    counts = {"write": 0, "fsync": 0, "step": 0}
    real_open, real_fsync = Path.open, os.fsync


    def train(checkpoint, result, kill_where=None, kill_at=0):
        torch.set_num_threads(1)

        def now(where):
            counts[where] += 1
            return where == kill_where and counts[where] == kill_at

        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        class HalfFile:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.file.close()

            def write(self, data):
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                die()

        def open_(path, mode="r", *args, **kwargs):
            file = real_open(path, mode, *args, **kwargs)
            return HalfFile(file) if "w" in mode and now("write") else file

        def fsync(descriptor):
            real_fsync(descriptor)
            if now("fsync"):
                die()

        def loss_fn(model, batch):
            if now("step"):
                die()
            return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

        def evaluate(model):
            return {"loss": float(F.cross_entropy(model(inputs[SAMPLES:]), labels[SAMPLES:]))}

        Path.open, os.fsync = open_, fsync
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(2 * SAMPLES, 6, generator=generator)
        labels = torch.randint(3, (2 * SAMPLES,), generator=generator)
        batches = utils.Batches((inputs[:SAMPLES], labels[:SAMPLES]), BATCH, 0)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, total_steps=EPOCHS * STEPS)
        history = utils.fit(
            model, batches, optimizer, loss_fn=loss_fn, evaluate=evaluate, epochs=EPOCHS, seed=0, scheduler=scheduler,
            clip_norm=1.0, average_decay=0.8, keep_best=lambda metrics: -metrics["loss"], checkpoint=checkpoint,
            config={"learning_rate": 0.03}, resume=True, device="cpu",
        )
        Path.open, os.fsync = real_open, real_fsync
        torch.save({"weights": model.state_dict(), "history": history}, result)


    def in_child(*args):
        """The exit code of `train` in a process of its own: a fork, as importing torch takes seconds."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                train(*args)
                code = 0
            finally:
                sys.excepthook(*sys.exc_info()) if code else None
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


    folder, report = Path(sys.argv[2]), []
    checkpoint, temporary = folder / "run.pt", folder / ".run.pt.tmp"
    for where, at in json.loads(sys.argv[1]):
        before = checkpoint.read_bytes() if checkpoint.exists() else None
        code = in_child(checkpoint, folder / "never", where, at)
        after = checkpoint.read_bytes() if checkpoint.exists() else None
        epochs = len(torch.load(checkpoint, weights_only=True)["history"]) if after else None
        report.append({"code": code, "untouched": before == after, "epochs": epochs, "half": temporary.exists()})
    codes = in_child(checkpoint, folder / "resumed"), in_child(folder / "whole.pt", folder / "whole")
    print(json.dumps({"kills": report, "codes": codes}))
''')


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.timeout(120)
def test_killed_and_resumed_run_equals_the_uninterrupted_one(tmp_path):
    generator = np.random.default_rng(0)
    kills = [("write", 1)]  # the very first save: nothing is there yet
    for where in generator.permutation(["step"] * 4 + ["write"] * 3 + ["fsync"] * 2).tolist():
        kills.append((where, int(generator.integers(1, 3 if where != "step" else 2 * STEPS))))
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, json.dumps(kills), tmp_path]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])  # after the lines of the epochs
    assert report["codes"] == [0, 0], done.stderr
    for (where, at), kill in zip(kills, report["kills"], strict=True):
        assert kill["code"] == -signal.SIGKILL, done.stderr
        assert kill["half"] or where == "step"  # the kill fell into the writing
        if at == 1:
            assert kill["untouched"]  # no later save came between
    reached = [kill["epochs"] for kill in report["kills"]]
    assert reached[0] is None
    assert reached[1:] == sorted(reached[1:])
    assert 1 < reached[-1] < 14  # kills struck at several epochs, and something was left to do

    resumed, whole = load(tmp_path / "resumed"), load(tmp_path / "whole")
    assert same(resumed["weights"], whole["weights"])
    assert without_seconds(resumed["history"]) == without_seconds(whole["history"])
    losses = [epoch["loss"] for epoch in whole["history"]]
    assert len(losses) == 14
    assert np.argmin(losses) + 1 < reached[-1]  # the best epoch came before the last kill: it was in the checkpoint
    states = [load(tmp_path / name) for name in ("run.pt", "whole.pt")]
    for state in states:
        state["history"] = without_seconds(state["history"])
    assert {"model", "optimizer", "scheduler", "average", "best"} <= states[0].keys()
    assert same(*states)
    assert not (tmp_path / ".run.pt.tmp").exists()


@pytest.mark.parametrize("call", [3, STEPS, 2 * STEPS + 1, 2 * STEPS + 5])
def test_keyboard_interrupt_leaves_a_checkpoint_to_resume_from(tmp_path, call):
    def run(**kwargs):
        model = make_model()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, total_steps=4 * STEPS)
        return train(4, model=model, optimizer=optimizer, scheduler=scheduler, average_decay=0.9, **kwargs)

    checkpoint = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=checkpoint, loss_fn=raise_at(call, KeyboardInterrupt()))
    assert len(load(checkpoint)["history"]) == (call - 1) // STEPS
    calls = []

    def loss_fn(model, batch):
        calls.append(0)
        return cross_entropy(model, batch)

    weights, history = run(checkpoint=checkpoint, resume=True, loss_fn=loss_fn)
    expected, whole = run()
    assert same(weights, expected)
    assert without_seconds(history) == without_seconds(whole)
    assert len(calls) == (4 - (call - 1) // STEPS) * STEPS  # finished epochs are not trained again


def test_a_finished_run_is_resumed_without_training(tmp_path):
    expected, whole = train(checkpoint=tmp_path / "run.pt", keep_best=lambda metrics: -metrics["val_loss"])
    weights, history = train(
        checkpoint=tmp_path / "run.pt",
        keep_best=lambda metrics: -metrics["val_loss"],
        resume=True,
        loss_fn=raise_at(1, AssertionError("trained again")),
    )
    assert same(weights, expected)
    assert history == whole


class FailingFile:
    """A file on a disk that fills up in the middle of the writing."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def full_disk_at_write():
    real = Path.open

    def open_(self, mode="r", *args, **kwargs):
        file = real(self, mode, *args, **kwargs)
        return FailingFile(file) if "w" in mode else file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", open_)
        yield


@contextlib.contextmanager
def full_disk_at_fsync():
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


@contextlib.contextmanager
def read_only_folder():
    def mkdir(self, *args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", mkdir)
        yield


@contextlib.contextmanager
def file_size_limit():
    """A limit that the kernel itself keeps: nothing is injected."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


FAULTS = [full_disk_at_write, full_disk_at_fsync, read_only_folder, file_size_limit]


@pytest.mark.parametrize("old", [None, b"the old file"])
@pytest.mark.parametrize("fault", FAULTS)
def test_write_file_without_room_leaves_nothing_behind(tmp_path, fault, old):
    path = tmp_path / "results" / "run.json"
    path.parent.mkdir()
    if old:
        path.write_bytes(old)
    with pytest.raises(OSError, match="cannot write") as caught, fault():
        records.write_file(path, b"x" * 5000)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [file.name for file in path.parent.iterdir()] == (["run.json"] if old else [])
    assert not old or path.read_bytes() == old


def test_write_file_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    for data in (b"first, and longer", b"second"):
        records.write_file(str(path), data)
        assert path.read_bytes() == data
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_a_full_disk_in_a_run_leaves_the_checkpoint_of_the_epoch_before(tmp_path, monkeypatch):
    checkpoint, saves, real = tmp_path / "run.pt", [], Path.open

    def open_(self, mode="r", *args, **kwargs):
        saves.extend(["w"] if "w" in mode else [])
        file = real(self, mode, *args, **kwargs)
        return FailingFile(file) if "w" in mode and len(saves) == 3 else file  # the end of epoch 2

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_)
        with pytest.raises(OSError, match=re.escape(str(checkpoint))):
            train(4, checkpoint=checkpoint)
    assert len(load(checkpoint)["history"]) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    assert same(train(4, checkpoint=checkpoint, resume=True)[0], train(4)[0])


# --- resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"learning_rate": 0.1, "epochs": 3}, ["learning_rate"]),
        ({"learning_rate": 0.01}, ["epochs"]),
        ({"learning_rate": 0.01, "epochs": 3, "dropout": 0.5}, ["dropout"]),
        ({"learning_rate": 0.1, "epochs": 4}, ["epochs", "learning_rate"]),
    ],
)
def test_resume_with_other_settings_is_refused(tmp_path, config, named):
    checkpoint = tmp_path / "run.pt"
    train(1, checkpoint=checkpoint, config={"learning_rate": 0.01, "epochs": 3})
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=re.escape(f"({', '.join(named)})")) as caught:
        train(2, checkpoint=checkpoint, config=config, resume=True)
    assert str(checkpoint) in str(caught.value)
    assert checkpoint.read_bytes() == before


def damage_empty(data):
    return b""


def damage_random(data):
    return np.random.default_rng(0).bytes(len(data))


def damage_half(data):
    return data[: len(data) // 2]


def damage_end(data):
    return data[:-1]


def damage_start(data):
    return b"\0" * 64 + data[64:]


@pytest.mark.parametrize("damage", [damage_empty, damage_random, damage_half, damage_end, damage_start])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    checkpoint = tmp_path / "run.pt"
    train(1, checkpoint=checkpoint)
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(str(checkpoint))) as caught:
        train(2, checkpoint=checkpoint, resume=True)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_holds_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    checkpoint = tmp_path / "run.pt"
    torch.save({"config": {}, "history": [], "best": Evil()}, checkpoint)
    with pytest.raises(ValueError, match=re.escape(str(checkpoint))):
        train(1, checkpoint=checkpoint, resume=True)
    assert not (tmp_path / "owned").exists()


def test_resume_without_a_checkpoint_trains_from_the_start(tmp_path):
    checkpoint = tmp_path / "folder" / "run.pt"
    weights, history = train(checkpoint=checkpoint, resume=True)
    assert same(weights, train()[0])
    assert len(history) == 3
    assert same(load(checkpoint)["model"], weights)


def test_without_resume_an_old_checkpoint_is_replaced(tmp_path):
    checkpoint = tmp_path / "run.pt"
    train(3, checkpoint=checkpoint, seed=1, config={"seed": 1})
    weights, history = train(2, checkpoint=checkpoint, seed=1, config={"seed": 1})
    assert same(weights, train(2, seed=1)[0])
    assert len(history) == len(load(checkpoint)["history"]) == 2


@pytest.mark.parametrize("resume", [False, True])
def test_another_runs_checkpoint_is_replaced_only_if_asked(tmp_path, resume):
    checkpoint = tmp_path / "run.pt"
    train(1, checkpoint=checkpoint, seed=1, config={"seed": 1, "data": "a"})
    before = checkpoint.read_bytes()
    for config, words in (({"seed": 1, "data": "b"}, "other data"), ({"seed": 2, "data": "a"}, "settings (seed)")):
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            train(2, checkpoint=checkpoint, seed=2, config=config, resume=resume)
        assert "--overwrite" in str(caught.value)
        assert checkpoint.read_bytes() == before
    weights, history = train(2, checkpoint=checkpoint, seed=2, config={"seed": 2}, resume=resume, overwrite=True)
    assert same(weights, train(2, seed=2)[0])
    assert len(history) == len(load(checkpoint)["history"]) == 2
    checkpoint.write_bytes(b"no checkpoint")
    train(1, checkpoint=checkpoint, resume=resume, overwrite=True)
    assert len(load(checkpoint)["history"]) == 1


# --- what is kept, averaged, scheduled, clipped ------------------------------------------------------


@pytest.mark.parametrize("scores", [[1.0, 3.0, 2.0, 3.0], [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
@pytest.mark.parametrize("average_decay", [None, 0.9])
def test_keep_best_keeps_the_best_epoch_by_its_metrics(scores, average_decay):
    seen = []

    def evaluate(model):
        seen.append(copy.deepcopy(model.state_dict()))
        return {"score": scores[len(seen) - 1]}

    best, history = train(4, evaluate=evaluate, keep_best=lambda metrics: metrics["score"], average_decay=average_decay)
    assert [epoch["score"] for epoch in history] == scores
    assert [same(best, epoch) for epoch in seen] == [index == scores.index(max(scores)) for index in range(4)]


def test_the_last_epoch_is_kept_unless_asked_otherwise():
    seen = []

    def evaluate(model):
        seen.append(copy.deepcopy(model.state_dict()))
        return {"score": -len(seen)}

    last, _ = train(4, evaluate=evaluate)
    assert [same(last, epoch) for epoch in seen] == [False, False, False, True]


def recording(model, optimizer):
    """A list that receives weights, buffers and the learning rate after each optimiser step."""
    steps = []

    def hook(optimizer, args, kwargs):
        steps.append(({k: v.double() for k, v in model.state_dict().items()}, optimizer.param_groups[0]["lr"]))

    optimizer.register_step_post_hook(hook)
    return steps


def test_average_is_the_exponential_moving_average_of_weights_and_statistics():
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    steps = recording(model, optimizer)
    evaluated = []

    def evaluate(averaged):
        evaluated.append(copy.deepcopy(averaged.state_dict()))
        return {}

    weights, _ = train(3, model=model, optimizer=optimizer, average_decay=0.9, evaluate=evaluate)
    assert len(steps) == 3 * STEPS
    average, expected = steps[0][0], []
    for step, (now, _) in enumerate(steps, 1):
        average = {name: 0.9 * average[name] + 0.1 * now[name] for name in now}
        expected += [average] if step % STEPS == 0 else []
    for got, want in zip([*evaluated, weights], [*expected, expected[-1]], strict=True):
        for name in want:
            if name != "1.num_batches_tracked":  # a whole number: its average is rounded at each step
                torch.testing.assert_close(got[name].double(), want[name], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(weights["0.weight"].double(), steps[-1][0]["0.weight"], atol=1e-3)


def test_scheduler_advances_once_per_step():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    steps = recording(model, optimizer)
    train(2, model=model, optimizer=optimizer, scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9))
    assert [rate for _, rate in steps] == pytest.approx([0.5 * 0.9**step for step in range(2 * STEPS)], rel=1e-12)


def by_length(model, batch):
    """A loss for each of a row's first items, as many as its label and one: a share of the rows has most of them."""
    inputs, labels = batch
    count = labels[:, None] + 1
    return (model(inputs)[:, :3].square() + labels[:, None])[torch.arange(3) < count]


@pytest.mark.parametrize("rows", [8, 3, 1])  # of batches of 8, and a last one of 2; 3 leaves 2
@pytest.mark.parametrize("loss_fn", [cross_entropy, by_length])
def test_a_batch_in_parts_is_one_step_clipped_once(rows, loss_fn):
    """The plain loop over whole batches, in float64."""
    seen = []
    model, expected = (nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double() for _ in range(2))
    expected.load_state_dict(model.state_dict())
    batches = Batches((samples()[0].double(), samples()[1]), BATCH, 0)
    optimizer = torch.optim.Adam(expected.parameters(), lr=0.05)
    norms, losses = [], []
    for batch in batches.epoch(1):
        optimizer.zero_grad()
        losses.append(loss_fn(expected, batch))
        losses[-1].mean().backward()
        norms.append(float(nn.utils.clip_grad_norm_(expected.parameters(), 0.2)))
        optimizer.step()
    assert max(norms) > 0.2  # so that clipping matters
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    history = fit(
        model, batches, torch.optim.Adam(model.parameters(), lr=0.05), loss_fn=loss_fn, evaluate=no_metrics,
        epochs=1, seed=0, clip_norm=0.2, rows=rows, device="cpu",
    )  # fmt: skip
    assert (max(seen), sum(seen)) == (rows, SAMPLES)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected.state_dict()[name], rtol=0, atol=1e-12, msg=name)
    assert history[0]["train_loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)


@pytest.mark.parametrize("clip_norm", [None, 0.05, 100.0])  # 100: larger than any gradient here
def test_clip_norm_limits_the_norm_over_all_parameters(clip_norm):
    torch.manual_seed(1)
    model = nn.Linear(6, 3)
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    inputs, labels = samples()
    # one step of gradient descent by hand: the gradient of the mean cross-entropy is (softmax - one-hot) x / N
    error = (inputs.double() @ weight.T + bias).softmax(1) - F.one_hot(labels, 3)
    weight_grad, bias_grad = error.T @ inputs.double() / SAMPLES, error.mean(0)
    norm = math.sqrt(weight_grad.square().sum() + bias_grad.square().sum())
    assert 0.05 < norm < 100
    scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    weights, _ = train(1, model=model, optimizer=optimizer, batch_size=SAMPLES, clip_norm=clip_norm)
    # PyTorch divides by the norm plus 1e-6, and float32 rounds: relative to a step of 0.025
    torch.testing.assert_close(weights["weight"].double(), weight - 0.5 * scale * weight_grad, rtol=0, atol=1e-6)
    torch.testing.assert_close(weights["bias"].double(), bias - 0.5 * scale * bias_grad, rtol=0, atol=1e-6)


def test_the_step_follows_the_mean_over_the_items_of_a_short_batch():
    def loss_fn(model, batch):
        return model.weight.sum() * torch.ones(len(batch[0]))  # the gradient of the mean is 1, whatever the size

    model = nn.Linear(6, 3, bias=False)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    weights, _ = train(1, model=model, optimizer=optimizer, loss_fn=loss_fn)
    torch.testing.assert_close(weights["weight"], before - STEPS * 0.125, rtol=0, atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="cuda") as caught:
        train(1, device="cuda")
    assert "\n" not in str(caught.value)
    assert "--device" in str(caught.value)


def test_mixed_precision_is_that_of_training_alone():
    model, hidden = make_model(), []

    def loss(model, batch):
        logits = model(batch[0])
        assert logits.dtype == torch.float32
        return F.cross_entropy(logits, batch[1], reduction="none")

    model[0].register_forward_hook(lambda module, inputs, output: hidden.append(output.dtype))
    train(epochs=1, model=model, mixed_precision="bf16", loss_fn=loss)
    assert set(hidden) == {torch.bfloat16}
    hidden.clear()
    model.eval()(samples()[0])
    assert hidden == [torch.float32]


def test_tensorboard_holds_the_history(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    _, history = train(3, model=model, optimizer=optimizer, scheduler=scheduler, tensorboard=tmp_path)
    (events,) = tmp_path.rglob("events.out.tfevents*")
    scalars = accumulator.EventAccumulator(str(events)).Reload()
    for tag in ("train_loss", "val_loss", "seconds"):
        points = scalars.Scalars(tag)
        assert [point.step for point in points] == [1, 2, 3]
        # the event file holds float32
        assert [point.value for point in points] == pytest.approx([epoch[tag] for epoch in history], rel=1e-6)
    steps = [math.ceil(SAMPLES / BATCH) * epoch for epoch in (1, 2, 3)]
    rates = [point.value for point in scalars.Scalars("learning_rate")]
    assert rates == pytest.approx([0.5 / (1 + step) for step in steps], rel=1e-6)


def test_no_event_file_and_no_checkpoint_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(1)
    assert not list(tmp_path.iterdir())


# --- seeds -------------------------------------------------------------------------------------------


def test_configure_seed_seeds_every_generator():
    import random

    def draw(seed):
        utils.configure_seed(seed)
        return random.random(), np.random.rand(), float(torch.rand(()))

    first, other = draw(2**32 + 5), draw(2**32 + 6)  # NumPy alone takes 32 bits
    assert first == draw(2**32 + 5)
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_derived_seeds_differ():
    seeds = {utils.derived_seed(seed, epoch) for seed in range(40) for epoch in range(40)}
    assert len(seeds) == 1600  # two of 1600 draws from 2^32 coincide with probability 3e-4; these do not
    assert all(0 <= seed < 2**32 for seed in seeds)


# --- figures -----------------------------------------------------------------------------------------


def draw(stem, source):
    from matplotlib.figure import Figure

    with utils.plot_style():
        figure = Figure(figsize=(3, 2))
        axes = figure.subplots()
        axes.plot([1, 2, 3], [0.1, 0.3, 0.2], label="validation")
        axes.legend()
        return utils.save_figure(figure, stem, source)


def test_figures_carry_the_hash_of_their_json_and_are_reproducible(tmp_path):
    source = tmp_path / "run.json"
    source.write_text('{"a": 1}\n')
    first = draw(tmp_path / "plots" / "lr-0.1", source)  # a dot in the name is no suffix
    assert first == [tmp_path / "plots" / "lr-0.1.pdf", tmp_path / "plots" / "lr-0.1.png"]
    digest = hashlib.sha256(b'{"a": 1}\n').hexdigest()
    pdf, png = (path.read_bytes() for path in first)
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf  # two figures of the same second would have the same one
    assert f"/Subject (sha256:{digest})".encode() in pdf
    with Image.open(first[1]) as image:
        assert image.info["Subject"] == f"sha256:{digest}"
        assert image.convert("L").getextrema()[0] < 128  # something is drawn
    again = draw(tmp_path / "again", source)
    assert [path.read_bytes() for path in again] == [pdf, png]
    source.write_text('{"a": 2}\n')
    assert digest.encode() not in draw(tmp_path / "other", source)[0].read_bytes()


def test_plot_style_ends_with_its_block():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with utils.plot_style():
        assert matplotlib.rcParams["pdf.fonttype"] == 42  # editable text
        styles = [(style["color"], style["linestyle"]) for style in matplotlib.rcParams["axes.prop_cycle"]]
    assert len({colour for colour, _ in styles}) == len({line for _, line in styles}) == 4
    assert dict(matplotlib.rcParams) == before
