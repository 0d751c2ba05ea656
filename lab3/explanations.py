"""Explanations of one prediction: how much each part of an input counts for it; and two tests of what they are worth.

An input has F parts: the pixels of a picture, or the words of a sentence. What looks at a network from outside needs
its score alone, by what is kept of the input (`Value`); what looks inside needs gradients, of pictures or embeddings.
The methods are Captum's (Kokhlikyan et al. 2020), each with the choices that are made here.

Letters: B batch, C channels, S pixels on a side, F parts, M masks, T steps of a curve.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from captum import attr
from captum._utils.models.linear_model import SkLearnLinearRegression
from captum.attr._core.lime import get_exp_kernel_similarity_function
from scipy.ndimage import gaussian_gradient_magnitude
from scipy.stats import spearmanr
from torch import Tensor, nn

Score = Callable[[Tensor], Tensor]  # of a batch of inputs, the score (B) of the class that is explained
Value = Callable[[Tensor], Tensor]  # the same of one input, by what is kept of it: of masks (M, F), scores (M)

# points on the way from the baseline: of the digits and the grammar the sum is then within a hundredth of the integral;
# more than Gauss and Legendre's points are the middles of equal steps near it, networks being nowhere near polynomials
IG_STEPS = 128
AT_ONCE = 32  # of them in a pass


# --- from inside: gradients --------------------------------------------------------------------------


def saliency(score: Score, images: Tensor) -> Tensor:
    """The gradient's absolute value, the largest over channels (B, S, S), at images (B, C, S, S) (Simonyan 2014)."""
    return attr.Saliency(score).attribute(images.detach().requires_grad_()).amax(1)


def integrated_gradients(score: Score, inputs: Tensor, baseline: Tensor) -> Tensor:
    """The mean gradient on the straight way from a baseline to one input (1, ...), times that way; in its shape.

    They sum up to the difference of the two scores, but for the sum's error (Sundararajan et al. 2017).
    """
    return attr.IntegratedGradients(score).attribute(
        inputs, baseline, n_steps=IG_STEPS, method="riemann_middle", internal_batch_size=AT_ONCE
    )


def grad_cam(score: Score, images: Tensor, layer: nn.Module) -> Tensor:
    """A layer's maps, weighted by their mean gradients, where positive, as (B, S, S) (Selvaraju et al. 2017)."""
    found = attr.LayerGradCam(score, layer).attribute(images, relu_attributions=True)
    return attr.LayerAttribution.interpolate(found.detach(), images.shape[2:], "bilinear")[:, 0]


# --- from outside: what changes when parts are gone --------------------------------------------------


def whole(parts: int) -> Tensor:
    return torch.ones(1, parts, dtype=torch.bool)


@contextlib.contextmanager
def drawn_by(generator: torch.Generator) -> Iterator[None]:
    """Within it `generator` takes the place of PyTorch's own, from which Captum draws, and which stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        yield
        generator.set_state(torch.get_rng_state())


def occlusion(value: Value, groups: Tensor) -> Tensor:
    """By how much the score falls without each part's group, whose number is in `groups` (F) (Zeiler, Fergus 2014)."""
    return attr.FeatureAblation(value).attribute(
        whole(len(groups)), baselines=False, feature_mask=groups[None], perturbations_per_eval=len(groups.unique())
    )[0]


def lime(value: Value, parts: int, samples: int, generator: torch.Generator) -> Tensor:
    """The weights (F) of the affine function that is nearest to the score, above all where most parts are kept.

    Ribeiro et al. (2016), with their weights for texts but without a penalty; from one sample to another any share of
    the parts is kept.
    """
    method = attr.Lime(
        value,
        SkLearnLinearRegression(),
        similarity_func=get_exp_kernel_similarity_function("cosine", kernel_width=0.25),
        perturb_func=lambda kept, **_: torch.rand(kept.shape) < torch.rand(1),
    )
    with drawn_by(generator):
        return method.attribute(whole(parts), baselines=False, n_samples=samples, perturbations_per_eval=samples)[0]


def shapley(value: Value, parts: int, orders: int, generator: torch.Generator) -> Tensor:
    """What each part (F) adds to the score when it comes, on average over random orders of coming (Castro et al. 2009).

    They sum up to the score of the whole less that of nothing.
    """
    with drawn_by(generator):
        return attr.ShapleyValueSampling(value).attribute(
            whole(parts), baselines=False, n_samples=orders, perturbations_per_eval=parts
        )[0]


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
