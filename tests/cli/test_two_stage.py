"""SLTnet as a user trains it: a baseline, a second phase on it, two windows at evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vodet
from cli.conftest import TINY, Command
from cli.processes import run, script
from tiny import random_frames

TINY_TWO_STAGE = (
    *(setting for setting in TINY[1:] if not setting.startswith("model.head")),
    "model.head.width=32",
    "model.head.box_batch_size_per_image=16",
    "model.head.test_limits.post_nms_top_n=20",
    "trainer.max_epochs=1",
)
# Attention whose memory fills within a few frames.
ATTENTION = (
    "model.head.fusion.attention.group_width=16",
    "model.head.fusion.attention.key_frame_interval=2",
)


@pytest.fixture(scope="module")
def baseline(workspace: Path, command: Command) -> Path:
    """The checkpoint of a trained baseline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        command("train", "experiment=demo_baseline", *TINY_TWO_STAGE, "run_dir=runs/first_phase")
    return workspace / "runs" / "first_phase" / "last.ckpt"


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return found


def second_phase(baseline: Path, run_dir: str) -> list[str]:
    return [
        "experiment=demo_sltnet",
        f"init_from={baseline}",
        *TINY_TWO_STAGE,
        *ATTENTION,
        f"run_dir={run_dir}",
    ]


def test_two_stages_and_two_windows(
    baseline: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command("train", *second_phase(baseline, "runs/second_phase"))
    printed = capsys.readouterr().out
    assert f"Loaded from {baseline}: " in printed
    assert "New, with initial values: 22 weights: head.fusion (20), head.st_head (2)" in printed
    first, second = weights(baseline), weights(inside / "runs/second_phase/last.ckpt")
    assert all(torch.equal(second[name], value) for name, value in first.items())
    assert len(second) == len(first) + 22

    settings = [a for a in second_phase(baseline, "runs/second_phase") if "init_from=" not in a]
    command("train", *settings, "resume=runs/second_phase/last.ckpt", "trainer.max_epochs=2")
    assert "Loaded from" not in capsys.readouterr().out  # but from where it stopped

    found = {}
    for window in ("causal", "symmetric"):
        output = f"output=runs/{window}"
        chosen = ["ckpt=runs/second_phase/last.ckpt", f"window={window}", output, "trainer=cpu"]
        command("eval", *chosen, "data.num_workers=0", f"predictions=runs/{window}.json")
        assert json.loads((inside / f"runs/{window}/eval.json").read_text())["map"] is not None
        detector = vodet.load(inside / "runs/second_phase/last.ckpt")
        found[window] = Path(f"runs/{window}.json").read_bytes()
    assert found["causal"] != found["symmetric"]
    assert detector.window.lookahead == 3
    assert detector.head.remembers
    assert len(vodet.StreamingDetector(detector).push(random_frames(5))) == 2


@pytest.mark.slow
def test_two_processes_train_and_evaluate_a_second_phase(
    baseline: Path, inside: Path, command: Command
) -> None:
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    arguments = second_phase(baseline, "runs/second_phase_ddp")
    run(script("vodet-train"), *arguments, *two, "data.batch_size=1", folder=inside)

    def arguments_of(number: int) -> list[str]:
        output = f"runs/eval_{number}"
        found = [f"output={output}", f"predictions={output}/found.json", "data.num_workers=0"]
        return ["ckpt=runs/second_phase_ddp/last.ckpt", *found]

    command("eval", *arguments_of(1), "trainer=cpu")
    run(script("vodet-eval"), *arguments_of(2), *two, folder=inside)
    one, both = ((inside / f"runs/eval_{number}/found.json").read_bytes() for number in (1, 2))
    assert one == both
    assert len(json.loads(one)) > 10


def test_a_second_phase_needs_a_first(
    inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command("train", "experiment=demo_sltnet", *TINY_TWO_STAGE, *ATTENTION, "run_dir=runs/none")
    printed = capsys.readouterr().err
    assert "model.frozen freezes pyramid, head.rpn, head.box_head" in printed
    assert "set init_from=CHECKPOINT" in printed


def test_a_checkpoint_of_another_detector_says_what_is_missing(
    trained: Path, inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):  # CenterNet has no region proposal network
        command("train", *second_phase(trained / "last.ckpt", "runs/none"))
    printed = capsys.readouterr().err
    assert "model.frozen:" in printed
    assert "head.rpn.net.conv.0.0.weight" in printed


def test_clips_of_an_incomplete_data_set(
    inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without track ids the baseline trains; what needs them says so."""
    document = json.loads((inside / "data/demo/train.json").read_text())
    for annotation in document["annotations"]:
        annotation.pop("id_track", None)
    (inside / "no_tracks.json").write_text(json.dumps(document))
    arguments = [
        "experiment=demo_baseline",
        *TINY_TWO_STAGE,
        "data.train.annotations=no_tracks.json",
        "trainer.limit_val_batches=0",
        "run_dir=runs/no_tracks",
    ]
    command("train", *arguments, "callbacks.best=null")
    with pytest.raises(SystemExit):
        command("train", *arguments, "run_dir=runs/complete", "data.require_complete_tubelets=true")
    assert "data.require_complete_tubelets needs the id_track" in capsys.readouterr().err
