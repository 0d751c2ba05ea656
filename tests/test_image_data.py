import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from medmnist import INFO
from sklearn.datasets import load_digits

import image_data
from image_data import load_images, with_course_test_split, with_shuffled_pixels

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


@pytest.fixture(scope="module")
def synthetic():
    return load_images("synthetic-oct", "no such folder")


def test_synthetic_scans_say_that_they_are_synthetic(synthetic):
    assert synthetic.source == "synthetic"
    assert synthetic.class_names == tuple(INFO["octmnist"]["label"].values())
    assert synthetic.describe()["sizes"] == {"train": 6000, "val": 1500, "test": 1500}


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


def in_each_header(offset, value):
    """Two bytes of each member's header changed, in its local copy and in the directory (at two bytes more)."""

    def apply(data):
        changed = bytearray(data)
        for signature, shift in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
            place = changed.find(signature)
            while place >= 0:
                changed[place + offset + shift : place + offset + shift + 2] = value
                place = changed.find(signature, place + 4)
        return bytes(changed)

    return apply


def with_header(shape, pixels=b""):
    """An archive each of whose arrays claims a shape before its pixels."""

    def apply(_):
        header, buffer = io.BytesIO(), io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(buffer, "w") as file:
            for name in arrays():
                file.writestr(f"{name}.npy", header.getvalue() + pixels)
        return buffer.getvalue()

    return apply


def flip_a_stored_byte(_):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays())
    return flip_a_byte(buffer.getvalue())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "not a zip"),
        (lambda data: data[: len(data) // 2], "not a zip"),
        (lambda data: bytes(range(256)) * 9, "not a zip"),
        (flip_a_byte, ""),
        (bare_array, "not a zip"),
        (lambda data: b"\n<!DOCTYPE html><html>403 Forbidden</html>", "it is a web page"),
        (in_each_header(6, b"\1\0"), "train_images is encrypted"),
        (in_each_header(8, b"\x63\0"), "train_images is compressed in a way"),
        (with_header((10**12, 28, 28)), "784,000,000,000,128 bytes"),
        (with_header((2, 28, 28), bytes(3 * 28 * 28)), "1,696 bytes"),
        (flip_a_stored_byte, "Bad CRC-32"),
    ],
    ids=["empty", "truncated", "random", "flipped", "npy", "page", "encrypted", "method", "claims", "more", "stored"],
)
def test_damaged_files(tmp_path, damage, words):
    (tmp_path / "octmnist.npz").write_bytes(damage(npz_bytes(**arrays())))
    message = refused(tmp_path)
    assert "is damaged or no .npz file" in message
    assert words in message


def test_a_folder_or_pipe_for_a_file(tmp_path):
    (tmp_path / "octmnist.npz").mkdir()
    assert "folder or device" in refused(tmp_path)
    (tmp_path / "octmnist.npz").rmdir()
    os.mkfifo(tmp_path / "octmnist.npz")
    assert "folder or device" in refused(tmp_path)


def test_an_archive_that_grows_far_beyond_the_official_one_is_refused(tmp_path):
    official = sum(INFO["breastmnist"]["n_samples"].values())
    made = arrays(classes=2) | {"train_images": np.zeros((8 * official, 28, 28), np.uint8)}
    np.savez_compressed(tmp_path / "breastmnist.npz", **made)
    assert (tmp_path / "breastmnist.npz").stat().st_size < 50_000
    with pytest.raises(ValueError, match=r"its arrays claim 4,9.* bytes, far more than the 4,892,160 expected"):
        load_images("breastmnist", tmp_path)


def test_what_is_not_asked_for_stays_unread(tmp_path):
    np.savez(tmp_path / "octmnist.npz", **arrays(), more=np.array([{}], dtype=object))
    assert load_images("octmnist", tmp_path).describe()["sizes"] == SIZES


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
        (change(train_labels=lambda a: np.uint8(1)), "labels have shape ()"),
        (change(train_labels=lambda a: a.astype("S1")), "not integers"),
        (change(train_labels=lambda a: a.astype(np.uint64) + 2**63), "labels run from 9223372036854775808"),
        (change(train_labels=lambda a: a * 0 + 2), "all labels are 2"),
        (change(val_images=lambda a: a[:1], val_labels=lambda a: a[:1]), "val part: one image alone"),
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


def test_course_split_is_for_octmnist_alone(synthetic):
    small = dataclasses.replace(synthetic, test=tuple(tensor[:9] for tensor in synthetic.test))
    with pytest.raises(ValueError, match="course_test_split"):
        with_course_test_split(small)


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
    assert data.describe()["sizes"] == {"train": 48000, "val": 12000, "test": 10000}
    assert sum(part[1].bincount() for part in (data.train, data.val)).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949
    ]  # fmt: skip
    assert data.test[1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert data.mean == pytest.approx((0.1307,), abs=2e-4)  # of all 60,000; ours are 48,000
    assert data.std == pytest.approx((0.3081,), abs=4e-4)
    whole = load_images("mnist", tmp_path, validation_size=2)  # the fewest that a part may have
    assert whole.train[1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def test_digits_are_there_without_a_download():
    data = load_images("digits", "nowhere")
    assert data.describe()["sizes"] == {"train": 1197, "val": 300, "test": 300}
    assert data.source == "real"
    pixels, labels = data.pixels("train"), data.train[1]
    every = load_digits()
    assert (
        sum(getattr(data, part)[1].bincount() for part in ("train", "val", "test")).tolist()
        == np.bincount(every.target).tolist()
    )
    # made small again, each is most like an original of its own class
    small = F.interpolate(pixels, size=(8, 8), mode="area")[:, 0].numpy()
    distances = ((small[:50].reshape(-1, 1, 64) - every.images.reshape(-1, 64) / 16) ** 2).mean(-1)  # (50, 1797)
    assert every.target[distances.argmin(1)].tolist() == labels[:50].tolist()


def test_missing_mnist_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python download_octmnist.py --dataset mnist.*--dataset digits"):
        load_images("mnist", tmp_path)


def idx(array, magic=None):
    header = (magic or 0x800 + array.ndim, *array.shape)
    return struct.pack(f">{len(header)}I", *header) + array.astype(np.uint8).tobytes()


MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def mnist_files():
    digits = [(np.arange(count) * 7 + 3) % 10 for count in (5040, 30)]
    images = [np.broadcast_to((25 * labels)[:, None, None], (len(labels), 28, 28)) for labels in digits]
    return dict(zip(MNIST_FILES, map(idx, (images[0], digits[0], images[1], digits[1])), strict=True))


def write_mnist(root, files):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, data in files.items():
        (raw / name).write_bytes(data)


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_files_are_read_plain_or_compressed(tmp_path, packed):
    files = mnist_files()
    write_mnist(tmp_path, {f"{name}.gz": gzip.compress(data) for name, data in files.items()} if packed else files)
    data = load_images("mnist", tmp_path, validation_size=5000)
    assert data.describe()["sizes"] == {"train": 40, "val": 5000, "test": 30}
    for part in ("train", "val", "test"):
        labels = getattr(data, part)[1].numpy()
        np.testing.assert_allclose(data.pixels(part)[:, 0, 5, 9].numpy(), labels * 25 / 255, atol=1e-6)
    assert (data.train[1].bincount() + data.val[1].bincount()).tolist() == [504] * 10  # each image in one of them
    assert load_images("mnist", tmp_path, validation_size=5000).digest == data.digest
    assert load_images("mnist", tmp_path, validation_size=4000).describe()["sizes"]["train"] == 1040


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (0, lambda data: struct.pack(">I", 9999) + data[4:], "starts with 9999, not 2051"),
        (0, lambda data: data[:-1], "claims 3,951,360 bytes, but it has 3,951,359"),
        (0, lambda data: data + b"0", "but it has more"),
        (0, lambda data: data[:4] + b"\xff" * 12 + data[16:], "expected at most"),
        (0, lambda data: idx(np.zeros((5, 28, 28))), "5 training images of (28, 28) pixels, not MNIST's 60000"),
        (2, lambda data: idx(np.zeros((30, 14, 56))), "not MNIST's"),
        (1, lambda data: data[:3], "requires a buffer"),
        (1, lambda data: data[:-1] + b"\xc8", "labels run from 0 to 200"),
        (1, lambda data: idx(np.zeros(5039)), "5040 images but 5039 labels"),
        (3, lambda data: idx(np.zeros((30, 1))), "starts with 2050, not 2049"),
    ],
)
def test_mnist_files_of_another_form_are_refused(tmp_path, file, change, words):
    files = mnist_files()
    write_mnist(tmp_path, files | {MNIST_FILES[file]: change(files[MNIST_FILES[file]])})
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        load_images("mnist", tmp_path, validation_size=5000)
    assert f"delete {tmp_path / 'MNIST' / 'raw'} and run" in str(caught.value)


def test_mnist_archives_that_are_damaged_or_grow_are_refused(tmp_path):
    files = {f"{name}.gz": gzip.compress(data) for name, data in mnist_files().items()}
    write_mnist(tmp_path, files)
    path = tmp_path / "MNIST" / "raw" / f"{MNIST_FILES[0]}.gz"
    bomb = gzip.compress(struct.pack(">4I", 2051, 5040, 28, 28) + bytes(2**27))
    for data in (files[path.name][:-9], files[path.name][:-8] + bytes(8), b"<html>", bomb):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is damaged or no file of MNIST's format"):
            load_images("mnist", tmp_path, validation_size=5000)


def test_shuffled_images_have_the_same_pixels_in_one_other_order():
    data = load_images("digits", "data")
    other = with_shuffled_pixels(data)
    for part in ("train", "val", "test"):
        images, moved = getattr(data, part)[0].flatten(1), getattr(other, part)[0].flatten(1)
        assert not torch.equal(images, moved)
        assert torch.equal(images.sort(1).values, moved.sort(1).values)
    places = other.train[0].flatten(1)[:, :50, None] == data.train[0].flatten(1)[:, None, :]  # (N, 50, 784)
    again = other.val[0].flatten(1)[:, :50, None] == data.val[0].flatten(1)[:, None, :]
    assert (places.all(0) & again.all(0)).any(1).all()  # each new pixel is one and the same old one in all images
