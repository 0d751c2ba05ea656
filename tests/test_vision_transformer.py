"""The Vision Transformer: against a plain computation in float64, and its parameter counts against the exercise's."""

import math

import pytest
import torch

from common.classification import get_number_trainable_params
from vision_transformer import VisionTransformer, rollout, to_patches

SEVEN = {  # (dim, depth, heads, MLP) of the exercise, and the parameters that it states
    (64, 6, 8, 128): 213_642,
    (128, 6, 8, 256): 836_874,
    (32, 6, 8, 64): 55_626,
    (64, 8, 16, 128): 280_202,
    (64, 3, 4, 128): 113_802,
    (128, 8, 8, 256): 1_101_066,
    (128, 8, 16, 256): 1_101_066,
}


@pytest.mark.equation("eq:vit-parameters")
@pytest.mark.parametrize(("sizes", "expected"), SEVEN.items())
def test_the_exercise_s_variant_has_its_number_of_parameters(sizes, expected):
    dim, depth, heads, mlp_dim = sizes
    with torch.device("meta"):
        model = VisionTransformer(dim=dim, depth=depth, num_heads=heads, mlp_dim=mlp_dim, exercise=True)
    assert get_number_trainable_params(model) == expected
    patch, count = 49, 16  # values of a patch, and patches
    block = 4 * dim**2 + 6 * dim + 2 * dim * mlp_dim + mlp_dim
    head = (dim + 1) * mlp_dim + 10 * (mlp_dim + 1)
    assert (patch + 1) * dim + (count + 2) * dim + depth * block + head == expected


@pytest.mark.equation("eq:patch-embedding")
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 12)])
def test_patches_are_cut_row_by_row(shape):
    size = 4
    images = torch.arange(2 * math.prod(shape), dtype=torch.float32).view(2, *shape)
    cut = [
        images[:, :, top : top + size, left : left + size].reshape(2, -1)
        for top in range(0, shape[1], size)
        for left in range(0, shape[2], size)
    ]
    assert torch.equal(to_patches(images, size), torch.stack(cut, 1))


def layer_norm(x, module):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt() * module.weight + module.bias


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def by_hand(model, images, scale, exercise):
    """Class scores of one image after another, head by head, with matrices alone."""
    found = []
    for image in images:
        patches = [p.permute(0, 1, 2).reshape(-1) for row in image.split(4, 1) for p in row.split(4, 2)]
        x = torch.stack(patches) @ model.embedding.weight.T + model.embedding.bias
        x = torch.cat([model.class_token[0], x]) + model.positions[0]
        for block in model.blocks:
            attention, y = block.attention, layer_norm(x, block.attention_norm)
            query, key, value = (
                y @ each.weight.T + (0 if exercise else each.bias)
                for each in (attention.query, attention.key, attention.value)
            )
            heads = []
            for h in range(attention.num_heads):
                part = slice(h * 4, (h + 1) * 4)
                weights = (query[:, part] @ key[:, part].T * scale).exp()
                heads.append(weights / weights.sum(1, keepdim=True) @ value[:, part])
            x = x + torch.cat(heads, 1) @ attention.output.weight.T + attention.output.bias
            first, _, second = block.mlp
            hidden = gelu(layer_norm(x, block.mlp_norm) @ first.weight.T + first.bias)
            x = x + hidden @ second.weight.T + second.bias
        if exercise:
            first, _, second = model.head
            hidden = gelu(x[0] @ first.weight.T + first.bias)
            found.append(hidden @ second.weight.T + second.bias)
        else:
            found.append(layer_norm(x[0], model.norm) @ model.head.weight.T + model.head.bias)
    return torch.stack(found)


@pytest.mark.equation("eq:pre-norm")
@pytest.mark.parametrize(("exercise", "scale"), [(False, None), (True, 12**-0.5)])
def test_scores_are_those_computed_by_hand(exercise, scale):
    torch.manual_seed(0)
    model = VisionTransformer((2, 8, 12), 4, 12, 2, 3, 20, 5, exercise=exercise, scale=scale).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    images = torch.randn(3, 2, 8, 12, dtype=torch.float64)
    expected = by_hand(model, images, scale or 0.5, exercise)  # heads of 4 features: 1 / sqrt(4)
    torch.testing.assert_close(model(images), expected, rtol=1e-10, atol=1e-10)


def test_attention_weights_are_those_that_the_blocks_use():
    torch.manual_seed(0)
    model = VisionTransformer(dim=16, depth=2, num_heads=4, mlp_dim=8).double()
    images = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    weights = model.attention_weights(images)
    assert weights.shape == (2, 2, 4, 17, 17)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 4, 17, dtype=torch.float64))
    x = model.tokens(images)
    block = model.blocks[0]
    value = block.attention.value(block.attention_norm(x)).unflatten(-1, (4, 4)).transpose(1, 2)
    mixed = block.attention.output((weights[0] @ value).transpose(1, 2).flatten(2))
    y = x + mixed
    torch.testing.assert_close(block(x), y + block.mlp(block.mlp_norm(y)), rtol=1e-10, atol=1e-10)


def test_rollout_of_blocks_that_look_straight_at_a_patch():
    weights = torch.eye(4).expand(2, 1, 1, 4, 4).clone()  # every token looks at itself
    weights[0, 0, 0, 2] = torch.tensor([0, 0, 0, 1.0])  # but patch 2 at patch 3 in the first block
    weights[1, 0, 0, 0] = torch.tensor([0, 0, 1.0, 0])  # and the class token at patch 2 in the second
    # half of the class token's second block is patch 2, of which half is patch 3: shares 0, 1/4 and 1/4 of all
    torch.testing.assert_close(rollout(weights), torch.tensor([[0, 0.5, 0.5]]))


def test_images_of_another_size_than_whole_patches_are_refused():
    with pytest.raises(ValueError, match="28x28 pixels have no whole number of patches of 5"):
        VisionTransformer(patch_size=5)
