"""What every script of the course shares: seeds, image data, the training loop, plots.

Read `fit` first: it is the only training loop of this repository.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import random
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from command_line import CommandFailed, launch
from common import processes
from image_data import ImageData, load_images
from records import ANOTHER_RUN, in_words, write_file

__all__ = ["ImageData", "load_images"]

# --- seeds -------------------------------------------------------------------------------------------


def configure_seed(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (every device) and make cuDNN deterministic."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def derived_seed(*parts: int) -> int:
    """A 32-bit seed that depends on every one of `parts`, e.g. (seed, epoch)."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class Batches:
    """Shuffled mini-batches of tensors that share their first dimension.

    The order of epoch e is a function of `seed` and e alone, so that a resumed run sees what the
    uninterrupted one saw. A batch is gathered in one indexing operation, not sample by sample.
    """

    def __init__(self, tensors: tuple[Tensor, ...], batch_size: int, seed: int):
        self.tensors, self.batch_size, self.seed = tensors, batch_size, seed

    def __len__(self) -> int:
        return math.ceil(len(self.tensors[0]) / self.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch))
        for indices in torch.randperm(len(self.tensors[0]), generator=generator).split(self.batch_size):
            yield tuple(tensor[indices] for tensor in self.tensors)


# --- the one training loop ---------------------------------------------------------------------------

DIVERGENCE_CHECK_STEPS = 50  # reading the loss makes a GPU wait, so it is not read at each step


class Diverged(CommandFailed):
    """The loss or a weight is no longer finite; `history` holds the epochs before that."""

    exit_code = 3

    def __init__(self, epoch: int, history: list[dict]):
        super().__init__(
            f"training diverged in epoch {epoch}: the loss or a weight is not finite; lower the learning rate"
        )
        self.epoch, self.history = epoch, history


def is_finite(model: nn.Module) -> bool:
    """Whether each of its weights is."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def is_main_process() -> bool:
    """Whether this is the one process of a launch that prints and writes files."""
    return launch()[0] == 0


def fit(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    *,
    loss_fn: Callable[[nn.Module, tuple[Tensor, ...]], Tensor],
    evaluate: Callable[[nn.Module], dict[str, float]],
    epochs: int,
    seed: int,
    augment: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    rows: int | None = None,
    clip_norm: float | None = None,
    average_decay: float | None = None,
    keep_best: Callable[[dict[str, float]], float] | None = None,
    checkpoint: Path | None = None,
    config: dict | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    mixed_precision: str = "no",
    tensorboard: Path | None = None,
) -> list[dict]:
    """Train `model` in place and return the history: per epoch its mean loss, seconds of training, metrics.

    `loss_fn` gives one loss per item that counts (an image, a token), unreduced: a step follows their mean
    over the global batch, however many processes share it. Random changes of the batch belong into `augment`, which
    sees all of it, on the model's device. `evaluate` gets the model in evaluation mode.
    With `rows`, at most so many rows of a batch are computed at once, for less memory: the step is that of the whole
    batch (but batch normalisation then sees no more than those rows), and gradients are clipped when all are there.
    `scheduler` advances once per step. With `average_decay`, an exponential moving average of the weights is
    what is evaluated and kept. The last epoch is kept, or the one with the highest `keep_best(metrics)`.

    Into the folder `tensorboard` go the history and the step size after each epoch.
    Each epoch ends with `checkpoint` written in one piece. `resume` goes on from it, bit for bit. One made with another
    `config` is refused, with `resume` or without, unless `overwrite`. Raises Diverged, with the checkpoint left at the
    last good epoch.
    """
    accelerator = processes.connect(device, mixed_precision, tensorboard)
    processes.check_same_settings((config or {}) | {"number of batches": len(batches)})
    accelerator.init_trackers("")
    # Optimiser and backward pass stay PyTorch's own: Accelerate's wrappers scale float16 losses, and take time.
    wrapped = accelerator.prepare(model)
    run = _Run(model, optimizer, scheduler, average_decay, config or {})
    saved = checkpoint if checkpoint and accelerator.is_main_process and checkpoint.exists() else None
    saved = processes.from_main_process(saved and saved.read_bytes())  # other machines need not have the file
    resumed = saved is not None and run.load(checkpoint, saved, resume, overwrite)
    if checkpoint and accelerator.is_main_process and not resumed:
        run.save(checkpoint)  # so that a run stopped in its first epoch is resumable too

    for epoch in range(len(run.history) + 1, epochs + 1):
        start = time.perf_counter()
        # a seed of its own for each epoch, so that a checkpoint needs no generator's state; the same in all processes
        configure_seed(derived_seed(seed, epoch, 0))
        train_loss = _train_epoch(accelerator, wrapped, run, batches, augment, loss_fn, rows, clip_norm, epoch, epochs)
        seconds = time.perf_counter() - start
        metrics = {name: float(value) for name, value in run.evaluate(evaluate).items()}
        if not all(math.isfinite(value) for name, value in metrics.items() if name.endswith("loss")):
            raise Diverged(epoch, run.history)  # a single step can make weights that are finite, and of no use
        run.history.append({"epoch": epoch, "train_loss": train_loss, **metrics, "seconds": seconds})
        if keep_best:
            run.remember_if_best(float(keep_best(metrics)))
        if checkpoint and accelerator.is_main_process:
            run.save(checkpoint)
        accelerator.log(run.history[-1] | {"learning_rate": optimizer.param_groups[0]["lr"]}, step=epoch)
        if accelerator.is_main_process:
            values = {name.replace("_", " "): value for name, value in run.history[-1].items() if name != "epoch"}
            record = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            tqdm.write(f"epoch {epoch}/{epochs}: {record}")
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # or `model` would compute in mixed precision for ever
    model.load_state_dict(run.kept_weights())
    return run.history


def _train_epoch(accelerator, model, run, batches, augment, loss_fn, rows, clip_norm, epoch, epochs) -> float:
    """One pass over the batches; returns the mean loss over its items."""
    world = accelerator.num_processes
    whole = processes.GlobalBatch(accelerator.process_index, world)
    loss_sum, items, train_loss = torch.zeros((), device=accelerator.device), 0, math.nan
    model.train()
    quiet = None if accelerator.is_main_process else True
    progress = tqdm(batches.epoch(epoch), f"epoch {epoch}/{epochs}", len(batches), leave=False, disable=quiet)
    for step, batch in enumerate(progress, 1):
        if accelerator.device.type != "cpu":
            batch = send_to_device(batch, accelerator.device)
        if augment:
            batch = augment(batch)
        run.optimizer.zero_grad()
        batch_sum, batch_items, parts = 0.0, 0, in_parts(batch, rows)
        for part in parts:
            part = whole.share(part)
            with whole if whole.shared else contextlib.nullcontext():
                losses = loss_fn(model, part)  # (items,)
            count = losses.numel()
            if whole.shared:
                count = int(accelerator.reduce(torch.tensor(count, device=accelerator.device)))
            total = losses.sum() * (world if whole.shared else 1)  # the processes' gradients are averaged, not summed
            (total / count if len(parts) == 1 else total).backward()
            batch_sum, batch_items = batch_sum + total.detach(), batch_items + count
        if len(parts) > 1:  # only now is the number of items known
            for gradient in (weight.grad for weight in model.parameters() if weight.grad is not None):
                gradient /= batch_items
        if clip_norm:
            accelerator.clip_grad_norm_(model.parameters(), clip_norm)
        run.advance()
        loss_sum, items = loss_sum + batch_sum, items + batch_items
        if step % DIVERGENCE_CHECK_STEPS == 0 or step == len(batches):
            train_loss = float(accelerator.reduce(loss_sum, "mean")) / items
            if not math.isfinite(train_loss):
                raise Diverged(epoch, run.history)
            progress.set_postfix(loss=f"{train_loss:.4f}")
    if not is_finite(run.model):
        raise Diverged(epoch, run.history)  # the last step can break the weights after a finite loss
    return train_loss


def in_parts(batch: tuple[Tensor, ...], rows: int | None) -> list[tuple[Tensor, ...]]:
    """A batch in parts of at most so many rows; in one without a number."""
    if rows is None:
        return [batch]
    return list(zip(*(tensor.split(rows) for tensor in batch), strict=True))


class _Run:
    """Everything that changes during training, and its checkpoint."""

    def __init__(self, model, optimizer, scheduler, average_decay, config):
        self.model, self.optimizer, self.scheduler, self.config = model, optimizer, scheduler, config
        self.history, self.best, self.average = [], None, None
        if average_decay:
            # buffers too: batch normalisation's statistics must belong to the averaged weights
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average_decay), use_buffers=True)

    @property
    def evaluated_model(self) -> nn.Module:
        return self.average.module if self.average else self.model

    def advance(self) -> None:
        self.optimizer.step()
        if self.scheduler:
            self.scheduler.step()
        if self.average:
            self.average.update_parameters(self.model)

    @torch.no_grad()
    def evaluate(self, evaluate) -> dict[str, float]:
        return evaluate(self.evaluated_model.eval())

    def remember_if_best(self, score: float) -> None:
        if self.best is None or score > self.best["score"] or math.isnan(self.best["score"]):
            weights = {name: tensor.clone() for name, tensor in self.evaluated_model.state_dict().items()}
            self.best = {"score": score, "weights": weights}

    def kept_weights(self) -> dict[str, Tensor]:
        return self.best["weights"] if self.best else self.evaluated_model.state_dict()

    def _parts(self) -> dict:
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "average": self.average}
        return {name: part for name, part in parts.items() if part is not None}

    def save(self, path: Path) -> None:
        state = {"config": self.config, "history": self.history, "best": self.best}
        buffer = io.BytesIO()  # torch.save reports a full disk as a RuntimeError: let the file be written plainly
        torch.save(state | {name: part.state_dict() for name, part in self._parts().items()}, buffer)
        write_file(path, buffer.getvalue())

    def load(self, path: Path, data: bytes, resume: bool, overwrite: bool) -> bool:
        """Go on from `data`, what the file `path` holds, if that is to be resumed; returns whether."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if damaged := archive.testzip():  # torch.load does not look at the checksums
                    raise ValueError(f"{damaged} is damaged")
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            keys = state["config"].keys() | self.config
            changed = sorted(key for key in keys if state["config"].get(key) != self.config.get(key))
            if resume and not changed:
                self.history, self.best = state["history"], state["best"]
                for name, part in self._parts().items():
                    part.load_state_dict(state[name])
        except Exception as error:  # what is no checkpoint of this run makes torch raise nearly anything
            if overwrite or not resume:
                return False
            raise ValueError(f"{path} is no readable checkpoint: delete it and run again without --resume") from error
        if changed and not overwrite:
            raise ValueError(f"{path} was made with {in_words(changed)}: {ANOTHER_RUN}")
        return resume and not changed


# --- plots -------------------------------------------------------------------------------------------

# Okabe and Ito's palette: distinct for colour-blind readers; the line styles keep it so in black and white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINE_STYLES = ("-", "--", "-.", ":")


@contextlib.contextmanager
def plot_style() -> Iterator[None]:
    """The one style of every plot of this repository, within a `with` block."""
    import matplotlib

    cycle = matplotlib.cycler(color=COLOURS[:4]) + matplotlib.cycler(linestyle=LINE_STYLES)
    style = {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.prop_cycle": cycle,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "pdf.fonttype": 42,
        "savefig.dpi": 150,
    }
    with matplotlib.rc_context(style):
        yield


def epoch_axis(axes, **labels) -> None:
    """Whole numbers of epochs on the horizontal axis, and what `axes.set` takes besides."""
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", **labels)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_curves(axes, histories: list[list[dict]], key: str, scale: float = 1.0, **line) -> None:
    """`key` of the histories of several runs, epoch by epoch: the mean, with a band of one standard deviation."""
    values = scale * np.array([[record[key] for record in history] for history in histories])  # (runs, epochs)
    epochs, mean = np.array([record["epoch"] for record in histories[0]]), values.mean(0)
    (drawn,) = axes.plot(epochs, mean, **{"marker": "." if len(epochs) < 3 else None} | line)
    if len(values) > 1:
        deviation = values.std(0, ddof=1)
        axes.fill_between(epochs, mean - deviation, mean + deviation, color=drawn.get_color(), alpha=0.2, lw=0)


def save_figure(figure, stem: str | Path, *sources: Path, formats: tuple[str, ...] = ("pdf", "png")) -> list[Path]:
    """Write a figure as `stem`.pdf and .png, or one of them; its Subject is the SHA-256 of each JSON file behind it."""
    digests = [hashlib.sha256(Path(source).read_bytes()).hexdigest() for source in sources]
    metadata = {"Subject": " ".join(f"sha256:{digest}" for digest in digests)}
    paths = [Path(f"{stem}.{extension}") for extension in formats]
    for path in paths:
        buffer = io.BytesIO()
        extra = {"CreationDate": None} if path.suffix == ".pdf" else {}  # the same JSON gives the same file
        figure.savefig(buffer, format=path.suffix[1:], metadata=metadata | extra)
        write_file(path, buffer.getvalue())
    return paths
