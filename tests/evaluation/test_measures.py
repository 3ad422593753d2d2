from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from metrics.tracked import found, moving_objects, noisy_detections, one_video
from vodet.errors import ConfigError
from vodet.evaluation.measures import Measures, link_tubelets
from vodet.inference.streams import RescoringStream
from vodet.inference.tubelet_linking import LINKINGS, link_video
from vodet.metrics.detection_table import DetectionTable
from vodet.metrics.protocols import HEADLINES
from vodet.metrics.vid import vid_average_precision
from vodet.structures import Detections, FrameDetections, GroundTruth

BOX = [0.0, 0.0, 10.0, 10.0]


def test_only_neighbouring_frames_of_a_video_are_linked() -> None:
    # In time: frames 0 and 2 of one video, then 1 and 3 of another; image 104 is never answered.
    truth = replace(
        one_video([[]] * 5),
        videos=np.array([0, 1, 0, 1, 1]),
        frame_numbers=np.array([0, 0, 5, 7, 8], np.int32),
    )
    predictions = found([(frame, BOX, score) for frame, score in enumerate([0.2, 0.3, 0.4, 0.9])])
    linked = link_tubelets(truth, predictions, "seq_nms")
    assert linked.image_ids.tolist() == [100, 101, 102, 103]
    assert linked.scores == pytest.approx([0.3, 0.6, 0.3, 0.6])
    rescored = link_tubelets(truth, predictions, "rescore")
    assert rescored.image_ids.tolist() == [100, 101, 102, 103]
    assert rescored.scores == pytest.approx([0.25, 0.45, 0.35, 0.75])
    online = link_tubelets(truth, predictions, "rescore_online")
    assert online.scores == pytest.approx([0.2, 0.3, 0.35, 0.75])


def test_the_best_of_a_frame_comes_first() -> None:
    away = [50.0, 50.0, 60.0, 60.0]
    linked = link_tubelets(
        one_video([[], []]), found([(0, BOX, 0.1), (0, away, 0.3), (1, BOX, 0.9)]), "seq_nms"
    )
    assert linked.boxes[:, 0].tolist() == [0, 50, 0]
    assert linked.scores == pytest.approx([0.5, 0.3, 0.5])


@pytest.mark.parametrize("linking", LINKINGS)
def test_order_of_detections_does_not_matter(linking: str) -> None:
    rng = np.random.default_rng(0)
    truth = moving_objects(rng)
    predictions = noisy_detections(rng, truth)
    predictions.scores[:] = (rng.permutation(len(predictions)) + 1) / len(predictions)
    results = [
        vid_average_precision(truth, link_tubelets(truth, rows, linking))
        for rows in (predictions, predictions[rng.permutation(len(predictions))])
    ]
    assert results[0] == pytest.approx(results[1], nan_ok=True)
    assert results[0] != pytest.approx(vid_average_precision(truth, predictions), nan_ok=True)


@pytest.mark.parametrize("linking", LINKINGS)
def test_no_detections(linking: str) -> None:
    assert len(link_tubelets(one_video([[], []]), found([]), linking)) == 0
    assert len(link_tubelets(one_video([]), found([]), linking)) == 0


@pytest.mark.parametrize("linking", LINKINGS)
def test_videos_of_a_data_set_are_linked_as_videos_by_themselves(linking: str) -> None:
    rng = np.random.default_rng(1)
    truth = moving_objects(rng)
    predictions = noisy_detections(rng, truth)
    linked = link_tubelets(truth, predictions, linking)
    assert not np.array_equal(np.sort(linked.scores), np.sort(predictions.scores))
    for video in range(8):
        frames = np.flatnonzero(truth.videos == video)  # in order
        image_ids = truth.image_ids[frames].tolist()
        alone = link_video(detections_of(predictions, image_ids), linking)
        expected = detections_of(linked, image_ids)
        for a, b in zip(alone, expected, strict=True):
            assert all(torch.equal(a[key], b[key]) for key in ("boxes", "scores", "labels"))


@pytest.mark.parametrize("chunk", [1, 4])
def test_rescoring_online_is_rescoring_frame_by_frame(chunk: int) -> None:
    rng = np.random.default_rng(2)
    truth = moving_objects(rng, videos=2)
    predictions = noisy_detections(rng, truth)
    linked = link_tubelets(truth, predictions, "rescore_online")
    stream = RescoringStream(FoundBefore(truth, predictions))  # one for all videos
    for video in range(2):
        frames = np.flatnonzero(truth.videos == video)
        results = [
            result
            for part in np.split(frames, range(chunk, len(frames), chunk))
            for result in stream.push(part)
        ]
        results += stream.flush()
        assert [result.frame_index for result in results] == list(range(len(frames)))
        expected = detections_of(linked, truth.image_ids[frames].tolist())
        for result, frame in zip(results, expected, strict=True):
            torch.testing.assert_close(dict(result.detections), dict(frame), rtol=1e-6, atol=0)


@pytest.mark.parametrize("linking", ["none", "seq_nms"])
def test_names_are_known_before_anything_is_evaluated(linking: str) -> None:
    rng = np.random.default_rng(3)
    truth = moving_objects(rng, videos=2, attributes={"night": [1]})
    measures = Measures(tuple(HEADLINES), linking)
    names = measures.names(truth)
    assert names == list(measures(truth, noisy_detections(rng, truth)))
    assert {"map", "vid/ap_50@night"} <= set(names)
    assert ("seq_nms/vid/ap_50@night" in names) == (linking == "seq_nms")


def test_choices_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match=r"one or more of coco, vid, .*found \['voc'\]"):
        Measures("voc")
    with pytest.raises(ConfigError, match=r"tubelet_linking must be one of none, seq_nms, "):
        Measures(tubelet_linking="nms")


def detections_of(predictions: DetectionTable, image_ids: list[int]) -> list[Detections]:
    """The detections of frames, one by one."""
    rows = [predictions[predictions.image_ids == image_id] for image_id in image_ids]
    return [
        Detections(
            boxes=torch.from_numpy(row.boxes),
            scores=torch.from_numpy(row.scores),
            labels=torch.from_numpy(row.labels),
        )
        for row in rows
    ]


class FoundBefore:
    """Answers a frame, given by its number in the data set, one frame late."""

    def __init__(self, truth: GroundTruth, predictions: DetectionTable) -> None:
        self.found = detections_of(predictions, truth.image_ids.tolist())
        self.waiting: list[FrameDetections] = []
        self.arrived = 0

    def push(self, frames: np.ndarray, /) -> list[FrameDetections]:
        for frame in frames.tolist():
            self.waiting.append(FrameDetections(self.arrived, self.found[frame]))
            self.arrived += 1
        known, self.waiting = self.waiting[:-1], self.waiting[-1:]
        return known

    def flush(self) -> list[FrameDetections]:
        known, self.waiting, self.arrived = self.waiting, [], 0
        return known
