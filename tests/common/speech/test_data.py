"""Speech recognition's text, sound, corpus, cache and batches."""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import common.speech.data
import records
from common.speech import audio
from common.speech.audio import Features, UnusableSound, log_mel, read_audio
from common.speech.data import (
    Part,
    RehearsalBatches,
    SpeechBatches,
    batches_in_order,
    load_corpus,
    read_metadata,
    split,
)
from common.speech.text import EMPTY, MAX_TOKENS, START, STOP, UNKNOWN, VOCABULARY, decode, encode, normalise

REPOSITORY = records.ROOT
LJSPEECH = REPOSITORY.parent / "shared" / "data" / "LJSpeech-1.1"
needs_ljspeech = pytest.mark.skipif(not LJSPEECH.exists(), reason="no LJSpeech-1.1 in ../shared/data")

# --- text --------------------------------------------------------------------------------------------


def test_vocabulary():
    assert "".join(VOCABULARY) == "<>@# ,.?-abcdefghijklmnopqrstuvwxyz"
    assert [VOCABULARY[i] for i in (START, STOP, EMPTY, UNKNOWN)] == ["<", ">", "@", "#"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Printing, in the ONLY sense.", "printing, in the only sense."),
        ("Führer à la crème, rêve", "fuhrer a la creme, reve"),
        ("Å\u0301 e\u0301", "a e"),  # composed and decomposed accents
        ('"It\'s (so); they\u2019re: [\u201cwell\u201d]!" \u2018x\u2019', "its so theyre well x"),
        ("1828\u20131830 \u2014 a-b", "####-#### - a-b"),
        ("\ufb01ne \uff21\u2026", "fine a..."),  # compatibility characters: a ligature, a wide letter, an ellipsis
        ("a < b > c @ d # e", "a # b # c # d # e"),
        ("\u4e2d \U0001f600 & / *", "# # # # #"),
        ("  a\t b\r\n\u00a0c  ", "a b c"),
        ("what?", "what?"),
        ("so\u00adlid zero\u200bwidth \ufeffmark \u2764\ufe0f", "solid zerowidth mark #"),
        ('"!"', ""),
    ],
)
def test_normalise_by_hand(text, expected):
    assert normalise(text) == expected
    assert normalise(expected) == expected


def test_every_unicode_character_becomes_a_written_one():
    allowed = set(VOCABULARY) - {"<", ">", "@"}
    for first in range(0, sys.maxunicode + 1, 64):
        assert set(normalise("".join(map(chr, range(first, first + 64))))) <= allowed


def test_encode_by_hand_and_back():
    assert encode("Az, #") == [0, 9, 34, 5, 4, 3, 1]
    assert decode([0, 9, 34, 5, 4, 3, 1]) == "az, #"
    assert decode([0, 2, 9, 2, 10, 1, 11, 12]) == "ab"  # no empty tokens, nothing after the stop
    assert decode(torch.tensor([9, 10]).tolist()) == "ab"
    assert encode("") == [START, STOP]
    assert decode([]) == ""


# --- sound files -------------------------------------------------------------------------------------


def tone(seconds=1.0, rate=22050, hertz=440.0, level=0.5):
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def noise(seconds=1.0, rate=22050, seed=0, level=0.1):
    return level * np.random.default_rng(seed).normal(size=round(seconds * rate))


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 22257])
def test_any_rate_becomes_16_khz(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(rate=rate), rate, "FLOAT")
    samples = read_audio(tmp_path / "a.wav")
    assert samples.dtype == torch.float32
    assert len(samples) == pytest.approx(16000, rel=0.003)
    inner = samples[1000:15000].double().numpy()
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(1000, 15000) / 16000)
    if rate == 22257:  # taken for 22,300: the tone is 0.2 % higher
        spectrum = np.abs(np.fft.rfft(inner * np.hanning(len(inner)), 1 << 17))
        assert spectrum.argmax() * 16000 / (1 << 17) == pytest.approx(440, rel=0.003)
    else:
        np.testing.assert_allclose(inner, expected, atol=5e-3)


def test_resampling_leaves_no_alias(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(hertz=10000), 22050, "FLOAT")  # above 8 kHz: can't be kept
    assert read_audio(tmp_path / "a.wav")[1000:-1000].abs().max() < 0.01


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff", "a.au"])
def test_formats(tmp_path, name):
    soundfile.write(tmp_path / name, tone(rate=16000), 16000)
    samples = read_audio(tmp_path / name).numpy()
    assert np.sqrt(np.mean(samples[2000:14000] ** 2)) == pytest.approx(0.5 / math.sqrt(2), rel=0.05)


def test_channels_are_averaged(tmp_path):
    left, right = noise(rate=16000, seed=0), noise(rate=16000, seed=1)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16000, "FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav").numpy(), (left + right) / 2, atol=1e-6)


def not_finite(path):
    samples = tone()
    samples[5] = np.nan
    soundfile.write(path, samples, 22050, "FLOAT")


def cut(path, share=0.5, subtype="PCM_16"):
    soundfile.write(path, noise(), 22050, subtype)
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])


def headers_only(path):
    soundfile.write(path, np.zeros(0), 22050)


BAD = {
    "empty file": (lambda path: path.write_bytes(b""), "empty"),
    "no samples": (headers_only, "empty"),
    "half a file": (cut, "truncated"),
    "99 % of a file": (lambda path: cut(path, 0.99), "truncated"),
    "half a header": (lambda path: cut(path, 0.0005), "unreadable"),
    "text": (lambda path: path.write_text("no sound " * 100), "unreadable"),
    "NaN": (not_finite, "not finite"),
    "100 Hz": (lambda path: soundfile.write(path, np.ones(50), 100), "sampled below 4000 Hz"),
}


@pytest.mark.parametrize(("make", "problem"), BAD.values(), ids=BAD.keys())
def test_bad_files_are_named(tmp_path, make, problem):
    path = tmp_path / "a.wav"
    make(path)
    with pytest.raises(UnusableSound, match=r"a\.wav") as caught:
        read_audio(path)
    assert caught.value.problem == problem
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_a_truncated_flac_and_a_headerless_file(tmp_path):
    soundfile.write(tmp_path / "a.flac", noise(5), 22050)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(data[: len(data) // 2])
    (tmp_path / "a.raw").write_bytes(data)
    for name in ("a.flac", "a.raw"):
        with pytest.raises(UnusableSound):
            read_audio(tmp_path / name)


def test_a_wav_file_that_came_through_a_pipe_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), 22050)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"  # what a program writes that does not know the length yet
    (tmp_path / "a.wav").write_bytes(data)
    assert len(read_audio(tmp_path / "a.wav")) == 16000


def test_missing_files_are_named(tmp_path):
    for name in ("none.wav", "."):
        with pytest.raises(FileNotFoundError):
            read_audio(tmp_path / name)


# --- spectrograms ------------------------------------------------------------------------------------


def mel_filters(bins=80, fft=400, rate=16000):
    """Slaney's triangles of unit area, from the definition of his scale: linear to 1 kHz, then 27 steps to 6.4 kHz."""

    def to_mel(hertz):
        return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)

    def to_hertz(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    corners = [to_hertz(mel) for mel in np.linspace(0, to_mel(rate / 2), bins + 2)]
    filters = np.zeros((bins, fft // 2 + 1))
    for i, (low, middle, high) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        for k in range(fft // 2 + 1):
            hertz = k * rate / fft
            height = min((hertz - low) / (middle - low), (high - hertz) / (high - middle))
            filters[i, k] = max(0.0, height) * 2 / (high - low)
    return filters


def written_out_log_mel(samples, hop=160):
    samples = samples / np.abs(samples).max()
    padded = np.pad(samples, 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = [padded[start : start + 400] * window for start in range(0, len(samples) + 1, hop)]
    power = np.abs(np.fft.rfft(frames)) ** 2  # (T, 201)
    logarithm = np.log10(np.maximum(power @ mel_filters().T, 1e-10))
    logarithm = np.maximum(logarithm, logarithm.max() - 8)
    centred = logarithm - logarithm.mean(0)
    return centred / np.sqrt((centred**2).mean())


@pytest.mark.parametrize("hop_ms", [10.0, 12.5])
def test_log_mel_is_what_its_definition_says(hop_ms):
    samples = np.concatenate([noise(0.5, 16000), tone(0.3, 16000), np.zeros(8000), noise(0.2, 16000, 1)])
    found = log_mel(torch.tensor(samples, dtype=torch.float32), Features(hop_ms=hop_ms))
    expected = written_out_log_mel(samples, hop=round(16 * hop_ms))
    assert found.shape == expected.shape == (1 + len(samples) // round(16 * hop_ms), 80)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


def test_the_first_clip_under_another_default_device_leaves_the_next_as_it_is():
    features = Features(mel_bins=20)  # of no other test
    with torch.device("meta"):
        audio._mel_spectrogram(features)
    assert log_mel(torch.ones(800), features).device.type == "cpu"


def test_log_mel_hears_a_tone_in_its_own_bin():
    samples = np.concatenate([tone(1, 16000, hertz=1000), noise(1, 16000, level=0.01)])
    loud = log_mel(torch.tensor(samples).float(), Features())[20:80].mean(0).argmax()
    assert loud.item() == mel_filters()[:, 25].argmax()  # 1000 Hz is the 25th multiple of 40 Hz


@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e30])
def test_loudness_does_not_matter(scale):
    samples = torch.tensor(noise(1, 16000)).float()
    torch.testing.assert_close(log_mel(samples * scale, Features()), log_mel(samples, Features()), atol=1e-3, rtol=0)


@pytest.mark.parametrize("samples", [torch.zeros(16000), torch.zeros(1), torch.ones(1), torch.full((300,), 1e-38)])
def test_silence_and_very_short_sound_give_small_finite_numbers(samples):
    found = log_mel(samples, Features())
    assert found.shape[0] >= 1
    assert found.isfinite().all()
    assert found.abs().max() < 12
    if samples.max() == 0:
        assert found.abs().max() < 0.01


# --- corpora -----------------------------------------------------------------------------------------


def write_corpus(root, lengths, words="some words"):
    """A corpus of clips of noise, `lengths` seconds long; clip i says `words` and i letters a."""
    (root / "wavs").mkdir(parents=True)
    lines = []
    for i, seconds in enumerate(lengths):
        lines.append(f"C{i:03}|raw|{words} {'a' * i}")
        soundfile.write(root / "wavs" / f"C{i:03}.wav", noise(seconds, seed=i), 22050)
    (root / "metadata.csv").write_text("\r\n".join(lines) + "\r\n", newline="")
    return root


@pytest.fixture
def corpus_dir(tmp_path):
    return write_corpus(tmp_path / "spoken", [0.3 + 0.05 * i for i in range(12)])


def load(root, **kwargs):
    return load_corpus(root, Features(), cache=root.parent / "cache", **{"workers": 1} | kwargs)


def parts(corpus):
    return corpus.train, corpus.validation, corpus.test


def test_metadata_by_hand(tmp_path):
    lines = ['A|"one|"One', "B|x|It's", "C|only two", "", "D|x|", "E|a|b\u2028c\x0bd", 'F|x|y"|more']
    expected = [("A", "one"), ("B", "its"), ("C", ""), ("D", ""), ("E", "b c d"), ("F", "y")]
    for end in ("\n", "\r", "\r\n"):
        (tmp_path / "metadata.csv").write_bytes(end.join(lines).encode())
        assert read_metadata(tmp_path) == expected
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())
    assert read_metadata(tmp_path) == expected
    invisible = "\n".join(["\ufeffA|x|one", " B\u200b |x|it\u00ads", "\ufeff", "C"])
    (tmp_path / "metadata.csv").write_text(invisible)
    assert read_metadata(tmp_path) == [("A", "one"), ("B", "its"), ("C", "")]


@pytest.mark.parametrize(("content", "kind"), [(None, FileNotFoundError), (b"\r\n", ValueError), (b"\xff", ValueError)])
def test_unusable_metadata_say_what_to_run(tmp_path, content, kind):
    if content is not None:
        (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(kind, match=r"python download_ljspeech\.py") as caught:
        read_metadata(tmp_path)
    assert str(tmp_path / "metadata.csv") in str(caught.value)


def test_the_homeworks_split_of_the_whole_and_a_share_of_the_rest():
    rows = [(str(i), "x") for i in range(13100)]
    members, words = split(rows, {clip for clip, _ in rows})
    assert members == {
        "train": list(range(9825)),
        "validation": list(range(9825, 10480)),
        "test": list(range(10480, 13100)),
    }
    assert "homework" in words
    members, words = split(rows, {str(i) for i in range(345)})
    assert members == {"train": list(range(245)), "validation": list(range(245, 280)), "test": list(range(280, 345))}
    assert "homework" not in words
    members, _ = split(rows, {str(i) for i in range(0, 200, 2)})
    assert members["validation"] == list(range(142, 162, 2))
    for n in range(6, 300):
        members, _ = split(rows[:n], {str(i) for i in range(n)})
        assert [row for rows_of_part in members.values() for row in rows_of_part] == list(range(n))
        assert min(map(len, members.values())) >= 1
        assert abs(len(members["train"]) - 0.71 * n) <= 0.5
        assert abs(len(members["validation"]) - 0.10 * n) <= 0.5


@pytest.mark.parametrize("size", [100, 13100])
def test_a_row_that_is_given_twice_does_not_move_the_split(size):
    rows = [(str(i), "x") for i in range(size)]
    clips = {clip for clip, _ in rows}
    once, words = split(rows, clips)
    twice = [rows[0], *rows[:50], rows[7], rows[3], *rows[50:], rows[-1]]
    members, same_words = split(twice, clips)
    assert same_words == words
    for part in once:
        assert [twice[row] for row in members[part]] == [rows[row] for row in once[part]]


def test_a_corpus_from_start_to_end(corpus_dir, capsys):
    corpus = load(corpus_dir)
    assert capsys.readouterr().err == ""
    assert [len(part) for part in parts(corpus)] == [9, 1, 2]
    everything = [(part, i) for part in parts(corpus) for i in range(len(part))]
    for clip, (part, i) in enumerate(everything):
        assert part.ids[i] == f"C{clip:03}"
        assert part.transcripts[i] == f"some words {'a' * clip}".strip()
        assert part.tokens[i] == encode(part.transcripts[i])
        expected = log_mel(read_audio(part.paths[i]), Features()).numpy()
        assert part.frame_counts()[i] == len(expected)
        np.testing.assert_allclose(part.features(i), expected, atol=5e-3)
    seconds = [0.3 + 0.05 * i for i in range(12)]
    found = corpus.describe()
    assert found["sizes"] == {"train": 9, "validation": 1, "test": 2}
    assert (found["name"], found["source"]) == ("spoken", "real")
    for part, expected in {"train": seconds[:9], "validation": seconds[9:10], "test": seconds[10:]}.items():
        assert found["hours"][part] == pytest.approx(sum(expected) / 3600, abs=1e-4)
        assert found["longest"][part] == pytest.approx(max(expected), abs=0.02)  # a frame
    json.dumps(found)


def test_a_readme_makes_a_corpus_synthetic(corpus_dir):
    (corpus_dir / "README.md").write_text("Human speech.")
    assert load(corpus_dir).source == "real"
    (corpus_dir / "README.md").write_text("SYNTHETIC speech.")
    assert load(corpus_dir).source == "synthetic"


def test_each_bad_clip_is_left_out_and_counted_in_one_line(tmp_path, capsys):
    root = write_corpus(tmp_path / "spoken", [0.4] * 24)
    wavs = [root / "wavs" / f"C{i:03}.wav" for i in range(24)]
    wavs[0].unlink()
    wavs[1].write_bytes(b"")
    cut(wavs[2])
    cut(wavs[3])
    soundfile.write(wavs[4], np.zeros(9000), 22050)
    soundfile.write(wavs[5], noise(3.0), 22050)
    not_finite(wavs[6])
    wavs[7].write_text("text")
    soundfile.write(wavs[8], np.stack([noise(0.4, 44100)] * 2, 1), 44100)  # this one is converted
    wavs[9].unlink()
    wavs[9].symlink_to("nowhere")
    wavs[10].unlink()
    wavs[10].mkdir()
    lines = (root / "metadata.csv").read_text().splitlines()
    lines[11], lines[12], lines[13] = "C011|two fields", "C012|x|!!", f"C013|x|{'a' * 199}"
    lines[14] = f"C014|x|{'a' * 198}"  # the longest that is allowed
    lines.append(lines[20])
    (root / "metadata.csv").write_text("\n".join(lines))
    corpus = load(root, longest_seconds=2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("spoken: 11 of 25 clips used: ")
    reasons = (
        "3 missing, 1 empty, 2 truncated, 1 silent, 1 longer than 2 s, 1 not finite, 1 unreadable, "
        "2 without a transcript, 1 with too long a transcript, 1 listed twice, 71, 10 and 19 %"
    )
    for words in reasons.replace("71, 10", "71;10").split(", "):
        assert words.replace(";", ", ") in error
    used = [clip for part in parts(corpus) for clip in part.ids]
    assert used == ["C008", *(f"C{i:03}" for i in range(14, 24))]
    assert {len(t) for part in parts(corpus) for t in part.tokens} >= {MAX_TOKENS}
    for part in parts(corpus):
        for features, *_ in SpeechBatches(part, 3, 0).epoch(1):
            assert features.isfinite().all()
    load(root, longest_seconds=2)  # and the same from the cache
    assert capsys.readouterr().err == error


def test_an_odd_clip_or_row_does_not_stop_a_corpus(corpus_dir, capsys):
    wavs = corpus_dir / "wavs"
    soundfile.write(wavs / "C000.wav", noise(0.5, 8000), 8000, "GSM610")  # read: libsndfile can't seek in it
    data = bytearray((wavs / "C001.wav").read_bytes())
    data[24:28] = struct.pack("<I", 10**9)
    (wavs / "C001.wav").write_bytes(data)
    soundfile.write(wavs / "C002.wav", noise(0.5), 22050, format="FLAC")
    data = bytearray((wavs / "C002.wav").read_bytes())
    data[21:26] = bytes([data[21] | 0x0F, 255, 255, 255, 255])  # 2^36 - 1 samples
    (wavs / "C002.wav").write_bytes(data)
    soundfile.write(corpus_dir / "outside.wav", noise(), 22050)
    with (corpus_dir / "metadata.csv").open("a") as file:
        file.write("../outside|x|never opened\n../wavs/C003|x|nor this\n")
    corpus = load(corpus_dir)
    assert sorted(clip for part in parts(corpus) for clip in part.ids) == ["C000", *(f"C{i:03}" for i in range(3, 12))]
    error = capsys.readouterr().err
    assert "10 of 14 clips used: 2 missing, 1 sampled above 384000 Hz, 1 damaged; split" in error


def test_a_part_without_clips_is_refused(corpus_dir):
    for wav in sorted((corpus_dir / "wavs").iterdir())[4:]:
        wav.unlink()
    with pytest.raises(ValueError, match=r"spoken: 4 of 12 clips used: 8 missing.*download_ljspeech") as caught:
        load(corpus_dir)
    assert "\n" not in str(caught.value)
    shutil.rmtree(corpus_dir / "wavs")
    with pytest.raises(ValueError, match="0 of 12 clips used"):
        load(corpus_dir)


# --- the cache ---------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch):
    """The files that features were computed of, call after call."""
    calls = []
    genuine = common.speech.data.clip_features
    monkeypatch.setattr(
        common.speech.data, "clip_features", lambda path, **kw: calls.append(path.stem) or genuine(path, **kw)
    )
    return calls


def cache_file(root):
    (path,) = (root.parent / "cache").iterdir()
    return path


def contents(corpus):
    return [part.features(i).tobytes() for part in parts(corpus) for i in range(len(part))]


def test_features_are_computed_once(corpus_dir, computed):
    first = contents(load(corpus_dir))
    assert len(computed) == 12
    assert contents(load(corpus_dir)) == first
    assert len(computed) == 12
    assert cache_file(corpus_dir).stat().st_size < sum(map(len, first)) + 1000  # float16, and one file
    assert isinstance(load(corpus_dir).train.store.base, np.memmap)


@pytest.mark.parametrize("change", ["touch", "size", "remove", "longest", "transcript"])
def test_what_changes_is_computed_anew(corpus_dir, computed, change):
    load(corpus_dir)
    wav, kwargs = corpus_dir / "wavs" / "C003.wav", {}
    if change == "touch":
        os.utime(wav, ns=(1, 1))
    elif change == "size":
        stat = wav.stat()
        soundfile.write(wav, noise(0.9), 22050)
        os.utime(wav, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "remove":
        wav.unlink()
    elif change == "longest":
        kwargs = {"longest_seconds": 30}
    else:  # which the features don't depend on
        text = (corpus_dir / "metadata.csv").read_text()
        (corpus_dir / "metadata.csv").write_text(text.replace("some", "other"))
    corpus = load(corpus_dir, **kwargs)
    assert len(computed) == {"remove": 23, "transcript": 12}.get(change, 24)
    cache_file(corpus_dir)  # is still one
    for part in parts(corpus):
        for i, path in enumerate(part.paths):
            np.testing.assert_allclose(part.features(i), log_mel(read_audio(path), Features()), atol=5e-3)


def test_other_features_have_their_own_cache(corpus_dir):
    load(corpus_dir)
    corpus = load_corpus(corpus_dir, Features(hop_ms=20.0), cache=corpus_dir.parent / "cache", workers=1)
    assert len(list((corpus_dir.parent / "cache").iterdir())) == 2
    assert corpus.train.frame_counts()[0] == 1 + 4800 // 320


def flip(data, where):
    data = bytearray(data)
    data[where] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:10],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[160:],  # a frame too few
        lambda data: bytes(160) + data,
        lambda data: data + b"x",
        lambda data: flip(data, 0),  # a frame
        lambda data: flip(data, len(data) // 2),
        lambda data: flip(data, -1),
        lambda data: flip(data, -12),
        lambda data: flip(data, -20),
        lambda data: flip(data, -60),
        lambda data: data[:-20] + struct.pack("<Q", 1 << 60) + data[-12:],
        lambda data: os.urandom(5000),
    ],
)
def test_a_damaged_cache_is_made_anew(corpus_dir, computed, damage):
    first = contents(load(corpus_dir))
    path = cache_file(corpus_dir)
    data = path.read_bytes()
    path.write_bytes(damage(data))
    assert contents(load(corpus_dir)) == first
    assert len(computed) == 24
    assert path.read_bytes() == data


def test_a_build_that_stops_leaves_nothing_behind(corpus_dir, monkeypatch):
    genuine, calls = common.speech.data.clip_features, []

    def interrupted(path, **kwargs):
        calls.append(path)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return genuine(path, **kwargs)

    monkeypatch.setattr(common.speech.data, "clip_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(corpus_dir)
    assert list((corpus_dir.parent / "cache").iterdir()) == []
    assert len(load(corpus_dir).train) == 9


def test_a_cache_folder_that_can_not_be_made_is_named(corpus_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/cache.*another folder"):
        load_corpus(corpus_dir, Features(), cache=tmp_path / "file" / "cache")


def test_one_process_computes_while_the_others_wait(corpus_dir, monkeypatch):
    genuine, calls = common.speech.data.clip_features, []

    def slow(path, **kwargs):
        calls.append(path)
        time.sleep(0.02)
        return genuine(path, **kwargs)

    monkeypatch.setattr(common.speech.data, "clip_features", slow)
    corpora = []
    threads = [threading.Thread(target=lambda: corpora.append(load(corpus_dir))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 12
    assert contents(corpora[0]) == contents(corpora[1]) == contents(corpora[2])


@pytest.mark.slow
def test_worker_processes_compute_the_same(corpus_dir, tmp_path):
    program = """
import sys
from pathlib import Path
from common.speech.audio import Features
from common.speech.data import load_corpus
if __name__ == "__main__":
    load_corpus(Path(sys.argv[1]), Features(), cache=sys.argv[2], workers=2)
"""
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, str(tmp_path / "program.py"), str(corpus_dir), str(tmp_path / "other")]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, check=True, timeout=120, env=env)
    load(corpus_dir)
    (other,) = (tmp_path / "other").iterdir()
    frames, theirs = (np.frombuffer(p.read_bytes()[: 80 * 160], np.float16) for p in (cache_file(corpus_dir), other))
    np.testing.assert_allclose(frames, theirs, atol=5e-3)


# --- batches -----------------------------------------------------------------------------------------


def part_of(frame_counts, seed=0):
    """A part whose frames are numbered: frame t of the whole store holds the number t modulo 1000."""
    rng = np.random.default_rng(seed)
    stops = np.cumsum(frame_counts).tolist()
    spans = tuple(zip([0, *stops], stops, strict=False))
    store = np.repeat(np.arange(stops[-1])[:, None] % 1000, 3, axis=1).astype(np.float16)
    tokens = tuple([START, *rng.integers(4, 35, rng.integers(1, 30)).tolist(), STOP] for _ in spans)
    ids = tuple(f"C{i}" for i in range(len(spans)))
    return Part(ids, tuple(map(Path, ids)), ids, tokens, spans, store)


def like_ljspeech(n, seed=0):
    """Frames of 10 ms of n clips: LJ Speech's have mean 6.57 s, deviation 2.2 s, and lie within 1.1 and 10.1 s."""
    rng = np.random.default_rng(seed)
    return (np.clip(rng.normal(6.6, 2.3, n), 1.11, 10.1) * 100).astype(int)


def test_a_batch_by_hand():
    part = part_of([2, 4, 3])
    features, lengths, tokens, token_lengths = part.batch(np.array([2, 0]))
    assert features.dtype == torch.float32
    assert tokens.dtype == torch.int64
    assert features[:, :, 1].tolist() == [[6, 7, 8], [0, 1, 0]]
    assert lengths.tolist() == [3, 2]
    assert token_lengths.tolist() == [len(part.tokens[2]), len(part.tokens[0])]
    for row, clip in enumerate((2, 0)):
        padding = max(token_lengths.tolist()) - len(part.tokens[clip])
        assert tokens[row].tolist() == part.tokens[clip] + [EMPTY] * padding


def clips_of(batch, part):
    """Which clips are in a batch: the tokens tell."""
    number = {tuple(tokens): i for i, tokens in enumerate(part.tokens)}
    return [number[tuple(row[:n].tolist())] for row, n in zip(batch[2], batch[3], strict=True)]


@pytest.mark.parametrize(("n", "batch_size"), [(100, 8), (97, 16), (5, 8), (1, 4), (33, 32)])
def test_an_epoch_has_every_clip_once(n, batch_size):
    part = part_of(like_ljspeech(n))
    batches = SpeechBatches(part, batch_size, seed=3)
    for epoch in range(3):
        made = [clips_of(batch, part) for batch in batches.epoch(epoch)]
        assert len(made) == len(batches) == math.ceil(n / batch_size)
        assert max(map(len, made)) <= batch_size
        assert sorted(part.tokens[i] for clips in made for i in clips) == sorted(part.tokens)  # two can be the same


def test_the_order_is_a_function_of_seed_and_epoch():
    part = part_of(like_ljspeech(100))
    epochs = {
        (seed, epoch): [clips_of(batch, part) for batch in SpeechBatches(part, 8, seed).epoch(epoch)]
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }
    torch.manual_seed(123)
    np.random.seed(5)
    batches = SpeechBatches(part, 8, 0)
    assert [clips_of(batch, part) for batch in batches.epoch(2)] == epochs[0, 2]  # without the epochs before it
    members = [{frozenset(clips) for clips in epoch} for epoch in epochs.values()]
    for i, first in enumerate(members):
        for second in members[:i]:
            assert len(first & second) < len(first) / 2  # not the same batches in another order
    longest = [[max(part.frame_counts()[clips]) for clips in epoch] for epoch in epochs.values()]
    assert not any(lengths == sorted(lengths) for lengths in longest)  # nor from short to long


def test_each_batch_is_followed_by_one_that_is_rehearsed():
    few, many = part_of(like_ljspeech(20)), part_of(like_ljspeech(100) + 5000)  # frames: whose clip it is
    batches = RehearsalBatches(SpeechBatches(few, 8, 0), SpeechBatches(many, 8, 0))
    epochs = [list(batches.epoch(epoch)) for epoch in (0, 1)]
    assert [len(epoch) for epoch in epochs] == [len(batches)] * 2 == [6, 6]
    for epoch in epochs:
        assert [bool((lengths > 5000).all()) for _, lengths, *_ in epoch] == [False, True] * 3
        assert sorted(i for batch in epoch[::2] for i in clips_of(batch, few)) == list(range(20))
    first, second = ({frozenset(clips_of(batch, many)) for batch in epoch[1::2]} for epoch in epochs)
    assert not first & second
    with pytest.raises(ValueError, match="20 clips are too few to rehearse beside 100"):
        RehearsalBatches(SpeechBatches(many, 8, 0), SpeechBatches(few, 8, 0))


@pytest.mark.parametrize(("n", "batch_size"), [(9825, 32), (2000, 32), (245, 32), (245, 16)])
def test_padding_stays_under_a_tenth(n, batch_size):
    frame_counts = like_ljspeech(n)
    assert np.mean(frame_counts) == pytest.approx(657, rel=0.06)
    made = _padded_sizes(part_of_lengths_only(frame_counts), batch_size)
    padding = 1 - frame_counts.sum() / made
    assert 0 < padding < 0.10


def part_of_lengths_only(frame_counts):
    part = part_of(np.ones(len(frame_counts), int))
    stops = np.cumsum(frame_counts).tolist()
    spans = tuple(zip([0, *stops], stops, strict=False))
    store = np.broadcast_to(np.float16(0), (stops[-1], 1))  # takes no memory
    return Part(part.ids, part.paths, part.transcripts, part.tokens, spans, store)


def _padded_sizes(part, batch_size):
    return sum(batch[0].shape[0] * batch[0].shape[1] for batch in SpeechBatches(part, batch_size, 0).epoch(1))


def test_batches_in_order_can_be_put_back():
    part = part_of(like_ljspeech(50))
    heard, longest = [None] * 50, []
    for indices, batch in batches_in_order(part, 8):
        assert clips_of(batch, part) == indices.tolist()
        assert len(indices) <= 8
        assert batch[1].tolist() == sorted(batch[1].tolist())
        longest.append(batch[0].shape[1])
        for index, frames in zip(indices.tolist(), batch[1].tolist(), strict=True):
            heard[index] = frames
    assert heard == part.frame_counts().tolist()
    assert longest == sorted(longest)


def test_first_clips():
    part = part_of([2, 4, 3])
    few = part.first(2)
    assert len(few) == 2
    assert few.frame_counts().tolist() == [2, 4]
    assert few.tokens == part.tokens[:2]
    assert len(part.first(9)) == 3


def test_joined_clips():
    part = part_of([2, 4, 3])
    pairs = part.joined(2)
    assert len(pairs) == 1
    np.testing.assert_array_equal(pairs.features(0), np.concatenate([part.features(0), part.features(1)]))
    assert pairs.transcripts == (f"{part.transcripts[0]} {part.transcripts[1]}",)
    assert pairs.tokens[0] == encode(pairs.transcripts[0])
    assert part.joined(1).spans == part.spans
    for count in (0, 4):
        with pytest.raises(ValueError, match="can't be joined"):
            part.joined(count)


# --- LJ Speech ---------------------------------------------------------------------------------------


@pytest.mark.real_data
@needs_ljspeech
def test_every_transcript_of_ljspeech_is_in_the_vocabulary():
    rows = read_metadata(LJSPEECH)
    assert len(rows) == 13100
    assert set("".join(text for _, text in rows)) == set(VOCABULARY[4:])
    assert max(len(text) for _, text in rows) == 187
    assert min(len(text) for _, text in rows) > 0
    assert not [clip for clip, text in rows if "#" in text]
    raw = [line.split("|")[2] for line in (LJSPEECH / "metadata.csv").read_text().splitlines()]
    outside = [text for text in raw if set(text) & set("'\";:()[]!")]
    assert len(outside) == 2744
    for text, (_, mine) in zip(raw, rows, strict=True):  # plain transcripts are but lower-cased
        if text.isascii() and text not in outside:
            assert " ".join(text.lower().split()) == mine


@pytest.mark.real_data
@needs_ljspeech
def test_real_clips(tmp_path, capsys):
    clips = len(list((LJSPEECH / "wavs").iterdir()))
    if clips != 345:
        pytest.skip(f"{clips} clips, not the 345 that this test is about")
    corpus = load_corpus(LJSPEECH, Features(), cache=tmp_path)
    error = capsys.readouterr().err
    assert error.startswith("LJSpeech-1.1: 345 of 13,100 clips used: 12,755 missing; split: 71, 10 and 19 %")
    assert error.count("\n") == 1
    assert corpus.describe()["sizes"] == {"train": 245, "validation": 35, "test": 65}
    assert corpus.source == "real"
    seconds = [soundfile.info(path).duration for part in parts(corpus) for path in part.paths]
    assert sum(corpus.describe()["hours"].values()) == pytest.approx(sum(seconds) / 3600, rel=0.01)
    there = [line.split("|")[0] for line in (LJSPEECH / "metadata.csv").read_text().splitlines()]
    there = [clip for clip in there if (LJSPEECH / "wavs" / f"{clip}.wav").exists()]
    assert [list(part.ids) for part in parts(corpus)] == [there[:245], there[245:280], there[280:]]
    padded = sum(batch[0].shape[0] * batch[0].shape[1] for batch in SpeechBatches(corpus.train, 32, 0).epoch(1))
    assert 1 - corpus.train.frame_counts().sum() / padded < 0.10
