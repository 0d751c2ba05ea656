"""Encoder-decoders that translate: a Transformer of the shared attention, and an LSTM with attention as its baseline.

Letters: B batch, S tokens of a source sentence, N tokens of a target sentence, D width, H heads, V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attention import MultiHeadAttention, RotaryAttention, sinusoidal_positions
from lab3.pairs import PAD

POSITIONS = ("sinusoidal", "learned", "rotary")
LONGEST = 256  # positions that are learned, and the most tokens that are written


class Memory(NamedTuple):
    """What a decoder attends to: the encoder's output (B, S, D), and where that is padding (B, S)."""

    encoded: Tensor
    padding: Tensor


class Embedding(nn.Module):
    """Tokens (B, n) as vectors (B, n, D), and features (B, n, D) as scores of tokens (B, n, V), by one matrix.

    Positions, sinusoidal or learned, are added here; rotary ones are a matter of attention (Press and Wolf 2017).
    """

    def __init__(self, vocabulary: int, dim: int, positions: str, dropout: float):
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"unknown positions {positions!r}: expected one of {', '.join(POSITIONS)}")
        self.tokens = nn.Embedding(vocabulary, dim)
        nn.init.normal_(self.tokens.weight, std=dim**-0.5)
        self.positions = nn.Embedding(LONGEST, dim) if positions == "learned" else None
        if self.positions:
            nn.init.normal_(self.positions.weight, std=dim**-0.5)
        self.sinusoidal, self.dropout = positions == "sinusoidal", nn.Dropout(dropout)

    def forward(self, tokens: Tensor, start: int = 0) -> Tensor:
        """`start` is the position of the first token. Raises ValueError beyond LONGEST."""
        stop = start + tokens.shape[1]
        x = self.tokens(tokens) * math.sqrt(self.tokens.embedding_dim)  # (B, n, D)
        if self.positions:
            if stop > LONGEST:
                raise ValueError(f"a sentence has {stop} tokens, but {LONGEST} positions were learned")
            x = x + self.positions.weight[start:stop]
        elif self.sinusoidal:
            x = x + sinusoidal_positions(stop, x.shape[-1])[start:].to(x)
        return self.dropout(x)

    def logits(self, x: Tensor) -> Tensor:
        return x @ self.tokens.weight.T


class Layer(nn.Module):
    """Self-attention, attention to a memory if it `crosses`, and an MLP, each as x + f(LayerNorm(x)) (eq:pre-norm)."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, dropout: float, rotary: bool, crosses: bool):
        super().__init__()
        self.self_attention = (RotaryAttention if rotary else MultiHeadAttention)(dim, num_heads)
        self.cross_attention = MultiHeadAttention(dim, num_heads) if crosses else None
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp_dim, dim)
        )  # fmt: skip
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 + crosses))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, padding: Tensor | None = None, memory: Memory | None = None, state: dict | None = None
    ) -> Tensor:
        """x (B, n, D) -> (B, n, D): in an encoder `padding` (B, n) is hidden, in a decoder what comes later."""
        own, other = (None, None) if state is None else (state.setdefault(kind, {}) for kind in ("self", "cross"))
        normed = self.norms[0](x)
        x = x + self.dropout(
            self.self_attention(normed, causal=memory is not None, key_padding_mask=padding, cache=own)
        )  # fmt: skip
        if memory is not None:
            looked_up = self.cross_attention(
                self.norms[2](x), memory.encoded, key_padding_mask=memory.padding, cache=other
            )  # fmt: skip
            x = x + self.dropout(looked_up)
        return x + self.dropout(self.mlp(self.norms[1](x)))


class Encoder(nn.Module):
    """Tokens (B, S) -> Memory."""

    def __init__(self, embedding: Embedding, layers: list[Layer], dim: int):
        super().__init__()
        self.embedding, self.layers, self.norm = embedding, nn.ModuleList(layers), nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Memory:
        padding, x = tokens == PAD, self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, padding)
        return Memory(self.norm(x), padding)


class Decoder(nn.Module):
    """Tokens (B, n) after those that the state has seen, and a memory -> logits (B, n, V) (see `common.search`)."""

    def __init__(self, embedding: Embedding, layers: list[Layer], dim: int):
        super().__init__()
        self.embedding, self.layers, self.norm = embedding, nn.ModuleList(layers), nn.LayerNorm(dim)

    def _forward(self, tokens: Tensor, memory: Memory, state: dict | None) -> tuple[Tensor, dict | None]:
        seen = state.get("seen", 0) if state else 0
        states = [None] * len(self.layers) if state is None else state.setdefault("layers", [{} for _ in self.layers])
        x = self.embedding(tokens, seen)  # (B, n, D)
        for layer, own in zip(self.layers, states, strict=True):
            x = layer(x, memory=memory, state=own)
        if state is not None:
            state["seen"] = seen + tokens.shape[1]
        return self.embedding.logits(self.norm(x)), state

    @staticmethod
    def select(state: dict, rows: Tensor) -> dict:
        """The state of some rows of the batch, in that order."""
        layers = [
            {kind: {name: x[rows] for name, x in cache.items()} for kind, cache in layer.items()}
            for layer in state["layers"]
        ]
        return {"seen": state["seen"], "layers": layers}

    @torch.no_grad()
    def attention(self, tokens: Tensor, memory: Memory) -> Tensor:
        """Where each layer and head looks in the memory to write the token after each: (layers, B, H, n, S)."""
        x, found = self.embedding(tokens), []
        for layer in self.layers:
            after = x + layer.self_attention(layer.norms[0](x), causal=True)
            found.append(layer.cross_attention.weights(layer.norms[2](after), memory.encoded, memory.padding))
            x = layer(x, memory=memory)
        return torch.stack(found)


class Translator(nn.Module):
    """Sources (B, S) and targets so far (B, N) -> logits of the token after each (B, N, V)."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, sources: Tensor, targets: Tensor) -> Tensor:
        return self.decoder._forward(targets, self.encoder(sources), None)[0]


def transformer(
    vocabulary: int, dim: int, num_layers: int, num_heads: int, mlp_dim: int, dropout: float, positions: str
) -> Translator:
    """The Transformer (Vaswani et al. 2017), with normalisation before each part."""
    embedding = Embedding(vocabulary, dim, positions, dropout)
    encoder, decoder = (
        [Layer(dim, num_heads, mlp_dim, dropout, positions == "rotary", crosses) for _ in range(num_layers)]
        for crosses in (False, True)
    )
    return Translator(Encoder(embedding, encoder, dim), Decoder(embedding, decoder, dim))


# --- the baseline ------------------------------------------------------------------------------------


class LSTMEncoder(nn.Module):
    """Tokens (B, S) -> Memory, by an LSTM in both directions; padding is never read."""

    def __init__(self, embedding: Embedding, dim: int, num_layers: int, dropout: float):
        super().__init__()
        self.embedding, self.dropout = embedding, nn.Dropout(dropout)
        between = dropout if num_layers > 1 else 0.0
        self.lstm = nn.LSTM(dim, dim // 2, num_layers, batch_first=True, bidirectional=True, dropout=between)

    def forward(self, tokens: Tensor) -> Memory:
        padding = tokens == PAD
        lengths = (~padding).sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(tokens), lengths, True, enforce_sorted=False)
        encoded, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], True, total_length=tokens.shape[1])
        return Memory(self.dropout(encoded), padding)  # (B, S, D)


class LSTMDecoder(nn.Module):
    """An LSTM whose output looks up the memory, and joins what it finds there (Luong et al. 2015)."""

    def __init__(self, embedding: Embedding, dim: int, num_layers: int, dropout: float):
        super().__init__()
        self.embedding, self.dropout = embedding, nn.Dropout(dropout)
        between = dropout if num_layers > 1 else 0.0
        self.lstm = nn.LSTM(dim, dim, num_layers, batch_first=True, dropout=between)
        self.cross_attention, self.join = MultiHeadAttention(dim, num_heads=1), nn.Linear(2 * dim, dim)

    def _forward(self, tokens: Tensor, memory: Memory, state: dict | None) -> tuple[Tensor, dict | None]:
        x, hidden = self.lstm(self.embedding(tokens), state.get("lstm") if state else None)  # (B, n, D)
        cache = None if state is None else state.setdefault("cross", {})
        context = self.cross_attention(x, memory.encoded, key_padding_mask=memory.padding, cache=cache)
        joined = self.dropout(self.join(torch.cat([x, context], -1)).tanh())
        if state is not None:
            state["lstm"] = hidden
        return self.embedding.logits(joined), state

    @staticmethod
    def select(state: dict, rows: Tensor) -> dict:
        """The state of some rows of the batch, in that order."""
        hidden = tuple(x[:, rows] for x in state["lstm"])
        return {"lstm": hidden, "cross": {name: x[rows] for name, x in state["cross"].items()}}

    @torch.no_grad()
    def attention(self, tokens: Tensor, memory: Memory) -> Tensor:
        """Where it looks in the memory to write the token after each: (1, B, 1, n, S)."""
        x, _ = self.lstm(self.embedding(tokens))
        return self.cross_attention.weights(x, memory.encoded, memory.padding)[None]


def lstm(vocabulary: int, dim: int, num_layers: int, dropout: float) -> Translator:
    """An encoder-decoder of LSTMs with attention; it needs no positions."""
    embedding = Embedding(vocabulary, dim, "rotary", dropout)
    parts = (embedding, dim, num_layers, dropout)
    return Translator(LSTMEncoder(*parts), LSTMDecoder(*parts))
