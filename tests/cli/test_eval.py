from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import vodet
from cli.conftest import Command
from tasks.small_checkpoint import MODEL, contents
from vodet.augmented_stream import AugmentedStream
from vodet.cli.app import config_dir
from vodet.cli.eval import chosen, source
from vodet.data.annotations.source import Source
from vodet.data.annotations.st_coco import read_st_coco
from vodet.errors import ConfigError
from vodet.evaluation.measures import Measures, link_tubelets
from vodet.inference.tubelet_linking import LINKINGS
from vodet.metrics.results_file import read_predictions
from vodet.streaming import StreamingDetector, VideoStream
from vodet.structures import Detections

CPU = "trainer.accelerator=cpu"


def test_equals_the_evaluation_during_training(
    trained: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command("eval", f"ckpt={trained}/last.ckpt", CPU, "output=runs/eval", "data.num_workers=0")
    result = json.loads((inside / "runs/eval/eval.json").read_text())
    expected = json.loads((trained / "metrics.json").read_text())["last"]
    for name, value in result.items():
        assert value == pytest.approx(expected[f"val/{name}"], abs=1e-6), name
    assert {"map", "vid/ap_50", "motion/ap_50_fast", "stability/found"} <= result.keys()
    assert "Evaluation, percent" in capsys.readouterr().out


def test_saved_predictions_give_the_same_numbers(
    trained: Path, inside: Path, command: Command
) -> None:
    for suffix in ("json", "json.gz"):
        file = f"predictions=runs/found.{suffix}"
        command(
            "eval", f"ckpt={trained}/best.ckpt", file, CPU, "data.num_workers=0", "output=runs/a"
        )
        again = (
            "data.annotations=data/demo/val.json",
            "evaluation=synthetic",
        )
        command("eval", file, *again, "output=runs/b")
        first, second = (json.loads((inside / f"runs/{run}/eval.json").read_text()) for run in "ab")
        assert second == first


def test_another_window_and_other_data(trained: Path, inside: Path, command: Command) -> None:
    command(
        "eval",
        f"ckpt={trained}/best.ckpt",
        CPU,
        "window.past=2",
        "data.annotations=data/demo/train.json",
        "data.images=data/demo",
        "data.num_workers=0",
        "data.chunk_size=3",
        "output=runs/other",
    )
    assert (inside / "runs/other/eval.json").is_file()


ALL = "evaluation.protocols=[coco,vid,motion,track_length,uavdt,stability]"


def test_protocols_side_by_side_with_and_without_the_model(
    trained: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["predictions=runs/all.json", ALL, "evaluation.stability.score_threshold=0.05"]
    common.append("evaluation.tubelet_linking=seq_nms")
    command(
        "eval", f"ckpt={trained}/best.ckpt", *common, CPU, "data.num_workers=0", "output=runs/a"
    )
    output = capsys.readouterr().out
    for title in ("COCO", "VID", "UAVDT", "slow", "long", "found"):
        assert title in output
    command("eval", *common, "data.annotations=data/demo/val.json", "output=runs/b")
    first, second = (json.loads((inside / f"runs/{run}/eval.json").read_text()) for run in "ab")
    assert {"map", "vid/ap_50", "motion/ap_50_slow", "uavdt/ap_70", "stability/found"} <= {*first}
    assert second == first


@pytest.fixture
def made(inside: Path) -> list[str]:
    """Arguments that name a set of two videos, one at night, and uneven but right detections."""
    document = json.loads((inside / "data/demo/val.json").read_text())
    names = sorted({image["video"] for image in document["images"]})
    document["videos"] = [{"id": 5, "name": names[1], "attributes": ["night"]}]
    (inside / "runs").mkdir(exist_ok=True)
    (inside / "runs/night.json").write_text(json.dumps(document))
    rows = [
        {key: row[key] for key in ("image_id", "category_id", "bbox")}
        | {"score": 0.9 if row["image_id"] % 2 else 0.5}
        for row in document["annotations"]
    ]
    (inside / "runs/made.json").write_text(json.dumps(rows))
    return ["predictions=runs/made.json", "data.annotations=runs/night.json"]


def test_linked_and_plain_are_shown_side_by_side(
    made: list[str], inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command("eval", *made, ALL, "output=runs/c")
    assert "seq_nms" not in capsys.readouterr().out
    command("eval", *made, ALL, "evaluation.tubelet_linking=seq_nms", "output=runs/d")
    labels = [
        line.split("│")[1].strip() for line in capsys.readouterr().out.split("\n") if "│" in line
    ]
    assert labels.count("+ seq_nms") == sum(label not in ("", "+ seq_nms") for label in labels) > 10
    plain, both = (json.loads((inside / f"runs/{run}/eval.json").read_text()) for run in "cd")
    assert {name: both[name] for name in plain} == pytest.approx(plain, nan_ok=True)
    linked = {name.removeprefix("seq_nms/"): both[name] for name in both if name not in plain}
    assert list(linked) == list(plain)
    assert plain["vid/ap_50"] == plain["vid/ap_50@night"] == pytest.approx(1)
    assert linked["stability/score_change"] < 0.5 * plain["stability/score_change"]
    assert linked["stability/score_change@night"] < 0.5 * plain["stability/score_change@night"]


def test_the_table_of_coco_alone_shows_linked_numbers_and_attributes(
    made: list[str], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command("eval", *made, "evaluation.tubelet_linking=seq_nms", "output=runs/e")
    output = capsys.readouterr().out
    assert "COCO AP (IoU 0.50:0.95)" in output
    lines = [line.split("│")[1:3] for line in output.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells[:2] == [["all objects", "100.0"], ["+ seq_nms", "100.0"]]
    assert cells[-2:] == [["videos: night", "100.0"], ["+ seq_nms", "100.0"]]


def test_protocols_are_those_of_the_data_it_was_trained_with(
    trained: Path, inside: Path, command: Command
) -> None:
    checkpoint = torch.load(trained / "last.ckpt", weights_only=True)
    checkpoint["vodet"]["config"]["evaluation"]["protocols"] = ["vid", "uavdt"]
    torch.save(checkpoint, inside / "runs/uavdt.ckpt")
    arguments = ["ckpt=runs/uavdt.ckpt", CPU, "data.num_workers=0", "output=runs/own"]
    for own, expected in (
        ([], {"vid", "uavdt"}),
        (["evaluation.protocols=stability"], {"stability"}),
    ):
        command("eval", *arguments, *own)
        result = json.loads((inside / "runs/own/eval.json").read_text())
        assert {name.split("/")[0] for name in result} == expected


@pytest.mark.parametrize(
    ("own", "trained", "expected"),
    [
        ([], None, Measures(["coco"])),
        ([], {"protocols": ["uavdt"]}, Measures(["uavdt"])),
        (["evaluation=uavdt", "evaluation.protocols=vid"], {"protocols": []}, Measures(["vid"])),
        (
            ["evaluation.tubelet_linking=none"],
            {"tubelet_linking": "rescore", "stability": {"score_threshold": 0.5}},
            Measures(["coco"], "none", 0.5),
        ),
    ],
)
def test_an_evaluation_is_as_configured_else_as_in_training(
    own: list[str], trained: object, expected: Measures
) -> None:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("eval", own)
    assert chosen(config, {"evaluation": trained}) == (expected, StreamingDetector)


def test_a_value_of_a_checkpoint_is_taken_as_it_is() -> None:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("eval")
    with pytest.raises(ConfigError, match=r"found \['\$\{oc.env:HOME\}'\]"):
        chosen(config, {"evaluation": {"protocols": "${oc.env:HOME}"}})


def test_detections_that_do_not_fit_are_named(
    made: list[str], inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((inside / "runs/night.json").read_text())
    document["images"][0]["is_annotated"] = False
    (inside / "runs/partly.json").write_text(json.dumps(document))
    rows = json.loads((inside / "runs/made.json").read_text())
    unknown = [row for row in rows if row["image_id"] == document["images"][0]["id"]]
    with pytest.raises(SystemExit, match="1"):
        command("eval", made[0], "data.annotations=runs/partly.json", "output=runs/f")
    message = " ".join(capsys.readouterr().err.split())
    assert "The predictions in runs/made.json cannot be evaluated." in message
    fault = f"{len(unknown)} of {len(rows)} entries have an image id "
    first = f"entry {rows.index(unknown[0])} {{'image_id': {unknown[0]['image_id']},"
    assert first in message.partition(fault)[2]
    assert not (inside / "runs/f").exists()


def test_linking_needs_scores_that_are_not_negative(
    made: list[str], inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((inside / "runs/made.json").read_text())
    rows[3]["score"] = -0.1
    (inside / "runs/logits.json").write_text(json.dumps(rows))
    arguments = ("predictions=runs/logits.json", made[1], "output=runs/g")
    command("eval", *arguments)
    with pytest.raises(SystemExit, match="1"):
        command("eval", *arguments, "evaluation.tubelet_linking=seq_nms")
    message = " ".join(capsys.readouterr().err.split())
    assert "tubelet_linking=seq_nms" in message
    assert f"found 1 of {len(rows)} detections" in message
    assert f"image id {rows[3]['image_id']}." in message


def test_one_protocol_needs_no_brackets(trained: Path, inside: Path, command: Command) -> None:
    arguments = [f"ckpt={trained}/best.ckpt", CPU, "data.num_workers=0", "output=runs/one"]
    command("eval", *arguments, "evaluation.protocols=vid")
    result = json.loads((inside / "runs/one/eval.json").read_text())
    assert {name.split("/")[0] for name in result} == {"vid"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("evaluation.protocols=[coco,voc]", "found ['coco', 'voc']"),
        ("evaluation.protocols=[]", "protocols must be one or more of coco, vid,"),
        ("evaluation.stability.score_threshold=low", "a number, found low."),
        ("evaluation.stability.score_threshold=nan", "a number, found nan."),
        (
            "evaluation.tubelet_linking=seq",
            "tubelet_linking must be one of none, seq_nms, rescore, rescore_online; found 'seq'.",
        ),
    ],
)
def test_wrong_choices_are_named_before_anything_is_read(
    inside: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    argument: str,
    message: str,
) -> None:
    with pytest.raises(SystemExit, match="1"):
        command("eval", "ckpt=none.ckpt", argument)
    assert message in " ".join(capsys.readouterr().err.split())


def test_says_what_is_missing(
    inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        command("eval", "predictions=found.json")
    assert "Expected ckpt=FILE, or predictions=FILE and data.annotations=FILE" in (
        capsys.readouterr().err
    )


def test_annotations_need_their_images(
    trained: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        command("eval", f"ckpt={trained}/best.ckpt", "data.annotations=data/demo/train.json")
    message = capsys.readouterr().err
    assert "Expected data.images=FOLDER" in message
    assert "data.annotations=data/demo/train.json" in message


def found_by(stream: VideoStream) -> dict[int, list[tuple[float, ...]]]:
    """What a stream finds in the videos of the validation set, by image id, from COCO's view."""
    index = read_st_coco(Path("data/demo/val.json"))
    found = {}
    for video in range(index.num_videos):
        rows = index.frames_of(video)
        results = [
            result
            for row in rows
            for result in stream.push(
                cv2.imread(f"data/demo/{index.file_name(row)}")[None, ..., ::-1]
            )
        ]
        for row, result in zip(rows, results + stream.flush(), strict=True):
            found[int(index.image_ids[row])] = rows_of(result.detections)
    return found


def rows_of(detections: Detections) -> list[tuple[float, ...]]:
    boxes = detections["boxes"].clone()
    boxes[:, 2:] -= boxes[:, :2]
    scores = detections["scores"][:, None]
    return torch.cat([boxes, scores], dim=1).tolist()


def test_augmented_evaluation_is_the_augmented_stream(
    lively: Path, inside: Path, command: Command
) -> None:
    arguments = [f"ckpt={lively}", CPU, "data.num_workers=0", "data.chunk_size=1"]
    views = [
        "evaluation.test_time_augmentation.flip=true",
        "evaluation.test_time_augmentation.scales=[1,1.5]",
    ]
    for name, options in (("plain", []), ("views", views)):
        command("eval", *arguments, *options, f"predictions=runs/{name}.json", "output=runs/tta")
    plain, written = (
        json.loads((inside / f"runs/{n}.json").read_text()) for n in ("plain", "views")
    )
    detector = vodet.load(lively)
    found = found_by(AugmentedStream(detector, flip=True, scales=(1.0, 1.5)))
    assert {row["image_id"] for row in written} == {*found}
    for image_id, rows in found.items():
        own = [(*row["bbox"], row["score"]) for row in written if row["image_id"] == image_id]
        assert np.array(own) == pytest.approx(np.array(rows), rel=1e-4, abs=1e-2)
    assert [row["score"] for row in plain[:5]] != [row["score"] for row in written[:5]]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("scales=[1.0,-1]", "such as [1.0, 1.25]; found [1.0, -1.0]."),
        ("scales=[1,1.0]", "such as [1.0, 1.25]; found [1.0, 1.0]."),
        ("scales=[]", "found []."),
        ("scales=1.5", "found flip=False, scales=1.5."),
        ("scales=[large]", "found flip=False, scales=['large']."),
        ("flip=horizontal", "found flip=horizontal, scales=[1.0]."),
    ],
)
def test_impossible_views_are_named_before_anything_is_read(
    inside: Path, command: Command, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    key = f"test_time_augmentation.{option}"
    for arguments in (
        ("eval", "ckpt=none.ckpt", f"evaluation.{key}"),
        ("predict", "ckpt=none.ckpt", "source=none", key),
    ):
        with pytest.raises(SystemExit, match="1"):
            command(*arguments)
        assert message in " ".join(capsys.readouterr().err.split())


def test_saved_predictions_have_no_views(
    inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        command("eval", "predictions=found.json", "evaluation.test_time_augmentation.flip=true")
    message = capsys.readouterr().err
    assert "evaluation.test_time_augmentation" in message
    assert "Set ckpt=FILE" in message


@pytest.mark.parametrize("linking", LINKINGS)
def test_a_video_is_linked_as_in_a_prediction(
    linking: str, lively: Path, inside: Path, command: Command
) -> None:
    ckpt = f"ckpt={lively}"
    command(
        "eval", ckpt, CPU, "data.num_workers=0", "data.chunk_size=1", "output=runs/linked",
        "predictions=runs/before_linking.json",
    )  # fmt: skip
    source = "source=data/demo/images/val/val_001"
    output = ("output=runs/linked", "score_threshold=0.0", "chunk_size=1", "device=cpu")
    command("predict", ckpt, source, *output, f"tubelet_linking={linking}")
    lines = (inside / "runs/linked/val_001_detections.jsonl").read_text().splitlines()
    in_prediction = [json.loads(line)["detections"] for line in lines]

    truth = read_st_coco(Path("data/demo/val.json")).ground_truth()
    predictions = read_predictions(Path("runs/before_linking.json"), truth)
    linked = link_tubelets(truth, predictions, linking)
    assert not np.array_equal(np.sort(linked.scores), np.sort(predictions.scores))
    for frame, found in zip(np.flatnonzero(truth.videos == 1), in_prediction, strict=True):
        own = linked[linked.image_ids == truth.image_ids[frame]]
        assert len(own) == len(found) > 0
        scores = [detection["score"] for detection in found]
        assert own.scores == pytest.approx(scores, abs=1e-4)
        boxes = np.array([detection["box"] for detection in found])
        assert own.boxes == pytest.approx(boxes, abs=0.01)


ODD_CONFIGS = [
    {"evaluation": 3},
    {"evaluation": {"stability": 3}},
    {"evaluation": {"stability": {"score_threshold": "high"}}},
    {"evaluation": {"protocols": {"coco": 1}}},
    {"evaluation": {"protocols": ["no_such"]}},
    {"evaluation": {"tubelet_linking": ["seq_nms"]}},
    {"evaluation": {"test_time_augmentation": {"flip": "yes"}}},
    {"data": 3},
    {"data": [1]},
    {"data": {"val": 3}},
    {"data": {"val": {"annotations": 3, "images": ["a"]}}},
    {"data": {"val": {"annotations": "a.json", "images": "https://named.invalid/frames"}}},
]


@pytest.mark.parametrize("config", ODD_CONFIGS)
def test_a_checkpoint_with_an_odd_config_is_one_error(
    config: dict[str, Any], inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(contents(config={"model": MODEL} | config), "odd.ckpt")
    with pytest.raises(SystemExit, match="1"):
        command("eval", "ckpt=odd.ckpt", CPU, "output=runs/odd")
    message = capsys.readouterr().err
    assert message.startswith("Error: ")
    assert "Traceback" not in message
    assert "odd.ckpt" in message or "data.images" in message


def test_images_at_a_url_are_opened_if_the_user_gives_it() -> None:
    url = "https://named.invalid/frames"
    trained = {"data": {"val": {"annotations": "a.json", "images": url}}}
    with pytest.raises(ConfigError, match=url):
        source(OmegaConf.create({"annotations": None, "images": None}), trained)
    given = source(OmegaConf.create({"annotations": None, "images": url}), trained)
    assert given == Source(annotations="a.json", images=url)
