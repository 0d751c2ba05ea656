"""Homework 2's temporal order, trained: why its loss spikes, and what removes the spikes without another model.

python assignments/hw2/spikes.py                                  the course's run, with a close look at its worst spike
python assignments/hw2/spikes.py --optimizer adam --learning_rate 0.005 --schedule falling
python assignments/hw2/spikes.py --study                          several ways to train, six seeds each

Every epoch has sequences of its own. A spike is an epoch whose mean loss is more than twice the least one before it,
once that has been below .1.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import records
import utils
from assignments.hw2 import spike_plots
from assignments.hw2.temporal_order import CLASSES, LEVELS, SEQUENCES, SimpleLSTM, draw_sequences
from command_line import COUNT, NOT_NEGATIVE, POSITIVE, SEED, SEEDS, check_flags, flag, within
from common.grid import Training, results_side_by_side

OPTIMIZERS = {
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "amsgrad": lambda weights, lr: torch.optim.Adam(weights, lr, amsgrad=True),
}
SCHEDULES = ("constant", "linear", "loss", "falling")
STEPS = SEQUENCES // 32  # of an epoch, with batches of any size: a larger one sees more sequences
LEARNT, TWICE = 0.1, 2.0
FOLLOWED = 1.0  # the running mean of the loss below which the step size of the schedule "loss" is proportional to it
FALLING, POWER = 0.5, 1.5  # of the schedule "falling": the mean below which it falls, and as which power of it
MEMORY = 0.95  # share of that mean which a step leaves
VALIDATION_SEED, TEST_SEED, TESTED = 10_000, 20_000, 2000
BEFORE, AFTER = 120, 80  # steps kept around the worst one
FOLLOWING, ONLY_FALLING = {"schedule": "loss"}, {"schedule": "falling"}
ADAM = {"optimizer": "adam", "learning_rate": 5e-3, "batch_size": 128, "clip_norm": 1.0}
CHOSEN, CONFIRMED, OTHER_SEEDS = "Adam, clipped, only falls", "the same, other seeds", 30  # later than those of a study
RECIPES: dict[str, dict] = {
    "as the course trains": {},
    "gradients clipped to 1": {"clip_norm": 1.0},
    "batches of 128": {"batch_size": 128},
    "AMSGrad": {"optimizer": "amsgrad"},
    "Adam, larger steps": {"optimizer": "adam", "learning_rate": 5e-3},
    "steps falling to 0": {"schedule": "linear"},
    "steps follow the loss": FOLLOWING,
    "Adam, clipped, follows": FOLLOWING | ADAM,
    "the same with AMSGrad": FOLLOWING | ADAM | {"optimizer": "amsgrad"},
    "the same, batches of 256": FOLLOWING | ADAM | {"batch_size": 256},
    CHOSEN: ONLY_FALLING | ADAM,
    CONFIRMED: ONLY_FALLING | ADAM,
}


@dataclass(frozen=True)
class Config(Training):
    """The flags; their defaults are the course's run."""

    level: str = flag("moderate", "how long the sequences are", choices=tuple(LEVELS))
    hidden_size: int = flag(12, "units of the LSTM", within(1, 4096))
    optimizer: str = flag("rmsprop", "which optimiser", choices=tuple(OPTIMIZERS))
    learning_rate: float = flag(1e-3, "its step size, the largest of a schedule", POSITIVE)
    schedule: str = flag(
        "constant",
        "of the step size: constant, linear to 0, loss (as the running loss), or falling (linearly, and as its least)",
        choices=SCHEDULES,
    )
    batch_size: int = flag(32, "sequences per step", COUNT)
    clip_norm: float = flag(0.0, "largest norm of a step's gradient; 0: any", NOT_NEGATIVE)
    epochs: int = flag(100, f"epochs of {STEPS} steps", COUNT)
    seed: int = flag(1, "seed of the weights and the sequences", SEED)
    study: bool = flag(False, "train in each of several ways, with every seed of SEEDS")
    seeds: tuple[int, ...] = flag((1, 2, 3, 4, 5, 6), "those of a study", SEEDS)
    out: str = flag("runs", "folder for results, plots and checkpoints")
    resume: bool = flag(False, "go on from the checkpoints of the same command")
    overwrite: bool = flag(False, "replace a run of the same name with other settings")

    QUESTION: ClassVar[str] = "assignments"
    ASIDE: ClassVar[tuple[str, ...]] = ("study", "seeds", "out", "resume", "overwrite")

    __post_init__ = check_flags

    @property
    def run_name(self) -> str:
        if self.study:
            return "hw2-spikes"
        default, changed = Config(), ""
        for name in ("level", "hidden_size", "optimizer", "learning_rate", "schedule", "batch_size", "clip_norm"):
            value = getattr(self, name)
            changed += f"-{name}{value}" if value != getattr(default, name) else ""
        return f"hw2-spikes{changed}-seed{self.seed}"


class FreshBatches:
    """Batches for `utils.fit`, others in each epoch, a function of seed and epoch."""

    def __init__(self, config: Config):
        self.config = config

    def __len__(self) -> int:
        return STEPS

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(utils.derived_seed(self.config.seed, epoch))
        for _ in range(STEPS):
            yield draw_sequences(LEVELS[self.config.level], self.config.batch_size, generator)


class FollowsLoss:
    """A step size in proportion to the running loss, once that is below FOLLOWED: for `LambdaLR`, which saves it."""

    def __init__(self):
        self.running = math.log(len(CLASSES))  # mean of the losses, the later ones with more weight

    def see(self, loss: float) -> None:
        self.running = MEMORY * self.running + (1 - MEMORY) * loss

    def __call__(self, step: int) -> float:
        return min(1, self.running / FOLLOWED)


class FallsWithLoss(FollowsLoss):
    """A step size that never grows: linear to 0 over `steps`, times (least running loss / FALLING)^POWER below 1.

    One that grows with the loss feeds a spike that has begun.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.least, self.steps = self.running, steps

    def see(self, loss: float) -> None:
        super().see(loss)
        self.least = min(self.least, self.running)

    def __call__(self, step: int) -> float:
        return (1 - step / self.steps) * min(1, (self.least / FALLING) ** POWER)


class StepRecorder:
    """What each step of an optimiser is: gradient norm, mean root of the second moments, length of the step.

    The norm is that of the gradient which enters the second moments, thus after clipping.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, follower: FollowsLoss):
        self.weights = list(model.parameters())
        self.steps: dict[str, list[float]] = {"loss": [], "gradient": [], "root": [], "step": []}
        self.follower = follower
        optimizer.register_step_pre_hook(self.before)
        optimizer.register_step_post_hook(self.after)

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Of each sequence, as `utils.fit` asks for."""
        losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        self.steps["loss"].append(losses.mean().item())
        self.follower.see(self.steps["loss"][-1])
        return losses

    def before(self, optimizer: torch.optim.Optimizer, *_) -> None:
        self.old = nn.utils.parameters_to_vector(self.weights).detach().clone()
        self.steps["gradient"].append(nn.utils.get_total_norm([w.grad for w in self.weights]).item())

    def after(self, optimizer: torch.optim.Optimizer, *_) -> None:
        new = nn.utils.parameters_to_vector(self.weights).detach()
        states = [optimizer.state[weight] for weight in self.weights]
        moments = torch.cat([state.get("square_avg", state.get("exp_avg_sq")).flatten() for state in states])
        self.steps["root"].append(moments.sqrt().mean().item())
        self.steps["step"].append((new - self.old).norm().item())

    def around(self, worst: int) -> dict:
        """The steps about one of them, each figure with four digits."""
        start = max(0, worst - BEFORE)
        kept = {name: values[start : worst + AFTER] for name, values in self.steps.items()}
        return {"start": start + 1, "worst": worst + 1} | {
            name: [float(f"{value:.4g}") for value in values] for name, values in kept.items()
        }


# --- what a spike is ---------------------------------------------------------------------------------


def epochs_to_learn(losses: list[float]) -> int | None:
    """The first epoch, from 1, whose mean loss is below .1."""
    return next((epoch for epoch, loss in enumerate(losses, 1) if loss < LEARNT), None)


def spikes(losses: list[float]) -> list[tuple[int, float]]:
    """Epochs, from 1, whose mean loss is more than twice the least before, once that is below .1; and the quotient."""
    found, least = [], losses[0]
    for epoch, loss in enumerate(losses, 1):
        if least < LEARNT and loss > TWICE * least:
            found.append((epoch, loss / least))
        least = min(least, loss)
    return found


# --- a run -------------------------------------------------------------------------------------------


def scheduler_of(
    config: Config, optimizer: torch.optim.Optimizer, follower: FollowsLoss
) -> torch.optim.lr_scheduler.LRScheduler | None:
    if config.schedule in ("loss", "falling"):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, follower)
    if config.schedule == "linear":
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, config.epochs * STEPS)
    return None


@torch.no_grad()
def accuracy(model: nn.Module, level: str, seed: int, count: int) -> float:
    """Of a fixed set of sequences, drawn by a generator of its own."""
    sequences, classes = draw_sequences(LEVELS[level], count, torch.Generator().manual_seed(seed))
    return (model(sequences).argmax(1) == classes).double().mean().item()


def train(config: Config) -> dict:
    """Train one network and test it; the body of its result."""
    utils.configure_seed(config.seed)
    model = SimpleLSTM(config.hidden_size)
    optimizer = OPTIMIZERS[config.optimizer](model.parameters(), lr=config.learning_rate)
    follower = FallsWithLoss(config.epochs * STEPS) if config.schedule == "falling" else FollowsLoss()
    recorder = StepRecorder(model, optimizer, follower)
    history = utils.fit(
        model, FreshBatches(config), optimizer, loss_fn=recorder.losses, epochs=config.epochs, seed=config.seed,
        evaluate=lambda model: {"val_accuracy": accuracy(model, config.level, VALIDATION_SEED, 500)},
        scheduler=scheduler_of(config, optimizer, follower), clip_norm=config.clip_norm or None, device="cpu",
        checkpoint=config.file(".ckpt"), config=config.settings(), resume=config.resume, overwrite=config.overwrite,
    )  # fmt: skip
    losses = [record["train_loss"] for record in history]
    body = {
        "history": history,
        "epochs_to_learn": epochs_to_learn(losses),
        "spikes": spikes(losses),
        "metrics": {"test": {"accuracy": records.mean_std([accuracy(model, config.level, TEST_SEED, TESTED)])}},
    }
    if len(recorder.steps["loss"]) == config.epochs * STEPS:  # not resumed, so all steps were seen
        body["steps"] = recorder.around(worst_step(losses, recorder.steps["loss"]))
    return body


def worst_step(losses: list[float], steps: list[float]) -> int:
    """The step, from 0, with the greatest loss in the epoch of the worst spike; without one, in the last epoch."""
    epoch = max(spikes(losses), key=lambda spike: spike[1], default=(len(losses), 1))[0]
    return max(range((epoch - 1) * STEPS, epoch * STEPS), key=lambda step: steps[step])


def head(config: Config) -> dict:
    return {
        "question": "assignments",
        "run": config.run_name,
        "config": config.settings(),
        "seeds": list(config.seeds) if config.study else [config.seed],
        "data": {"name": "temporal order", "source": "synthetic"},
    }


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start = time.perf_counter()
    with records.claim(config.out, head(config), config.overwrite):
        body = study(config) if config.study else train(config)
    return head(config) | {"seconds": time.perf_counter() - start} | body


def study(config: Config) -> dict:
    """Every recipe with every seed, side by side; the steps kept are those of the course at its worst spike.

    The recipe that was chosen with these seeds in view is tried with as many others.
    """
    runs = {
        name: [replace(config, study=False, seed=seed + later, **changes) for seed in config.seeds]
        for name, changes in RECIPES.items()
        for later in [OTHER_SEEDS if name == CONFIRMED else 0]
    }
    keys = ("history:list", "spikes:list", "metrics.test.accuracy.mean:number")
    found = iter(results_side_by_side([single for group in runs.values() for single in group], head, keys))
    rows, steps, seconds = {}, None, 0.0  # of all trainings, also where they were resumed
    for name, group in runs.items():
        results = [next(found) for _ in group]
        steps = steps or max(results, key=worst_quotient).get("steps")
        seconds += sum(record["seconds"] for result in results for record in result["history"])
        rows[name] = {
            "settings": RECIPES[name],
            "trials": [trial(result) for result in results],
            "metrics": {"test": {"accuracy": records.mean_std([tested(result) for result in results])}},
        }
    return {"recipes": rows, "seconds": seconds} | ({"steps": steps} if steps else {})


def worst_quotient(result: dict) -> float:
    return max((quotient for _, quotient in result["spikes"]), default=0)


def tested(result: dict) -> float:
    return result["metrics"]["test"]["accuracy"]["mean"]


def trial(result: dict) -> dict:
    """What a study keeps of one training."""
    kept = {name: result[name] for name in ("epochs_to_learn", "spikes")}
    losses = [float(f"{record['train_loss']:.4g}") for record in result["history"]]
    return {"seed": result["seeds"][0]} | kept | {"losses": losses, "test_accuracy": tested(result)}


# --- what was found ----------------------------------------------------------------------------------

ENOUGH = 0.99  # of the test sequences


def succeeds(trial: dict) -> bool:
    """Whether it learnt, without a spike, and well."""
    return trial["epochs_to_learn"] is not None and not trial["spikes"] and trial["test_accuracy"] >= ENOUGH


def finding(result: dict) -> str:
    """Which ways to train have no spike with any seed, in a sentence."""
    count = len(result["seeds"])
    reached = {name: sum(map(succeeds, row["trials"])) for name, row in result["recipes"].items()}
    others = reached.pop(CONFIRMED, None)
    good = [name for name, number in reached.items() if number == count]
    course = next(iter(result["recipes"].values()))["trials"]
    spiky, slow = sum(bool(trial["spikes"]) for trial in course), sum(not trial["epochs_to_learn"] for trial in course)
    first = f"As the course trains, {spiky} of {count} networks have a spike"
    first += f", and {slow} have not learnt at the end." if slow else "."
    if good:
        found = f"Without any, and at least {100 * ENOUGH:.0f} % right: {quoted(good)}."
    else:
        most = max(reached.values())
        best = quoted(name for name, number in reached.items() if number == most)
        found = f"No way to train makes all {count} learn without one, to at least {100 * ENOUGH:.0f} %;"
        found += f" the most are {most}: {best}."
    if others is not None:
        found += f" {quoted([CHOSEN])} does so with {reached[CHOSEN]}, and with {others} of {count} other seeds."
    return f"{first} {found}"


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f"“{name}”" for name in names)


def print_result(result: dict) -> None:
    if "recipes" not in result:
        learnt, found = result["epochs_to_learn"], result["spikes"]
        print(f"\nloss below {LEARNT} after {learnt} epochs; {len(found)} spikes; {100 * tested(result):.2f} % right")
        for epoch, quotient in found:
            print(f"  epoch {epoch}: {quotient:.1f} times the least mean loss before")
        return
    print(f"\n{'':26} {'learnt in epochs':>17} {'without a spike':>16} {'right (%)':>14}")
    for name, row in result["recipes"].items():
        trials = row["trials"]
        learnt = [trial["epochs_to_learn"] for trial in trials if trial["epochs_to_learn"]]
        epochs = f"{min(learnt)} to {max(learnt)}" if learnt else "never"
        smooth = f"{sum(not trial['spikes'] for trial in trials)} of {len(trials)}"
        right = records.spread(row["metrics"]["test"]["accuracy"], 100, 2)
        print(f"{name:26} {epochs:>17} {smooth:>16} {right:>14}")
    print(finding(result))


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    torch.set_num_threads(1)
    result = run(config)
    path = records.save_results(config.out, result)
    print_result(result)
    print(path, *spike_plots.draw([path], Path(config.out) / "plots"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
