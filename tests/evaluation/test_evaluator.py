from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from torch import distributed, multiprocessing
from torch.utils.data import DataLoader, DistributedSampler

from evaluation.found import chunks_of, data_of, detector, found_in, write_found
from vodet.augmented_stream import AugmentedStream
from vodet.data.annotations.source import Source
from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.clips.video_chunks import VideoChunkDataset
from vodet.data.generated.scenes import CLASS_NAMES
from vodet.errors import ConfigError, DataError
from vodet.evaluation.evaluator import Evaluator
from vodet.evaluation.measures import Measures
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.detection_table import DetectionTable
from vodet.streaming import StreamingDetector
from vodet.structures import FrameDetections, GroundTruth, VideoChunk


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_found(tmp_path_factory.mktemp("evaluation") / "set")


def loader_of(items: Iterable[int], dataset: VideoChunkDataset) -> DataLoader[VideoChunk]:
    return DataLoader(dataset, sampler=list(items), batch_size=None)


def test_numbers_are_those_of_the_streamed_detections(source: Source) -> None:
    found = found_in(chunks_of(source))
    truth = read_st_coco(source.annotations).ground_truth()
    expected = coco_average_precision(
        truth, DetectionTable.of_frames(list(found), list(found.values())).by_image()
    )
    evaluator = Evaluator(detector(), data_of(source))
    result = evaluator.run()
    assert 0 < result["map"] < 1
    assert result == pytest.approx(expected, nan_ok=True, abs=1e-6)
    assert evaluator.run() == pytest.approx(result, nan_ok=True, abs=0)


def test_chunks_of_any_size_and_loaders_of_ones_own_give_the_same(source: Source) -> None:
    expected = Evaluator(detector(), data_of(source)).run()
    for size in (1, 8):
        dataset = chunks_of(source, chunk_size=size)
        result = Evaluator(detector(), DataLoader(dataset, batch_size=None)).run()
        assert result == pytest.approx(expected, nan_ok=True, abs=1e-6)


def test_measures_what_it_is_told(source: Source) -> None:
    measures = Measures(["vid", "coco"], tubelet_linking="rescore")
    result = Evaluator(detector(), data_of(source), measures).run()
    assert {"vid/ap_50", "map", "rescore/vid/ap_50", "rescore/map"} <= set(result)
    assert list(result) == measures.names(chunks_of(source).ground_truth)
    assert result["rescore/map"] != result["map"]

    def number(truth: GroundTruth, predictions: DetectionTable) -> dict[str, float]:
        return {
            "frames": float(len(truth.image_ids)),
            "found": float(len(predictions)),
            "best": float(predictions.scores.max()),
        }

    plain = Evaluator(detector(), data_of(source), number).run()
    assert plain["frames"] == 10
    stream = partial(AugmentedStream, flip=True)
    both_views = Evaluator(detector(), data_of(source), number, stream=stream).run()
    assert both_views["found"] >= plain["found"] > 0
    assert both_views["best"] != plain["best"]


def test_the_detector_is_evaluated_in_evaluation_mode_and_keeps_its_own(source: Source) -> None:
    expected = Evaluator(detector(), data_of(source)).run()
    learning = detector().train()
    learning.pyramid.eval()
    modes = [module.training for module in learning.modules()]
    assert Evaluator(learning, data_of(source)).run() == pytest.approx(expected, nan_ok=True, abs=0)
    assert [module.training for module in learning.modules()] == modes


def test_classes_are_matched_by_name(source: Source) -> None:
    names = ("another", *CLASS_NAMES[::-1])
    evaluator = Evaluator(detector(names), data_of(source, class_names=None))
    assert evaluator.ground_truth.class_names == names
    truth = chunks_of(source).ground_truth
    assert np.array_equal(evaluator.ground_truth.labels, 6 - truth.labels)
    with pytest.raises(ConfigError, match=r"val.json has classes that the detector lacks: striped"):
        Evaluator(detector(CLASS_NAMES[1:]), data_of(source, class_names=None))


def test_loaders_that_cannot_be_evaluated(source: Source) -> None:
    with pytest.raises(ConfigError, match=r"whose data set has a ground_truth.*DataLoader of list"):
        Evaluator(detector(), DataLoader([1, 2]))
    dataset = chunks_of(source)
    sampler = DistributedSampler(dataset, num_replicas=2, rank=0, shuffle=False)
    with pytest.raises(ConfigError, match=r"use_distributed_sampler=False.*use WholeVideoSampler"):
        Evaluator(detector(), DataLoader(dataset, sampler=sampler, batch_size=None))


def test_a_frame_that_was_not_processed_is_an_error(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = chunks_of(source, chunk_size=2)
    evaluator = Evaluator(detector(), loader_of([0, 1, 2], dataset))
    missing = dataset.ground_truth.image_ids
    # Of the third chunk one frame still waits for the next.
    message = f"all 10 annotated frames .* found 5 .* image id {missing[5]} in video 'val_001'"
    with pytest.raises(DataError, match=message):
        evaluator.run()
    with caplog.at_level(logging.WARNING):
        result = evaluator.compute(only_processed=True)
    (record,) = caplog.records
    assert "5 of 10 annotated frames" in record.getMessage()
    assert 0 < result["map"] < 1


def test_a_frame_that_was_processed_twice_is_an_error(source: Source) -> None:
    dataset = chunks_of(source, chunk_size=4)
    first = dataset.ground_truth.image_ids[4]
    with pytest.raises(DataError, match=f"found 4 frames .* image id {first}"):
        Evaluator(detector(), loader_of([0, 1, 1, 2], dataset)).run()


@pytest.mark.parametrize("order", [[1, 0], [0, 3], [0, 0, 1, 1], [2, 0, 1]])
def test_chunks_come_in_order(order: list[int], source: Source) -> None:
    dataset = chunks_of(source, chunk_size=2)
    evaluator = Evaluator(detector(), loader_of(order, dataset))
    with pytest.raises(DataError):
        evaluator.run()


def test_chunks_out_of_order_are_named(source: Source) -> None:
    dataset = chunks_of(source, chunk_size=2)
    with pytest.raises(DataError, match=r"found video 'val_001' frame 2 .* after video 'val_000' "):
        Evaluator(detector(), loader_of([0, 3], dataset)).run()
    with pytest.raises(DataError, match=r"found .* at the start\. Do not shuffle"):
        Evaluator(detector(), loader_of([1, 0], dataset)).run()


def test_objects_of_a_skipped_frame_are_missed(source: Source, tmp_path: Path) -> None:
    images = Path(source.images)
    moved = images / "images/val/val_001/000002.jpg"
    expected = Evaluator(detector(), data_of(source)).run()
    content = moved.read_bytes()
    moved.write_bytes(content[:-50])
    try:
        result = Evaluator(detector(), data_of(source, on_bad_frame="skip")).run()
    finally:
        moved.write_bytes(content)
    assert 0 < result["mar_100"] < expected["mar_100"]


def test_data_without_objects_say_so_once(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document = json.loads(Path(source.annotations).read_text()) | {"annotations": []}
    empty = replace(source, annotations=str(tmp_path / "empty.json"))
    Path(empty.annotations).write_text(json.dumps(document))
    with caplog.at_level(logging.WARNING):
        evaluator = Evaluator(detector(), data_of(empty))
        results = [evaluator.run(), evaluator.run()]
    (record,) = caplog.records  # one warning for both evaluations
    assert f"{empty.annotations} has no objects" in record.getMessage()
    assert all(math.isnan(result["map"]) for result in results)


class Damaged(StreamingDetector):
    """Detects boxes that are not finite."""

    def flush(self) -> list[FrameDetections]:
        results = super().flush()
        for result in results:
            result.detections["boxes"] = result.detections["boxes"] * math.nan
        return results


def test_detections_that_are_not_finite(source: Source) -> None:
    with pytest.raises(DataError, match=r"found \d+ of \d+ detections .* image id \d+"):
        Evaluator(detector(), data_of(source, chunk_size=8), stream=Damaged).run()


def evaluate_share(rank: int, world_size: int, source: Source, folder: Path) -> None:
    """Evaluate on one of several processes, with running statistics that differ."""
    loader = data_of(source).val_dataloader()  # knows nothing yet of other processes
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
    )
    own = detector()
    for name, buffer in own.named_buffers():
        if "running_mean" in name:
            buffer += rank
    evaluator = Evaluator(own, loader)
    result = evaluator.run()
    if rank == 0:
        evaluator.update(loader.dataset[0])
        evaluator.update(loader.dataset[1])
    with pytest.raises(DataError, match="found 4 frames processed more than once"):
        evaluator.compute()
    (folder / f"{rank}.json").write_text(json.dumps(result))
    distributed.destroy_process_group()


def test_any_number_of_processes_gives_identical_numbers(source: Source, tmp_path: Path) -> None:
    get_context("forkserver").set_forkserver_preload(["vodet.evaluation.evaluator"])  # torch once
    results = [json.dumps(Evaluator(detector(), data_of(source)).run())]
    for world_size in (2, 4):
        folder = tmp_path / str(world_size)
        folder.mkdir()
        multiprocessing.start_processes(
            evaluate_share,
            (world_size, source, folder),
            nprocs=world_size,
            start_method="forkserver",
        )
        results += [(folder / f"{rank}.json").read_text() for rank in range(world_size)]
    assert 0 < json.loads(results[0])["map"] < 1
    assert len(results) == 7
    assert len(set(results)) == 1
