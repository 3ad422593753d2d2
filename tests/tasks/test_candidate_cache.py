"""Training from a candidate cache, compared with training from the images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import albumentations
import lightning as L
import pytest
import torch
from torch.optim import SGD

from tiny import tiny_detector, tiny_one_stage, tiny_two_stage
from tiny_detr import tiny_detr
from vodet.data.annotations.source import Source
from vodet.data.clips.datamodule import ClipDataModule
from vodet.data.clips.sampling import History, TemporalDropout
from vodet.data.frames.resize import Letterbox, Resize
from vodet.data.generated.sets import generate
from vodet.data.generated.synthetic import SyntheticConfig
from vodet.detector import VideoDetector
from vodet.errors import ConfigError, DataError, FrameError, OutputError
from vodet.fusion.none import NoFusion
from vodet.screen import Screen
from vodet.structures import Window
from vodet.tasks.candidate_cache import open_cache, shown
from vodet.tasks.detection import VideoDetectionTask

pytestmark = pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start")

WINDOW = Window(past=1, future=1)
BUILDERS: dict[str, Callable[..., VideoDetector]] = {
    "two_stage": tiny_two_stage,
    # So many candidates that some belong to objects.
    "one_stage": partial(tiny_one_stage, num_candidates=200, candidate_nms_iou=None),
    "detr": tiny_detr,
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("generated") / "set"
    generate(root, SyntheticConfig(train_videos=2, val_videos=1, frames_per_video=6, size=64))
    return root


@pytest.fixture
def source(generated: Path, tmp_path: Path) -> Source:
    return source_of(shutil.copytree(generated, tmp_path / "set"))


def source_of(root: Path) -> Source:
    return Source(str(root / "train.json"), str(root))


def data_of(source: Source, cache: bool | Path = True, **options: Any) -> ClipDataModule:
    settings: dict[str, Any] = {
        "train": source,
        "window": WINDOW,
        "batch_size": 2,
        "num_workers": 0,
        "temporal_dropout": TemporalDropout(past=1, future=0),
        "history": History(windows=2),
        "chunk_size": 5,
        "pin_memory": False,
        "candidate_cache": str(cache) if isinstance(cache, Path) else cache,
    }
    return ClipDataModule(**settings | options)


def frozen(source: Source, head: str = "two_stage", fusion: str = "max", **options: Any) -> Any:
    """A detector in training mode, with a frozen base."""
    categories = json.loads(Path(source.annotations).read_text())["categories"]
    names = tuple(category["name"] for category in categories)
    detector = BUILDERS[head](fusion, WINDOW, class_names=names, **options)
    detector.frozen = detector.base_parts
    return detector.train()


class LossesOf(VideoDetectionTask):
    """Keeps the losses of all steps."""

    def __init__(self, detector: VideoDetector) -> None:
        super().__init__(detector, optimizer=partial(SGD, lr=0.01), seed=3)
        self.seen: list[float] = []

    def training_step(self, batch: Any) -> torch.Tensor:
        loss = super().training_step(batch)
        self.seen.append(loss.item())
        return loss


def trainer_of(**options: Any) -> L.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu", "max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 0,
        "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False,
    }  # fmt: skip
    return L.Trainer(**settings | options)


def losses_of(detector: VideoDetector, data: ClipDataModule, **options: Any) -> list[float]:
    """The losses of three steps in each of two epochs."""
    task = LossesOf(detector)
    trainer_of(**options).fit(task, datamodule=data)
    assert len(task.seen) == len(set(task.seen)) == 6
    return task.seen


@pytest.mark.parametrize(
    ("head", "fusion"),
    [
        ("two_stage", "selsa"),
        ("two_stage", "long_term"),
        ("two_stage", "max"),
        ("two_stage", "sltnet"),
        ("one_stage", "yolov_pp"),
        ("one_stage", "long_term"),
        ("detr", "query_attention"),
    ],
)
def test_losses_are_the_same_without_images(head: str, fusion: str, source: Source) -> None:
    expected = losses_of(frozen(source, head, fusion), data_of(source, cache=False))
    data = data_of(source)
    assert losses_of(frozen(source, head, fusion), data) == pytest.approx(expected, rel=1e-5)
    hollow(source)
    again = losses_of(frozen(source, head, fusion), data_of(source))
    assert again == pytest.approx(expected, rel=1e-5)


def hollow(source: Source) -> None:
    """Replace every image by as many zero bytes."""
    for path in Path(source.images).rglob("*.jpg"):
        path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    "options",
    [
        {"train_resize": Letterbox(48, 80)},
        {"history": History(windows=2, policy="previous"), "temporal_dropout": None},
        {"losses_on": "all", "clips_per_video": 2, "history": None, "batch_size": 1},
        {"num_workers": 1},
    ],
    ids=["letterbox", "previous", "losses on all frames", "worker"],
)
def test_losses_are_the_same_for_any_clips(options: dict[str, Any], source: Source) -> None:
    expected = losses_of(frozen(source), data_of(source, cache=False, **options))
    assert losses_of(frozen(source), data_of(source, **options)) == pytest.approx(
        expected, rel=1e-5
    )


def test_half_precision(source: Source, tmp_path: Path) -> None:
    mixed = {"precision": "bf16-mixed"}
    expected = losses_of(frozen(source), data_of(source, cache=False), **mixed)
    assert losses_of(frozen(source), data_of(source), **mixed) == pytest.approx(expected, rel=1e-3)
    losses_of(frozen(source), data_of(source))
    assert len(caches(tmp_path)) == 2


def caches(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("frames.json"))


def test_a_cache_is_written_once_and_for_one_base(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = open_cache(frozen(source), data_of(source), "32-true").store
    (folder,) = caches(tmp_path / "set" / "candidate_cache")
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".json") / 1e9
    printed = capsys.readouterr().out
    assert f"Candidate cache: {size:.3f} GB for 12 frames, written once to {folder}" in printed

    open_cache(frozen(source, fusion="adaptive"), data_of(source, history=None), "32-true")
    assert f"read from {folder}" in capsys.readouterr().out

    other_settings: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"seed": 1}, {}),
        ({}, {"train_resize": Resize(48)}),
        ({"fusion": "selsa"}, {}),  # its proposals are not linked
        ({}, {"window": Window(), "history": None, "clips_per_video": 1, "temporal_dropout": None}),
    ]
    for number, (head, options) in enumerate(other_settings, start=2):
        store = open_cache(frozen(source, **head), data_of(source, **options), "32-true").store
        assert len(caches(tmp_path)) == number
        assert f"written once to {folder.parent}" in capsys.readouterr().out
    assert len(store) == 2
    assert len(first) == 12

    reversed_channels = frozen(source)
    reversed_channels.backbone.channel_order = "bgr"  # not in the representation of the layers
    open_cache(reversed_channels, data_of(source), "32-true")
    skipping = data_of(source, on_bad_frame="skip")
    open_cache(frozen(source), skipping, "32-true")
    assert len(caches(tmp_path)) == number + 2


def test_only_trained_layers_get_gradients_from_a_cache(source: Source) -> None:
    detector, data = frozen(source, fusion="sltnet"), data_of(source)
    cache = open_cache(detector, data, "32-true")
    losses = detector.losses(next(iter(data.train_dataloader())), cache.encode)
    torch.stack(list(losses.values())).sum().backward()
    new = ("head.fusion", "head.st_head", "head.box_head")
    for name, weight in detector.named_parameters():
        assert (weight.grad is not None) == name.startswith(new), name


def test_training_sets_of_different_sizes(source: Source, tmp_path: Path) -> None:
    config = SyntheticConfig(train_videos=2, val_videos=1, frames_per_video=6, size=96)
    generate(tmp_path / "larger", config)
    data = data_of(source, extra_train={"larger": source_of(tmp_path / "larger")})
    losses_of(frozen(source), data)
    assert data.training_frames.size == (96, 96)
    assert data.cached is not None
    assert [own.sizes.max() for own in data.cached] == [64, 96]
    assert [own.numbers.min() for own in data.cached] == [0, 12]


@pytest.mark.parametrize("on_bad_frame", ["raise", "skip"])
def test_bad_frames(on_bad_frame: Any, source: Source, tmp_path: Path, caplog: Any) -> None:
    bad = next(Path(source.images).rglob("*.jpg"))
    bad.write_bytes(b"no image")
    options = {"on_bad_frame": on_bad_frame, "temporal_dropout": None, "window": Window()}
    options |= {"history": None, "batch_size": 1}
    if on_bad_frame == "raise":
        with pytest.raises(FrameError, match=bad.name):
            losses_of(frozen(source), data_of(source, **options))
        assert not caches(tmp_path)
        return
    expected = losses_of(frozen(source), data_of(source, cache=False, **options))
    caplog.clear()
    assert losses_of(frozen(source), data_of(source, **options)) == pytest.approx(expected)
    assert "1 bad frames" in caplog.text
    assert str(bad) in caplog.text


def test_two_processes_at_once(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [(frozen(source), data_of(source)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        opened = list(pool.map(lambda pair: open_cache(*pair, "32-true"), pairs))
    assert [len(cache.store) for cache in opened] == [12, 12]
    assert capsys.readouterr().out.count("written once") == 1
    assert not list(tmp_path.rglob("*.partial"))


def test_what_an_interrupted_process_left_is_not_read(source: Source, tmp_path: Path) -> None:
    open_cache(frozen(source), data_of(source), "32-true")
    (folder,) = caches(tmp_path)
    (folder / "frames.json").unlink()
    folder.rename(folder.with_name(f".{folder.name}.partial"))
    assert len(open_cache(frozen(source), data_of(source), "32-true").store) == 12
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_a_cut_cache_is_reported(source: Source, tmp_path: Path) -> None:
    open_cache(frozen(source), data_of(source), "32-true")
    (folder,) = caches(tmp_path)
    path = folder / "maps.0"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError) as caught:
        open_cache(frozen(source), data_of(source), "32-true")
    for fact in (str(path), f"expected {size} bytes", "12 frames", f"found {size - 4}", "Delete"):
        assert fact in str(caught.value)


def test_a_folder_that_cannot_be_written(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=str(tmp_path / "file")):
        open_cache(frozen(source), data_of(source, tmp_path / "file"), "32-true")


def test_progress_in_a_file(source: Source, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        batches = shown(data_of(source).frame_loader(), 12, Screen(file=file), seconds=0.0)
        assert [frames.shape[0] for frames, _ in batches] == [5, 5, 2]
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == [f"Candidate cache: {done} of 12 frames" for done in (5, 10, 12)]


@pytest.mark.parametrize("value", ["", None, 2024])
def test_other_values_are_refused(value: Any, source: Source) -> None:
    with pytest.raises(ConfigError, match=f"true, false or the name of a folder; found {value!r}"):
        data_of(source, candidate_cache=value)


def test_augmentation_is_refused(source: Source) -> None:
    transforms = [albumentations.HorizontalFlip(p=0.5)]
    with pytest.raises(ConfigError, match=r"train_transforms=\[\].* found HorizontalFlip"):
        data_of(source, train_transforms=transforms)


def test_a_base_that_is_trained_is_refused(source: Source) -> None:
    detector = frozen(source)
    detector.frozen = ("head.box_head", "backbone")
    for part in ("pyramid", "head.rpn"):
        detector.get_submodule(part).requires_grad_(True)
    with pytest.raises(ConfigError) as caught:
        open_cache(detector.train(), data_of(source), "32-true")
    assert "pyramid, head.rpn would be trained" in str(caught.value)
    assert "model.frozen=[head.box_head,backbone,pyramid,head.rpn]" in str(caught.value)


def test_detectors_without_candidates_of_single_frames_are_refused(source: Source) -> None:
    with pytest.raises(ConfigError, match=r"found CenterNetHead: .*model/head=two_stage"):
        open_cache(tiny_detector(NoFusion, WINDOW), data_of(source), "32-true")
    fused = tiny_two_stage("max", WINDOW, fusion=lambda spec: torch.nn.Identity())
    with pytest.raises(ConfigError, match=r"without a map fusion.* model/fusion=none"):
        open_cache(fused, data_of(source), "32-true")


def test_clips_without_a_cache_are_refused(source: Source) -> None:
    with pytest.raises(ConfigError, match=r"candidate_cache=True: .*trainer\.fit"):
        data_of(source).train_dataloader()


def test_a_resumed_training_reads_the_cache_of_its_own_base(source: Source, tmp_path: Path) -> None:
    trainer = trainer_of()
    trainer.fit(LossesOf(frozen(source)), datamodule=data_of(source))
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    task = LossesOf(frozen(source, seed=1))  # has other weights until the checkpoint is read
    resumed = trainer_of(max_epochs=3)
    resumed.fit(task, datamodule=data_of(source), ckpt_path=path, weights_only=True)
    assert len(task.seen) == 3
    assert len(caches(tmp_path)) == 1
