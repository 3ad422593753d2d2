from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.video_columns import crowded_video
from vodet.errors import ConfigError
from vodet.inference.tubelet_linking import LINKINGS, check_linking, link_video
from vodet.structures import Detections


@pytest.mark.parametrize("linking", LINKINGS)
def test_a_video_is_linked_as_its_columns_are(linking: str) -> None:
    frames, boxes, scores, labels = crowded_video(np.random.default_rng(0))
    rows_of_frames = [np.flatnonzero(frames == frame) for frame in range(42)]
    detections = [
        Detections(
            boxes=torch.from_numpy(boxes[rows]),
            scores=torch.from_numpy(scores[rows]),
            labels=torch.from_numpy(labels[rows]),
        )
        for rows in rows_of_frames
    ]
    kept, new_scores = LINKINGS[linking](frames, boxes, scores, labels)
    linked = link_video(detections, linking)
    assert len(linked) == 42
    for rows, found in zip(rows_of_frames, linked, strict=True):
        expected = {
            (*boxes[row].tolist(), int(labels[row])): new_scores[kept == row].item()
            for row in rows
            if row in kept
        }
        keys = [
            (*box, label)
            for box, label in zip(found["boxes"].tolist(), found["labels"].tolist(), strict=True)
        ]
        assert dict(zip(keys, found["scores"].tolist(), strict=True)) == pytest.approx(expected)
        assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
    assert any(
        not torch.equal(a["scores"], b["scores"]) for a, b in zip(linked, detections, strict=True)
    )


@pytest.mark.parametrize("linking", LINKINGS)
def test_videos_without_detections(linking: str) -> None:
    none = Detections(
        boxes=torch.empty(0, 4), scores=torch.empty(0), labels=torch.empty(0, dtype=torch.int64)
    )
    assert link_video([], linking) == []
    assert [found["boxes"].shape for found in link_video([none, none], linking)] == [(0, 4)] * 2


def test_names_are_checked() -> None:
    for name in ("none", "seq_nms", "rescore", "rescore_online"):
        check_linking(name)
    with pytest.raises(ConfigError, match="one of none, seq_nms, rescore, rescore_online; found"):
        check_linking("seq")
