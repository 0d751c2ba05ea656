"""Sound files of any kind that libsndfile decodes, read block by block: what a header claims is checked first."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

LOWEST_RATE, HIGHEST_RATE = 4000, 384_000  # Hz; below there is no speech left to recognise, above no device
LONGEST_SECONDS = 12 * 3600.0  # of one file: 2.8 GB at 16 kHz
DENSEST = 1 << 16  # samples in a byte, more than any coding of silence has
BLOCK = 1 << 14  # numbers that are decoded at once; where a file is damaged, one block is lost


class UnusableSound(ValueError):
    """A sound file that can't be used; `problem` says why in a word or two."""

    def __init__(self, path: str | Path, problem: str):
        super().__init__(f"{path} is {problem}: replace it by a complete sound file (WAV, FLAC, OGG, MP3)")
        self.problem = problem


class Sound(NamedTuple):
    """What a sound file holds, its channels averaged."""

    samples: np.ndarray  # (samples,), float32
    rate: int  # Hz
    complete: bool  # False where the file ends before its header says


def read_sound(path: str | Path, longest_seconds: float = LONGEST_SECONDS) -> Sound:
    """The sound of a file, as much of it as there is.

    Raises FileNotFoundError, another OSError, or UnusableSound (a ValueError) for a file that is empty, unreadable,
    damaged (its header claims what its bytes can't hold), longer than `longest_seconds`, of a rate that no device
    has, or that holds a sample that is not finite.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"there is no sound file in {path}: name a folder that has some")
    if not path.is_file():
        raise FileNotFoundError(f"there is no sound file {path}: check the name")
    chunk = _sound_chunk(path)
    blocks, frames = [], 0
    try:
        with _silenced(), _Stream(_mended(path, chunk)) as file:
            rate, promised = file.samplerate, file.frames
            _check_header(path, file, longest_seconds)
            for block in _mono_blocks(file):
                blocks.append(block)
                frames += len(block)
                if frames > longest_seconds * rate:  # a stream that does not say how long it is
                    raise UnusableSound(path, f"longer than {longest_seconds:g} s")
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw files need more arguments
        if not blocks:
            raise UnusableSound(path, "unreadable" if path.stat().st_size else "empty") from error
        promised = UNKNOWN - 1  # damaged in the middle: it has more than was decoded
    if not frames:
        raise UnusableSound(path, "empty")
    samples = np.concatenate(blocks)
    if not np.isfinite(samples).all():
        raise UnusableSound(path, "not finite")
    whole = frames >= promised or promised >= UNKNOWN
    return Sound(samples, rate, whole and not _is_cut(path, chunk))


UNKNOWN = (1 << 63) - 1  # frames of a FLAC stream whose header does not say how many there are


class _Stream(soundfile.SoundFile):
    """A file that is read from its start to its end: libsndfile can't seek in every one that it can decode."""

    def seekable(self) -> bool:
        return False


def _check_header(path: Path, file: soundfile.SoundFile, longest_seconds: float) -> None:
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        above = file.samplerate > HIGHEST_RATE
        raise UnusableSound(path, f"sampled above {HIGHEST_RATE} Hz" if above else f"sampled below {LOWEST_RATE} Hz")
    if file.frames < UNKNOWN:
        if file.frames * file.channels > DENSEST * path.stat().st_size:
            raise UnusableSound(path, "damaged")
        if file.frames > longest_seconds * file.samplerate:
            raise UnusableSound(path, f"longer than {longest_seconds:g} s")


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Without stderr, where the MP3 decoder prints what it thinks, with no name of a file."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _mono_blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Blocks (samples,) of the mean of all channels."""
    frames = max(1, BLOCK // file.channels)
    while len(block := file.read(frames, dtype="float32", always_2d=True)):  # (frames, channels)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found later
            mean = block.mean(1)
        yield mean


# --- files made of chunks: a name, a size, content ---------------------------------------------------


class _Chunk(NamedTuple):
    """The chunk that holds the sound: where its content begins, how many bytes are promised, and how many are there."""

    start: int
    promised: int
    there: int


# first bytes of a file: where its chunks begin, their header, and what their sizes are rounded up to
_CHUNKED = {
    b"RIFF": (12, "<4sI", 2),
    b"RIFX": (12, ">4sI", 2),
    b"RF64": (12, "<4sI", 2),
    b"FORM": (12, ">4sI", 2),  # AIFF
    b"caff": (8, ">4sQ", 1),
    b"riff": (40, "<4s12xQ", 8),  # W64, whose sizes count the header
}
_MOST_CHUNKS = 1000


def _sound_chunk(path: Path) -> _Chunk | None:
    """None where the file is not made of chunks, or has none of sound."""
    size = path.stat().st_size
    with path.open("rb") as file:
        at, form, multiple = _CHUNKED.get(file.read(4), (size, "<4sI", 1))
        header, long_size = struct.Struct(form), None
        for _ in range(_MOST_CHUNKS):
            file.seek(at)
            if at + header.size > size:
                return None
            name, length = header.unpack(file.read(header.size))
            start = at + header.size
            if multiple == 8:
                length = max(0, length - header.size)
            if name == b"ds64":  # RF64 has the sizes that are too long for its chunks here
                (long_size,) = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))
            if name in (b"data", b"SSND"):
                return _Chunk(start, length if long_size is None else long_size, size - start)
            at = start + length + -length % multiple
    return None


def _mended(path: Path, chunk: _Chunk | None) -> Path | io.BytesIO:
    """The file, or a copy whose header gives the length of the sound where a recorder that stopped left a 0."""
    with path.open("rb") as file:
        if not chunk or chunk.promised or not chunk.there or file.read(3) != b"RIF":
            return path
        little = file.read(1) == b"F"
        file.seek(chunk.start)
        following = file.read(8)
        length = int.from_bytes(following[4:], "little" if little else "big")
        if following[:4].isascii() and following[:4].isalpha() and length <= chunk.there:
            return path  # a chunk of something else, so that there is no sound
        data = bytearray(path.read_bytes())
    data[chunk.start - 4 : chunk.start] = struct.pack("<I" if little else ">I", min(chunk.there, 0xFFFFFFFF))
    return io.BytesIO(data)


def _is_cut(path: Path, chunk: _Chunk | None) -> bool:
    """Whether the file ends before its chunk of sound, or its last page, is complete: libsndfile reads what is left."""
    if chunk:  # programs that write to a pipe promise 2 GB or more, as they don't know the length
        return chunk.there < chunk.promised < 0x7FFF0000
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return False
        file.seek(-min(_LONGEST_PAGE, path.stat().st_size), os.SEEK_END)
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    return len(page) < 27 or len(page) < 27 + page[26] + sum(sizes)


_LONGEST_PAGE = 27 + 255 + 255 * 255
