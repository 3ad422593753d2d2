from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align as torchvision_roi_align

from vodet.roi_align import roi_align

FRAMES, CHANNELS, HEIGHT, WIDTH = 3, 5, 11, 17  # of 8 pixels
EDGES = [-1.0, 0, 1, 2, 4, 8, 9]


def random_boxes(kind: str, count: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    side = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    if kind == "inside":
        corner, side = corner * 60, side * 40
    elif kind == "across the border":
        corner, side = corner * 400 - 200, side * 200
    elif kind == "outside":
        corner, side = corner * 50 + torch.tensor([140.0, -300]), side * 60
    elif kind == "huge":
        corner, side = corner * -500, 500 + side * 1000
    elif kind == "elongated":
        corner, side = corner * 60, side * torch.tensor([300.0, 2])
        side[::2] = side[::2].flip(1)
    elif kind == "without extent":
        corner, side = corner * 60, side * 40
        side[::2, 0], side[::3, 1] = 0, 0
        side[::5] *= -1
    return torch.cat((corner, corner + side), dim=1)


def random_maps(memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (FRAMES, CHANNELS, HEIGHT, WIDTH)
    maps = torch.randn(shape, generator=generator, dtype=torch.float64)
    return maps.contiguous(memory_format=memory_format).requires_grad_()


def assert_as_torchvision(maps, boxes, frames, scale, size):
    other = maps.detach().clone().requires_grad_()
    rois = torch.cat((frames.to(boxes).unsqueeze(1), boxes), dim=1)
    expected = torchvision_roi_align(other, rois, size, scale, sampling_ratio=0, aligned=True)
    found = roi_align(maps, boxes, frames, scale, size)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, other, gradient)
    (found_gradient,) = torch.autograd.grad(found, maps, gradient)
    torch.testing.assert_close(found_gradient, expected_gradient)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "kind", ["inside", "across the border", "outside", "huge", "elongated", "without extent"]
)
def test_values_and_gradients_are_those_of_torchvision(kind, memory_format):
    boxes = random_boxes(kind)
    frames = torch.arange(len(boxes)) * 7 % FRAMES
    assert_as_torchvision(random_maps(memory_format), boxes, frames, 1 / 8, 7)


@pytest.mark.parametrize("size", [1, 2])
def test_samples_right_on_the_limits_of_the_map_are_those_of_torchvision(size):
    start, side = torch.tensor(EDGES), torch.tensor([1.0, 2, 4, 8])
    left, top, width, height = torch.cartesian_prod(start + 8, start, side, side).unbind(1)
    boxes = torch.stack((left, top, left + width, top + height), dim=1).double()
    assert_as_torchvision(random_maps(), boxes, torch.zeros(len(boxes)).long(), 1.0, size)


def test_boxes_of_every_kind_together_are_pooled_as_alone():
    kinds = ["without extent", "huge", "inside", "outside"]
    boxes = torch.cat([random_boxes(kind, 5) for kind in kinds])
    frames = torch.arange(len(boxes)) % 2 * 2  # the frame between has no box
    assert_as_torchvision(random_maps(), boxes, frames, 1 / 8, 3)


def test_a_box_of_whole_cells_averages_them():
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    pooled = roi_align(maps, torch.tensor([[2.0, 0, 8, 6]]), torch.tensor([0]), 0.5, 3)
    torch.testing.assert_close(pooled, maps[:, :, :, 1:])
    pooled = roi_align(maps, torch.tensor([[0.0, 0, 8, 6]]), torch.tensor([0]), 0.5, 1)
    torch.testing.assert_close(pooled, maps.mean().view(1, 1, 1, 1))


def test_no_boxes_are_no_features_and_a_gradient_of_zero():
    maps = random_maps()
    pooled = roi_align(maps, maps.new_zeros(0, 4), torch.zeros(0).long(), 1 / 8, 7)
    assert pooled.shape == (0, CHANNELS, 7, 7)
    pooled.sum().backward()
    assert torch.equal(maps.grad, torch.zeros_like(maps))


def test_boxes_that_need_a_gradient_get_none():
    maps, boxes = random_maps(), random_boxes("inside").requires_grad_()
    frames = torch.zeros(len(boxes)).long()
    roi_align(maps, boxes, frames, 1 / 8, 7).sum().backward()
    assert boxes.grad is None
    assert maps.grad.abs().sum() > 0
    assert not roi_align(maps.detach(), boxes, frames, 1 / 8, 7).requires_grad
