"""Images moved, turned and scaled, pixel by pixel."""

import pytest
import torch

from common.geometry import cut_out, in_each_direction, jitter, reframe, shifted


@pytest.mark.parametrize(("down", "right"), [(1, 0), (-1, 0), (0, 3), (0, -3), (2, -4)])
def test_a_shift_moves_the_inside_and_repeats_the_border(down, right):
    images = torch.arange(2 * 3 * 9 * 8, dtype=torch.float32).view(2, 3, 9, 8)
    found = shifted(images, down, right)
    for row in range(9):
        for column in range(8):
            source = images[:, :, min(max(row - down, 0), 8), min(max(column - right, 0), 7)]
            assert torch.equal(found[:, :, row, column], source)


def test_a_point_goes_to_each_side():
    image = torch.zeros(1, 1, 7, 7)
    image[..., 3, 3] = 1
    places = {tuple(moved[0, 0].nonzero()[0].tolist()) for moved in in_each_direction(image, 2)}
    assert places == {(3, 5), (3, 1), (5, 3), (1, 3)}


def test_reframe_moves_an_image_as_it_says():
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, 10, 6] = 1
    one = torch.ones(1, 1, 1, 1)
    moved = reframe(image, 0 * one, one, (one * 2 / 28, 0 * one))  # a pixel is 2/28 of a half width
    assert moved[0, 0, 10, 5] == pytest.approx(1, abs=1e-4)
    turned = reframe(image, one * torch.pi / 2, one, (0 * one, 0 * one))
    torch.testing.assert_close(turned, torch.rot90(image, 1, (2, 3)), atol=1e-4, rtol=0)


def test_jitter_keeps_within_its_limits():
    torch.manual_seed(0)
    image = torch.zeros(500, 1, 29, 29)
    image[..., 14, 14] = 1
    rows, columns = torch.meshgrid(torch.arange(29.0), torch.arange(29.0), indexing="ij")
    moved = jitter(image, degrees=180, zoom=0, shift=3 / 29)[:, 0]  # turning leaves the middle where it is
    mass = moved.sum((1, 2))
    offsets = torch.stack([(moved * axis).sum((1, 2)) / mass - 14 for axis in (rows, columns)])
    assert offsets.abs().max() <= 3 * 2**0.5 + 0.05  # the shift is turned, too
    assert offsets.abs().max() > 2.5
    assert offsets.mean(1).abs().max() < 0.3
    torch.testing.assert_close(jitter(image, 0, 0, 0), image, rtol=0, atol=1e-4)


def test_a_square_is_cut_out_of_each_image_at_a_place_of_its_own():
    torch.manual_seed(0)
    images = torch.rand(300, 2, 9, 12) + 1
    found = cut_out(images, 4)
    missing = found == 0  # (N, C, H, W)
    assert torch.equal(found[~missing], images[~missing])
    assert torch.equal(missing[:, 0], missing[:, 1])
    places = set()
    for mask in missing[:, 0]:
        rows, columns = mask.nonzero().unbind(1)
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert mask.sum() == height * width  # a rectangle
        at_edge = rows.min() == 0 or rows.max() == 8, columns.min() == 0 or columns.max() == 11
        assert height == 4 or (height in (2, 3) and at_edge[0])
        assert width == 4 or (width in (2, 3) and at_edge[1])
        places.add((int(rows.min()), int(columns.min())))
    assert len(places) > 50
