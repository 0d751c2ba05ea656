"""CIFAR as torchvision lays it out and as JPEG files, on small generated ones."""

import hashlib
import io
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from common import cifar


def write_cifar100(root, monkeypatch, per_class=3, classes=("apple", "bear", "crab")):
    """A folder as torchvision's CIFAR-100 reads it; in image i of a class all pixels are 10 class + i."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    labels = [number for number in range(len(classes)) for _ in range(per_class)]
    pixels = [np.full(3 * 32 * 32, 10 * label + i % per_class, np.uint8) for i, label in enumerate(labels)]
    digests = {}
    for name, content in {
        "train": {"data": np.stack(pixels), "fine_labels": labels},
        "test": {"data": np.stack(pixels[::per_class]), "fine_labels": labels[::per_class]},
        "meta": {"fine_label_names": list(classes)},
    }.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        digests[name] = hashlib.md5(data).hexdigest()
    reader = cifar.torchvision_set("cifar100")
    monkeypatch.setattr(reader, "train_list", [["train", digests["train"]]])
    monkeypatch.setattr(reader, "test_list", [["test", digests["test"]]])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": digests["meta"]})


def test_cifar100_class_by_class(tmp_path, monkeypatch):
    write_cifar100(tmp_path, monkeypatch)
    groups, classes = cifar.read_cifar("cifar100", tmp_path)
    assert classes == ("apple", "bear", "crab")
    assert [group[:, 0, 0, 0].tolist() for group in groups["train"]] == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert [group.shape for group in groups["test"]] == [(1, 32, 32, 3)] * 3
    groups, classes = cifar.read_cifar("cifar100", tmp_path, ("crab", "apple"))
    assert classes == ("crab", "apple")
    assert [group[0, 0, 0, 0] for group in groups["test"]] == [20, 0]


def test_all_classes_of_a_zip_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "cifar10_jpeg.zip", "w") as archive:
        for part in ("train", "test"):
            for kind, brightness in (("ship", 200), ("cat", 90)):
                buffer = io.BytesIO()
                Image.new("RGB", (32, 32), (brightness,) * 3).save(buffer, "JPEG")
                archive.writestr(f"{part}/{kind}/0.jpg", buffer.getvalue())
    groups, classes = cifar.read_cifar("cifar10_jpeg", tmp_path)
    assert classes == ("cat", "ship")
    assert [int(group.mean()) for group in groups["train"]] == [90, 200]


def test_a_split_has_as_many_of_each_class_and_no_image_twice(tmp_path, monkeypatch):
    write_cifar100(tmp_path, monkeypatch, per_class=9)
    groups, _ = cifar.read_cifar("cifar100", tmp_path)
    small, large = (cifar.split_by_class("cifar100", groups, {"val": 6, "train": size}) for size in (3, 21))
    assert small["val_labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(small["val_images"], large["val_images"])
    seen = [*large["val_images"][:, 0, 0, 0], *large["train_images"][:, 0, 0, 0]]
    assert sorted(seen) == [10 * label + i for label in range(3) for i in range(9)]
    with pytest.raises(ValueError, match="cifar100 has 27 training images, not 6 and 24 together"):
        cifar.split_by_class("cifar100", groups, {"val": 6, "train": 24})


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_data_that_are_not_there_say_how_to_get_them(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=rf"{cifar.TITLES[name]} is not in .*: add --download, \d+ MB"):
        cifar.read_cifar(name, tmp_path)
