"""The optimiser of Question 3: Muon for the matrices inside the network, AdamW for all else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr.model import SpeechRecognizer

MOMENTUM = 0.95
STEPS = 5  # of the iteration; more bring nothing
QUINTIC = (3.4445, -4.7750, 2.0315)  # its coefficients: they drive singular values from (0, 1] to about 0.7 to 1.2
ADAMW_SHARE = 0.2  # of the learning rate


def orthogonalised(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """U V^T of U S V^T, about: every singular value becomes 0.7 to 1.2 (a Newton-Schulz iteration, in `dtype`)."""
    linear, cubic, quintic = QUINTIC
    x = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT).to(dtype)  # wide: the smaller Gram matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = linear * x + torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic) @ x
    return (x if matrix.shape[0] <= matrix.shape[1] else x.mT).to(matrix.dtype)


def hidden_matrices(model: SpeechRecognizer) -> list[nn.Parameter]:
    """Weights of linear layers and LSTMs that neither read characters nor write them."""
    heads = (model.decoder.output, model.ctc_head)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.LSTM) and m not in heads]
    return [p for layer in layers for p in layer.parameters(recurse=False) if p.dim() == 2]


class Muon(torch.optim.AdamW):
    """Orthogonalised momentum for hidden matrices (Jordan et al. 2024), AdamW at a fifth of the rate for the rest.

    An update has the root mean square 0.2 for each unit of the rate, as AdamW's about has (Liu et al. 2025).
    """

    def __init__(self, model: SpeechRecognizer, learning_rate: float, weight_decay: float, dtype: torch.dtype):
        matrices = hidden_matrices(model)
        chosen = set(matrices)
        rest = [p for p in model.parameters() if p not in chosen]
        groups = [{"params": matrices}, {"params": rest, "lr": ADAMW_SHARE * learning_rate}]
        super().__init__(groups, learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure=None):
        group = self.param_groups[0]
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:  # AdamW looks for a step when it loads a state
                state |= {"momentum": torch.zeros_like(weight), "step": torch.zeros(())}
            momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
            update = orthogonalised(weight.grad.lerp(momentum, MOMENTUM), self.dtype)  # Nesterov's
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.sub_(update, alpha=0.2 * max(weight.shape) ** 0.5 * group["lr"])
            weight.grad = None  # AdamW passes over what has no gradient
        return super().step(closure)
