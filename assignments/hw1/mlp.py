"""A network of two affine layers, with backpropagation by hand: no automatic differentiation anywhere in this file.

Letters: B batch, I and O inputs and outputs, H units between the layers. It needs nothing but PyTorch's tensors, so it
can be copied beside a script that imports it. `python assignments/hw1/mlp.py` trains it on handwritten digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

# of each name the function, and its derivative given the input z and the output a
ACTIVATIONS = {
    "identity": (lambda z: z, lambda z, a: torch.ones_like(z)),
    "relu": (lambda z: z.clamp(min=0), lambda z, a: (z > 0).to(z.dtype)),  # 0 at z = 0
    "sigmoid": (torch.sigmoid, lambda z, a: a * (1 - a)),
    "tanh": (torch.tanh, lambda z, a: 1 - a**2),
}


class MLP:
    """y_hat = g(W2 f(W1 x + b1) + b2), one row for each example.

    `parameters` holds W1 (H, I), b1 (H), W2 (O, H) and b2 (O), drawn from the standard normal distribution; `backward`
    puts the gradients of a loss J into `grads` as dJdW1, dJdb1, dJdW2 and dJdb2. Raises ValueError for an unknown
    function or layers that do not fit.
    """

    def __init__(
        self,
        linear_1_in_features: int,
        linear_1_out_features: int,
        f_function: str,
        linear_2_in_features: int,
        linear_2_out_features: int,
        g_function: str,
    ):
        for name, function in (("f_function", f_function), ("g_function", g_function)):
            if function not in ACTIVATIONS:
                raise ValueError(f"{name} is {function!r}, but must be one of {', '.join(ACTIVATIONS)}")
        sizes = (linear_1_in_features, linear_1_out_features, linear_2_in_features, linear_2_out_features)
        if min(sizes) < 1:
            raise ValueError(f"layers of {sizes} features: each size must be at least 1")
        if linear_1_out_features != linear_2_in_features:
            raise ValueError(
                f"the first layer gives {linear_1_out_features} features, but the second takes {linear_2_in_features}"
            )
        self.f_function, self.g_function = f_function, g_function
        self.parameters = {
            "W1": torch.randn(linear_1_out_features, linear_1_in_features),
            "b1": torch.randn(linear_1_out_features),
            "W2": torch.randn(linear_2_out_features, linear_2_in_features),
            "b2": torch.randn(linear_2_out_features),
        }
        self.grads: dict[str, Tensor] = {}
        self.cache: dict[str, Tensor] = {}
        self.clear_grad_and_cache()

    def forward(self, x: Tensor) -> Tensor:
        """x (B, I) -> y_hat (B, O); keeps what `backward` needs. Raises ValueError for an x of another width."""
        parameters, inputs = self.parameters, self.parameters["W1"].shape[1]
        if x.ndim != 2 or x.shape[1] != inputs:
            raise ValueError(f"x has shape {tuple(x.shape)}, not (batch, {inputs})")
        f, g = (ACTIVATIONS[name][0] for name in (self.f_function, self.g_function))
        z1 = x @ parameters["W1"].T + parameters["b1"]  # (B, H)
        z2 = f(z1)
        z3 = z2 @ parameters["W2"].T + parameters["b2"]  # (B, O)
        y_hat = g(z3)
        self.cache = {"x": x, "z1": z1, "z2": z2, "z3": z3, "y_hat": y_hat}
        return y_hat

    def backward(self, dJdy_hat: Tensor) -> None:
        """Fill `grads`, given the gradient (B, O) of the loss by y_hat. Raises ValueError before any `forward`."""
        if not self.cache:
            raise ValueError("backward needs a forward pass before it")
        x, z1, z2, z3, y_hat = (self.cache[name] for name in ("x", "z1", "z2", "z3", "y_hat"))
        if dJdy_hat.shape != y_hat.shape:
            raise ValueError(f"dJdy_hat has shape {tuple(dJdy_hat.shape)}, y_hat {tuple(y_hat.shape)}")
        f_prime, g_prime = (ACTIVATIONS[name][1] for name in (self.f_function, self.g_function))
        dJdz3 = dJdy_hat * g_prime(z3, y_hat)  # (B, O)
        dJdz2 = dJdz3 @ self.parameters["W2"]  # (B, H)
        dJdz1 = dJdz2 * f_prime(z1, z2)
        self.grads = {
            "dJdW1": dJdz1.T @ x,  # (H, I)
            "dJdb1": dJdz1.sum(0),
            "dJdW2": dJdz3.T @ z2,  # (O, H)
            "dJdb2": dJdz3.sum(0),
        }

    def clear_grad_and_cache(self) -> None:
        """Set the gradients to zero and forget the forward pass."""
        self.grads = {f"dJd{name}": torch.zeros_like(value) for name, value in self.parameters.items()}
        self.cache = {}


def mse_loss(y: Tensor, y_hat: Tensor) -> tuple[Tensor, Tensor]:
    """The mean squared error J over batch and outputs, and dJ/dy_hat; y and y_hat (B, O)."""
    _check_shapes(y, y_hat)
    difference = y_hat - y
    return (difference**2).mean(), 2 * difference / y.numel()


LEAST_LOG, LEAST_PRODUCT = -100.0, 1e-12  # PyTorch's limits, which keep loss and gradient finite at y_hat 0 and 1


def bce_loss(y: Tensor, y_hat: Tensor) -> tuple[Tensor, Tensor]:
    """The binary cross-entropy J, a mean over batch and outputs, and dJ/dy_hat; labels y and y_hat (B, O) in [0, 1]."""
    _check_shapes(y, y_hat)
    log_true, log_false = y_hat.log().clamp(min=LEAST_LOG), (1 - y_hat).log().clamp(min=LEAST_LOG)
    loss = -(y * log_true + (1 - y) * log_false).mean()
    return loss, (y_hat - y) / (y_hat * (1 - y_hat)).clamp(min=LEAST_PRODUCT) / y.numel()


def _check_shapes(y: Tensor, y_hat: Tensor) -> None:
    if y.shape != y_hat.shape:
        raise ValueError(f"y has shape {tuple(y.shape)}, y_hat {tuple(y_hat.shape)}")


if __name__ == "__main__":
    import runpy
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    runpy.run_module("assignments.hw1.digits", run_name="__main__")
