"""Every experiment on a public data set, in small: converted, trained for two steps, evaluated."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cli.conftest import Command
from cli.test_readme import blocks, commands, conversions, is_of_public_data
from miniatures import MINIATURES
from vodet.cli.app import config_dir
from vodet.cli.data import main as vodet_data

pytestmark = pytest.mark.slow

DATA_SETS = ("cityscapes", "imagenet_vid", "kitti_mots", "mot17", "uavdt")
# Every data set, and one data set with every method; test_conf.py composes all pairs.
METHODS = ("centernet", "faster_rcnn", "selsa", "sltnet", "stf", "yolov", "yolov_pp")
EXPERIMENTS = (
    "cityscapes_stf",
    "kitti_mots_sltnet",
    "mot17_stf",
    "uavdt_sltnet",
    *(f"imagenet_vid_{method}" for method in METHODS),
)
FIRST_PHASES = {"sltnet": "faster_rcnn", "yolov": "one_stage", "yolov_pp": "one_stage"}

# Two steps of small detectors; all else is as the experiment says.
SMALL = (
    "model/backbone=timm",
    "model.backbone.name=test_resnet",
    "model.backbone.pretrained=false",
    "data.resize.short_side=64",
    "data.resize.long_side=96",
    "data.batch_size=2",
    "data.num_workers=0",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.enable_progress_bar=false",
    "callbacks.progress=null",
    "logger.tensorboard=null",
)
SMALL_HEADS = {
    "centernet": ("model.head.channels=8", "model.head.neck.channels=8"),
    "faster_rcnn": (
        "model.pyramid.channels=16",
        "model.head.width=64",
        "model.head.train_limits.pre_nms_top_n=60",
        "model.head.train_limits.post_nms_top_n=40",
        "model.head.test_limits.pre_nms_top_n=30",
        "model.head.test_limits.post_nms_top_n=20",
    ),
    "one_stage": (
        "model.pyramid.channels=16",
        "model.head.width=16",
        "data.train_transforms=[]",  # they enlarge the frames to as much as 736 pixels
    ),
}
# With 100 keys per frame, each of the 15 frames of a clip attends to 1,500 keys.
SMALL_FUSIONS = {"yolov_pp": ("model.head.fusion.yolov.keys_per_frame=10",)}
HEADLINES = {
    "cityscapes": {"map"},
    "imagenet_vid": {"vid/ap_50", "motion/ap_50_slow", "map", "stability/found"},
    "kitti_mots": {"map", "motion/ap_50_slow", "stability/found"},
    "mot17": {"map", "motion/ap_50_slow", "track_length/ap_50_short", "stability/found"},
    "uavdt": {"uavdt/ap_70", "uavdt/ap_70@low-alt", "map", "stability/found"},
}


def data_set_of(experiment: str) -> str:
    return next(name for name in DATA_SETS if experiment.startswith(name))


def method_of(experiment: str) -> str:
    return experiment.removeprefix(f"{data_set_of(experiment)}_")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the miniatures in data/, converted as the README says."""
    folder = tmp_path_factory.mktemp("experiments")
    for name, write in MINIATURES.items():
        write(folder / "data" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in conversions():
            assert vodet_data(words[1:]) == 0
    return folder


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(folder)
    return folder


def test_all_data_sets_are_here() -> None:
    files = {path.stem for path in (config_dir() / "data").glob("*.yaml")}
    assert {*DATA_SETS, "imagenet_vid_det", "custom", "synthetic", "long_range", "default"} == files


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment(experiment: str, inside: Path, command: Command) -> None:
    name, method = data_set_of(experiment), method_of(experiment)
    run = inside / "runs" / experiment
    family = {"stf": "centernet", "selsa": "faster_rcnn"} | FIRST_PHASES
    small = (*SMALL, *SMALL_HEADS[family.get(method, method)])
    begin = []
    if method in FIRST_PHASES:
        before = f"{name}_{FIRST_PHASES[method]}"
        first = inside / "runs" / f"{before}_first_phase"
        if not (first / "best.ckpt").is_file():
            command("train", f"experiment={before}", *small, f"run_dir={first}")
        begin = [f"init_from={first}/best.ckpt"]

    fusion = SMALL_FUSIONS.get(method, ())
    command("train", f"experiment={experiment}", *small, *fusion, *begin, f"run_dir={run}")
    command("eval", f"ckpt={run}/best.ckpt", "trainer=cpu", "data.num_workers=0")

    report = json.loads((run / "metrics.json").read_text())
    assert report["steps"] == 2
    assert math.isfinite(report["last"]["train/loss"])
    evaluated = json.loads((run / "eval.json").read_text())
    assert HEADLINES[name] <= evaluated.keys()
    trained = {key.removeprefix("val/") for key in report["last"] if key.startswith("val/")}
    assert trained == evaluated.keys()


def test_commands_of_the_readme_and_of_the_page_on_data_sets(
    inside: Path, command: Command
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "data-sets.md").read_text()
    (yaml,) = blocks("yaml", text)
    own = inside / yaml.splitlines()[0].removeprefix("# ")
    own.parent.mkdir(parents=True)
    own.write_text(yaml)
    shutil.rmtree(inside / "runs", ignore_errors=True)  # other tests use the same names
    (inside / "mine").symlink_to(inside / "data" / "kitti_mots")
    (inside / "stills").symlink_to(inside / "data" / "imagenet_det")

    for words in [words for words in commands() if is_of_public_data(words)] + commands(text):
        name = words[0].removeprefix("vodet-")
        if name == "data":
            assert vodet_data(words[1:]) == 0
        else:
            small = (*SMALL, *SMALL_HEADS["centernet"]) if name == "train" else ("trainer=cpu",)
            command(name, *words[1:], *small, "data.num_workers=0")

    assert len(list((inside / "runs/uavdt_stf/toolkit").glob("M*.txt"))) == 20
    config = OmegaConf.load(inside / "runs/mine/config.yaml")
    assert (config.data.extra_train.stills.share, config.data.train.share) == (1, 3)
    assert config.model.fusion._target_ == "vodet.fusion.stf.STF"
