"""Measures the speed of streaming detectors and of their backbone alone, and the time per stage.

    python scripts/benchmarks/stream.py --backbone hrnet_w32 --size 320 576
    python scripts/benchmarks/stream.py --detector two-stage --backbone resnet50 --proposals 300
    python scripts/benchmarks/stream.py --detector one-stage --backbone resnet50
    python scripts/benchmarks/stream.py --detector detr --size 640 640

In each round, all rows process the same random frames, one row after the other. The table shows
medians over the rounds; ratios are computed within each round. Latency is the time of one push. The
last columns show the share of each stage in the time of a frame, from a separate measurement.
Weights are random.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median, quantiles
from typing import Any, cast

import hydra
import numpy as np
import torch
from hydra.utils import instantiate
from rich.console import Console
from rich.table import Table
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from vodet import StreamingDetector, TimmBackbone, VideoDetector
from vodet.cli.app import config_dir
from vodet.structures import ClipBatch, ClipLayout, FrameInfo

CLASSES = [f"class {number}" for number in range(8)]
STAGES = ("encode", "map fusion", "head", "decode and rest")
Run = Callable[[np.ndarray, bool], Any]  # takes frames [n, H, W, 3] and whether they are the last
_LONG_TERM = [
    "model/head/fusion=long_term",
    "model.head.fusion.attention.key_frame_interval=1",  # fills the memory after five frames
]
_ONE_STAGE = [
    "model/fusion=none",
    "model/pyramid=pafpn",
    "model/head=one_stage",
    "model.backbone.strides=[8,16,32]",
]
_DETR = [
    "model/fusion=none",
    "model/backbone=none",
    "model/pyramid=identity",
    "model/head=detr",
    "+model.head.config.model_type=rt_detr_v2",  # RT-DETRv2 with ResNet-50
]
_TWO_STAGE = ["model/fusion=none", "model/pyramid=fpn", "model/head=two_stage"]
# Overrides of each row of the tables. The other rows are compared with the first row.
TABLES = {
    "centernet": {
        "CenterNet": ["window=single", "model/fusion=none", "model/head=centernet"],
        "CenterNet + STF": ["model/fusion=stf", "model/head=centernet"],
    },
    "two-stage": {
        "Faster R-CNN": ["window=single", *_TWO_STAGE],
        "SLTnet": ["window=symmetric", *_TWO_STAGE, *_LONG_TERM, "model/head/fusion=sltnet"],
    },
    "one-stage": {
        "one-stage": ["window=single", *_ONE_STAGE],
        "YOLOV": ["window=symmetric", *_ONE_STAGE, "model/head/fusion=yolov"],
        "YOLOV++": [
            "window=symmetric",
            *_ONE_STAGE,
            "model/head/fusion=yolov_pp",
            "model.head.num_candidates=100",
            "model.head.candidate_nms_iou=null",
        ],
        "long-term attention": ["window=single", *_ONE_STAGE, *_LONG_TERM],
    },
    "detr": {
        "RT-DETRv2": ["window=single", *_DETR],
        "query attention": ["window=symmetric", *_DETR, "model/head/fusion=query_attention"],
        "long-term attention": ["window=single", *_DETR, *_LONG_TERM],
    },
}


def build(overrides: list[str], options: argparse.Namespace) -> VideoDetector:
    """Build a detector from the configs, with random weights."""
    torch.manual_seed(0)
    common = [
        f"window={options.window}",
        f"model/backbone={options.backbone}",
        f"model/pyramid={options.pyramid}",
        f"data.resize.short_side={min(options.size)}",
        f"data.resize.long_side={max(options.size)}",
    ]
    if options.detector == "two-stage":
        common += [f"model.head.test_limits.post_nms_top_n={options.proposals}"]
    chosen = dict(override.split("=", 1) for override in (*common, *overrides))
    config = hydra.compose("train", [f"{key}={value}" for key, value in chosen.items()])
    detector: VideoDetector = instantiate(config.model, class_names=CLASSES)
    return detector.to(options.device).eval()


def stream_run(detector: VideoDetector) -> Run:
    """Return a new stream, which also processes the remaining frames after the last push."""
    stream = StreamingDetector(detector)

    def run(frames: np.ndarray, is_last: bool) -> Any:
        results = stream.push(frames)
        return results + stream.flush() if is_last else results

    return run


def backbone_run(detector: VideoDetector) -> Run:
    """Return the timm model alone, without normalisation."""
    net = cast("TimmBackbone", detector.backbone).net

    @torch.inference_mode()
    def run(frames: np.ndarray, is_last: bool) -> Any:
        del is_last
        images = torch.from_numpy(frames).permute(0, 3, 1, 2).to(detector.device)
        return net(images.contiguous() / 255)

    return run


def clip_run(detector: VideoDetector) -> Run:
    """Return a detector that gets every frame as a clip, so it encodes the window of each frame."""
    length = len(detector.window.offsets)
    layout = ClipLayout.of_window(length, detector.window.reference)

    @torch.inference_mode()
    def run(frames: np.ndarray, is_last: bool) -> Any:
        del is_last
        size = frames.shape[1:3]
        images = torch.from_numpy(frames).permute(0, 3, 1, 2).to(detector.device)
        info = FrameInfo("video", 0, 0, size, size)
        clips = images.unsqueeze(1).expand(-1, length, -1, -1, -1)
        infos = ((info,) * length,) * len(frames)
        return detector(ClipBatch(clips, infos, (), layout))

    return run


def torchvision_run(options: argparse.Namespace) -> Run:
    """Return torchvision's Faster R-CNN with the same number of proposals and random weights."""
    torch.manual_seed(0)
    net = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=len(CLASSES) + 1,
        min_size=min(options.size),
        max_size=max(options.size),
        rpn_pre_nms_top_n_test=1000,
        rpn_post_nms_top_n_test=options.proposals,
    )
    net = net.to(options.device).eval()

    @torch.inference_mode()
    def run(frames: np.ndarray, is_last: bool) -> Any:
        del is_last
        images = torch.from_numpy(frames).permute(0, 3, 1, 2).to(options.device)
        return net(list(images / 255))

    return run


def wait_for(device: str) -> None:
    """Wait until a GPU has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def latencies(run: Run, chunks: list[np.ndarray], options: argparse.Namespace) -> list[float]:
    """Return the milliseconds for each chunk."""
    times = []
    is_mixed = options.precision == "bf16-mixed"
    with torch.autocast(options.device.split(":")[0], torch.bfloat16, enabled=is_mixed):
        for number, chunk in enumerate(chunks, start=1):
            start = time.perf_counter()
            run(chunk, number == len(chunks))
            wait_for(options.device)
            times.append(1000 * (time.perf_counter() - start))
    return times


def timed(function: Callable[..., Any], times: list[float], device: str) -> Callable[..., Any]:
    """Wrap a function so that each call appends its milliseconds to ``times``."""

    def call(*arguments: Any) -> Any:
        wait_for(device)
        start = time.perf_counter()
        result = function(*arguments)
        wait_for(device)
        times.append(1000 * (time.perf_counter() - start))
        return result

    return call


def shares(
    detector: VideoDetector, chunks: list[np.ndarray], options: argparse.Namespace
) -> list[float]:
    """Return the share of each stage in the time of a stream, and the share of the rest."""
    parts = ((detector, "encode"), (detector.fusion, "forward"), (detector.head, "forward"))
    spent: list[list[float]] = []
    for part, method in parts:
        spent.append([])
        setattr(part, method, timed(getattr(part, method), spent[-1], options.device))
    total = sum(latencies(stream_run(detector), chunks, options))
    known = [sum(times) / total for times in spent]
    return [*known, 1 - sum(known)]


def rows(
    detectors: dict[str, VideoDetector], options: argparse.Namespace
) -> dict[str, Callable[[], Run]]:
    """Return the rows of the table. Each row has a function that makes a new run for a round."""
    makers: dict[str, Callable[[], Run]] = {}
    for name, detector in detectors.items():
        makers[name] = partial(stream_run, detector)
        if len(detector.window.offsets) > 1:
            makers[f"{name}, as clips"] = partial(clip_run, detector)
    if options.detector == "two-stage":
        run = torchvision_run(options)
        makers["torchvision's fasterrcnn_resnet50_fpn"] = lambda: run
    detector = next(iter(detectors.values()))
    if isinstance(detector.backbone, TimmBackbone):
        makers["backbone alone"] = partial(backbone_run, detector)
    return makers


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", choices=TABLES, default="centernet")
    parser.add_argument("--proposals", type=int, default=300, help="per frame (two-stage)")
    parser.add_argument("--backbone", default="hrnet_w32", help="from conf/model/backbone")
    parser.add_argument(
        "--pyramid", default="identity", help="from conf/model/pyramid (for CenterNet)"
    )
    parser.add_argument("--size", type=int, nargs=2, default=[320, 576], help="height and width")
    parser.add_argument("--window", default="previous", help="from conf/window")
    parser.add_argument("--frames", type=int, default=16, help="frames per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunk", type=int, default=1, help="frames per push")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    options = parser.parse_args()

    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        detectors = {
            name: build(overrides, options) for name, overrides in TABLES[options.detector].items()
        }
    generator = np.random.default_rng(0)
    video = generator.integers(0, 256, (options.frames, *options.size, 3), np.uint8)
    chunks = [video[start : start + options.chunk] for start in range(0, len(video), options.chunk)]
    makers = rows(detectors, options)
    for make in makers.values():
        latencies(make(), chunks[:2], options)
    rounds = [
        {name: latencies(make(), chunks, options) for name, make in makers.items()}
        for _ in range(options.rounds)
    ]
    Console(width=130).print(table_of(rounds, detectors, chunks, options))


def table_of(
    rounds: list[dict[str, list[float]]],
    detectors: dict[str, VideoDetector],
    chunks: list[np.ndarray],
    options: argparse.Namespace,
) -> Table:
    """Return the table, in which every row is compared with the first row.

    Call it last: it adds timers to the detectors to measure their stages.
    """
    threads = f", {torch.get_num_threads()} threads" if options.device == "cpu" else ""
    table = Table(title=f"torch {torch.__version__}{threads}, {vars(options)}")
    first = next(iter(rounds[0]))
    for column in ("", "frames/s", f"of {first}", "ms median", "95 %", *STAGES):
        table.add_column(column, justify="right" if column else "left")
    for name in rounds[0]:
        rates = [options.frames / sum(times[name]) * 1000 for times in rounds]
        ratios = [sum(times[first]) / sum(times[name]) for times in rounds]
        pushes = [time for times in rounds for time in times[name]]
        stages = shares(detectors[name], chunks, options) if name in detectors else []
        table.add_row(
            name,
            f"{median(rates):.1f}",
            f"{median(ratios):.2f}",
            f"{median(pushes):.1f}",
            f"{quantiles(pushes, n=20)[-1]:.1f}",
            *(f"{share:.0%}" for share in stages),
        )
    return table


if __name__ == "__main__":
    main()
