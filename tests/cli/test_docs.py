"""The examples and commands of the pages in docs/ run; test_experiments.py has data-sets.md."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from cli.conftest import TINY, Command
from cli.test_readme import blocks, commands, smaller
from heads.test_two_stage import OBJECTS, batch_of
from inference.made_videos import picture, write_image, write_video
from tasks.small_checkpoint import contents
from tiny import random_frames, tiny_detector, tiny_two_stage
from vodet.detector import VideoDetector
from vodet.streaming import StreamingDetector
from vodet.structures import Window

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "temporal-fusion.md").read_text()


@pytest.fixture(scope="module")
def scope() -> dict[str, Any]:
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL))
    names: dict[str, Any] = {"__name__": "my_methods"}
    exec(compile(code, "docs/temporal-fusion.md", "exec"), names)
    return names


def detector_of(scope: dict[str, Any], name: str) -> VideoDetector:
    if name == "MostAlike":
        return tiny_two_stage({"alike": scope[name]}, Window(past=2))
    return tiny_detector(scope[name], Window(past=2))


@pytest.mark.parametrize("name", ["ExponentialMean", "BrightnessMean", "MostAlike"])
def test_example_streams_and_trains(scope: dict[str, Any], name: str) -> None:
    detector = detector_of(scope, name)
    frames = random_frames(5)
    at_once = StreamingDetector(detector).push(frames)
    stream = StreamingDetector(detector)
    one_by_one = [result for frame in frames for result in stream.push(frame)]
    for a, b in zip(at_once, one_by_one, strict=True):
        torch.testing.assert_close(
            a.detections["scores"], b.detections["scores"], rtol=1e-4, atol=1e-5
        )
    losses = detector.train().losses(batch_of([[OBJECTS] * 3] * 2, 3, history=2))
    torch.stack(list(losses.values())).sum().backward()
    for parameter, weight in detector.named_parameters():
        assert weight.grad is not None, parameter
        assert weight.grad.isfinite().all(), parameter


def test_modules_that_are_named_exist() -> None:
    source = Path(__file__).parents[2] / "src"
    named = set(re.findall(r"`(vodet\.[a-z_.]+)`", TEXT))
    assert len(named) >= 4
    for name in named:
        assert (source / f"{name.replace('.', '/')}.py").is_file(), name


# resume=last continues the run that had early stopping, without it: Lightning says so.
@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.:UserWarning")
def test_commands_of_the_page_on_training(
    inside: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(inside / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    small = (*TINY, "data_dir=data")
    command("train", *small, "run_dir=runs/street")
    page = commands((DOCS / "training.md").read_text())
    for words in page:
        name, *arguments = words
        if name == "vodet-eval":
            command("eval", *smaller(words))
        elif any("demo_baseline" in word or "demo_sltnet" in word for word in words):
            command("train", *smaller(words), "data_dir=data")
        else:
            command("train", *small, *arguments)
    assert len(page) == 12
    (resumed,) = OmegaConf.load("runs/street/resumes.yaml")
    assert resumed.changes["trainer.max_epochs"] == 20
    (cache,) = Path("data/demo/candidate_cache").glob("*/frames.json")
    assert json.loads(cache.read_text())["frames"] > 0


def test_page_on_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(contents(class_names=["car", "dog", "person"]), "best.ckpt")
    write_video(tmp_path / "street.mp4", 3)
    write_image(tmp_path / "photo.jpg", picture())
    scope: dict[str, Any] = {}
    examples = blocks("python", (DOCS / "python.md").read_text())
    for number, example in enumerate(examples):
        exec(compile(example, f"docs/python.md, example {number}", "exec"), scope)
    assert [len(scope[name]) for name in ("photos", "video", "frames")] == [2, 2, 3]
    assert scope["picture"].shape == scope["frames"][0].image.shape
    assert len(scope["table"]) == sum(len(each.detections["scores"]) for each in scope["frames"])
    assert (tmp_path / "street-detector" / "README.md").is_file()
    assert len(examples) == 8


def test_commands_of_the_page_on_evaluation(
    inside: Path, lively: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(inside / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    for run in ("baseline", "sltnet"):
        Path("runs", run).mkdir(parents=True)
        shutil.copy(lively, f"runs/{run}/best.ckpt")
    page = commands((DOCS / "evaluation.md").read_text())
    assert [words[0] for words in page] == ["vodet-eval"] * 3
    for _, *arguments in page:
        command("eval", *arguments, "trainer.accelerator=cpu", "data.num_workers=0")
    text = Path("runs/compared/report.html").read_text()
    assert "Comparison of 2 evaluations" in text
    assert "baseline/eval" in text
