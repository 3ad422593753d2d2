from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from vodet.cli import main
from vodet.data.generated.sets import generate
from vodet.data.generated.synthetic import SyntheticConfig

Command = Callable[..., None]

COMMANDS = {
    "train": main.train,
    "eval": main.evaluate,
    "predict": main.predict,
    "export": main.export,
}

# A detector and a data set that train in seconds.
TINY = (
    "experiment=demo",
    "model.backbone.name=test_resnet",
    "model.backbone.strides=[4,8]",
    "model.pyramid.channels=8",
    "model.head.channels=8",
    "model.head.neck.channels=8",
    "data.batch_size=4",
    "data.num_workers=0",
    "data.resize.short_side=64",
    "data.resize.long_side=64",
    "prepare_data.config.train_videos=3",
    "prepare_data.config.val_videos=2",
    "prepare_data.config.frames_per_video=4",
    "prepare_data.config.size=64",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "logger.tensorboard=null",
)


@pytest.fixture(scope="session", autouse=True)
def _own_data_only() -> Iterator[None]:
    """Let no test use the data sets of the person who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VODET_DATA", raising=False)
        yield


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs a console script in this process: command("train", "experiment=demo", ...)."""

    def run(name: str, *arguments: str) -> None:
        GlobalHydra.instance().clear()
        before = sys.argv
        sys.argv = [f"vodet-{name}", *arguments]
        try:
            COMMANDS[name]()
        finally:
            sys.argv = before

    return run


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated set of TINY in data/demo."""
    folder = tmp_path_factory.mktemp("workspace")
    generate(
        folder / "data" / "demo",
        SyntheticConfig(train_videos=3, val_videos=2, frames_per_video=4, size=64),
    )
    return folder


@pytest.fixture(scope="session")
def trained(workspace: Path, command: Command) -> Path:
    """The folder of a finished run of TINY."""
    before = Path.cwd()
    os.chdir(workspace)
    try:
        command("train", *TINY, "run_dir=runs/tiny")
    finally:
        os.chdir(before)
    return workspace / "runs" / "tiny"


@pytest.fixture(scope="session")
def lively(trained: Path) -> Path:
    """A checkpoint of the trained run with boxes of some cells, so that it finds something."""
    checkpoint = torch.load(trained / "best.ckpt", weights_only=True)
    weights = checkpoint["state_dict"]
    weights["detector.head.size.out.bias"].fill_(4)
    weights["detector.head.heatmap.out.weight"].mul_(50)
    path = trained.parent / "lively.ckpt"
    torch.save(checkpoint, path)
    return path


@pytest.fixture
def inside(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace as the working directory."""
    monkeypatch.chdir(workspace)
    return workspace
