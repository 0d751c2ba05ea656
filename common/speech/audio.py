"""From a sound file to a log-mel spectrogram.

Letters: T frames of a spectrogram, F mel bins.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchaudio.transforms import MelSpectrogram, Resample

from common.speech.defaults import HOP_MS
from common.speech.sound_files import LONGEST_SECONDS, UnusableSound, read_sound

SAMPLE_RATE = 16000  # Hz, of everything that read_audio returns
DYNAMIC_RANGE = 8  # decades below the loudest point of a spectrogram that are kept, as in Whisper
SILENCE = 1e-4  # of full scale, three steps of 16-bit sound: a clip that stays below holds no speech


@dataclass(frozen=True)
class Features:
    """Settings of a log-mel spectrogram: one frame of `mel_bins` values every `hop_ms`, of `window_ms` of sound."""

    sample_rate: int = SAMPLE_RATE  # Hz
    window_ms: float = 25
    hop_ms: float = HOP_MS
    mel_bins: int = 80

    def __post_init__(self):
        if self.sample_rate != SAMPLE_RATE:
            raise ValueError(f"sample_rate is {self.sample_rate}, but sound is read at {SAMPLE_RATE} Hz")
        if not 1 <= self.hop_ms <= self.window_ms <= 100:
            raise ValueError(f"a hop of {self.hop_ms} ms and a window of {self.window_ms} ms: expected 1 to 100 ms, "
                             "the hop no longer than the window")  # fmt: skip
        if not 1 <= self.mel_bins <= self.window // 2:
            raise ValueError(f"mel_bins is {self.mel_bins}, but must be 1 to {self.window // 2} for this window")

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return round(self.sample_rate * self.hop_ms / 1000)


# --- sound -------------------------------------------------------------------------------------------


def read_audio(path: str | Path, longest_seconds: float = LONGEST_SECONDS) -> Tensor:
    """A complete sound file as (samples,), float32, at 16 kHz; channels are averaged.

    Raises what `read_sound` raises, and UnusableSound where the file ends early.
    """
    samples, rate, complete = read_sound(path, longest_seconds)
    if not complete:
        raise UnusableSound(path, "truncated")
    return resample(torch.from_numpy(samples), rate)


def resample(samples: Tensor, rate: int) -> Tensor:
    """(samples,) at `rate` Hz -> (samples,) at 16 kHz."""
    if rate == SAMPLE_RATE:
        return samples
    if math.gcd(rate, SAMPLE_RATE) < 25:
        rate = round(rate, -2)  # less than 1.3 % off in pitch; the filter of 22,257 Hz would take 1.4 GB
    return _resampler(rate)(samples)


@functools.lru_cache(maxsize=8)
def _resampler(rate: int) -> Resample:
    with torch.device("cpu"):  # whatever device is the default where it is first needed
        return Resample(rate, SAMPLE_RATE)


# --- spectrograms ------------------------------------------------------------------------------------


def log_mel(samples: Tensor, features: Features) -> Tensor:
    """Sound (samples,) -> log10 of its mel power spectrogram (T, F), float32, T = 1 + samples // hop.

    Loudness does not matter: what lies more than 8 decades below the loudest point is raised to there, as in Whisper
    (Radford et al. 2022); then each mel bin has mean 0 over the clip, and all of them together variance 1. Silence
    gives zeros. Sound shorter than a window is filled up with silence.
    """
    samples = torch.nn.functional.pad(samples, (0, max(0, features.window - len(samples))))
    # by the peak first: the square of a float's largest values would overflow
    samples = samples / samples.abs().max().clamp_min(1e-20)
    logarithm = _mel_spectrogram(features)(samples).mT.clamp_min(1e-10).log10()  # (T, F)
    logarithm = logarithm.clamp_min(logarithm.max() - DYNAMIC_RANGE)
    centred = logarithm - logarithm.mean(0)
    return centred / centred.square().mean().sqrt().clamp_min(1e-3)


@functools.cache
def _mel_spectrogram(features: Features) -> MelSpectrogram:
    # Slaney's mel scale, as in Whisper: on the other one, some filters fall between two bins of the transform
    with torch.device("cpu"):
        return MelSpectrogram(
            features.sample_rate,
            n_fft=features.window,
            hop_length=features.hop,
            n_mels=features.mel_bins,
            norm="slaney",
            mel_scale="slaney",
        )


def clip_features(path: Path, features: Features, longest_seconds: float) -> tuple[np.ndarray, str]:
    """Features (T, F), float16, of one clip of a corpus, and "" or the reason why there are none (0, F)."""
    none = np.zeros((0, features.mel_bins), np.float16)
    try:
        samples = read_audio(path, longest_seconds)
    except UnusableSound as error:
        return none, error.problem
    except OSError:
        return none, "unreadable"
    if samples.abs().max() < SILENCE:
        return none, "silent"
    return log_mel(samples, features).half().numpy(), ""
