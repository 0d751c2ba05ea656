"""Question 3's optimiser against PyTorch's Muon and AdamW, and against a singular value decomposition."""

import copy

import pytest
import torch

from asr.model import SpeechRecognizer
from asr.optimizer import Muon, hidden_matrices, orthogonalised


@pytest.fixture(params=["lstm", "transformer"])
def model(request):
    torch.manual_seed(0)
    return SpeechRecognizer(request.param, mel_bins=8, hidden_dim=16, num_heads=2, num_blocks=1)


def give_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(6, 6), (5, 30), (40, 7)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = u.mT @ orthogonalised(matrix, torch.float64) @ vh.mT  # diagonal, if the singular vectors are the same
    torch.testing.assert_close(found, found.diagonal().diag(), rtol=0, atol=1e-9)
    assert found.diagonal().min() > 0.5
    assert found.diagonal().max() < 1.25


def test_nothing_gives_nothing():
    assert not orthogonalised(torch.zeros(3, 4), torch.float32).any()


def test_hidden_matrices_are_neither_embeddings_nor_heads_nor_vectors(model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    hidden = {names[id(matrix)] for matrix in hidden_matrices(model)}
    blocks = {name for name, p in model.named_parameters() if p.dim() == 2 and ("block" in name or "self_att" in name)}
    lstm = {"decoder.lstm.weight_ih_l0", "decoder.lstm.weight_hh_l0"} & set(names.values())
    assert hidden == blocks | lstm


def test_steps_are_those_of_pytorchs_muon_and_adamw(model):
    expected = copy.deepcopy(model)
    ours = Muon(model, 0.01, 0.1, torch.bfloat16)  # PyTorch's Muon always iterates in bfloat16
    matrices = hidden_matrices(expected)
    rest = [p for p in expected.parameters() if all(p is not matrix for matrix in matrices)]
    theirs = [
        torch.optim.Muon(matrices, 0.01, 0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, 0.002, betas=(0.9, 0.98), weight_decay=0.1),
    ]
    for seed in range(3):
        give_gradients(model, seed)
        give_gradients(expected, seed)
        ours.step()
        for optimizer in theirs:
            optimizer.step()
    # 8e-3 after three steps; bfloat16 rounds otherwise where a matrix is transposed
    for (name, weight), reference in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(weight, reference, rtol=0, atol=6e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_a_resumed_state_goes_on_bit_for_bit(model):
    twin = copy.deepcopy(model)
    first, second = (Muon(m, 0.01, 0.1, torch.float32) for m in (model, twin))
    for seed in range(2):
        give_gradients(model, seed)
        first.step()
    twin.load_state_dict(model.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for m, optimizer in ((model, first), (twin, second)):
        give_gradients(m, 2)
        optimizer.step()
    for weight, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(weight, other)
