"""Hostile configs: each must be refused, and nothing that it names may be called or opened."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import vodet
from tasks.small_checkpoint import MODEL, contents
from vodet.errors import CheckpointError, ConfigError
from vodet.features.backbone import TimmBackbone
from vodet.tasks.trust import trusted_config

_watch: list[str] | None = None
_LIBRARIES = (sys.prefix, sys.base_prefix, str(Path(vodet.__file__).parent), "/dev/null")
_IMPORTS = ("os.listdir", "os.scandir", "os.putenv")  # of modules of vodet
_LEAVING = ("socket.", "subprocess.", "os.", "shutil.", "urllib.", "http.")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what leaves the process; a hook stays for good, so it looks whether anyone watches."""
    if _watch is None:
        return
    if event == "open":
        path = str(arguments[0])
        if isinstance(arguments[0], str | bytes) and not path.startswith(_LIBRARIES):
            _watch.append(f"open {path}")
    elif event.startswith(_LEAVING) and event not in _IMPORTS:
        _watch.append(f"{event} {arguments}")


sys.addaudithook(_audit)


@contextmanager
def watched() -> Iterator[list[str]]:
    global _watch
    _watch = []
    try:
        yield _watch
    finally:
        _watch = None


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    """Loads a checkpoint with this content and checks that nothing but its file is opened."""
    path = tmp_path / "a.ckpt"

    def load_(checkpoint: Any, **options: Any) -> Any:
        torch.save(checkpoint, path)
        with watched() as events:
            try:
                return vodet.load(path, **options)
            finally:
                assert events == [f"open {path}"]

    return load_


def with_part(where: str, **changes: Any) -> dict[str, Any]:
    return MODEL | {where: MODEL[where] | changes}


def deep(depth: int, leaf: Any, width: int = 1) -> Any:
    for _ in range(depth):
        leaf = [leaf] * width
    return leaf


def circle() -> Any:
    result: list[Any] = []
    result.append(result)
    return result


FILE = str(Path(tempfile.gettempdir()) / "named_by_a_checkpoint")
URL = "https://named-by-a-checkpoint.invalid/weights.pth"
SOURCES: dict[str, dict[str, Any]] = {
    "pretrained": {"pretrained": True},
    "url": {"pretrained": True, "pretrained_cfg_overlay": {"url": URL, "hf_hub_id": None}},
    "hub": {"pretrained": True, "pretrained_cfg_overlay": {"hf_hub_id": "someone/model"}},
    "file": {"pretrained": True, "pretrained_cfg_overlay": {"file": FILE}},
    "folder": {
        "pretrained": True,
        "pretrained_cfg_overlay": {"source": "local-dir", "file": FILE},
    },
    "custom": {
        "pretrained": True,
        "pretrained_cfg_overlay": {"file": FILE, "custom_load": True},
    },
    "checkpoint_path": {"checkpoint_path": FILE},
    "checkpoint_url": {"checkpoint_path": URL},
    "cache": {"pretrained": True, "cache_dir": FILE},
}


@pytest.mark.parametrize("kind", SOURCES)
def test_no_source_of_pretrained_weights_is_opened(kind: str, load: Callable[..., Any]) -> None:
    detector = load(contents(with_part("backbone", **SOURCES[kind])))
    assert torch.equal(
        detector.backbone.net.conv1[0].weight,
        contents()["state_dict"]["detector.backbone.net.conv1.0.weight"],
    )


@pytest.mark.parametrize("kind", ["file", "folder", "custom", "checkpoint_path"])
def test_sources_are_opened_where_a_user_names_them(kind: str) -> None:
    """Otherwise the test above could not fail."""
    with pytest.raises(CheckpointError, match="Cannot load weights of test_resnet"):
        TimmBackbone("test_resnet", strides=(4, 8), **SOURCES[kind])


@pytest.mark.parametrize(
    "changes",
    [{"checkpoint_path": FILE}, {"checkpoint_path": URL}, {"pretrained": True}],
)
def test_the_flow_network_of_a_checkpoint_is_not_opened_either(
    changes: dict[str, Any], load: Callable[..., Any]
) -> None:
    fusion = {
        "_target_": "vodet.fusion.fgfa.FGFA",
        "_partial_": True,
        "embedding_width": 8,
        "flow_updates": 1,
    }
    with pytest.raises(CheckpointError, match="differences, the first ten"):
        load(contents(MODEL | {"fusion": fusion | changes}))


NESTED_SOURCE = {
    "_target_": "vodet.features.backbone.TimmBackbone",
    "name": "test_resnet",
    "pretrained": True,
    "pretrained_cfg_overlay": {"url": URL, "hf_hub_id": None},
}
HOSTILE: dict[str, Any] = {
    # names of models that are places
    "hub name": with_part("backbone", name="hf-hub:someone/model"),
    "old hub name": with_part("backbone", name="hf_hub:someone/model"),
    "folder name": with_part("backbone", name=f"local-dir:{FILE}"),
    "path name": with_part("backbone", name=FILE),
    "hub name as a tag": with_part("backbone", name="test_resnet.x:someone/model"),
    "hub name behind a model": with_part("backbone", name="test_resnet.hf-hub:someone/model"),
    "no name": with_part("backbone", name=None),
    "a number as name": with_part("backbone", name=3),
    # sources where none belongs
    "backbone in a list": MODEL | {"resize": [[NESTED_SOURCE]]},
    "backbone as an argument": MODEL | {"resize": MODEL["resize"] | {"_args_": [NESTED_SOURCE]}},
    "backbone in options": with_part("backbone", drop_path_rate=NESTED_SOURCE),
    "backbone as window": MODEL | {"window": NESTED_SOURCE},
    "backbone as partial": MODEL | {"fusion": NESTED_SOURCE | {"_partial_": True}},
    # classes and functions that are no parts of a detector
    "os": MODEL | {"resize": {"_target_": "os.system", "_args_": [f"touch {FILE}"]}},
    "os below a list": MODEL | {"resize": deep(5, {"_target_": "os.system", "_args_": ["true"]})},
    "torch": MODEL | {"resize": {"_target_": "torch.load", "f": FILE}},
    "torch through vodet": MODEL | {"resize": {"_target_": "vodet.detector.torch.load", "f": FILE}},
    "open": MODEL | {"resize": {"_target_": "builtins.open", "file": FILE, "mode": "w"}},
    "vodet.load": MODEL | {"resize": {"_target_": "vodet.load", "path": FILE}},
    "annotations": MODEL
    | {"resize": {"_target_": "vodet.data.annotations.st_coco.read_st_coco", "path": FILE}},
    "a writer of vodet": MODEL
    | {"resize": {"_target_": "vodet.tasks.report.PredictionsFile", "path": FILE}},
    "a data module": MODEL | {"resize": {"_target_": "vodet.data.clips.datamodule.ClipDataModule"}},
    "a method": MODEL | {"resize": {"_target_": "vodet.detector.VideoDetector.half"}},
    "a function of a part": MODEL
    | {"resize": {"_target_": "vodet.data.frames.resize.resize_frame"}},
    "partial": MODEL | {"resize": {"_target_": "functools.partial", "_args_": ["os.system"]}},
    "hydra": MODEL | {"resize": {"_target_": "hydra.utils.instantiate", "config": {}}},
    "target in a target": MODEL | {"resize": {"_target_": {"_target_": "os.system"}}},
    "target list": MODEL | {"resize": {"_target_": ["os.system"]}},
    "target number": MODEL | {"resize": {"_target_": 3}},
    "target of dots": MODEL | {"resize": {"_target_": "vodet..."}},
    # switches of Hydra
    "not recursive": with_part("head", _recursive_=False),
    "recursive of another type": with_part("head", _recursive_="no"),
    "partial of another type": with_part("head", _partial_=[1]),
    "whole detector as a partial of its own": {**MODEL, "_args_": [MODEL]},
    "arguments of another type": with_part("head", _args_=3),
    # interpolations
    "environment": with_part("head", channels="${oc.env:HOME}"),
    "decoded": with_part("head", channels="${oc.decode:8}"),
    "created": MODEL | {"resize": "${oc.create:{_target_: os.system}}"},
    "interpolated name": MODEL | {"resize": {"_target_": "${oc.decode:os.system}"}},
    "interpolated key": MODEL | {"resize": MODEL["resize"] | {"${oc.env:HOME}": 1}},
    "missing": with_part("head", channels="???"),
    # sizes
    "large": with_part("head", channels=10**12),
    "large for memory": with_part("head", channels=900_000),
    "large backbone": with_part("backbone", channels=[200_000] * 4),
    "negative": with_part("head", channels=-8),
    "zero": with_part("head", channels=0),
    "deep": MODEL | {"resize": deep(200, 1)},
    "wide": MODEL | {"resize": deep(12, 1, width=10)},
    "circle": MODEL | {"resize": circle()},
    # types
    "no model": None,
    "a list as model": [MODEL],
    "text as model": "vodet.detector.VideoDetector",
    "empty": {},
    "tensor": with_part("head", channels=torch.tensor(8)),
    "bytes": with_part("head", channels=b"8"),
    "set": with_part("head", channels={8}),
    "number as key": MODEL | {3: 4},
    "bytes as key": MODEL | {b"_target_": "os.system"},
    "text as a part": MODEL | {"head": "vodet.heads.centernet.CenterNetHead"},
    "window of text": MODEL | {"window": {"_target_": "vodet.structures.Window", "past": "all"}},
    "infinite": MODEL | {"window": {"_target_": "vodet.structures.Window", "past": float("inf")}},
    "no such argument": with_part("head", no_such_argument=1),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_configs(kind: str, load: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.ckpt") as caught:
        load(contents(HOSTILE[kind]))
    assert len(str(caught.value)) < 1000


EXPLOIT = "${oc.create:{_target_: builtins.open, file: '" + FILE + "', mode: w}}"


@pytest.mark.parametrize(
    "card",
    [
        3,
        [],
        {},
        {"class_names": ["car"]},
        {"config": {}},
        {"class_names": "car", "config": {}},
        {"class_names": {"car": 1}, "config": {}},
        {"class_names": ["car", 3, "kite"], "config": {"model": MODEL}},
        {"class_names": [["car"], "dog", "kite"], "config": {"model": MODEL}},
        {"class_names": ["car", {"_target_": "os.getcwd"}, "kite"], "config": {"model": MODEL}},
        {"class_names": ["car", "dog", None], "config": {"model": MODEL}},
        {"class_names": [], "config": {"model": MODEL}},
        {"class_names": ["car", "car", "kite"], "config": {"model": MODEL}},
        {"class_names": ["car", "dog\x1b[2J", "kite"], "config": {"model": MODEL}},
        {"class_names": ["car", "dog\nkite", "kite"], "config": {"model": MODEL}},
        {"class_names": ["car", "dog", "kite"], "config": [MODEL]},
        {"class_names": ["car", "dog", "kite"], "config": "model"},
        {"class_names": ["car", "dog", "kite"], "config": {"data": {}}},
        {"class_names": ["car", "dog", "kite"], "config": torch.zeros(3)},
    ],
)
def test_cards_of_wrong_types(card: Any, load: Callable[..., Any]) -> None:
    with pytest.raises(CheckpointError, match=r"a\.ckpt") as caught:
        load(contents() | {"vodet": card})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["${oc.env:HOME}", EXPLOIT, "${x", "a.b", "[/red] 行人"])
def test_class_names_are_text_alone(name: str, load: Callable[..., Any]) -> None:
    """Hydra would resolve them, and build what comes of it."""
    detector = load(contents(class_names=["car", name, "kite"]))
    assert detector.class_names == ("car", name, "kite")
    assert not Path(FILE).exists()


def test_class_names_of_a_data_set_are_text_alone() -> None:
    from omegaconf import OmegaConf

    from vodet.tasks.build import build_detector

    model = OmegaConf.create(MODEL | {"backbone": MODEL["backbone"] | {"pretrained": False}})
    model.backbone.checkpoint_path = None
    assert build_detector(model, ["car", EXPLOIT]).class_names == ("car", EXPLOIT)
    assert not Path(FILE).exists()
    with pytest.raises(Exception, match=r"dog.*x1b.2J") as caught:
        build_detector(model, ["car", "dog\x1b[2J"])
    assert isinstance(caught.value.__cause__, ConfigError)


def test_one_trusted_package_may_be_given_as_text() -> None:
    config = {"_target_": "collections.OrderedDict"}
    assert trusted_config(config, "collections", "a.ckpt") == config
    with pytest.raises(CheckpointError, match=r"trusted=\['collections'\]"):
        trusted_config(config, "c", "a.ckpt")
