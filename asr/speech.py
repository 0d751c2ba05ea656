"""What of a recording is speech: faults of the recording are taken out, and long stretches in which nobody speaks."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from common.speech.audio import SAMPLE_RATE, SILENCE

# --- faults of a recording ---------------------------------------------------------------------------

WILD = 3  # times as far from its neighbours as any other sample within 20 ms, and
WILD_SHARE = 0.4  # of the highest peak: a click. Of LJ Speech's clips one in a hundred has such a sample
OFFSET = 0.01  # of the highest peak: what is less, 40 dB below it, stays as it is


def without_faults(samples: np.ndarray, rate: int) -> np.ndarray:
    """Sound (n,) at `rate` Hz without clicks of one or two samples, which are interpolated, and without an offset."""
    found = torch.from_numpy(samples)
    good = ~_clicks(found, rate).numpy()
    if good.any():
        samples = np.interp(np.arange(len(samples)), good.nonzero()[0], samples[good]).astype(np.float32)
    offset = samples.mean(dtype=np.float64).astype(np.float32)
    return samples - offset if abs(offset) > OFFSET * np.abs(samples).max() else samples


def _clicks(samples: Tensor, rate: int) -> Tensor:
    """Which samples (n,) stick out from their neighbours on both sides."""
    if len(samples) < 3:
        return torch.zeros_like(samples, dtype=torch.bool)
    around = F.pad(samples[None], (2, 2), mode="reflect")[0]  # (n + 4,)
    jump = torch.minimum((samples - around[:-4]).abs(), (samples - around[4:]).abs())  # (n,)
    size = max(1, rate // 1000)
    blocks = F.pad(jump, (0, -len(jump) % size)).view(-1, size).amax(1)  # the largest of each millisecond
    highest = F.max_pool1d(F.pad(blocks[None], (21, 21)), 20, 1)[0]  # of 20 ms
    usual = torch.maximum(highest[: len(blocks)], highest[23:])  # before and after, not of the blocks beside
    usual = usual.repeat_interleave(size)[: len(samples)]
    return (jump > WILD * usual) & (jump > WILD_SHARE * samples.abs().max())


# --- pauses ------------------------------------------------------------------------------------------

LONG_PAUSE = 0.7  # seconds; LJ Speech's speaker makes none as long
MARGIN = 0.5  # seconds of a long pause that are kept at most beside speech, in which a word may die away
LAG = 0.25  # seconds by which the network may notice late that speech has ended, or early that it begins
FRAME = SAMPLE_RATE // 500  # of which the level is measured
STEADY = 3.0  # decibels around the level of a pause: what differs by more, so many frames long, is not the pause
UNSTEADY_FRAMES = 3
AUDIBLE = 2e-3  # of the highest peak: what one sample needs to be speech, not the silence after it


def spans_to_keep(samples: Tensor) -> list[tuple[int, int]]:
    """Where in a recording (n,) at 16 kHz somebody speaks, shorter pauses included; [] where nobody does.

    Silero's network finds speech (github.com/snakers4/silero-vad). It looks at 32 ms at a time, and takes its time:
    so the sound itself says where a long pause begins and ends, as soon as its level is the pause's own.
    """
    peak = samples.abs().max()
    if peak < SILENCE:
        return []
    share = "{desc}: {percentage:.0f}%|{bar}|"
    with tqdm(total=100, desc="looking for speech", bar_format=share, leave=False, disable=None) as progress:
        found = _detector()(
            samples / peak, progress_tracking_callback=lambda share: progress.update(share - progress.n)
        )
    if not found:
        return []
    inside = [edge for span in found for edge in (span["start"], span["end"])]
    edges = [0, *inside, len(samples)]
    kept = [0]
    for start, stop in zip(edges[::2], edges[1::2], strict=True):  # of each pause
        if stop - start >= LONG_PAUSE * SAMPLE_RATE:
            kept += _steady_part(samples, start, stop)
    kept.append(len(samples))
    return [(start, stop) for start, stop in zip(kept[::2], kept[1::2], strict=True) if stop > start]


def _steady_part(samples: Tensor, start: int, stop: int) -> tuple[int, int]:
    """Between which samples a long pause can be left out: from the first to the last that has the pause's level."""
    first = _end_of_speech(samples, start, stop) if start else 0
    if stop == len(samples):
        return first, stop
    last = len(samples) - _end_of_speech(samples.flip(0), len(samples) - stop, len(samples) - start)
    return first, max(first, last)


def _end_of_speech(samples: Tensor, start: int, stop: int) -> int:
    """The sample after the last one that belongs to what was said before a pause, to which all samples are given."""
    level = _levels(samples[start:stop]).median()
    begin = max(0, start - round(LAG * SAMPLE_RATE))
    unsteady = (_levels(samples[begin : start + round(MARGIN * SAMPLE_RATE)]) - level).abs() > STEADY
    runs = unsteady.unfold(0, UNSTEADY_FRAMES, 1).all(1).nonzero()[:, 0]  # where they begin
    if not len(runs):
        return begin
    frame = begin + int(runs[-1] + UNSTEADY_FRAMES - 1) * FRAME  # the last one, which may be a pause in part
    audible = max(4 * 10 ** (float(level) / 20), AUDIBLE * float(samples.abs().max()))
    loud = (samples[frame : frame + FRAME].abs() > audible).nonzero()
    return frame + int(loud[-1]) + 1 if len(loud) else frame


def _levels(samples: Tensor) -> Tensor:
    """Of each frame, in decibels."""
    return 10 * samples[: len(samples) // FRAME * FRAME].view(-1, FRAME).square().mean(1).clamp_min(1e-10).log10()


@functools.cache
def _detector():
    """From sound (n,) to the stretches of it in which somebody speaks: [{"start": sample, "end": sample}, …]."""
    threads = torch.get_num_threads()
    import silero_vad  # here, as it takes time, and sets the number of threads of the whole process to 1

    torch.set_num_threads(threads)
    return functools.partial(silero_vad.get_speech_timestamps, model=silero_vad.load_silero_vad(), speech_pad_ms=0)
