"""Translation with a Transformer from scratch, and with an LSTM of the same size.

python lab3/translate.py                                into an invented language (synthetic), in two minutes
python lab3/translate.py --dataset multi30k             English to German, after `python download_multi30k.py`
python lab3/translate.py --dataset multi30k --model lstm
python lab3/translate.py --study positions              sinusoidal, learned and rotary positions
python lab3/translate.py --dataset multi30k --study models      both networks

Letters: B batch, S tokens of a source sentence, N tokens of a target sentence, V vocabulary.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from sacrebleu.metrics import BLEU
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm

import records
import utils
from command_line import POSITIVE, PRECISIONS, SHARE, flag, within
from common.classification import get_number_trainable_params
from common.processes import precision_of
from common.recipes import adamw, cycle
from common.search import Marks, beam_search, greedy
from lab3 import board, pairs, study, translate_plots, translators
from lab3.pairs import PAD, START, STOP, Corpus, Pairs
from lab3.study import Settings, varied
from lab3.translators import LONGEST, POSITIONS, Memory, Translator

MODELS = ("transformer", "lstm")
LSTM_LAYERS = 2
LSTM_DIMS = {"toy": 70, "multi30k": 180}  # with which it has about as many parameters as the Transformer
WEIGHT_DECAY = 0.01
SMALL = {  # for the invented language
    "dim": 64, "num_layers": 2, "mlp_dim": 128, "epochs": 20, "vocabulary": 600, "batch_size": 128
}  # fmt: skip
LARGE = {"dim": 128, "num_layers": 4, "mlp_dim": 256, "epochs": 16, "vocabulary": 4000, "batch_size": 64}
LONGER = 10  # tokens that a translation may have beyond one and a half times those of its source
WORDS = (8, 12, 16)  # bounds of the groups of sentences by length, in words of the source
RESAMPLES = 1000  # of the bootstrap of BLEU
SHOWN, MAPPED = 8, 2  # translations that a result keeps, and those whose attention it keeps
STUDIES = ("models", "positions")


def sized(name: str, help: str, check) -> int:
    """A flag whose default depends on the data."""
    return flag(0, help, check, shown=f"{LARGE[name]:,}, toy {SMALL[name]:,}")


@dataclass(frozen=True)
class Config(Settings):
    """The flags."""

    dataset: str = flag("toy", "toy, or multi30k: English to German", choices=("toy", "multi30k"), metavar="NAME")
    study: str | None = flag(None, "several trainings: models, or positions", choices=STUDIES, metavar="NAME")
    tensorboard: bool = flag(False, "losses, step size, attention and graph go to OUT/lab3/tensorboard")
    model: str = flag("transformer", "transformer, or lstm: of about as many parameters", choices=MODELS)
    positions: str = flag("rotary", "of the Transformer: sinusoidal, learned or rotary", choices=POSITIONS)
    dim: int = flag(0, "width of the network", within(0, 4096), shown="128, toy 64; of an LSTM 180, toy 70")
    num_layers: int = sized("num_layers", "layers of its encoder, and of its decoder", within(0, 100))
    num_heads: int = flag(4, "its heads", within(1, 256))
    mlp_dim: int = sized("mlp_dim", "hidden units of its MLPs", within(0, 16_384))
    vocabulary: int = sized("vocabulary", "subwords of both languages", within(0, 100_000))
    dropout: float = flag(0.3, "probability of dropping a feature", SHARE)
    smoothing: float = flag(0.1, "share of a token's label that is spread over all", SHARE)
    epochs: int = sized("epochs", "passes over the training pairs", within(0, 10_000))
    batch_size: int = sized("batch_size", "pairs per step", within(0, 10_000))
    learning_rate: float = flag(2e-3, "largest step size of AdamW", POSITIVE)
    beam: int = flag(5, "sentences that the search keeps", within(1, 100))
    mixed_precision: str = flag("auto", "auto: bf16 where the device computes in it; no; or bf16", choices=PRECISIONS)

    SCRIPT: ClassVar[str] = "translate"

    def __post_init__(self):
        super().__post_init__()
        multiple = 2 if self.model == "lstm" else 2 * self.num_heads
        if self["dim"] % multiple:
            raise ValueError(f"--dim is {self['dim']}, but must be a multiple of {multiple}")

    def __getitem__(self, name: str) -> int:
        """A flag's value, or its default for these data and this network."""
        defaults = SMALL if self.dataset == "toy" else LARGE
        if self.model == "lstm":
            defaults = defaults | {"dim": LSTM_DIMS[self.dataset]}
        return getattr(self, name) or defaults[name]

    @property
    def precision(self) -> str:
        return precision_of(self.mixed_precision, self.device)

    def settings(self) -> dict:
        return super().settings() | {name: self[name] for name in SMALL} | {"mixed_precision": self.precision}

    @property
    def variant(self) -> str:
        return self.model if self.model == "lstm" else f"{self.model}-{self.positions}"


def build(config: Config) -> Translator:
    if config.model == "lstm":
        return translators.lstm(config["vocabulary"], config["dim"], LSTM_LAYERS, config.dropout)
    sizes = config["dim"], config["num_layers"], config.num_heads, config["mlp_dim"]
    return translators.transformer(config["vocabulary"], *sizes, config.dropout, config.positions)


# --- training ----------------------------------------------------------------------------------------


def token_losses(model: nn.Module, batch: tuple[Tensor, Tensor], smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each token that is no padding: sources (B, S) and targets (B, N) -> (tokens,)."""
    sources, targets = batch
    logits, expected = model(sources, targets[:, :-1]), targets[:, 1:]  # (B, N - 1, V), (B, N - 1)
    real = expected != PAD
    return F.cross_entropy(logits[real].float(), expected[real], reduction="none", label_smoothing=smoothing)


@torch.no_grad()
def mean_loss(model: nn.Module, sources: list[list[int]], targets: list[list[int]]) -> float:
    """Cross-entropy per token of a part, without smoothing."""
    device = next(model.parameters()).device
    order = sorted(range(len(sources)), key=lambda i: len(targets[i]))
    losses = []
    for start in range(0, len(order), 100):
        batch = (pairs.padded([part[i] for i in order[start : start + 100]]) for part in (sources, targets))
        losses.append(token_losses(model.eval(), tuple(tensor.to(device) for tensor in batch)))
    return torch.cat(losses).mean().item()


def train(config: Config, corpus: Corpus) -> dict:
    """Train one network, translate, and score; the body of its result."""
    utils.configure_seed(config.seed)
    tokenizer = pairs.train_vocabulary(corpus.train, config["vocabulary"])
    encoded = {part: encode_pairs(tokenizer, getattr(corpus, part)) for part in pairs.PARTS}
    model = build(config)
    optimizer = adamw(model, config.learning_rate, WEIGHT_DECAY)
    batches = pairs.PairBatches(*encoded["train"], config["batch_size"], config.seed)
    scheduler, folder = cycle(optimizer, config["epochs"] * len(batches)), board.folder(config)

    def evaluate(model: Translator) -> dict[str, float]:
        if folder:
            (seen, *_) = attention_maps(model, tokenizer, encoded["val"])
            epoch = scheduler.last_epoch // len(batches)
            board.add_picture(folder, "attention", translate_plots.draw_heads(seen, f"epoch {epoch}"), epoch)
        return {"val_loss": mean_loss(model, *encoded["val"])}

    history = utils.fit(
        model, batches, optimizer, epochs=config["epochs"], seed=config.seed, clip_norm=1.0,
        loss_fn=lambda model, batch: token_losses(model, batch, config.smoothing),
        evaluate=evaluate, scheduler=scheduler, tensorboard=folder,
        average_decay=1 - 1 / max(10, len(batches)),  # over about an epoch
        checkpoint=config.file(".ckpt"), config=config.settings() | {"data": corpus.describe()["digest"]},
        resume=config.resume, overwrite=config.overwrite, device=config.device, mixed_precision=config.precision,
    )  # fmt: skip
    if folder:
        device = next(model.parameters()).device
        board.add_graph(folder, model, *(tensor.to(device) for tensor in next(batches.epoch(1))))
    start = time.perf_counter()
    scores = {part: score(config, model, tokenizer, getattr(corpus, part), encoded[part]) for part in ("val", "test")}
    metrics = {
        name: {key: records.mean_std([value]) for key, value in scores[part]["scores"].items()}
        for name, part in (("validation", "val"), ("test", "test"))
    }
    kept = ("signature", "interval", "by_length", "translations")
    return {
        "parameters": get_number_trainable_params(model),
        "history": history,
        "metrics": metrics,
        **{key: scores["test"][key] for key in kept},
        "attention": attention_maps(model, tokenizer, encoded["test"]),
        "seconds_of_search": time.perf_counter() - start,
    }


def encode_pairs(tokenizer: Tokenizer, part: Pairs) -> tuple[list[list[int]], list[list[int]]]:
    return pairs.encode(tokenizer, part.sources), pairs.encode(tokenizer, part.targets, start=True)


# --- translating -------------------------------------------------------------------------------------


@torch.no_grad()
def translate(model: Translator, sources: list[list[int]], beam: int) -> list[list[int]]:
    """The tokens of a translation of each source, by a beam of so many sentences; of one, by greedy search."""
    marks, device = Marks(START, STOP), next(model.parameters()).device
    limits = [min(LONGEST - 1, LONGER + 3 * len(source) // 2) for source in sources]
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    found: list[list[int]] = [[]] * len(sources)
    model.eval()
    for start in tqdm(range(0, len(order), 100), "translating", leave=False, disable=None):
        chosen = order[start : start + 100]
        memory = model.encoder(pairs.padded([sources[i] for i in chosen]).to(device))
        most = [limits[i] for i in chosen]
        if beam == 1:
            written = greedy(model.decoder, memory, torch.tensor(most, device=device), marks)
        else:
            ones = (Memory(encoded[None], hidden[None]) for encoded, hidden in zip(*memory, strict=True))
            jobs = zip(ones, most, strict=True)
            written = [beam_search(model.decoder, one, beam, limit, marks) for one, limit in jobs]
        for i, sentence in zip(chosen, written, strict=True):
            found[i] = sentence
    return found


def score(config: Config, model: Translator, tokenizer: Tokenizer, part: Pairs, encoded: tuple) -> dict:
    """BLEU (Papineni et al. 2002) as sacrebleu computes it, exact matches and perplexity of a part's translations."""
    found = {
        name: [pairs.decode(tokenizer, tokens) for tokens in translate(model, encoded[0], beam)]
        for name, beam in (("greedy", 1), ("beam", config.beam))
    }
    bleu, written = BLEU(), found["beam"]
    whole = bleu.corpus_score(written, [part.targets], n_bootstrap=RESAMPLES)
    exact = sum(a == b for a, b in zip(written, part.targets, strict=True)) / len(written)
    shown = zip(part.sources[:SHOWN], part.targets[:SHOWN], written[:SHOWN], strict=True)
    return {
        "scores": {
            "bleu": whole.score,
            "greedy_bleu": BLEU().corpus_score(found["greedy"], [part.targets]).score,
            "exact": exact,
            "perplexity": math.exp(mean_loss(model, *encoded)),
        },
        "signature": str(bleu.get_signature()),
        "interval": [whole._mean - whole._ci, whole._mean + whole._ci],
        "by_length": by_length(part, written),
        "translations": [dict(zip(("source", "reference", "found"), each, strict=True)) for each in shown],
    }


def by_length(part: Pairs, written: list[str]) -> list[dict]:
    """BLEU of the sentences whose source has so many words: up to each of WORDS, and beyond the last."""
    lengths = [len(source.split()) for source in part.sources]
    groups, low = [], 0
    for high in (*WORDS, max(*lengths, WORDS[-1] + 1)):
        chosen = [i for i, length in enumerate(lengths) if low < length <= high]
        if chosen:
            bleu = BLEU().corpus_score([written[i] for i in chosen], [[part.targets[i] for i in chosen]])
            groups.append({"from": low + 1, "to": high, "sentences": len(chosen), "bleu": bleu.score})
        low = high
    return groups


@torch.no_grad()
def attention_maps(model: Translator, tokenizer: Tokenizer, encoded: tuple) -> list[dict]:
    """Where each layer and head looks in the first sources to write each token of the reference."""
    device, maps = next(model.parameters()).device, []
    for source, target in zip(encoded[0][:MAPPED], encoded[1][:MAPPED], strict=True):
        memory = model.eval().encoder(torch.tensor([source], device=device))
        weights = model.decoder.attention(torch.tensor([target[:-1]], device=device), memory)[:, 0]  # (layers, H, N, S)
        maps.append(
            {
                "source": [tokenizer.decode([token]) or "end" for token in source],
                "target": [tokenizer.decode([token]) or "end" for token in target[1:]],
                "weights": [
                    [[[round(x, 3) for x in row] for row in head] for head in layer] for layer in weights.tolist()
                ],
            }
        )
    return maps


# --- studies -----------------------------------------------------------------------------------------


def variants(config: Config) -> dict[str, list[Config]]:
    """What a study trains: for each variant its name, and its configuration with every seed."""
    name, values = {"models": ("model", MODELS), "positions": ("positions", POSITIONS)}[config.study]
    return varied(config, {value: {name: value} for value in values})


def compare(config: Config, described: dict) -> dict:
    """Train every variant with every seed, side by side; the body of the study's result."""
    keys = ("history:list", "metrics:dict", "by_length:list", "seconds:number", "environment:dict")
    trials = study.train_all(variants(config), lambda single: described, keys)
    kept = ("translations", "attention", "signature")
    return {
        "models": {name: summary(group) for name, group in trials.items()},
        "first": {name: {key: group[0][key] for key in kept} for name, group in trials.items()},
        "seconds": sum(trial["seconds"] for group in trials.values() for trial in group),
    }


def summary(trials: list[dict]) -> dict:
    """One variant: means and deviations over its seeds."""
    first = trials[0]
    return {
        "parameters": first["parameters"],
        "seeds": [trial["seeds"][0] for trial in trials],
        "metrics": study.over_seeds(trials),
        "by_length": [
            {key: group[key] for key in ("from", "to", "sentences")}
            | {"bleu": records.mean_std([trial["by_length"][place]["bleu"] for trial in trials])}
            for place, group in enumerate(first["by_length"])
        ],
        "intervals": [trial["interval"] for trial in trials],
        "history": [trial["history"] for trial in trials],
        "seconds": sum(epoch["seconds"] for trial in trials for epoch in trial["history"]),
        "peak_memory": max(filter(None, (t["environment"].get("peak_memory") for t in trials)), default=None),
    }


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start, corpus = time.perf_counter(), pairs.load_corpus(config.dataset, config.data_root)
    described = corpus.describe()
    head = config.head(described)
    with records.claim(config.out, head, config.overwrite):
        body = compare(config, described) if config.study else train(config, corpus)
    return head | {"seconds": time.perf_counter() - start} | body


def print_result(result: dict) -> None:
    print(f"\n{translate_plots.title(result)}")
    for name, model in result.get("models", {result["config"]["model"]: result}).items():
        test = model["metrics"]["test"]
        print(
            f"  {name:12}{model['parameters']:10,} parameters  BLEU {records.spread(test['bleu'])}"
            f" (greedy {records.spread(test['greedy_bleu'])}), exact {records.spread(test['exact'], 100)} %,"
            f" perplexity {records.spread(test['perplexity'], 1, 2)}"
        )
    if "interval" in result:
        print("  95 % bootstrap interval of BLEU: {:.1f} to {:.1f}".format(*result["interval"]))
    signature = result.get("signature") or next(iter(result["first"].values()))["signature"]
    print(f"  BLEU by sacrebleu: {signature}")
    for example in result.get("translations", [])[:3]:
        print(f"  {example['source']}\n    -> {example['found']}")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, print_result, translate_plots.draw)


if __name__ == "__main__":
    sys.exit(main())
