"""Homework 2's echoes, trained: one of a fixed delay, or one that is told the delay.

python assignments/hw2/memory.py                     a delay of 4
python assignments/hw2/memory.py --max_delay 8       any delay from 0 to 8, each tested by itself
python assignments/hw2/memory.py --max_delay 8 --room 12   the same, but it could be told delays to 12, and never was

Every epoch has sequences of its own, so nothing can be learnt by heart. Letters: B batch, T time, H hidden units.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

import records
import utils
from assignments.hw2 import echo
from command_line import COUNT, DEVICES, POSITIVE, SEED, SEEDS, check_flags, flag, within
from common.classification import get_number_trainable_params
from common.grid import Training, results_side_by_side

LONGER = ((15, 25), (25, 50), (50, 100), (100, 200))  # lengths of tested strings, in letters
SHOWN = "thequickbrownfoxjumps"  # whose gates are drawn
VALIDATION_SEED, TEST_SEED = 10_000, 20_000  # of the strings
CLIP_NORM = 1.0
DATA = {"name": "random letters", "source": "synthetic"}


@dataclass(frozen=True)
class Config(Training):
    """The flags."""

    delay: int = flag(4, "letters between hearing and saying, for a network of one delay", within(0, 100))
    max_delay: int | None = flag(None, "train one that is told the delay, with all from 0 to MAX_DELAY", within(0, 100))
    room: int | None = flag(None, "delays that it could be told", within(0, 100), shown="MAX_DELAY")
    hidden_size: int = flag(192, "units of the GRU", within(1, 4096))
    seq_length: int = flag(30, "letters of a training sequence", within(1, 1000))
    epochs: int = flag(10, "epochs", COUNT)
    steps: int = flag(200, "steps of an epoch", COUNT)
    batch_size: int = flag(64, "sequences per step", COUNT)
    learning_rate: float = flag(4e-3, "largest step size of Adam, which falls to 0", POSITIVE)
    seed: int = flag(0, "seed of the weights and the sequences", SEED)
    seeds: tuple[int, ...] = flag((), "train once per seed, side by side", SEEDS, shown="only SEED")
    device: str = flag("auto", "auto, cpu, cuda or mps", choices=DEVICES)
    out: str = flag("runs", "folder for results, plots and checkpoints")
    resume: bool = flag(False, "go on from the checkpoints of the same command")
    overwrite: bool = flag(False, "replace a run of the same name with other settings")

    QUESTION: ClassVar[str] = "assignments"
    ASIDE: ClassVar[tuple[str, ...]] = ("seeds", "device", "out", "resume", "overwrite")

    def __post_init__(self):
        check_flags(self)
        if self.room is not None and self.room < (self.max_delay or 0):
            raise ValueError(f"--room is {self.room}, less than --max_delay {self.max_delay}")

    @property
    def delays(self) -> range:
        """What it is trained to do, and tested for."""
        return range(self.delay, self.delay + 1) if self.max_delay is None else range(self.max_delay + 1)

    @property
    def run_name(self) -> str:
        kind = f"delay{self.delay}" if self.max_delay is None else f"to{self.max_delay}"
        kind += f"-room{self.room}" if self.room not in (None, self.max_delay) else ""
        return f"hw2-echo-{kind}" + ("" if self.seeds else f"-seed{self.seed}")


class FreshBatches:
    """Batches for `utils.fit`: (sequences, delays, answers), others in each epoch, a function of seed and epoch."""

    def __init__(self, config: Config):
        self.config = config

    def __len__(self) -> int:
        return self.config.steps

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        config = self.config
        generator = torch.Generator().manual_seed(utils.derived_seed(config.seed, epoch))
        for _ in range(config.steps):
            symbols = torch.randint(1, echo.SYMBOLS, (config.batch_size, config.seq_length), generator=generator)
            drawn = torch.randint(len(config.delays), (config.batch_size,), generator=generator)
            delays = drawn + config.delays.start
            yield echo.idx_to_onehot(symbols), delays, said_after(symbols, delays)


def said_after(symbols: Tensor, delays: Tensor) -> Tensor:
    """What is to be said of sequences (B, T), each after its own delay (B): (B, T)."""
    at = torch.arange(symbols.shape[1]) - delays[:, None]  # (B, T): which symbol's turn it is
    return torch.where(at >= 0, symbols.gather(1, at.clamp(min=0)), 0)


def build(config: Config) -> nn.Module:
    if config.max_delay is None:
        return echo.GRUMemory(config.hidden_size)
    return echo.VariableDelayGRUMemory(config.hidden_size, config.max_delay if config.room is None else config.room)


def logits_of(model: nn.Module, sequences: Tensor, delays: Tensor) -> Tensor:
    """(B, T, 27), of either network."""
    return model(sequences, delays) if isinstance(model, echo.VariableDelayGRUMemory) else model(sequences)


def losses(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    sequences, delays, said = batch
    return F.cross_entropy(logits_of(model, sequences, delays).flatten(0, 1), said.flatten(), reduction="none")  # (B T)


@torch.no_grad()
def accuracy(
    model: nn.Module, delay: int, seed: int, lengths: tuple[int, int] = echo.TESTED_LENGTHS, count: int = echo.TESTED
) -> float:
    """What `echo.test_model` measures, for either network."""
    if isinstance(model, echo.VariableDelayGRUMemory):
        return echo.test_model(lambda s: model.test_run(s, delay), delay, seed, lengths, count)
    return echo.test_model(model.test_run, delay, seed, lengths, count)


@torch.no_grad()
def gates(gru: nn.GRU, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reset gates, update gates and states, each (T, H), of a GRU that reads one sequence (T, inputs).

    A state is the last one times the update gate, plus a candidate times what is missing to 1 (Cho et al. 2014).
    """
    from_inputs = inputs @ gru.weight_ih_l0.T + gru.bias_ih_l0  # (T, 3 H)
    state, found = inputs.new_zeros(gru.hidden_size), []
    for of_input in from_inputs:
        of_state = gru.weight_hh_l0 @ state + gru.bias_hh_l0  # (3 H)
        (reset_x, update_x, new_x), (reset_h, update_h, new_h) = of_input.chunk(3), of_state.chunk(3)
        reset, update = (reset_x + reset_h).sigmoid(), (update_x + update_h).sigmoid()
        state = update * state + (1 - update) * (new_x + reset * new_h).tanh()
        found.append(torch.stack([reset, update, state]))
    return tuple(torch.stack(found, 1))


def remembered(model: nn.Module, config: Config) -> dict:
    """The gates while a sentence is read, each unit's update gate, the mean of which sorts the units."""
    inputs = echo.letters_to_onehot(SHOWN)[0]  # (T, 27)
    if isinstance(model, echo.VariableDelayGRUMemory):
        inputs = model.pairs(inputs[None], torch.tensor(config.delays[-1:]))[0]
    reset, update, _ = gates(model.gru, inputs)
    order = update.mean(0).argsort()
    return {"text": SHOWN, "update": rounded(update[:, order].T), "reset": rounded(reset[:, order].T)}


def rounded(values: Tensor) -> list:
    return [[round(value, 2) for value in row] for row in values.tolist()]


# --- a run -------------------------------------------------------------------------------------------


def train(config: Config) -> dict:
    """Train one network and test it; the body of its result."""
    utils.configure_seed(config.seed)
    model, middle = build(config), config.delays[-1]
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    steps = config.epochs * config.steps
    history = utils.fit(
        model, FreshBatches(config), optimizer, loss_fn=losses, epochs=config.epochs, seed=config.seed,
        evaluate=lambda model: {"val_accuracy": accuracy(model, middle, VALIDATION_SEED, count=50)},
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, steps), clip_norm=CLIP_NORM,
        checkpoint=config.file(".ckpt"), config=config.settings(), resume=config.resume, overwrite=config.overwrite,
        device=config.device,
    )  # fmt: skip
    model = model.cpu().eval()
    told = range(config.room + 1) if config.room is not None else config.delays
    by_delay = {str(delay): accuracy(model, delay, TEST_SEED) for delay in told}
    trained = [by_delay[str(delay)] for delay in config.delays]
    return {
        "parameters": get_number_trainable_params(model),
        "history": history,
        "training_seconds": sum(record["seconds"] for record in history),
        "by_delay": by_delay,
        "by_length": {f"{low} to {high}": accuracy(model, middle, TEST_SEED, (low, high), 100) for low, high in LONGER},
        "gates": remembered(model, config),
        "metrics": {"test": {"accuracy": records.mean_std([min(trained)])}},  # at the delay that is the hardest
    }


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start = time.perf_counter()
    with records.claim(config.out, config.head(DATA), config.overwrite):
        if not config.seeds:
            body = train(config)
        else:
            singles = [replace(config, seeds=(), seed=seed) for seed in config.seeds]
            trials = results_side_by_side(
                singles, lambda single: single.head(DATA), ("history:list", "by_delay:dict", "by_length:dict")
            )
            body = summary(trials)
    return config.head(DATA) | body | {"seconds": time.perf_counter() - start}


def summary(results: list[dict]) -> dict:
    """The body of a result of several seeds."""
    kept = ("history", "training_seconds", "by_delay", "by_length")
    worst = [result["metrics"]["test"]["accuracy"]["mean"] for result in results]
    return {
        "parameters": results[0]["parameters"],
        "trials": [{"seed": result["seeds"][0]} | {key: result[key] for key in kept} for result in results],
        "gates": results[0]["gates"],
        "metrics": {"test": {"accuracy": records.mean_std(worst)}},
    }


# --- what was found ----------------------------------------------------------------------------------

KEYS = ("gates.update.*.*:number", "metrics.test.accuracy.mean:number")


def trials_of(result: dict) -> list[dict]:
    return result.get("trials", [result])


@utils.plot_style()
def plot_learning(result: dict) -> Figure:
    """Loss of each epoch, and accuracy by the length of the strings."""
    figure = Figure(figsize=(6.2, 2.5))
    loss, lengths = figure.subplots(1, 2)
    trials = trials_of(result)
    utils.draw_curves(loss, [trial["history"] for trial in trials], "train_loss")
    utils.epoch_axis(loss, ylabel="training loss", yscale="log")
    names = list(trials[0]["by_length"])
    scores = [records.mean_std([100 * trial["by_length"][name] for trial in trials]) for name in names]
    lengths.errorbar(
        names, [s["mean"] for s in scores], yerr=[s["std"] or 0 for s in scores], fmt="o-", ms=4, capsize=2
    )
    lowest = min(s["mean"] - (s["std"] or 0) for s in scores)
    lengths.set(xlabel="letters of a string", ylabel="letters said right (%)", ylim=(min(95, lowest - 2), 100.5))
    lengths.tick_params(axis="x", labelsize=7)
    figure.suptitle(f"Echoes of {in_words(result)}: random letters (synthetic)", fontsize=9)
    return figure


@utils.plot_style()
def plot_gates(result: dict) -> Figure:
    """The update gate of every unit at each letter: near 1 it keeps what it has, near 0 it takes something new."""
    figure = Figure(figsize=(5.6, 3.0))
    axes = figure.subplots()
    image = axes.imshow(result["gates"]["update"], cmap="viridis", vmin=0, vmax=1, aspect="auto")
    text = result["gates"]["text"]
    axes.set_xticks(range(len(text)), list(text))
    axes.set(xlabel="letter that is read", ylabel="unit, by its mean")
    axes.grid(False)
    figure.colorbar(image, label="update gate")
    figure.suptitle(f"Echoes of {in_words(result)}, learnt from random letters (synthetic)", fontsize=9)
    return figure


def in_words(result: dict) -> str:
    longest, config = result["config"]["max_delay"], result["config"]
    return f"a delay of {config['delay']}" if longest is None else f"delays from 0 to {longest}"


def draw(paths, out: str | Path) -> list[Path]:
    """Draw the plots of each result, as OUT/assignments/<run>-<plot>.pdf and .png."""
    drawn = []
    for path in paths:
        result = records.load_result(path, *KEYS)
        for name, plot in (("learning", plot_learning), ("gates", plot_gates)):
            drawn += utils.save_figure(plot(result), Path(out) / "assignments" / f"{result['run']}-{name}", path)
    return drawn


def print_result(result: dict) -> None:
    trials = trials_of(result)
    print(f"\nechoes of {in_words(result)}, {result['parameters']:,} parameters, letters said right in %")
    for name in trials[0]["by_delay"]:
        print(f"  delay {name:>3}: {records.spread(records.mean_std([t['by_delay'][name] for t in trials]), 100, 2)}")
    for name in trials[0]["by_length"]:
        score = records.mean_std([trial["by_length"][name] for trial in trials])
        print(f"  {name} letters, the longest delay: {records.spread(score, 100, 2)}")
    print(f"trained for {max(trial['training_seconds'] for trial in trials):.0f} s at most")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    torch.set_num_threads(1)
    result = run(config)
    path = records.save_results(config.out, result)
    print_result(result)
    print(path, *draw([path], Path(config.out) / "plots"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
