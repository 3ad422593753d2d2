from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from recipe import REFERENCE
from vodet.heads.linking import ProposalLimits, link_anchors, top_anchors

NAN, INF = math.nan, math.inf
SIZE = torch.tensor([40, 100])  # height, width


def link_window(boxes, logits, counts, size, reference, limits):
    """Which anchors of a single window are kept, and their boxes ``[T, K, 4]``."""
    anchors, levels = top_anchors(logits[None], counts, limits.pre_nms_top_n)
    chosen, own = boxes[None, :, anchors[0]], logits[None].gather(1, anchors)
    found, columns = link_anchors(chosen, own, levels, size[None], reference, limits)
    (is_valid,) = found.is_valid
    kept = anchors[0, columns[0, is_valid]]
    assert torch.equal(found.scores[0, is_valid], logits[kept])
    assert not found.boxes[0, :, ~is_valid].any()
    assert not found.scores[0, ~is_valid].any()
    return kept, found.boxes[0, :, is_valid]


def link(boxes, logits, counts=None, reference=0, **limits):
    limits = ProposalLimits(**({"pre_nms_top_n": 100, "post_nms_top_n": 100} | limits))
    counts = counts or [len(logits)]
    return link_window(boxes, torch.tensor(logits), counts, SIZE, reference, limits)


def row_of_boxes(frames: int, count: int) -> torch.Tensor:
    """Boxes of 8 x 8 that do not touch, lower by 10 in each frame."""
    left = torch.arange(count) * 10.0
    top = torch.arange(frames)[:, None] * 10.0
    left, top = torch.broadcast_tensors(left, top)
    return torch.stack((left, top, left + 8, top + 8), dim=2)


@pytest.mark.parametrize("name", ["linking_window3_reference1", "linking_window1"])
def test_linking_agrees_with_the_reference(name):
    folder = REFERENCE
    settings = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as file:
        values = {key: torch.as_tensor(file[key]) for key in file.files}
    counts, reference = settings["counts"], settings["reference_frame_idx"]
    levels = range(len(counts))
    logits = torch.cat([values[f"in_logits_l{i}"] for i in levels], dim=1)[reference]
    kept, boxes = link_window(
        torch.cat([values[f"in_proposals_l{i}"] for i in levels], dim=1),
        logits,
        counts,
        torch.tensor(settings["image_size_hw"]),
        reference,
        ProposalLimits(
            settings["pre_nms_topk"],
            settings["post_nms_topk"],
            settings["nms_thresh"],
            float(settings["min_box_side_len"]),
        ),
    )
    level, anchor = values["out_src_level_index"].unbind(1)
    starts = torch.tensor(counts).cumsum(0) - torch.tensor(counts)
    assert torch.equal(kept, starts[level] + anchor)
    assert torch.equal(boxes, values["out_boxes"])
    assert torch.equal(logits[kept], values["out_logits"])


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_logit_that_is_not_finite_uses_up_a_place(bad):
    kept, _ = link(row_of_boxes(2, 4), [1.0, bad, 3.0, 2.0], pre_nms_top_n=2)
    assert kept.tolist() == [2]


def test_a_logit_of_minus_infinity_is_dropped():
    kept, _ = link(row_of_boxes(2, 3), [1.0, -INF, 3.0])
    assert kept.tolist() == [2, 0]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("frame", [0, 1, 2])
@pytest.mark.parametrize("coordinate", range(4))
def test_a_coordinate_that_is_not_finite_in_any_frame_drops_the_tubelet(bad, frame, coordinate):
    boxes = row_of_boxes(3, 3)
    boxes[frame, 2, coordinate] = bad
    kept, found = link(boxes, [1.0, 2.0, 3.0], reference=1)
    assert kept.tolist() == [1, 0]
    assert torch.equal(found, boxes[:, [1, 0]])


@pytest.mark.parametrize(
    "box",
    [
        [5.0, 5, 5, 9],
        [5.0, 9, 8, 5],
        [-9.0, 5, 0, 9],
        [100.0, 5, 109, 9],
        [5.0, -4, 9, -1],
        [5.0, 40, 9, 44],
    ],
)
@pytest.mark.parametrize("frame", [0, 1, 2])
def test_a_box_that_is_empty_after_clipping_in_any_frame_drops_the_tubelet(box, frame):
    boxes = row_of_boxes(3, 3)
    boxes[frame, 2] = torch.tensor(box)
    assert link(boxes, [1.0, 2.0, 3.0], reference=1)[0].tolist() == [1, 0]


def test_a_side_of_the_least_size_is_too_small():
    boxes = row_of_boxes(2, 2)
    boxes[1, 0, 2] += 1
    boxes[1, 0, 3] += 0.5
    boxes[:, 1] += torch.tensor([0.0, 0, 1, 1])
    kept, _ = link(boxes, [2.0, 1.0], min_size=8.0)
    assert kept.tolist() == [1]  # the other has 8 x 8 in frame 0
    assert link(boxes, [2.0, 1.0], min_size=7.9)[0].tolist() == [0, 1]


def test_boxes_are_clipped_in_every_frame():
    boxes = torch.tensor([[[-5.0, -5, 20, 20]], [[90.0, 30, 120, 50]]])
    _, found = link(boxes, [0.0], reference=1)
    assert found.tolist() == [[[0, 0, 20, 20]], [[90, 30, 100, 40]]]


def test_suppression_looks_at_the_reference_boxes_only():
    boxes = row_of_boxes(2, 2)
    boxes[0, 1] = boxes[0, 0]
    assert link(boxes, [1.0, 2.0], reference=0)[0].tolist() == [1]
    assert link(boxes, [1.0, 2.0], reference=1)[0].tolist() == [1, 0]


def test_suppression_is_within_a_level():
    boxes = row_of_boxes(1, 1).expand(1, 3, 4)
    kept, _ = link(boxes, [1.0, 2.0, 3.0], counts=[2, 1])
    assert kept.tolist() == [2, 1]


def test_an_iou_of_the_limit_is_not_suppressed():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 20]]])
    assert link(boxes, [2.0, 1.0], nms_iou=0.5)[0].tolist() == [0, 1]
    assert link(boxes, [2.0, 1.0], nms_iou=0.49)[0].tolist() == [0]


def test_the_best_of_all_levels_are_kept_best_first():
    kept, found = link(
        row_of_boxes(2, 5), [1.0, 5.0, 3.0, 2.0, 4.0], counts=[2, 3], post_nms_top_n=3
    )
    assert kept.tolist() == [1, 4, 2]
    assert torch.equal(found, row_of_boxes(2, 5)[:, kept])


def test_each_level_has_its_own_places_before_suppression():
    logits = [9.0, 8.0, 7.0, 2.0, 1.0]
    assert link(row_of_boxes(1, 5), logits, counts=[3, 2], pre_nms_top_n=1)[0].tolist() == [0, 3]


def test_places_are_not_filled_up_after_suppression():
    boxes = row_of_boxes(1, 3)
    boxes[0, 1] = boxes[0, 0]
    assert link(boxes, [3.0, 2.0, 1.0], pre_nms_top_n=2)[0].tolist() == [0]


def test_no_proposal_may_be_left():
    kept, boxes = link(row_of_boxes(3, 4), [NAN] * 4)
    assert kept.shape == (0,)
    assert boxes.shape == (3, 0, 4)


def iou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def slowly_linked(boxes, logits, counts, reference, limits) -> list[int]:
    sides = SIZE.flip(0).repeat(2).tolist()
    best, start = [], 0
    for count in counts:
        rows = sorted(range(start, start + count), key=lambda row: -logits[row])
        start += count
        chosen = []
        for row in rows[: limits.pre_nms_top_n]:
            tubelet = [
                [min(max(value, 0), side) for value, side in zip(box, sides, strict=True)]
                for box in boxes[:, row].tolist()
            ]
            has_extent = all(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in tubelet)
            own = tubelet[reference]
            if has_extent and all(iou(own, other) <= limits.nms_iou for _, other in chosen):
                chosen.append((row, own))
        best += [row for row, _ in chosen]
    return sorted(best, key=lambda row: -logits[row])[: limits.post_nms_top_n]


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_linking_agrees_with_a_slow_implementation(frames, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(1, 90, 2, generator=generator) * torch.tensor([110.0, 50]) - 10
    corner = corner + torch.randn(frames, 90, 2, generator=generator)
    side = 25 * torch.rand(1, 90, 2, generator=generator) + 5
    boxes, logits = torch.cat((corner, corner + side), 2), torch.randn(90, generator=generator)
    counts, limits = [60, 20, 10], ProposalLimits(pre_nms_top_n=40, post_nms_top_n=25, nms_iou=0.3)
    reference = frames // 2
    kept, _ = link_window(boxes, logits, counts, SIZE, reference, limits)
    assert kept.tolist() == slowly_linked(boxes, logits.tolist(), counts, reference, limits)
    assert len(kept) == 25


def test_windows_of_a_batch_are_linked_each_in_its_own_picture():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3, 2, 30, 2, generator=generator) * torch.tensor([110.0, 50]) - 10
    boxes = torch.cat((corner, corner + 5 + 25 * torch.rand(3, 2, 30, 2, generator=generator)), -1)
    logits = torch.randn(3, 30, generator=generator)
    sizes = torch.tensor([[40, 100], [20, 50], [60, 30]])
    limits, counts = ProposalLimits(pre_nms_top_n=9, post_nms_top_n=12, nms_iou=0.3), [20, 10]
    anchors, levels = top_anchors(logits, counts, limits.pre_nms_top_n)
    assert levels.tolist() == [0] * 9 + [1] * 9
    chosen = torch.stack([own[:, rows] for own, rows in zip(boxes, anchors, strict=True)])
    found, columns = link_anchors(chosen, logits.gather(1, anchors), levels, sizes, 1, limits)
    assert found.boxes.shape == (3, 2, 12, 4)
    for item in range(3):
        kept, own = link_window(boxes[item], logits[item], counts, sizes[item], 1, limits)
        is_valid = found.is_valid[item]
        assert is_valid.tolist() == [True] * len(kept) + [False] * (12 - len(kept))
        assert torch.equal(anchors[item, columns[item, is_valid]], kept)
        assert torch.equal(found.boxes[item, :, is_valid], own)


def test_proposals_are_cut_to_a_number_or_filled_up():
    boxes, logits = row_of_boxes(2, 3)[None], torch.tensor([[3.0, 2, 1]])
    levels, limits = torch.zeros(3, dtype=torch.int64), ProposalLimits(9, 9)
    found, _ = link_anchors(boxes, logits, levels, SIZE[None], 0, limits)
    assert found.resized(2).scores.tolist() == [[3, 2]]
    assert torch.equal(found.resized(2).boxes, boxes[:, :, :2])
    assert found.resized(5).is_valid.tolist() == [[True] * 3 + [False] * 2]
    assert found.resized(5).boxes.shape == (1, 2, 5, 4)
    assert not found.resized(5).boxes[:, :, 3:].any()


def test_proposals_need_an_objectness():
    boxes = row_of_boxes(1, 3)
    logits = [2.0, -1.0, -3.0]  # 0.88, 0.27 and 0.05
    assert link(boxes, logits, score_threshold=0.04)[0].tolist() == [0, 1, 2]
    assert link(boxes, logits, score_threshold=0.25)[0].tolist() == [0, 1]
    assert link(boxes, logits, score_threshold=0.5)[0].tolist() == [0]
