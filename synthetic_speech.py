"""Spoken sentences in LJ Speech's layout, made by a synthesiser: nothing to download, and every word is known.

    python synthetic_data.py speech --n 2000 --out data/spoken

OUT holds metadata.csv (`id|text|text`), wavs/ID.wav (mono, 16 bit, 22,050 Hz) and a README that says synthetic. Voice,
rate, pitch and loudness of a clip are a function of the seed and its row alone. The rows that the homework's split
tests on are spoken by voices, and at rates and pitches, that training never hears.
"""

from __future__ import annotations

import ctypes
import functools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

RATE = 22050  # Hz, LJ Speech's
LONGEST = 187  # characters of LJ Speech's longest transcript
FULL_SIZE, FULL_TEST = 13100, 10480  # rows of LJ Speech, and the first that the homework tests on
TEST_SHARE = 0.19  # of any other corpus


@dataclass(frozen=True)
class Voices:
    """Who speaks a part of the corpus, how fast (words a minute) and how high (espeak's scale, 0 to 99)."""

    espeak: tuple[str, ...]
    flite: tuple[str, ...]
    rate: tuple[int, int]
    pitch: tuple[int, int]


TRAIN_VOICES = Voices(
    espeak=("en-us", "en-us+f2", "en-us+f3", "en-us+m3", "en-us+m7", "en", "en+f4", "en+m1", "en-gb-x-rp+f5"),
    flite=("slt", "rms", "awb"),
    rate=(140, 190),
    pitch=(35, 60),
)
TEST_VOICES = Voices(
    espeak=("en-us+f1", "en-us+m2", "en-gb-x-rp+m5", "en-gb-scotland"),
    flite=("kal16",),
    rate=(120, 138),
    pitch=(62, 75),
)


@dataclass(frozen=True)
class Sentence:
    """One clip to be spoken; `pitch` and `loudness` (0 to 1 of full scale) are espeak's and ours."""

    id: str
    text: str
    voice: str
    rate: int
    pitch: int
    loudness: float


# --- what is said ------------------------------------------------------------------------------------

# one symbol a line, what it can become after the colon; {symbol} stands for another of these
RULES = """
sentence: {clause}. | {clause}. | {clause}. | {clause}. | {clause}. | {clause}, {joiner} {clause}. | {question}?
    | {place}, {clause}. | {time}, {clause}.
clause: {who} {did} | {who} {did} {place} | {who} {did} {time} | {who} {did} {place} {time} | there {were}
    {count} {things} {place}
question: did {who} {do} | why did {who} {do} {time} | who {did} | where are the {count} {things}
who: the {adjective} {person} | a {person} | my {person} | {count} {people} | the {person} and the {person}
did: {saw} the {thing} | {saw} a {adjective} {thing} | {saw} {count} {things} | {went} home | {went} away
do: {see} the {thing} | {see} a {adjective} {thing} | {see} {count} {things} | go home
were: were | stood | remained
joiner: and | but | for | so | while
person: baker | captain | child | clerk | doctor | farmer | friend | gardener | judge | lawyer | neighbour |
    nurse | officer | painter | poet | prisoner | sailor | soldier | student | teacher
people: bakers | children | clerks | doctors | farmers | judges | nurses | officers | painters | prisoners |
    sailors | soldiers | students | women
adjective: brave | broken | careful | clever | cold | dark | empty | famous | gentle | golden | heavy | honest |
    little | modern | narrow | old | plain | quiet | sharp | young
thing: book | bridge | candle | carriage | chair | church | door | engine | field | fire | flower | garden |
    hammer | house | key | lamp | letter | machine | newspaper | picture | prison | rifle | river | road | ship
    | table | tower | tree | wall | window
things: books | bridges | candles | chairs | doors | engines | fields | flowers | houses | keys | lamps |
    letters | machines | pictures | rivers | roads | ships | tables | towers | trees | walls | windows
saw: bought | carried | copied | described | examined | followed | found | kept | left | lost | made | opened |
    painted | printed | reached | remembered | sold | saw | took | watched
see: buy | carry | copy | describe | examine | follow | find | keep | leave | lose | make | open | paint | print
    | reach | remember | sell | see | take | watch
went: went | walked | ran | came | drove
place: in the {adjective} {room} | near the {thing} | behind the {adjective} {thing} | at the {room} | across
    the {room}
room: cellar | chapel | city | court | factory | forest | hall | harbour | kitchen | library | market | office |
    palace | school | station | street | theatre | village | workshop | yard
time: in the {moment} | after {count} days | before the {moment} | on {day} | for {count} years | at {count}
    o-clock
moment: morning | evening | afternoon | night | spring | summer | autumn | winter
day: monday | tuesday | wednesday | thursday | friday | saturday | sunday
count: two | three | four | five | six | seven | eight | nine | ten | twelve | twenty-one | forty | sixty-five |
    a hundred
"""
GRAMMAR = {
    name: tuple(option.strip() for option in options.split("|"))
    for name, _, options in (rule.partition(":") for rule in RULES.strip().replace("\n    ", " ").splitlines())
}


def expand(symbol: str, generator: np.random.Generator) -> str:
    """A random phrase of the grammar."""
    words, rest = "", GRAMMAR[symbol][generator.integers(len(GRAMMAR[symbol]))]
    while "{" in rest:
        before, _, rest = rest.partition("{")
        name, _, rest = rest.partition("}")
        words += before + expand(name, generator)
    return words + rest


def grammar_texts(count: int, seed: int) -> list[tuple[str, str]]:
    """(id, sentence) of `count` sentences of 4 to 20 words, mostly distinct."""
    rows = []
    for index in range(count):
        generator = np.random.default_rng([seed, index, 0])
        text = ""
        while not 4 <= len(text.split()) <= 20 or len(text) > LONGEST:
            text = expand("sentence", generator)
        rows.append((f"SYN-{index + 1:05d}", text))
    return rows


def read_texts(path: str | Path, count: int | None) -> list[tuple[str, str]]:
    """(id, normalised text) of the first `count` usable rows of a file in the format of LJ Speech's metadata.csv."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: --texts takes a file of rows id|text|normalised text")
    lines = path.read_text(encoding="utf-8").split("\n")  # reading has made CRLF a mere line end
    rows = [line.split("|") for line in lines if line]
    usable = [(row[0].strip(), row[2].strip()) for row in rows if len(row) == 3 and row[0].strip() and row[2].strip()]
    if len(usable) < len(rows):
        print(
            f"{path}: {len(rows) - len(usable)} rows without three fields or without a text left out", file=sys.stderr
        )
    if not usable:
        raise ValueError(f"{path} has no row of the form id|text|normalised text")
    return usable[:count]


def plan(texts: list[tuple[str, str]], seed: int, engine: str) -> list[Sentence]:
    """Who says each text, and how: a function of the seed and the row alone."""
    first_test = FULL_TEST if len(texts) == FULL_SIZE else round((1 - TEST_SHARE) * len(texts))
    sentences = []
    for index, (name, text) in enumerate(texts):
        voices = TRAIN_VOICES if index < first_test else TEST_VOICES
        generator = np.random.default_rng([seed, index, 1])
        sentences.append(
            Sentence(
                id=name,
                text=text,
                voice=str(generator.choice(getattr(voices, engine))),
                rate=int(generator.integers(voices.rate[0], voices.rate[1] + 1)),
                pitch=int(generator.integers(voices.pitch[0], voices.pitch[1] + 1)),
                loudness=float(generator.uniform(0.3, 0.9)),
            )
        )
    return sentences


# --- who says it -------------------------------------------------------------------------------------

SYNCHRONOUS, UTF8 = 2, 1  # from espeak-ng's speak_lib.h, like the numbers of its parameters below
RATE_PARAMETER, PITCH_PARAMETER = 1, 3
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """espeak-ng's shared library, which holds one state for the whole process."""

    def __init__(self):
        import espeakng_loader

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, data, 0)
        if rate != RATE:
            raise ValueError(f"espeak-ng speaks at {rate} Hz instead of {RATE}: reinstall espeakng-loader")
        self.pieces: list[np.ndarray] = []
        self.callback = CALLBACK(self._receive)  # kept, or it would be freed while the library still calls it
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples, count, _events) -> int:
        if samples and count:
            self.pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on

    def speak(self, sentence: Sentence) -> np.ndarray:
        """16-bit samples at 22,050 Hz; they depend on what this process said before."""
        self.pieces.clear()
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # of the noise in breathy voices
        if self.library.espeak_SetVoiceByName(sentence.voice.encode()):
            raise ValueError(f"espeak-ng has no voice {sentence.voice}: reinstall espeakng-loader")
        self.library.espeak_SetParameter(RATE_PARAMETER, sentence.rate, 0)
        self.library.espeak_SetParameter(PITCH_PARAMETER, sentence.pitch, 0)
        text = sentence.text.encode() + b"\0"
        self.library.espeak_Synth(text, len(text), 0, 1, 0, UTF8, None, None)
        return np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int16)


class Flite:
    """Debian's flite, a process for each sentence; its voices were built from human recordings."""

    def __init__(self):
        if not shutil.which("flite"):
            raise FileNotFoundError(
                "there is no flite here: on Debian and Ubuntu, apt install flite; or --engine espeak"
            )

    def speak(self, sentence: Sentence) -> np.ndarray:
        """16-bit samples at 22,050 Hz."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "spoken.wav"
            stretch = f"duration_stretch={165 / sentence.rate:.3f}"  # flite's own rate is about 165 words a minute
            command = ["flite", "-voice", sentence.voice, "--setf", stretch, "-t", sentence.text, "-o", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if done.returncode or not path.exists():
                raise ValueError(f"flite could not speak {sentence.id}: {done.stderr.strip()}")
            samples, rate = soundfile.read(path, dtype="float32")
        import torch
        from torchaudio.functional import resample

        resampled = resample(torch.from_numpy(samples), rate, RATE).clamp(-1, 1).numpy()
        return (resampled * 32767).astype(np.int16)


ENGINES = {"espeak": Espeak, "flite": Flite}


@functools.cache
def start_engine(name: str) -> Espeak | Flite:
    """One for each process."""
    return ENGINES[name]()


def speak_into(folder: Path, engine: str, sentence: Sentence) -> float:
    """Write one clip, and return its seconds."""
    samples = start_engine(engine).speak(sentence).astype(np.float64)
    if not samples.any():
        raise ValueError(f"{engine} has nothing to say for {sentence.id}: {sentence.text!r}")
    samples *= sentence.loudness / np.abs(samples).max()
    part = folder / f".{sentence.id}.part"
    soundfile.write(part, samples, RATE, subtype="PCM_16", format="WAV")
    part.replace(folder / f"{sentence.id}.wav")
    return len(samples) / RATE


# --- the corpus --------------------------------------------------------------------------------------


def write_corpus(
    out: str | Path,
    n: int | None = None,
    seed: int = 0,
    texts: str | Path | None = None,
    engine: str = "espeak",
    workers: int | None = None,
) -> Path:
    """Write a corpus of `n` spoken sentences to the folder `out`, and return it.

    The sentences are the grammar's (2000 of them), or those of a metadata file `texts` (all of it); `workers`
    processes speak (one for each core) without changing a byte. An interrupted run goes on where it was; until the
    last clip is spoken there is no metadata.csv. Raises ValueError, FileNotFoundError or OSError.
    """
    if n is not None and n < 1:
        raise ValueError(f"--n is {n}, but must be at least 1")
    out, rows = Path(out), read_texts(texts, n) if texts else grammar_texts(n or 2000, seed)
    sentences = plan(rows, seed, engine)
    describe(out, {"seed": seed, "engine": engine, "n": len(rows), "texts": Path(texts).name if texts else "grammar"})
    folder = out / "wavs"
    folder.mkdir(exist_ok=True)
    start_engine(engine)  # where it is missing, say so before any process starts
    missing = [sentence for sentence in sentences if not (folder / f"{sentence.id}.wav").exists()]
    speak = functools.partial(speak_into, folder, engine)
    # A fresh fork for each clip: the library remembers what it said before, and nothing can make it forget.
    with multiprocessing.get_context("fork").Pool(workers or os.cpu_count(), maxtasksperchild=1) as pool:
        seconds = sum(tqdm(pool.imap(speak, missing), f"{out}", len(missing), unit="clip", disable=None))
    part = out / ".metadata.csv.part"
    part.write_text("".join(f"{name}|{text}|{text}\n" for name, text in rows), encoding="utf-8")
    part.replace(out / "metadata.csv")
    hours = f"{seconds / 3600:.2f} hours" if len(missing) == len(rows) else f"{len(missing):,} of them spoken now"
    print(f"{out}: {len(rows):,} synthetic sentences, {hours}, {'espeak-ng' if engine == 'espeak' else engine}")
    return out


def describe(out: Path, settings: dict) -> None:
    """Write the corpus's README, or check that the one that is there was made with the same settings."""
    text = (
        "Synthetic speech, spoken by a program: no recording of anyone.\n"
        f"Settings: {json.dumps(settings)}\n"
        "Layout of LJ Speech: metadata.csv (id|text|text), wavs/ID.wav (mono, 16 bit, 22,050 Hz).\n"
    )
    path = out / "README"
    if path.exists() and path.read_text() != text:
        raise ValueError(f"{out} holds a corpus of other settings (see its README): choose another --out")
    if not path.exists() and (out / "metadata.csv").exists():
        raise ValueError(f"{out} holds another corpus: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
