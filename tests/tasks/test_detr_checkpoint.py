"""Checkpoints of detectors of the transformers library need neither a network nor a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import vodet
from tasks.test_trust import watched
from tiny import random_frames
from tiny_detr import saved
from vodet.cli.train import begin
from vodet.detector import VideoDetector
from vodet.errors import CheckpointError, ConfigError
from vodet.model_folder import model_card
from vodet.tasks.build import build_detector
from vodet.tasks.checkpoint import CARD_KEY
from vodet.tasks.init_from import init_from

omegaconf = pytest.importorskip("omegaconf")


def model_config(folder: Path, **values: Any) -> dict[str, Any]:
    return {
        "_target_": "vodet.detector.VideoDetector",
        "backbone": {"_target_": "vodet.features.no_backbone.NoBackbone"},
        "pyramid": {"_target_": "vodet.features.pyramid.Identity", "_partial_": True},
        "fusion": {"_target_": "vodet.fusion.none.NoFusion", "_partial_": True},
        "head": {
            "_target_": "vodet.heads.detr.DetrHead",
            "_partial_": True,
            "pretrained": str(folder),
            "num_candidates": 12,
        },
        "window": {"_target_": "vodet.structures.Window"},
        "resize": {"_target_": "vodet.data.frames.resize.OriginalSize"},
        **values,
    }


def built(config: dict[str, Any], *class_names: str) -> VideoDetector:
    return build_detector(omegaconf.OmegaConf.create(config), class_names)


def save(detector: VideoDetector, config: dict[str, Any] | None, path: Path) -> Path:
    weights = {f"detector.{name}": value for name, value in detector.state_dict().items()}
    card = model_card(detector, config and {"model": config})
    torch.save({"state_dict": weights, CARD_KEY: card}, path)
    return path


def test_a_checkpoint_loads_without_the_folder_that_its_config_names(tmp_path: Path) -> None:
    config = model_config(saved(tmp_path / "model", do_normalize=True))
    detector = built(config, "a", "b", "c").eval()
    path = save(detector, config, tmp_path / "detr.ckpt")
    shutil.rmtree(tmp_path / "model")

    with watched() as events:
        loaded = vodet.load(path)
    assert events == [f"open {path}"]
    folder = tmp_path / "saved"
    loaded.save_pretrained(folder)
    with watched() as events:
        shared = vodet.from_pretrained(folder)
    assert events == [f"open {folder}/{name}" for name in ("config.json", "model.safetensors")]

    frames = random_frames(2)
    with torch.inference_mode():
        own, *others = (each.encode(frames).extras for each in (detector, loaded, shared))
    for found in others:
        for name in ("head.boxes", "head.class_scores", "head.features"):
            assert torch.equal(own[name], found[name])
    assert loaded.class_names == shared.class_names == ("a", "b", "c")


def test_settings_of_a_checkpoint_are_trusted_no_more_than_its_config(tmp_path: Path) -> None:
    config = model_config(saved(tmp_path / "model"))
    path = save(built(config, "a", "b", "c"), config, tmp_path / "detr.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    settings = checkpoint[CARD_KEY]["settings"]["head"]
    for evil in (
        settings | {"_target_": "os.system"},
        settings | {"config": {"x": {"_target_": "os.system"}}},
    ):
        checkpoint[CARD_KEY]["settings"] = {"head": evil}
        torch.save(checkpoint, path)
        with pytest.raises(CheckpointError, match=r"names 'os\.system', which is not part of"):
            vodet.load(path)
    checkpoint[CARD_KEY]["settings"] = {"head": settings | {"config": {"model_type": "a/b"}}}
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match=r"must not name files or addresses.*found 'a/b'"):
        vodet.load(path)
    checkpoint[CARD_KEY]["settings"] = 3
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match=r"damaged.*found 3 as its settings"):
        vodet.load(path)


def test_another_detector_of_the_library_is_another_architecture(tmp_path: Path) -> None:
    config = model_config(saved(tmp_path / "a"))
    path = save(built(config, "a", "b", "c"), config, tmp_path / "detr.ckpt")
    same = init_from(built(config, "a", "b", "c"), path)
    assert same.new == same.left == same.reshaped == ()
    fewer = init_from(built(config, "a"), path)
    assert any("class_embed" in line for line in fewer.reshaped)
    other = built(model_config(saved(tmp_path / "b", "rf_detr")), "a", "b", "c")
    with pytest.raises(
        CheckpointError, match=r"another architecture: .* \d+ of the \d+ weights of head\.model"
    ):
        init_from(other, path)


def test_a_pretrained_detector_can_be_frozen_but_not_one_with_new_layers(tmp_path: Path) -> None:
    fusion = {
        "_target_": "vodet.fusion.selsa.SELSA",
        "_partial_": True,
        "width": 16,
        "heads": 2,
    }
    config = model_config(saved(tmp_path), frozen=["head.model"])
    config["head"] |= {"width": 16, "fusion": {"selsa": fusion}}
    run = omegaconf.OmegaConf.create({"init_from": None})
    assert begin(run, built(config, "a", "b", "c")) is None
    with pytest.raises(ConfigError, match=r"head\.model, .* are random"):
        begin(run, built(config, "a", "b"))
