"""Every reader of files against damaged ones: it gives a result or raises ValueError or OSError, in bounded time and
memory. To add one, add a row to READERS.
"""

import importlib
import io
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import common.speech.data
import records
from asr.checkpoint import load_model
from asr.config import SHIPPED
from common.pictures import read_image
from common.speech.data import read_metadata
from common.speech.sound_files import read_sound
from common.speech.text import VOCABULARY
from image_data import read_idx, read_npz

FILES = 200  # of each format
SECONDS, MEGABYTES = 20, 200  # for one file
CLASSIFIER = records.ROOT / "checkpoints" / "pneumoniamnist-strong.safetensors"
GREY = (np.add.outer(np.arange(60), 2 * np.arange(50)) * 3 % 256).astype(np.uint8)


def picture(array, name, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, name, **options)
    return buffer.getvalue()


def archive():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=GREY[None].repeat(20, 0), labels=np.arange(20, dtype=np.uint8)[:, None])
    return buffer.getvalue()


def digits():
    return bytes.fromhex("00000803 00000004 0000003c 00000032") + GREY.tobytes() * 4


def load_classifier(path):
    model, header = importlib.import_module("hw2-q2").load_model(path)
    assert model(torch.zeros(1, *header["image_shape"])).shape == (1, len(header["class_names"]))


def grey_image(path):
    pixels, _ = read_image(path, (1, 28, 28))
    assert pixels.shape == (1, 28, 28, 1)


def sound(name, sample=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).normal(size=(8000, 2)) / 10, 8000, sample, format=name)
    return buffer.getvalue()


def heard(path):
    samples, rate, _ = read_sound(path)
    assert samples.dtype == np.float32
    assert np.isfinite(samples).all()
    assert len(samples)
    assert 4000 <= rate <= 384_000


def metadata():
    return "".join(f"C{i:03}|It's number {i}.|its number {i}.\r\n" for i in range(60)).encode()


def rows(path):
    path.rename(path.with_name("metadata.csv"))
    for clip, text in read_metadata(path.parent):
        assert set(text) <= set(VOCABULARY)
        assert "|" not in clip


CACHED = (
    (np.zeros((40, 8), np.float16), ""),
    (np.zeros((0, 8), np.float16), "empty"),
    (np.ones((30, 8), np.float16), ""),
)


def cache():
    with tempfile.TemporaryDirectory() as folder:
        common.speech.data._write_cache(Path(folder) / "cache", "key", iter(CACHED))
        return (Path(folder) / "cache").read_bytes()


def cached(path):
    """A damaged cache is as good as none."""
    loaded = common.speech.data._read_cache(path, "key", 8)
    if loaded is None:
        raise ValueError
    np.testing.assert_array_equal(loaded[0], np.concatenate([frames for frames, _ in CACHED]))


def load_recogniser(path):
    model, features = load_model(path)
    assert model.encoder(torch.zeros(1, 4, features.mel_bins), torch.tensor([4])).encoded.isfinite().all()


FRAMES = {"save_all": True, "append_images": [Image.fromarray(255 - GREY)]}
READERS = {  # name: (suffix, a whole file, its reader)
    "npz": (".npz", archive, lambda path: read_npz(path, ["images", "labels"], 100_000)),
    "idx": ("", digits, lambda path: read_idx(path, 3, 100_000)),
    "png": (".png", lambda: picture(GREY, "PNG"), grey_image),
    "png, 16 bits": (".png", lambda: picture(GREY.astype(np.uint16) * 16, "PNG"), grey_image),
    "tiff": (".tiff", lambda: picture(GREY.astype(np.int32) - 99, "TIFF"), grey_image),
    "tiff, compressed": (".tiff", lambda: picture(GREY, "TIFF", compression="tiff_lzw"), grey_image),
    "gif": (".gif", lambda: picture(GREY, "GIF", **FRAMES), grey_image),
    "jpeg": (".jpg", lambda: picture(GREY, "JPEG"), grey_image),
    "classifier": (".safetensors", CLASSIFIER.read_bytes, load_classifier),
    "recogniser": (".safetensors", SHIPPED.read_bytes, load_recogniser),
    "wav": (".wav", lambda: sound("WAV", "PCM_16"), heard),
    "wav, float": (".wav", lambda: sound("WAV", "FLOAT"), heard),
    "wav, adpcm": (".wav", lambda: sound("WAV", "IMA_ADPCM"), heard),
    "aiff": (".aiff", lambda: sound("AIFF", "PCM_24"), heard),
    "caf": (".caf", lambda: sound("CAF", "ALAC_16"), heard),
    "flac": (".flac", lambda: sound("FLAC", "PCM_16"), heard),
    "ogg": (".ogg", lambda: sound("OGG", "VORBIS"), heard),
    "opus": (".opus", lambda: sound("OGG", "OPUS"), heard),
    "mp3": (".mp3", lambda: sound("MP3", "MPEG_LAYER_III"), heard),
    "metadata.csv": (".csv", metadata, rows),
    "features": (".features", cache, cached),
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to eight bytes changed, most near the start or the end, where headers and directories are; some files cut."""
    changed, edge = bytearray(data), min(len(data), 400)
    for _ in range(rng.choice((1, 2, 8))):
        place = rng.choice((rng.randrange(edge), len(data) - 1 - rng.randrange(edge), rng.randrange(len(data))))
        changed[place] = rng.choice((0, 255, changed[place] ^ 1 << rng.randrange(8), rng.randrange(256)))
    return bytes(changed[: rng.randrange(len(data))] if rng.random() < 0.1 else changed)


def resident(peak: bool) -> int:
    """Bytes that the process has in memory, or has had since the last `forget_peak`; 0 where the system can't say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM" if peak else "VmRSS"))


def forget_peak():
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused(name, tmp_path):
    suffix, make, read = READERS[name]
    whole, rng = make(), random.Random(f"seed of {name}")
    path = tmp_path / f"file{suffix}"
    path.write_bytes(whole)
    read(path)
    forget_peak()
    before, outcomes = resident(peak=False), []
    for _ in range(FILES):
        path.write_bytes(damaged(whole, rng))
        start = time.perf_counter()
        try:
            read(path)
            outcomes.append("read")
        except (ValueError, OSError):
            outcomes.append("refused")
        assert time.perf_counter() - start < SECONDS
    assert resident(peak=True) - before < MEGABYTES * 2**20
    assert outcomes.count("refused") >= FILES / 20, "the damage is too slight to test anything"
