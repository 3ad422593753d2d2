from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import albumentations
import numpy as np
import pytest
import torch
from PIL import Image

from data.conftest import moving_boxes, picture, write_image
from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.clips.dataset import ClipDataset
from vodet.data.clips.sampling import ClipDraw, ClipSampling, History, TemporalDropout
from vodet.data.clips.video_chunks import VideoChunkDataset
from vodet.data.frames.resize import Letterbox, Resize
from vodet.data.frames.transforms import ClipTransform
from vodet.errors import ConfigError, DataError, FrameError
from vodet.structures import ClipLayout, Window

RANDOM = [
    albumentations.HorizontalFlip(p=0.5),
    albumentations.RandomBrightnessContrast(p=0.5),
]


def clips(source, window=None, **options):
    """Clips, with options of the sampling among those of the data set."""
    names = ("history", "temporal_dropout", "losses_on")
    sampling = {name: options.pop(name) for name in names if name in options}
    return ClipDataset(
        read_st_coco(source.annotations),
        source.images,
        ClipSampling(window or Window(), **sampling),
        **options,
    )


def damage(source, *names):
    for name in names:
        path = Path(source.images) / name
        path.write_bytes(path.read_bytes()[:-50])


def same(clip, other):
    return torch.equal(clip.frames, other.frames) and all(
        torch.equal(a["boxes"], b["boxes"])
        for a, b in zip(clip.targets, other.targets, strict=True)
    )


def numbers(clip):
    return [(info.video, info.frame_number) for info in clip.infos]


def test_a_clip_is_a_window_of_its_video(source):
    dataset = clips(source, Window(past=1, future=1, frame_stride=2))

    assert len(dataset) == 6 + 2 + 1  # one frame of the long video is not annotated
    clip = dataset[2]
    assert numbers(clip) == [("long", 1), ("long", 3), ("long", 5)]
    assert clip.layout == ClipLayout.of_window(3, 1)
    assert clip.frames.shape == (3, 3, 48, 64)
    assert clip.frames.dtype == torch.uint8
    assert clip.infos[1].image_id == 103
    assert clip.infos[1].original_size == clip.infos[1].size == (48, 64)
    torch.testing.assert_close(
        clip.targets[1]["boxes"], torch.tensor([[16.0, 4, 28, 14], [32, 28, 48, 44]])
    )
    assert clip.targets[1]["labels"].tolist() == [0, 1]
    assert clip.targets[1]["track_ids"].tolist() == [0, 1]


def test_pixels_are_rgb_and_where_the_boxes_are(source):
    clip = clips(source, Window(past=1))[4]

    for frame, target in zip(clip.frames, clip.targets, strict=True):
        for box, label in zip(target["boxes"].int(), target["labels"], strict=True):
            left, top, right, bottom = box.tolist()
            inside = frame[:, top + 2 : bottom - 2, left + 2 : right - 2].float().mean((1, 2))
            assert inside.argmax() == label


def test_borders_repeat_frames_and_unannotated_ones_are_support_frames(source):
    dataset = clips(source, Window(past=2))

    first = dataset[0]
    assert numbers(first) == [("long", 0)] * 3
    assert torch.equal(first.frames[0], first.frames[2])
    support = dataset[2]
    assert numbers(support) == [("long", 1), ("long", 2), ("long", 3)]
    assert [info.is_annotated for info in support.infos] == [True, False, True]
    assert numbers(dataset[8]) == [("still", 0)] * 3


def test_where_all_frames_have_a_loss_a_repeated_one_has_it_once(source):
    history = History(3, "previous")
    clip = clips(source, history=history, losses_on="all")[1]
    assert numbers(clip) == [("long", 0), ("long", 0), ("long", 0), ("long", 1)]
    assert [info.has_loss for info in clip.infos] == [False, False, True, True]
    assert all(info.is_annotated for info in clip.infos)
    once = clips(source, history=history)[1]
    assert [info.has_loss for info in once.infos] == [True] * 4


def test_frames_of_the_history_take_no_loss_away(source):
    dataset = clips(source, Window(past=1), history=History(2), losses_on="all")
    assert numbers(dataset[8]) == [("still", 0)] * 6
    assert [info.has_loss for info in dataset[8].infos[:2]] == [False, True]


@pytest.mark.parametrize("repeats", [1, 3])
def test_each_frame_is_decoded_once(source, monkeypatch, repeats):
    read = []
    dataset = clips(source, Window(past=repeats), history=History(2))
    monkeypatch.setattr(
        "vodet.data.frames.frame_reader.read_frame",
        lambda path, *_: read.append(path) or np.zeros((48, 64, 3), np.uint8),
    )

    clip = dataset[0]

    assert len(clip.frames) == 3 * (repeats + 1)
    assert len(read) == len(set(read)) == len(set(numbers(clip)))


def test_augmentation_and_dropout_are_drawn_anew_in_each_epoch_and_repeat_with_it(source):
    options = {
        "transform": ClipTransform(RANDOM),
        "temporal_dropout": TemporalDropout(past=1, future=0),
        "history": History(1),
    }
    dataset, other = (clips(source, Window(past=3), **options) for _ in range(2))
    epochs = [
        [dataset[ClipDraw(epoch, clip)] for clip in range(len(dataset))] for epoch in range(3)
    ]

    again = [other[ClipDraw(2, clip)] for clip in reversed(range(len(dataset)))][::-1]

    assert all(same(a, b) for a, b in zip(epochs[2], again, strict=True))
    assert not all(same(a, b) for a, b in zip(epochs[0], epochs[1], strict=True))
    assert {len(clip.frames) for epoch in epochs for clip in epoch} == {2 + 2}
    layout = ClipLayout(((0, 1),), 1, 1, history=((2, 3),))
    assert {clip.layout for epoch in epochs for clip in epoch} == {layout}


def test_a_clip_and_its_history_are_one_draw(source):
    transform = ClipTransform([albumentations.RandomBrightnessContrast(p=1)])
    dataset = clips(source, Window(), transform=transform, history=History(2))

    clip = dataset[8]  # a still image: its history is of the same frame

    assert len(clip.frames) == 3
    assert clip.layout.history == ((1,), (2,))
    for frame in clip.frames[1:]:
        assert torch.equal(frame, clip.frames[0])


def test_a_clip_brings_the_windows_just_before_its_own(source):
    dataset = clips(source, Window(past=1), history=History(2, "previous"))

    assert numbers(dataset[4]) == [("long", 2), ("long", 3), ("long", 4), ("long", 5)]
    assert dataset[4].layout == ClipLayout(((2, 3),), 1, 3, history=((0, 1), (1, 2)))
    assert numbers(dataset[0]) == [("long", 0)] * 4
    assert [info.is_annotated for info in dataset[4].infos] == [False, True, True, True]


def test_a_clip_that_is_trained_on_all_frames(source):
    dataset = clips(source, Window(past=1, future=1), losses_on="all")

    assert numbers(dataset[2]) == [("long", 2), ("long", 3), ("long", 4)]
    assert dataset[2].layout.windows == ((0, 0, 1), (0, 1, 2), (1, 2, 2))


def test_resize_moves_the_boxes_at_any_reduction_of_the_decoder(source):
    boxes = {}
    for short_side in (48, 24, 12, 6):
        clip = clips(source, resize=Resize(short_side))[0]
        assert clip.frames.shape[-2:] == (short_side, short_side * 64 // 48)
        boxes[short_side] = clip.targets[0]["boxes"] * (48 / short_side)
    for scaled in boxes.values():
        torch.testing.assert_close(scaled, boxes[48], atol=1e-4, rtol=0)


def test_clips_per_video(source):
    dataset = clips(source, clips_per_video=2)

    assert [numbers(dataset[clip])[0] for clip in range(len(dataset))] == [
        ("long", 1),
        ("long", 5),
        ("short", 0),
        ("short", 1),
        ("still", 0),
    ]


def test_dropout_that_does_not_fit_the_window(source):
    with pytest.raises(ConfigError, match="more support frames"):
        clips(source, Window(past=1), temporal_dropout=TemporalDropout(past=2, future=0))


def test_nothing_annotated(write_set):
    source = write_set(lengths={"v": 1}, unannotated=(("v", 0),))
    with pytest.raises(DataError, match=r"set.json has no annotated frame"):
        clips(source)


def test_a_bad_frame_stops_training(source):
    damage(source, "long/003.jpg")
    with pytest.raises(FrameError, match=r"long/003.jpg \(image id 103\).*truncated"):
        clips(source)[2]


def test_a_bad_frame_is_skipped_counted_and_reported_once(source, caplog):
    damage(source, "long/003.jpg", "short/001.jpg")
    dataset = clips(source, on_bad_frame="skip")

    with caplog.at_level(logging.WARNING):
        made = [dataset[clip] for clip in range(len(dataset))] + [dataset[2]]
        dataset.reader.report_bad_frames()
        dataset.reader.report_bad_frames()

    assert numbers(made[2]) == [("long", 4)]
    assert numbers(made[7]) == [("still", 0)]
    assert len(caplog.records) == 1
    text = caplog.text
    assert "2 bad frames of" in text
    assert "long/003.jpg (image id 103): expected an intact image" in text
    assert "short/001.jpg (image id 108)" in text


def test_the_last_clip_is_replaced_by_the_first(source):
    damage(source, "still/000.jpg")

    assert numbers(clips(source, on_bad_frame="skip")[8]) == [("long", 0)]


def test_images_that_are_not_there_are_not_skipped_for_ever(source, tmp_path):
    dataset = ClipDataset(
        read_st_coco(source.annotations),
        str(tmp_path),
        ClipSampling(Window()),
        on_bad_frame="skip",
    )
    with pytest.raises(DataError, match=r"100 consecutive .*set.json. Are the images below"):
        dataset[0]


def test_a_number_alone_is_a_clip_of_epoch_0(source):
    dataset = clips(source, transform=ClipTransform(RANDOM))

    assert same(dataset[5], dataset[ClipDraw(0, 5)])


def test_datasets_can_be_pickled(source):
    dataset = clips(source, Window(past=1), transform=ClipTransform(RANDOM))

    assert same(pickle.loads(pickle.dumps(dataset))[ClipDraw(1, 3)], dataset[ClipDraw(1, 3)])


def without(source, images=(), key=None):
    """The set without the annotations of some images, or without a field of all of them."""
    path = Path(source.annotations)
    content = json.loads(path.read_text())
    content["annotations"] = [
        {name: value for name, value in annotation.items() if name != key}
        for annotation in content["annotations"]
        if annotation["image_id"] not in images
    ]
    path.write_text(json.dumps(content))
    return source


def test_clips_in_which_tracks_come_or_go_can_be_left_out(write_set):
    source = without(write_set(lengths={"a": 6}, unannotated=()), images=[103])
    every = clips(source, Window(past=1))
    complete = clips(source, Window(past=1), require_complete_tubelets=True)
    assert len(complete) == len(every) == 6
    assert [numbers(every[i])[1][1] for i in range(6)] == [0, 1, 2, 3, 4, 5]
    # Frames 3 and 4 have a window in which both objects go, or come back: the next stands in.
    assert [numbers(complete[i])[1][1] for i in range(6)] == [0, 1, 2, 5, 5, 5]


def test_the_window_alone_is_to_be_complete_not_the_history(write_set):
    source = without(write_set(lengths={"a": 6}, unannotated=()), images=[103])
    options = {"require_complete_tubelets": True}
    for sampling in ({"history": History(3, "previous")}, {"history": History(3)}):
        dataset = clips(source, Window(past=1), **sampling, **options)
        own = [dataset[i] for i in range(6)]
        references = [clip.infos[clip.layout.reference_frame].frame_number for clip in own]
        assert references == [0, 1, 2, 5, 5, 5]


def test_no_complete_clip_at_all_is_an_error(write_set):
    source = without(write_set(lengths={"a": 4}, unannotated=()), images=[101, 103])
    dataset = clips(source, Window(past=1, future=1), require_complete_tubelets=True)
    with pytest.raises(DataError, match=r"same tracks in all frames .* 100 .*set.json.* shorter"):
        dataset[1]


def test_complete_tubelets_need_track_ids(write_set):
    source = without(write_set(unannotated=()), key="id_track")
    with pytest.raises(
        DataError,
        match=r"needs the id_track of every object, .* still images; 18 of 20 objects in ",
    ):
        clips(source, require_complete_tubelets=True)


def with_crowds(source, tracks):
    """The set with a crowd in some frames; its track is given by image id."""
    path = Path(source.annotations)
    content = json.loads(path.read_text())
    for image_id, track in tracks.items():
        content["annotations"].append(
            {
                "id": 1000 + image_id,
                "image_id": image_id,
                "category_id": 3,
                "bbox": [0, 0, 9, 9],
                "iscrowd": 1,
                "id_track": track,
            }
        )
    path.write_text(json.dumps(content))
    return source


@pytest.mark.parametrize("track", [None, 77])
def test_crowds_and_ignore_regions_are_no_tracks(write_set, track):
    source = with_crowds(write_set(lengths={"a": 6}, unannotated=()), {102: track})
    dataset = clips(source, Window(past=1), require_complete_tubelets=True)
    assert [numbers(dataset[i])[1][1] for i in range(6)] == [0, 1, 2, 3, 4, 5]


def test_frames_of_several_sizes_are_named(source):
    path = Path(source.annotations)
    content = json.loads(path.read_text())
    content["images"][4] |= {"height": 64, "width": 48}
    path.write_text(json.dumps(content))
    write_image(path.parent / "set/long/004.jpg", np.zeros((64, 48, 3), np.uint8))
    places = r"48 x 64 \(long/003\.jpg\), 64 x 48 \(long/004\.jpg\)"
    dataset = clips(source, Window(past=1), resize=Resize(24))
    with pytest.raises(FrameError, match=rf"'long' of .*set\.json: .*found {places}.*Letterbox"):
        dataset[3]
    chunks = VideoChunkDataset(read_st_coco(source.annotations), source.images, chunk_size=2)
    chunks.chunks[1] = range(3, 5)
    with pytest.raises(FrameError, match=rf"'long' of .*set\.json: .*found {places}.*Letterbox"):
        chunks[1]
    assert clips(source, Window(past=1), resize=Letterbox(24, 24))[3].frames.shape[0] == 2


def test_exif_reaches_training_and_evaluation(write_set):
    source = write_set(lengths={"v": 1}, unannotated=())
    stored = picture(moving_boxes(0, 0))
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(stored).save(Path(source.images, "v/000.jpg"), exif=exif, quality=95)
    index = read_st_coco(source.annotations)
    for use, expected in (("apply", stored[::-1, ::-1]), ("ignore", stored)):
        dataset = ClipDataset(index, source.images, ClipSampling(Window()), exif=use)
        chunks = VideoChunkDataset(index, source.images, exif=use)
        for frames in (dataset[0].frames, chunks[0].frames):
            difference = frames[0].permute(1, 2, 0).numpy().astype(int) - expected
            assert np.abs(difference).mean() < 8
