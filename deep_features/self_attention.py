"""Self-attention written out in NumPy and in PyTorch, the same to the last digits, and what its parts stand for.

python deep_features/self_attention.py                                       32 tokens of 256 features, as the exercise
python deep_features/self_attention.py --batch 32 --length 20 --dim 128 --query_dim 64 --value_dim 32

It compares the implementations with PyTorch's own, shows the exercise's softmax beside a right one, and the attention
of a sentence whose features are made by hand. Letters: B batch, L tokens, N features of each, Q features of queries and
keys, V of values, H heads, D = N / H features of a head.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import records
from attention import MultiHeadAttention
from command_line import SEED, check_flags, flag, within

TOLERANCE = 1e-12  # of the differences between implementations, in double precision


# --- in NumPy ----------------------------------------------------------------------------------------


def softmax(scores: np.ndarray) -> np.ndarray:
    """exp(s_j) / sum_k exp(s_k) along the last axis, with the largest score subtracted, so that nothing overflows."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention_weights(x: np.ndarray, w_query: np.ndarray, w_key: np.ndarray) -> np.ndarray:
    """How much each token looks at each: x (..., L, N), w_query and w_key (N, Q) -> (..., L, L), rows that sum to 1."""
    query, key = x @ w_query, x @ w_key  # (..., L, Q)
    return softmax(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]))  # (..., L, L)


def self_attention(x: np.ndarray, w_query: np.ndarray, w_key: np.ndarray, w_value: np.ndarray) -> np.ndarray:
    """Each token as the mean of all values, by its weights (eq:self-attention): x (..., L, N) -> (..., L, V)."""
    return attention_weights(x, w_query, w_key) @ (x @ w_value)


def multi_head_attention(
    x: np.ndarray, w_query: np.ndarray, w_key: np.ndarray, w_value: np.ndarray, w_output: np.ndarray
) -> np.ndarray:
    """H heads side by side, mixed by one matrix: x (..., L, N), weights (H, N, D), w_output (H D, N) -> (..., L, N)."""
    heads = [self_attention(x, *weights) for weights in zip(w_query, w_key, w_value, strict=True)]  # H of (..., L, D)
    return np.concatenate(heads, -1) @ w_output


def check_weights(weights: np.ndarray, scores: np.ndarray) -> None:
    """Raise ValueError for what cannot be the softmax of these scores (..., L, S).

    Every weight is positive, each row sums to 1, and the logarithms of two weights differ as their scores do.
    """
    if weights.shape != scores.shape:
        raise ValueError(f"weights have shape {weights.shape}, scores {scores.shape}")
    if not (weights > 0).all():
        raise ValueError("some weights are not positive")
    if not np.allclose(weights.sum(-1), 1):
        raise ValueError(f"rows of weights sum to {weights.sum(-1).min():.3g} and more, not to 1")
    logs = np.log(weights)
    if not np.allclose(logs - logs[..., :1], scores - scores[..., :1]):
        raise ValueError("the weights do not follow the scores: a higher score has to have the larger weight")


def exercise_softmax(scores: np.ndarray) -> np.ndarray:
    """The exercise's own, with its two mistakes.

    The limits of its clip are swapped: NumPy then gives the lower one everywhere, so all scores are equal. And the sum
    lacks keepdims, so that row i is divided by the sum of row j; with equal scores in a square nobody sees it.
    """
    weights = np.exp(np.clip(scores, 500, -500))
    return weights / weights.sum(-1)


# --- in PyTorch --------------------------------------------------------------------------------------


class SelfAttention(nn.Module):
    """One head without biases: x (B, L, N) -> (B, L, V)."""

    def __init__(self, dim: int, query_dim: int, value_dim: int):
        super().__init__()
        self.query, self.key = (nn.Linear(dim, query_dim, bias=False) for _ in range(2))
        self.value = nn.Linear(dim, value_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)  # (B, L, Q), (B, L, Q), (B, L, V)
        scores = query @ key.mT / query.shape[-1] ** 0.5  # (B, L, L)
        return scores.softmax(-1) @ value


class MultiHeadSelfAttention(nn.Module):
    """H heads without biases, of N / H features each: x (B, L, N) -> (B, L, N)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            project(x).view(batch, length, self.num_heads, -1).transpose(1, 2)  # (B, H, L, D)
            for project in (self.query, self.key, self.value)
        )
        scores = query @ key.mT / query.shape[-1] ** 0.5  # (B, H, L, L)
        return self.output((scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, -1))


# --- what queries, keys and values stand for ---------------------------------------------------------

SENTENCE = ["the", "cat", "sat", "on", "the", "mat", "because", "it", "was", "tired"]
FEATURES = ("article", "noun", "living", "verb", "link", "pronoun", "adjective")  # link: a preposition or conjunction
WORDS = {
    "the": ("article",), "cat": ("noun", "living"), "sat": ("verb",), "on": ("link",), "mat": ("noun",),
    "because": ("link",), "it": ("pronoun",), "was": ("verb",), "tired": ("adjective",),
}  # fmt: skip
LOOKS_FOR = {  # what a word with a feature asks of others; the query
    "article": {"noun": 1}, "noun": {"adjective": 1}, "verb": {"living": 1, "pronoun": 1}, "link": {"verb": 1},
    "pronoun": {"living": 2}, "adjective": {"pronoun": 1, "living": 1},
}  # fmt: skip
SHARPNESS = 12.0  # of the queries: with smaller ones the weights would be nearly equal


def sentence_matrices() -> tuple[np.ndarray, np.ndarray]:
    """The sentence as features (L, N), and the matrix (N, N) that makes a word's query of them; its key is itself."""
    place = {name: i for i, name in enumerate(FEATURES)}
    x, w_query = np.zeros((len(SENTENCE), len(FEATURES))), np.zeros((len(FEATURES),) * 2)
    for row, word in enumerate(SENTENCE):
        x[row, [place[name] for name in WORDS[word]]] = 1
    for name, wanted in LOOKS_FOR.items():
        for other, strength in wanted.items():
            w_query[place[name], place[other]] = SHARPNESS * strength
    return x, w_query


# --- the script --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """The flags."""

    batch: int = flag(1, "sequences", within(1, 1024))
    length: int = flag(32, "tokens of each", within(2, 1024))
    dim: int = flag(256, "features of a token", within(1, 4096))
    query_dim: int = flag(256, "features of a query, and of a key", within(1, 4096))
    value_dim: int = flag(256, "features of a value", within(1, 4096))
    num_heads: int = flag(8, "heads of multi-head attention", within(1, 256))
    seed: int = flag(0, "seed of tokens and weights", SEED)
    out: str = flag("runs", "folder for results and plots")

    def __post_init__(self):
        check_flags(self)
        if self.dim % self.num_heads:
            raise ValueError(f"--dim {self.dim} is not a multiple of --num_heads {self.num_heads}")


def single_head(config: Config, x: Tensor) -> dict[str, Tensor]:
    """The outputs (B, L, V) of one head by each implementation."""
    layer = SelfAttention(config.dim, config.query_dim, config.value_dim).double()
    weights = [each.weight.detach().numpy().T for each in (layer.query, layer.key, layer.value)]
    return {
        "NumPy": torch.from_numpy(self_attention(x.numpy(), *weights)),
        "PyTorch": layer(x),
        "F.scaled_dot_product_attention": F.scaled_dot_product_attention(layer.query(x), layer.key(x), layer.value(x)),
    }


def multi_head(config: Config, x: Tensor) -> dict[str, Tensor]:
    """The outputs (B, L, N) of multi-head attention by each implementation."""
    layer = MultiHeadSelfAttention(config.dim, config.num_heads).double()
    shared = MultiHeadAttention(config.dim, config.num_heads).double()
    for name, linear in layer.named_children():
        getattr(shared, name).weight.data.copy_(linear.weight)
        getattr(shared, name).bias.data.zero_()
    # (N, N) as (H, N, D): a head's columns of the matrix that multiplies from the right
    heads = [
        each.weight.detach().numpy().T.reshape(config.dim, config.num_heads, -1).swapaxes(0, 1)
        for each in (layer.query, layer.key, layer.value)
    ]
    return {
        "NumPy": torch.from_numpy(multi_head_attention(x.numpy(), *heads, layer.output.weight.detach().numpy().T)),
        "PyTorch": layer(x),
        "attention.MultiHeadAttention": shared(x),
    }


def differences(outputs: dict[str, Tensor]) -> dict[str, float]:
    """The largest absolute difference of each implementation from the first."""
    first = next(iter(outputs.values()))
    return {name: (output - first).abs().max().item() for name, output in list(outputs.items())[1:]}


@torch.no_grad()
def run(config: Config) -> dict:
    """Compare the implementations, and both kinds of softmax, and return it in the form of a result file."""
    torch.manual_seed(config.seed)
    x = torch.randn(config.batch, config.length, config.dim, dtype=torch.float64)
    single, several = single_head(config, x), multi_head(config, x)
    w_query, w_key = np.random.default_rng(config.seed).standard_normal((2, config.dim, config.query_dim))
    tokens = x[0].numpy() / config.dim**0.5  # scores of a deviation near 1
    scores = (tokens @ w_query) @ (tokens @ w_key).T / config.query_dim**0.5
    sentence, looks_for = sentence_matrices()
    return {
        "question": "deep_features",
        "run": f"self_attention-b{config.batch}-l{config.length}-n{config.dim}-q{config.query_dim}-v{config.value_dim}",
        "config": {**vars(config), "script": "self_attention"},
        "seeds": [config.seed],
        "data": {"name": "random tokens", "source": "synthetic", "sizes": {"sequences": config.batch}},
        "differences": {"one head": differences(single), "multi-head": differences(several)},
        "shapes": shapes(config),
        "maps": {
            "softmax": np.round(softmax(scores), 4).tolist(),
            "exercise": np.round(exercise_softmax(scores), 4).tolist(),
        },
        "sentence": {
            "words": SENTENCE,
            "weights": np.round(attention_weights(sentence, looks_for, np.eye(len(FEATURES))), 3).tolist(),
        },
    }


def shapes(config: Config) -> list[list[str]]:
    """Each array of one head: its name, its shape, and where the dimensions come from."""
    b, n, d, q, v = config.batch, config.length, config.dim, config.query_dim, config.value_dim
    return [
        ["x", f"{b} x {n} x {d}", "sequences x tokens x features"],
        ["W_Q, W_K", f"{d} x {q}", "features of a token x features of a query and a key, which must agree"],
        ["W_V", f"{d} x {v}", "features of a token x features of a value, which are free"],
        ["Q = x W_Q, K = x W_K", f"{b} x {n} x {q}", "a query and a key for each token"],
        ["V = x W_V", f"{b} x {n} x {v}", "a value for each token"],
        ["Q K^T / sqrt(d_k)", f"{b} x {n} x {n}", "a score for each query (row) and key (column)"],
        ["softmax", f"{b} x {n} x {n}", "weights: each row sums to 1"],
        ["output", f"{b} x {n} x {v}", "a mean of values for each token: rows of the queries, features of the values"],
    ]


def print_result(result: dict) -> None:
    """The shapes, the differences, and where a word of the sentence looks."""
    for name, shape, meaning in result["shapes"]:
        print(f"{name:22}{shape:16}{meaning}")
    for kind, found in result["differences"].items():
        for name, difference in found.items():
            print(f"{kind}: NumPy and {name} differ by at most {difference:.1e}")
    maps = {name: np.array(rows) for name, rows in result["maps"].items()}
    print(
        f"weights run from {maps['softmax'].min():.3f} to {maps['softmax'].max():.3f};"
        f" with the exercise's softmax all are {maps['exercise'].min():.4f}"
    )
    words, weights = result["sentence"]["words"], np.array(result["sentence"]["weights"])
    row = words.index("it")
    print(f'"{" ".join(words)}": "it" looks at "{words[weights[row].argmax()]}" ({weights[row].max():.2f})')


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    torch.set_num_threads(1)
    result = run(config)
    path = records.save_results(config.out, result)
    with command_line.attempt(f"drawing {path}"):
        from deep_features import plots

        drawn = plots.draw([path], Path(config.out) / "plots")
    print_result(result)
    print("results and plots:", path, *(plot for plot in drawn if plot.suffix == ".png"), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
