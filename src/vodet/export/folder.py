"""Writes an exported detector to a folder: its programs, initial memory and description."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vodet import __version__
from vodet.detector import VideoDetector
from vodet.errors import ConfigError
from vodet.export.programs import Programs, export_programs
from vodet.files import writing
from vodet.stages import FrameResize
from vodet.structures import Size

_DESCRIPTION, _MEMORY = "vodet.json", "begin.npz"
_SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
_PACKAGES = ("onnx", "onnxscript")  # of format=onnx


def check_format(name: str) -> None:
    """Check that detectors can be exported to a format.

    Raises:
        ConfigError: If the format is unknown, or packages that it needs are missing.
    """
    if name not in _SUFFIXES:
        msg = f"format must be one of {', '.join(_SUFFIXES)}; found {name!r}."
        raise ConfigError(msg)
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if name == "onnx" and missing:
        msg = (
            f"format=onnx needs the packages {' and '.join(_PACKAGES)}; {' and '.join(missing)} "
            "cannot be found. Run pip install 'vodet[onnx]', or choose format=torch_export."
        )
        raise ConfigError(msg)


def check_empty(folder: Path) -> None:
    """Check that a folder does not exist or is empty.

    Raises:
        ConfigError: If there is a file in the folder, or at its path.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        found = f"{sum(1 for _ in folder.iterdir())} files" if folder.is_dir() else "a file"
        msg = f"output={folder} must be a new or empty folder, found {found}. Choose another one."
        raise ConfigError(msg)


def export_detector(
    detector: VideoDetector, folder: str | Path, format: str, frame_size: Size
) -> None:
    """Write a detector to a folder.

    Args:
        detector: The detector, in evaluation mode, on the CPU.
        folder: A folder that does not exist or is empty.
        format: ``onnx`` or ``torch_export``.
        frame_size: ``(height, width)`` of the frames of the videos, before they are resized.

    Raises:
        ConfigError: If an argument is invalid, a package is missing, or a part of the detector
            cannot be exported.
        OutputError: If a file cannot be written.
    """
    folder = Path(folder)
    check_format(format)
    check_empty(folder)
    frame = describe_frame(detector.resize, frame_size)
    with _quiet(), writing(folder, folder.parent):
        programs = export_programs(detector, (frame["height"], frame["width"]))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name[:40]}.", dir=folder.parent) as temporary:
            complete = Path(temporary, "complete")
            complete.mkdir()
            written = _write_programs(programs, complete, format)
            description = {
                "vodet": __version__,
                "format": format,
                "class_names": detector.class_names,
                "frame": frame,
                "window": detector.window.offsets,
                **written,
            }
            text = json.dumps(description, indent=2, ensure_ascii=False)
            (complete / _DESCRIPTION).write_text(text + "\n", encoding="utf-8")
            complete.replace(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings in which the exporters speak of their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _write_programs(programs: Programs, folder: Path, format: str) -> dict[str, Any]:
    """Write the programs and the initial memory; return their description."""
    after = {f"next.{name}": tensor for name, tensor in programs.memory.items()}
    encoding = {name: tensor[:1] for name, tensor in programs.encodings.items()}
    signatures = {
        "encode": (programs.encode, programs.frame, encoding),
        "step": (
            programs.step,
            {**programs.encodings, **programs.memory},
            {**programs.detections, **after},
        ),
    }
    described: dict[str, Any] = {}
    for name, (program, inputs, outputs) in signatures.items():
        path = folder / f"{name}{_SUFFIXES[format]}"
        if format == "onnx":
            from vodet.export.onnx_program import write_onnx

            write_onnx(program, path, list(inputs), list(outputs))
        else:
            torch.export.save(program, path)
        described[name] = {
            "file": path.name,
            "inputs": _described(inputs),
            "outputs": _described(outputs),
        }
    memory: dict[str, Any] = {name: tensor.numpy() for name, tensor in programs.memory.items()}
    np.savez_compressed(folder / _MEMORY, **memory)
    return {**described, "begin": _MEMORY, "memory": dict(zip(programs.memory, after, strict=True))}


def _described(tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(tensor.shape), "type": str(tensor.dtype).rpartition(".")[2]}
        for name, tensor in tensors.items()
    ]


def describe_frame(resize: FrameResize, frame_size: Size) -> dict[str, Any]:
    """Return how frames become inputs of ``encode``.

    Args:
        resize: Resizes frames to the evaluation size.
        frame_size: ``(height, width)`` of the frames of a video.

    Returns:
        ``height`` and ``width`` of the input; ``video``, which is ``frame_size``; ``picture``, the
        size to which frames of this size are resized; and ``keeps_aspect_ratio``, whether frames of
        other sizes keep their aspect ratio.
    """
    height, width = resize(np.zeros((*frame_size, 3), np.uint8)).shape[:2]
    return {
        "height": height,
        "width": width,
        "keeps_aspect_ratio": resize.target_size((480, 640)) != resize.target_size((640, 480)),
        "video": frame_size,
        "picture": resize.target_size(frame_size),
    }
