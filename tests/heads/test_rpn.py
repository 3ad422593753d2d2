from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection.rpn import RPNHead

from vodet.encodings import EncodedFrames, FeatureMaps, FeatureSpec, WindowBatch
from vodet.errors import ConfigError
from vodet.heads.anchors import Anchors
from vodet.heads.linking import ProposalLimits
from vodet.heads.proposals import Tubelets
from vodet.heads.rpn import RPN
from vodet.structures import Target

SPEC = FeatureSpec((4, 4), (4, 8))
RATIOS = (0.5, 1.0, 2.0)


def maps(frames: int = 2) -> FeatureMaps:
    generator = torch.Generator().manual_seed(0)
    return FeatureMaps(
        tuple(torch.randn(frames, 4, *grid, generator=generator) for grid in ((5, 6), (3, 3)))
    )


def target(boxes, iscrowd=None) -> Target:
    count = len(boxes)
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.zeros(count, dtype=torch.int64),
        track_ids=torch.full((count,), -1),
        iscrowd=torch.tensor(iscrowd or [False] * count, dtype=torch.bool),
    )


class FixedOutputs(nn.Module):
    """Convolutions that say what they are told to."""

    def __init__(self, logits, deltas) -> None:
        super().__init__()
        self.outputs = (logits, deltas)

    def forward(self, _levels):
        return self.outputs


@pytest.mark.parametrize(
    ("level", "ratio", "y", "x"), [(0, 0, 0, 0), (0, 2, 3, 5), (0, 1, 4, 2), (1, 0, 2, 1)]
)
def test_a_peak_in_a_cell_belongs_to_the_anchor_there(level, ratio, y, x):
    rpn, inputs = RPN(SPEC, Anchors(ratios=RATIOS)), maps()
    logits = [torch.zeros(2, 3, *m.shape[2:]) for m in inputs.levels]
    deltas = [torch.zeros(2, 12, *m.shape[2:]) for m in inputs.levels]
    logits[level][1, ratio, y, x] = 1
    shift = torch.tensor([0.5, -0.25, math.log(2), math.log(3)])
    deltas[level][1, 4 * ratio : 4 * ratio + 4, y, x] = shift
    rpn.net = FixedOutputs(logits, deltas)
    found = rpn(inputs)
    ((frame, row),) = found["anchor_logits"].nonzero().tolist()
    assert frame == 1
    stride = SPEC.strides[level]
    width, height = 8 * stride / math.sqrt(RATIOS[ratio]), 8 * stride * math.sqrt(RATIOS[ratio])
    half = torch.tensor([width, height]) / 2
    center = stride * torch.tensor([x, y])
    anchor = torch.cat(rpn.anchors(inputs))[row]
    torch.testing.assert_close(anchor, torch.cat((center - half, center + half)))
    assert torch.equal(found["anchor_deltas"][1, row], shift)
    assert int(found["anchor_deltas"].count_nonzero()) == 4
    center, half = center + torch.tensor([0.5 * width, -0.25 * height]), half * torch.tensor([2, 3])
    torch.testing.assert_close(
        found["anchor_boxes"][1, row], torch.cat((center - half, center + half))
    )
    torch.testing.assert_close(found["anchor_boxes"][0], torch.cat(rpn.anchors(inputs)))


def test_every_level_passes_the_same_convolutions():
    rpn, inputs = RPN(SPEC), maps()
    for weight in rpn.parameters():
        nn.init.normal_(weight)
    conv, classify, regress = rpn.net.conv[0][0], rpn.net.cls_logits, rpn.net.bbox_pred
    logits, deltas = [], []
    for level in inputs.levels:
        x = F.relu(F.conv2d(level, conv.weight, conv.bias, padding=1))
        for y, x_ in torch.cartesian_prod(*(torch.arange(side) for side in level.shape[2:])):
            cell = x[:, :, y, x_]
            logits.append(cell @ classify.weight[:, :, 0, 0].T + classify.bias)
            deltas.append((cell @ regress.weight[:, :, 0, 0].T + regress.bias).view(-1, 3, 4))
    found = rpn(inputs)
    torch.testing.assert_close(found["anchor_logits"], torch.cat(logits, dim=1))
    torch.testing.assert_close(found["anchor_deltas"], torch.cat(deltas, dim=1))


def test_outputs_are_float32_under_autocast_and_boxes_need_no_gradient():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = RPN(SPEC)(maps())
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "anchor_logits": torch.float32,
        "anchor_deltas": torch.float32,
        "anchor_boxes": torch.float32,
    }
    assert found["anchor_logits"].requires_grad
    assert found["anchor_deltas"].requires_grad
    assert not found["anchor_boxes"].requires_grad


def test_levels_of_several_widths_are_refused():
    with pytest.raises(ConfigError, match=r"channels, found channels=\(4, 8\)"):
        RPN(FeatureSpec((4, 8), (4, 8)))


def slow_losses(logits, deltas, anchors, targets, samples):
    """Sum over all anchors, one at a time; all are drawn."""
    class_loss = box_loss = 0.0
    for frame, objects in enumerate(targets):
        boxes = objects["boxes"].tolist()
        ious = [[iou(anchor, box) for anchor in anchors] for box in boxes]
        for row, anchor in enumerate(anchors):
            own = [values[row] for values in ious]
            best = max(range(len(boxes)), key=own.__getitem__, default=None)
            is_best = any(v == max(values) for v, values in zip(own, ious, strict=True))
            if best is not None and not is_best and 0.3 <= own[best] < 0.7:
                continue
            logit = logits[frame][row]
            if best is None or (own[best] < 0.3 and not is_best):
                class_loss += math.log(1 + math.exp(logit))
                continue
            class_loss += math.log(1 + math.exp(-logit))
            x, y, w, h = center_and_sides(boxes[best])
            ax, ay, aw, ah = center_and_sides(anchor)
            wanted = [(x - ax) / aw, (y - ay) / ah, math.log(w / aw), math.log(h / ah)]
            box_loss += sum(abs(d - v) for d, v in zip(deltas[frame][row], wanted, strict=True))
    return class_loss / (samples * len(targets)), box_loss / (samples * len(targets))


def iou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def center_and_sides(box):
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def outputs(frames: int) -> tuple[RPN, torch.Tensor, torch.Tensor, torch.Tensor]:
    rpn = RPN(SPEC, Anchors(2.0), batch_size_per_image=1000)  # there are 117 anchors
    anchors = torch.cat(rpn.anchors(maps()))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(frames, len(anchors), generator=generator)
    deltas = torch.randn(frames, len(anchors), 4, generator=generator)
    return rpn, logits.requires_grad_(), deltas.requires_grad_(), anchors


def test_losses_agree_with_a_slow_computation_per_nominal_sample():
    rpn, logits, deltas, anchors = outputs(3)
    objects = [[1.0, 2, 9, 11], [8.5, 7.2, 20, 18], [5.2, 9, 16.9, 10.3]]  # no best anchors tie
    targets = [target(objects), target([]), target(objects[1:2])]
    losses = rpn.losses(logits, deltas, anchors, targets)
    expected = slow_losses(logits.tolist(), deltas.tolist(), anchors.tolist(), targets, 1000)
    torch.testing.assert_close(losses["rpn_class"].item(), expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["rpn_box"].item(), expected[1], rtol=1e-5, atol=0)


def test_without_objects_every_anchor_is_background():
    rpn, logits, deltas, anchors = outputs(2)
    losses = rpn.losses(logits, deltas, anchors, [target([]), target([])])
    assert losses["rpn_box"] == 0
    torch.testing.assert_close(losses["rpn_class"], F.softplus(logits).sum() / 2000)
    sum(losses.values()).backward()
    assert torch.equal(deltas.grad, torch.zeros_like(deltas))
    torch.testing.assert_close(logits.grad, logits.detach().sigmoid() / 2000)


def test_anchors_in_a_crowd_are_not_trained_on():
    rpn, logits, deltas, anchors = outputs(1)
    losses = rpn.losses(logits, deltas, anchors, [target([[0, 0, 24, 8]], [True])])
    losses["rpn_class"].backward()
    is_in_crowd = torch.tensor(
        [
            (min(x2, 24) - max(x1, 0)) * max(min(y2, 8) - max(y1, 0), 0)
            >= 0.5 * (x2 - x1) * (y2 - y1)
            for x1, y1, x2, y2 in anchors.tolist()
        ]
    )
    assert 0 < is_in_crowd.sum() < len(anchors)
    assert torch.equal(logits.grad[0] == 0, is_in_crowd)


def test_half_of_the_samples_are_objects_at_most():
    rpn, logits, deltas, anchors = outputs(1)
    rpn = RPN(SPEC, Anchors(2.0), batch_size_per_image=20)
    losses = rpn.losses(logits, deltas, anchors, [target(anchors[30:50].tolist())])
    losses["rpn_class"].backward()
    assert int((logits.grad < 0).sum()) == int((logits.grad > 0).sum()) == 10


def test_no_frame_has_losses_of_zero_with_gradients():
    rpn, logits, deltas, anchors = outputs(0)
    losses = rpn.losses(logits, deltas, anchors, [])
    assert losses == {"rpn_class": 0, "rpn_box": 0}
    sum(losses.values()).backward()
    assert logits.grad.shape == (0, len(anchors))


def test_each_known_frame_of_the_windows_counts_once_and_a_reference_frame_as_fused():
    rpn, logits, deltas, anchors = outputs(6)
    objects = [target([[1.0, 2, 9, 11]]), target([[8.5, 7.2, 20, 18]]), target([])]
    extras = {"anchor_logits": logits[:4], "anchor_deltas": deltas[:4]}
    frames = EncodedFrames(maps(4), torch.full((4, 2), 20), extras)
    fused = {"anchor_logits": logits[4:], "anchor_deltas": deltas[4:]}
    windows = WindowBatch.of(frames, torch.tensor([[0, 1], [1, 3]]), reference=1)
    windows = windows.fused(EncodedFrames(maps(2), torch.full((2, 2), 20), fused))

    found = rpn.window_losses(windows, [[objects[0], objects[1]], [objects[1], objects[2]]])
    rows = [4, 5, 0]  # frame 1 is a support frame too, but counts as the reference frame
    expected = rpn.losses(logits[rows], deltas[rows], anchors, [objects[1], objects[2], objects[0]])
    torch.testing.assert_close(found, expected)

    found = rpn.window_losses(windows, [[None, objects[1]], [objects[1], None]])
    torch.testing.assert_close(found, rpn.losses(logits[[4]], deltas[[4]], anchors, [objects[1]]))
    assert rpn.window_losses(windows, [[None, None]] * 2) == {"rpn_class": 0, "rpn_box": 0}


def test_proposals_are_linked_from_the_frames_of_each_window_in_its_picture():
    left = torch.tensor([0.0, 20, 40])
    first = torch.stack((left, left * 0, left + 10, left * 0 + 10), dim=1)
    boxes = torch.stack([first + 100 * frame for frame in range(4)])
    logits = torch.tensor([[1.0, 2, 3], [3.0, math.nan, math.inf], [2.0, 3, 1], [1.0, 2, 3]])
    sizes = torch.tensor([[305, 325], [9, 9], [205, 300], [9, 9]])  # the reference frames' count
    maps = FeatureMaps((torch.zeros(4, 8, 1, 1),))  # three anchors
    frames = EncodedFrames(maps, sizes, {"anchor_boxes": boxes, "anchor_logits": logits})
    windows = WindowBatch.of(frames, torch.tensor([[1, 2], [3, 0]]), reference=1)
    places = windows.places

    proposals = RPN(FeatureSpec((8,), (4,))).proposals(places, 1, ProposalLimits(3, 2))

    assert proposals.is_valid.tolist() == [[True, True], [True, True]]
    found = Tubelets.of(proposals)
    assert found[0].scores.tolist() == [3, 2]
    expected = torch.stack((boxes[1, [1, 0]], boxes[2, [1, 0]]))
    expected[1, :, 3] = 205
    assert torch.equal(found[0].boxes, expected)
    assert found[1].scores.tolist() == [2, 1]  # the best leaves the picture in frame 3
    expected = torch.stack((boxes[3, [1, 0]], boxes[0, [1, 0]]))
    expected[0, :, 3] = 305
    expected[0, 0, 2] = 325
    assert torch.equal(found[1].boxes, expected)


def test_more_convolutions():
    """As in the second version of torchvision's detector."""
    rpn, theirs = RPN(SPEC, convs=2), RPNHead(SPEC.channels[0], 3, conv_depth=2)
    rpn.net.load_state_dict(theirs.state_dict())
    logits, _ = theirs(list(maps().levels))
    expected = torch.cat([level.permute(0, 2, 3, 1).flatten(1) for level in logits], dim=1)
    torch.testing.assert_close(rpn(maps())["anchor_logits"], expected)
