"""What a user sees of a mistake: one message on what was found, and where; never a traceback."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.conftest import TINY, Command
from vodet.cli.app import config_dir

Fails = Callable[..., str]

SMALL = (*TINY, "prepare_data=null")


@pytest.fixture
def fails(
    inside: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Fails:
    """Runs a command that has to fail; returns its message."""
    # Lightning's log goes to the stream of the test in which it was imported, which is closed.
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def run(name: str, *arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            command(name, *arguments)
        message = capsys.readouterr().err
        assert ended.value.code == 1
        assert message.startswith("Error: ")
        assert "Traceback" not in message
        return message.removeprefix("Error: ").rstrip("\n")

    return run


@pytest.fixture
def data_set(inside: Path, tmp_path: Path) -> Path:
    """A copy of the generated set, to be spoilt."""
    return shutil.copytree(inside / "data" / "demo", tmp_path / "demo")


def train_on(folder: Path) -> tuple[str, ...]:
    return (*SMALL, f"data_dir={folder.parent}", f"run_dir={folder.parent}/run")


def change(path: Path, function: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    function(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("command_line", "message"),
    [
        (
            "train trainer.max_epoch=1",
            "There is no config key 'trainer.max_epoch'. Did you mean trainer.max_epochs?",
        ),
        (
            "train experiment=custom trianer.max_epochs=1",
            "There is no config key 'trianer.max_epochs'. Did you mean trainer.max_epochs?",
        ),
        ("train modle=x", "There is no config key 'modle'. Did you mean model?"),
        ("train lr=1", "There is no config key 'lr'. Did you mean optimizer.lr?"),
        (
            "train optimizer.lrr=1",
            "There is no config key 'optimizer.lrr'. Did you mean optimizer.lr?",
        ),
        (
            "train data.train.anotations=x",
            "There is no config key 'data.train.anotations'. Did you mean data.train.annotations?",
        ),
        (
            "train prepare_data.config.train_video=3 experiment=demo",
            "There is no config key 'prepare_data.config.train_video'. "
            "Did you mean prepare_data.config.train_videos?",
        ),
        (
            "train model/pyramid=identity model.pyramid.channels=8",
            "There is no config key 'model.pyramid.channels'. model.pyramid has no keys.",
        ),
        (
            "train window.x=1",
            "There is no config key 'window.x'. Valid keys of window: past, future, frame_stride.",
        ),
        (
            "train optimizer.groups.backbone.lr=1e-5",
            "There is no config key 'optimizer.groups.backbone.lr'. To add it to "
            "optimizer.groups, write +optimizer.groups.backbone.lr=VALUE.",
        ),
        (
            "train model/fusoin=stf",
            "There is no group 'model/fusoin'. Did you mean model/fusion?",
        ),
        (
            "train model/fusion=sft",
            "There is no model/fusion=sft. Did you mean model/fusion=stf? "
            "Valid choices: conv_gru, fgfa, mean, none, stf.",
        ),
        ("train experiment=dmo", "There is no experiment=dmo. Did you mean experiment=demo? "),
        ("eval ckt=x", "There is no config key 'ckt'. Did you mean ckpt?"),
        ("eval window.pst=1", "There is no config key 'window.pst'. Did you mean window.past?"),
        ("predict sorce=x", "There is no config key 'sorce'. Did you mean source?"),
        (
            "train experiment=custom",
            "No value is given for data.train.annotations, data.train.images, "
            "data.val.annotations, data.val.images. Add to the command: "
            "data.train.annotations=VALUE data.train.images=VALUE",
        ),
        (
            "predict",
            "No value is given for ckpt, source. Add to the command: ckpt=VALUE source=VALUE",
        ),
        (
            "train trainer.max_epochs",
            "Expected KEY=VALUE without spaces around the =, found 'trainer.max_epochs'.",
        ),
        (
            "eval ckpt=a data=uavdt",
            "data is not a group of this command. "
            "Set one of its keys: data.annotations, data.images, ",
        ),
        (
            "eval evaluation.stability=0.5",
            "evaluation.stability=0.5 would replace a group of keys with a single value. "
            "Set one of its keys: evaluation.stability.score_threshold.",
        ),
        (
            "predict ckpt=a source=b test_time_augmentation=true",
            "Set one of its keys: test_time_augmentation.flip, test_time_augmentation.scales.",
        ),
        ("eval ckpt=[a", "Expected a checkpoint at [a, found no such file."),
        ("eval ckpt=видео=2.ckpt", "Expected a checkpoint at видео=2.ckpt, found no such file."),
        ("predict ckpt=2024 source=nowhere", "nowhere"),
        ("predict ckpt=a source=b output=null", "No value is given for output."),
        ("predict ckpt=a source=''", "No value is given for source."),
        ('predict ckpt=a source=b output=""', "No value is given for output."),
        ("train experiment=demo run_dir=''", "No value is given for run_dir."),
        ("predict ckpt=null source=null", "No value is given for ckpt, source."),
        ("train experiment=demo run_dir=null name=null", "No value is given for name, run_dir."),
        ("eval output=null", "Expected ckpt=FILE"),
        ("predict ckpt=a source=", "No value is given for source"),
        ("eval evaluation.protocols=coco,vid", "evaluation.protocols=[coco,vid]"),
        ("train --trainer.max_epochs=3", " trainer.max_epochs=3."),
        (
            "train trainer.inference_mode=false",
            "lightning.Trainer accepts a parameter inference_mode. To set it, write "
            "+trainer.inference_mode=false.",
        ),
        ("train optimizer.betas=[0.9,0.99]", "write '+optimizer.betas=[0.9,0.99]'."),
        ("train logger.zzz._target_=my.Logger", "+logger.zzz._target_=CLASS"),
        ("train callbacks.progres=null", "Did you mean callbacks.progress?"),
        (
            "train experiment=demo trainer=ddp_slurm",
            "Environment variable 'SLURM_NTASKS_PER_NODE' not found",
        ),
    ],
)
def test_command_line(
    command_line: str, message: str, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    assert message in fails(*command_line.split())


def test_help_of_an_evaluation_names_the_groups_that_it_has(
    inside: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        command("eval", "--help")
    text = capsys.readouterr().out
    for group in ("evaluation", "trainer", "window"):
        options = sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
        assert f"\n{group}: {', '.join(options)}\n" in text
    assert "\nexperiment:" not in text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("window.past=-1", "found past=-1, future=0, frame_stride=1."),
        (
            "data.resize.short_side=0",
            "Resize needs 1 <= short_side <= long_side, found Resize(short_side=0, long_side=64).",
        ),
        (
            "data.resize=64",
            "data.resize=64 would replace a group of keys with a single value. "
            "Set one of its keys: data.resize.short_side, data.resize.long_side.",
        ),
        ("model.fusion=mean", "Did you mean model/fusion=mean?"),
        (
            "window=7",
            "window is a config group; found 7. To set a single value of the group, write ",
        ),
        (
            "evaluation.best_by=vid/ap_70",
            "evaluation.protocols (coco, vid, motion, stability) for which higher is better; "
            "found 'vid/ap_70'. Valid metrics: map, ",
        ),
        (
            "evaluation.protocols=vid",
            "evaluation.protocols (vid) for which higher is better; found",
        ),
        (
            "evaluation.best_by=stability/jitter",
            "found 'stability/jitter'. Valid metrics: map, map_50, ",
        ),
        ("data.batch_size=0", "data.batch_size must be at least 1, found 0."),
        ("data.num_workers=-1", "data.num_workers must be at least 0, found -1."),
        ("data.chunk_size=0", "data.chunk_size must be at least 1, found 0."),
        ("data.clips_per_video=0", "data.clips_per_video must be at least 1, found 0."),
        (
            "matmul_precision=hgh",
            "matmul_precision must be one of highest, high, medium; found 'hgh'.",
        ),
        ("model.fusion.merge=ad", "merge must be one of concat, add; found 'ad'."),
        ("model.backbone.name=resnet10", "Did you mean resnet10t"),
        ("+optimizer.lrr=1", "The optimizer cannot be built: AdamW.__init__() got an unexpected"),
        (
            "+optimizer.groups.bakbone.lr=1",
            "optimizer.groups: the detector has no part 'bakbone' with parameters. Did you mean "
            "backbone? Existing parts: backbone, ",
        ),
        ("+optimizer.groups.head.lr=-1", "optimizer.groups.head: Invalid learning rate: -1"),
        ("optimizer.lr=-1", "The optimizer cannot be built: Invalid learning rate: -1"),
        (
            "trainer.accelerator=gpuu",
            "The trainer cannot be built: You selected an invalid accelerator name: "
            "`accelerator='gpuu'`.",
        ),
        ("trainer.precision=bf16mixed", "16-mixed; found 'bf16mixed'."),
        (
            "resume=nothing.ckpt",
            "resume=nothing.ckpt: expected 'last' or a checkpoint file, found no",
        ),
    ],
)
def test_settings_of_a_training(setting: str, message: str, fails: Fails, tmp_path: Path) -> None:
    assert message in fails("train", *SMALL, f"run_dir={tmp_path}", setting)


def process_fails(*arguments: str) -> str:
    """Runs a training that has to fail in a process of its own; returns its last line."""
    code = "from vodet.cli.main import train; train()"
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1]


def test_choices_that_the_tests_would_refuse_before(inside: Path, data_set: Path) -> None:
    message = process_fails(*train_on(data_set), "data.on_bad_frame=skp")
    assert message == "Error: data.on_bad_frame must be one of raise, skip; found 'skp'."
    message = process_fails(*train_on(data_set), "data.train.share=half")
    assert message.startswith("Error: Expected a share above 0 for each training set")
    assert message.endswith("found ['half'].")


def test_the_process_ends_in_order_after_a_failure_in_evaluation(
    inside: Path, data_set: Path
) -> None:
    path = data_set / "images/val/val_001/000000.jpg"
    path.unlink()
    assert process_fails(*train_on(data_set)).startswith(f"Error: {path} (image id 4): ")


def test_a_size_that_the_model_cannot_take(fails: Fails, tmp_path: Path) -> None:
    hiera = ("model.backbone.name=hiera_tiny_224", f"run_dir={tmp_path}")
    assert fails("train", *SMALL, *hiera).startswith(
        "hiera_tiny_224 accepts only one frame size: expected model.backbone.img_size=["
    )
    message = fails("train", *SMALL, *hiera, "model.backbone.img_size=[32,32]")
    assert message.startswith("hiera_tiny_224 is built for frames of at most 32 x 32 (height x wid")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command_name", ["train", "eval", "predict"])
def test_no_gpu_where_one_was_asked_for(
    command_name: str, fails: Fails, trained: Path, tmp_path: Path
) -> None:
    arguments = {
        "train": (*SMALL, "trainer=gpu", "trainer.accelerator=gpu", f"run_dir={tmp_path}"),
        "eval": ("trainer=gpu", f"ckpt={trained}/last.ckpt"),
        "predict": (
            "device=cuda",
            f"ckpt={trained}/last.ckpt",
            "source=data/demo/images/val/val_000",
        ),
    }
    message = fails(command_name, *arguments[command_name])
    asked = "found 'cuda'" if command_name == "predict" else "trainer.accelerator=gpu"
    assert asked in message
    assert "this machine" in message
    assert "0 GPUs" in message
    assert "cpu runs anywhere." in message


def test_malformed_json(fails: Fails, data_set: Path) -> None:
    (data_set / "train.json").write_text('{"images": [}')
    assert fails("train", *train_on(data_set)).startswith(
        f"{data_set}/train.json is not valid JSON: "
    )


def test_all_faults_of_a_file(fails: Fails, data_set: Path) -> None:
    def spoil(document: dict[str, Any]) -> None:
        document["images"][0]["file_name"] = "../a.jpg"
        document["annotations"][1]["category_id"] = 99
        document["annotations"][2]["bbox"] = [0, 0, 0, 5]
        document["annotations"][3]["id"] = document["annotations"][2]["id"]

    change(data_set / "train.json", spoil)
    message = fails("train", *train_on(data_set))
    assert message.startswith(f"{data_set}/train.json: 4 faults in this ST-COCO file.")
    for found in (
        "images[0].file_name: found '../a.jpg'",
        "annotations[1].category_id: found 99",
        "annotations[2].bbox: found [0.0, 0.0, 0.0, 5.0]",
        "annotations[3].id: found",
    ):
        assert found in message


def test_an_empty_data_set(fails: Fails, data_set: Path) -> None:
    change(data_set / "train.json", lambda document: document.update(images=[], annotations=[]))
    assert "images: expected at least 1 entry" in fails("train", *train_on(data_set))


def test_a_class_in_val_that_train_lacks(fails: Fails, data_set: Path) -> None:
    def add_class(document: dict[str, Any]) -> None:
        document["categories"].append({"id": 77, "name": "zebra"})

    change(data_set / "val.json", add_class)
    message = fails("train", *train_on(data_set))
    assert f"{data_set}/val.json has classes that the detector lacks: zebra." in message


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (Path.unlink, "expected an image, found no such file. Check the image root (data.*.images"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "found a truncated or damaged"),
        (lambda path: path.write_bytes(b"GIF89a"), "expected a JPEG or PNG image, found 6 bytes"),
    ],
)
def test_a_bad_image(
    spoil: Callable[[Path], object], found: str, workers: int, fails: Fails, data_set: Path
) -> None:
    path = data_set / "images/train/train_001/000002.jpg"
    spoil(path)
    message = fails("train", *train_on(data_set), f"data.num_workers={workers}")
    assert message.startswith(f"{path} (image id 6): ")
    assert found in message


def test_an_image_of_another_size(fails: Fails, data_set: Path) -> None:
    change(data_set / "train.json", lambda document: document["images"][6].update(width=63))
    assert "(image id 6): expected an image of 64 x 63 pixels (height x width) as annotated" in (
        fails("train", *train_on(data_set))
    )


def test_bad_frames_that_are_skipped_are_reported(
    command: Command, inside: Path, data_set: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = data_set / "images/train/train_001/000002.jpg"
    path.unlink()
    with caplog.at_level(logging.WARNING, "vodet"):
        command("train", *train_on(data_set), "data.on_bad_frame=skip", "trainer.max_epochs=1")
    reports = [r.getMessage() for r in caplog.records if "bad frames" in r.getMessage()]
    assert len(reports) == 1
    assert reports[0].startswith(f"1 bad frames of {data_set}/train.json were skipped.")
    assert f"{path} (image id 6): expected an image, found no such file." in reports[0]


def test_a_checkpoint_of_another_model_is_not_resumed(fails: Fails, trained: Path) -> None:
    last = shutil.copytree(trained, trained.parent / "copy", dirs_exist_ok=True) / "last.ckpt"
    message = fails("train", *SMALL, f"resume={last}", "model.pyramid.channels=12")
    assert "model.pyramid.channels: 8 in the run, 12 now" in message


def test_a_truncated_checkpoint(fails: Fails, trained: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes((trained / "last.ckpt").read_bytes()[:5000])
    commands = (
        ("eval", f"ckpt={broken}"),
        ("predict", f"ckpt={broken}", "source=data/demo/images/val/val_000"),
        ("train", *SMALL, f"resume={broken}"),
        ("train", *SMALL, f"init_from={broken}"),
    )
    for command in commands:
        message = fails(*command)
        assert f"The checkpoint {broken} is damaged" in message
        assert "it is truncated: its 5000 bytes" in message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("chunk_size=0", "chunk_size must be a whole number and at least 1, found 0."),
        ("chunk_size=1.5", "chunk_size must be a whole number and at least 1, found 1.5."),
        ("score_threshold=low", "score_threshold must be a number, found low."),
        ("score_threshold=nan", "score_threshold must be a number, found nan."),
        ("fps=0", "fps must be a finite number above 0, found 0."),
    ],
)
def test_numbers_of_a_prediction(setting: str, message: str, fails: Fails) -> None:
    assert fails("predict", "ckpt=none.ckpt", "source=none", setting) == message


def test_argument_of_another_class(fails: Fails) -> None:
    message = fails("train", *SMALL, "model/head=two_stage_small")
    assert message.startswith("model.head.channels: ")
    assert "TwoStageHead has no argument 'channels'" in message
    assert "width" in message
    assert "'~model.head.channels'" in message


def test_a_class_that_does_not_exist(fails: Fails) -> None:
    message = fails("train", *SMALL, "model.head._target_=vodet.heads.Nope")
    assert "vodet.heads.Nope" in message
