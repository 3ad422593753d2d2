from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny import candidate_fusions_of, tiny_detector, tiny_two_stage
from vodet.detector import VideoDetector
from vodet.errors import CheckpointError
from vodet.fusion.none import NoFusion
from vodet.structures import Window
from vodet.tasks.checkpoint import CARD_KEY, model_card
from vodet.tasks.init_from import init_from


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
        second.head.box_head.encoder[0].weight, first.head.box_head.encoder[0].weight
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
    with pytest.raises(CheckpointError, match="another architecture, as no weight of the back"):
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
