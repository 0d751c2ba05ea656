"""Sound files to text with a trained recogniser.

Letters: B pieces of a recording, T frames, F mel bins.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from asr.generate import search
from asr.model import SpeechRecognizer
from asr.speech import spans_to_keep, without_faults
from common.speech.audio import Features, log_mel, resample
from common.speech.sound_files import read_sound
from common.speech.text import decode

SUFFIXES = (
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aiff",
    ".aif",
    ".aifc",
    ".au",
    ".snd",
    ".caf",
    ".w64",
    ".rf64",
)
LONGEST_PIECE = 10.0  # seconds: about the longest clip of LJ Speech
PAUSE = 0.1  # seconds over which loudness is averaged when a pause is looked for
BREAK = 5.0  # seconds of pause after which a new piece begins
BATCH = 16  # pieces


class Segment(NamedTuple):
    """The text of a piece, and where in the file it is, in seconds."""

    start: float
    stop: float
    text: str


class Transcript(NamedTuple):
    segments: list[Segment]
    notes: list[str]  # what a reader of the text should know

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments if segment.text)


class Piece(NamedTuple):
    """Sound without long pauses, (n,), and between which samples of the recording it is."""

    sound: Tensor
    start: int
    stop: int


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


def pieces_of_speech(samples: Tensor, rate: int) -> list[Piece]:
    """The speech of a recording (n,), in pieces that the recogniser can take in; [] where nobody speaks."""
    spans = spans_to_keep(samples)
    breaks = [i for i in range(1, len(spans)) if spans[i][0] - spans[i - 1][1] >= BREAK * rate]
    groups = (spans[first:last] for first, last in itertools.pairwise([0, *breaks, len(spans)]) if last > first)
    return [piece for group in groups for piece in _pieces_of_group(samples, rate, group)]


def _pieces_of_group(samples: Tensor, rate: int, spans: list[tuple[int, int]]) -> Iterator[Piece]:
    """Of spans that are joined, so that a sentence with a pause in it stays one."""
    ends = list(itertools.accumulate((stop - start for start, stop in spans), initial=0))  # in what is joined

    def place(position: int) -> int:
        """Of a sample of what is joined, in the recording."""
        span = bisect.bisect_right(ends, position) - 1
        return spans[span][0] + position - ends[span]

    done = 0
    for sound in cut_at_pauses(torch.cat([samples[start:stop] for start, stop in spans]), rate):
        yield Piece(sound, place(done), place(done + len(sound) - 1) + 1)
        done += len(sound)


def transcribe(
    model: SpeechRecognizer, features: Features, path: str | Path, beam: int = 8, ctc_weight: float = 0.3
) -> Transcript:
    """The text of one sound file of any rate and length, as `beam_search` finds it; none where nobody speaks.

    Raises what `read_sound` raises; a file that ends early is transcribed as far as it goes.
    """
    samples, rate, complete = read_sound(path)
    notes = [] if complete else ["the file ends early: what follows is missing"]
    samples = resample(torch.from_numpy(without_faults(samples, rate)), rate)
    pieces = pieces_of_speech(samples, features.sample_rate)
    if not pieces:
        notes.append("nobody speaks in it")
    segments = []
    with tqdm(total=len(pieces), desc=Path(path).name, unit="piece", leave=False, disable=None) as progress:
        for start in range(0, len(pieces), BATCH):
            batch = pieces[start : start + BATCH]
            texts = recognise([piece.sound for piece in batch], model, features, beam, ctc_weight)
            spans = [[round(edge / features.sample_rate, 3) for edge in (piece.start, piece.stop)] for piece in batch]
            segments += [Segment(*span, text) for span, text in zip(spans, texts, strict=True)]
            progress.update(len(batch))
    return Transcript(segments, notes)


def recognise(
    sounds: list[Tensor], model: SpeechRecognizer, features: Features, beam: int, ctc_weight: float
) -> list[str]:
    """The text of each of B pieces of sound (n,)."""
    spectrograms = [log_mel(sound, features) for sound in sounds]  # B times (T, F)
    lengths = torch.tensor([len(spectrogram) for spectrogram in spectrograms])
    batch = torch.nn.utils.rnn.pad_sequence(spectrograms, batch_first=True)  # (B, T, F)
    return [decode(tokens).strip() for tokens in search(beam, ctc_weight)(model, batch, lengths)]
