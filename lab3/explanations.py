"""Explanations of one prediction: how much each part of an input counts for it; and two tests of what they are worth.

An input has F parts: the pixels of a picture, or the words of a sentence. What looks at a network from outside needs
its score alone, by what is kept of the input (`Value`); what looks inside needs gradients, of pictures or embeddings.

Letters: B batch, C channels, S pixels on a side, F parts, G groups of them, M masks, T steps of a curve.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_gradient_magnitude
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

Score = Callable[[Tensor], Tensor]  # of a batch of inputs, the score (B) of the class that is explained
Value = Callable[[Tensor], Tensor]  # the same of one input, by what is kept of it: of masks (M, F), scores (M)

IG_STEPS = 32  # points on the way from the baseline, of which the sum is within about a hundredth of the integral


# --- from inside: gradients --------------------------------------------------------------------------


def gradient(score: Score, inputs: Tensor) -> Tensor:
    inputs = inputs.detach().requires_grad_()
    return torch.autograd.grad(score(inputs).sum(), inputs)[0]


def saliency(score: Score, images: Tensor) -> Tensor:
    """The gradient's absolute value, the largest over channels (B, S, S), at images (B, C, S, S) (Simonyan 2014)."""
    return gradient(score, images).abs().amax(1)


def integrated_gradients(score: Score, inputs: Tensor, baseline: Tensor, steps: int = IG_STEPS) -> Tensor:
    """The mean gradient on the straight way from a baseline to one input (1, ...), times that way; in its shape.

    They sum up to the difference of the two scores, but for the sum's error (Sundararajan et al. 2017).
    """
    shares = (torch.arange(steps, dtype=inputs.dtype) + 0.5) / steps  # the midpoint rule
    way = inputs - baseline
    points = baseline + shares.view(-1, *[1] * (inputs.ndim - 1)) * way  # (steps, ...)
    return way * gradient(score, points).mean(0, keepdim=True)


def grad_cam(score: Score, images: Tensor, layer: nn.Module) -> Tensor:
    """A layer's maps, weighted by their mean gradients, where positive, as (B, S, S) (Selvaraju et al. 2017)."""
    seen = []
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        # the images need a gradient, or the maps have none where all layers up to them are frozen
        scores = score(images.detach().requires_grad_())
    finally:
        hook.remove()
    (maps,) = seen  # (B, C', S', S')
    weights = torch.autograd.grad(scores.sum(), maps)[0].mean((2, 3), keepdim=True)
    found = (weights * maps).sum(1, keepdim=True).relu()
    return F.interpolate(found.detach(), size=images.shape[2:], mode="bilinear")[:, 0]


# --- from outside: what changes when parts are gone --------------------------------------------------


def occlusion(value: Value, groups: Tensor) -> Tensor:
    """By how much the score falls without each group (G, F) of parts, for each part of it (F) (Zeiler, Fergus 2014)."""
    drops = value(torch.ones_like(groups[:1])) - value(~groups)  # (G)
    return drops @ groups.to(drops.dtype)


def lime(value: Value, parts: int, samples: int, generator: torch.Generator) -> Tensor:
    """The weights (F) of the affine function that is nearest to the score, above all where most parts are kept.

    Ribeiro et al. (2016), with their weights for texts but without a penalty; from one sample to another any share of
    the parts is kept.
    """
    masks = torch.rand(samples, parts, generator=generator) < torch.rand(samples, 1, generator=generator)
    distance = 1 - (masks.double().mean(1)).sqrt()  # (M), the cosine's from the whole
    near = torch.exp(-((distance / 0.25) ** 2) / 2)
    fitted = LinearRegression().fit(masks.numpy(), value(masks).double().numpy(), near.numpy())
    return torch.from_numpy(fitted.coef_)


def shapley(value: Value, parts: int, orders: int, generator: torch.Generator) -> Tensor:
    """What each part (F) adds to the score when it comes, on average over random orders of coming (Castro et al. 2009).

    They sum up to the score of the whole less that of nothing.
    """
    places = torch.rand(orders, parts, generator=generator).argsort(1)  # (orders, F): when each part comes
    masks = places[:, None] < torch.arange(parts + 1)[:, None]  # (orders, F + 1, F)
    added = value(masks.flatten(0, 1)).view(orders, parts + 1).diff(dim=1)  # (orders, F), in the order of coming
    return added.gather(1, places).mean(0)


# --- from the picture alone --------------------------------------------------------------------------


def contrast(image: Tensor) -> Tensor:
    """How steep the brightness of an image (C, S, S) is at each pixel (S, S), whatever the network computes."""
    return torch.from_numpy(gaussian_gradient_magnitude(image.mean(0).numpy(), sigma=1.0))


# --- what an explanation is worth --------------------------------------------------------------------


def curves(probability: Value, scores: Tensor, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The class's probability, each (T + 1), as parts with ever lower scores (F) are removed, and as they are inserted.

    Petsiuk et al. (2018). Equal scores are put in a random order, since by their place would be an order, too.
    """
    parts = len(scores)
    order = np.lexsort((torch.rand(parts, generator=generator).numpy(), -scores.double().numpy()))
    ranks = torch.empty(parts, dtype=torch.long)
    ranks[torch.from_numpy(order)] = torch.arange(parts)
    counts = torch.linspace(0, parts, steps + 1).round()[:, None]  # (T + 1, 1)
    found = probability(torch.cat([ranks >= counts, ranks < counts]))
    return found[: steps + 1], found[steps + 1 :]


def area(curve: Tensor) -> float:
    """Under a curve from 0 to 1, by the trapezium rule."""
    return ((curve[1:] + curve[:-1]) / 2).mean().item()


def similarity(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation of two explanations (F); 0 where all parts of one have the same score."""
    if min(len(first.unique()), len(second.unique())) < 2:
        return 0.0
    return float(spearmanr(first.numpy(), second.numpy()).statistic)


def redrawn(network: nn.Module, layers: Iterable[str], inputs: tuple[Tensor, ...], seed: int) -> nn.Module:
    """A copy of a network whose `layers`, by their names, have their weights drawn anew (Adebayo et al. 2018).

    Drawn with PyTorch's usual distributions. Batch normalisation among them gets the statistics of `inputs`, or the
    signal would die away, and a map be made of rounding errors.
    """
    drawn = copy.deepcopy(network).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = [module for name in layers for module in drawn.get_submodule(name).modules()]
        for module in modules:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # this batch's statistics alone
                module.train()
        with torch.no_grad():
            drawn(*inputs)
    return drawn.eval()
