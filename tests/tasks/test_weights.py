from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

import vodet
from tasks.small_checkpoint import contents, detector
from vodet.errors import CheckpointError
from vodet.tasks.checkpoint import AtomicCheckpointIO, load_weights
from vodet.tasks.checkpoint_file import WHAT_READS_WHAT
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.init_from import init_from
from vodet.tasks.weights import checked_weights, read_weights

NAME = "detector.head.size.out.weight"


def lightning_reads(path: Path, fn: TrainerFn = TrainerFn.VALIDATING) -> None:
    """As in a notebook, where Lightning reads the file instead of vodet."""
    task = VideoDetectionTask(detector())
    trainer = L.Trainer(accelerator="cpu", logger=False)
    trainer.strategy.connect(task)
    trainer.ckpt_path = path
    trainer.state.fn = fn
    task.trainer = trainer
    task.on_load_checkpoint(torch.load(path, weights_only=True))


READERS: dict[str, Callable[[Path], Any]] = {
    "vodet.load": vodet.load,
    "load_weights": lambda path: load_weights(detector(), path),
    "init_from": lambda path: init_from(detector(), path),
    "resume": AtomicCheckpointIO().load_checkpoint,
    "Lightning": lightning_reads,
}


def message_of(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    return str(caught.value)


def with_gap(value: float) -> torch.Tensor:
    result = torch.zeros(3, 4, dtype=torch.float64)
    result[1, 2:] = value
    return result


ODD: dict[str, tuple[Any, str]] = {
    "nan": (with_gap(float("nan")).float(), "2 of 12 numbers are not finite"),
    "inf": (with_gap(float("-inf")).half(), "2 of 12 numbers are not finite"),
    "too large": (with_gap(1e300), "2 of 12 numbers are not finite"),
    "sparse": (torch.eye(3).to_sparse(), "torch.sparse_coo"),
    "meta": (torch.empty(3, device="meta"), "on meta"),
    "complex": (torch.zeros(3, dtype=torch.complex64), "torch.complex64"),
    "expanded": (torch.zeros(1).expand(10**6, 10**6), "shape (1000000, 1000000)"),
    "list": ([1.0, 2.0], "found list"),
    "text": ("a", "found str"),
    "none": (None, "found NoneType"),
}


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("reader", READERS)
def test_unusable_weights_are_named(reader: str, kind: str, tmp_path: Path) -> None:
    value, found = ODD[kind]
    checkpoint = contents()
    checkpoint["state_dict"][NAME] = value
    path = tmp_path / "a.ckpt"
    torch.save(checkpoint, path)

    message = message_of(READERS[reader], path)

    assert str(path) in message
    assert "1 fault:" in message
    assert f"{NAME!r}: " in message
    assert found in message


@pytest.mark.parametrize("key", ["state_dict", "current_model_state"])
@pytest.mark.parametrize(
    ("weights", "found"),
    [([torch.zeros(1)], "found list"), (None, "found NoneType"), ({3: torch.zeros(1)}, "3: exp"),
     ({"a\x1b[31m": torch.zeros(1)}, r"'a\x1b[31m': expected the name")],
)  # fmt: skip
@pytest.mark.parametrize("reader", READERS)
def test_weights_that_are_no_tensors_by_name(
    reader: str, weights: Any, found: str, key: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(contents() | {key: weights}, path)
    message = message_of(READERS[reader], path)
    assert str(path) in message
    assert found in message


def test_the_first_ten_are_named() -> None:
    found = {f"layer{number}": torch.tensor([torch.nan]) for number in range(25)}
    with pytest.raises(CheckpointError) as caught:
        checked_weights(found, "a.ckpt")
    lines = str(caught.value).splitlines()
    assert "25 faults, the first ten:" in lines[0]
    assert lines[1] == "  'layer0': 1 of 1 numbers are not finite"
    assert len(lines) == 11


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_quantized_weights() -> None:
    value = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)
    with pytest.raises(CheckpointError, match=r"'a': .*found torch.qint8"):
        checked_weights({"a": value}, "a.ckpt")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
@pytest.mark.parametrize("reader", ["vodet.load", "load_weights", "Lightning"])
def test_whole_numbers_are_no_weights(reader: str, dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint = contents()
    checkpoint["state_dict"][NAME] = checkpoint["state_dict"][NAME].to(dtype)
    path = tmp_path / "a.ckpt"
    torch.save(checkpoint, path)
    message = message_of(READERS[reader], path)
    assert f"head.size.out.weight: expected torch.float32, found {dtype}" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint = contents()
    value = checkpoint["state_dict"][NAME].to(dtype)
    checkpoint["state_dict"][NAME] = value
    path = tmp_path / "a.ckpt"
    torch.save(checkpoint, path)
    found = vodet.load(path).head.size.out.weight
    assert found.dtype == torch.float32
    assert torch.equal(found, value.float())


def test_tied_weights_and_views_are_weights() -> None:
    whole = torch.randn(6, 4)
    found = {"whole": whole, "tied": whole, "part": whole[2:, ::2], "turned": whole.t()}
    assert checked_weights(found, "a.ckpt").keys() == found.keys()


def test_the_same_guard_reads_weights_of_detectron2(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    value = with_gap(float("nan")).numpy()
    path.write_bytes(pickle.dumps({"model": {"a": value, "b": [1], "c": value}}))
    assert "'b': expected a tensor, found list" in message_of(read_weights, path)
    path.write_bytes(pickle.dumps({"model": {"a": value}}))
    assert "'a': 2 of 12 numbers are not finite" in message_of(read_weights, path)


FOREIGN: dict[str, Any] = {
    "state dict": {f"layer{number}.conv.weight": torch.zeros(1) for number in range(300)},
    "detectron2": {"model": {"backbone.conv1.weight": torch.zeros(1)}, "iteration": 3},
    "another Lightning": {"state_dict": {"net.weight": torch.zeros(1)}, "epoch": 1},
    "tensor": torch.zeros(3),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("reader", [name for name in READERS if name != "Lightning"])
def test_a_foreign_file_is_one_short_error(reader: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(FOREIGN[kind], path)
    message = message_of(READERS[reader], path)
    assert str(path) in message
    assert WHAT_READS_WHAT in message
    assert len(message) < 700
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["another Lightning", "tensor", "vodet"])
def test_import_weights_says_what_reads_a_foreign_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(FOREIGN[kind] if kind in FOREIGN else contents(), path)
    message = message_of(read_weights, path)
    assert WHAT_READS_WHAT in message
    assert len(message) < 700


def test_no_training_is_resumed_from_weights_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(contents(), path)
    lightning_reads(path)
    message = message_of(partial(lightning_reads, fn=TrainerFn.FITTING), path)
    assert f"init_from={path}" in message
