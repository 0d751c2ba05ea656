"""Synthetic sentences and who speaks them."""

import contextlib
import os
import queue
import re
import shutil
import signal
import string
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import records
from records import ROOT
from synthetic import speech as synthetic_speech
from synthetic.__main__ import main
from synthetic.speech import (
    ACCENTS,
    MANY_VOICES,
    RATE,
    TEST_VOICES,
    TRAIN_VOICES,
    VARIANTS,
    Row,
    Sentence,
    espeak_samples,
    espeak_version,
    first_test_row,
    flite_samples,
    grammar_rows,
    plan,
    read_rows,
    speak_into,
    write_corpus,
)

SENTENCE = Sentence("x", "the quiet sailor followed the river.", "en-us", 160, 50, 0.5)
ESPEAK_VOICES = TRAIN_VOICES.espeak + TEST_VOICES.espeak
needs_flite = pytest.mark.skipif(not shutil.which("flite"), reason="apt install flite")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("speech") / "spoken", n=30, seed=3, workers=1)


class InThisProcess(contextlib.nullcontext):
    def __init__(self, *_):
        super().__init__(self)

    map, shutdown = staticmethod(map), lambda *_, **__: None


@pytest.fixture
def in_this_process(monkeypatch) -> None:
    """The work of the pool, without the time that its processes take to start."""
    monkeypatch.setattr(synthetic_speech, "ProcessPoolExecutor", InThisProcess)


def wavs(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "wavs").iterdir()}


def metadata(root: Path) -> list[list[str]]:
    return [line.split("|") for line in (root / "metadata.csv").read_text(encoding="utf-8").splitlines()]


def numbered(count: int) -> list[Row]:
    return [Row(str(i), "x", "x") for i in range(count)]


def fundamental(samples: np.ndarray) -> float:
    """Hz: the median over 40 ms windows of the strongest period between 60 and 400 Hz."""
    found = []
    for start in range(0, len(samples) - 882, 882):
        window = samples[start : start + 882].astype(float)
        if np.abs(window).max() < 2000:
            continue
        correlation = np.correlate(window, window, "full")[881:]
        lags = np.arange(RATE // 400, RATE // 60)
        found.append(RATE / lags[np.argmax(correlation[lags])])
    return float(np.median(found))


# --- the corpus --------------------------------------------------------------------------------------


def test_layout_is_lj_speechs(corpus):
    rows = metadata(corpus)
    assert [row[0] for row in rows] == [f"SYN-{i:05d}" for i in range(1, 31)]
    assert all(len(row) == 3 and row[1] == row[2] for row in rows)
    assert sorted(path.name for path in corpus.iterdir()) == ["README", "metadata.csv", "wavs"]
    assert sorted(wavs(corpus)) == [f"{row[0]}.wav" for row in rows]


def test_clips_are_whole_loud_enough_and_as_long_as_their_texts(corpus):
    peaks = []
    for name, text, _ in metadata(corpus):
        path = corpus / "wavs" / f"{name}.wav"
        info = soundfile.info(path)
        assert (info.format, info.samplerate, info.channels, info.subtype) == ("WAV", 22050, 1, "PCM_16")
        assert 0.03 < info.duration / len(text) < 0.16  # seconds a character: people take about 0.07
        samples, _ = soundfile.read(path)
        peaks.append(np.abs(samples).max())
        assert np.sqrt((samples**2).mean()) > 0.02
    assert min(peaks) > 0.299
    assert max(peaks) < 0.901
    assert np.std(peaks) > 0.08  # of 0.17, a uniform distribution's


def test_clips_are_what_the_plan_says(corpus):
    for sentence in plan(grammar_rows(30, 3), 3, "espeak")[::7]:
        expected = espeak_samples(sentence) / 32768
        samples, _ = soundfile.read(corpus / "wavs" / f"{sentence.id}.wav")
        np.testing.assert_allclose(samples, expected * sentence.loudness / np.abs(expected).max(), atol=1e-4)


def test_readme_says_synthetic_and_how_to_make_it_again(corpus):
    text = (corpus / "README").read_text()
    assert text.startswith("Synthetic speech, spoken by espeak-ng 1.")
    command = re.search(r"Made by: python -m synthetic (.*)", text)[1]
    assert command == "speech --n 30 --seed 3 --engine espeak"


def test_recognisers_data_takes_it_for_synthetic_and_whole(corpus, tmp_path):
    data, audio = pytest.importorskip("common.speech.data"), pytest.importorskip("common.speech.audio")
    loaded = data.load_corpus(corpus, audio.Features(), tmp_path, workers=1)
    assert loaded.source == "synthetic"
    assert [len(part) for part in (loaded.train, loaded.validation, loaded.test)] == [21, 3, 6]
    assert loaded.train.transcripts[0] == metadata(corpus)[0][2]


def test_same_seed_same_bytes_whatever_the_number_of_processes(corpus, tmp_path):
    assert wavs(write_corpus(tmp_path / "two", n=30, seed=3, workers=2)) == wavs(corpus)


def test_another_seed_says_other_things(corpus, tmp_path, in_this_process):
    other = write_corpus(tmp_path / "other", n=30, seed=4)
    assert not set(wavs(other).values()) & set(wavs(corpus).values())
    assert len({row[1] for row in metadata(other) + metadata(corpus)}) > 55


def test_finished_corpus_is_left_as_it_is_and_summed_up(corpus, capsys):
    before = {path: path.stat().st_mtime_ns for path in (corpus / "wavs").iterdir()}
    write_corpus(corpus, n=30, seed=3)
    assert before == {path: path.stat().st_mtime_ns for path in (corpus / "wavs").iterdir()}
    hours = sum(soundfile.info(path).duration for path in before) / 3600
    pattern = rf"{re.escape(str(corpus))}: 30 synthetic sentences, {hours:.2f} hours, espeak-ng 1\.\d+.*\n"
    assert re.fullmatch(pattern, capsys.readouterr().out)


def test_lost_clip_is_spoken_again(corpus, tmp_path, in_this_process):
    root = shutil.copytree(corpus, tmp_path / "copy")
    (root / "wavs" / "SYN-00007.wav").unlink()
    write_corpus(root, n=30, seed=3)
    assert wavs(root) == wavs(corpus)
    assert metadata(root) == metadata(corpus)


@pytest.mark.parametrize("change", [{"seed": 5}, {"n": 29}, {"texts": "texts"}])
def test_corpus_of_other_settings_is_left_alone(change, corpus, tmp_path):
    if "texts" in change:
        change = {"texts": tmp_path / "texts"}
        change["texts"].write_text("".join(f"{row[0]}|x|other words\n" for row in metadata(corpus)))
    before = wavs(corpus)
    with pytest.raises(ValueError, match="no corpus of these settings: choose another"):
        write_corpus(corpus, **{"n": 30, "seed": 3, **change})
    assert wavs(corpus) == before
    assert (corpus / "metadata.csv").exists()


def test_texts_changed_in_place_are_another_corpus(tmp_path, in_this_process):
    texts = tmp_path / "texts"
    texts.write_text("a|x|one word\n")
    write_corpus(tmp_path / "out", texts=texts)
    texts.write_text("a|x|two words\n")
    with pytest.raises(ValueError, match="no corpus of these settings"):
        write_corpus(tmp_path / "out", texts=texts)


def test_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty"):
        write_corpus(tmp_path, n=3)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@contextlib.contextmanager
def speaking(out: Path) -> Iterator[subprocess.Popen]:
    """A process that speaks 2000 sentences with two workers, which have both started."""
    command = [sys.executable, ROOT / "synthetic" / "__main__.py", "speech", "--n", "2000", "--out", out]
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 -- a shell's background job ignores it
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listen
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while len(list(out.glob("wavs/*.wav"))) < 100:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def test_ctrl_c_leaves_no_metadata_and_the_same_command_goes_on(tmp_path):
    out = tmp_path / "spoken"
    with speaking(out) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to its workers, too
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.fullmatch(r"python -m synthetic: interrupted; the same command goes on .*\n", errors)
    spoken = wavs(out)
    assert len(spoken) < 2000
    assert not (out / "metadata.csv").exists()
    sentences = plan(grammar_rows(100, 0), 0, "espeak")
    expected = tmp_path / "expected"
    expected.mkdir()
    for sentence in sentences[:3]:  # the clips that are there are whole ones
        speak_into(expected, sentence)
        name = f"{sentence.id}.wav"
        assert spoken.get(name, (expected / name).read_bytes()) == (expected / name).read_bytes()


def test_workers_end_with_their_parent(tmp_path):
    with speaking(tmp_path / "spoken") as process:
        process.kill()
        process.communicate(timeout=5)  # waits until nobody has the other end of stderr, the workers neither
    with records.locked(tmp_path / "spoken" / "metadata.csv"):  # is free at once
        pass


def test_second_synthesis_waits_for_the_first_and_finds_its_corpus(corpus, tmp_path, monkeypatch):
    out, said = tmp_path / "spoken", queue.Queue()
    monkeypatch.setattr(records, "print", lambda line, file: said.put(line), raising=False)
    second = threading.Thread(target=write_corpus, args=(out, 30, 3))
    with records.locked(out / "metadata.csv"):
        second.start()
        assert said.get(timeout=20).startswith(f"waiting for process {os.getpid()} on ")
        shutil.copytree(corpus, out, dirs_exist_ok=True)
        written = (out / "wavs").stat().st_mtime_ns
    second.join()
    assert (out / "wavs").stat().st_mtime_ns == written
    assert sorted(path.name for path in out.iterdir()) == ["README", "metadata.csv", "wavs"]


def test_failure_in_the_middle_leaves_no_metadata_and_goes_on(corpus, tmp_path):
    out = tmp_path / "spoken"
    (out / "wavs").mkdir(parents=True)
    shutil.copy(corpus / "README", out)
    blocked = out / "wavs" / ".SYN-00020.part"
    blocked.mkdir()  # here the clip would be written
    (out / "metadata.csv").write_text("from before some clips were lost")
    with pytest.raises(OSError, match=r"SYN-00020.wav \(Is a directory\): make room there, or choose"):
        write_corpus(out, n=30, seed=3, workers=1)
    assert not (out / "metadata.csv").exists()
    first = out / "wavs" / "SYN-00001.wav"
    written = first.stat().st_mtime_ns
    blocked.rmdir()
    write_corpus(out, n=30, seed=3, workers=1)
    assert first.stat().st_mtime_ns == written
    assert wavs(out) == wavs(corpus)
    assert metadata(out) == metadata(corpus)


# --- who speaks --------------------------------------------------------------------------------------


def test_parts_have_voices_rates_and_pitches_of_their_own():
    assert not set(TRAIN_VOICES.espeak) & set(TEST_VOICES.espeak)
    assert not set(TRAIN_VOICES.flite) & set(TEST_VOICES.flite)
    for engine in ("espeak", "flite"):
        sentences = plan(numbered(1000), 0, engine)
        train, test = sentences[:810], sentences[810:]
        assert {s.voice for s in train} == set(getattr(TRAIN_VOICES, engine))
        assert {s.voice for s in test} == set(getattr(TEST_VOICES, engine))
        for quality in ("rate", "pitch"):
            heard, unheard = ({getattr(s, quality) for s in part} for part in (train, test))
            assert len(heard) > 20
            assert len(unheard) > 10
            assert max(heard) < min(unheard) or max(unheard) < min(heard)


def test_both_engines_share_a_corpus(fake_flite, tmp_path):
    sentences = plan(numbered(1000), 0, "both")
    for part, voices in ((sentences[:810], MANY_VOICES), (sentences[810:], TEST_VOICES)):
        assert {s.voice for s in part} <= {*voices.espeak, *voices.flite}
        assert {s.voice for s in part} >= {*voices.flite}
        assert 0.4 < np.mean([s.voice in voices.flite for s in part]) < 0.6
    root = write_corpus(tmp_path / "out", n=8, engine="both", workers=1)
    spoken = {s.id: s.voice for s in plan(grammar_rows(8, 0), 0, "both")}
    for clip, voice in spoken.items():
        is_sine = soundfile.info(root / "wavs" / f"{clip}.wav").frames == 22050
        assert is_sine == (voice in TRAIN_VOICES.flite + TEST_VOICES.flite)
    assert f"{espeak_version()} and flite 2.2" in (root / "README").read_text()


def test_test_part_starts_where_the_homework_cuts():
    assert first_test_row(13100) == 10480
    full = plan(numbered(13100), 0, "espeak")
    assert full[10479].voice in TRAIN_VOICES.espeak
    assert full[10480].voice in TEST_VOICES.espeak
    data = pytest.importorskip("common.speech.data")
    for count in [*range(1, 300), 13099, 13101]:
        rows = [(str(i), "x") for i in range(count)]
        parts, _ = data.split(rows, {name for name, _ in rows})
        assert first_test_row(count) == (parts["test"] or [count])[0]


def test_how_a_row_is_spoken_does_not_depend_on_the_other_rows():
    few, many = (plan(numbered(count), 1, "espeak") for count in (50, 90))
    assert few[:40] == many[:40]
    assert plan(numbered(50), 2, "espeak") != few


@pytest.fixture(scope="module")
def spoken_by_each() -> dict[str, np.ndarray]:
    return {voice: espeak_samples(replace(SENTENCE, voice=voice)) for voice in ESPEAK_VOICES}


@pytest.mark.parametrize("voice", ESPEAK_VOICES)
def test_every_voice_speaks_and_differs(voice, spoken_by_each):
    samples = spoken_by_each[voice]
    assert 1.2 < len(samples) / RATE < 4
    assert np.abs(samples).max() > 3000
    assert sum(np.array_equal(samples, other) for other in spoken_by_each.values()) == 1


def test_many_voices_speak_and_differ():
    spoken = [espeak_samples(replace(SENTENCE, voice=f"en-us+{variant}")) for variant in VARIANTS]
    assert all(1.2 < len(samples) / RATE < 4 and np.abs(samples).max() > 3000 for samples in spoken)
    assert len({samples.tobytes() for samples in spoken}) == len(VARIANTS)
    assert not {*MANY_VOICES.espeak, *MANY_VOICES.flite} & {*TEST_VOICES.espeak, *TEST_VOICES.flite}
    assert {variant.partition("+")[2] for variant in TEST_VOICES.espeak}.isdisjoint(VARIANTS)
    assert max(MANY_VOICES.pitch) < min(TEST_VOICES.pitch)
    assert min(MANY_VOICES.rate) > max(TEST_VOICES.rate)
    accents = {len(espeak_samples(replace(SENTENCE, voice=f"{accent}+f2"))) for accent in ACCENTS}
    assert len(accents) > 1


def test_voices_of_women_are_higher(spoken_by_each):
    women, men = ([fundamental(spoken_by_each[f"en-us+{v}"]) for v in names] for names in (["f1", "f2"], ["m2", "m7"]))
    assert min(women) > 1.2 * max(men)


def test_rate_and_pitch_are_heard():
    slow, fast = (espeak_samples(replace(SENTENCE, rate=rate)) for rate in (100, 200))
    assert len(slow) > 1.5 * len(fast)
    low, high = (fundamental(espeak_samples(replace(SENTENCE, pitch=pitch))) for pitch in (20, 80))
    assert high > 1.3 * low


def test_clip_does_not_depend_on_the_clips_before_it():
    breathy = replace(SENTENCE, voice="en-us+f5")  # with a noise of its own
    alone = [espeak_samples(SENTENCE), espeak_samples(breathy)]
    espeak_samples(replace(SENTENCE, text="something else, at another pitch.", pitch=80, rate=120))
    for sentence, expected in zip((breathy, SENTENCE), reversed(alone), strict=True):
        np.testing.assert_array_equal(espeak_samples(sentence), expected)


def test_long_path_of_the_data(tmp_path, monkeypatch):
    """espeak-ng itself cuts it off after 160 bytes."""
    import espeakng_loader

    expected, folder = espeak_samples(SENTENCE), tmp_path / ("long" * 40)
    folder.mkdir()
    (folder / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(folder / "espeak-ng-data"))
    here = Path.cwd()
    np.testing.assert_array_equal(espeak_samples(SENTENCE), expected)
    assert Path.cwd() == here


def test_letters_beyond_ascii_are_spoken():
    spoken = [espeak_samples(replace(SENTENCE, text=text)) for text in ("a café", "a caf\N{LATIN SMALL LETTER AE}")]
    assert spoken[0].any()
    assert not np.array_equal(*spoken)


def test_unknown_voice_is_named():
    with pytest.raises(ValueError, match="no voice nobody"):
        espeak_samples(replace(SENTENCE, voice="nobody"))


def test_text_without_a_sound_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing to say for x, ' ': leave"):
        speak_into(tmp_path, replace(SENTENCE, text=" "))
    assert not any(tmp_path.iterdir())


def test_speaking_is_fifty_times_faster_than_talking(tmp_path):
    sentences = plan(grammar_rows(40, 0), 0, "espeak")
    start = time.process_time()
    for sentence in sentences:
        speak_into(tmp_path, sentence)
    seconds = time.process_time() - start
    assert sum(soundfile.info(path).duration for path in tmp_path.glob("*.wav")) > 50 * seconds


# --- what is said ------------------------------------------------------------------------------------


def test_grammar_is_varied_and_within_its_alphabet():
    texts = [row.normalised for row in grammar_rows(2000, seed=0)]
    assert len(set(texts)) > 1800
    for text in texts:
        assert re.fullmatch(r"[a-z]+([ -]|, )([a-z]+([ -]|, ))*[a-z]+[.?]", text)
        assert 4 <= len(text.split()) <= 20
        assert len(text) <= 187
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text)
    words = [len(text.split()) for text in texts]
    assert min(words) <= 5
    assert max(words) >= 18
    assert sum(text.endswith("?") for text in texts) > 100
    assert sum("," in text for text in texts) > 300
    assert sum("-" in text for text in texts) > 50
    assert set(string.ascii_lowercase + " ,.?-") == set("".join(texts))
    assert len(set(" ".join(texts).split())) > 300


def test_sentences_are_a_function_of_the_seed_and_their_place():
    assert grammar_rows(10, 0) == grammar_rows(2000, 0)[:10]
    assert grammar_rows(10, 1) != grammar_rows(10, 0)


@pytest.mark.parametrize("symbol", synthetic_speech.GRAMMAR)
def test_every_symbol_of_the_grammar_is_used_and_defined(symbol):
    used = {name for options in synthetic_speech.GRAMMAR.values() for name in re.findall(r"{(\w+)}", str(options))}
    assert used | {"sentence"} == set(synthetic_speech.GRAMMAR)
    options = synthetic_speech.GRAMMAR[symbol]
    assert all(options)
    assert symbol in ("sentence", "count") or len(set(options)) == len(options)


METADATA = f"""\
\N{ZERO WIDTH NO-BREAK SPACE}a|He said "1".|he said "one"\r
b|x|na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve \N{NEXT LINE}words\r
\r
short|two fields\r
empty|x| \r
dots|x|...\r
../outside|x|words\r
long|x|{"words " * 200}\r
nul|x|one\0two\r
{"i" * 61}|x|no name for a file\r
|x|words\r
a|x|repeated\r
e|x|last|one too many"""


def test_texts_are_read_as_lj_speech_writes_them(tmp_path, capsys):
    path = tmp_path / "metadata.csv"
    path.write_bytes(METADATA.encode())
    naive = "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve \N{NEXT LINE}words"
    expected = [Row("a", 'He said "1".', 'he said "one"'), Row("b", "x", naive), Row("e", "x", "last")]
    assert read_rows(path) == expected
    assert re.fullmatch(r".*metadata\.csv: 9 of 12 rows left out: .*\n", capsys.readouterr().err)
    assert read_rows(path, 2) == expected[:2]


def test_good_texts_are_read_without_a_word(tmp_path, capsys):
    (tmp_path / "texts").write_text("a|b|c\nd|e|f\n")
    assert read_rows(tmp_path / "texts") == [Row("a", "b", "c"), Row("d", "e", "f")]
    assert capsys.readouterr().err == ""


def test_corpus_of_texts_speaks_the_third_column_under_their_ids(tmp_path, in_this_process):
    path = tmp_path / "texts.csv"
    path.write_bytes(b'LJ001-0001|No. "5"|number five\r\nLJ001-0002|two|two words\r\nLJ001-0003|x|not this\r\n')
    root = write_corpus(tmp_path / "out", n=2, texts=path)
    assert (root / "metadata.csv").read_bytes() == b'LJ001-0001|No. "5"|number five\nLJ001-0002|two|two words\n'
    assert sorted(wavs(root)) == ["LJ001-0001.wav", "LJ001-0002.wav"]
    assert "--texts texts.csv\n" in (root / "README").read_text()
    assert str(tmp_path) not in (root / "README").read_text()
    speak_into(tmp_path, plan([Row("LJ001-0001", "", "number five"), *numbered(1)], 0, "espeak")[0])
    assert (tmp_path / "LJ001-0001.wav").read_bytes() == wavs(root)["LJ001-0001.wav"]


# --- the command line --------------------------------------------------------------------------------


def test_command_line_writes_the_same_corpus(corpus, tmp_path, capsys, in_this_process):
    out = tmp_path / "new" / "spoken"
    assert main(["speech", "--n", "30", "--seed", "3", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 30 synthetic sentences, ")
    assert wavs(out) == wavs(corpus)
    assert (out / "README").read_text() == (corpus / "README").read_text()


def test_grammar_speaks_2000_sentences_unless_told_otherwise(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(synthetic_speech, "speak_missing", lambda out, sentences, _: asked.extend(sentences))
    monkeypatch.setattr(records, "write_file", lambda *_: None)
    with pytest.raises(FileNotFoundError):  # as there are no clips to sum up
        write_corpus(tmp_path / "out")
    assert len(asked) == 2000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n", "0"], "--n is 0, but must be from 1 to 100,000"),
        (["-n", "1000000000000"], "--n is 1000000000000, but must be from 1 to 100,000"),
        (["-seed", "-1"], "--seed is -1, but must be from 0 to 4,294,967,295"),
        (["--seed", "99999999999999999999"], "--seed is 99999999999999999999, but must be from 0"),
        (["--texts", "nowhere.csv"], "there is no file nowhere.csv"),
        (["--texts", "{tmp}"], "is no file: give --texts a file with rows"),
        (["--texts", "{tmp}/binary"], "is not UTF-8"),
        (["--texts", "{tmp}/huge"], "huge has more than 64 MiB"),
        (["--texts", "{tmp}/file"], "no row that can be spoken"),
        (["--n", "1", "--out", "{tmp}/file"], "file is a file: choose a folder"),
        (["--n", "1", "--out", "{tmp}/file/below"], "file/below/metadata.csv (Not a directory): make room"),
        (["--engine", "flite", "--n", "1"], "apt install flite"),
    ],
)
def test_errors_are_one_line(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no flite
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "binary").write_bytes(b"a|b|\xff\n")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(64 * 2**20 + 1)  # takes no room
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    assert main(["speech", "--out", str(tmp_path / "out"), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "file").read_text() == "not a folder"


def test_unknown_engine_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--engine is 'festival', but must be one of espeak, flite, both"):
        write_corpus(tmp_path / "out", n=1, engine="festival")
    assert not (tmp_path / "out").exists()


def test_missing_espeak_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert main(["speech", "--n", "1", "--out", str(tmp_path / "out")]) == 2
    assert "pip install espeakng-loader" in capsys.readouterr().err


# --- flite -------------------------------------------------------------------------------------------

FAKE_FLITE = f"""#!{sys.executable} -S
import math, struct, sys, wave
if "--version" in sys.argv:
    sys.exit(print("  version: flite-2.2-fake"))
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if arguments["-t"] == "fail":
    sys.exit("the voice is\\nhoarse")
if arguments["-t"] != "say nothing":
    with wave.open(arguments["-o"], "wb") as file, open({{log!r}}, "a") as log:
        print(*arguments.items(), file=log)
        file.setparams((1, 2, 16000, 16000, "NONE", ""))
        file.writeframes(struct.pack("<16000h", *(int(16000 * math.sin(i / 10)) for i in range(16000))))
"""


@pytest.fixture
def fake_flite(tmp_path, monkeypatch, in_this_process) -> Path:
    """A flite that says a sine of 1600 / (2 pi) Hz for a second, and the file where it notes how it is called."""
    log = tmp_path / "log"
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "flite").write_text(FAKE_FLITE.format(log=str(log)))
    (folder / "flite").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return log


def test_flite_is_told_voice_rate_and_text(fake_flite):
    flite_samples(replace(SENTENCE, voice="awb", rate=150))
    expected = [("-voice", "awb"), ("--setf", "duration_stretch=1.100"), ("-t", SENTENCE.text)]
    assert fake_flite.read_text().startswith(" ".join(map(str, expected)))


def test_sound_of_flite_is_resampled_into_a_corpus(fake_flite, tmp_path):
    root = write_corpus(tmp_path / "out", n=1, engine="flite")
    samples, rate = soundfile.read(root / "wavs" / "SYN-00001.wav")
    assert (len(samples), rate) == (22050, 22050)
    expected = np.sin(np.arange(22050) / 10 * 16000 / 22050)
    assert np.corrcoef(samples[500:-500], expected[500:-500])[0, 1] > 0.999
    assert (root / "README").read_text().startswith("Synthetic speech, spoken by flite 2.2: ")


@pytest.mark.parametrize("text", ["fail", "say nothing"])
def test_failure_of_flite_is_one_line_with_its_reason(text, fake_flite, tmp_path, capsys):
    (tmp_path / "texts").write_text(f"a|x|{text}\n")
    flags = ["--texts", str(tmp_path / "texts"), "--out", str(tmp_path / "out")]
    assert main(["speech", "--engine", "flite", *flags]) == 2
    error = capsys.readouterr().err
    assert "flite cannot speak a (" in error
    assert ("the voice is hoarse" in error) == (text == "fail")
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "metadata.csv").exists()


@needs_flite
@pytest.mark.parametrize("voice", TRAIN_VOICES.flite + TEST_VOICES.flite)
def test_every_flite_voice_speaks_at_the_rate_asked_for(voice):
    slow, fast = (flite_samples(replace(SENTENCE, voice=voice, rate=rate)) for rate in (120, 190))
    assert 1 < len(fast) / RATE < len(slow) / RATE < 5
    assert len(slow) > 1.3 * len(fast)
    assert np.abs(slow).max() > 3000


@needs_flite
def test_flite_voices_differ():
    lengths = {len(flite_samples(replace(SENTENCE, voice=v))) for v in TRAIN_VOICES.flite + TEST_VOICES.flite}
    assert len(lengths) == 4  # flite speaks with another voice where it does not know one
