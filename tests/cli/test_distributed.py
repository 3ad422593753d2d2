"""Several processes, as users start them, train and evaluate as one."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from cli.conftest import TINY, Command
from cli.processes import Ended, finish, run, script, start
from cli.snapshots import snapshots
from cli.test_train import assert_same_weights, weights
from vodet.errors import TrainingError
from vodet.metrics.protocols import HEADLINES

pytestmark = pytest.mark.slow

TRAIN = (
    *TINY,
    "data.val.annotations=data/demo/val_uneven.json",
    # Enough steps, and long ones, to detect something.
    "data.batch_size=1",
    "optimizer.lr=0.03",
    "scheduler.warmup_steps=0",
)


@pytest.fixture(scope="module")
def folder(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory; val_uneven.json is the generated set with a shorter second video."""
    folder = tmp_path_factory.mktemp("distributed")
    shutil.copytree(workspace / "data", folder / "data")
    root = folder / "data" / "demo"
    val = json.loads((root / "val.json").read_text())
    left_out = {image["id"] for image in val["images"][-2:]}
    val["images"] = val["images"][:-2]
    val["annotations"] = [a for a in val["annotations"] if a["image_id"] not in left_out]
    (root / "val_uneven.json").write_text(json.dumps(val))
    return folder


@pytest.fixture(scope="module")
def trained_by_two(folder: Path) -> Ended:
    """Output of a training on two processes; what it saved is in runs/demo/*/ and in saved/."""
    return run(
        script("vodet-train"),
        *TRAIN,
        "trainer=ddp",
        "trainer.devices=2",
        "+callbacks.found._target_=vodet.tasks.report.PredictionsFile",
        "+callbacks.found.path._target_=pathlib.Path",
        "+callbacks.found.path._args_=[saved/found.json]",
        *snapshots(folder / "saved"),
        folder=folder,
    )


@pytest.fixture(scope="module")
def run_dir(folder: Path, trained_by_two: Ended) -> Path:
    (run_dir,) = (folder / "runs" / "demo").iterdir()
    return run_dir


def test_two_processes_make_one_run(folder: Path, trained_by_two: Ended, run_dir: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"data", "runs", "saved"}
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "best.ckpt",
        "config.yaml",
        "csv",
        "curves.png",
        "last.ckpt",
        "metrics.json",
    ]
    assert [path.name for path in (run_dir / "csv").iterdir()] == ["version_0"]
    assert json.loads((run_dir / "metrics.json").read_text())["steps"] == 12
    assert trained_by_two.output.count("Next: vodet-eval") == 1
    assert "Warn" not in trained_by_two.errors
    assert "recommended" not in trained_by_two.errors


def test_parameters_stay_equal(folder: Path, run_dir: Path) -> None:
    first, second = (torch.load(folder / "saved" / f"process_{rank}.pt") for rank in (0, 1))
    last = weights(run_dir / "last.ckpt")
    assert first.keys() == second.keys() == first.keys() & last.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert torch.equal(value, last[name]), name
    before = weights(folder / "saved" / "start.ckpt")
    assert any(not torch.equal(value, before[name]) for name, value in first.items())


def test_evaluation_is_the_same_on_three_processes(
    folder: Path, run_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    truth = annotate_with_every_third(Path("data/demo/val_uneven.json"), Path("saved/found.json"))
    common = [f"ckpt={run_dir}/last.ckpt", f"data.annotations={truth}", "data.images=data/demo"]
    common += [
        f"evaluation.protocols=[{','.join(HEADLINES)}]",
        "evaluation.tubelet_linking=seq_nms",
        "evaluation.stability.score_threshold=0",
    ]

    def arguments(number: int) -> list[str]:
        output = [f"output=saved/{number}", f"predictions=saved/{number}/found.json"]
        return [*common, *output, "data.num_workers=0"]

    command("eval", *arguments(1), "trainer=cpu")
    three = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3"]
    ended = run(script("vodet-eval"), *arguments(3), *three, folder=folder)
    assert ended.output.count("Written: ") == 1
    results = [Path(f"saved/{number}/eval.json").read_text() for number in (1, 3)]
    assert results[0] == results[1]
    numbers = json.loads(results[0])
    for protocol in HEADLINES:
        for linking in ("", "seq_nms/"):
            for attribute in ("", "@night"):
                keys = [f"{linking}{key}{attribute}" for key in HEADLINES[protocol]]
                assert any(0 < (numbers[key] or 0) < 1 for key in keys), keys
    found = [Path(f"saved/{number}/found.json").read_bytes() for number in (1, 3)]
    assert found[0] == found[1]
    # And so it was while they trained: with the running statistics of the first process on both.
    assert Path("saved/found.json").read_bytes() == found[0]


def annotate_with_every_third(annotations: Path, detections: Path) -> Path:
    """Write a file of annotations of which a detector with these detections finds some."""
    document = json.loads(annotations.read_text())
    found = json.loads(detections.read_text())
    assert len(found) > 100
    document["annotations"] = [
        detection
        | {
            "id": number,
            "area": detection["bbox"][2] * detection["bbox"][3],
            "id_track": number % 5,
        }
        for number, detection in enumerate(found[::3])
    ]
    video = document["images"][-1]["video"]
    document["videos"] = [{"id": 0, "name": video, "attributes": ["night"]}]
    path = annotations.with_name("val_found.json")
    path.write_text(json.dumps(document))
    return path


def test_two_agents_of_torchrun_resume_as_one(
    folder: Path, trained_by_two: Ended, run_dir: Path
) -> None:
    again = folder / "runs" / "again" / "first"
    again.mkdir(parents=True)
    shutil.copy(folder / "saved" / "epoch_0.ckpt", again / "last.ckpt")
    agent = [
        script("torchrun"),
        "--no-python",
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=localhost:{free_port()}",
        "--rdzv-id=vodet",
        script("vodet-train"),
        *TRAIN,
        "trainer=ddp_torchrun",
        "name=again",
        "resume=last",
        *snapshots(folder / "agents"),
    ]
    for ended in finish([start(*agent, folder=folder) for _ in range(2)]):
        assert ended.code == 0, ended.errors
    assert [path.name for path in again.parent.iterdir()] == ["first"]  # no second, of later time
    assert [path.name for path in (again / "csv").iterdir()] == ["version_0"]
    assert_same_weights(again / "last.ckpt", run_dir / "last.ckpt")
    assert {path.name for path in (folder / "agents").iterdir()} == {
        "start.ckpt",
        "epoch_1.ckpt",
        "process_0.pt",
        "process_1.pt",
    }


class FailOnSecond(Callback):
    """An error that only one process meets."""

    def on_train_batch_end(self, trainer: L.Trainer, *_args: Any) -> None:
        if trainer.global_rank == 1:
            msg = "the disk of the second is full"
            raise TrainingError(msg)


def test_failure_of_one_process_ends_all(folder: Path) -> None:
    fail = "+callbacks.fail._target_=cli.test_distributed.FailOnSecond"
    arguments = [*TRAIN, "trainer=ddp", "trainer.devices=2", "name=failing", fail]
    (ended,) = finish([start(script("vodet-train"), *arguments, folder=folder)])
    assert ended.code != 0
    assert "Error: the disk of the second is full" in ended.errors
    assert "Traceback" not in ended.errors


def free_port() -> int:
    with socket.socket() as connection:
        connection.bind(("localhost", 0))
        port: int = connection.getsockname()[1]
    return port
