"""Convolution by hand, sizes of outputs, and the exercise's networks."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from common import shaped_cnn
from common.classification import get_number_trainable_params
from deep_features import classifier, cnn, convolution, study


@pytest.mark.equation("eq:convolution")
def test_the_worked_example(capsys):
    assert cnn.main(["--example"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("[[3, 4], [6, 11]]") == 3
    assert "gives [6, 6, 7, 8]" in printed


@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(5, 9), st.integers(5, 9), st.integers(0, 99)
)
@settings(max_examples=30, deadline=None)
def test_loops_and_the_matrix_product_are_pytorch_s_convolution(channels, kernel, stride, height, width, seed):
    torch.manual_seed(seed)
    images = torch.randn(2, channels, height, width, dtype=torch.float64)
    kernels = torch.randn(3, channels, kernel, kernel, dtype=torch.float64)
    expected = F.conv2d(images, kernels, stride=stride)
    torch.testing.assert_close(convolution.by_matrix_product(images, kernels, stride), expected)
    looped = sum(convolution.by_loops(images[0, c], kernels[0, c], stride) for c in range(channels))
    torch.testing.assert_close(looped, expected[0, 0])


@pytest.mark.equation("eq:output-size")
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 4), st.integers(0, 3), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_the_size_of_the_output_is_pytorch_s(size, kernel, stride, padding, dilation):
    expected = shaped_cnn.output_size(size, kernel, stride, padding, dilation)
    image = torch.zeros(1, 1, size, 1)
    try:
        found = F.conv2d(image, torch.zeros(1, 1, kernel, 1), None, (stride, 1), (padding, 0), (dilation, 1)).shape[2]
    except RuntimeError:  # the kernel is larger than the image
        found = 0
    assert found == expected


@pytest.mark.parametrize(("flags", "expected"), [({}, 49_302), (cnn.LARGE, 901_866)])
def test_the_exercise_s_networks_have_their_numbers_of_parameters(flags, expected):
    assert get_number_trainable_params(cnn.build(cnn.Config(**flags))) == expected


def test_networks_that_are_compared_have_as_many_parameters():
    sizes = {
        name: get_number_trainable_params(cnn.build(config))
        for name, config in study.variants_of(cnn.Config(study="pixels")).items()
    }
    assert max(sizes.values()) - min(sizes.values()) <= 2
    best = study.variants_of(cnn.Config(study="best")).values()
    assert all(get_number_trainable_params(cnn.build(config)) < 300_000 for config in best)


class Half(torch.nn.Module):
    """Class 1 where the left half of an image is the brighter one."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        left, right = images[..., :4].sum((1, 2, 3)), images[..., 4:].sum((1, 2, 3))
        return torch.stack([right, left], 1) * self.weight


def test_the_accuracy_of_moved_images_by_hand():
    images = torch.zeros(2, 1, 8, 8)
    images[0, 0, 4, 3] = images[1, 0, 4, 1] = 1  # a step to the right brings the first into the right half
    assert cnn.accuracy_of_moved(Half(), images, torch.tensor([1, 1]), 0) == 1
    assert cnn.accuracy_of_moved(Half(), images, torch.tensor([1, 1]), 1) == 7 / 8


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"widths": (8, 8)}, "must name as many convolutions"),
        ({"pools": (5,)}, "--pools must name convolutions from 1 to 4"),
        ({"pools": (1, 2, 3, 4)}, "leaves nothing of a 28x28 image"),
        ({"strides": (2, 2, 2, 0)}, "must be positive"),
    ],
)
def test_networks_that_cannot_be_are_refused(flags, words):
    with pytest.raises(ValueError, match=words):
        cnn.Config(**flags)


@pytest.mark.equation("eq:standard-error")
def test_the_standard_error_is_that_of_many_draws():
    torch.manual_seed(0)
    shares = (torch.rand(4000, 500) < 0.9).double().mean(1)
    assert classifier.standard_error(0.9, 500) == pytest.approx(shares.std().item(), rel=0.05)
