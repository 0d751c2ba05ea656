"""What a Vision Transformer looks at, as a result keeps it, and drawn."""

import numpy as np
import torch

from common import vit_looks
from vision_transformer import VisionTransformer, rollout


def test_looks_are_the_weights_of_the_network_and_the_cosines_of_its_positions():
    torch.manual_seed(0)
    model = VisionTransformer((3, 8, 8), 4, dim=12, depth=2, num_heads=3, mlp_dim=8)
    images, pixels = torch.randn(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    found = vit_looks.looks(model, images, pixels)
    np.testing.assert_allclose(found["rollout"], rollout(model.attention_weights(images)).detach(), atol=1e-3)
    assert found["images"][1][3 * (8 * 5 + 2) + 1] == round(255 * pixels[1, 1, 5, 2].item())
    first, second = model.positions[0, 1].detach().numpy(), model.positions[0, 4].detach().numpy()
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert abs(found["positions"][0][3] - cosine) < 1e-3
    figure = vit_looks.plot_attention(found, 3, "noise")
    first, second, _, below = (axes.images[0].get_array() for axes in figure.axes)
    assert first.shape == second.shape == (8, 8, 3)
    np.testing.assert_allclose(below.ravel(), found["rollout"][1])
    maps = vit_looks.plot_positions(found, "noise").axes
    np.testing.assert_allclose(maps[2].images[0].get_array(), np.reshape(found["positions"][2], (2, 2)))
