"""Explanations against their formulas and hand-worked cases, and the two tests of them on models of known parts."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("captum")

from lab3 import explanations

WEIGHTS = torch.tensor([0.5, -2.0, 3.0, 0.0, 1.0, -0.25], dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def additive(kept):
    """A score to which every part that is kept adds its weight."""
    return 7 + kept.double() @ WEIGHTS


class TinyCNN(nn.Module):
    """A convolution, the mean over the image, and an affine layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 4)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).tanh().mean((2, 3)))


# --- methods -----------------------------------------------------------------------------------------


def test_saliency_is_the_slope_by_finite_differences():
    network, image = TinyCNN().double().eval(), torch.randn(1, 2, 3, 3, dtype=torch.float64)
    score = lambda images: network(images)[:, 1]  # noqa: E731
    found = explanations.saliency(score, image)
    slopes = torch.zeros(2, 3, 3, dtype=torch.float64)
    for place in itertools.product(range(2), range(3), range(3)):
        step = torch.zeros_like(image[0])
        step[place] = 1e-5
        slopes[place] = (score(image + step) - score(image - step)).item() / 2e-5
    torch.testing.assert_close(found[0], slopes.abs().amax(0), rtol=1e-6, atol=1e-9)


def test_integrated_gradients_of_an_affine_score_are_its_terms():
    inputs, baseline = torch.randn(2, 1, 6, dtype=torch.float64)
    found = explanations.integrated_gradients(lambda x: x @ WEIGHTS + 5, inputs, baseline)
    torch.testing.assert_close(found, WEIGHTS * (inputs - baseline))


def test_integrated_gradients_are_the_mean_gradient_times_the_way():
    """At the middles of equal steps, and so complete but for an error that falls with the square of their number."""
    network = TinyCNN().double().eval()
    image, baseline = torch.randn(2, 1, 2, 5, 5, dtype=torch.float64)
    score = lambda images: network(images)[:, 2]  # noqa: E731
    mean, steps = 0, explanations.IG_STEPS
    for step in range(steps):
        point = (baseline + (step + 0.5) / steps * (image - baseline)).requires_grad_()
        mean = mean + torch.autograd.grad(score(point).sum(), point)[0] / steps
    found = explanations.integrated_gradients(score, image, baseline)
    # Captum has the lengths of steps in single precision
    torch.testing.assert_close(found, mean * (image - baseline), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.sum(), (score(image) - score(baseline))[0], rtol=1e-4, atol=1e-6)


def test_grad_cam_by_hand():
    """Of an affine layer on mean maps, a map's mean gradient is its weight over the number of places."""
    layer, head = nn.Conv2d(1, 2, 1, stride=2), torch.tensor([2.0, -1.0])
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    image = torch.randn(1, 1, 4, 4)
    found = explanations.grad_cam(lambda images: layer(images).mean((2, 3)) @ head, image, layer)
    maps = layer(image)[0].detach()  # (2, 2, 2)
    small = (head[0] / 4 * maps[0] + head[1] / 4 * maps[1]).clamp(min=0)
    assert 0 < (small > 0).sum() < 4
    torch.testing.assert_close(found, F.interpolate(small[None, None], size=(4, 4), mode="bilinear")[0])
    assert not layer._forward_hooks


def test_grad_cam_by_its_formula():
    """A map's weight is its mean gradient, of a network that is not affine after its maps."""
    network, images = TinyCNN().double().eval(), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    maps = network.conv(images).detach().requires_grad_()
    slopes = torch.autograd.grad(network.head(network.norm(maps).tanh().mean((2, 3)))[:, 3].sum(), maps)[0]
    expected = torch.einsum("bc,bcij->bij", slopes.mean((2, 3)), maps).clamp(min=0)
    found = explanations.grad_cam(lambda images: network(images)[:, 3], images, network.conv)
    assert 0 < (expected > 0).sum() < expected.numel()
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)


def test_grad_cam_where_all_is_frozen():
    network = TinyCNN().eval()
    image = torch.randn(1, 2, 4, 4)
    score = lambda images: network(images)[:, 0]  # noqa: E731
    before = explanations.grad_cam(score, image, network.conv)
    network.requires_grad_(False)
    assert torch.equal(explanations.grad_cam(score, image, network.conv), before)


def product(kept):
    """A score to which every two parts that are kept add something, too."""
    pairs = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return additive(kept) + torch.einsum("mi,ij,mj->m", kept.double(), pairs, kept.double())


def test_occlusion_by_a_loop():
    groups = torch.tensor([0, 0, 1, 2, 2, 2])
    found = explanations.occlusion(product, groups)
    for part in range(6):
        masks = torch.stack([torch.ones(6).bool(), groups != groups[part]])
        assert found[part].item() == pytest.approx(-product(masks).diff().item())


def test_of_an_additive_score_the_parts_are_its_weights(generator):
    for found in (
        explanations.lime(additive, 6, 100, generator),
        explanations.shapley(additive, 6, 3, generator),
        explanations.occlusion(additive, torch.arange(6)),
    ):
        # Captum fits and adds up in single precision
        torch.testing.assert_close(found.double(), WEIGHTS, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parts", [1, 2])
def test_inputs_of_one_part_or_two(parts, generator):
    value = lambda kept: 3 + 2 * kept.double().sum(1)  # noqa: E731
    for found in (
        explanations.lime(value, parts, 50, generator),
        explanations.shapley(value, parts, 3, generator),
        explanations.occlusion(value, torch.arange(parts)),
    ):
        assert found.tolist() == pytest.approx([2] * parts, abs=1e-5)


@pytest.mark.parametrize("method", [explanations.lime, explanations.shapley])
def test_what_is_drawn_comes_from_the_generator_alone(method):
    state = torch.get_rng_state()
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 5, 6)]
    first, same, other = (method(product, 6, 8, generator) for generator in generators)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.equal(first, method(product, 6, 8, generators[0]))  # which has moved on
    assert torch.equal(torch.get_rng_state(), state)


def glove_game(kept):
    """Worth 1 with the one left glove and at least one of the two right ones."""
    return (kept[:, 0] & kept[:, 1:].any(1)).double()


def test_shapley_values_of_the_glove_game(generator):
    """The textbook's values are 2/3, 1/6 and 1/6; whatever the orders, they sum up to what the whole is worth."""
    assert explanations.shapley(glove_game, 3, 1, generator).sum().item() == pytest.approx(1)
    found = explanations.shapley(glove_game, 3, 1000, generator)
    # a deviation of at most 1/2 of one order, over the root of 1,000: four of them
    torch.testing.assert_close(found, torch.tensor([2 / 3, 1 / 6, 1 / 6]), rtol=0, atol=0.064)


def test_shapley_values_are_what_parts_add_on_average_over_orders(generator):
    """The same orders, by hand: a part's share is the score once it has come less that before."""
    orders, expected = [], torch.zeros(6, dtype=torch.float64)
    torch.set_rng_state(generator.get_state())
    for _ in range(5):
        orders.append(torch.randperm(6).tolist())
    for order in orders:
        kept = torch.zeros(1, 6).bool()
        for part in order:
            before = product(kept)
            kept[0, part] = True
            expected[part] += (product(kept) - before).item() / 5
    torch.testing.assert_close(explanations.shapley(product, 6, 5, generator).double(), expected, rtol=1e-5, atol=1e-5)


def test_lime_is_the_weighted_least_squares_of_its_samples(generator):
    """Weights by the cosine's distance from the whole, and no penalty."""
    samples = []
    value = lambda kept: samples.append(kept) or product(kept)  # noqa: E731
    found = explanations.lime(value, 6, 40, generator)
    (masks,) = samples
    assert masks.shape == (40, 6)
    distance = 1 - F.cosine_similarity(masks.double(), torch.ones(1, 6).double())
    weight = (-(distance**2) / (2 * 0.25**2)).exp().sqrt()[:, None]
    design = torch.cat([torch.ones(40, 1), masks], 1).double()
    expected = torch.linalg.lstsq(weight * design, weight * product(masks)[:, None]).solution[1:, 0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_limes_samples_keep_any_share_of_the_parts(generator):
    """The number kept of n parts, each kept by a chance that is uniform, is uniform from 0 to n."""
    samples = []
    explanations.lime(lambda kept: samples.append(kept) or kept.double().sum(1), 4, 2000, generator)
    counts = torch.bincount(samples[0].sum(1), minlength=5)
    assert (counts - 400).abs().max() < 4 * (2000 * 0.2 * 0.8) ** 0.5  # four deviations


def test_contrast_is_at_edges():
    image = torch.zeros(3, 8, 8)
    image[:, :, 4:] = 1
    found = explanations.contrast(image)
    assert found[:, 3:5].min() > 10 * found[:, [0, 7]].max()


# --- what they are worth -----------------------------------------------------------------------------


def test_curves_by_hand(generator):
    deletion, insertion = explanations.curves(additive, WEIGHTS, 6, generator)
    ordered = sorted(WEIGHTS.tolist(), reverse=True)
    whole = 7 + sum(ordered)
    assert deletion.tolist() == pytest.approx([whole - sum(ordered[:k]) for k in range(7)])
    assert insertion.tolist() == pytest.approx([7 + sum(ordered[:k]) for k in range(7)])
    assert explanations.area(torch.tensor([0.0, 1.0, 0.0])) == 0.5


def test_no_order_is_better_than_the_true_one(generator):
    best = [explanations.area(curve) for curve in explanations.curves(additive, WEIGHTS, 6, generator)]
    for order in itertools.permutations(range(6)):
        areas = [explanations.area(c) for c in explanations.curves(additive, torch.tensor(order), 6, generator)]
        assert areas[0] >= best[0] - 1e-12
        assert areas[1] <= best[1] + 1e-12


def test_curves_of_few_parts_in_more_steps_end_where_they_should(generator):
    deletion, insertion = explanations.curves(
        lambda kept: kept.double().mean(1), torch.tensor([2.0, 1.0]), 20, generator
    )
    assert (deletion[0], deletion[-1], insertion[0], insertion[-1]) == (1, 0, 0, 1)
    assert sorted(insertion.tolist()) == insertion.tolist()


def test_equal_scores_are_in_no_order():
    """Those of the first of 50 equal parts are not always removed first."""
    first = {
        int(explanations.curves(lambda kept: kept[:, 0].double(), torch.zeros(50), 50,
                                torch.Generator().manual_seed(seed))[0].sum())
        for seed in range(5)
    }  # fmt: skip
    assert len(first) > 3


def test_similarity_by_hand():
    """Spearman's 1 - 6 sum d^2 / (n (n^2 - 1)), of the order alone."""
    first, second = torch.tensor([0.0, 1.0, 5.0, 100.0]), torch.tensor([1.0, 0.0, 2.0, 3.0])
    assert explanations.similarity(first, second) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert explanations.similarity(first, torch.zeros(4)) == 0


def test_redrawn_layers_and_no_others():
    network, images = TinyCNN().eval(), 5 + 3 * torch.randn(20, 2, 6, 6)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    last, again = (explanations.redrawn(network, ("head",), (images,), seed=3) for _ in range(2))
    assert {n for n, t in last.state_dict().items() if not torch.equal(t, before[n])} == {"head.weight", "head.bias"}
    assert torch.equal(last.head.weight, again.head.weight)
    assert not torch.equal(last.head.weight, explanations.redrawn(network, ("head",), (images,), 4).head.weight)

    every = explanations.redrawn(network, ("",), (images,), seed=3)
    changed = {name for name, tensor in every.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"conv.weight", "conv.bias", "head.weight", "head.bias"} <= changed
    maps = every.norm(every.conv(images))
    torch.testing.assert_close(maps.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)  # normalised for these images
    assert not any(module.training for module in every.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_redrawing_leaves_the_stream_of_random_numbers():
    layer = nn.Linear(2, 2)
    state = torch.get_rng_state()
    explanations.redrawn(layer, ("",), (torch.ones(1, 2),), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
