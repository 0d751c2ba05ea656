"""The strong recipe of Question 2: a residual network of 75,000 parameters and the way it is trained.

Chosen on PneumoniaMNIST's validation images alone, clean and perturbed (exposure, framing, blur, noise): the clean
ones are too easy to tell recipes apart. docs/runs.md says what was tried and left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.geometry import reframe

WIDTHS = (16, 32, 64)
LABEL_SMOOTHING = 0.05
AVERAGE_DECAY = 0.99  # of the exponential moving average of the weights, per step
WARM_UP = 0.2  # share of the steps in which the learning rate rises


class BlurPool(nn.Module):
    """Halve an image with a fixed [1 2 1] x [1 2 1] / 16 filter first, against aliasing (Zhang 2019)."""

    def __init__(self, channels: int):
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", (row[:, None] * row).expand(channels, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(x, self.kernel, stride=2, groups=x.shape[1])  # (B, C, H/2, W/2)


def conv_norm(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out)]


class ResidualBlock(nn.Module):
    """ReLU(body(x) + projection(x)), as in He et al. 2016; (B, C_in, H, W) -> (B, C_out, H, W)."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(channels_in, channels_out), nn.ReLU(), *conv_norm(channels_out, channels_out)
        )
        self.projection = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.projection(x))


class StrongCNN(nn.Module):
    """Log-probabilities (B, num_classes) of images (B, C, H, W); in evaluation the mean over five one-pixel shifts."""

    def __init__(self, num_classes: int, in_channels: int = 1, dropout_prob: float = 0.2):
        super().__init__()
        first, second, third = WIDTHS
        self.features = nn.Sequential(
            *conv_norm(in_channels, first),
            nn.ReLU(),
            *conv_norm(first, first),
            nn.ReLU(),  # (B, 16, 28, 28)
            BlurPool(first),  # (B, 16, 14, 14)
            ResidualBlock(first, second),
            BlurPool(second),  # (B, 32, 7, 7)
            ResidualBlock(second, third),  # (B, 64, 7, 7)
        )
        self.dropout = nn.Dropout(dropout_prob)
        self.affine = nn.Linear(third, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            return self.log_probs(images)
        height, width = images.shape[2:]
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
        corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))  # the image itself first
        views = [self.log_probs(padded[:, :, top : top + height, left : left + width]) for top, left in corners]
        return torch.stack(views).logsumexp(0) - math.log(len(views))  # the mean of probabilities

    def log_probs(self, images: Tensor) -> Tensor:
        # each image by its own mean and deviation: exposure is no sign of disease; 0.3 spares nearly flat images
        mean, std = images.mean((1, 2, 3), keepdim=True), images.std((1, 2, 3), keepdim=True)
        x = ((images - mean) / (std + 0.3)).contiguous(memory_format=torch.channels_last)
        x = self.features(x).mean((2, 3))  # (B, 64)
        return F.log_softmax(self.affine(self.dropout(x)), dim=-1)


def augment(pixels: Tensor) -> Tensor:
    """Vary framing, exposure, sharpness, noise and occlusion of each image (B, C, H, W), pixels around [0, 1].

    No mirror images: in a chest the heart is on the left, and mirrored training images cost accuracy.
    """
    batch, _, height, width = pixels.shape

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(batch, 1, 1, 1, device=pixels.device) - 1) * limit

    def chosen(share: float) -> Tensor:
        return torch.rand(batch, 1, 1, 1, device=pixels.device) < share

    x = reframe(pixels, angle=uniform(math.radians(7)), zoom=uniform(0.07).exp(), shift=(uniform(0.1), uniform(0.1)))
    x = x.clamp(1e-4, 1) ** uniform(0.3).exp()  # gamma
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * uniform(0.3).exp() + mean + uniform(0.1)  # contrast and brightness
    x = torch.where(chosen(0.25), gaussian_blur(x, sigma=0.5 + 0.6 * torch.rand(1, device=x.device)), x)
    x = x + uniform(0.03).abs() * torch.randn_like(x)
    # occlusion: a square of 4 to 10 pixels in one grey, on a quarter of the images
    rows, columns = torch.arange(height, device=x.device) + 0.5, torch.arange(width, device=x.device) + 0.5
    half = 3.5 + uniform(1.5)
    centre_row, centre_column = (0.5 + uniform(0.5)) * height, (0.5 + uniform(0.5)) * width
    inside = ((rows[:, None] - centre_row).abs() < half) & ((columns - centre_column).abs() < half)  # (B, 1, H, W)
    return torch.where(inside & chosen(0.25), 0.5 + uniform(0.5), x)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    channels = images.shape[1]
    kernel = torch.exp(-(torch.arange(-3, 4, device=images.device) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, 7)
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)


def smoothed_losses(log_probs: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """Cross-entropy (B,) with smoothed labels, each image weighted by its class."""
    nll = -log_probs.gather(1, labels[:, None]).squeeze(1)
    smoothed = (1 - LABEL_SMOOTHING) * nll - LABEL_SMOOTHING * log_probs.mean(1)
    return class_weights[labels] * smoothed


def fit_options(
    optimizer: torch.optim.Optimizer, steps: int, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict:
    """What `utils.fit` is given for this recipe: augmentation, loss, schedule (one cycle over `steps`), averaging.

    Every class has the same total weight in the loss, so that the training set's shares are not learnt.
    """
    counts = labels.bincount().clamp_min(1)
    rates = [group["lr"] for group in optimizer.param_groups]
    return {
        "augment": augmentation(mean, std),
        "loss_fn": smoothed_loss(len(labels) / (len(counts) * counts)),
        "scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=WARM_UP),
        "average_decay": AVERAGE_DECAY,
    }


def augmentation(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable:
    """`augment` for batches of images that were normalised with `mean` and `std`, and labels."""
    mean, std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    def change(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = batch
        m, s = mean.to(images.device), std.to(images.device)
        return (augment(images * s + m) - m) / s, labels

    return change


def smoothed_loss(class_weights: Tensor) -> Callable:
    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return smoothed_losses(model(images), labels, class_weights.to(images.device))  # (B,)

    return loss_fn
