from __future__ import annotations

import errno
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf

import vodet
from tasks.small_checkpoint import CLASS_NAMES, MODEL, contents, detector
from tiny import random_frames
from vodet.errors import CheckpointError, ConfigError
from vodet.fusion.mean import MeanFusion
from vodet.structures import Window
from vodet.tasks.checkpoint import AtomicCheckpointIO, load_weights, read_checkpoint
from vodet.tasks.checkpoint_file import WHAT_READS_WHAT
from vodet.tasks.detection import VideoDetectionTask


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes a checkpoint as `torch.save` does."""

    def write_(checkpoint: Any) -> Path:
        path = tmp_path / "a.ckpt"
        torch.save(checkpoint, path)
        return path

    return write_


def message_of(function: Callable[..., object], *arguments: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def test_a_loaded_detector_detects_the_same(write: Callable[[Any], Path]) -> None:
    loaded = vodet.load(write(contents()))

    assert not loaded.training
    assert loaded.class_names == CLASS_NAMES
    frames = random_frames(3).numpy().transpose(0, 2, 3, 1)
    found, expected = (
        [*stream.push(frames), *stream.flush()]
        for stream in map(vodet.StreamingDetector, (loaded, detector()))
    )
    assert sum(len(result.detections["scores"]) for result in expected) > 0
    torch.testing.assert_close(
        [dict(result.detections) for result in found],
        [dict(result.detections) for result in expected],
        rtol=0,
        atol=0,
    )


def test_overrides_replace_values_of_the_config(write: Callable[[Any], Path]) -> None:
    loaded = vodet.load(write(contents()), overrides={"window.past": 3, "window.future": 1})
    assert loaded.window == Window(past=3, future=1)
    message = message_of(vodet.load, write(contents()), overrides={"window.past": -1})
    assert "cannot be built with the overrides window.past: A window needs past >= 0" in message


def test_a_task_made_in_a_notebook(tmp_path: Path) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, plugins=[AtomicCheckpointIO()])
    trainer.strategy.connect(VideoDetectionTask(detector()))
    path = tmp_path / "notebook.ckpt"
    trainer.save_checkpoint(path)

    message = message_of(vodet.load, path)
    assert f"The checkpoint {path} has no config" in message
    assert "vodet.init_from(detector, path)" in message
    other = detector(seed=1)
    load_weights(other, path)
    torch.testing.assert_close(other.state_dict(), detector().state_dict(), rtol=0, atol=0)


def test_other_classes(write: Callable[[Any], Path]) -> None:
    path = write(contents())
    message = message_of(load_weights, detector(class_names=("car", "cat", "kite")), path)
    assert str(path) in message
    assert "expected ['car', 'cat', 'kite'], found ['car', 'dog', 'kite']." in message


def test_another_model(write: Callable[[Any], Path]) -> None:
    checkpoint = contents()
    state = checkpoint["state_dict"]
    state["detector.extra"] = torch.zeros(2, 3)
    del state["detector.head.size.out.bias"]
    state["detector.head.size.out.weight"] = torch.zeros(5)
    path = write(checkpoint)

    shape = tuple(detector().head.size.out.weight.shape)
    first, *lines = message_of(load_weights, detector(), path).splitlines()
    assert str(path) in first
    assert first.endswith(" 3 differences:")
    assert lines == [
        "  extra: not in the model, found shape (2, 3)",
        "  head.size.out.bias: expected shape (2,), not in the checkpoint",
        f"  head.size.out.weight: expected shape {shape}, found (5,)",
    ]


@pytest.mark.parametrize(
    ("checkpoint", "found"),
    [
        ({"a": 1}, "found the entries ['a']."),
        ([1], "found a value of type list."),
    ],
)
def test_of_another_program(checkpoint: Any, found: str, write: Callable[[Any], Path]) -> None:
    path = write(checkpoint)
    message = message_of(vodet.load, path)
    assert message.startswith(f"The checkpoint {path} was not written by vodet: expected the")
    assert f"{found} {WHAT_READS_WHAT}" in message


class WritesAFile:
    """Runs code when it is unpickled by the usual reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("is_plain_pickle", [False, True])
def test_a_pickle_that_would_run_code(
    is_plain_pickle: bool, write: Callable[[Any], Path], tmp_path: Path
) -> None:
    target = tmp_path / "written"
    hostile = contents() | {"callbacks": WritesAFile(target)}
    path = write(hostile)
    if is_plain_pickle:
        path.write_bytes(pickle.dumps(hostile))

    message = message_of(vodet.load, path)

    assert not target.exists()
    assert str(path) in message
    assert is_plain_pickle or "it contains io.open, expected only tensors" in message
    read: Callable[[], Any] = (
        partial(pickle.loads, path.read_bytes())
        if is_plain_pickle
        else partial(torch.load, path, weights_only=False)
    )
    read()["callbacks"].close()
    assert target.exists()  # it would have run


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.nn.Conv2d",
        "vodet.tasks.checkpoint.os.system",
        "vodet.cli.train.instantiate",
        "vodet.cli.train.L.Trainer",
        "vodet.data.generated.sets.generate",
        "vodet.detector.VideoDetector.__class__",
        "vodet",
        "",
    ],
)
def test_a_config_that_names_what_is_not_a_class_of_vodet(
    target: str, write: Callable[[Any], Path], tmp_path: Path
) -> None:
    written = tmp_path / "written"
    hostile = {"_target_": target, "_args_": [f"touch {written}"]}
    path = write(contents(MODEL | {"resize": hostile}))

    message = message_of(vodet.load, path)

    assert f"names {target!r}, which is not part of a vodet detector." in message
    assert not written.exists()


@pytest.mark.parametrize(
    "hidden",
    [
        {"nested": [{"deeper": ({"_target_": "os.system"},)}]},
        "${oc.create:{_target_: os.system}}",
        "${oc.decode:'{_target_: os.system}'}",
        {"_target_": "${oc.decode:os.system}"},
        {"_target_": ["os.system"]},
    ],
)
def test_a_config_that_hides_what_it_names(hidden: Any, write: Callable[[Any], Path]) -> None:
    message = message_of(vodet.load, write(contents(MODEL | {"resize": hidden})))
    assert "os.system" in message
    assert "which is not part of a vodet detector" in message or "the name of any class" in message


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (MODEL | {"resize": {"_target_": "vodet.data.Gone"}}, "names 'vodet.data.Gone', which"),
        (MODEL["window"], "cannot be built: got an unexpected keyword argument"),
        (MODEL | {"head": {"_target_": "vodet.structures.Window", "past": -1}}, "past=-1"),
        ({}, "_target_ in config.model, found {}."),
    ],
)
def test_a_config_that_builds_no_detector(
    model: Any, message: str, write: Callable[[Any], Path]
) -> None:
    assert message in message_of(vodet.load, write(contents(model)))


OWN = """
from vodet.fusion.mean import MeanFusion
from os import system

def build(spec):
    return MeanFusion(spec)
"""


def test_trusted_packages(
    write: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_package.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def own(name: str) -> Path:
        fusion = {"_target_": f"own_package.{name}", "_partial_": True}
        return write(contents(MODEL | {"fusion": fusion}))

    message = message_of(vodet.load, own("build"))
    assert "trusted=['own_package']" in message
    assert "trusted=[own_package] on the command line" in message
    assert isinstance(vodet.load(own("build"), trusted=["own_package"]).fusion.net, MeanFusion)
    message = message_of(vodet.load, own("system"), trusted=["own_package"])
    assert "'own_package.system', which is not part of a vodet detector." in message


@contextmanager
def no_large_files() -> Iterator[None]:
    """Lets no file grow beyond a kilobyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def full_disk() -> Iterator[None]:
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", Mock(side_effect=error))
        yield


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [(no_large_files, "File too large"), (full_disk, "No space left on")],
)
def test_a_full_disk_leaves_the_old_checkpoint(
    trouble: Callable[[], AbstractContextManager[None]],
    reason: str,
    write: Callable[[Any], Path],
) -> None:
    path = write(contents())
    before = path.read_bytes()

    with trouble():
        message = message_of(AtomicCheckpointIO().save_checkpoint, contents(), path)

    assert f"The checkpoint was not saved. Cannot write {path}: {reason}" in message
    assert "earlier checkpoint at this path is unchanged" in message
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


def test_a_checkpoint_io_reads_what_it_writes(tmp_path: Path) -> None:
    checkpoint = contents()
    AtomicCheckpointIO().save_checkpoint(checkpoint, tmp_path / "new" / "a.ckpt")
    read = AtomicCheckpointIO().load_checkpoint(tmp_path / "new" / "a.ckpt")
    assert read["vodet"] == checkpoint["vodet"] == read_checkpoint(tmp_path / "new/a.ckpt")["vodet"]
    assert read["vodet"]["version"] == vodet.__version__
    torch.testing.assert_close(read["state_dict"], checkpoint["state_dict"], rtol=0, atol=0)
    assert OmegaConf.create(read["vodet"]["config"])["model"] == MODEL


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_the_machine_lacks(write: Callable[[Any], Path]) -> None:
    with pytest.raises(ConfigError, match=r"which has 0 GPUs; found 'cuda'"):
        vodet.load(write(contents()), map_location="cuda")
    assert vodet.load(write(contents()), map_location="auto").device.type == "cpu"
