"""Spoken sentences in LJ Speech's layout, made by a synthesiser: nothing to download, and every word is known.

    python -m synthetic speech --n 2000 --out data/spoken

OUT holds metadata.csv (`id|text|normalised text`), wavs/ID.wav (mono, 16 bit, 22,050 Hz) and a README that says that
it is synthetic. What a clip sounds like is a function of the seed and its row alone. The rows that the homework tests
on are spoken by voices, and at rates and pitches, that its training and validation never hear.
"""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import functools
import hashlib
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import command_line
import records
from command_line import SEED, check_value, usable_cores, within

RATE = 22050  # Hz, LJ Speech's and espeak-ng's
LONGEST = 187  # characters of LJ Speech's longest transcript
FULL_SIZE, FULL_TEST = 13100, 10480  # LJ Speech's rows, and the first that the homework tests on
SENTENCES = within(1, 100_000)  # at most 75 hours, 12 GB
MAX_TEXTS = 64 * 2**20  # bytes of a metadata file; LJ Speech's has 3 million
MAX_CHARACTERS = 1000  # of a row, a minute's speech
CLIPS_PER_WORKER = 100  # fewer are not worth the start of another process


@dataclass(frozen=True)
class Voices:
    """Who speaks a part of the corpus, how fast (words a minute) and how high (espeak's scale, 0 to 99)."""

    espeak: tuple[str, ...]
    flite: tuple[str, ...]
    rate: tuple[int, int]
    pitch: tuple[int, int]  # of espeak alone: flite's voices have their own


TRAIN_VOICES = Voices(
    espeak=("en-us", "en-us+f2", "en-us+f3", "en-us+m3", "en-us+m7", "en", "en+f4", "en+m1", "en-gb-x-rp+f5"),
    flite=("slt", "rms", "awb"),
    rate=(140, 190),
    pitch=(35, 60),
)
# espeak's variants that sound most like people, those of the test left out
VARIANTS = """
f2 f3 f4 f5 m1 m3 m4 m6 m7 m8 Alex Alicia Andrea Andy Annie Denis Diogo Gene Henrique Hugo Lee Marco Mario Michael Mike
Nguyen Reed Storm adam anika antonio aunty belinda benjamin boris caleb david edward grandma grandpa ian iven john klatt
klatt2 linda marcelo max miguel norbert pablo paul pedro quincy rob robert sandro shelby steph travis victor zac
""".split()  # noqa: SIM905
ACCENTS = ("en-us", "en-us-nyc", "en", "en-gb-x-rp")
MANY_VOICES = Voices(  # of training with the engine "both"
    espeak=tuple(
        f"{accent}+{variant}" for accent in ("en-us", "en-us-nyc", "en", "en-gb-x-rp") for variant in VARIANTS
    ),
    flite=TRAIN_VOICES.flite,
    rate=(140, 200),
    pitch=(25, 60),
)
TEST_VOICES = Voices(
    espeak=("en-us+f1", "en-us+m2", "en-gb-x-rp+m5", "en-gb-scotland"),
    flite=("kal16",),
    rate=(120, 138),
    pitch=(62, 75),
)


@dataclass(frozen=True)
class Row:
    """A line of metadata.csv."""

    id: str
    text: str
    normalised: str  # what is spoken


@dataclass(frozen=True)
class Sentence:
    """A clip to be spoken: `rate` and `pitch` as of Voices; `loudness` is its peak, 1 at full scale."""

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
who: the {character} {person} | a {person} | my {person} | {count} {people} | the {person} and the {person}
did: {saw} the {thing} | {saw} a {quality} {thing} | {saw} {count} {things} | {went} home | {went} away
do: {see} the {thing} | {see} a {quality} {thing} | {see} {count} {things} | go home
were: were | stood | remained
joiner: and | but | for | so | while
person: baker | captain | child | clerk | doctor | farmer | friend | gardener | judge | lawyer | neighbour |
    nurse | officer | painter | poet | prisoner | sailor | soldier | student | teacher
people: bakers | children | clerks | doctors | farmers | judges | nurses | officers | painters | prisoners |
    sailors | soldiers | students | women
character: brave | careful | clever | famous | gentle | honest | lazy | little | old | proud | quiet | young
quality: broken | cold | dark | empty | famous | golden | heavy | little | modern | narrow | old | plain | strange
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
place: in the {quality} {room} | near the {thing} | behind the {quality} {thing} | at the {room} | across
    the {room}
room: cellar | chapel | city | court | factory | forest | hall | harbour | kitchen | library | market | office |
    palace | school | station | street | theatre | village | workshop | yard
time: in the {moment} | after {count} days | before the {moment} | on {day} | {count} years ago | at noon
moment: morning | evening | afternoon | night | spring | summer | autumn | winter
day: monday | tuesday | wednesday | thursday | friday | saturday | sunday
count: {unit} | {unit} | ten | a dozen | {tens} | {tens}-{unit} | a hundred | {unit} thousand
tens: twenty | thirty | forty | fifty | sixty | seventy | eighty | ninety
unit: two | three | four | five | six | seven | eight | nine
"""
GRAMMAR = {
    name: tuple(option.strip() for option in options.split("|"))
    for name, _, options in (rule.partition(":") for rule in RULES.strip().replace("\n    ", " ").splitlines())
}


def expand(symbol: str, generator: np.random.Generator) -> str:
    """A random phrase of the grammar."""
    option = GRAMMAR[symbol][generator.integers(len(GRAMMAR[symbol]))]
    return re.sub(r"{(\w+)}", lambda match: expand(match[1], generator), option)


def grammar_rows(count: int, seed: int) -> list[Row]:
    """`count` sentences of 4 to 20 words, mostly distinct; each is a function of the seed and its place alone."""
    rows = []
    for index in range(count):
        generator = np.random.default_rng([seed, index, 0])
        text = ""
        while not 4 <= len(text.split()) <= 20 or len(text) > LONGEST:
            text = re.sub(r"\ba (?=[aeiou])", "an ", expand("sentence", generator))
        rows.append(Row(f"SYN-{index + 1:05d}", text, text))
    return rows


def read_rows(path: str | Path, count: int | None = None) -> list[Row]:
    """The first `count` usable rows (None: all) of a UTF-8 file in the format of LJ Speech's metadata.csv.

    Fields are separated by `|`, quotation marks are plain characters, lines end in LF or CRLF. Rows that cannot be
    spoken are left out, and counted in one line on stderr. Raises FileNotFoundError, or ValueError where none is left.
    """
    path, needed = Path(path), "give --texts a file with rows id|text|normalised text"
    if not path.is_file():
        problem = f"{path} is no file" if path.exists() else f"there is no file {path}"
        raise FileNotFoundError(f"{problem}: {needed}")
    if path.stat().st_size > MAX_TEXTS:
        raise ValueError(f"{path} has more than {MAX_TEXTS // 2**20} MiB: {needed}")
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")  # splitlines() cuts at characters of a text, too
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): convert it, for example with iconv") from error
    usable: dict[str, Row] = {}
    filled = [line.split("|") for line in lines if line.strip()]
    for fields in filled:
        row = Row(*(field.strip() for field in fields[:3])) if len(fields) >= 3 else Row("", "", "")
        sayable = any(character.isalnum() for character in row.normalised) and "\0" not in row.normalised
        sayable &= len(row.normalised) <= MAX_CHARACTERS
        if sayable and re.fullmatch(r"\w[\w.-]{,59}", row.id):  # the id becomes the name of a file
            usable.setdefault(row.id, row)
    if not usable:
        raise ValueError(f"{path} has no row that can be spoken: {needed}")
    if len(usable) < len(filled):
        reasons = "short, without words, too long, or with an id that is repeated or no file name"
        print(f"{path}: {len(filled) - len(usable)} of {len(filled)} rows left out: {reasons}", file=sys.stderr)
    return list(usable.values())[:count]


def first_test_row(count: int) -> int:
    """Where the test part of a corpus of `count` rows starts: as in the homework, else after 71 % and 10 % of them."""
    if count == FULL_SIZE:
        return FULL_TEST
    train, validation = ((percent * count + 50) // 100 for percent in (71, 10))  # rounded half up
    return train + validation


def plan(rows: list[Row], seed: int, engine: str) -> list[Sentence]:
    """Who says each row, and how: a function of the seed, the row's place, and the part that it lies in.

    With the engine "both" each row draws one of them first, and training has many more voices.
    """
    heard = MANY_VOICES if engine == BOTH else TRAIN_VOICES
    sentences = []
    for index, row in enumerate(rows):
        voices = heard if index < first_test_row(len(rows)) else TEST_VOICES
        generator = np.random.default_rng([seed, index, 1])
        speaker = str(generator.choice(list(ENGINES))) if engine == BOTH else engine
        voice = str(generator.choice(getattr(voices, speaker)))
        rate, pitch = (int(generator.integers(low, high + 1)) for low, high in (voices.rate, voices.pitch))
        sentences.append(Sentence(row.id, row.normalised, voice, rate, pitch, generator.uniform(0.3, 0.9)))
    return sentences


# --- who says it -------------------------------------------------------------------------------------

SYNCHRONOUS, DONT_EXIT, UTF8 = 2, 0x8000, 1  # from espeak-ng's speak_lib.h, like all constants here
RATE_PARAMETER, PITCH_PARAMETER = 1, 3
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@contextlib.contextmanager
def fresh_espeak() -> Iterator[ctypes.CDLL]:
    """espeak-ng's shared library, started. Raises FileNotFoundError where it is not installed.

    It remembers what it said before (the phases of its oscillators, for one), and starting it again does not make it
    forget: so that a clip does not depend on the clips before it, the library is loaded anew for each. It cuts off the
    path of its data after 160 bytes, so that is the working folder meanwhile.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise FileNotFoundError("there is no espeak-ng here: run `pip install espeakng-loader`") from error
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    with contextlib.chdir(espeakng_loader.get_data_path()):
        rate = library.espeak_Initialize(SYNCHRONOUS, 0, b".", DONT_EXIT)
        if rate != RATE:
            raise ValueError(f"espeak-ng starts with {rate} Hz, expected {RATE}: reinstall espeakng-loader")
        try:
            yield library
        finally:
            library.espeak_Terminate()
            _ctypes.dlclose(library._handle)  # ctypes itself never unloads a library


def espeak_version() -> str:
    """Name and version of espeak-ng."""
    with fresh_espeak() as library:
        library.espeak_Info.restype = ctypes.c_char_p
        return f"espeak-ng {library.espeak_Info(None).decode()}"


def espeak_samples(sentence: Sentence) -> np.ndarray:
    """Samples (T,), int16, at 22,050 Hz. Raises ValueError for an unknown voice."""
    pieces: list[bytes] = []

    def receive(samples, count, _events):
        pieces.append(ctypes.string_at(samples, 2 * count) if samples else b"")
        return 0  # go on

    callback = CALLBACK(receive)  # named, or it would be freed while the library still calls it
    text = sentence.text.encode()
    with fresh_espeak() as library:
        library.espeak_SetSynthCallback(callback)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # of the noise in breathy voices
        if library.espeak_SetVoiceByName(sentence.voice.encode()):
            raise ValueError(f"espeak-ng has no voice {sentence.voice}: reinstall espeakng-loader")
        library.espeak_SetParameter(RATE_PARAMETER, sentence.rate, 0)
        library.espeak_SetParameter(PITCH_PARAMETER, sentence.pitch, 0)
        library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, UTF8, None, None)
    return np.frombuffer(b"".join(pieces), np.int16)


def flite_version() -> str:
    """Name and version of flite. Raises FileNotFoundError where it is not installed."""
    if not shutil.which("flite"):
        raise FileNotFoundError("there is no flite here: run `apt install flite`, or choose --engine espeak")
    output = subprocess.run(["flite", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"flite-([\d.]+)", output)
    return f"flite {found[1]}" if found else "flite"


def flite_samples(sentence: Sentence) -> np.ndarray:
    """Samples (T,), float32, at 22,050 Hz, from Debian's flite. Raises ValueError with what flite complains about."""
    stretch = f"duration_stretch={165 / sentence.rate:.3f}"  # flite's voices say about 165 words a minute
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spoken.wav"
        command = ["flite", "-voice", sentence.voice, "--setf", stretch, "-t", sentence.text, "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not path.exists():
            raise ValueError(f"flite cannot speak {sentence.id} ({' '.join(done.stderr.split())}): try --engine espeak")
        with wave.open(str(path)) as file:
            samples, rate = np.frombuffer(file.readframes(file.getnframes()), np.int16), file.getframerate()
    import torch  # here: espeak does without
    from torchaudio.functional import resample

    return resample(torch.from_numpy(samples.astype(np.float32)), rate, RATE).numpy()


ENGINES = {"espeak": (espeak_version, espeak_samples), "flite": (flite_version, flite_samples)}
BOTH = "both"


def speak_into(folder: Path, sentence: Sentence) -> None:
    """Write one clip, which gets its name when it is complete."""
    engine = "flite" if sentence.voice in TRAIN_VOICES.flite + TEST_VOICES.flite else "espeak"
    samples = ENGINES[engine][1](sentence).astype(np.float64)
    if not samples.any():
        raise ValueError(f"{engine} has nothing to say for {sentence.id}, {sentence.text!r}: leave that row out")
    samples *= 32767 * sentence.loudness / np.abs(samples).max()
    path, part = folder / f"{sentence.id}.wav", folder / f".{sentence.id}.part"
    try:
        with part.open("wb") as opened, wave.open(opened, "wb") as file:
            file.setparams((1, 2, RATE, len(samples), "NONE", ""))
            file.writeframes(np.rint(samples).astype("<i2").tobytes())
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot write {path} ({reason}): make room there, or choose another --out") from error


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

    The sentences are the grammar's (2000 of them), or those of a metadata file `texts` (all of it), spoken by `workers`
    processes (None: as many as there are cores and work), whose number changes nothing. metadata.csv is written last:
    without it the corpus is incomplete, and the same call goes on where it was. Raises ValueError, FileNotFoundError
    where the engine or `texts` is missing, and OSError where `out` cannot be written.
    Two calls at once: the second waits for the first, and finds its work done.
    """
    if engine not in (*ENGINES, BOTH):
        raise ValueError(f"--engine is {engine!r}, but must be one of {', '.join((*ENGINES, BOTH))}")
    check_value("n", n, SENTENCES)
    check_value("seed", seed, SEED)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: choose a folder")
    used = ENGINES.values() if engine == BOTH else [ENGINES[engine]]
    version = " and ".join(name() for name, _ in used)
    rows = read_rows(texts, n) if texts else grammar_rows(n or 2000, seed)
    sentences = plan(rows, seed, engine)
    options = f"--n {len(rows)} --seed {seed} --engine {engine}" + (f" --texts {Path(texts).name}" if texts else "")
    metadata = "".join(f"{row.id}|{row.text}|{row.normalised}\n" for row in rows)
    with records.locked(out / "metadata.csv"):
        claim(out, readme(version, options, sentences))
        speak_missing(out, sentences, workers)
        records.write_file(out / "metadata.csv", metadata.encode())
    seconds = sum((out / "wavs" / f"{row.id}.wav").stat().st_size - 44 for row in rows) / (2 * RATE)  # 44: the header
    print(f"{out}: {len(rows)} synthetic sentences, {seconds / 3600:.2f} hours, {version}")
    return out


def readme(version: str, options: str, sentences: list[Sentence]) -> str:
    """What the corpus says of itself; differs wherever the sound or the texts do."""
    return (
        f"Synthetic speech, spoken by {version}: no recording of anyone.\n"
        f"Made by: python -m synthetic speech {options}\n"
        f"Texts, voices, rates and pitches (SHA-256): {hashlib.sha256(repr(sentences).encode()).hexdigest()}\n"
        "In the layout of LJ Speech 1.1: metadata.csv (id|text|normalised text) and wavs/ID.wav.\n"
    )


def claim(out: Path, text: str) -> None:
    """Put a README into a new or empty folder. Raises ValueError where the folder holds anything but its corpus."""
    path = out / "README"
    if path.is_file() and path.read_text(errors="replace") == text:
        return
    if any(entry.name != ".metadata.csv.lock" for entry in out.iterdir()):  # which is this process's
        raise ValueError(f"{out} is not empty, and holds no corpus of these settings: choose another folder")
    records.write_file(path, text.encode())


def speak_missing(out: Path, sentences: list[Sentence], workers: int | None) -> None:
    """Speak what is not there yet, in processes of their own: the engine's library holds process-wide state."""
    folder = out / "wavs"
    folder.mkdir(exist_ok=True)
    missing = [sentence for sentence in sentences if not (folder / f"{sentence.id}.wav").exists()]
    if not missing:
        return
    (out / "metadata.csv").unlink(missing_ok=True)  # it would call the corpus complete
    workers = workers or min(usable_cores(), math.ceil(len(missing) / CLIPS_PER_WORKER))
    context = multiprocessing.get_context("spawn")  # a fork of a process in which PyTorch has threads may hang
    with ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(),)) as pool:
        try:
            spoken = pool.map(functools.partial(speak_into, folder), missing)
            list(tqdm(spoken, str(out), len(missing), unit="clip", disable=None))
        except BrokenProcessPool as error:
            reason = "perhaps killed as memory ran out: the same command goes on where it was"
            raise OSError(f"a process that speaks ended early, {reason}") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then lets a clip be finished
    command_line.end_with_parent(parent)
