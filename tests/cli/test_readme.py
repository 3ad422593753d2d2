"""Every command and every example of the README runs, in its order, on small data."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vodet
from cli.conftest import TINY, Command
from cli.test_two_stage import TINY_TWO_STAGE
from tiny import random_frames, tiny_detector
from tiny_detr import saved
from vodet.cli.app import config_dir
from vodet.cli.data import main
from vodet.cli.experiments import experiments
from vodet.inference.writing import VideoWriter
from vodet.structures import Window

README = (Path(__file__).parents[2] / "README.md").read_text()
SMALL_DETR = (
    "model.head.pretrained=model",
    "model.head.num_candidates=12",
    "model.head.width=16",
    "data.resize.height=64",
    "data.resize.width=64",
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false",
    "logger.tensorboard=null",
)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str = README) -> list[list[str]]:
    lines = "".join(blocks("bash", text)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line]


def is_of_public_data(command: list[str]) -> bool:
    """Whether a command needs a public data set: these run in test_experiments.py."""
    return any("uavdt" in word for word in command)


def conversions() -> list[list[str]]:
    """The commands in the table of public data sets."""
    return [
        shlex.split(line) for line in re.findall(r"`(vodet-data convert [^`]+ data/[^`]+)`", README)
    ]


def smaller(command: list[str]) -> list[str]:
    """The arguments of a command with those that make it quick, and a local model for the hub's."""
    name, *arguments = command
    if name == "vodet-data":
        return ["model" if "/" in argument else argument for argument in arguments]
    if name == "vodet-train":
        (experiment,) = (a for a in arguments if a.startswith("experiment="))
        if experiment in ("experiment=custom_detr", "experiment=custom_query_attention"):
            heads = "model.head.fusion.query_attention.heads=2"
            return [*arguments, *SMALL_DETR, *([heads] if "query" in experiment else [])]
        is_two_stage = experiment in ("experiment=demo_baseline", "experiment=demo_sltnet")
        tiny = (*TINY_TWO_STAGE, "model.head.width=64") if is_two_stage else TINY[1:]
        if not experiment.startswith("experiment=demo"):
            tiny = [setting for setting in tiny if not setting.startswith("prepare_data")]
        return [*arguments, *tiny, "trainer.max_epochs=1"]
    if name == "vodet-eval":
        return [*arguments, "trainer.accelerator=cpu", "data.num_workers=0"]
    return arguments


@pytest.fixture
def newcomer(inside: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the README speaks of."""
    for split in ("train", "val"):
        document = json.loads((inside / f"data/demo/{split}.json").read_text())
        for image in document["images"]:
            image["video"] = image["video"].replace("train_000", "street_001")
        (inside / f"{split}.json").write_text(json.dumps(document))
    if not (inside / "frames").exists():
        (inside / "frames").symlink_to(inside / "data" / "demo")
    with VideoWriter(inside / "street.mp4", 5) as video:
        for frame in random_frames(4):
            video.write(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()))
    saved(inside / "model", size={"height": 64, "width": 64})
    (inside / "my_package.py").write_text(blocks("python")[1])
    (yaml,) = blocks("yaml")
    path = inside / yaml.splitlines()[0].removeprefix("# ")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml)
    monkeypatch.syspath_prepend(inside)
    return inside


def test_commands(newcomer: Path, command: Command) -> None:
    ran = []
    for words in commands():
        if is_of_public_data(words):
            continue
        if words[0].startswith("scripts/"):
            assert (Path(__file__).parents[2] / words[0]).is_file()
        elif words[0] == "pip":
            assert words[1:] == ["install", ".[transformers]"]
        elif words[0] == "vodet-data":
            assert main(smaller(words)) == 0
        else:
            command(words[0].removeprefix("vodet-"), *smaller(words))
        ran.append(words[0])
    assert len(ran) >= 12
    assert (newcomer / "runs/predict/street_detections.mp4").is_file()


def test_notebook_example(trained: Path, newcomer: Path) -> None:
    example = blocks("python")[0].replace("runs/demo/best.ckpt", str(trained / "best.ckpt"))
    scope: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert scope["frame"].index == 3
    assert scope["picture"].shape == (64, 64, 3)
    detector = vodet.from_pretrained(newcomer / "street-detector")
    assert detector.class_names == scope["detector"].class_names
    assert detector.about["metrics"].keys() == {"val/map"}


def test_fusion_example() -> None:
    scope: dict[str, object] = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), scope)
    stream = vodet.StreamingDetector(tiny_detector(scope["MaxFusion"], Window(past=1)))
    assert len(stream.push(random_frames(3))) == 3


def test_experiments_that_are_named_exist() -> None:
    named = set(re.findall(r"\bexperiment=(\w+)", README))
    named |= set(re.findall(r"`(\w+_(?:stf|sltnet|selsa|faster_rcnn|centernet))`", README))
    assert named >= {"demo", "custom", "custom_detr", "uavdt_stf", "imagenet_vid_sltnet"}
    files = {path.stem for path in (config_dir() / "experiment").glob("*.yaml")}
    assert {name for name in named if not name.startswith("_")} <= files | set(
        experiments(config_dir())
    )


def test_is_short() -> None:
    assert len(README.splitlines()) <= 150
