"""Lab 3: is a sentence about a film positive? A pretrained Transformer adapted in four ways, beside two baselines.

python lab3/sentiment.py                                            a tiny encoder on a small grammar (synthetic)
python lab3/sentiment.py --dataset rotten_tomatoes --data_root DATA --method lora
python lab3/sentiment.py --dataset rotten_tomatoes --model distilbert-base-uncased --trainer
python lab3/sentiment.py --study rates                              which step size suits each, by validation
python lab3/sentiment.py --study methods                            all methods on all labels, one by the Trainer, too
python lab3/sentiment.py --study labels                             by the number of labels

MiniLM (6 layers of width 384, 22.6 million parameters) stands in for DistilBERT (66 million), whose published test
accuracies on Rotten Tomatoes, of one seed each with a standard error of .011, are .765 to .807 with frozen features
and a linear SVM, .834 to .844 fine-tuned, and .829 to .850 with LoRA.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

import records
import utils
from command_line import COUNT, NOT_NEGATIVE, PRECISIONS, flag, within
from common.classification import get_number_trainable_params
from common.processes import precision_of
from common.recipes import adamw, cycle
from lab3 import board, encoders, reviews, sentiment_plots, study
from lab3.encoders import SentenceBatches, SentenceClassifier
from lab3.reviews import CLASSES, DATASETS, Part, Reviews
from lab3.study import Settings, varied

LINEAR = ("tfidf", "svm")  # methods without a step size
METHODS = (*LINEAR, "full", "partial", "lora", "random")
TRIED = {  # step sizes of --study rates; the tiny encoder's weights are random
    "tiny": {"full": (5e-4, 1e-3, 2e-3), "partial": (1e-3, 2e-3, 4e-3), "lora": (2e-3, 4e-3, 8e-3)},
    "pretrained": {
        "full": (2.5e-5, 5e-5, 1e-4, 2e-4), "partial": (5e-5, 1e-4, 2e-4, 4e-4), "lora": (5e-4, 1e-3, 2e-3),
        "random": (1e-4, 2e-4, 4e-4),
    },
}  # fmt: skip
RATES = {  # those that it chose
    "tiny": {"full": 1e-3, "partial": 2e-3, "lora": 4e-3},
    "pretrained": {"full": 5e-5, "partial": 1e-4, "lora": 1e-3, "random": 2e-4},
}
RATED = {"grammar": 512, "rotten_tomatoes": 2048}  # labels of that study
SIZES = {"grammar": (32, 128, 512, 0), "rotten_tomatoes": (32, 128, 512, 2048, 0)}  # labels, of all sentences at last
EPOCHS = {  # by the least number of labels
    "grammar": {2000: 10, 512: 20, 128: 40, 0: 60},
    "rotten_tomatoes": {8530: 3, 2048: 5, 512: 10, 128: 20, 0: 30},
}
BY_LABELS = ("tfidf", "svm", "full", "lora", "random")  # methods of the study of labels
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
TFIDF_COSTS = (0.3, 1, 3, 10, 30)  # of errors, in scikit-learn's C; validation chooses
SVM_COSTS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
WATCHED = 200  # validation sentences whose accuracy is measured after each epoch


@dataclass(frozen=True)
class Config(Settings):
    """The flags."""

    dataset: str = flag("grammar", "grammar (synthetic) or rotten_tomatoes", choices=DATASETS, metavar="NAME")
    data_root: str = flag("data", "folder that has the folder rotten_tomatoes")
    study: str | None = flag(
        None, "several trainings: rates, methods or labels", choices=("rates", "methods", "labels"), metavar="NAME"
    )
    method: str = flag(
        "full",
        "tfidf: TF-IDF and logistic regression; svm: frozen features and a linear SVM; full, partial or lora: "
        "fine-tuning of all, the last layers, or low-rank adapters; random: of all, from random weights",
        choices=METHODS, metavar="NAME",
    )  # fmt: skip
    model: str = flag(
        "", "minilm, tiny, a folder, or a model of the Hugging Face Hub", shown="of grammar tiny, else minilm"
    )
    labels: int = flag(0, "training sentences, half of each class", within(0, 1_000_000), shown="all")
    top_layers: int = flag(2, "layers that partial trains", within(1, 1000))
    epochs: int = flag(0, "passes over them", COUNT, shown="3 over all of rotten_tomatoes, 10 of grammar, else more")
    batch_size: int = flag(16, "sentences per step", COUNT)
    accumulate: int = flag(1, "parts in which a step's sentences are computed, for less memory", COUNT)
    learning_rate: float = flag(0.0, "largest step size of AdamW", NOT_NEGATIVE, shown="by method")
    trainer: bool = flag(False, "train by Hugging Face's Trainer")
    no_test: bool = flag(False, "leave the test sentences alone")
    mixed_precision: str = flag("auto", "auto: bf16 where the device computes in it; no; or bf16", choices=PRECISIONS)

    SCRIPT: ClassVar[str] = "sentiment"

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size % self.accumulate:
            raise ValueError(f"--accumulate is {self.accumulate}, but must divide --batch_size {self.batch_size}")
        if self.method == "random" and self.encoder == "tiny":
            raise ValueError("--model tiny has random weights with every method: use --method full")

    @property
    def encoder(self) -> str:
        return self.model or ("tiny" if self.dataset == "grammar" else "minilm")

    @property
    def passes(self) -> int:
        table, size = EPOCHS[self.dataset], self.labels or max(EPOCHS[self.dataset])
        return self.epochs or next(epochs for least, epochs in table.items() if size >= least)

    @property
    def rate(self) -> float:
        return self.learning_rate or rates(self).get(self.method, 0.0)

    @property
    def precision(self) -> str:
        return precision_of(self.mixed_precision, self.device)

    def settings(self) -> dict:
        chosen = {"model": self.encoder, "epochs": self.passes, "learning_rate": self.rate}
        return super().settings() | chosen | {"mixed_precision": self.precision}

    @property
    def run_name(self) -> str:
        if self.study:
            return super().run_name
        parts = [self.method, *["trainer"] * self.trainer, Path(self.encoder).name, self.dataset]
        parts += [f"top{self.top_layers}"] * (self.method == "partial") + [str(self.labels or "all")]
        parts += [f"rate{self.learning_rate:g}"] if self.learning_rate else []
        return "-".join(["sentiment", *parts, f"seed{self.seed}"])


def kind_of(config: Config) -> str:
    return "tiny" if config.encoder == "tiny" else "pretrained"


def rates(config: Config) -> dict[str, float]:
    """The step size of each method that trains an encoder."""
    return RATES[kind_of(config)]


# --- the methods -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A trained classifier, and what is to be reported of it."""

    classify: Callable[[list[str]], Tensor]  # the classes (N) of sentences
    parameters: dict[str, int]  # that were trained, and all
    history: list[dict]
    cost: float | None = None  # scikit-learn's C, as validation chose it


def cheapest_of_best(candidates: dict[float, object], features, labels: Tensor) -> tuple[float, object]:
    """The estimator with the highest accuracy on validation features, by its cost; of equals the first."""
    scores = {cost: each.score(features, labels.numpy()) for cost, each in candidates.items()}
    best = max(scores, key=scores.get)
    return best, candidates[best]


def train_tfidf(config: Config, data: Reviews) -> Trained:
    """Logistic regression on the TF-IDF of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    features = words.fit_transform(data.train.texts)
    fitted = {c: LogisticRegression(C=c, max_iter=1000).fit(features, data.train.labels) for c in TFIDF_COSTS}
    cost, chosen = cheapest_of_best(fitted, words.transform(data.val.texts), data.val.labels)
    count = chosen.coef_.size + chosen.intercept_.size
    classify = lambda texts: torch.from_numpy(chosen.predict(words.transform(texts)))  # noqa: E731
    return Trained(classify, {"trained": count, "all": count}, [], cost)


def train_svm(config: Config, data: Reviews) -> Trained:
    """A linear SVM on the features of a frozen encoder, which are computed once."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    tokenizer, encoder = encoders.load(config.encoder, data.train.texts)
    model = SentenceClassifier(encoder.requires_grad_(False).eval(), len(CLASSES))

    def features(texts: list[str]):
        return encoders.apply(model.features, encoders.tokenize(tokenizer, texts)).numpy()  # (N, D)

    train = features(data.train.texts)
    svms = {c: make_pipeline(StandardScaler(), LinearSVC(C=c, random_state=config.seed)) for c in SVM_COSTS}
    fitted = {cost: svm.fit(train, data.train.labels) for cost, svm in svms.items()}
    cost, chosen = cheapest_of_best(fitted, features(data.val.texts), data.val.labels)
    count = chosen[-1].coef_.size + chosen[-1].intercept_.size
    classify = lambda texts: torch.from_numpy(chosen.predict(features(texts)))  # noqa: E731
    return Trained(classify, {"trained": count, "all": count + number_of_parameters(encoder)}, [], cost)


def fine_tune(config: Config, data: Reviews) -> Trained:
    """A classifier whose encoder, or a part of it, is trained together with an affine layer."""
    tokenizer, model = build(config, data.train.texts)
    parameters = {"trained": get_number_trainable_params(model), "all": number_of_parameters(model)}
    tokens = encoders.tokenize(tokenizer, data.train.texts)
    batches = SentenceBatches(tokens, data.train.labels, config.batch_size, config.seed)
    history = optimize(config, model, batches, tokenizer, data)
    if config.method == "lora":
        encoders.merged(model)

    def classify(texts: list[str]) -> Tensor:
        device = next(model.parameters()).device
        return encoders.apply(model.eval(), encoders.tokenize(tokenizer, texts), device).argmax(1)

    return Trained(classify, parameters, history)


def build(config: Config, texts: list[str]) -> tuple:
    """The tokenizer and the network of a method, in which what it leaves as it is needs no gradient."""
    tokenizer, encoder = encoders.load(config.encoder, texts, pretrained=config.method != "random")
    if config.method == "partial":
        encoders.freeze_below(encoder, config.top_layers)
    elif config.method == "lora":
        encoder = encoders.with_lora(encoder)
    return tokenizer, SentenceClassifier(encoder, len(CLASSES))


def optimize(config: Config, model: SentenceClassifier, batches: SentenceBatches, tokenizer, data: Reviews) -> list:
    """Train a network by `utils.fit` or by the Trainer, with one recipe; returns the history."""
    optimizer = adamw(model, config.rate, WEIGHT_DECAY)
    scheduler = cycle(optimizer, config.passes * len(batches))
    rows = config.batch_size // config.accumulate
    if config.trainer:
        return encoders.train_with_trainer(
            model, batches, optimizer, scheduler, epochs=config.passes, rows=rows, clip_norm=CLIP_NORM,
            seed=config.seed, device=config.device, bf16=config.precision == "bf16",
        )  # fmt: skip
    stride = max(1, len(data.val.texts) // WATCHED)  # evenly, since Rotten Tomatoes goes class by class
    watched, labels = encoders.tokenize(tokenizer, data.val.texts[::stride]), data.val.labels[::stride]

    def evaluate(model: nn.Module) -> dict[str, float]:
        predicted = encoders.apply(model, watched, next(model.parameters()).device).argmax(1)
        return {"val_accuracy": (predicted == labels).double().mean().item()}

    return utils.fit(
        model, batches, optimizer, scheduler=scheduler, epochs=config.passes, seed=config.seed, clip_norm=CLIP_NORM,
        loss_fn=encoders.losses, rows=rows, evaluate=evaluate,
        checkpoint=config.file(".ckpt"), config=config.settings() | {"data": data.describe()["digest"]},
        resume=config.resume, overwrite=config.overwrite, device=config.device, mixed_precision=config.precision,
        tensorboard=board.folder(config),
    )  # fmt: skip


def number_of_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def train(config: Config, data: Reviews) -> dict:
    """Train one classifier, and test it; the body of its result."""
    utils.configure_seed(config.seed)
    start = time.perf_counter()
    of_linear = {"tfidf": train_tfidf, "svm": train_svm}
    chosen = replace(data, train=reviews.subset(data.train, config.labels, config.seed))
    trained = of_linear.get(config.method, fine_tune)(config, chosen)
    seconds = sum(epoch["seconds"] for epoch in trained.history) or time.perf_counter() - start
    parts = {"validation": data.val} | ({} if config.no_test else {"test": data.test})
    right = {name: trained.classify(part.texts) == part.labels for name, part in parts.items()}
    body = {
        "parameters": trained.parameters,
        "cost": trained.cost,
        "history": trained.history,
        "metrics": {
            name: {"accuracy": records.mean_std([each.double().mean().item()])} for name, each in right.items()
        },
        "training_seconds": seconds,
        "peak_memory": records.peak_memory(),
        "baseline": {name: share_of_commonest(part, chosen.train) for name, part in parts.items()},
    }
    if "test" in right:  # sentence by sentence, so that two classifiers can be compared on the same ones
        body["test_right"] = "".join("01"[value] for value in right["test"].tolist())
    return body


def share_of_commonest(part: Part, train: Part) -> float:
    """The accuracy on a part of always answering the commonest class of training sentences."""
    return (part.labels == train.labels.bincount().argmax()).double().mean().item()


# --- studies -----------------------------------------------------------------------------------------


def variants(config: Config) -> dict[str, list[Config]]:
    """What a study trains: for each variant its name, and its configuration with every seed."""
    plain = replace(config, method="full")
    methods = [name for name in METHODS if name in LINEAR or name in rates(config)]
    if config.study == "rates":
        plain = replace(plain, labels=config.labels or RATED[config.dataset], seeds=config.seeds[:1], no_test=True)
        tried = [(method, rate) for method, grid in TRIED[kind_of(config)].items() for rate in grid]
        return varied(plain, {f"{name}, {rate:g}": {"method": name, "learning_rate": rate} for name, rate in tried})
    if config.study == "methods":
        return varied(plain, {name: {"method": name} for name in methods} | {"trainer": {"trainer": True}})
    sized = [(name, size) for size in SIZES[config.dataset] for name in methods if name in BY_LABELS]
    return varied(plain, {f"{name}, {size or 'all'}": {"method": name, "labels": size} for name, size in sized})


def compare(config: Config, described: dict) -> dict:
    """Train every variant with its seeds, side by side; the body of the study's result."""
    keys = ("parameters:dict", "metrics:dict", "training_seconds:number", "baseline:dict", "seconds:number")
    trials = study.train_all(variants(config), lambda single: described, keys)
    results = [trial for group in trials.values() for trial in group]
    return {
        "models": {name: summary(group, described["sizes"]["train"]) for name, group in trials.items()},
        "baseline": results[0]["baseline"],
        "seconds": sum(result["seconds"] for result in results),
    }


def summary(trials: list[dict], sentences: int) -> dict:
    """One variant: means and deviations over its seeds, with what it took."""
    first = trials[0]
    settings = {key: first["config"][key] for key in ("method", "model", "labels", "epochs", "learning_rate")}
    return {
        "settings": settings | {"labels": settings["labels"] or sentences},
        "seeds": [trial["seeds"][0] for trial in trials],
        "parameters": first["parameters"],
        "metrics": study.over_seeds(trials),
        "training_seconds": records.mean_std([trial["training_seconds"] for trial in trials]),
        "peak_memory": max(trial["peak_memory"] or 0 for trial in trials) or None,
        **{key: first[key] for key in ("test_right",) if key in first and len(trials) == 1},
    }


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start, data = time.perf_counter(), reviews.load(config.dataset, config.data_root)
    head = config.head(data.describe())
    with records.claim(config.out, head, config.overwrite):
        if config.resume and not config.overwrite and not config.study and config.file(".json").exists():
            return records.load_result(config.file(".json"), "metrics:dict")  # of this command, as the claim saw
        body = compare(config, head["data"]) if config.study else train(config, data)
    return head | {"seconds": time.perf_counter() - start} | body


def print_result(result: dict) -> None:
    print(f"\n{sentiment_plots.title(result)}; accuracy in %")
    models = result.get("models", {result["config"]["method"]: result})
    for name, model in models.items():
        cells = [f"{part} {records.spread(scores['accuracy'], 100)}" for part, scores in model["metrics"].items()]
        print(f"  {name:16}{model['parameters']['trained']:12,} trained parameters  {', '.join(cells)}")
    print("  always one class: " + ", ".join(f"{part} {100 * share:.1f}" for part, share in result["baseline"].items()))


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    code = study.main(config, run, print_result, sentiment_plots.draw)
    config.file(".ckpt").unlink(missing_ok=True)  # 270 MB of MiniLM's, and dozens of runs in a study
    return code


if __name__ == "__main__":
    sys.exit(main())
