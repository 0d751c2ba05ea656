"""Sound files of every kind, with headers that are odd but legal, cut, or claim what is not there."""

import struct

import numpy as np
import pytest
import soundfile

from common.speech.audio import read_audio
from common.speech.sound_files import UnusableSound, read_sound

RATE = 22050
SAMPLES = (0.2 * np.random.default_rng(0).normal(size=9 * RATE)).clip(-1, 1)
STEPS = np.round(SAMPLES * 32767).astype("<i2")  # as 16-bit sound


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(content) if size is None else size) + content + b"\0" * (len(content) % 2)


def wav(*before: bytes, after: bytes = b"", riff_size: int | None = None, data_size: int | None = None) -> bytes:
    head = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, RATE * 2, 2, 16))
    body = b"".join([b"WAVE", head, *before, chunk(b"data", STEPS.tobytes(), data_size), after])
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


NOTE = chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 5) + b"Lavf\0\0")
ODD_BUT_LEGAL = {
    "plain": wav(),
    "a RIFF size eight too large": wav(riff_size=len(wav())),
    "a RIFF size of 0": wav(riff_size=0),
    "a data size of 0": wav(data_size=0),
    "both sizes 0": wav(riff_size=0, data_size=0),
    "through a pipe": wav(riff_size=0xFFFFFFFF, data_size=0xFFFFFFFF),
    "through another pipe": wav(riff_size=0x7FFFFFFF, data_size=0x7FFFFFDB),
    "a note after the sound": wav(after=NOTE),
    "a note and an odd chunk before the sound": wav(NOTE, chunk(b"junk", b"odd")),
}


@pytest.mark.parametrize("data", ODD_BUT_LEGAL.values(), ids=ODD_BUT_LEGAL.keys())
def test_an_odd_but_legal_wav_header_changes_nothing(tmp_path, data):
    (tmp_path / "a.wav").write_bytes(data)
    samples, rate, complete = read_sound(tmp_path / "a.wav")
    assert (rate, complete) == (RATE, True)
    np.testing.assert_array_equal(samples, STEPS.astype(np.float32) / 32768)


FORMATS = [  # of file and of sample, and how far from the sound it may be, root mean square
    *[("WAV", *sample) for sample in (("PCM_16", 1e-4), ("PCM_24", 1e-6), ("PCM_32", 1e-6), ("FLOAT", 1e-6))],
    *[("WAV", *sample) for sample in (("DOUBLE", 1e-6), ("PCM_U8", 1e-2), ("ULAW", 4e-2), ("IMA_ADPCM", 0.1))],
    ("WAV", "GSM610", 0.2), ("WAVEX", "PCM_24", 1e-6), ("RF64", "PCM_16", 1e-4), ("W64", "PCM_16", 1e-4),
    ("CAF", "PCM_24", 1e-6), ("CAF", "ALAC_16", 1e-4), ("AIFF", "PCM_16", 1e-4), ("AU", "PCM_16", 1e-4),
    ("FLAC", "PCM_24", 1e-6), ("FLAC", "PCM_S8", 1e-2), ("OGG", "VORBIS", 0.1), ("MP3", "MPEG_LAYER_III", 0.15),
]  # fmt: skip


@pytest.mark.parametrize(("file_format", "sample", "tolerance"), FORMATS)
def test_every_format_holds_the_same_sound(tmp_path, file_format, sample, tolerance):
    low = np.convolve(SAMPLES, np.ones(8) / 8, "same")  # codecs drop the highest frequencies
    for channels in (1,) if sample == "GSM610" else (1, 2):
        soundfile.write(tmp_path / "a", np.stack([low] * channels, 1), RATE, sample, format=file_format)
        found = read_sound(tmp_path / "a")
        assert (found.rate, found.complete) == (RATE, True)
        error = found.samples[: len(low)] - low
        assert np.sqrt(np.mean(error**2)) < tolerance * (1 if tolerance < 0.05 else low.std() * 3)


def test_opus_and_eight_channels(tmp_path):
    soundfile.write(tmp_path / "a.ogg", SAMPLES, 48000, "OPUS")
    assert read_sound(tmp_path / "a.ogg").rate == 48000
    soundfile.write(tmp_path / "a.wav", np.stack([SAMPLES * i / 28 for i in range(8)], 1), RATE, "FLOAT")
    np.testing.assert_allclose(read_sound(tmp_path / "a.wav").samples, SAMPLES / 8, atol=1e-6)  # 28 = 0 + 1 + … + 7


def write(path, file_format, sample="PCM_16"):
    soundfile.write(path, SAMPLES, RATE, sample, format=file_format)
    return path.read_bytes()


@pytest.mark.parametrize("file_format", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "FLAC", "OGG", "MP3"])
def test_what_ends_early_is_read_as_far_as_it_goes(tmp_path, capfd, file_format):
    path = tmp_path / "a"
    data = write(path, file_format, {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(file_format, "PCM_16"))
    path.write_bytes(data[: len(data) // 2])
    found = read_sound(path)
    assert not found.complete
    assert 0.3 < len(found.samples) / len(SAMPLES) < 0.6
    assert capfd.readouterr().err == ""  # a decoder's own words have no file's name
    with pytest.raises(UnusableSound, match="truncated"):
        read_audio(path)


def with_total(flac: bytes, total: int) -> bytes:
    """A FLAC file whose header counts so many samples: 36 bits, the first four in byte 21."""
    return flac[:21] + bytes([flac[21] & 0xF0 | total >> 32]) + struct.pack(">I", total & 0xFFFFFFFF) + flac[26:]


def test_a_flac_stream_need_not_say_how_long_it_is(tmp_path):
    data = write(tmp_path / "a.flac", "FLAC")
    (tmp_path / "a.flac").write_bytes(with_total(data, 0))
    found = read_sound(tmp_path / "a.flac")
    assert found.complete
    assert len(found.samples) == len(SAMPLES)
    for total in (0, len(SAMPLES)):  # known from the header, or after so many blocks
        (tmp_path / "a.flac").write_bytes(with_total(data, total))
        with pytest.raises(UnusableSound, match="longer than 8 s"):
            read_sound(tmp_path / "a.flac", longest_seconds=8)


def test_claims_are_checked_before_memory_is_taken(tmp_path):
    data = write(tmp_path / "a.flac", "FLAC")
    (tmp_path / "a.flac").write_bytes(with_total(data, (1 << 36) - 1))
    with pytest.raises(UnusableSound, match="damaged"):
        read_sound(tmp_path / "a.flac", longest_seconds=1e9)
    soundfile.write(tmp_path / "quiet.flac", np.zeros(600 * RATE), RATE)  # 200 samples a byte: no false claim
    assert len(read_sound(tmp_path / "quiet.flac").samples) == 600 * RATE


@pytest.mark.parametrize(("rate", "problem"), [(3999, "below"), (4000, ""), (384_000, ""), (384_001, "above")])
def test_rates_that_devices_have(tmp_path, rate, problem):
    soundfile.write(tmp_path / "a.wav", SAMPLES[:9000], rate)
    if problem:
        with pytest.raises(UnusableSound, match=rf"a\.wav is sampled {problem}"):
            read_sound(tmp_path / "a.wav")
    else:
        assert read_sound(tmp_path / "a.wav").rate == rate


def test_a_length_of_zero_before_another_chunk_is_no_sound(tmp_path):
    data = wav(after=NOTE)
    start = data.index(b"data")
    (tmp_path / "a.wav").write_bytes(data[:start] + chunk(b"data", b"") + NOTE)
    with pytest.raises(UnusableSound, match="empty"):
        read_sound(tmp_path / "a.wav")
