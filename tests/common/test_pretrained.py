"""Weights of a package, taken over one by one in order."""

import pytest
import torch
from torch import nn

from common import pretrained


def test_weights_are_renamed_in_order_and_others_are_not_taken():
    names = nn.Linear(2, 3)
    weights = {"kernel": torch.ones(3, 2), "shift": torch.zeros(3)}
    assert list(pretrained.renamed(weights, names)) == ["weight", "bias"]
    with pytest.raises(ValueError, match="2 tensors are not the weights of Linear"):
        pretrained.renamed(dict(reversed(weights.items())), names)
