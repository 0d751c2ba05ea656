import dataclasses
import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from medmnist import INFO
from PIL import Image

import image_data
from image_data import load_images, read_image, with_course_test_split

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZES = {"train": 12, "val": 5, "test": 7}


def arrays(classes=4, shape=(28, 28), seed=0):
    rng = np.random.default_rng(seed)
    made = {}
    for part, count in SIZES.items():
        made[f"{part}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        made[f"{part}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % classes
    return made


@pytest.fixture(autouse=True)
def every_warning_anew():
    image_data._warn_once.cache_clear()


def refused(root, kind=ValueError, **kwargs):
    """The message with which octmnist in `root` is refused: one line that names the file and the mend."""
    with pytest.raises(kind) as caught:
        load_images("octmnist", root, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root / "octmnist.npz") in message
    assert f"python download_octmnist.py --root {root}" in message
    return message


# --- good data ---------------------------------------------------------------------------------------


def test_grey_images_are_normalised_with_the_training_parts_statistics(tmp_path):
    made = arrays()
    np.savez(tmp_path / "octmnist.npz", **made)
    data = load_images("octmnist", tmp_path)
    pixels = {part: made[f"{part}_images"].astype(np.float64) / 255 for part in SIZES}
    mean, std = pixels["train"].mean(), pixels["train"].std()
    assert data.mean == pytest.approx((mean,), abs=1e-6)
    assert data.std == pytest.approx((std,), abs=1e-6)
    for part, count in SIZES.items():
        images, labels = getattr(data, part)
        assert images.shape == (count, 1, 28, 28)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        np.testing.assert_allclose(images[:, 0].numpy(), (pixels[part] - mean) / std, atol=1e-5)
        assert labels.tolist() == made[f"{part}_labels"][:, 0].tolist()
    assert data.class_names == tuple(INFO["octmnist"]["label"].values())
    assert data.source == "real"
    assert data.describe()["sizes"] == SIZES


def test_colour_images_are_normalised_channel_by_channel(tmp_path):
    made = arrays(classes=8, shape=(28, 28, 3))
    made["train_images"][..., 1] //= 3  # so that channels can't be mistaken for each other
    np.savez(tmp_path / "bloodmnist.npz", **made)
    data = load_images("bloodmnist", tmp_path)
    pixels = made["train_images"].astype(np.float64) / 255
    expected = ((pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(data.train[0].numpy(), expected, atol=1e-5)
    assert len(data.mean) == 3


def test_constant_images_do_not_divide_by_zero(tmp_path):
    made = arrays()
    for part in SIZES:
        made[f"{part}_images"][:] = 51
    np.savez(tmp_path / "octmnist.npz", **made)
    data = load_images("octmnist", tmp_path)
    assert data.train[0].abs().max() < 1e-6


def test_other_sizes_have_their_own_file_and_checksum(tmp_path, capsys):
    np.savez(tmp_path / "octmnist_64.npz", **arrays(shape=(64, 64)))
    assert load_images("octmnist_64", tmp_path).train[0].shape == (12, 1, 64, 64)
    assert INFO["octmnist"]["MD5_64"] in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="--size 128"):
        load_images("octmnist_128", tmp_path)


def test_synthetic_scans_say_that_they_are_synthetic():
    data = load_images("synthetic-oct", "no such folder")
    assert data.source == "synthetic"
    assert data.class_names == tuple(INFO["octmnist"]["label"].values())
    assert data.describe()["sizes"] == {"train": 6000, "val": 1500, "test": 1500}
    assert torch.equal(data.train[0], load_images("synthetic-oct").train[0])


# --- sets that can't be used -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chestmnist", "several labels"),
        ("organmnist3d", "no data set"),
        ("cifar", "octmnist"),
        ("octmnist_99", "no data"),
    ],
)
def test_unusable_sets_are_refused_in_one_line(tmp_path, name, words):
    with pytest.raises(ValueError, match=words) as caught:
        load_images(name, tmp_path)
    assert "\n" not in str(caught.value)


# --- bad data ----------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    assert "--dataset synthetic-oct" in refused(tmp_path, FileNotFoundError)


def npz_bytes(**made):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **made)
    return buffer.getvalue()


def flip_a_byte(data):
    return data[:3000] + bytes([data[3000] ^ 0xFF]) + data[3001:]


def bare_array(_):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 28, 28), np.uint8))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: bytes(range(256)) * 9,
        flip_a_byte,
        bare_array,
    ],
    ids=["empty", "truncated", "random", "flipped byte", "bare npy"],
)
def test_damaged_files(tmp_path, damage):
    (tmp_path / "octmnist.npz").write_bytes(damage(npz_bytes(**arrays())))
    assert "damaged" in refused(tmp_path)


def change(**changed):
    def apply(made):
        made.update({key: new(made[key]) for key, new in changed.items()})
        return made

    return apply


@pytest.mark.parametrize(
    ("apply", "words"),
    [
        (lambda made: {key: made[key] for key in made if key != "val_labels"}, "no val_labels"),
        (change(train_images=lambda a: a.astype(np.float32)), "float32, not uint8"),
        (change(train_images=lambda a: a[..., None]), "shape"),
        (change(test_images=lambda a: a[:, 0]), "shape"),
        (change(test_images=lambda a: a[:0], test_labels=lambda a: a[:0]), "shape"),
        (change(val_labels=lambda a: a + 1), "run from 1 to 4, not within 0 to 3"),
        (change(val_labels=lambda a: a.astype(np.int64) - 1), "-1 to"),
        (change(val_labels=lambda a: a.astype(np.float64)), "not integers"),
        (change(val_labels=lambda a: np.hstack([a, a])), "labels have shape"),
        (change(train_images=lambda a: a[:-1]), "11 images but 12 labels"),
    ],
)
def test_files_of_the_wrong_form(tmp_path, apply, words):
    np.savez(tmp_path / "octmnist.npz", **apply(arrays()))
    assert words in refused(tmp_path)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_object_arrays_are_never_unpickled(tmp_path):
    trace = tmp_path / "unpickled"
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists()  # the payload works
    trace.unlink()
    made = arrays() | {"train_images": np.array([Payload(trace)], dtype=object)}
    np.savez(tmp_path / "octmnist.npz", **made)
    refused(tmp_path)
    assert not trace.exists()


def test_another_checksum_is_reported_once_or_refused(tmp_path, capsys, monkeypatch):
    path = tmp_path / "octmnist.npz"
    np.savez(path, **arrays())
    load_images("octmnist", tmp_path)
    load_images("octmnist", tmp_path)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
    assert INFO["octmnist"]["MD5"] in refused(tmp_path, strict_checksum=True)
    monkeypatch.setitem(INFO["octmnist"], "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    load_images("octmnist", tmp_path, strict_checksum=True)
    assert capsys.readouterr().err == ""


# --- the course's cut of the test set ----------------------------------------------------------------


def test_course_split_keeps_the_first_images_of_each_class(tmp_path):
    rng = np.random.default_rng(1)
    made = arrays()
    labels = rng.permutation(np.repeat(np.arange(4, dtype=np.uint8), 250))
    images = rng.integers(0, 256, (1000, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "octmnist.npz", **made | {"test_images": images, "test_labels": labels[:, None]})
    data = load_images("octmnist", tmp_path)
    left, kept = {0: 182, 1: 55, 2: 42, 3: 250}, []
    for index, label in enumerate(labels.tolist()):
        if left[label] > 0:
            left[label] -= 1
            kept.append(index)
    cut = with_course_test_split(data)
    assert len(kept) == 529
    assert torch.equal(cut.test[0], data.test[0][kept])
    assert torch.equal(cut.test[1], data.test[1][kept])
    assert torch.equal(cut.train[0], data.train[0])


def test_course_split_is_for_octmnist_alone():
    data = load_images("synthetic-oct")
    small = dataclasses.replace(data, test=(data.test[0][:9], data.test[1][:9]))
    with pytest.raises(ValueError, match="course_test_split"):
        with_course_test_split(small)


# --- image files -------------------------------------------------------------------------------------


def test_an_image_of_the_right_form_is_read_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    image, note = read_image(tmp_path / "scan.png", (1, 28, 28))
    np.testing.assert_array_equal(image, pixels.reshape(1, 28, 28, 1))
    assert note == ""


@pytest.mark.parametrize("name", ["scan.jpg", "scan.bmp", "scan.gif", "scan.tif", "scan.webp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_any_common_format_and_mode_becomes_grey(tmp_path, name, mode):
    image = Image.new("RGB", (90, 50), (200, 200, 200))
    try:
        image.convert(mode).save(tmp_path / name)
    except (OSError, ValueError):
        pytest.skip(f"{name} can't hold {mode}")
    found, note = read_image(tmp_path / name, (1, 28, 28))
    assert found.shape == (1, 28, 28, 1)
    tolerance = 15 if mode == "P" else 6  # a palette of 216 colours has none nearer
    assert np.abs(found.astype(int) - 200).max() <= tolerance
    assert "90x50 to 28x28" in note


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path):
    pixels = np.linspace(0, 65535, 784).reshape(28, 28).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    found, note = read_image(tmp_path / "deep.png", (1, 28, 28))
    np.testing.assert_allclose(found[0, :, :, 0], pixels / 257, atol=1)
    assert "to L" in note


def test_the_centre_is_cropped_and_the_orientation_kept(tmp_path):
    pixels = np.zeros((28, 84, 3), np.uint8)
    pixels[:, 28:56] = 255  # the middle third
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert read_image(tmp_path / "wide.png", (1, 28, 28))[0].min() > 250
    top = Image.fromarray(np.vstack([np.full((14, 28), 255, np.uint8), np.zeros((14, 28), np.uint8)]))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    top.save(tmp_path / "turned.png", exif=exif)
    found = read_image(tmp_path / "turned.png", (1, 28, 28))[0][0, :, :, 0]
    assert found[:14].max() == 0
    assert found[14:].min() == 255


def test_colour_networks_get_colour(tmp_path):
    Image.new("RGB", (28, 28), (10, 20, 30)).save(tmp_path / "c.png")
    assert read_image(tmp_path / "c.png", (3, 28, 28))[0][0, 0, 0].tolist() == [10, 20, 30]


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1000])
    for name in ("text.png", "cut.png", "missing.png", "."):
        with pytest.raises((OSError, ValueError)):
            read_image(tmp_path / name, (1, 28, 28))


# --- real data ---------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL_DATA / "pneumoniamnist.npz").exists(), reason="no pneumoniamnist.npz in ../shared/data")
def test_real_chest_xrays():
    data = load_images("pneumoniamnist", REAL_DATA)
    assert data.describe()["sizes"] == {"train": 4708, "val": 524, "test": 624}
    assert data.train[1].bincount().tolist() == [1214, 3494]
    assert data.class_names == ("normal", "pneumonia")
    assert data.task == "binary-class"


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL_DATA / "MNIST").exists(), reason="no MNIST in ../shared/data")
def test_real_mnist(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (REAL_DATA / "MNIST" / "raw").glob("*.gz"):
        (raw / archive.name).symlink_to(archive)
    data = load_images("mnist", tmp_path)
    assert data.describe()["sizes"] == {"train": 55000, "val": 5000, "test": 10000}
    assert data.train[1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test[1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert data.mean == pytest.approx((0.1307,), abs=2e-4)  # of all 60,000; ours are 55,000
    assert data.std == pytest.approx((0.3081,), abs=4e-4)


def test_missing_mnist_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python download_octmnist.py --dataset mnist"):
        load_images("mnist", tmp_path)
