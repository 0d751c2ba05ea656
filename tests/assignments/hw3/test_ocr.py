"""Rendered words, the network that reads them, and how it is trained."""

import json
import math
import string

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assignments.hw3 import ocr, ocr_plots, words
from common.classification import get_number_trainable_params


def test_images_show_their_word_and_are_a_function_of_seed_and_number():
    plain = words.SimpleWordsDataset(4, len=6, seed=1)
    for image, text in plain:
        assert image.shape == (32, 72)
        assert set(image.unique().tolist()) == {0, 1}
        assert len(text) == 4
        assert set(text) <= set(string.ascii_lowercase)
        assert torch.equal(image, plain.draw_text(text))
        assert not image[: words.TOP].any()
    assert plain[3][1] == words.SimpleWordsDataset(4, len=99, seed=1)[3][1]
    assert torch.equal(plain[3][0], words.SimpleWordsDataset(4, len=99, seed=1)[3][0])
    assert {text for _, text in plain} != {text for _, text in words.SimpleWordsDataset(4, len=6, seed=2)}
    with pytest.raises(IndexError):
        plain[6]


def test_jitter_moves_by_0_to_7_pixels_and_noise_turns_on_a_tenth():
    still = words.SimpleWordsDataset(3, seed=0).draw_text("cat", 90)
    moved = words.SimpleWordsDataset(3, jitter=True)
    found = set()
    for seed in range(60):
        image = moved.draw_text("cat", 90, rng=np.random.default_rng(seed))
        (shift,) = [shift for shift in range(8) if torch.equal(image, still.roll(shift, 1))]
        found.add(shift)
    assert found == set(range(8))
    noisy = words.SimpleWordsDataset(3, noise=True).draw_text("cat", 3000, rng=np.random.default_rng(0))
    dark = words.SimpleWordsDataset(3).draw_text("cat", 3000)
    assert (noisy >= dark).all()
    # 32 x 3000 pixels: a standard deviation of .1 %
    assert (noisy > dark).double().mean().item() == pytest.approx(0.1, abs=0.005)


def test_a_font_that_is_too_wide_is_refused():
    assert words.load_font().getlength("w") < words.LETTER_WIDTH
    with pytest.raises(ValueError, match=r"DejaVuSans-Bold.*pixels wide, but must fit 18"):
        words.load_font(str(words.FONTS / "DejaVuSans-Bold.ttf"))


def test_words_as_codes_and_codes_as_words():
    assert words.transform_word("cab").tolist() == [2, 26, 0, 26, 1, 26]
    assert words.indices_to_str(words.transform_word("cab")) == "c_a_b_"
    assert words.collapse([2, 2, 26, 0, 26, 26, 0, 1]) == "caab"
    for bad in ("", "Cab", "a b"):
        with pytest.raises(ValueError, match="letters a to z"):
            words.transform_word(bad)
    short, long = (words.SimpleWordsDataset(n, seed=0)[0] for n in (2, 3))
    images, codes = words.collate_fn([short, long])
    assert images.shape == (2, 32, 54)
    assert torch.equal(images[0, :, :36], short[0])
    assert not images[0, :, 36:].any()
    assert codes[0].tolist() == [*words.transform_word(short[1]).tolist(), 26, 26]


def test_the_network_is_a_window_that_slides():
    model, image = ocr.SimpleNet().eval(), torch.rand(1, 1, 32, 90)
    assert model(torch.rand(2, 1, 32, 18)).shape == (2, 1, 27)
    energies = model(image)
    assert energies.shape == (1, 19, 27)
    assert get_number_trainable_params(model) < 100_000
    for window in range(19):
        alone = model(image[..., 4 * window : 4 * window + 18])
        torch.testing.assert_close(alone[0, 0], energies[0, window])


@pytest.mark.equation("eq:hw3-viterbi")
def test_losses_of_one_letter_in_two_windows():
    """With two windows and two codes there is a single path, so all but the margin are one sum of cross-entropies."""
    energies, targets = torch.randn(1, 2, 27, dtype=torch.float64), torch.tensor([[4, words.BETWEEN]])
    log_probs = (-energies).log_softmax(-1)[0]
    expected = -(log_probs[0, 4] + log_probs[1, words.BETWEEN])
    for method in ("viterbi", "nll"):
        torch.testing.assert_close(ocr.LOSSES[method](energies, targets), expected[None])
    others = [(energies[0, 0, a] + energies[0, 1, 26]).item() for a in range(26) if a != 4]
    right = (energies[0, 0, 4] + energies[0, 1, 26]).item()
    assert ocr.margin_loss(energies, targets).item() == pytest.approx(max(0, 1 + right - min(others)))
    # CTC takes three more alignments of the letter: after a blank, and in both windows
    paths = [(4, 26), (26, 4), (4, 4)]
    probability = sum(math.exp(log_probs[0, a] + log_probs[1, b]) for a, b in paths)
    assert ocr.ctc_loss(energies, targets).item() == pytest.approx(-math.log(probability))


@pytest.mark.equation("eq:hw3-nll")
def test_the_nll_of_a_word_is_not_more_than_its_best_path():
    energies, targets = torch.randn(5, 9, 27), words.transform_word("abc").expand(5, -1)
    assert (ocr.nll_loss(energies, targets) < ocr.viterbi_loss(energies, targets)).all()
    pushed = energies - 50 * F.one_hot(torch.tensor([0, 26, 26, 1, 1, 26, 2, 26, 26]), 27)  # a path of that word
    for method in ocr.METHODS:
        assert ocr.LOSSES[method](pushed, targets).max() < 1e-6, method


def test_the_course_s_loop_takes_the_step_of_its_criterion():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    start = model[1].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    images, targets = torch.randn(3, 2, 2), torch.tensor([[0], [1], [1]])

    def criterion(outputs, targets):
        return outputs.gather(1, targets)[:, 0]

    (loss,) = ocr.train_ebm_model(model, 1, [(images, targets)], criterion, optimizer)
    chosen = F.one_hot(targets[:, 0], 2).float()  # (3, 2)
    assert loss == pytest.approx((images.flatten(1) @ start.T * chosen).sum().item() / 3, rel=1e-5)
    torch.testing.assert_close(model[1].weight.data, start - 0.5 * chosen.T @ images.flatten(1) / 3)


@pytest.mark.equation("eq:hw3-letters")
def test_the_loss_of_a_letter_by_its_formula():
    energies = torch.randn(4, 1, 27, dtype=torch.float64)
    targets = torch.tensor([[3, 26], [0, 26], [25, 26], [3, 26]])
    expected = [
        each[0, y] + math.log(sum(math.exp(-e) for e in each[0]))
        for each, (y, _) in zip(energies, targets, strict=True)
    ]
    torch.testing.assert_close(ocr.letter_loss(energies, targets), torch.stack(expected))


def test_single_letters_are_learnt_without_a_mistake():
    torch.manual_seed(0)
    assert ocr.train_letters(ocr.SimpleNet(), 0) == 1.0


@pytest.mark.slow
def test_words_are_read_after_a_short_training(tmp_path, capsys):
    flags = ["--method", "nll", "--words", "1500", "--epochs", "4", "--word_length", "3", "--learning_rate", "0.004"]
    assert ocr.main([*flags, "--tested", "50", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "assignments" / "hw3-ocr-nll-seed0.json").read_text())
    assert result["metrics"]["test"]["paths_exact"]["mean"] > 0.8
    assert result["letters"] == 1
    assert result["data"]["source"] == "synthetic"
    assert "synthetic" in capsys.readouterr().out


@pytest.mark.slow
def test_a_study_has_all_methods_and_leaves_its_plots(tmp_path):
    flags = ["--study", "--seeds", "0", "--words", "64", "--epochs", "1", "--tested", "10"]
    assert ocr.main([*flags, "--out", str(tmp_path)]) == 0
    path = tmp_path / "assignments" / "hw3-ocr.json"
    assert set(json.loads(path.read_text())["methods"]) == set(ocr.METHODS)
    assert len(ocr_plots.draw([path], tmp_path / "again")) == 2 * len(ocr_plots.PLOTS)


def test_double_letters_and_words_of_a_dictionary():
    for _, text in words.DoubleLetters(4, len=20, seed=0):
        assert text[1] == text[2]
    real = words.RealWords(12, len=20, seed=0)
    for image, text in real:
        assert image.shape == (32, 216)
        assert text in words.most_frequent_words()
    frequent = words.most_frequent_words(50)
    assert {"the", "is", "of", "class"} <= set(frequent)
    assert all(2 <= len(word) <= 12 and word.isalpha() and word.islower() for word in words.most_frequent_words())
