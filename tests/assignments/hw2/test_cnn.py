"""Cats and dogs: how pictures are read, the course's functions, and that the network learns."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from assignments.hw2 import cats_dogs, cnn
from common.classification import get_number_trainable_params
from records import ROOT

DATA = ROOT.parent / "shared" / "data"
COLOURS = {"cat": (200, 40, 40), "dog": (40, 40, 200)}


def picture(kind, number, size=(32, 32)):
    """A plain picture, of a brightness of its own, that a cat is red in and a dog blue."""
    colour = tuple(min(255, value + number) for value in COLOURS[kind])
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Both kinds of data: a zip file as of CIFAR-10, and a folder as the course's, of pictures of several sizes."""
    root = tmp_path_factory.mktemp("data")
    with zipfile.ZipFile(root / "cifar10_jpeg.zip", "w") as archive:
        for part, count in (("train", 30), ("test", 6)):
            for kind in ("cat", "dog"):
                for number in range(count):
                    archive.writestr(f"{part}/{kind}/{number:04}.jpg", picture(kind, number))
            archive.writestr(f"{part}/ship/0000.jpg", picture("dog", 9))
    for part in ("train", "validation"):
        for kind in ("cat", "dog"):
            folder = root / cats_dogs.FOLDER / part / f"{kind}s"
            folder.mkdir(parents=True)
            for number in range(5):
                (folder / f"{kind}.{number}.jpg").write_bytes(picture(kind, number, (40 + number, 61)))
    return root


@pytest.mark.parametrize(("name", "sizes"), [("cifar10_jpeg", (40, 10)), (cats_dogs.FOLDER, (6, 4))])
def test_cats_are_0_and_dogs_1_in_each_part(root, name, sizes):
    data = cats_dogs.load_cats_dogs(name, root, *sizes, image_size=32)
    assert data.class_names == ("cat", "dog")
    assert [len(getattr(data, part)[1]) for part in ("train", "val")] == list(sizes)
    for part in ("train", "val", "test"):
        images, labels = getattr(data, part)
        assert images.shape[1:] == (3, 32, 32)
        assert labels.double().mean() == 0.5
        pixels = data.pixels(part)
        assert torch.equal(pixels[:, 2].mean((1, 2)) > pixels[:, 0].mean((1, 2)), labels == 1)


def brightness(data, part):
    green = data.pixels(part)[:, 1, 0, 0].mul(255).round().int()
    return set(zip(green.tolist(), getattr(data, part)[1].tolist(), strict=True))


def test_validation_is_the_same_whatever_the_training_size(root):
    small, large = (cats_dogs.load_cats_dogs("cifar10_jpeg", root, size, 10) for size in (10, 50))
    assert brightness(small, "val") == brightness(large, "val")
    assert not brightness(large, "val") & brightness(large, "train")


@pytest.mark.parametrize(
    ("name", "folder", "error", "words"),
    [
        (
            "cifar10_jpeg",
            "none",
            FileNotFoundError,
            "zip is not there: use `--dataset cifar10 --download`",
        ),
        (cats_dogs.FOLDER, "none", FileNotFoundError, "is not there: unpack https://"),
        ("cifar10", "none", FileNotFoundError, "add --download"),
        ("cifar10_jpeg", "", ValueError, "has 60 training images, not 10 and 60 together"),
    ],
)
def test_data_that_cannot_be_had_say_how_to_get_them(root, name, folder, error, words):
    with pytest.raises(error, match=words):
        cats_dogs.load_cats_dogs(name, root / folder, 60, 10)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "cifar10_jpeg.zip").write_bytes(b"PK no zip file")
    with pytest.raises(ValueError, match=r"cifar10_jpeg\.zip is damaged"):
        cats_dogs.load_cats_dogs("cifar10_jpeg", tmp_path, 2, 2)


@pytest.mark.real_data
def test_real_cats_and_dogs():
    if not (DATA / "cifar10_jpeg.zip").exists():
        pytest.skip("there is no ../shared/data")
    data = cats_dogs.load_cats_dogs("cifar10_jpeg", DATA, 9000, 1000)
    assert data.describe()["sizes"] == {"train": 9000, "val": 1000, "test": 2000}
    assert data.test[1].bincount().tolist() == [1000, 1000]


def test_loss_and_correct_by_hand_and_a_step_down_the_gradient():
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.eye(2)
    batch = torch.tensor([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0]]), torch.tensor([0, 1, 1])
    loss, correct = cnn.get_loss_and_correct(model, batch, nn.CrossEntropyLoss(), "cpu")
    # -log of 1 / (1 + exp(-2)), of the same, and of 1 / (1 + e)
    assert loss.item() == pytest.approx((2 * np.log1p(np.exp(-2)) + np.log1p(np.e)) / 3)
    assert correct == 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (gradient,) = torch.autograd.grad(loss, model.parameters(), retain_graph=True)
    model.weight.grad = torch.full((2, 2), 9.0)  # of an earlier step, which must not count
    cnn.step(loss, optimizer)
    torch.testing.assert_close(model.weight.data, torch.eye(2) - 0.1 * gradient)


def test_the_network_is_small_and_takes_any_size():
    model = cnn.CNN().eval()
    assert get_number_trainable_params(model) < 300_000
    for size in (16, 32, 75):
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 2)


def test_the_maps_of_a_layer_are_what_the_layers_up_to_it_compute():
    model, image = cnn.CNN().eval(), torch.randn(3, 32, 32)
    with torch.no_grad():
        expected = model.blocks[0](model.stem(image[None]))[0]
    found = cnn.intermediate_output(model, image, model.blocks[0])
    torch.testing.assert_close(found, expected)
    assert not model.blocks[0]._forward_hooks
    assert len(cnn.plot_intermediate_output(found, count=10).axes) == 16


def test_about_half_of_the_images_are_mirrored(monkeypatch):
    monkeypatch.setattr(cnn, "jitter", lambda images: images)
    monkeypatch.setattr(cnn, "cut_out", lambda images, side: images)
    images, labels = torch.randn(400, 3, 2, 2), torch.arange(400)
    found, kept = cnn.moved((images, labels))
    same = (found == images).flatten(1).all(1)
    assert torch.equal(found[~same], images[~same].flip(-1))
    assert 150 < same.sum() < 250
    assert torch.equal(kept, labels)


def test_an_image_and_its_mirror_image_are_scored_alike():
    model, images = cnn.CNN().eval(), torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        expected = (model(images) + model(torch.from_numpy(images.numpy()[..., ::-1].copy()))) / 2
    found = cnn.mirrored_scores(model, images)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(cnn.mirrored_scores(model, images.flip(-1)), found)
    assert cnn.mirrored_accuracy(model, images, expected.argmax(1)) == 1
    assert cnn.mirrored_accuracy(model, images, 1 - expected.argmax(1)) == 0


def test_maps_are_kept_from_their_least_value_to_their_greatest(root):
    data, model = cats_dogs.load_cats_dogs("cifar10_jpeg", root, 40, 10), cnn.CNN()
    found = cnn.responses(model, data)
    assert found["true"] == "cat"
    assert found["pixels"][0] == pytest.approx([200, 40, 40], abs=4)
    maps = cnn.intermediate_output(model, data.test[0][0], model.blocks[2]).numpy()[: cnn.MAPS].reshape(cnn.MAPS, -1)
    for kept, values in zip(found["maps"]["blocks.2"], maps, strict=True):
        expected = (values - values.min()) / max(np.ptp(values), 1e-12)
        np.testing.assert_allclose(np.array(kept) / 255, expected, atol=1 / 255)


@pytest.mark.slow
def test_two_seeds_learn_to_tell_red_from_blue(root, tmp_path, capsys):
    flags = ["--data_root", str(root), "--train_size", "40", "--validation_size", "10", "--epochs", "30"]
    out = ["--batch_size", "8", "--out", str(tmp_path)]
    assert cnn.main([*flags, *out, "--seeds", "0", "3"]) == 0
    result = json.loads((tmp_path / "assignments" / "hw2-cnn-cifar10_jpeg-40.json").read_text())
    assert [trial["seeds"] for trial in result["trials"]] == [[0], [3]]
    assert result["baseline"]["accuracy"]["test"] == 0.5
    assert result["metrics"]["test"]["accuracy"]["values"] == [1, 1]
    plots = sorted(path.name for path in (tmp_path / "plots" / "assignments").glob("*-40-[aer]*.png"))
    assert plots == [f"hw2-cnn-cifar10_jpeg-40-{name}.png" for name in ("accuracies", "examples", "responses")]
    assert "CIFAR-10 (JPEG), 40 to train on" in capsys.readouterr().out
