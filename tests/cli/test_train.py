from __future__ import annotations

import json
from functools import partialmethod
from pathlib import Path

import jaxtyping
import pytest
import torch

import vodet
from cli.conftest import TINY, Command
from cli.snapshots import snapshots
from vodet.tasks.checkpoint import read_checkpoint

FROZEN = tuple(f"detector.backbone.net.{name}." for name in ("conv1", "bn1", "layer1"))


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(path)["state_dict"]
    return state


def assert_same_weights(found: Path, expected: Path) -> None:
    a, b = weights(found), weights(expected)
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=0, atol=0, msg=name)


def test_a_run_leaves_what_it_should(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "best.ckpt",
        "last.ckpt",
        "config.yaml",
        "metrics.json",
        "curves.png",
        "csv",
    }
    report = json.loads((trained / "metrics.json").read_text())
    assert (report["epochs"], report["steps"]) == (2, 6)
    assert 0 <= report["last"]["val/map"] <= report["last"]["val/map_50"] <= 1
    assert report["best"]["val/map"] >= report["last"]["val/map"]
    assert report["last"]["train/loss"] == pytest.approx(
        sum(report["last"][f"train/loss_{name}"] for name in ("heatmap", "size", "offset")),
        rel=1e-5,
    )
    card = read_checkpoint(trained / "best.ckpt")["vodet"]
    assert card["version"] == vodet.__version__
    assert card["class_names"] == list(vodet.load(trained / "best.ckpt").class_names)
    assert len(card["class_names"]) == 6


def test_resumed_training_ends_with_the_same_weights(
    trained: Path, inside: Path, command: Command
) -> None:
    command(
        "train",
        *TINY,
        "run_dir=runs/resumed/a",
        "name=resumed",
        "trainer.max_epochs=1",
        "scheduler.scheduler.T_max=2",
    )
    command("train", *TINY, "name=resumed", "resume=last")
    assert_same_weights(inside / "runs/resumed/a/last.ckpt", trained / "last.ckpt")
    report = json.loads((inside / "runs/resumed/a/metrics.json").read_text())
    assert report["steps"] == 6
    logs = sorted((inside / "runs/resumed/a/csv").iterdir())
    assert [path.name for path in logs] == ["version_0", "version_1"]


def test_average_half_precision_and_accumulation_resume_too(inside: Path, command: Command) -> None:
    arguments = [
        *TINY,
        "callbacks=ema",
        "trainer.precision=bf16-mixed",
        "trainer.accumulate_grad_batches=2",
    ]
    run = Path("runs/average")
    command("train", *arguments, f"run_dir={run}", *snapshots(run))
    expected = read_checkpoint(run / "last.ckpt")
    command("train", *arguments, f"resume={run}/epoch_0.ckpt")
    found = read_checkpoint(run / "last.ckpt")
    assert found["global_step"] == expected["global_step"] == 4  # 2 and 1 of 3 batches, twice
    for checkpoint in (found, expected):
        (optimizer,) = checkpoint["optimizer_states"]
        assert [group.pop("name") for group in optimizer["param_groups"]] == ["rest"]
    for entry in ("state_dict", "current_model_state", "averaging_state", "optimizer_states"):
        torch.testing.assert_close(found[entry], expected[entry], rtol=0, atol=0, msg=entry)
    average, current = expected["state_dict"], expected["current_model_state"]
    assert any(not torch.equal(value, current[name]) for name, value in average.items())


def test_evaluation_is_the_same_in_training_and_after(inside: Path, command: Command) -> None:
    command(
        "train",
        *TINY,
        "run_dir=runs/views",
        "trainer.max_epochs=1",
        "evaluation.protocols=[vid]",
        "evaluation.best_by=rescore/vid/ap_50",
        "evaluation.tubelet_linking=rescore",
        "evaluation.test_time_augmentation.flip=true",
    )
    trained = json.loads((inside / "runs/views/metrics.json").read_text())
    command("eval", "ckpt=runs/views/last.ckpt", "trainer=cpu", "data.num_workers=0")
    evaluated = json.loads((inside / "runs/views/eval.json").read_text())
    assert {"vid/ap_50", "rescore/vid/ap_50"} <= set(evaluated)
    expected = {name: trained["last"][f"val/{name}"] for name in evaluated}
    assert evaluated == pytest.approx(expected, nan_ok=True, abs=1e-6)
    assert list(trained["best"]) == ["val/rescore/vid/ap_50"]


def test_what_is_frozen_stays_and_gradients_are_clipped(inside: Path, command: Command) -> None:
    saved = Path("runs/frozen")
    command(
        "train",
        *TINY,
        f"run_dir={saved}",
        *snapshots(saved),
        "trainer.max_epochs=1",
        "model.backbone.frozen=[conv1,bn1,layer1]",
        "optimizer=sgd",
        "optimizer.lr=1",
        "optimizer.momentum=0",
        "optimizer.weight_decay=0",
        "scheduler=constant",
        "scheduler.warmup_steps=0",
        "trainer.gradient_clip_val=0.001",
    )
    before, after = (weights(saved / f"{name}.ckpt") for name in ("start", "epoch_0"))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    frozen = [name for name in before if name.startswith(FROZEN)]
    assert len(frozen) > 10
    assert any("running_mean" in name for name in frozen)
    assert not changed.intersection(frozen)
    assert any(name.startswith("detector.backbone.net.layer2") for name in changed)
    parameters = torch.load(saved / "process_0.pt")
    squares = [(after[name] - before[name]).square().sum() for name in parameters]
    length = torch.stack(squares).sum().sqrt()
    assert 0 < length <= 3 * 0.001 * 1.001  # 3 steps, with a learning rate of 1


def test_compiled_encoder(
    trained: Path, inside: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The backend of torch.compile that needs no C compiler and little time.
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", partialmethod(compile_module, backend="aot_eager")
    )
    jaxtyping.config.update("jaxtyping_disable", True)  # its checks cannot be compiled
    torch._dynamo.utils.counters.clear()
    try:
        command("train", *TINY, "compile_encoder=true", "run_dir=runs/compiled")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    found, expected = weights(inside / "runs/compiled/last.ckpt"), weights(trained / "last.ckpt")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
