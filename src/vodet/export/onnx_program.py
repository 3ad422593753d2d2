"""Converts exported programs to ONNX. It is imported only where ``onnx`` is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from onnxscript import BOOL, INT32, opset18
from torch.export import ExportedProgram

from vodet.errors import ConfigError
from vodet.export.programs import first_line

_op: Any = opset18  # its types are stricter than what it takes
OPSET = 18  # the lowest that PyTorch writes; ONNX Runtime 1.15 and later read it


@torch.no_grad()  # operators with gradients would differ from the exported ones
def write_onnx(
    program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """Convert a program to ONNX and write it.

    Args:
        program: The program.
        path: The file to write.
        inputs: Names of the inputs.
        outputs: Names of the outputs.

    Raises:
        ConfigError: If the program contains an operation that ONNX does not have.
    """
    try:
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            custom_translation_table=_TRANSLATIONS,
            verbose=False,
        )
    except Exception as error:  # whatever the converter cannot translate
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        msg = (
            f"This detector cannot be converted to ONNX: {first_line(cause)} Choose "
            "format=torch_export, or a detector whose parts docs/export.md lists."
        )
        raise ConfigError(msg) from error
    assert converted is not None
    converted.save(path)


def _where(condition: Any, a: Any, b: Any) -> Any:
    """Translate ``torch.where``; ONNX Runtime has no ``Where`` for truth values."""
    if a.dtype == b.dtype == BOOL.dtype:
        return _op.Or(_op.And(condition, a), _op.And(_op.Not(condition), b))
    return _op.Where(condition, a, b)


def _is_all_true(x: Any) -> Any:
    """Translate the check for numbers that are not finite, which some DETRs contain."""
    least = _op.ReduceMin(_op.Cast(x, to=INT32.dtype), keepdims=False)
    return _op.Cast(least, to=BOOL.dtype)


_TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.where.self: _where,
    torch.ops.aten._is_all_true.default: _is_all_true,
}
