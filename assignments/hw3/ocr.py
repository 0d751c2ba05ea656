"""Homework 3: a small network that reads words, whose letters nobody has put in their places.

python assignments/hw3/ocr.py                     the course's way to train: cross-entropy along the best path
python assignments/hw3/ocr.py --method margin     or push the most offending wrong word up
python assignments/hw3/ocr.py --study             four ways to train, three seeds each

The network gives each window of an image an energy for each of 27 codes. All images are drawn, thus synthetic.
Letters: B images, W their width, L windows, T codes of a word.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import jiwer
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import records
import utils
from assignments.hw3 import ocr_plots
from assignments.hw3.paths import (
    best_paths,
    best_wrong_energies,
    build_ce_matrix,
    build_path_matrix,
    find_path,
    free_energies,
    nearest_words,
    path_cross_entropy,
    path_energy,
    path_table,
    read_words,
)
from assignments.hw3.words import (
    ALPHABET_SIZE,
    BETWEEN,
    FONTS,
    LETTER_WIDTH,
    DoubleLetters,
    RealWords,
    SimpleWordsDataset,
    collapse,
    collate_fn,
    indices_to_str,
    most_frequent_words,
    transform_word,
)
from command_line import COUNT, POSITIVE, SEED, SEEDS, check_flags, flag, within
from common.classification import get_number_trainable_params
from common.grid import Training, results_side_by_side

__all__ = [
    "ALPHABET_SIZE", "BETWEEN", "SimpleNet", "SimpleWordsDataset", "build_ce_matrix", "build_path_matrix", "collate_fn",
    "find_path", "indices_to_str", "path_cross_entropy", "path_energy", "train_ebm_model", "transform_word",
]  # fmt: skip  # the names that the course fixes

METHODS = ("viterbi", "margin", "nll", "ctc")
MARGIN = 1.0
LETTERS, LETTER_EPOCHS, LETTER_RATE = 1000, 10, 2e-3  # of the training on single letters, which comes first
LENGTHS = range(1, 13)
OTHER_FONT = str(FONTS / "DejaVuSansMono-Bold.ttf")
VALIDATED = 200  # words
VALIDATION_SEED, TEST_SEED = 10_000, 20_000  # of their images
DATA = {"name": "rendered words", "source": "synthetic"}


class SimpleNet(nn.Module):
    """Energies (B, L, 27) of the windows of images (B, 1, 32, W): 18 pixels wide, each 4 pixels after the last.

    Nothing is padded, so that a window's energies depend on its own pixels alone: L = (W - 18) // 4 + 1.
    """

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2),  # (B, 16, 15, W / 2 - 1)
            nn.Conv2d(16, 32, (4, 3)), nn.ReLU(), nn.MaxPool2d(2),  # (B, 32, 6, W / 4 - 2)
            nn.Conv2d(32, 128, (6, 3)), nn.ReLU(),  # (B, 128, 1, L)
            nn.Conv2d(128, ALPHABET_SIZE, 1),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)[:, :, 0].mT  # (B, L, 27)


# --- what is made small: of energies (B, L, 27) and codes (B, T), a loss for each image (B) -----------


def letter_loss(energies: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy on the negated energies of the only window (eq:hw3-letters); the first code is the letter."""
    return F.cross_entropy(-energies[:, 0], targets[:, 0], reduction="none")


def viterbi_loss(energies: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy along the best path of the right word, which the energies choose (eq:hw3-viterbi)."""
    path = best_paths(path_table(build_path_matrix(energies.detach(), targets)))  # (B, L)
    return build_ce_matrix(energies, targets).gather(2, path[..., None]).sum((1, 2))


def margin_loss(energies: Tensor, targets: Tensor) -> Tensor:
    """How far the best wrong word of that length comes to the right one, within a margin (eq:hw3-hinge)."""
    right = free_energies(build_path_matrix(energies, targets))
    return (MARGIN + right - best_wrong_energies(energies, targets)).relu()


def nll_loss(energies: Tensor, targets: Tensor) -> Tensor:
    """-log of the probability of all paths of the right word, each window a softmax of its own (eq:hw3-nll)."""
    return free_energies(build_ce_matrix(energies, targets), beta=1.0)


def ctc_loss(energies: Tensor, targets: Tensor) -> Tensor:
    """Connectionist temporal classification (Graves et al. 2006), with BETWEEN as its blank."""
    letters = targets[:, ::2]
    lengths = [torch.full((len(letters),), size) for size in (energies.shape[1], letters.shape[1])]
    log_probs = (-energies).log_softmax(-1).transpose(0, 1)  # (L, B, 27)
    return F.ctc_loss(log_probs, letters, *lengths, blank=BETWEEN, reduction="none")


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = dict(
    zip(METHODS, (viterbi_loss, margin_loss, nll_loss, ctc_loss), strict=True)
)


def train_ebm_model(
    model: nn.Module,
    num_epochs: int,
    train_loader: Iterable[tuple[Tensor, Tensor]],
    criterion: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
) -> list[float]:
    """The course's loop over batches of images (B, 32, W) and codes (B, T): the mean loss of each epoch."""
    history = []
    for _ in range(num_epochs):
        losses = []
        for images, targets in train_loader:
            batch = criterion(model(images[:, None]), targets)  # (B,)
            optimizer.zero_grad()
            batch.mean().backward()
            optimizer.step()
            losses.append(batch.detach())
        history.append(torch.cat(losses).mean().item())
    return history


# --- the study's training ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Config(Training):
    """The flags."""

    method: str = flag("viterbi", "what is made small: viterbi, margin, nll or ctc", choices=METHODS)
    word_length: int = flag(5, "letters of a word in training", within(2, 12))
    words: int = flag(2500, "words of an epoch", COUNT)
    epochs: int = flag(12, "epochs", COUNT)
    batch_size: int = flag(32, "words per step", COUNT)
    learning_rate: float = flag(2e-3, "largest step size of Adam, which falls to 0", POSITIVE)
    tested: int = flag(500, "words of each kind to test with", COUNT)
    noise: bool = flag(False, "turn a tenth of the pixels on, in training too")
    seed: int = flag(0, "seed of the weights and the words", SEED)
    study: bool = flag(False, "train in each of the four ways, with every seed of SEEDS")
    seeds: tuple[int, ...] = flag((0, 1, 2), "those of a study", SEEDS)
    out: str = flag("runs", "folder for results, plots and checkpoints")
    resume: bool = flag(False, "go on from the checkpoints of the same command")
    overwrite: bool = flag(False, "replace a run of the same name with other settings")

    QUESTION: ClassVar[str] = "assignments"
    ASIDE: ClassVar[tuple[str, ...]] = ("study", "seeds", "out", "resume", "overwrite")

    __post_init__ = check_flags

    @property
    def run_name(self) -> str:
        noise = "-noise" if self.noise else ""
        return f"hw3-ocr{noise}" if self.study else f"hw3-ocr-{self.method}{noise}-seed{self.seed}"

    def head(self, described: dict) -> dict:
        return super().head(described) | {"seeds": list(self.seeds) if self.study else [self.seed]}


class FreshWords:
    """Batches for `utils.fit`: images (B, 1, 32, W) and codes (B, T), others in each epoch."""

    def __init__(self, config: Config):
        self.config = config

    def __len__(self) -> int:
        return -(-self.config.words // self.config.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        config = self.config
        seed = utils.derived_seed(config.seed, config.word_length, epoch)
        for images, targets in batches_of(
            SimpleWordsDataset(config.word_length, config.words, jitter=True, noise=config.noise, seed=seed),
            config.batch_size,
        ):
            yield images[:, None], targets


def batches_of(dataset: SimpleWordsDataset, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    samples = list(dataset)
    for start in range(0, len(samples), size):
        yield collate_fn(samples[start : start + size])


def train_letters(model: nn.Module, seed: int) -> float:
    """Learn single letters; the accuracy on 100 others."""
    optimizer = torch.optim.Adam(model.parameters(), LETTER_RATE)
    images, targets = collate_fn(list(SimpleWordsDataset(1, LETTERS, seed=seed)))
    loader = list(zip(images.split(32), targets.split(32), strict=True))
    train_ebm_model(model, LETTER_EPOCHS, loader, letter_loss, optimizer)
    images, targets = collate_fn(list(SimpleWordsDataset(1, 100, seed=seed + TEST_SEED)))
    with torch.no_grad():
        return (model(images[:, None])[:, 0].argmin(1) == targets[:, 0]).double().mean().item()


@torch.no_grad()
def energies_of(model: nn.Module, dataset: SimpleWordsDataset) -> tuple[Tensor, list[str]]:
    """Energies (N, L, 27) of all images of a set, with empty room behind short words; and their words."""
    samples = list(dataset)
    images = torch.stack([image for image, _ in samples])
    images = F.pad(images, (0, max(0, 4 * LETTER_WIDTH - images.shape[-1])))
    return torch.cat([model(part[:, None]) for part in images.split(250)]), [text for _, text in samples]


def scores(model: nn.Module, dataset: SimpleWordsDataset) -> dict:
    """Share of words that are read exactly, and character error rate: over paths, and window by window."""
    energies, words = energies_of(model, dataset)
    found = {"paths": read_words(energies), "windows": [collapse(codes) for codes in energies.argmin(2)]}
    return {
        name: {
            "exact": sum(a == b for a, b in zip(words, read, strict=True)) / len(words),
            "cer": jiwer.cer(words, read),
        }
        for name, read in found.items()
    }


def with_dictionary(model: nn.Module, dataset: SimpleWordsDataset) -> dict[str, float]:
    """Share of real words that are read exactly from noisy images: any word allowed, or those of a dictionary alone."""
    energies, words = energies_of(model, dataset)
    found = {"any word": read_words(energies), "dictionary": nearest_words(energies, most_frequent_words())}
    return {name: sum(a == b for a, b in zip(words, read, strict=True)) / len(words) for name, read in found.items()}


def tests(config: Config) -> dict[str, SimpleWordsDataset]:
    """The sets that a network is tested with, by what they hold."""
    common = {"len": config.tested, "jitter": True, "seed": TEST_SEED}
    length = config.word_length
    return {str(n): SimpleWordsDataset(n, **common) for n in LENGTHS} | {
        "double letters": DoubleLetters(max(3, length), **common),
        "noise": SimpleWordsDataset(length, noise=True, **common),
        "another font": SimpleWordsDataset(length, font=OTHER_FONT, **common),
    }


def validation_words(config: Config) -> SimpleWordsDataset:
    return SimpleWordsDataset(config.word_length, VALIDATED, jitter=True, noise=config.noise, seed=VALIDATION_SEED)


@torch.no_grad()
def free_energies_of(model: nn.Module, config: Config) -> dict[str, list[float]]:
    """Of some right words, and of the best wrong word of each."""
    energies, words = energies_of(model, validation_words(config))
    targets = torch.stack([transform_word(word) for word in words])
    found = {
        "right": free_energies(build_path_matrix(energies, targets)),
        "wrong": best_wrong_energies(energies, targets),
    }
    return {name: [round(value, 3) for value in values.tolist()] for name, values in found.items()}


def train(config: Config) -> dict:
    """Train one network, first on single letters, then on words; the body of its result."""
    utils.configure_seed(config.seed)
    model = SimpleNet()
    letters = train_letters(model, config.seed)
    hello = torch.stack([SimpleWordsDataset(5).draw_text("hello")])
    with torch.no_grad():
        windows = model(hello[:, None])[0]
    before = free_energies_of(model, config)
    batches = FreshWords(config)
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, fused=True)
    validation = validation_words(config)
    history = utils.fit(
        model, batches, optimizer, epochs=config.epochs, seed=config.seed, device="cpu",
        loss_fn=lambda model, batch: LOSSES[config.method](model(batch[0]), batch[1]),
        evaluate=lambda model: {"val_exact": scores(model, validation)["paths"]["exact"]},
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * len(batches)),
        checkpoint=config.file(".ckpt"), config=config.settings(), resume=config.resume, overwrite=config.overwrite,
    )  # fmt: skip
    noisy = RealWords(max(LENGTHS), config.tested, jitter=True, noise=True, seed=TEST_SEED)
    tested = {name: scores(model, dataset) for name, dataset in tests(config).items()}
    return {
        "parameters": get_number_trainable_params(model),
        "letters": letters,
        "hello": [[round(value, 3) for value in row] for row in windows.tolist()],
        "history": history,
        "free_energies": {"before": before, "after": free_energies_of(model, config)},
        "by_set": tested,
        "dictionary": with_dictionary(model, noisy),
        "metrics": {"test": summary_of([tested[str(config.word_length)]])},
    }


def summary_of(trials: list[dict]) -> dict:
    """Means and deviations of the scores of one set, over trials."""
    return {
        f"{reader}_{score}": records.mean_std([trial[reader][score] for trial in trials])
        for reader in ("paths", "windows")
        for score in ("exact", "cer")
    }


def study(config: Config) -> dict:
    """Every method with every seed, side by side; the body of the study's result."""
    runs = {
        method: [replace(config, study=False, seed=seed, method=method) for seed in config.seeds] for method in METHODS
    }
    singles = [single for group in runs.values() for single in group]
    found = iter(results_side_by_side(singles, lambda single: single.head(DATA), ("history:list", "by_set:dict")))
    methods = {}
    for name, group in runs.items():
        results = [next(found) for _ in group]
        methods[name] = {
            "trials": [{key: r[key] for key in ("seeds", "letters", "history", "free_energies")} for r in results],
            "by_set": {which: summary_of([r["by_set"][which] for r in results]) for which in results[0]["by_set"]},
            "dictionary": {
                which: records.mean_std([r["dictionary"][which] for r in results]) for which in results[0]["dictionary"]
            },
        }
    first = results[0]
    return {"parameters": first["parameters"], "hello": first["hello"], "methods": methods}


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start = time.perf_counter()
    with records.claim(config.out, config.head(DATA), config.overwrite):
        body = study(config) if config.study else train(config)
    return config.head(DATA) | {"seconds": time.perf_counter() - start} | body


def print_result(result: dict) -> None:
    length = str(result["config"]["word_length"])
    methods = result.get("methods") or {
        result["config"]["method"]: {"by_set": {name: summary_of([each]) for name, each in result["by_set"].items()}}
    }
    twice, extra = str(min(12, 2 * int(length))), ("double letters", "noise", "another font")
    print(f"\nwords read exactly (%), synthetic images; trained on {length} letters")
    print(f"{'':10}{''.join(f'{name:>16}' for name in (f'{length} letters', f'{twice} letters', *extra))}")
    for name, method in methods.items():
        exact = [ocr_plots.exact_of(name, method, which) for which in (length, twice, *extra)]
        cells = [records.spread(score, 100) for score in exact]
        print(f"{name:10}{''.join(f'{cell:>16}' for cell in cells)}")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    torch.set_num_threads(1)
    result = run(config)
    path = records.save_results(config.out, result)
    print_result(result)
    print(path, *ocr_plots.draw([path], Path(config.out) / "plots"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
