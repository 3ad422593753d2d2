from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recipe import REFERENCE
from vodet.encodings import EncodedFrames, FeatureMaps, FeatureSpec, WindowBatch
from vodet.errors import ConfigError
from vodet.heads.centernet import CenterNetHead
from vodet.heads.centernet_targets import center_targets, gaussian_radius
from vodet.structures import Target


class FirstLevel(nn.Module):
    """A neck that hands on the finest level."""

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = FeatureSpec(spec.channels[:1], spec.strides[:1])

    def forward(self, maps: FeatureMaps) -> FeatureMaps:
        return FeatureMaps(maps.levels[:1])


SPEC = FeatureSpec((8, 16), (4, 8))
make_head = partial(CenterNetHead, SPEC, neck=FirstLevel, channels=12)


def target(boxes, labels, iscrowd=None) -> Target:
    count = len(labels)
    return Target(
        boxes=torch.as_tensor(boxes, dtype=torch.float32).view(-1, 4),
        labels=torch.as_tensor(labels, dtype=torch.int64),
        track_ids=torch.full((count,), -1),
        iscrowd=torch.tensor(iscrowd or [False] * count, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(REFERENCE / "centernet.npz") as file:
        return {name: torch.as_tensor(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def reference_targets(reference) -> list[Target]:
    return [target(reference[f"gt_boxes_{i}"], reference[f"gt_labels_{i}"]) for i in range(2)]


@pytest.fixture
def outputs(reference) -> dict[str, Tensor]:
    leaves = {
        "heatmap": reference["pred_heatmap"].logit(),
        "size": reference["pred_wh"],
        "offset": reference["pred_offset"],
    }
    return {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}


def test_targets_agree_with_the_reference(reference, reference_targets):
    truth = center_targets(reference_targets, (3, 16, 24), 4, 0.3)
    expected = reference["target_center_heatmap_target"]
    torch.testing.assert_close(truth.heatmap, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(truth.heatmap == 1, expected == 1)
    assert not truth.ignored.any()
    assert len(truth.cells) == 8  # of nine objects two share a cell
    for name, found in (("wh", truth.sizes), ("offset", truth.offsets)):
        dense = torch.zeros(2, 2, 16 * 24)
        dense[truth.images, :, truth.cells] = found
        torch.testing.assert_close(dense.view(2, 2, 16, 24), reference[f"target_{name}_target"])


def test_losses_and_gradients_agree_with_the_reference(reference, reference_targets, outputs):
    losses = make_head(3).criterion(outputs, reference_targets)
    for name, their_name in (("heatmap", "center_heatmap"), ("size", "wh"), ("offset", "offset")):
        torch.testing.assert_close(losses[name], reference[f"loss_{their_name}"], rtol=1e-5, atol=0)
    sum(losses.values()).backward()
    p = reference["pred_heatmap"]
    to_logits = {"heatmap": p * (1 - p), "size": 1, "offset": 1}  # their leaf is the score
    for name, their_name in (("heatmap", "heatmap"), ("size", "wh"), ("offset", "offset")):
        expected = reference[f"grad_{their_name}"] * to_logits[name]
        atol = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(outputs[name].grad, expected, rtol=1e-5, atol=atol)


def test_decoding_agrees_with_the_reference(reference, outputs):
    for image, found in enumerate(make_head(3, max_detections=20).decode(outputs)):
        expected = reference["decoded_boxes_scores"][image]
        is_peak = expected[:, 4] > 0
        assert len(found["scores"]) == is_peak.sum()
        torch.testing.assert_close(found["boxes"], expected[is_peak, :4], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(found["scores"], expected[is_peak, 4], rtol=1e-5, atol=0)
        assert torch.equal(found["labels"], reference["decoded_labels"][image][is_peak])


def test_radius_agrees_with_the_reference_table():
    with np.load(REFERENCE / "centernet_gaussian_radius.npz") as table:
        sizes = torch.as_tensor(table["hw"]).flip(1)
        for overlap, name in ((0.3, "r03"), (0.7, "r07")):
            expected = torch.as_tensor(table[name]).long()
            assert torch.equal(gaussian_radius(sizes, overlap), expected)


@pytest.mark.parametrize(("radius", "side"), [(1, 10.0), (2, 20.0), (5, 44.0)])
def test_gaussian_agrees_with_the_reference_kernel(radius, side):
    with np.load(REFERENCE / "centernet_gaussian_radius.npz") as table:
        kernel = torch.as_tensor(table[f"kernel_r{radius}"])
    size = torch.tensor([[side, side]])
    overlap = next(o / 100 for o in range(5, 100) if gaussian_radius(size, o / 100) == radius)
    box = torch.tensor([60.0, 60, 60, 60]) + 2 * torch.tensor([-side, -side, side, side])
    heatmap = center_targets([target(box, [0])], (1, 31, 31), 4, overlap).heatmap[0, 0]
    expected = torch.zeros(31, 31)
    expected[15 - radius : 16 + radius, 15 - radius : 16 + radius] = kernel
    torch.testing.assert_close(heatmap, expected, rtol=1e-5, atol=1e-7)


def test_a_centre_on_the_border_belongs_to_the_last_cell():
    truth = center_targets([target([[28.0, 12, 36, 20]], [0])], (1, 4, 8), 4, 0.3)
    assert truth.cells.tolist() == [4 * 8 - 1]
    assert truth.offsets.tolist() == [[1.0, 1.0]]
    assert truth.heatmap[0, 0, 3, 7] == 1


def test_later_object_wins_a_shared_cell_and_both_classes_are_positive():
    boxes = [[8.0, 8, 16, 16], [6.0, 6, 19, 19]]
    truth = center_targets([target(boxes, [0, 1])], (2, 8, 8), 4, 0.3)
    assert truth.sizes.tolist() == [[3.25, 3.25]]
    assert truth.heatmap[0, :, 3, 3].tolist() == [1.0, 1.0]


def test_frames_without_objects_have_finite_losses_and_gradients():
    head = make_head(2)
    losses = head.criterion(head.predict(maps()), [target([], [])] * 2)
    assert losses["size"] == losses["offset"] == 0
    assert losses["heatmap"] > 0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_heatmap_is_not_judged_inside_ignore_regions():
    head = make_head(2)
    objects = target([[0.0, 0, 8, 8], [13.0, 12, 24, 21]], [0, 1], [False, True])
    outputs = {
        name: torch.zeros(1, c, 8, 8)
        for name, c in zip(("heatmap", "size", "offset"), (2, 2, 2), strict=True)
    }
    outputs["heatmap"].requires_grad_()
    losses = head.criterion(outputs, [objects])
    losses["heatmap"].backward()
    judged = outputs["heatmap"].grad[0] != 0
    expected = torch.ones(8, 8, dtype=torch.bool)
    expected[3:6, 3:6] = False  # rows 12 to 21 and columns 13 to 24 in cells of four pixels
    assert torch.equal(judged[0], expected)
    assert torch.equal(judged[1], expected)
    without = head.criterion(outputs, [target([[0.0, 0, 8, 8]], [0])])
    assert losses["size"] == without["size"]


@pytest.mark.parametrize("logit", [-1e4, -90.0, 90.0, 1e4])
def test_loss_of_extreme_scores_is_finite(logit):
    heatmap = torch.full((1, 1, 4, 4), logit, requires_grad=True)
    zeros = torch.zeros(1, 2, 4, 4)
    losses = make_head(1).criterion(
        {"heatmap": heatmap, "size": zeros, "offset": zeros}, [target([[0.0, 0, 9, 9]], [0])]
    )
    losses["heatmap"].backward()
    assert losses["heatmap"].isfinite()
    assert heatmap.grad.isfinite().all()


def maps() -> FeatureMaps:
    generator = torch.Generator().manual_seed(0)
    return FeatureMaps(
        (
            torch.randn(2, 8, 8, 6, generator=generator),
            torch.randn(2, 16, 4, 3, generator=generator),
        )
    )


def test_reference_frames_that_are_not_annotated_give_no_loss():
    head = make_head(2)
    windows = WindowBatch.of_clips(EncodedFrames(maps(), torch.full((2, 2), 24), {}), 1, 0)
    objects = target([[0.0, 0, 8, 8]], [1])
    found, state = head.losses(windows, [[None], [objects]], {})
    alone = head.criterion(head.predict(maps()[1:]), [objects])
    torch.testing.assert_close(found, alone)
    assert state == {}
    nothing, _ = head.losses(windows, [[None], [None]], {})
    assert nothing == {"heatmap": 0, "size": 0, "offset": 0}
    sum(nothing.values()).backward()
    assert all(not p.grad.any() for p in head.parameters())


def test_outputs_have_the_shapes_and_the_initial_score_promised():
    outputs = make_head(5).predict(maps())
    assert {name: tuple(p.shape) for name, p in outputs.items()} == {
        "heatmap": (2, 5, 8, 6),
        "size": (2, 2, 8, 6),
        "offset": (2, 2, 8, 6),
    }
    head = make_head(5)
    nn.init.zeros_(head.heatmap.out.weight)
    torch.testing.assert_close(
        head.predict(maps())["heatmap"].sigmoid(), torch.full((2, 5, 8, 6), 0.1)
    )


def test_outputs_are_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = make_head(3).predict(maps())
    assert {p.dtype for p in outputs.values()} == {torch.float32}


def test_decoded_targets_are_the_objects():
    boxes = torch.tensor([[4.0, 6, 21, 17], [30.0, 8, 45, 29]])
    truth = center_targets([target(boxes, [1, 0])], (2, 16, 16), 4, 0.3)
    dense = {name: torch.zeros(1, 2, 256) for name in ("size", "offset")}
    dense["size"][truth.images, :, truth.cells] = truth.sizes
    dense["offset"][truth.images, :, truth.cells] = truth.offsets
    outputs = {name: value.view(1, 2, 16, 16) for name, value in dense.items()}
    outputs["heatmap"] = truth.heatmap.logit(eps=1e-6)
    (found,) = make_head(2, max_detections=2).decode(outputs)
    order = found["labels"].argsort(descending=True)
    torch.testing.assert_close(found["boxes"][order], boxes)
    assert found["labels"].dtype == torch.int64


def test_no_more_detections_than_cells_or_than_asked_for():
    head = make_head(2, max_detections=7)
    assert all(len(found["scores"]) <= 7 for found in head.decode(head.predict(maps())))
    head = make_head(2, max_detections=10_000)
    for found in head.decode(head.predict(maps())):
        assert len(found["scores"]) > 0
        assert (found["scores"].diff() <= 0).all()


def test_a_neck_of_several_levels_is_refused():
    class NoNeck(FirstLevel):
        def __init__(self, spec: FeatureSpec) -> None:
            super().__init__(spec)
            self.spec = spec

    with pytest.raises(ConfigError, match=r"NoNeck .* strides \(4, 8\)"):
        CenterNetHead(SPEC, 3, neck=NoNeck)
