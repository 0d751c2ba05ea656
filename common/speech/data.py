"""A corpus in LJ Speech's layout as three parts with cached features, and the batches made of them.

Letters: B batch, T frames of a spectrogram, F mel bins, N tokens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import re
import signal
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from command_line import end_with_parent, usable_cores
from common.speech import audio, sound_files
from common.speech.audio import Features, clip_features
from common.speech.defaults import corpus_name
from common.speech.text import EMPTY, MAX_TOKENS, encode, normalise, visible
from records import locked
from utils import derived_seed, is_main_process

PARTS = ("train", "validation", "test")
FULL_SIZE, FULL_CUTS = 13100, (9825, 10480)  # LJ Speech's clips, and where the homework cuts them in three
LONGEST_SECONDS = 17.0  # LJ Speech's longest clip has 10.1
CLIPS_PER_WORKER = 100  # fewer are not worth the start of another process
LENGTH_JITTER = 0.08  # clips whose lengths differ by less than this share may change places in an epoch

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Part:
    """Clips of a corpus, in the order of its metadata; `spans` are their rows in `store`, the features of all."""

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    transcripts: tuple[str, ...]  # normalised
    tokens: tuple[list[int], ...]  # with START and STOP
    spans: tuple[tuple[int, int], ...]
    store: np.ndarray  # (frames of the corpus, F), float16, memory-mapped

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, count: int) -> Part:
        """The first `count` clips, or all where there are fewer."""
        columns = (self.ids, self.paths, self.transcripts, self.tokens, self.spans)
        return Part(*(column[:count] for column in columns), self.store)

    def joined(self, count: int) -> Part:
        """`count` neighbouring clips after one another as one, without paths; what is left over at the end is left out.

        Raises ValueError where there are fewer clips than that.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"{count} clips can't be joined, of the {len(self)} that there are")
        groups = [slice(start, start + count) for start in range(0, len(self) - count + 1, count)]
        transcripts = tuple(" ".join(self.transcripts[group]) for group in groups)
        return Part(
            ids=tuple("+".join(self.ids[group]) for group in groups),
            paths=(),
            transcripts=transcripts,
            tokens=tuple(map(encode, transcripts)),
            spans=tuple((self.spans[group][0][0], self.spans[group][-1][1]) for group in groups),  # neighbours in it
            store=self.store,
        )

    def features(self, index: int) -> np.ndarray:
        """Log-mel features (T, F), float16, of one clip."""
        return self.store[slice(*self.spans[index])]

    def frame_counts(self) -> np.ndarray:
        """T of each clip."""
        return np.array([stop - start for start, stop in self.spans], dtype=np.int64)

    def batch(self, indices: np.ndarray) -> Batch:
        """Features (B, T, F), float32, padded with zeros, and T of each; tokens (B, N), padded with EMPTY, and N."""
        clips, tokens = [self.features(i) for i in indices], [self.tokens[i] for i in indices]
        lengths, token_lengths = (torch.tensor([len(x) for x in column]) for column in (clips, tokens))
        features = torch.zeros(len(clips), int(lengths.max()), self.store.shape[1])
        padded = torch.full((len(clips), int(token_lengths.max())), EMPTY)
        for row, (clip, sentence) in enumerate(zip(clips, tokens, strict=True)):
            features.numpy()[row, : len(clip)] = clip  # by NumPy, as PyTorch has no read-only tensors
            padded[row, : len(sentence)] = torch.tensor(sentence)
        return features, lengths, padded, token_lengths


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus, cut in three."""

    name: str
    source: str  # "real" or "synthetic"
    split: str  # in words
    hop_ms: float
    digest: str  # of the clips' names, transcripts and features
    train: Part
    validation: Part
    test: Part

    def describe(self) -> dict:
        """The `data` entry of a result file."""
        parts = {name: getattr(self, name) for name in PARTS}
        hours = {name: round(int(part.frame_counts().sum()) * self.hop_ms / 3.6e6, 4) for name, part in parts.items()}
        sizes = {name: len(part) for name, part in parts.items()}
        longest = {name: float(part.frame_counts().max()) * self.hop_ms / 1000 for name, part in parts.items()}
        described = {"sizes": sizes, "hours": hours, "longest": longest}  # the longest clip in seconds
        return {"name": self.name, "source": self.source, "digest": self.digest, **described, "split": self.split}


# --- a corpus on disk --------------------------------------------------------------------------------


def read_metadata(root: str | Path) -> list[tuple[str, str]]:
    """Clip and normalised transcript of each line of LJ Speech's metadata.csv, "" where a line has no third field.

    Three fields separated by `|`, no header, UTF-8; quotation marks are plain characters. Raises FileNotFoundError, or
    ValueError where the file is empty or not UTF-8.
    """
    path = Path(root) / "metadata.csv"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: fetch LJ Speech with `python download_ljspeech.py`")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): fetch it with `python download_ljspeech.py`") from error
    # not splitlines(), which also cuts at characters that a transcript may hold
    lines = [line.split("|") for line in re.split(r"\r\n?|\n", text)]
    rows = [(visible(line[0]).strip(), normalise(line[2]) if len(line) > 2 else "") for line in lines]
    rows = [row for row, line in zip(rows, lines, strict=True) if row[0] or len(line) > 1]
    if not rows:
        raise ValueError(f"{path} has no line, but should have one per clip: run `python download_ljspeech.py`")
    return rows


def split(rows: list[tuple[str, str]], present: set[str]) -> tuple[dict[str, list[int]], str]:
    """Which rows are whose, and that in words: the homework's cut where all of LJ Speech is present.

    Otherwise 71, 10 and 19 % of the rows whose clip is in `present`, in their order. A clip that is listed twice is
    counted where it comes first.
    """
    first = {clip: row for row, (clip, _) in reversed(list(enumerate(rows)))}
    there = sorted(row for clip, row in first.items() if clip in present)
    if len(there) == len(first) == FULL_SIZE:
        cuts, words = FULL_CUTS, "rows 0-9824, 9825-10479 and 10480-13099, as in the homework"
    else:  # rounded half up
        train, validation = ((percent * len(there) + 50) // 100 for percent in (71, 10))
        cuts, words = (train, train + validation), "71, 10 and 19 % of the clips that are there, in their order"
    bounds = itertools.pairwise((0, *cuts, len(there)))
    return {name: there[start:stop] for name, (start, stop) in zip(PARTS, bounds, strict=True)}, words


def load_corpus(
    root: str | Path,
    features: Features,
    cache: str | Path = "data/features",
    workers: int | None = None,
    longest_seconds: float = LONGEST_SECONDS,
) -> Corpus:
    """Load `root`/metadata.csv and `root`/wavs/<clip>.wav, the features from the folder `cache` if they are there.

    Features are computed by `workers` processes (None: as many as there are cores and work). Clips that can't be used
    are left out, and counted in one line on stderr. Raises FileNotFoundError or ValueError where too few are left.
    """
    root = Path(root)
    rows, files = read_metadata(root), _sound_files(root)
    problems = _row_problems(rows, files)  # one per row, "" for a good one
    good = [row for row, problem in enumerate(problems) if not problem]
    jobs = [files[rows[row][0]] for row in good]
    store, frames, audio_problems, crc = _cached_features(jobs, root, features, Path(cache), workers, longest_seconds)
    for row, problem in zip(good, audio_problems, strict=True):
        problems[row] = problem
    stops = dict(zip(good, itertools.accumulate(frames), strict=True))
    lengths = dict(zip(good, frames, strict=True))

    def part(members: list[int]) -> Part:
        kept = [row for row in members if not problems[row]]
        ids, transcripts = tuple(rows[row][0] for row in kept), tuple(rows[row][1] for row in kept)
        spans = tuple((stops[row] - lengths[row], stops[row]) for row in kept)
        return Part(ids, tuple(files[i] for i in ids), transcripts, tuple(map(encode, transcripts)), spans, store)

    members, words = split(rows, set(files))
    parts = {name: part(members[name]) for name in PARTS}
    contents = [[part.ids, part.transcripts, part.spans] for part in parts.values()]
    digest = hashlib.sha256(json.dumps([contents, crc]).encode()).hexdigest()[:16]
    summary = _summary(corpus_name(root), problems, words)
    if not all(len(part) for part in parts.values()):
        raise ValueError(f"{summary}: each part needs a clip, so fetch more with `python download_ljspeech.py`")
    if any(problems) and is_main_process():
        print(summary, file=sys.stderr)
    return Corpus(corpus_name(root), _source(root), words, features.hop_ms, digest, **parts)


def _sound_files(root: Path) -> dict[str, Path]:
    """The path of each clip that is there."""
    return {path.stem: path for path in (root / "wavs").glob("*.wav") if path.is_file()}


def _source(root: Path) -> str:
    """Whether a README calls the corpus synthetic."""
    texts = (path.read_text(errors="replace") for path in root.glob("README*") if path.is_file())
    return "synthetic" if any("synthetic" in text.lower() for text in texts) else "real"


def _row_problems(rows: list[tuple[str, str]], files: dict[str, Path]) -> list[str]:
    """Why a row can't be used, before its sound is looked at; "" if it can."""
    seen: set[str] = set()
    problems = []
    for clip, transcript in rows:
        if clip in seen:
            problems.append("listed twice")
        elif clip not in files:
            problems.append("missing")
        elif not transcript:
            problems.append("without a transcript")
        else:
            problems.append("with too long a transcript" if len(transcript) > MAX_TOKENS - 2 else "")
        seen.add(clip)
    return problems


def _summary(name: str, problems: list[str], words: str) -> str:
    counts = Counter(problems)
    used = counts.pop("", 0)
    reasons = ", ".join(f"{count:,} {problem}" for problem, count in counts.most_common()) or "no clip left out"
    return f"{name}: {used:,} of {len(problems):,} clips used: {reasons}; split: {words}"


# --- the cache: one file of all frames, float16, then a JSON index, then the footer ------------------

FOOTER = struct.Struct("<QI8s")  # bytes of the index, CRC-32 of all before the footer, MAGIC
MAGIC = b"log-mel2"


def _cached_features(jobs, root, features, folder, workers, longest) -> tuple[np.ndarray, list[int], list[str], int]:
    """All frames (frames, F); of each job the number of frames, and "" or why it has none; the frames' CRC-32."""
    name = hashlib.sha256(f"{root.resolve()} {features}".encode()).hexdigest()[:12]
    path, key = folder / f"{root.name}-{name}.features", _cache_key(jobs, features, longest)
    loaded = _read_cache(path, key, features.mel_bins)
    if loaded is None:
        with _naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with locked(path):  # several processes or runs: one of them computes, the others wait for it
            loaded = _read_cache(path, key, features.mel_bins)
            if loaded is None:
                _write_cache(path, key, _compute(jobs, root.name, features, workers, longest))
                loaded = _read_cache(path, key, features.mel_bins)
    if loaded is None:
        raise ValueError(f"{path} can't be read back: check the disk, or choose another folder with --cache")
    return loaded


def _cache_key(jobs: list[Path], features: Features, longest: float) -> str:
    """Changes with the settings, with the code that computes features, and with any file's name, size or time."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in jobs]
    code = hashlib.sha256(b"".join(Path(module.__file__).read_bytes() for module in (audio, sound_files))).hexdigest()
    return hashlib.sha256(json.dumps([dataclasses.asdict(features), longest, code, stats]).encode()).hexdigest()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot write {path} ({reason}): make room, or choose another folder with --cache") from error


def _compute(jobs, name, features, workers, longest) -> Iterator[tuple[np.ndarray, str]]:
    """clip_features of each job, in their order."""
    compute = partial(clip_features, features=features, longest_seconds=longest)
    workers = workers or min(usable_cores(), math.ceil(len(jobs) / CLIPS_PER_WORKER))
    progress = partial(tqdm, desc=f"features of {name}", total=len(jobs), leave=False, disable=None)
    if workers <= 1:
        yield from progress(map(compute, jobs))
        return
    # spawn: a forked child of a process in which PyTorch has threads may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(),)) as pool:
        try:
            yield from progress(pool.map(compute, jobs, chunksize=16))
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    """One thread each; Ctrl-C is for the parent, which then waits for the clips in hand only."""
    end_with_parent(parent)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_cache(path: Path, key: str, results: Iterator[tuple[np.ndarray, str]]) -> None:
    """Frame by frame, as all of them may not fit into memory, to a file that gets its name when it is complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with _naming(path), temporary.open("wb") as file:
            clips, crc = [], 0
            for frames, problem in results:
                file.write(frames.tobytes())
                crc = zlib.crc32(frames.tobytes(), crc)
                clips.append((len(frames), problem))
            index = json.dumps({"key": key, "clips": clips}).encode()
            file.write(index + FOOTER.pack(len(index), zlib.crc32(index, crc), MAGIC))
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # gone already where all went well
            temporary.unlink()


def _read_cache(path: Path, key: str, mel_bins: int) -> tuple[np.ndarray, list[int], list[str], int] | None:
    """What _cached_features returns; None where the file is missing, damaged or has another key."""
    try:
        data = np.memmap(path, np.uint8, "r")
        size = len(data) - FOOTER.size
        index_size, crc, magic = FOOTER.unpack(data[max(size, 0) :])
        if magic != MAGIC or index_size > size:
            return None
        frames_crc = zlib.crc32(data[: size - index_size])
        if zlib.crc32(data[size - index_size : size], frames_crc) != crc:
            return None
        index = json.loads(data[size - index_size : size].tobytes())
    except (OSError, ValueError, struct.error):  # ValueError: an empty file, or no JSON where the index should be
        return None
    counts, problems = zip(*index["clips"], strict=True) if index["clips"] else ((), ())
    shape = (sum(counts), mel_bins)
    if index["key"] != key or size - index_size != 2 * shape[0] * shape[1]:
        return None
    store = np.asarray(np.memmap(path, np.float16, "r", shape=shape)) if shape[0] else np.zeros(shape, np.float16)
    return store, list(counts), list(problems), frames_crc


# --- batches -----------------------------------------------------------------------------------------


class SpeechBatches:
    """Shuffled mini-batches of at most `batch_size` clips of similar length.

    The order of epoch e is a function of `seed` and e alone, so that a resumed run sees what the uninterrupted one saw.
    """

    def __init__(self, part: Part, batch_size: int, seed: int):
        self.part, self.batch_size, self.seed = part, batch_size, seed

    def __len__(self) -> int:
        return math.ceil(len(self.part) / self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Features (B, T, F), their lengths (B,), tokens (B, N), their lengths (B,); each clip once."""
        rng = np.random.default_rng(derived_seed(self.seed, epoch))
        jitter = rng.uniform(1, 1 + LENGTH_JITTER, len(self.part))
        by_length = np.argsort(self.part.frame_counts() * jitter)  # about: clips of similar length are shuffled
        batches = np.array_split(by_length, len(self))
        for number in rng.permutation(len(self)):
            yield self.part.batch(batches[number])


class RehearsalBatches:
    """Batches, and after each of them one of other speech, so that what was learnt from that is not forgotten.

    An epoch rehearses as many batches as it has others, different ones each time (Robins 1995). Raises ValueError where
    there are not as many.
    """

    def __init__(self, batches: SpeechBatches, rehearsed: SpeechBatches):
        if len(rehearsed) < len(batches):
            raise ValueError(f"{len(rehearsed.part)} clips are too few to rehearse beside {len(batches.part)}")
        self.batches, self.rehearsed = batches, rehearsed

    def __len__(self) -> int:
        return 2 * len(self.batches)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of both in turn."""
        for pair in zip(self.batches.epoch(epoch), self.rehearsed.epoch(epoch), strict=False):
            yield from pair


def batches_in_order(part: Part, batch_size: int) -> Iterator[tuple[Tensor, Batch]]:
    """Each clip once, the shortest first: indices in the part (B,) and a batch as of SpeechBatches."""
    by_length = np.argsort(part.frame_counts(), kind="stable")
    for indices in np.array_split(by_length, math.ceil(len(part) / batch_size)):
        yield torch.from_numpy(indices), part.batch(indices)
