"""Which parameters decay."""

import torch

from attention import MultiHeadAttention
from common.recipes import adamw
from common.residual import ResidualCNN
from vision_transformer import VisionTransformer


def test_only_weights_of_layers_are_decayed():
    for model in (ResidualCNN(1, (2, 3, 4), 5), VisionTransformer(dim=8, num_heads=2), MultiHeadAttention(8, 2)):
        decayed, others = adamw(model, 1e-3, weight_decay=0.1).param_groups
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        layers = {
            f"{name}.weight"
            for name, layer in model.named_modules()
            if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))
        }
        assert {names[id(parameter)] for parameter in decayed["params"]} == layers
        assert len(decayed["params"]) + len(others["params"]) == len(names)
        assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0)
