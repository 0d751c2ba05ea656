"""Synthetic sentences and who speaks them."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import synthetic_data
import utils
from synthetic_speech import (
    RATE,
    TEST_VOICES,
    TRAIN_VOICES,
    Espeak,
    Sentence,
    grammar_texts,
    plan,
    read_texts,
    start_engine,
    write_corpus,
)


@pytest.fixture(scope="module")
def espeak() -> Espeak:
    return start_engine("espeak")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("speech") / "spoken", n=30, seed=3, workers=1)


def wavs(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "wavs").iterdir())}


SENTENCE = Sentence("x", "the quiet sailor followed the river.", "en-us", 160, 50, 0.5)


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
    rows = [line.split("|") for line in (corpus / "metadata.csv").read_text().splitlines()]
    assert len(rows) == 30
    assert all(len(row) == 3 and row[1] == row[2] for row in rows)
    assert [row[0] for row in rows[:2]] == ["SYN-00001", "SYN-00002"]
    assert sorted(path.stem for path in (corpus / "wavs").iterdir()) == sorted(row[0] for row in rows)
    assert "Synthetic" in (corpus / "README").read_text()
    for row in rows:
        info = soundfile.info(corpus / "wavs" / f"{row[0]}.wav")
        assert (info.samplerate, info.channels, info.subtype) == (22050, 1, "PCM_16")
        assert 0.02 < info.duration / len(row[1]) < 0.2  # seconds a character: people take about 0.07
        samples, _ = soundfile.read(corpus / "wavs" / f"{row[0]}.wav")
        assert 0.29 < np.abs(samples).max() < 0.91


def test_same_seed_same_bytes_whatever_the_number_of_processes(corpus, tmp_path):
    again = write_corpus(tmp_path / "again", n=30, seed=3, workers=1)
    assert wavs(again) == wavs(corpus)
    other = write_corpus(tmp_path / "other", n=30, seed=4, workers=1)
    assert not set(wavs(other).values()) & set(wavs(corpus).values())
    (tmp_path / "texts").write_text("".join(f"t{i}|x|word number {i}\n" for i in range(60)))
    one, two = (write_corpus(tmp_path / str(n), texts=tmp_path / "texts", workers=n) for n in (1, 2))
    assert wavs(one) == wavs(two)


def test_an_interrupted_corpus_has_no_metadata_and_goes_on(corpus, tmp_path, monkeypatch):
    speak = Espeak.speak

    def interrupted(self, sentence):
        if sentence.id == "SYN-00010":
            raise InterruptedError("stop")
        return speak(self, sentence)

    monkeypatch.setattr(Espeak, "speak", interrupted)
    with pytest.raises(InterruptedError):
        write_corpus(tmp_path / "spoken", n=30, seed=3, workers=1)
    assert not (tmp_path / "spoken" / "metadata.csv").exists()
    first = tmp_path / "spoken" / "wavs" / "SYN-00001.wav"
    written = first.stat().st_mtime_ns
    monkeypatch.setattr(Espeak, "speak", speak)
    write_corpus(tmp_path / "spoken", n=30, seed=3, workers=1)
    assert first.stat().st_mtime_ns == written  # what was there is kept
    assert wavs(tmp_path / "spoken") == wavs(corpus)


def test_a_folder_of_other_settings_is_left_alone(corpus, tmp_path):
    with pytest.raises(ValueError, match="other settings"):
        write_corpus(corpus, n=30, seed=5)
    (tmp_path / "metadata.csv").write_text("somebody's own\n")
    with pytest.raises(ValueError, match="another corpus"):
        write_corpus(tmp_path, n=3)
    assert (tmp_path / "metadata.csv").read_text() == "somebody's own\n"


def test_the_parts_have_voices_rates_and_pitches_of_their_own():
    assert not set(TRAIN_VOICES.espeak) & set(TEST_VOICES.espeak)
    assert not set(TRAIN_VOICES.flite) & set(TEST_VOICES.flite)
    sentences = plan([(str(i), "x") for i in range(1000)], seed=0, engine="espeak")
    train, test = sentences[:810], sentences[810:]
    assert {s.voice for s in train} == set(TRAIN_VOICES.espeak)
    assert {s.voice for s in test} == set(TEST_VOICES.espeak)
    assert min(s.rate for s in train) > max(s.rate for s in test)
    assert max(s.pitch for s in train) < min(s.pitch for s in test)
    full = plan([(str(i), "x") for i in range(13100)], seed=0, engine="espeak")
    assert full[10479].voice in TRAIN_VOICES.espeak
    assert full[10480].voice in TEST_VOICES.espeak


def test_how_a_row_is_spoken_does_not_depend_on_the_other_rows():
    few, many = (plan([(str(i), "x") for i in range(count)], seed=1, engine="espeak") for count in (50, 90))
    assert few[:40] == many[:40]


# --- the voices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("voice", TRAIN_VOICES.espeak + TEST_VOICES.espeak)
def test_every_voice_speaks_and_differs(voice, espeak):
    samples = espeak.speak(replace(SENTENCE, voice=voice))
    assert 1 < len(samples) / RATE < 5
    assert np.abs(samples).max() > 3000
    others = [v for v in TRAIN_VOICES.espeak + TEST_VOICES.espeak if v != voice]
    assert not any(np.array_equal(samples, espeak.speak(replace(SENTENCE, voice=v))) for v in others)


def test_rate_and_pitch_are_heard(espeak):
    slow, fast = (espeak.speak(replace(SENTENCE, rate=rate)) for rate in (100, 200))
    assert len(slow) > 1.5 * len(fast)
    low, high = (fundamental(espeak.speak(replace(SENTENCE, pitch=pitch))) for pitch in (20, 80))
    assert high > 1.3 * low


def test_an_unknown_voice_is_named(espeak):
    with pytest.raises(ValueError, match="nobody"):
        espeak.speak(replace(SENTENCE, voice="nobody"))


# --- the sentences -----------------------------------------------------------------------------------


def test_grammar_is_varied_and_within_its_alphabet():
    texts = [text for _, text in grammar_texts(2000, seed=0)]
    assert len(set(texts)) > 1800
    for text in texts:
        assert re.fullmatch(r"[a-z ,?.-]+", text)
        assert text[-1] in ".?"
        assert 4 <= len(text.split()) <= 20
        assert len(text) <= 187
    assert sum(text.endswith("?") for text in texts) > 100
    assert sum("," in text for text in texts) > 300
    assert set("abcdefghijklmnopqrstuvwxyz") - set("".join(texts)) <= set("xz")
    assert grammar_texts(10, 0) == grammar_texts(2000, 0)[:10]
    assert grammar_texts(10, 1) != grammar_texts(10, 0)


def test_texts_are_read_as_lj_speech_writes_them(tmp_path, capsys):
    path = tmp_path / "metadata.csv"
    path.write_bytes('a|"x|one "quoted" word\r\nb|x|naïve\r\n\r\nc|two fields\r\nd|x|\r\ne|x|last'.encode())
    assert read_texts(path, None) == [("a", 'one "quoted" word'), ("b", "naïve"), ("e", "last")]
    assert capsys.readouterr().err.count("\n") == 1
    assert read_texts(path, 2) == [("a", 'one "quoted" word'), ("b", "naïve")]


# --- the command line --------------------------------------------------------------------------------


def test_command_line(tmp_path, capsys):
    assert synthetic_data.main(["speech", "--n", "4", "--out", str(tmp_path / "s")]) == 0
    assert "4 synthetic sentences" in capsys.readouterr().out
    assert len(list((tmp_path / "s" / "wavs").iterdir())) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n", "0"], "--n is 0"),
        (["--texts", "nowhere.csv"], "nowhere.csv"),
        (["--engine", "flite", "--n", "1"], "apt install flite"),
    ],
)
def test_errors_are_one_line(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no flite
    start_engine.cache_clear()
    assert synthetic_data.main(["speech", "--out", str(tmp_path / "out"), *flags]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_scans_do_without_the_synthesiser():
    check = "import sys, synthetic_data; sys.exit('synthetic_speech' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=utils.ROOT, timeout=60).returncode == 0


FAKE_FLITE = f"""#!{sys.executable}
import sys, numpy, soundfile
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if arguments["-t"] == "fail":
    sys.exit("no such voice")
soundfile.write(arguments["-o"], 0.5 * numpy.sin(numpy.arange(16000) / 10), 16000)
"""


def test_flite_is_called_and_its_sound_resampled(tmp_path, monkeypatch):
    (tmp_path / "flite").write_text(FAKE_FLITE)
    (tmp_path / "flite").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    start_engine.cache_clear()
    root = write_corpus(tmp_path / "out", n=2, engine="flite", workers=1)
    samples, rate = soundfile.read(root / "wavs" / "SYN-00001.wav")
    assert (len(samples), rate) == (22050, 22050)
    expected = np.sin(np.arange(22050) / 10 * 16000 / 22050)
    assert np.corrcoef(samples[500:-500], expected[500:-500])[0, 1] > 0.99
    with pytest.raises(ValueError, match="could not speak x: no such voice"):
        start_engine("flite").speak(replace(SENTENCE, text="fail"))


@pytest.mark.skipif(not shutil.which("flite"), reason="apt install flite")
@pytest.mark.parametrize("voice", TRAIN_VOICES.flite + TEST_VOICES.flite)
def test_every_flite_voice_speaks(voice):
    start_engine.cache_clear()
    samples = start_engine("flite").speak(replace(SENTENCE, voice=voice))
    assert 1 < len(samples) / RATE < 6
    assert np.abs(samples).max() > 3000
