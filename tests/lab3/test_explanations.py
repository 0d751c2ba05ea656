"""Explanations against hand-worked cases, and the two tests of them on models whose important parts are known."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


def test_integrated_gradients_are_complete():
    network = TinyCNN().double().eval()
    image, baseline = torch.randn(2, 1, 2, 5, 5, dtype=torch.float64)
    score = lambda images: network(images)[:, 2]  # noqa: E731
    found = explanations.integrated_gradients(score, image, baseline, steps=200)
    assert found.shape == image.shape
    # the midpoint rule's error falls with the square of the number of steps
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


def test_grad_cam_where_all_is_frozen():
    network = TinyCNN().eval()
    image = torch.randn(1, 2, 4, 4)
    score = lambda images: network(images)[:, 0]  # noqa: E731
    before = explanations.grad_cam(score, image, network.conv)
    network.requires_grad_(False)
    assert torch.equal(explanations.grad_cam(score, image, network.conv), before)


def test_occlusion_by_a_loop():
    groups = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).bool()
    torch.manual_seed(1)
    pairs = torch.randn(6, 6, dtype=torch.float64)
    value = lambda kept: torch.stack([k.double() @ pairs @ k.double() for k in kept])  # noqa: E731
    found = explanations.occlusion(value, groups)
    for part in range(6):
        group = next(group for group in groups if group[part])
        without = [i for i in range(6) if not group[i]]
        assert found[part].item() == pytest.approx((pairs.sum() - pairs[without][:, without].sum()).item())


def test_lime_and_shapley_of_an_additive_score_are_its_weights(generator):
    for found in (
        explanations.lime(additive, 6, 100, generator),
        explanations.shapley(additive, 6, 3, generator),
        explanations.occlusion(additive, torch.eye(6).bool()),
    ):
        torch.testing.assert_close(found, WEIGHTS, rtol=1e-9, atol=1e-9)


def glove_game(kept):
    """Worth 1 with the one left glove and at least one of the two right ones."""
    return (kept[:, 0] & kept[:, 1:].any(1)).double()


def test_shapley_values_of_the_glove_game(generator):
    """The textbook's values are 2/3, 1/6 and 1/6; whatever the orders, they sum up to what the whole is worth."""
    assert explanations.shapley(glove_game, 3, 1, generator).sum().item() == pytest.approx(1)
    found = explanations.shapley(glove_game, 3, 4000, generator)
    # a deviation of at most 1/2 of one order, over the root of 4,000: four of them
    torch.testing.assert_close(found, torch.tensor([2 / 3, 1 / 6, 1 / 6]).double(), rtol=0, atol=0.032)


def test_lime_weighs_what_is_near(generator):
    """On a score with a product, the parts' slopes are those near the whole, not those far from it."""
    both = lambda kept: kept.all(1).double()  # noqa: E731
    found = explanations.lime(both, 2, 20_000, generator)
    # of a third each 00 and 11 and a sixth each of 01 and 10, by hand
    masks = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).double()
    chance = torch.tensor([1 / 3, 1 / 6, 1 / 6, 1 / 3])
    near = torch.exp(-((1 - masks.mean(1).sqrt()) ** 2) / (2 * 0.25**2))
    weight = (chance * near).sqrt()[:, None]
    design = torch.cat([torch.ones(4, 1), masks], 1).double()
    expected = torch.linalg.lstsq(weight * design, weight * masks.prod(1, keepdim=True)).solution[1:, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


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
