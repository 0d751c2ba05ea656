"""From a sound file to a log-mel spectrogram.

Letters: T frames of a spectrogram, F mel bins.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import MelSpectrogram, Resample

SAMPLE_RATE = 16000  # Hz, of everything that read_audio returns
LOWEST_RATE = 4000  # Hz; below that there is no speech left to recognise
DYNAMIC_RANGE = 8  # decades below the loudest point of a spectrogram that are kept, as in Whisper
SILENCE = 1e-4  # of full scale, three steps of 16-bit sound: a clip that stays below holds no speech


@dataclass(frozen=True)
class Features:
    """Settings of a log-mel spectrogram: one frame of `mel_bins` values every `hop_ms`, of `window_ms` of sound."""

    sample_rate: int = SAMPLE_RATE  # Hz
    window_ms: float = 25
    hop_ms: float = 16.0
    mel_bins: int = 80

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.sample_rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return round(self.sample_rate * self.hop_ms / 1000)


class UnusableSound(ValueError):
    """A sound file that can't be used; `problem` says why in a word or two."""

    def __init__(self, path: str | Path, problem: str):
        super().__init__(f"{path} is {problem}: replace it by a complete sound file (WAV, FLAC, OGG, MP3)")
        self.problem = problem


# --- sound files -------------------------------------------------------------------------------------


def read_audio(path: str | Path) -> Tensor:
    """Any sound file that soundfile reads, as (samples,), float32, at 16 kHz; channels are averaged.

    Raises FileNotFoundError, or UnusableSound (a ValueError) for a file that is empty, truncated, unreadable, sampled
    below 4 kHz, or holds a sample that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no sound file {path}: check the name")
    if path.stat().st_size == 0:
        raise UnusableSound(path, "empty")
    try:
        with soundfile.SoundFile(path) as file:
            rate, promised = file.samplerate, file.frames
            channels = file.read(dtype="float32", always_2d=True)  # (samples, channels)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw files need more arguments
        raise UnusableSound(path, "unreadable") from error
    if len(channels) < promised or _is_cut_wav(path):
        raise UnusableSound(path, "truncated")
    if len(channels) == 0:
        raise UnusableSound(path, "empty")
    if rate < LOWEST_RATE:
        raise UnusableSound(path, f"sampled below {LOWEST_RATE} Hz")
    if not np.isfinite(channels).all():
        raise UnusableSound(path, "not finite")
    return _resample(torch.from_numpy(channels.mean(1)), rate)


def _is_cut_wav(path: Path) -> bool:
    """Whether a WAV file is shorter than its header says: libsndfile reads what is left without a word."""
    with path.open("rb") as file:
        header = file.read(8)
    promised = int.from_bytes(header[4:], "little") + 8
    # programs that write to a pipe promise about 2 or 4 GB, as they don't know; the last byte may be mere padding
    return header[:4] == b"RIFF" and promised < 0x7FFF0000 and promised > path.stat().st_size + 1


def _resample(samples: Tensor, rate: int) -> Tensor:
    """(samples,) at `rate` Hz -> (samples,) at 16 kHz."""
    if rate == SAMPLE_RATE:
        return samples
    if math.gcd(rate, SAMPLE_RATE) < 25:
        rate = round(rate, -2)  # less than 1.3 % off in pitch; the filter of 22,257 Hz would take 1.4 GB
    return _resampler(rate)(samples)


@functools.lru_cache(maxsize=8)
def _resampler(rate: int) -> Resample:
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
        if soundfile.info(path).duration > longest_seconds:
            return none, f"longer than {longest_seconds:g} s"  # seen before it is read: it may be hours
    except (soundfile.SoundFileError, TypeError):
        pass  # read_audio knows what is wrong
    try:
        samples = read_audio(path)
    except UnusableSound as error:
        return none, error.problem
    except OSError:
        return none, "unreadable"
    if samples.abs().max() < SILENCE:
        return none, "silent"
    return log_mel(samples, features).half().numpy(), ""
