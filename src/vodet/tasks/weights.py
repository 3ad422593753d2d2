"""Checks the weights of a checkpoint before a detector loads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vodet.errors import CheckpointError
from vodet.tasks.checkpoint_file import WHAT_READS_WHAT, FilePath, entries, shown
from vodet.tasks.restricted_pickle import read_pickle

Weights = Mapping[str, Tensor]

# Tied weights take less space in a file than in a detector, but not much less. Weights that claim
# more than this multiple of the stored bytes are meant to fill the memory.
_LARGEST_RATIO = 10


def checked_weights(found: object, path: FilePath) -> dict[str, Tensor]:
    """Check that a detector can use the weights of a checkpoint, and return them by name.

    Args:
        found: The entry of the checkpoint that should contain the weights by name.
        path: The checkpoint, for error messages.

    Raises:
        CheckpointError: If a weight is not a dense tensor of finite real numbers; the message lists
            the first ten faults.
    """
    if not isinstance(found, dict):
        msg = (
            f"The weights of the checkpoint {path} are unusable: expected a mapping from names to "
            f"tensors, found {type(found).__name__}."
        )
        raise CheckpointError(msg)
    for find_faults in (_not_tensors, _larger_than_stored, _not_finite):
        if faults := list(find_faults(found)):
            msg = f"The checkpoint {path} has unusable weights: {first_ten(faults, 'fault')}"
            raise CheckpointError(msg)
    return {name: value.detach() for name, value in found.items()}


def first_ten(lines: Sequence[str], noun: str) -> str:
    """Return a text that counts lines, such as "12 differences", and lists the first ten.

    Args:
        lines: The lines to count, at least one.
        noun: What each line describes, in the singular, such as "difference".
    """
    count = f"1 {noun}" if len(lines) == 1 else f"{len(lines)} {noun}s"
    beginning = ", the first ten" if len(lines) > 10 else ""
    listed = "\n".join(f"  {line}" for line in lines[:10])
    return f"{count}{beginning}:\n{listed}"


def read_weights(path: FilePath) -> dict[str, Tensor]:
    """Read the weights of a checkpoint of torchvision or detectron2, by name.

    No code in the file is executed.

    Args:
        path: A file that contains only weights by name, or has them in its entry ``model``, as do
            the files of detectron2, of its model zoo and of torchvision's training scripts.

    Raises:
        CheckpointError: If the file cannot be read or has no usable weights.
    """
    return foreign_weights(read_pickle(path), path)


def foreign_weights(checkpoint: object, path: FilePath) -> dict[str, Tensor]:
    """Return the weights in the content of a checkpoint of torchvision or detectron2, by name.

    Args:
        checkpoint: The content of the file.
        path: The file, for error messages.

    Raises:
        CheckpointError: If the checkpoint has no usable weights.
    """
    found = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(found, dict) or not any(map(_is_weight, found.values())):
        msg = (
            f"The checkpoint {path} was not written by torchvision or detectron2: expected a "
            "dictionary from names to tensors, or a dictionary that contains one in the entry "
            f"'model', as in model_final.pth; found {entries(checkpoint)}. {WHAT_READS_WHAT}"
        )
        raise CheckpointError(msg)
    tensors = {
        name: torch.tensor(np.asarray(value))
        if isinstance(value, np.ndarray | np.number)
        else value
        for name, value in found.items()
    }
    return checked_weights(tensors, path)


def require_weights(
    weights: Weights, dimensions: Mapping[str, int], program: str, path: FilePath
) -> None:
    """Check that a file contains the weights from which the architecture is inferred.

    Args:
        weights: All weights in the file.
        dimensions: Names of the required weights, with their numbers of dimensions.
        program: The program that uses these names.
        path: The file, for error messages.

    Raises:
        CheckpointError: If a required weight is missing, has another number of dimensions, or is
            empty.
    """
    faults = [
        f"{name}: expected a tensor with {expected} dimensions that is not empty, found "
        + (f"shape {tuple(weights[name].shape)}" if name in weights else "no such weight")
        for name, expected in dimensions.items()
        if name not in weights or weights[name].ndim != expected or not weights[name].numel()
    ]
    if faults:
        msg = (
            f"{path} does not contain the weights of {program}'s Faster R-CNN with FPN. It has "
            f"{len(weights)} weights, such as {min(weights)!r}; the weights that tell the "
            f"architecture have {first_ten(faults, 'fault')}\n{WHAT_READS_WHAT}"
        )
        raise CheckpointError(msg)


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray | np.number)


def _not_tensors(found: Mapping[Any, Any]) -> Iterator[str]:
    for name, value in found.items():
        if not isinstance(name, str) or not name.isprintable():
            yield f"{shown(name)}: expected the name of a weight"
        elif type(value) not in (Tensor, nn.Parameter):
            yield f"{shown(name)}: expected a tensor, found {type(value).__name__}"
        elif not _is_dense(value):
            kind = f"{value.dtype}, {value.layout}, on {value.device}"
            yield f"{shown(name)}: expected a dense tensor of real numbers in memory, found {kind}"


def _is_dense(value: Tensor) -> bool:
    return value.layout == torch.strided and not (
        value.is_meta or value.is_quantized or value.is_nested or value.is_complex()
    )


def _larger_than_stored(found: Mapping[str, Tensor]) -> Iterator[str]:
    storages = [value.untyped_storage() for value in found.values()]
    stored = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    claimed = sum(value.numel() * value.element_size() for value in found.values())
    if claimed > _LARGEST_RATIO * stored:
        name = max(found, key=lambda name: found[name].numel())
        yield (
            f"{shown(name)}: has shape {tuple(found[name].shape)}; the shapes of all weights need "
            f"{claimed} bytes, but the file stores only {stored}"
        )


def _not_finite(found: Mapping[str, Tensor]) -> Iterator[str]:
    for name, value in found.items():
        if value.is_floating_point():
            finite = value.float().isfinite()  # the type in which the detector computes
            if not finite.all():
                count = value.numel() - int(finite.sum())
                yield f"{shown(name)}: {count} of {value.numel()} numbers are not finite"


def difference_of(own: Tensor, found: Tensor) -> str | None:
    """Return why a weight cannot replace a weight of the detector, or None if it can.

    All floating-point types can replace each other.

    Args:
        own: The weight of the detector.
        found: The weight that should replace it.
    """
    if own.shape != found.shape:
        return f"expected shape {tuple(own.shape)}, found {tuple(found.shape)}"
    if own.is_floating_point() != found.is_floating_point():
        return f"expected {own.dtype}, found {found.dtype}"
    return None
