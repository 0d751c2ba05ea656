"""Paths through energies, against every path and every word one by one, and against PyTorch's CTC."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from assignments.hw3 import ocr, paths
from assignments.hw3.words import BETWEEN, transform_word
from benchmarks import hw3_paths


def every_path(windows: int, codes: int):
    """All paths from the first code to the last, by the windows at which they go on."""
    for moves in itertools.combinations(range(1, windows), codes - 1):
        yield [sum(move <= window for move in moves) for window in range(windows)]


def energies_of_paths(pm):
    return [sum(pm[i, j].item() for i, j in enumerate(path)) for path in every_path(*pm.shape)]


def test_matrices_cell_by_cell():
    energies, targets = torch.randn(2, 5, 27, dtype=torch.float64), torch.tensor([[3, 26, 0], [7, 26, 7]])
    pm, ce = paths.build_path_matrix(energies, targets), paths.build_ce_matrix(energies, targets)
    for b, i, j in itertools.product(range(2), range(5), range(3)):
        code = targets[b, j]
        assert pm[b, i, j] == energies[b, i, code]
        probability = math.exp(-energies[b, i, code]) / sum(math.exp(-e) for e in energies[b, i])
        assert ce[b, i, j].item() == pytest.approx(-math.log(probability))


@pytest.mark.equation("eq:hw3-recursion")
@pytest.mark.parametrize(("windows", "codes"), [(1, 1), (4, 1), (4, 4), (7, 3), (9, 6)])
@pytest.mark.parametrize("beta", [math.inf, 0.5, 3.0])
def test_free_energies_are_those_of_all_paths(windows, codes, beta):
    pm = torch.randn(3, windows, codes, dtype=torch.float64)
    for matrix, found in zip(pm, paths.free_energies(pm, beta), strict=True):
        energies = energies_of_paths(matrix)
        if math.isinf(beta):
            expected = min(energies)
        else:
            expected = -math.log(sum(math.exp(-beta * energy) for energy in energies)) / beta
        assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_best_path_has_the_least_energy_and_is_a_path():
    for pm in torch.randn(4, 8, 4, dtype=torch.float64):
        energy, path, table = paths.find_path(pm)
        assert energy.item() == pytest.approx(min(energies_of_paths(pm)))
        assert [i for i, _ in path] == list(range(8))
        assert paths.path_energy(pm, path) == pytest.approx(energy.item())
        assert paths.path_energy(pm, [j for _, j in path]) == pytest.approx(energy.item())
        assert table.shape == pm.shape
        assert energy == table[-1, -1]


@pytest.mark.equation("eq:hw3-path")
def test_what_is_no_path_has_an_energy_of_two_to_the_thirty():
    pm = torch.ones(4, 3)
    for bad in ([0, 0, 1, 1], [1, 1, 2, 2], [0, 2, 2, 2], [0, 1, 0, 2], [0, 1, 2], [0, 1, 2, 2, 2]):
        assert paths.path_energy(pm, bad) == 2**30
    assert paths.path_energy(pm, torch.tensor([0, 1, 1, 2])) == 4
    assert paths.path_cross_entropy(pm, [(0, 0), (1, 1), (2, 1), (3, 2)]) == 4
    assert paths.free_energies(torch.ones(1, 2, 3)) >= 2**30  # fewer windows than codes


@pytest.mark.equation("eq:hw3-ctc")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_paths_together_are_what_ctc_sums(dtype):
    """CTC with each place of the word as a label of its own, and a blank that has no probability, has our paths."""
    windows, codes = 9, 4
    pm = torch.randn(2, windows, codes, dtype=dtype)
    blank = torch.full((windows, 2, 1), -torch.inf, dtype=dtype)
    log_probs = torch.cat([blank, -pm.transpose(0, 1)], 2)  # (L, B, 1 + T)
    labels = torch.arange(1, codes + 1).expand(2, -1)
    sizes = torch.full((2,), windows), torch.full((2,), codes)
    expected = F.ctc_loss(log_probs, labels, *sizes, blank=0, reduction="none")
    torch.testing.assert_close(paths.free_energies(pm, beta=1.0), expected)


@pytest.mark.parametrize("beta", [math.inf, 1.0])
def test_gradients_of_free_energies(beta):
    pm = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda pm: paths.free_energies(pm, beta), pm)
    (gradient,) = torch.autograd.grad(paths.free_energies(pm, beta).sum(), pm)
    torch.testing.assert_close(gradient.sum(2), torch.ones(2, 6, dtype=torch.float64))  # a share for each window
    if math.isinf(beta):
        for each, matrix in zip(gradient, pm, strict=True):
            assert [int(row.argmax()) for row in each] == [j for _, j in paths.find_path(matrix)[1]]


def words_of(count: int, alphabet: str):
    return ["".join(letters) for letters in itertools.product(alphabet, repeat=count)]


def test_the_best_wrong_word_is_that_of_all_words():
    """All others of two letters among three; the energies of the other letters are beyond reach."""
    energies = torch.randn(4, 7, 27, dtype=torch.float64)
    energies[..., 3:BETWEEN] = 1000.0
    for each, right in zip(energies, ("ab", "cc", "ba", "aa"), strict=True):
        expected = min(
            paths.free_energies(paths.build_path_matrix(each[None], transform_word(word)[None])).item()
            for word in words_of(2, "abc")
            if word != right
        )
        found = paths.best_wrong_energies(each[None], transform_word(right)[None])
        assert found.item() == pytest.approx(expected)


def test_the_gradient_of_the_margin_pushes_one_path_down_and_one_up():
    energies = torch.randn(3, 9, 27, dtype=torch.float64, requires_grad=True)
    targets = torch.stack([transform_word(word) for word in ("ab", "zz", "qa")])
    assert torch.autograd.gradcheck(lambda energies: ocr.margin_loss(energies, targets) + 0, energies)
    loss = ocr.margin_loss(energies, targets)
    (gradient,) = torch.autograd.grad(loss.sum(), energies)
    assert (loss > 0).all()
    assert set(gradient.unique().tolist()) <= {-1.0, 0.0, 1.0}
    torch.testing.assert_close(gradient.sum((1, 2)), torch.zeros(3, dtype=torch.float64))


def test_reading_finds_the_word_with_the_least_energy_of_any_length():
    energies = torch.randn(6, 6, 27, dtype=torch.float64)
    energies[..., 3:BETWEEN] = 1000.0
    for each, read in zip(energies, paths.read_words(energies), strict=True):
        words = [word for count in (1, 2, 3) for word in words_of(count, "abc")]
        free = {
            word: paths.free_energies(paths.build_path_matrix(each[None], transform_word(word)[None])).item()
            for word in words
        }
        assert read == min(free, key=free.get)


def test_the_nearest_word_of_a_dictionary_is_the_one_with_the_least_free_energy():
    energies, dictionary = torch.randn(5, 9, 27, dtype=torch.float64), ("ab", "abc", "zz", "qed", "four")
    for each, found in zip(energies, paths.nearest_words(energies, dictionary), strict=True):
        free = {
            word: min(energies_of_paths(paths.build_path_matrix(each[None], transform_word(word)[None])[0]))
            for word in dictionary
        }
        assert found == min(free, key=free.get)


def test_the_benchmark_s_loop_over_cells_finds_the_same_paths():
    for pm in torch.randn(5, 9, 4):
        for cells in (hw3_paths.as_tensors(pm), pm.tolist()):
            assert hw3_paths.path_by_cells(cells) == paths.find_path(pm)[1]
    energies, targets = torch.randn(3, 9, 27), torch.stack([transform_word(word) for word in ("ab", "zz", "qa")])
    torch.testing.assert_close(hw3_paths.loss_by_cells(energies, targets), ocr.viterbi_loss(energies, targets))
