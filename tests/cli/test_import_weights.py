from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn

import vodet
from tasks.lively import lively, resnet_fpn
from tasks.made_up import (
    RESNET101,
    attention_weights,
    baseline_weights,
    body_shapes,
    cell_anchors,
    head_shapes,
    pixel_buffers,
    random_weights,
)
from vodet.cli import data
from vodet.cli.import_weights import class_names
from vodet.errors import ConfigError, VodetError
from vodet.structures import Window
from vodet.tasks.torchvision_weights import COCO

CLASSES = ("--classes", "car,dog,kite")
SMALL = {"resize.short_side": 64, "resize.long_side": 96}  # for speed


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return baseline_weights()


@pytest.fixture(scope="module")
def source(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As SLTnet writes its last checkpoint."""
    path = tmp_path_factory.mktemp("detectron2") / "model_final.pth"
    model = OrderedDict(weights | attention_weights() | cell_anchors())
    torch.save({"model": model, "optimizer": {"state": {}}, "iteration": 9}, path)
    return path


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def run(source: Path, target: Path, *options: str, program: str = "sltnet") -> int:
    return data.main(["import-weights", program, str(source), str(target), *options])


def error_of(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert run(*arguments) == 1
    return capsys.readouterr().err


def results(path: Path) -> list[dict[str, Tensor]]:
    detector = vodet.load(path, overrides=SMALL)
    stream = vodet.StreamingDetector(detector)
    generator = torch.Generator().manual_seed(3)
    frames = torch.randint(0, 256, (2, 60, 90, 3), dtype=torch.uint8, generator=generator)
    return [dict(a.detections) for a in (*stream.push(frames.numpy()), *stream.flush())]


def assert_detects(path: Path) -> None:
    found = results(path)
    assert len(found) == 2
    for frame in found:
        assert len(frame["boxes"]) > 0
        assert frame["boxes"].isfinite().all()
        assert frame["scores"].isfinite().all()


def test_sltnet(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "sltnet.ckpt"

    assert run(source, target, *CLASSES) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "SLTnet, resnet50, 3 classes, width=64, layers=2, advanced_share=0.0, geometry=True, "
        "group_width=16",
        f"Loaded from {source}: 317 weights: backbone (265), pyramid (16), head.rpn (6), "
        "head.box_head (8), head.fusion (20), head.st_head (2)",
        "Input: BGR, mean [103.53, 116.28, 123.675], std [1.0, 1.0, 1.0] (defaults of detectron2), "
        "strides in the 1 x 1 convolutions",
        f"Next: vodet-eval ckpt={target} data.annotations=FILE data.images=FOLDER",
    ]
    detector = vodet.load(target)
    assert detector.class_names == ("car", "dog", "kite")
    assert detector.window == Window(past=3, future=3)
    assert_detects(target)
    assert [path.name for path in target.parent.iterdir()] == ["sltnet.ckpt"]


def test_baseline_of_the_model_zoo(
    weights: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pickle of arrays, with buffers for the input."""
    path, target = tmp_path / "model_final.pkl", tmp_path / "baseline.ckpt"
    model = weights | pixel_buffers([103.53, 116.28, 123.675], [57.375, 57.12, 58.395])
    arrays = {name: value.numpy() for name, value in model.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    (tmp_path / "names.txt").write_text("car\ndog\n\nkite \n")

    assert run(path, target, "--classes", str(tmp_path / "names.txt")) == 0

    text = capsys.readouterr().out
    assert text.startswith("Faster R-CNN, resnet50, 3 classes\n")
    assert "57.375, 57.12, 58.395] (from the file), strides in the 3 x 3 conv" in text
    detector = vodet.load(target)
    assert detector.window == Window(past=0)
    assert detector.class_names == ("car", "dog", "kite")
    assert_detects(target)


@pytest.mark.parametrize(
    ("program", "size"), [("sltnet", (600, 1000)), ("detectron2", (800, 1333))]
)
def test_a_model_of_detectron2_for_coco(
    program: str, size: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = tmp_path / "model_final.pkl", tmp_path / "coco.ckpt"
    weights = random_weights({**dict(body_shapes(RESNET101)), **dict(head_shapes(classes=80))})
    arrays = {name: value.numpy() for name, value in (weights | cell_anchors()).items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))

    assert run(path, target, program=program) == 0

    assert capsys.readouterr().out.startswith("Faster R-CNN, resnet101, 80 classes\n")
    detector = vodet.load(target)
    assert (detector.resize.short_side, detector.resize.long_side) == size
    assert detector.class_names == COCO
    assert_detects(target)


def test_torchvision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = tmp_path / "own.pth", tmp_path / "own.ckpt"
    torch.save({"model": lively(resnet_fpn, num_classes=4).state_dict(), "epoch": 3}, path)

    assert run(path, target, *CLASSES, program="torchvision") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Faster R-CNN of torchvision, resnet18, 4 outputs"
    assert lines[1].startswith(f"Loaded from {path}: 130 weights: backbone (100), pyramid (16), ")
    assert "frozen batch norm with eps 0.0 in the backbone" in lines[2]
    detector = vodet.load(target)
    assert detector.window == Window(past=0)
    assert (detector.resize.short_side, detector.resize.long_side) == (800, 1333)
    assert detector.class_names == ("car", "dog", "kite")
    assert_detects(target)


MOBILENET = "torchvision_mobilenet_v3_large_fpn"
MOBILENET_320 = "torchvision_mobilenet_v3_large_320_fpn"


@pytest.mark.parametrize(
    ("options", "sides", "proposals", "settings", "other"),
    [
        ((), (800, 1333), 1000, MOBILENET, MOBILENET_320),
        (("--base", MOBILENET), (800, 1333), 1000, MOBILENET, MOBILENET_320),
        (("--base", MOBILENET_320), (320, 640), 150, MOBILENET_320, MOBILENET),
    ],
)
def test_a_mobilenet_of_torchvision(
    options: tuple[str, ...],
    sides: tuple[int, int],
    proposals: int,
    settings: str,
    other: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, target = tmp_path / "own.pth", tmp_path / "own.ckpt"
    net = lively(fasterrcnn_mobilenet_v3_large_fpn, num_classes=4)
    torch.save(net.state_dict(), path)

    assert run(path, target, *CLASSES, *options, program="torchvision") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Faster R-CNN of torchvision, mobilenet_v3_large, 4 outputs"
    assert lines[3] == f"Settings: {settings}. --base chooses {other}, which also fits."
    detector = vodet.load(target)
    assert (detector.resize.short_side, detector.resize.long_side) == sides
    assert detector.head.limits[False].post_nms_top_n == proposals
    assert_detects(target)


def test_a_base_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = tmp_path / "own.pth", tmp_path / "own.ckpt"
    torch.save(lively(resnet_fpn, num_classes=4).state_dict(), path)
    options = (*CLASSES, "--base", MOBILENET)
    assert run(path, target, *options, program="torchvision") == 1
    message = capsys.readouterr().err
    assert "--base: expected torchvision_resnet50_fpn, which" in message
    assert f"found '{MOBILENET}'" in message
    assert run(path, target, "--base", MOBILENET, program="transformers") == 1
    assert "--base is for weights of torchvision" in capsys.readouterr().err
    assert not target.exists()


def test_weights_of_the_other_program(
    weights: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": weights}, path)
    assert run(path, tmp_path / "a.ckpt", program="torchvision") == 1
    message = capsys.readouterr().err
    assert "torchvision's Faster R-CNN with FPN" in message
    assert "backbone.body.layer1.0.conv2.weight: expected a tensor with 4 dimensions" in message


def test_a_target_that_is_there(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "a.ckpt"
    target.write_text("mine")

    assert "exists already. Choose another DST, or replace it with --overwrite." in error_of(
        capsys, source, target, *CLASSES
    )
    assert target.read_text() == "mine"

    assert run(source, target, *CLASSES, "--overwrite") == 0
    assert vodet.load(target).class_names == ("car", "dog", "kite")


class Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_that_would_run_code(
    is_zip: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = tmp_path / "a.pth", tmp_path / "a.ckpt"
    content = {"model": {"a": torch.zeros(1)}, "hook": Touches(tmp_path / "touched")}
    if is_zip:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))

    message = error_of(capsys, path, target)

    assert "it contains io.open, expected only tensors" in message
    assert not (tmp_path / "touched").exists()
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "found no such file"),
        ({"weights": {}}, "from names to tensors"),
        ({"model": {"conv1_w": torch.zeros(1)}}, "It has 1 weights, such as 'conv1_w'"),
    ],
)
def test_files_that_are_refused(
    content: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pth"
    if content is not None:
        torch.save(content, path)
    message = error_of(capsys, path, tmp_path / "a.ckpt")
    assert message.startswith("Error: ")
    assert expected in message
    assert not (tmp_path / "a.ckpt").exists()


def test_weights_that_do_not_fit(
    weights: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": weights | {"more": torch.zeros(2)}}, path)
    message = error_of(capsys, path, tmp_path / "a.ckpt", *CLASSES)
    assert "1 difference:\n  more: the detector has no such weight, found shape (2,)" in message
    assert not (tmp_path / "a.ckpt").exists()


def test_classes_are_asked_for(
    weights: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": weights}, path)
    message = error_of(capsys, path, tmp_path / "a.ckpt")
    assert "The weights are for 3 classes" in message
    assert "--classes with 3 names" in message


def test_names_of_imagenet_vid() -> None:
    names = class_names(None, 30)
    assert len(names) == len(set(names)) == 30
    assert names == sorted(names)
    assert (names[0], names[9], names[12], names[29]) == (
        "airplane",
        "domestic_cat",
        "giant_panda",
        "zebra",
    )
    other = [f"class {number}" for number in range(30)]
    assert class_names(",".join(other), 30) == other


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("car,dog", "found 2 separated by commas (there is no such file): car, dog."),
        ("names.txt", "found 1 separated by commas (there is no such file): names.txt."),
        ("car,dog,car", "found 3 separated by commas (there is no such file): car, dog, car."),
        (",", "found 0 separated by commas (there is no such file): nothing."),
        ("a,b,c,d,e,f", "found 6 separated by commas (there is no such file): a, b, c, d, e, ..."),
    ],
)
def test_names_that_do_not_fit(text: str, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        class_names(text, 3)
    assert isinstance(caught.value, VodetError)
    assert str(caught.value).startswith("--classes: expected 3 different names")
    assert found in str(caught.value)


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        data.main(["import-weights", "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert text.index("examples:") < text.index("  vodet-data import-weights sltnet model_final")
