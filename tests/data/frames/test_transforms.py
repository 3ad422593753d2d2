from __future__ import annotations

import albumentations
import numpy as np
import pytest
import torch

from vodet.data.clips.sampling import ClipDraw, clip_generator
from vodet.data.frames.transforms import ClipTransform, Expand, IouCrop
from vodet.errors import ConfigError, FrameError
from vodet.structures import Target

SIZE = (48, 64)
RED, GREEN = (230, 20, 20), (20, 230, 20)


def target(boxes, labels=None, track_ids=None, iscrowd=None):
    count = len(boxes)
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(count, 4),
        labels=torch.tensor(labels if labels is not None else [0] * count, dtype=torch.int64),
        track_ids=torch.tensor(
            track_ids if track_ids is not None else range(count), dtype=torch.int64
        ),
        iscrowd=torch.tensor(iscrowd if iscrowd is not None else [False] * count, dtype=torch.bool),
    )


def picture(boxes):
    frame = np.full((*SIZE, 3), 20, np.uint8)
    for (left, top, right, bottom), color in zip(boxes, (RED, GREEN), strict=True):
        frame[top:bottom, left:right] = color
    return frame


def box_of(frame, channel):
    """Bounding box of the pixels that are strong in one channel alone."""
    others = np.delete(frame, channel, axis=2).max(axis=2)
    rows, columns = np.nonzero((frame[..., channel] > 125) & (others < 100))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.fixture
def clip():
    boxes = [[(4 + 5 * t, 6, 20 + 5 * t, 20), (40 - 3 * t, 24, 60 - 3 * t, 44)] for t in range(3)]
    frames = [picture(pair) for pair in boxes]
    targets = [target(pair, labels=[0, 1], track_ids=[5, 8]) for pair in boxes]
    return frames, targets


SPATIAL = {
    "nothing": [],
    "photometric only": [albumentations.RandomBrightnessContrast(p=1)],
    "flip": [albumentations.HorizontalFlip(p=1)],
    "resize": [albumentations.SmallestMaxSize(max_size=[36, 60, 96], p=1)],
    "expand": [Expand(max_ratio=2, p=1)],
    "crop": [IouCrop(min_ious=[0.0], p=1)],
    "bounded crop": [IouCrop(min_ious=[0.02, 0.05], p=1)],
    "safe crop": [albumentations.RandomSizedBBoxSafeCrop(64, 80, p=1)],
    "all": [
        albumentations.LongestMaxSize(max_size=[100, 120, 140], p=1),
        Expand(max_ratio=1.5, p=0.5),
        IouCrop(min_ious=[0.0, 1.0], min_size=0.6, p=1),
        albumentations.HorizontalFlip(p=0.5),
    ],
}


@pytest.mark.parametrize("name", SPATIAL)
def test_boxes_stay_on_their_pixels(clip, name):
    frames, targets = clip
    transform = ClipTransform(SPATIAL[name], min_visible=0.1)
    left = 0
    for draw in range(12):
        images, transformed = transform(frames, targets, clip_generator(0, ClipDraw(draw, 0)))
        for image, after, before in zip(images, transformed, targets, strict=True):
            for box, label, track in zip(
                after["boxes"], after["labels"], after["track_ids"], strict=True
            ):
                assert np.abs(box.numpy() - box_of(image, int(label))).max() <= 1.5
                assert track == before["track_ids"][label]
                left += 1
    assert left > 12


@pytest.mark.parametrize("name", SPATIAL)
def test_one_draw_for_all_frames(clip, name):
    frames, targets = clip
    still = [frames[0]] * 3
    transform = ClipTransform(SPATIAL[name])

    for draw in range(5):
        images, transformed = transform(
            still, [targets[0]] * 3, clip_generator(0, ClipDraw(draw, 0))
        )
        for image, other in zip(images, transformed, strict=True):
            assert np.array_equal(image, images[0])
            assert torch.equal(other["boxes"], transformed[0]["boxes"])


def test_the_generator_alone_decides_the_draw(clip):
    frames, targets = clip
    transforms = [*SPATIAL["all"], albumentations.ColorJitter(p=0.5)]
    first, second = ClipTransform(transforms), ClipTransform(transforms)
    alone = [first(frames, targets, clip_generator(0, ClipDraw(0, n)))[0][1] for n in range(6)]

    backwards = [
        second(frames, targets, clip_generator(0, ClipDraw(0, n)))[0][1] for n in reversed(range(6))
    ]

    for image, again in zip(alone, reversed(backwards), strict=True):
        assert np.array_equal(image, again)
    assert len({image.tobytes() for image in alone}) > 3


def test_transforms_draw_independently(clip):
    """With one seed for each, two transforms of the same p would always go together."""
    frames, targets = clip
    transform = ClipTransform([albumentations.HorizontalFlip(), albumentations.VerticalFlip()])
    results = {
        transform(frames, targets, clip_generator(0, ClipDraw(0, n)))[0][1].tobytes()
        for n in range(40)
    }

    assert len(results) == 4


@pytest.mark.parametrize(("min_visible", "kept"), [(0.0, [0, 1]), (0.49, [0, 1]), (0.51, [1])])
def test_boxes_that_leave_are_clipped_and_dropped_below_the_visible_share(min_visible, kept):
    crop = albumentations.Crop(x_min=20, y_min=0, x_max=64, y_max=48, p=1)
    boxes = [(10, 4, 30, 14), (30, 20, 50, 40), (0, 30, 10, 40)]  # half in, in, out
    before = target(boxes, labels=[3, 4, 5], track_ids=[-1, 7, 9], iscrowd=[True, False, False])
    transform = ClipTransform([crop], min_visible=min_visible)

    _, (after,) = transform(
        [np.zeros((*SIZE, 3), np.uint8)], [before], clip_generator(0, ClipDraw(0, 0))
    )

    expected = torch.tensor([[0.0, 4, 10, 14], [10, 20, 30, 40]])[kept]
    torch.testing.assert_close(after["boxes"], expected, atol=1e-4, rtol=0)
    assert after["labels"].tolist() == [[3, 4][row] for row in kept]
    assert after["track_ids"].tolist() == [[-1, 7][row] for row in kept]
    assert after["iscrowd"].tolist() == [[True, False][row] for row in kept]


def test_frames_without_boxes(clip):
    frames, targets = clip
    transform = ClipTransform(SPATIAL["all"])
    empty = target([])

    for given in ([empty] * 3, targets, [targets[0], empty, targets[2]]):
        _, transformed = transform(frames, given, clip_generator(0, ClipDraw(0, 1)))
        for before, after in zip(given, transformed, strict=True):
            assert after["boxes"].shape == (len(after["labels"]), 4)
            assert len(after["boxes"]) <= len(before["boxes"])
            assert {key: value.dtype for key, value in after.items()} == {
                key: value.dtype for key, value in before.items()
            }


def test_expand_pastes_on_a_larger_canvas():
    frame = np.full((*SIZE, 3), 90, np.uint8)
    transform = ClipTransform([Expand(max_ratio=3, fill=7, p=1)])
    areas = []
    for draw in range(30):
        (image,), _ = transform([frame], [target([])], clip_generator(0, ClipDraw(0, draw)))
        areas.append(image.shape[0] * image.shape[1] / frame[..., 0].size)
        assert (image == 90).sum() == frame.size
        assert set(np.unique(image)) <= {7, 90}
    assert 1 <= min(areas) < 3
    assert 5 < max(areas) <= 9


def test_iou_crop_keeps_its_promises(clip):
    frames, targets = clip
    boxes = torch.cat([t["boxes"] for t in targets])
    transform = ClipTransform([IouCrop(min_ious=[0.05], min_size=0.3, p=1)], min_visible=0.0)
    sizes = set()
    for draw in range(40):
        images, _ = transform(frames, targets, clip_generator(0, ClipDraw(0, draw)))
        height, width = images[0].shape[:2]
        sizes.add((height, width))
        assert height >= 0.3 * SIZE[0] - 1
        assert width >= 0.3 * SIZE[1] - 1
        assert (height, width) == SIZE or max(height, width) <= 2 * min(height, width)
        # A crop of this size, wherever it is, cannot have a larger IoU with a box.
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        assert (areas / (height * width)).min() >= 0.05
    assert len(sizes) > 5


@pytest.mark.parametrize("boxes", [[], [(0, 0, 4, 4), (60, 44, 64, 48)]])
def test_iou_crop_leaves_the_picture_whole_where_no_crop_is_good(boxes):
    frame = np.zeros((*SIZE, 3), np.uint8)
    transform = ClipTransform([IouCrop(min_ious=[0.5], p=1)])

    images, _ = transform([frame], [target(boxes)], clip_generator(0, ClipDraw(0, 0)))

    assert images[0].shape == (*SIZE, 3)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ClipTransform(min_visible=1.5), "data.min_visible .*0 to 1; found 1.5"),
        (lambda: Expand(max_ratio=0.5), "max_ratio >= 1, found 0.5"),
        (lambda: IouCrop(min_ious=[]), r"min_ious=\[\]"),
        (lambda: IouCrop(min_size=0.0), "0 < min_size <= 1"),
    ],
)
def test_impossible_settings(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


def test_frames_of_a_clip_must_have_one_size():
    frames = [np.zeros((4, 5, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)]
    with pytest.raises(FrameError, match=r"same size, found \[\(4, 5, 3\), \(4, 6, 3\)\]"):
        ClipTransform()(frames, [target([])] * 2, clip_generator(0, ClipDraw(0, 0)))
