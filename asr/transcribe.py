"""Sound files to text with a trained recogniser.

Letters: B pieces of a recording, T frames, F mel bins.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.audio import Features, log_mel, read_audio
from asr.generate import search
from asr.model import SpeechRecognizer
from asr.text import decode

LONGEST_PIECE = 10.0  # seconds: about the longest clip of LJ Speech
PAUSE = 0.1  # seconds over which loudness is averaged when a pause is looked for


def cut_at_pauses(samples: Tensor, rate: int, longest: float = LONGEST_PIECE) -> list[Tensor]:
    """Pieces of at most `longest` seconds of a recording (samples,), cut where the second half of each is quietest."""
    limit, window = int(longest * rate), int(PAUSE * rate)
    pieces = []
    while len(samples) > limit:
        loudness = F.avg_pool1d(samples[None, limit // 2 : limit].square(), window, stride=1)[0]
        cut = limit // 2 + int(loudness.argmin()) + window // 2
        pieces.append(samples[:cut])
        samples = samples[cut:]
    return [*pieces, samples]


def transcribe(
    model: SpeechRecognizer, features: Features, path: str | Path, beam: int = 8, ctc_weight: float = 0.3
) -> str:
    """The text of one sound file of any rate and length, as `beam_search` finds it."""
    pieces = cut_at_pauses(read_audio(path), features.sample_rate)
    spectrograms = [log_mel(piece, features) for piece in pieces]  # B times (T, F)
    lengths = torch.tensor([len(spectrogram) for spectrogram in spectrograms])
    batch = torch.nn.utils.rnn.pad_sequence(spectrograms, batch_first=True)  # (B, T, F)
    return " ".join(decode(tokens) for tokens in search(beam, ctc_weight)(model, batch, lengths)).strip()
