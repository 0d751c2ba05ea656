"""The network of any sizes: the homework's CNN among them, and a larger one by PyTorch's own functions."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from common.classification import get_number_trainable_params
from common.shaped_cnn import Shape, ShapedCNN

HOMEWORK = Shape((8, 16), (3, 3), (1, 1), (1, 0), (1, 2), hidden=(320, 120), batch_norm=False, num_classes=4)


def test_the_homework_s_network():
    q2 = importlib.import_module("hw2-q2")
    torch.manual_seed(0)
    ours, theirs = ShapedCNN(HOMEWORK), q2.CNN(0.7)
    assert get_number_trainable_params(ours) == get_number_trainable_params(theirs) == 224_892
    layers = [layer for part in (ours.features, ours.classifier) for layer in part if list(layer.parameters())]
    for layer, name in zip(layers, ("conv1", "conv2", "fc1", "fc2", "fc3"), strict=True):
        layer.load_state_dict(getattr(theirs, name).state_dict())
    images = torch.randn(5, 1, 28, 28)
    torch.testing.assert_close(ours.eval()(images).log_softmax(1), theirs.eval()(images), rtol=1e-5, atol=1e-6)


def test_every_part_by_pytorch_s_functions():
    """Two convolutions of colour images: norm, tanh, mean-pooling after the second alone, one hidden layer."""
    torch.manual_seed(0)
    shape = Shape(
        (4, 6), (3, 5), (2, 1), (1, 2), (2,), mean_pool=True, hidden=(7,), activation="tanh",
        in_channels=3, image_size=12, num_classes=3,
    )  # fmt: skip
    model, images = ShapedCNN(shape).double().eval(), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    weights = list(model.parameters())
    for norm in (model.features[1], model.features[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)

    def norm(x, layer):
        mean, variance = layer.running_mean[:, None, None], layer.running_var[:, None, None]
        return (x - mean) / (variance + 1e-5).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]

    x = norm(F.conv2d(images, *weights[:2], stride=2, padding=1), model.features[1]).tanh()  # (2, 4, 6, 6)
    x = norm(F.conv2d(x, *weights[4:6], padding=2), model.features[4]).tanh()  # (2, 6, 6, 6)
    x = x.unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5)).flatten(1)  # (2, 54)
    expected = (x @ weights[8].T + weights[9]).tanh() @ weights[10].T + weights[11]
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": (8,)}, "must name as many convolutions"),
        ({"pools": (3,)}, "--pools must name convolutions from 1 to 2"),
        ({"kernels": (3, 0)}, "must be positive"),
        ({"image_size": 6}, "convolution 2 leaves nothing of a 6x6 image"),
    ],
)
def test_sizes_that_make_no_network_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Shape(**vars(HOMEWORK) | changes)
