from __future__ import annotations

import json
import logging
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import albumentations
import cv2
import lightning
import numpy as np
import pytest
import torch
from torch import distributed

from data.annotations.random_document import random_document
from vodet.data.annotations.source import Source, match_classes
from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.clips.datamodule import ClipDataModule, killed_worker
from vodet.data.clips.sampling import History, TemporalDropout
from vodet.data.frames.resize import Resize
from vodet.errors import ConfigError, DataError
from vodet.structures import NO_CATEGORY, ClipLayout, Window


def module(source, **options):
    settings = {
        "train": source,
        "val": source,
        "window": Window(past=2, future=1),
        "batch_size": 2,
        "num_workers": 0,
        "train_transforms": [
            albumentations.HorizontalFlip(p=0.5),
            albumentations.RandomBrightnessContrast(p=0.5),
        ],
        "temporal_dropout": TemporalDropout(past=1, future=0),
        "history": History(1),
        "chunk_size": 3,
        "pin_memory": False,
    }
    return ClipDataModule(**(settings | options))


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same_batches(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(a.frames, b.frames)
        and a.infos == b.infos
        and all(
            torch.equal(x["boxes"], y["boxes"])
            for one, other in zip(a.targets, b.targets, strict=True)
            for x, y in zip(one, other, strict=True)
        )
        and a.layout == b.layout
        for a, b in zip(batches, others, strict=True)
    )


def test_batches(source):
    loader = module(source, size_divisor=32).train_dataloader()
    batches = list(loader)

    assert len(loader) == len(batches) == 5  # 9 clips
    assert [len(batch.frames) for batch in batches] == [2, 2, 2, 2, 1]
    assert batches[0].frames.shape == (2, 2 + 2, 3, 64, 64)
    assert batches[0].frames.dtype == torch.uint8
    assert batches[0].layout == ClipLayout(((0, 1),), 1, 1, history=((2, 3),))
    seen = [(info.video, info.frame_number) for b in batches for info in b.reference_infos]
    assert len(set(seen)) == 9
    assert ("long", 2) not in seen


@pytest.mark.parametrize(
    ("workers", "context"),
    [(1, "fork"), (2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)],
)
def test_same_clips_for_any_number_of_workers_and_after_resuming(source, workers, context):
    alone = module(source).train_dataloader()
    expected = [epoch_of(alone, epoch) for epoch in range(3)]
    options = {"num_workers": workers, "multiprocessing_context": context}
    loader = module(source, **options).train_dataloader()

    resumed = [epoch_of(loader, epoch) for epoch in (1, 2)]

    assert same_batches(resumed[0], expected[1])
    assert same_batches(resumed[1], expected[2])
    assert not same_batches(resumed[0], expected[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_whole_videos_in_order(source, workers):
    loader = module(source, num_workers=workers, resize=Resize(24)).val_dataloader()
    chunks = list(loader)

    assert [(c.infos[0].video, len(c.frames)) for c in chunks] == [
        ("long", 3),
        ("long", 3),
        ("long", 1),
        ("short", 2),
        ("still", 1),
    ]
    assert chunks[0].frames.shape == (3, 3, 24, 32)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_processes_share_the_videos(source, world_size, monkeypatch):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: world_size)
    loader = module(source).val_dataloader()
    hands = []
    for rank in range(world_size):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        chunks = list(loader)
        assert chunks
        hands.append([(i.video, i.frame_number) for chunk in chunks for i in chunk.infos])
    read = [frame for hand in hands for frame in hand]

    assert len(read) == len(set(read)) == 10
    assert sum(not hand for hand in hands) == max(0, world_size - 3)


class Recorder(lightning.LightningModule):
    """Trains nothing and notes what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs = []
        self.evaluated = 0

    def on_train_epoch_start(self):
        self.epochs.append([])

    def training_step(self, batch, _):
        self.epochs[-1].append(batch)
        return self.weight * 0

    def validation_step(self, chunk, _):
        self.evaluated += len(chunk.infos)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(model, data, epochs, root, checkpoint=None):
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=root,
    )
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(root / "last.ckpt")


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning 2.6 with torch 2.15
def test_the_trainer_gives_each_epoch_its_clips_also_after_resuming(source, tmp_path):
    whole, first, second = Recorder(), Recorder(), Recorder()
    fit(whole, module(source), 3, tmp_path)
    fit(first, module(source), 1, tmp_path)
    fit(second, module(source), 3, tmp_path, tmp_path / "last.ckpt")

    assert len(whole.epochs) == 3
    assert whole.evaluated == 30
    for epoch, resumed in zip(whole.epochs, first.epochs + second.epochs, strict=True):
        assert same_batches(epoch, resumed)
    assert not same_batches(whole.epochs[0], whole.epochs[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_frames_are_logged_once_per_epoch(source, workers, caplog):
    (Path(source.images) / "long/003.jpg").unlink()
    data = module(source, num_workers=workers, on_bad_frame="skip", temporal_dropout=None)
    train, val = data.train_dataloader(), data.val_dataloader()

    with caplog.at_level(logging.WARNING):
        for epoch in range(2):
            assert sum(len(batch.frames) for batch in epoch_of(train, epoch)) == 9
        assert sum(len(chunk.frames) for chunk in val) == 10

    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 3
    for text in texts:
        assert text.startswith("1 bad frames of ")
        assert "long/003.jpg (image id 103): expected an image, found no such file" in text


def test_class_names_come_from_the_training_data(write_set):
    train = write_set("train", categories=((3, "red"), (7, "green"), (9, "blue")))
    val = write_set("val", categories=((1, "green"), (3, "red")))
    data = module(train, val=val)

    assert data.class_names == ("red", "green", "blue")
    assert data.val_index.class_names == data.class_names
    assert data.val_index.category_ids.tolist() == [3, 1, NO_CATEGORY]
    target = data.val_index.target(0)
    assert target["labels"].tolist() == [0, 1]  # red before green, as drawn
    assert module(None, val=val).class_names == ("green", "red")
    assert data.train_indexes is data.train_indexes


def test_classes_of_a_trained_detector_come_first(write_set):
    val = write_set("val", categories=((7, "red"),))
    data = module(None, val=val, class_names=["green", "red"])

    assert data.class_names == ("green", "red")
    assert data.val_index.category_ids.tolist() == [NO_CATEGORY, 7]
    assert data.val_index.target(0)["labels"].tolist() == [1]


def test_matching_changes_labels_alone(source):
    index = read_st_coco(source.annotations)

    matched = match_classes(index, ("green", "blue", "red"))

    assert matched.category_ids.tolist() == [7, NO_CATEGORY, 3]
    assert np.array_equal(matched.labels, 2 - 2 * index.labels)
    assert np.array_equal(matched.boxes, index.boxes)


def test_a_class_that_training_lacks(write_set):
    train = write_set("train", categories=((3, "red"),))
    val = write_set("val", categories=((1, "green"), (3, "red")))
    with pytest.raises(ConfigError, match=r"val.json has .*green.*red"):
        _ = module(train, val=val).val_index


def test_missing_files_are_named_with_what_to_do(source, tmp_path):
    def read(name: str, missing: Source):
        group, _, key = name.partition(".")
        data = module(source, **{group: {key: missing} if key else missing})
        return data.val_index if name == "val" else data.train_indexes

    for name in ("train", "val", "extra_train.det"):
        with pytest.raises(
            DataError,
            match=rf"data.{name}.annotations: no such file: .*none.json.*VODET_DATA.*"
            r"vodet-data generate.*vodet-data check",
        ):
            read(name, Source(str(tmp_path / "none.json"), source.images))
        with pytest.raises(DataError, match=rf"data.{name}.images: no such folder: .*nowhere"):
            read(name, Source(source.annotations, str(tmp_path / "nowhere")))


def test_further_data_are_joined_by_the_names_of_their_classes(write_set, caplog):
    train = write_set("train", categories=((3, "red"),))
    stills = write_set("stills", {"a": 1, "b": 1, "c": 1}, categories=((1, "green"), (2, "red")))
    data = module(train, extra_train={"stills": stills}, train_transforms=(), batch_size=1)

    assert data.class_names == ("red", "green")
    assert data.val_index.class_names == ("red", "green")
    batches = list(data.train_dataloader())

    assert len(batches) == 9 + 3
    for batch in batches:
        (info,), (target,) = batch.reference_infos, (batch.targets[0][1],)
        if info.video in ("a", "b", "c"):
            assert sorted(target["labels"].tolist()) == [0, 1]
            top = dict(zip(target["labels"].tolist(), target["boxes"][:, 1].tolist(), strict=True))
            assert top[1] == 28  # as the green box
        else:
            assert target["labels"].tolist() == [0]
    assert "data.train lacks these classes: green" in caplog.text
    assert "extra_train.stills has" not in caplog.text


def test_extra_data_must_be_sources(source):
    plain = {"annotations": source.annotations, "images": source.images}
    with pytest.raises(ConfigError, match=r"data.extra_train.det: expected a source, with _target"):
        _ = module(source, extra_train={"det": plain}).class_names


def test_shares_and_epochs_of_further_data(write_set):
    train, stills = write_set("train"), write_set("stills", {"a": 1, "b": 1, "c": 1})
    sources = [replace(source, share=share) for source, share in ((train, 1), (stills, 2))]
    loader = module(sources[0], extra_train={"stills": sources[1]}).train_dataloader()

    def videos(epoch: int) -> list[str]:
        batches = epoch_of(loader, epoch)
        return [info.video for batch in batches for info in batch.reference_infos]

    for epoch in range(4):
        drawn = Counter(videos(epoch))
        assert drawn.total() == 12
        assert drawn["a"] + drawn["b"] + drawn["c"] == 8
        assert max(drawn["a"], drawn["b"], drawn["c"]) == 3  # 8 / 3 times each
    assert same_batches(epoch_of(loader, 1), epoch_of(loader, 1))


def test_a_clip_drawn_again_is_augmented_anew(write_set):
    stills = write_set("stills", {"a": 1, "b": 1})
    loader = module(
        replace(write_set("train"), share=1e-9), extra_train={"b": replace(stills, share=1)}
    ).train_dataloader()
    frames = [
        frame
        for batch in loader
        for frame, info in zip(batch.frames, batch.reference_infos, strict=True)
        if info.video == "a"
    ]

    assert len(frames) >= 5
    assert len({frame.numpy().tobytes() for frame in frames}) == len(frames)


def test_objects_of_a_still_image_have_tracks(write_set, tmp_path):
    stills = write_set("stills", {"a": 1})
    document = json.loads(Path(stills.annotations).read_text())
    for annotation in document["annotations"]:
        del annotation["id_track"]
    Path(stills.annotations).write_text(json.dumps(document))

    (batch,) = module(stills, require_complete_tubelets=True).train_dataloader()

    assert [target["track_ids"].tolist() for target in batch.targets[0]] == [[0, 1]] * 4


def test_chunks_stay_where_the_stream_finds_them(source):
    data = module(source)
    clips, chunk = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    meta = torch.device("meta")
    assert data.transfer_batch_to_device(clips, meta, 0).frames.device == meta
    assert data.transfer_batch_to_device(chunk, meta, 0) is chunk


def test_clips_come_with_the_windows_before_them_and_losses_on_all(source):
    options = {"window": Window(past=1), "temporal_dropout": None, "batch_size": 1}
    previous = module(source, history=History(1, "previous"), **options)
    for batch in previous.train_dataloader():
        assert batch.layout == ClipLayout(((1, 2),), 1, 2, history=((0, 1),))
        numbers = [info.frame_number for info in batch.infos[0]]
        now = numbers[2]
        assert numbers == [max(now - 2, 0), max(now - 1, 0), now]

    every = module(source, history=History(1, "previous"), losses_on="all", **options)
    batch = next(iter(every.train_dataloader()))
    assert batch.layout == ClipLayout(((0, 0), (0, 1), (1, 2)), 1, 2)
    with pytest.raises(ConfigError, match="losses_on: expected reference or all"):
        module(source, losses_on="none")
    with pytest.raises(ConfigError, match=r"data\.history\.policy=previous needs all"):
        module(source, history=History(1, "previous"))


def test_no_data_is_set():
    with pytest.raises(ConfigError, match=r"data.train is not set: set data.train.annotations"):
        module(None, val=None).train_dataloader()
    with pytest.raises(ConfigError, match=r"data.val is not set"):
        _ = module(None, val=None).class_names


def test_videos_of_real_sizes(tmp_path):
    document = random_document(0)
    for entry in document["images"]:
        pixels = np.zeros((entry["height"], entry["width"], 3), np.uint8)
        pixels[:, : entry["width"] // 2] = (20, entry["frame_number"], 200)  # in BGR
        path = tmp_path / entry["file_name"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    (tmp_path / "random.json").write_text(json.dumps(document))
    source = Source(str(tmp_path / "random.json"), str(tmp_path))
    data = module(source, resize=Resize(90, 160), batch_size=4, train_transforms=())

    batch = next(iter(data.train_dataloader()))
    assert batch.frames.shape == (4, 2 + 2, 3, 96, 160)
    assert list(data.class_names) == ["bird", "person", "car", "dog"]  # by their ids
    shown = []
    for chunk in data.val_dataloader():
        for frame, info in zip(chunk.frames, chunk.infos, strict=True):
            height, width = info.size
            original_height, original_width = info.original_size
            scale = min(90 / original_height, 160 / original_width)
            assert (height, width) == (
                round(original_height * scale),
                round(original_width * scale),
            )
            left, right = (
                frame[:, :height, : width // 2 - 2],
                frame[:, :height, width // 2 + 2 : width],
            )
            means = left.float().mean(dim=(1, 2))
            assert means.tolist() == pytest.approx([200, info.frame_number, 20], abs=4)
            assert right.float().mean() < 4
            shown.append((info.video, info.frame_number))
    assert shown == [(entry["video"], entry["frame_number"]) for entry in document["images"]]


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_killed_worker_is_one_error_with_what_to_change(source, name):
    data = module(source, num_workers=1, multiprocessing_context="fork")
    loader = getattr(data, f"{name}_dataloader")()
    loader.worker_init_fn = lambda _: os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError, match=r"killed.*memory.*data\.num_workers.*batch_size"):
        next(iter(loader))


def test_a_broken_connection_to_a_worker_is_that_of_a_killed_worker():
    error = killed_worker(ConnectionResetError(104, "Connection reset by peer"))
    assert "Connection reset by peer" in str(error)
    assert "data.num_workers" in str(error)
    assert killed_worker(RuntimeError("of another kind")) is None
