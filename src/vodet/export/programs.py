"""A detector as two exported programs, whose memory is an input and an output.

``encode`` takes one frame; ``step`` takes the encoded frames of one window and the memory of the
video. Their inputs and outputs are named tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from vodet.boxes import box_areas, clip_boxes
from vodet.detector import VideoDetector
from vodet.encodings import EncodedFrames, FeatureMaps, Memory, WindowBatch, of_stage, prefixed
from vodet.errors import ConfigError, VodetError
from vodet.structures import Size

_STAGES = ("fusion", "head")
Named = dict[str, Tensor]


@dataclass(frozen=True)
class Programs:
    """The programs of a detector, for frames of one size and one video.

    Args:
        encode: ``encode(frame, size)`` returns the encoding of a frame ``[1, 3, H, W]`` uint8 RGB,
            whose picture has the ``(height, width)`` ``size`` ``[1, 2]`` int64.
        step: ``step(encodings, memory)`` returns the detections of the reference frame and the new
            memory. Each tensor of ``encodings`` holds one row per frame of the window.
        frame: Examples of the inputs of ``encode``.
        encodings: Examples of ``encodings``.
        memory: The memory at the start of a video.
        detections: The detections that ``step`` returns, as examples.
    """

    encode: ExportedProgram
    step: ExportedProgram
    frame: Named
    encodings: Named
    memory: Named
    detections: Named


class Encode(nn.Module):
    """The program ``encode``.

    Args:
        detector: The detector.
        names: The tensors to return; None for all.
    """

    def __init__(self, detector: VideoDetector, names: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.detector = detector
        self.names = names

    def forward(self, frame: Tensor, size: Tensor) -> Named:
        """Return the named tensors of an encoded frame."""
        found = _named(self.detector.encode(frame, size))
        return {name: found[name] for name in self.names or found}


class Step(nn.Module):
    """The program ``step``.

    Args:
        detector: The detector.
        unused: Tensors of encoded frames of which only the shapes matter; they are not inputs.
    """

    def __init__(self, detector: VideoDetector, unused: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.detector = detector
        self.unused = {name: (like.shape, like.dtype) for name, like in (unused or {}).items()}

    def forward(self, encodings: Named, memory: Named) -> tuple[Named, Named]:
        """Return the detections of the reference frame, and the new memory.

        ``boxes`` ``[D, 4]`` are in pixels of the frame and clipped to the picture. Rows that are no
        detection have ``scores`` of 0.
        """
        unused = {n: torch.zeros(shape, dtype=dtype) for n, (shape, dtype) in self.unused.items()}
        frames, window = _encoded({**encodings, **unused}), self.detector.window
        windows = WindowBatch.of_clips(frames, len(window.offsets), window.reference)
        states = {stage: of_stage(f"memory.{stage}", memory) for stage in _STAGES}
        outputs, after = self.detector.step(windows, Memory(states))
        found = self.detector.head.best(outputs)
        boxes = clip_boxes(found["boxes"].float(), windows.sizes.unsqueeze(1))
        scores = found["scores"].float().masked_fill(box_areas(boxes) == 0, 0)
        detections = {"boxes": boxes[0], "scores": scores[0], "labels": found["labels"][0]}
        return detections, _flat(after)


@torch.no_grad()
def export_programs(detector: VideoDetector, frame_size: Size) -> Programs:
    """Export a detector.

    Args:
        detector: The detector, in evaluation mode, on the CPU.
        frame_size: ``(height, width)`` of the frames that ``encode`` gets.

    Raises:
        ConfigError: If a part of the detector cannot be exported.
    """
    frame = {
        "frame": torch.zeros(1, 3, *frame_size, dtype=torch.uint8),
        "size": torch.tensor([frame_size]),
    }
    encoded = detector.encode(*frame.values())
    memory = _flat(detector.begin(1, encoded))
    encodings = {
        name: tensor.expand(len(detector.window.offsets), *tensor.shape[1:]).contiguous()
        for name, tensor in _named(encoded).items()
    }
    step = Step(detector)
    program = _exported(step, (encodings, memory), detector)
    used = dict(zip(encodings, _are_used(program), strict=False))  # the memory comes after them
    if not all(used.values()):  # such as maps from which candidates were pooled
        step = Step(
            detector, {name: tensor for name, tensor in encodings.items() if not used[name]}
        )
        encodings = {name: tensor for name, tensor in encodings.items() if used[name]}
        program = _exported(step, (encodings, memory), detector)
    encode = _exported(Encode(detector, tuple(encodings)), tuple(frame.values()), detector)
    detections, _ = step(encodings, memory)
    return Programs(encode, program, frame, encodings, memory, detections)


def _named(frames: EncodedFrames) -> Named:
    maps = {f"maps.{level}": tensor for level, tensor in enumerate(frames.maps.levels)}
    return {**maps, "sizes": frames.sizes, **frames.extras}


def _encoded(tensors: Named) -> EncodedFrames:
    extras = {n: t for n, t in tensors.items() if n.partition(".")[0] in _STAGES}
    maps = of_stage("maps", tensors)
    levels = tuple(maps[str(level)] for level in range(len(maps)))
    return EncodedFrames(FeatureMaps(levels), tensors["sizes"], extras)


def _flat(memory: Memory) -> Named:
    named = [prefixed(f"memory.{stage}", memory.states[stage]) for stage in _STAGES]
    return {name: tensor for tensors in named for name, tensor in tensors.items()}


def _are_used(program: ExportedProgram) -> list[bool]:
    """Return whether each input of a program is used."""
    inputs = set(program.graph_signature.user_inputs)
    return [bool(node.users) for node in program.graph.nodes if node.name in inputs]


def _exported(
    module: nn.Module, inputs: tuple[Any, ...], detector: VideoDetector
) -> ExportedProgram:
    try:
        return torch.export.export(module, inputs)
    except Exception as error:  # whatever the tracer finds in the code of any part
        if isinstance(error, VodetError) and error.__cause__ is None:
            raise
        reason = first_line(error.__cause__ or error)
        msg = (
            f"This detector cannot be exported: {_part(error, detector)} uses an operation that a "
            f"graph cannot contain ({reason}). Export a detector with another part in "
            "its place; docs/export.md lists the parts that can be exported."
        )
        raise ConfigError(msg) from error


def _part(error: Exception, detector: VideoDetector) -> str:
    """Return the name of the innermost part of the detector that was running."""
    names = {id(module): name for name, module in detector.named_modules() if name}
    running = [frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__)]
    parts = [module for module in running if id(module) in names]
    return f"{names[id(parts[-1])]} ({type(parts[-1]).__name__})" if parts else "one of its parts"


def first_line(error: BaseException) -> str:
    """Return the first line of the message of an error, or the name of its class."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
