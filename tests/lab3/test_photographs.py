"""Photographs in both layouts, what is held out of them, and training parts of any size, on generated pictures."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from lab3 import photographs
from records import ROOT

DATA = ROOT.parent / "shared" / "data"
SIDE = 12  # pixels that the photographs are read with
COUNTS = {"train": 8, "val": 3}  # photographs of each class
HELD_OUT = 3


def jpeg(brightness, size=(20, 16), mode="RGB"):
    """A photograph of one grey."""
    buffer = io.BytesIO()
    colour = {"RGB": (brightness,) * 3, "L": brightness, "CMYK": (0, 0, 0, 255 - brightness)}[mode]
    Image.new(mode, size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def brightness_of(part, kind, number):
    return 20 * number + (10 if kind == "bees" else 0) + (170 if part == "val" else 0)


def files():
    """The names and bytes of a small set, each photograph in a grey of its own."""
    return {
        f"{part}/{kind}/{number}.jpg": jpeg(brightness_of(part, kind, number))
        for part, count in COUNTS.items()
        for kind in photographs.KINDS
        for number in range(count)
    }


def write_zip(root, content):
    with zipfile.ZipFile(root / "ants_bees.zip", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return root


def write_folder(root, content):
    for name, data in content.items():
        path = root / "hymenoptera_data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    monkeypatch.setattr(photographs, "HELD_OUT", HELD_OUT)


def greys(arrays, part, label):
    """The greys of one class, as multiples of ten."""
    images = arrays[f"{part}_images"][arrays[f"{part}_labels"] == label]
    return (images.mean((1, 2, 3)) / 10).round().astype(int).tolist()


def test_zip_and_folder_are_read_alike_and_other_files_left_out(tmp_path):
    others = {"train/ants/imageNotFound.gif": b"GIF89a", "notes.txt": b"", "train/wasps/1.jpg": jpeg(1),
              "__MACOSX/train/ants/1.jpg": b"", "../outside.jpg": b""}  # fmt: skip
    (tmp_path / "a").mkdir()
    zipped = photographs.photographs(write_zip(tmp_path / "a", files() | others), SIDE)
    others.pop("../outside.jpg")
    unpacked = photographs.photographs(write_folder(tmp_path / "b", files() | others), SIDE)
    assert zipped.keys() == unpacked.keys()
    for name, array in zipped.items():
        np.testing.assert_array_equal(array, unpacked[name])
    assert not list(tmp_path.rglob("outside.jpg"))
    assert zipped["train_images"].shape == (2 * (COUNTS["train"] - HELD_OUT), SIDE, SIDE, 3)
    for label, kind in enumerate(photographs.KINDS):
        official = [brightness_of("val", kind, number) // 10 for number in range(COUNTS["val"])]
        assert greys(zipped, "test", label) == official


def test_validation_is_held_out_of_the_training_photographs(tmp_path):
    arrays = photographs.photographs(write_zip(tmp_path, files()), SIDE)
    for label, kind in enumerate(photographs.KINDS):
        kept, held_out = greys(arrays, "train", label), greys(arrays, "val", label)
        assert len(held_out) == HELD_OUT
        assert sorted(kept + held_out) == [brightness_of("train", kind, i) // 10 for i in range(COUNTS["train"])]


def test_training_parts_are_nested_and_balanced_and_the_others_stay(tmp_path):
    write_zip(tmp_path, files())
    pictures = photographs.read("ants_bees", tmp_path, SIDE)
    parts = {size: photographs.select(pictures, size, seed=5) for size in (2, 6, 10, 0)}
    for size, data in parts.items():
        assert data.train[1].bincount().tolist() == [(size or 10) // 2] * 2
        for part in ("val", "test"):
            torch.testing.assert_close(getattr(data, part)[0], getattr(parts[0], part)[0], rtol=0, atol=0)
    greys = {
        size: {round(image.mean().item(), 3) for image in data.train[0]} for size, data in parts.items()
    }  # of each photograph its own
    assert greys[2] < greys[6] < greys[10] == greys[0]
    draws = {tuple(photographs.balanced(pictures.arrays["train_labels"], 4, 2, seed)) for seed in range(8)}
    assert len(draws) > 3


@pytest.mark.parametrize("size", [5, 12])
def test_a_size_that_no_part_can_have_is_refused(tmp_path, size):
    pictures = photographs.read("ants_bees", write_zip(tmp_path, files()), SIDE)
    with pytest.raises(ValueError, match=rf"--train_size is {size}, but must be a multiple of 2.* at most 10 here"):
        photographs.select(pictures, size)


def test_pixels_get_a_mean_and_deviation_of_one_half():
    arrays = {f"{part}_images": np.array([[[0, 255]], [[51, 102]]], np.uint8) for part in ("train", "val", "test")}
    arrays |= {f"{part}_labels": np.array([0, 1]) for part in ("train", "val", "test")}
    data = photographs.select(photographs.Pictures("two", ("a", "b"), arrays))
    torch.testing.assert_close(data.test[0].flatten(), torch.tensor([-1, 1, -0.6, -0.2]), rtol=0, atol=1e-6)
    torch.testing.assert_close(data.pixels("test").flatten(), torch.tensor([0, 1, 0.2, 0.4]), rtol=0, atol=1e-6)


def test_odd_photographs_are_read(tmp_path):
    odd = {"train/ants/0.jpg": jpeg(100, mode="CMYK"), "train/ants/1.jpg": jpeg(100, (1, 30), "L"),
           "train/bees/2.jpg": jpeg(100, (200, 3)), "val/bees/0.JPG": jpeg(100)}  # fmt: skip
    content = files() | odd
    del content["val/bees/0.jpg"]
    arrays = photographs.photographs(write_folder(tmp_path, content), SIDE)
    assert arrays["train_images"].dtype == np.uint8
    assert greys(arrays, "test", 1)[0] == 10
    assert (greys(arrays, "train", 0) + greys(arrays, "val", 0)).count(10) == 3  # the third is the set's own


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_a_damaged_photograph_is_named(tmp_path, write):
    write(tmp_path, files() | {"train/bees/4.jpg": jpeg(70)[:200]})
    with pytest.raises(ValueError, match=r"train/bees/4.jpg of .*(ants_bees.zip|hymenoptera_data) can't be used: dama"):
        photographs.photographs(tmp_path, SIDE)


def test_a_damaged_zip_file_is_named(tmp_path):
    path = write_zip(tmp_path, files()) / "ants_bees.zip"
    whole = path.read_bytes()
    for damaged in (whole[:500], b"<html>", whole.replace(jpeg(brightness_of("train", "ants", 2))[-99:], bytes(99))):
        assert damaged != whole
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"ants_bees.zip is damaged, or holds other files .*: fetch it again"):
            photographs.photographs(tmp_path, SIDE)


def test_a_zip_file_that_claims_too_much_is_not_unpacked(tmp_path, monkeypatch):
    write_zip(tmp_path, files())
    monkeypatch.setattr(photographs, "LARGEST", 1000)
    with pytest.raises(ValueError, match=r"its photographs claim .* bytes, not 1,000 at most"):
        photographs.photographs(tmp_path, SIDE)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"unpack {photographs.TUTORIAL} .* or use --dataset digits"):
        photographs.read("ants_bees", tmp_path, SIDE)
    content = {name: data for name, data in files().items() if not name.startswith("val/bees")}
    with pytest.raises(ValueError, match="hymenoptera_data has no photographs val/bees/"):
        photographs.photographs(write_folder(tmp_path, content), SIDE)
    few = {name: data for name, data in files().items() if "train/ants" not in name or name < "train/ants/3"}
    with pytest.raises(ValueError, match=f"has 3 photographs in train/ants, not more than {HELD_OUT}"):
        photographs.photographs(write_zip(tmp_path, few), SIDE)


def test_digits_are_divided_between_training_before_and_after():
    early, late = photographs.digits(0, photographs.SPLIT), photographs.read("digits", "data", SIDE)
    labels = load_digits().target
    counts = sum(np.bincount(late.arrays[f"{part}_labels"], minlength=5) for part in ("train", "val", "test"))
    assert counts.tolist() == np.bincount(labels)[5:].tolist()
    sizes = [sum(len(each.arrays[f"{part}_labels"]) for part in ("train", "val", "test")) for each in (early, late)]
    assert sizes == [(labels < 5).sum(), (labels >= 5).sum()]
    assert (early.class_names, late.class_names) == (tuple("01234"), tuple("56789"))


def test_cifar_has_its_own_validation_images(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "CIFAR_HELD_OUT", 2)
    with zipfile.ZipFile(tmp_path / "cifar10_jpeg.zip", "w") as archive:
        for place, kind in enumerate(("cat", "ship")):
            for part, count in (("train", 4), ("test", 2)):
                for number in range(count):
                    grey = 100 * place + 10 * number
                    archive.writestr(f"{part}/{kind}/{number}.jpg", jpeg(grey, (32, 32)))
    arrays = photographs.read("cifar10_jpeg", tmp_path, 128).arrays
    for label in (0, 1):
        every = greys(arrays, "train", label) + greys(arrays, "val", label)
        assert sorted(every) == [10 * label + number for number in range(4)]
        assert len(greys(arrays, "val", label)) == 1


def test_crops_are_parts_of_their_photograph():
    ramp = torch.linspace(-1, 1, 32).expand(60, 3, 32, 32).clone()
    ramp[:30] = torch.linspace(-1, 1, 32)[:, None]  # from top to bottom, the others from left to right
    torch.manual_seed(0)
    crops = photographs.random_crops(ramp, 24)
    assert crops.shape == (60, 3, 24, 24)
    assert crops.abs().max() <= 1.001
    assert (crops[:30, 0, -1, 0] > crops[:30, 0, 0, 0]).all()  # never turned upside down
    rising = crops[30:, 0, 0, -1] > crops[30:, 0, 0, 0]
    assert 5 < rising.sum() < 25  # but mirrored
    shares = (crops[:30, 0, -1, 0] - crops[:30, 0, 0, 0]) / 2
    assert shares.unique().numel() > 10
    assert shares.min() > photographs.SMALLEST_CROP * 0.75  # the height of the flattest crop


@pytest.mark.parametrize(("dataset", "may_be"), [("digits", False), ("pneumoniamnist", False), ("cifar10_jpeg", True)])
def test_what_has_a_left_and_a_right_is_not_mirrored(monkeypatch, dataset, may_be):
    monkeypatch.setattr(photographs, "jitter", lambda images: images + 1)
    images = torch.arange(200.0).view(100, 1, 1, 2)
    changed = (photographs.augmented(dataset, images, 2) != images + 1).flatten(1).any(1)
    assert changed.any() == may_be


@pytest.mark.real_data
def test_the_photographs_are_those_of_the_tutorial(monkeypatch):
    if not (DATA / "ants_bees.zip").exists():
        pytest.skip("there is no ../shared/data")
    monkeypatch.undo()
    data = photographs.select(photographs.read("ants_bees", DATA, 32))
    assert [part[1].bincount().tolist() for part in (data.train, data.val, data.test)] == [
        [101, 99],
        [22, 22],
        [70, 83],
    ]
