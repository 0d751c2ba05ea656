"""The encoder and the two decoders of Question 3 (homework, Appendices A to C).

Letters: B batch, T frames of a spectrogram, S encoder positions (T / 2), F mel bins, N tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention import Block, MultiHeadAttention, SubBlock, sinusoidal_positions
from common.speech.text import MAX_TOKENS, VOCABULARY


class Memory(NamedTuple):
    """What a decoder attends to: the encoder's output (B, S, hidden_dim), and where that is padding (B, S)."""

    encoded: Tensor
    padding: Tensor


def padding_mask(lengths: Tensor, longest: int) -> Tensor:
    """True beyond each length: (B,) -> (B, longest)."""
    return torch.arange(longest, device=lengths.device) >= lengths[:, None]


class Encoder(nn.Module):
    """Two convolutions, the second halving the length, positions, `num_blocks` blocks (Appendix B)."""

    def __init__(self, mel_bins: int, hidden_dim: int, num_heads: int, num_blocks: int, kernel: str = "softmax"):
        super().__init__()
        self.conv1 = nn.Conv1d(mel_bins, hidden_dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(hidden_dim, hidden_dim, kernel_size=3, padding=1, stride=2)
        self.blocks = nn.ModuleList(Block(hidden_dim, num_heads, kernel) for _ in range(num_blocks))

    def forward(self, features: Tensor, lengths: Tensor) -> Memory:
        """Log-mel features (B, T, F), of which `lengths` (B,) frames count -> Memory of (T + 1) // 2 positions."""
        # what lies beyond a clip's end is zeroed before each convolution, or it would leak into the last frames
        outside = padding_mask(lengths, features.shape[1])[:, None]  # (B, 1, T)
        x = F.gelu(self.conv1(features.mT.masked_fill(outside, 0)))  # (B, hidden_dim, T)
        x = F.gelu(self.conv2(x.masked_fill(outside, 0))).mT  # (B, S, hidden_dim)
        x = x + sinusoidal_positions(x.shape[1], x.shape[2]).to(x)
        padding = padding_mask((lengths + 1) // 2, x.shape[1])
        for block in self.blocks:
            x = block(x, key_padding_mask=padding)
        return Memory(x, padding)


class TextDecoder(nn.Module):
    """What both decoders share: the embedding, the cross-attention block and the logits, which `_forward` joins.

    `_forward(tokens, memory, state)` takes the tokens (B, n) after those that `state` has seen, and returns the
    logits (B, n, V) and the state after them. A generation starts with the state {}; None (training) keeps none.
    """

    def __init__(self, hidden_dim: int, num_heads: int, vocabulary_size: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, hidden_dim)
        self.cross_block = Block(hidden_dim, num_heads)
        self.output_norm = nn.LayerNorm(hidden_dim)
        self.output = nn.Linear(hidden_dim, vocabulary_size)

    def forward(self, tokens: Tensor, memory: Memory) -> Tensor:
        """Teacher forcing: tokens (B, N) -> logits of the token after each (B, N, V)."""
        return self._forward(tokens, memory, None)[0]

    def _logits(self, x: Tensor, memory: Memory, state: dict | None) -> Tensor:
        cache = None if state is None else state.setdefault("cross", {})
        x = self.cross_block(x, memory.encoded, key_padding_mask=memory.padding, cache=cache)  # (B, n, hidden_dim)
        return self.output(self.output_norm(x))  # (B, n, V)


class TextDecoderRecurrent(TextDecoder):
    """Embedding, layer norm, LSTM, one cross-attention block, layer norm, logits."""

    def __init__(self, hidden_dim: int, num_heads: int, vocabulary_size: int = len(VOCABULARY)):
        super().__init__(hidden_dim, num_heads, vocabulary_size)
        self.input_norm = nn.LayerNorm(hidden_dim)
        self.lstm = nn.LSTM(hidden_dim, hidden_dim, batch_first=True)

    def _forward(self, tokens: Tensor, memory: Memory, state: dict | None) -> tuple[Tensor, dict | None]:
        x = self.input_norm(self.embedding(tokens))  # (B, n, hidden_dim)
        x, hidden = self.lstm(x, state.get("lstm") if state else None)
        if state is not None:
            state["lstm"] = hidden
        return self._logits(x, memory, state), state

    @staticmethod
    def select(state: dict, rows: Tensor) -> dict:
        """The state of some rows of the batch, in that order."""
        hidden = tuple(x[:, rows] for x in state["lstm"])
        return {"lstm": hidden, "cross": {name: x[rows] for name, x in state["cross"].items()}}


class TextDecoderTransformer(TextDecoder):
    """Embedding and learned positions, causal self-attention, one cross-attention block, layer norm, logits."""

    def __init__(self, hidden_dim: int, num_heads: int, vocabulary_size: int = len(VOCABULARY)):
        super().__init__(hidden_dim, num_heads, vocabulary_size)
        self.positions = nn.Embedding(MAX_TOKENS, hidden_dim)
        self.self_attention = SubBlock(hidden_dim, MultiHeadAttention(hidden_dim, num_heads))

    def _forward(self, tokens: Tensor, memory: Memory, state: dict | None) -> tuple[Tensor, dict | None]:
        """With a state one token at a time. Raises ValueError beyond MAX_TOKENS tokens: there are no more positions."""
        seen = state.get("seen", 0) if state else 0
        after = seen + tokens.shape[1]
        if after > MAX_TOKENS:
            raise ValueError(f"{after} tokens, but the decoder has {MAX_TOKENS} positions")
        x = self.embedding(tokens) + self.positions.weight[seen:after]  # (B, n, hidden_dim)
        x = self.self_attention(x, causal=True, cache=None if state is None else state.setdefault("self", {}))
        if state is not None:
            state["seen"] = after
        return self._logits(x, memory, state), state

    @staticmethod
    def select(state: dict, rows: Tensor) -> dict:
        """The state of some rows of the batch, in that order."""
        caches = {name: {key: x[rows] for key, x in state[name].items()} for name in ("self", "cross")}
        return {"seen": state["seen"], **caches}


DECODERS = {"lstm": TextDecoderRecurrent, "transformer": TextDecoderTransformer}


class SpeechRecognizer(nn.Module):
    """Encoder, one of the decoders, and a linear CTC head on the encoder that helps to train it."""

    def __init__(
        self,
        decoder: str,
        mel_bins: int = 80,
        hidden_dim: int = 200,
        num_heads: int = 2,
        num_blocks: int = 4,
        kernel: str = "softmax",
    ):
        super().__init__()
        if decoder not in DECODERS:
            raise ValueError(f"unknown decoder {decoder!r}: expected one of {', '.join(DECODERS)}")
        # what rebuilds it, beside the features that it is given
        self.settings = {
            "decoder": decoder,
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "num_blocks": num_blocks,
            "kernel": kernel,
        }
        self.encoder = Encoder(mel_bins, hidden_dim, num_heads, num_blocks, kernel)
        self.decoder = DECODERS[decoder](hidden_dim, num_heads)
        self.ctc_head = nn.Linear(hidden_dim, len(VOCABULARY))

    def forward(self, features: Tensor, lengths: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, F), lengths (B,), tokens (B, N) -> logits of the decoder (B, N, V) and of CTC (B, S, V)."""
        memory = self.encoder(features, lengths)
        return self.decoder(tokens, memory), self.ctc_head(memory.encoded)

    @torch.no_grad()
    def cross_attention(self, features: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Where the decoder looks to write the token after each: weights (B, H, N, S), under teacher forcing."""
        attention = self.decoder.cross_block.attention.module
        inputs, memory = self._inputs_of(attention, features, lengths, tokens)
        return attention.weights(*inputs, memory.padding)

    @torch.no_grad()
    def self_attention(self, features: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Where the Transformer decoder looks in its own text: weights (B, H, N, N), under teacher forcing."""
        attention = self.decoder.self_attention.module
        (x,), _ = self._inputs_of(attention, features, lengths, tokens)
        return attention.weights(x, x, causal=True)

    def _inputs_of(
        self, module: nn.Module, features: Tensor, lengths: Tensor, tokens: Tensor
    ) -> tuple[tuple[Tensor, ...], Memory]:
        """What a module of the decoder is given under teacher forcing, and the encoder's output."""
        seen = []
        hook = module.register_forward_pre_hook(lambda _, args: seen.append(args))
        try:
            memory = self.encoder(features, lengths)
            self.decoder(tokens, memory)
        finally:
            hook.remove()
        return seen[0], memory
