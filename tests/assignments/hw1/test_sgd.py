"""Gradient descent on the input of a classifier: each part by hand, and what a run leaves."""

import io
import json
import sys
import urllib.error
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from assignments.hw1 import classifiers, dreams, gd, sgd
from assignments.hw1.sgd import PLAIN, Recipe, gradient_descent
from records import ROOT

DATA = ROOT.parent / "shared" / "data"
INSTALL = "pip install -e '.[dreams]'"
STANDARD = {"mean": (0.0,), "std": (1.0,)}  # leaves pixels as they are


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def with_part(**part):
    return Recipe(**vars(PLAIN) | part)


def small_network(channels=1):
    """With everything that depends on the mode: batch normalisation and dropout."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


# --- the course's functions --------------------------------------------------------------------------


def test_jitter_is_a_roll_of_the_standardised_image():
    image = torch.rand(1, 3, 7, 5)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (image[0].numpy() - mean[:, None, None]) / std[:, None, None]
    rolls = {(down, right): np.roll(expected, (down, right), (1, 2)) for down in range(-2, 3) for right in range(-2, 3)}
    seen = set()
    for _ in range(300):
        found = sgd.normalize_and_jitter(image, step=2)[0].numpy()
        (move,) = (move for move, rolled in rolls.items() if np.allclose(found, rolled, atol=1e-6))
        seen.add(move)
    assert seen == rolls.keys()  # each of them once in 25 times
    np.testing.assert_allclose(sgd.normalize_and_jitter(image, step=0)[0], expected, atol=1e-6)


def test_the_activation_of_a_layer_is_what_the_layers_up_to_it_compute():
    model, image = small_network().eval(), torch.rand(1, 1, 6, 6)
    found = sgd.forward_and_return_activation(model, image, model[2])
    torch.testing.assert_close(found, model[2](model[1](model[0](image))), rtol=0, atol=0)
    assert not model[2]._forward_hooks


def test_plain_descent_on_a_linear_model_follows_its_weights():
    """The gradient of a logit is a row of the weights, in whatever place, so that the image is known in advance."""
    model, start = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.rand(1, 1, 3, 4)
    row = model[1].weight.detach()[2].numpy().reshape(3, 4)
    steps = sum(PLAIN.learning_rate * (1 - 0.9 * k / 10) for k in range(10))
    found = gradient_descent(start, model, lambda output: output[0, 2], 10, PLAIN, **STANDARD)
    expected = start[0, 0].numpy() + steps * row / np.sqrt((row**2).mean())
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-5)


def test_the_course_interface_raises_a_probability_with_its_own_normalisation():
    """As the course's script calls it: three arguments, an input that asks for gradients, images in colour."""
    model = small_network(3)
    start = (128 / 255 + 8 / 255 * torch.randn(1, 3, 40, 40)).requires_grad_()
    kept = start.detach().clone()
    found = gradient_descent(start, model, lambda tensor: tensor[0, 1].mean(), iterations=12)
    model.eval()
    before, after = (model(sgd.normalize_and_jitter(image, 0)).softmax(1)[0, 1].item() for image in (start, found))
    assert after > before + 0.01
    assert found.shape == start.shape
    assert not found.requires_grad
    assert torch.equal(start, kept)
    assert start.grad is None


def test_the_model_is_evaluated_in_evaluation_mode_and_left_as_it_was():
    model = small_network()
    model[1].eval()  # the one that its owner has put so
    model[0].bias.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    learnt = [parameter.requires_grad for parameter in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    hook = model[3].register_forward_hook(lambda module, inputs, output: seen.append(torch.equal(inputs[0], output)))
    gradient_descent(torch.rand(1, 1, 8, 8), model, lambda output: output[0, 0], 5, Recipe(jitter=2), **STANDARD)
    hook.remove()
    assert seen == [True] * 5  # dropout drops nothing
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == learnt
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ZeroDivisionError), sgd.frozen(model):
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == modes


def test_a_layer_in_the_middle_can_be_raised():
    model, start = small_network().eval(), torch.rand(1, 1, 8, 8)
    found = gradient_descent(start, model, lambda output: output[0, 2].mean(), 20, PLAIN, layer=model[1], **STANDARD)
    before, after = (model[1](model[0](image))[0, 2].mean().item() for image in (start, found))
    assert after > before + 0.1


@pytest.mark.parametrize(("shape", "mode"), [((1, 3, 9, 7), "RGB"), ((1, 1, 9, 7), "L")])
def test_an_image_is_saved_with_its_colours_cut_off_at_the_ends(tmp_path, shape, mode):
    image = torch.full(shape, 0.5)
    image[..., :3], image[..., 4:] = -2.0, 3.0
    sgd.save_img(image, tmp_path / "image.jpg")
    saved = Image.open(tmp_path / "image.jpg")
    assert (saved.format, saved.mode, saved.size) == ("JPEG", mode, (7, 9))
    columns = np.asarray(saved).reshape(9, 7, -1).mean((0, 2))
    np.testing.assert_allclose(columns, [0, 0, 0, 128, 255, 255, 255], atol=12)  # what JPEG loses at an edge


# --- the parts of a recipe, a step each --------------------------------------------------------------


def stepped(recipe, image, gradient, done=0.0, mean=(0.5, 0.5, 0.5)):
    return sgd.descended(image, gradient, recipe, done, mean)[0].numpy()


IMAGE, GRADIENT = torch.full((1, 3, 6, 6), 0.4), torch.randn(1, 3, 6, 6)
STEP = (0.4 - 0.06 * GRADIENT / GRADIENT.square().mean().sqrt())[0].numpy()


def test_steps_shrink_to_a_tenth():
    np.testing.assert_allclose(stepped(PLAIN, IMAGE, GRADIENT), STEP, atol=1e-6)
    np.testing.assert_allclose(stepped(PLAIN, IMAGE, GRADIENT, 0.5), 0.4 + 0.55 * (STEP - 0.4), atol=1e-6)
    np.testing.assert_allclose(stepped(PLAIN, IMAGE, GRADIENT, 1.0), 0.4 + 0.1 * (STEP - 0.4), atol=1e-6)


def test_weight_decay_goes_back_to_the_mean_colour():
    found = stepped(with_part(weight_decay=0.1), IMAGE, GRADIENT, mean=(0.1, 0.2, 0.3))
    mean = np.array([0.1, 0.2, 0.3])[:, None, None]
    np.testing.assert_allclose(found, mean + 0.9 * (STEP - mean), atol=1e-6)


def test_clamping_cuts_off_what_is_no_colour():
    np.testing.assert_allclose(
        stepped(with_part(clamp=True), IMAGE - 0.4, GRADIENT), np.clip(STEP - 0.4, 0, 1), atol=1e-6
    )


def test_correlated_channels_go_up_and_down_together():
    """The gradient is multiplied with the channels' correlation matrix."""
    matrix = np.full((3, 3), 0.8) + 0.2 * np.eye(3)
    gradient = np.einsum("dc,chw->dhw", matrix, GRADIENT[0].numpy())
    expected = 0.4 - 0.06 * gradient / np.sqrt((gradient**2).mean())
    np.testing.assert_allclose(stepped(with_part(colour_correlation=0.8), IMAGE, GRADIENT), expected, atol=1e-5)


def kernel(deviation, radius):
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / 2 / deviation**2)
    return np.outer(weights, weights) / weights.sum() ** 2


def test_blur_is_a_gaussian():
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    np.testing.assert_allclose(sgd.blurred(point, 1.0)[0, 0, 2:7, 2:7], kernel(1.0, 2), atol=1e-6)
    assert sgd.blurred(point, 0) is point
    assert sgd.blurred(torch.ones(1, 1, 2, 2), 5.0).shape == (1, 1, 2, 2)  # wider than the image


def test_the_image_is_blurred_after_a_step_and_the_gradient_before_it_less_and_less():
    image, gradient = torch.zeros(1, 1, 19, 19), torch.zeros(1, 1, 19, 19)
    gradient[..., 9, 9] = -1.0
    for done, deviation, radius in ((0.0, 2.0, 4), (1.0, 0.4, 1)):
        found = stepped(with_part(gradient_blur=2.0), image, gradient, done, (0.0,))[0]
        part = found[9 - radius : 10 + radius, 9 - radius : 10 + radius]
        np.testing.assert_allclose(part / part.sum(), kernel(deviation, radius), atol=1e-6)
    found = stepped(with_part(image_blur=1.0), image, gradient, 0.0, (0.0,))[0]
    np.testing.assert_allclose(found[7:12, 7:12] / found.sum(), kernel(1.0, 2), atol=1e-6)
    np.testing.assert_allclose(found.sum(), 0.06 * 19, rtol=1e-4)  # a step of one pixel alone: 19 times the mean one


def test_scales_come_one_after_the_other_and_a_model_sees_its_own_size():
    sizes, gradients = [], []
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    model.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape))
    descended = sgd.descended

    def watched(image, *rest):
        gradients.append(tuple(image.shape[-2:]))
        return descended(image, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sgd, "descended", watched)
        found = gradient_descent(
            torch.rand(1, 1, 8, 8),
            model,
            lambda output: output[0, 0],
            7,
            with_part(scales=(0.25, 0.5, 1.0)),
            **STANDARD,
        )
    assert gradients == [(2, 2)] * 3 + [(4, 4)] * 2 + [(8, 8)] * 2
    assert sizes == [(1, 1, 8, 8)] * 7
    assert found.shape == (1, 1, 8, 8)


# --- classifiers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair():
    """The networks for digits, hardly trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifiers, "DIGIT_EPOCHS", 4)
        return classifiers.load("digits"), classifiers.load("digits_wide")


def test_digits_are_learnt_by_two_networks_that_differ(pair):
    data = classifiers.utils.load_images("digits")
    pixels, labels = data.pixels("test"), data.test[1]
    for classifier in pair:
        assert (classifier.probabilities(pixels).argmax(1) == labels).double().mean() > 0.8
        assert not classifier.network.training
        assert not any(parameter.requires_grad for parameter in classifier.network.parameters())
    first, second = (sum(parameter.numel() for parameter in classifier.network.parameters()) for classifier in pair)
    assert first != second


def test_probabilities_are_of_the_image_as_it_is_saved_standardised():
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    classifier = classifiers.Classifier(network, (0.2, 0.6), (0.5, 0.25), 2, ("a", "b"))
    image = torch.tensor([[[[-3.0, 0.1], [0.123456, 2.0]], [[0.5, 0.5], [0.25, 1.0]]]])
    pixels = np.round(np.clip(image.numpy(), 0, 1) * 255) / 255
    inputs = ((pixels - [[[0.2]], [[0.6]]]) / [[[0.5]], [[0.25]]]).ravel()
    logits = network[1].weight.detach().double().numpy() @ inputs + network[1].bias.detach().double().numpy()
    np.testing.assert_allclose(classifier.probabilities(image)[0], np.exp(logits) / np.exp(logits).sum(), atol=1e-6)
    large = image.repeat_interleave(3, -1).repeat_interleave(3, -2)  # made small again, each pixel keeps its value
    assert classifier.probabilities(large).shape == (1, 2)


def test_descent_raises_the_probability_of_a_digit_and_transfers(pair):
    for label in (0, 6):
        start = sgd.noise(pair[0], 0)
        image = sgd.dream(pair[0], label, start, 48, sgd.DIGITS)
        assert pair[0].probabilities(image)[0, label] > 0.99
        assert pair[1].probabilities(image)[0, label] > pair[1].probabilities(start)[0, label]


def test_missing_packages_and_a_missing_network_are_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    out = ["--out", str(tmp_path)]
    assert sgd.main(["--model", "efficientnet_lite0", *out]) == 2
    assert INSTALL in capsys.readouterr().err

    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    assert gd.main(["--model", "vgg13_bn", *out]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "508 MB) can't be fetched (no network): use --model" in err


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_published_weights_recognise_ants_and_bees(name):
    """Their top-1 accuracy is about .84 with the right normalisation and order of weights, .001 by chance."""
    pytest.importorskip("timm", reason=INSTALL)
    if not (DATA / "ants_bees.zip").exists():
        pytest.skip("there is no ../shared/data")
    classifier, right = classifiers.load(name), []
    with zipfile.ZipFile(DATA / "ants_bees.zip") as archive:
        for kind, label in (("ants", 310), ("bees", 309)):
            assert classifier.class_names[label] == kind[:-1]
            names = sorted(name for name in archive.namelist() if name.startswith(f"train/{kind}/"))
            for photograph in names[:90:3]:
                image = Image.open(io.BytesIO(archive.read(photograph))).convert("RGB")
                left, top = (image.width - 224) // 2, (image.height - 224) // 2
                pixels = np.asarray(image.crop((left, top, left + 224, top + 224)))
                images = torch.tensor(pixels).permute(2, 0, 1)[None] / 255
                right.append(classifier.probabilities(images).argmax().item() == label)
    assert len(right) == 60
    assert np.mean(right) > 0.75


# --- commands ----------------------------------------------------------------------------------------


def test_the_command_writes_an_image_for_each_label(monkeypatch, tmp_path, capsys, pair):
    monkeypatch.setattr(classifiers, "load", lambda name, seed: pair[0])
    assert gd.main is sgd.main
    assert gd.main(["--labels", "0", "6", "--iterations", "24", "--out", str(tmp_path / "new")]) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"img_0.jpg", "img_6.jpg"}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["label 0 (0)", "label 6 (6)"]
    saved = torch.tensor(np.asarray(Image.open(tmp_path / "new" / "img_0.jpg")))[None, None] / 255
    after = float(lines[0].split(" before, ")[1].split()[0])
    assert pair[0].probabilities(saved)[0, 0].item() == pytest.approx(after, abs=0.05)  # JPEG loses a little
    assert gd.main(["--labels", "10", "--out", str(tmp_path)]) == 2
    assert "digits go from 0 to 9" in capsys.readouterr().err


def test_total_variation_is_that_of_numpy():
    image = torch.rand(1, 3, 5, 6) * 2 - 0.5
    pixels = np.clip(image[0].numpy(), 0, 1)
    expected = np.abs(np.diff(pixels, axis=1)).mean() + np.abs(np.diff(pixels, axis=2)).mean()
    assert dreams.total_variation(image) == pytest.approx(expected, abs=1e-6)
    assert dreams.total_variation(torch.ones(1, 3, 4, 4)) == 0


def test_variants_differ_from_their_base_in_one_part_alone():
    for model, parts in (("efficientnet_lite0", 8), ("digits", 7)):
        found = list(dreams.variants(model))
        bases = {"plain": vars(PLAIN), "all": vars(sgd.recipe_of(model))}
        assert len(found) == 2 * (1 + parts)
        for base, part, recipe in found:
            changed = [name for name, value in vars(recipe).items() if value != bases[base][name]]
            assert changed == ([part] if part else [])


def test_a_study_is_drawn_from_its_result(monkeypatch, tmp_path, capsys, pair):
    monkeypatch.setattr(classifiers, "load", lambda name, seed: pair[name == "digits_wide"])
    flags = ["--labels", "0", "6", "--iterations", "3", "--out", str(tmp_path), "--seeds", "0", "4"]
    assert dreams.main(flags) == 0
    result = json.loads((tmp_path / "assignments" / "hw1-dreams-digits.json").read_text())
    assert result["seeds"] == [0, 4]
    assert len(result["rows"]) == 16
    assert all(len(row["transfer"]["values"]) == 2 for row in result["rows"])
    first = sgd.dream(pair[0], 6, sgd.noise(pair[0], 0), 3, PLAIN)
    other = sgd.dream(pair[0], 0, sgd.noise(pair[0], 0), 3, PLAIN)
    expected = (pair[1].probabilities(first)[0, 6] + pair[1].probabilities(other)[0, 0]) / 2
    assert result["rows"][0]["transfer"]["values"][0] == pytest.approx(expected.item(), abs=1e-6)
    assert list(result["pictures"]) == ["0", "6"]
    assert [each["layer"] for each in result["middle"]] == ["2", "5", "8"]
    assert {path.name for path in (tmp_path / "plots" / "assignments").iterdir()} == {
        "hw1-dreams-digits-parts.pdf", "hw1-dreams-digits-parts.png", "hw1-dreams-digits-pictures.png",
    }  # fmt: skip
    assert "all parts" in capsys.readouterr().out
    assert dreams.main([*flags, "--iterations", "4"]) == 2
    assert "other settings (iterations)" in capsys.readouterr().err
