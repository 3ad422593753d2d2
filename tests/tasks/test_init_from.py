from __future__ import annotations

import pickle
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn

from tasks.lively import lively, resnet_fpn
from tasks.made_up import attention_weights, baseline_weights
from tiny import candidate_fusions_of, tiny_detector, tiny_two_stage
from vodet.cli.app import config_dir
from vodet.detector import VideoDetector
from vodet.errors import CheckpointError
from vodet.fusion.none import NoFusion
from vodet.model_folder import model_card
from vodet.structures import Window
from vodet.tasks.build import build_detector
from vodet.tasks.checkpoint import CARD_KEY
from vodet.tasks.init_from import init_from
from vodet.tasks.torchvision_weights import COCO


def saved(detector: VideoDetector, folder: Path) -> Path:
    path = folder / "first.ckpt"
    weights = {f"detector.{name}": value for name, value in detector.state_dict().items()}
    torch.save(
        {
            CARD_KEY: model_card(detector, None),
            "state_dict": weights,
            "optimizer_states": [{"lr": 1.0}],
        },
        path,
    )
    return path


def test_a_second_phase_takes_the_first_and_says_what_is_new(tmp_path: Path) -> None:
    first = tiny_two_stage({}, Window(), seed=1)
    second = tiny_two_stage(candidate_fusions_of("sltnet"), Window(past=1), seed=2)
    new = {n: v.clone() for n, v in second.state_dict().items() if n not in first.state_dict()}

    report = init_from(second, saved(first, tmp_path))

    for name, value in second.state_dict().items():
        expected = new[name] if name in new else first.state_dict()[name]
        assert torch.equal(value, expected), name
    assert set(report.loaded) == set(first.state_dict())
    assert set(report.new) == set(new)
    assert (report.left, report.reshaped, report.class_names) == ((), (), None)
    lines = str(report).splitlines()
    assert lines[0].startswith(f"Loaded from {tmp_path}/first.ckpt: {len(report.loaded)} weights: ")
    assert "head.box_head (8)" in lines[0]
    count = f"{len(new)} weights: head.fusion (20), head.st_head (2)"
    assert lines[1] == f"New, with initial values: {count}"


def test_what_does_not_fit_is_left_and_named(tmp_path: Path) -> None:
    first = tiny_two_stage(
        candidate_fusions_of("max"), Window(), class_names=("cat", "dog"), seed=1
    )
    second = tiny_two_stage({}, Window(), class_names=("cat", "dog", "cow"), seed=2)
    before = second.head.box_head.classifier.weight.clone()

    report = init_from(second, saved(first, tmp_path))

    assert torch.equal(second.head.box_head.classifier.weight, before)
    assert torch.equal(
        second.head.box_head.encoder[1].weight, first.head.box_head.encoder[1].weight
    )
    assert set(report.left) == {n for n in first.state_dict() if n.startswith("head.st_")}
    assert report.reshaped[0] == (
        "head.box_head.classifier.weight: expected shape (4, 16), found (3, 16)"
    )
    assert "Left in the checkpoint: " in str(report)
    assert "other shape or type: head.box_head.classifier.weight" in str(report)
    assert "The checkpoint has other classes, cat, dog:" in str(report)


def test_another_architecture_is_an_error(tmp_path: Path) -> None:
    path = saved(tiny_two_stage({}, Window()), tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = {
        name.replace("backbone.", "backbone.other."): value
        for name, value in checkpoint["state_dict"].items()
    }
    torch.save(checkpoint, path)
    with pytest.raises(
        CheckpointError, match=r"another architecture: only 0 of the \d+ weights of backbone"
    ):
        init_from(tiny_two_stage({}, Window()), path)


def test_frozen_parts_must_be_in_the_checkpoint(tmp_path: Path) -> None:
    path = saved(tiny_detector(NoFusion, Window()), tmp_path)  # CenterNet on the same backbone
    second = tiny_two_stage(candidate_fusions_of("max"), Window())
    second.frozen = ("backbone", "head.rpn")
    before = {name: value.clone() for name, value in second.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        init_from(second, path)
    message = str(caught.value)
    assert "model.frozen: backbone, head.rpn" in message
    assert "6 weights" in message
    assert "  head.rpn.net.cls_logits.weight" in message
    assert all(torch.equal(v, before[n]) for n, v in second.state_dict().items())  # nothing loaded


def test_a_map_fusion_can_be_begun_from_a_baseline(tmp_path: Path) -> None:
    from tiny import fusion_of

    path = saved(tiny_detector(NoFusion, Window(), seed=1), tmp_path)
    report = init_from(tiny_detector(fusion_of("stf"), Window(past=1), seed=2), path)
    assert {name.split(".")[0] for name in report.new} == {"fusion"}


def detector_of(base: str, *changes: str, names: tuple[str, ...]) -> VideoDetector:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("train", ["data=custom", "window=single", f"base={base}", *changes])
    return build_detector(config.model, names)


@pytest.mark.parametrize("names", [("car", "dog", "kite"), ("car", "dog")])
@pytest.mark.parametrize("is_zip", [True, False])
def test_weights_of_torchvision(names: tuple[str, ...], is_zip: bool, tmp_path: Path) -> None:
    path, net = tmp_path / "a.pth", lively(resnet_fpn, num_classes=4)
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=is_zip)
    base = "torchvision_resnet50_fpn"
    detector = detector_of(base, "model.backbone.name=resnet18", names=names)

    report = init_from(detector, path)

    theirs, ours = net.state_dict(), detector.state_dict()
    for their_name, name in (
        ("backbone.body.layer3.1.bn2.running_var", "backbone.net.layer3.1.bn2.running_var"),
        ("backbone.fpn.layer_blocks.1.0.weight", "pyramid.net.layer_blocks.1.0.weight"),
        ("roi_heads.box_head.fc7.bias", "head.box_head.encoder.3.bias"),
    ):
        assert torch.equal(ours[name], theirs[their_name])
    classifier = ours["head.box_head.classifier.bias"]
    expected = theirs["roi_heads.box_predictor.cls_score.bias"][[1, 2, 3, 0]]
    assert torch.equal(classifier, expected) == (len(names) == 3)
    assert len(report.reshaped) == (0 if len(names) == 3 else 4)
    assert report.left == ()
    assert all(name.endswith("num_batches_tracked") for name in report.new)
    assert f"the settings of base={base}" in str(report)


def test_weights_of_a_mobilenet_of_torchvision(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    net = lively(fasterrcnn_mobilenet_v3_large_fpn, num_classes=4)
    torch.save(net.state_dict(), path)
    base = "torchvision_mobilenet_v3_large_320_fpn"
    report = init_from(detector_of(base, names=("car", "dog", "kite")), path)
    assert (report.new, report.left, report.reshaped) == ((), (), ())
    assert f"base=torchvision_mobilenet_v3_large_fpn or base={base}" in str(report)


@pytest.mark.parametrize("is_pickle", [True, False])
def test_weights_of_detectron2(is_pickle: bool, tmp_path: Path) -> None:
    weights, path = baseline_weights(), tmp_path / "a.pkl"
    if is_pickle:
        arrays = {name: value.numpy() for name, value in weights.items()}
        path.write_bytes(pickle.dumps({"model": arrays | {"pixel_mean": np.zeros(3)}}))
    else:
        torch.save({"model": weights}, path)
    small = ("model.pyramid.channels=16", "model.head.width=64")
    detector = detector_of("detectron2_resnet50_fpn", *small, names=("car", "dog", "kite"))

    report = init_from(detector, path)

    assert len(report.loaded) == len(weights)
    assert (report.left, report.reshaped, report.class_names) == ((), (), None)
    assert torch.equal(
        detector.state_dict()["head.box_head.regressor.weight"],
        weights["roi_heads.box_predictor.bbox_pred.weight"],
    )


def test_an_attention_of_sltnet(tmp_path: Path) -> None:
    path, extra = tmp_path / "a.pth", attention_weights()
    torch.save({"model": baseline_weights() | extra}, path)
    detector = detector_of(
        "detectron2_resnet50_fpn",
        "model/head/fusion=sltnet",
        "model.pyramid.channels=16",
        "model.head.width=64",
        "model.head.fusion.attention.group_width=16",
        names=("car", "dog", "kite"),
    )
    report = init_from(detector, path)
    assert (report.left, report.reshaped) == ((), ())
    value = detector.state_dict()["head.fusion.members.attention.attentions.0.value.weight"]
    assert torch.equal(value, extra["roi_heads.st_box_head.Wvs.0.weight"][:, :, 0, 0])


def test_weights_of_a_detector_for_coco_take_its_classes_along(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(lively(resnet_fpn, num_classes=91).state_dict(), path)
    base, body = "torchvision_resnet50_fpn", "model.backbone.name=resnet18"
    report = init_from(detector_of(base, body, names=("car", "dog")), path)
    assert report.class_names == COCO
    assert init_from(detector_of(base, body, names=COCO), path).class_names is None
