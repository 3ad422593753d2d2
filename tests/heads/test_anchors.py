from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from vodet.encodings import FeatureMaps
from vodet.heads.anchors import Anchors, decode_boxes, encode_boxes

RPN_WEIGHTS, BOX_WEIGHTS = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)


def maps(*grids) -> FeatureMaps:
    return FeatureMaps(tuple(torch.zeros(2, 1, *grid) for grid in grids))


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(2, count, 2, generator=generator).unbind(0)
    return torch.cat((100 * corner, 100 * corner + 1 + 60 * side), dim=1)


def test_anchors_are_centred_at_the_corners_of_their_cells_row_by_row():
    (anchors,) = Anchors(8.0, [1.0]).of(maps((2, 3)), [4])
    centers = [(0, 0), (4, 0), (8, 0), (0, 4), (4, 4), (8, 4)]
    assert anchors.tolist() == [[x - 16, y - 16, x + 16, y + 16] for x, y in centers]


def test_the_anchors_of_a_cell_are_next_to_each_other_and_not_rounded():
    (anchors,) = Anchors().of(maps((1, 2)), [4])
    long, short = 16 * math.sqrt(2), 16 / math.sqrt(2)  # 22.627 and 11.314
    shapes = [(long, short), (16.0, 16.0), (short, long)]
    expected = [[x - w, -h, x + w, h] for x in (0, 4) for w, h in shapes]
    torch.testing.assert_close(anchors, torch.tensor(expected))


def test_areas_grow_with_the_stride_and_ratios_are_heights_by_widths():
    ratios = (0.5, 1.0, 2.0, 3.0)
    levels = Anchors(4.0, ratios).of(maps((3, 2), (2, 1)), [8, 16])
    assert [level.shape for level in levels] == [(24, 4), (8, 4)]
    for anchors, side in zip(levels, (32, 64), strict=True):
        width, height = (anchors[:, 2:] - anchors[:, :2]).unbind(1)
        torch.testing.assert_close(width * height, torch.full_like(width, side**2))
        torch.testing.assert_close((height / width).view(-1, 4)[-1], torch.tensor(ratios))


def test_decoding_by_hand():
    anchors = torch.tensor([[10.0, 20, 30, 60]])  # 20 x 40 around (20, 40)
    deltas = torch.tensor([[5.0, -2.5, 5 * math.log(2), 5 * math.log(0.5)]])
    expected = torch.tensor([[10.0, 20, 50, 40]])  # 40 x 20 around (30, 30)
    torch.testing.assert_close(decode_boxes(deltas, anchors, BOX_WEIGHTS), expected)
    torch.testing.assert_close(encode_boxes(expected, anchors, BOX_WEIGHTS), deltas)


@pytest.mark.parametrize("weights", [RPN_WEIGHTS, BOX_WEIGHTS, (1.0, 2.0, 3.0, 4.0)])
def test_decoding_inverts_encoding(weights):
    boxes, anchors = random_boxes(50), random_boxes(50, seed=1)
    found = decode_boxes(encode_boxes(boxes, anchors, weights), anchors, weights)
    torch.testing.assert_close(found, boxes, rtol=1e-5, atol=1e-3)


def test_sides_grow_at_most_a_thousand_sixteenths_times_whatever_the_weights():
    anchors = torch.tensor([[0.0, 0, 16, 32]]).expand(3, 4)
    deltas = torch.zeros(3, 4)
    deltas[:, 2:] = torch.tensor([30.0, 1e6, torch.inf]).unsqueeze(1)
    boxes = decode_boxes(deltas, anchors, (1.0, 1.0, 5.0, 5.0))
    expected = torch.tensor([[1000.0, 2000.0]]).expand(3, 2)
    torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], expected)
    deltas[:, 2:] = 5 * math.log(60)  # just below
    boxes = decode_boxes(deltas, anchors, (1.0, 1.0, 5.0, 5.0))
    torch.testing.assert_close(boxes[:, 2] - boxes[:, 0], torch.full((3,), 960.0))


def test_half_precision_deltas_are_decoded_in_float32():
    anchors = random_boxes(20)
    deltas = torch.randn(20, 4, generator=torch.Generator().manual_seed(2)).bfloat16()
    boxes = decode_boxes(deltas, anchors, BOX_WEIGHTS)
    assert boxes.dtype == torch.float32
    assert torch.equal(boxes, decode_boxes(deltas.float(), anchors, BOX_WEIGHTS))


def test_deltas_of_each_class_start_from_the_same_anchor():
    anchors, deltas = random_boxes(6), torch.randn(6, 3, 4)
    found = decode_boxes(deltas, anchors.unsqueeze(1), BOX_WEIGHTS)
    expected = [decode_boxes(deltas[:, k], anchors, BOX_WEIGHTS) for k in range(3)]
    assert torch.equal(found, torch.stack(expected, dim=1))


def test_deltas_of_frames_start_from_the_same_anchors():
    anchors, deltas = random_boxes(6), torch.randn(2, 6, 4)
    found = decode_boxes(deltas, anchors, RPN_WEIGHTS)
    assert torch.equal(found[1], decode_boxes(deltas[1], anchors, RPN_WEIGHTS))


@pytest.mark.parametrize("sizes", [None, [32.0, 64.0]])
@pytest.mark.parametrize("size", [(96, 128), (224, 320)])
def test_rounded_anchors_are_those_of_torchvision(sizes, size) -> None:
    """96 rows have 2 cells at stride 64, and 224 have 4: both reach beyond the frame."""
    strides = (4, 8, 16, 32, 64)
    levels = [torch.zeros(1, 1, *(-(-side // stride) for side in size)) for stride in strides]
    anchors = Anchors(sizes=sizes, rounded=True)
    theirs = tuple(tuple(sizes or [8.0 * stride]) for stride in strides)
    generator = AnchorGenerator(theirs, ((0.5, 1.0, 2.0),) * 5)
    (expected,) = generator(ImageList(torch.zeros(1, 3, *size), [size]), levels)
    found = torch.cat(anchors.of(FeatureMaps(tuple(levels)), strides))
    assert torch.equal(found, expected)
    assert anchors.per_cell == generator.num_anchors_per_location()[0]
