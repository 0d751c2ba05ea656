"""Two towers: one reads speech, the other its text, and both give vectors that can be compared.

CLIP (Radford et al. 2021) does so with pictures and captions.

Letters: B batch, T frames of a spectrogram, S positions of speech (T / 4), N characters, F mel bins, D width,
E dimensions of the vectors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention import sinusoidal_positions
from common.speech.text import EMPTY, VOCABULARY
from lab3.translators import Embedding, Layer

WARMEST, COLDEST = 1 / 0.07, 100.0  # what similarities are multiplied by: at first, and at most, as in CLIP
HALVINGS = 2  # of the speech's length, by convolutions


def padding_mask(lengths: Tensor, longest: int) -> Tensor:
    """True beyond each length: (B,) -> (B, longest)."""
    return torch.arange(longest, device=lengths.device) >= lengths[:, None]


class Reader(nn.Module):
    """Layers of a Transformer, or none, over positions (B, n, D), their mean, and its direction in the common space.

    Without layers a tower is a bag of sounds, or of letters. With them it starts as one: they change nothing at first.
    """

    def __init__(self, dim: int, num_layers: int, num_heads: int, dropout: float, outputs: int):
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(dim, num_heads, 2 * dim, dropout, rotary=False, crosses=False) for _ in range(num_layers)
        )
        self.norm, self.project = nn.LayerNorm(dim), nn.Linear(dim, outputs, bias=False)
        for layer in self.layers:
            for last in (layer.self_attention.output, layer.mlp[-1]):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """Vectors (B, E) of length one; `padding` (B, n) counts for nothing."""
        for layer in self.layers:
            x = layer(x, padding)
        kept = ~padding[:, :, None]  # (B, n, 1)
        mean = (self.norm(x) * kept).sum(1) / kept.sum(1)  # (B, D)
        return F.normalize(self.project(mean), dim=-1)


class SpeechTower(nn.Module):
    """Three convolutions, two of them halving the length, positions, and a reader."""

    def __init__(self, mel_bins: int, dim: int, **reader):
        super().__init__()
        strides = (1, *[2] * HALVINGS)
        inputs = (mel_bins, *[dim] * HALVINGS)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels, dim, 3, stride, padding=1) for channels, stride in zip(inputs, strides, strict=True)
        )
        self.reader = Reader(dim, **reader)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Log-mel features (B, T, F), of which `lengths` (B,) frames count -> (B, E)."""
        x = features.mT  # (B, F, T)
        for convolution in self.convolutions:
            # what lies beyond a clip's end is zeroed before each, or it would leak into the last frames
            x = F.gelu(convolution(x.masked_fill(padding_mask(lengths, x.shape[2])[:, None], 0)))
            lengths = (lengths - 1) // convolution.stride[0] + 1
        x = x.mT  # (B, S, D)
        return self.reader(x + sinusoidal_positions(*x.shape[1:]).to(x), padding_mask(lengths, x.shape[1]))


class TextTower(nn.Module):
    """Characters with their positions, and a reader."""

    def __init__(self, dim: int, dropout: float, **reader):
        super().__init__()
        self.embedding = Embedding(len(VOCABULARY), dim, "sinusoidal", dropout)
        self.reader = Reader(dim, dropout=dropout, **reader)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N), padded with EMPTY -> (B, E)."""
        return self.reader(self.embedding(tokens), tokens == EMPTY)


class TwoTowers(nn.Module):
    """Both towers, and what their similarities are multiplied by: the inverse of a temperature, which is learnt."""

    def __init__(self, mel_bins: int, dim: int, num_layers: int, num_heads: int, dropout: float, outputs: int):
        super().__init__()
        reader = {"num_layers": num_layers, "num_heads": num_heads, "dropout": dropout, "outputs": outputs}
        self.speech = SpeechTower(mel_bins, dim, **reader)
        self.text = TextTower(dim, **reader)
        self.log_scale = nn.Parameter(torch.tensor(math.log(WARMEST)))

    def forward(self, features: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """How alike each clip and each text of a batch are, as logits (B, B): a row for each clip."""
        return self.scale() * self.speech(features, lengths) @ self.text(tokens).T

    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(max=COLDEST)


def contrastive_losses(logits: Tensor) -> Tensor:
    """InfoNCE in both directions (van den Oord et al. 2018), (B,): row and column i belong together, no others do."""
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(logits.T, own, reduction="none")) / 2
