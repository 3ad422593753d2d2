"""vodet-export: writes a detector, with its temporal memory, as programs without Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from vodet.errors import ConfigError
from vodet.export.folder import check_empty, check_format, export_detector
from vodet.screen import Screen
from vodet.structures import Size
from vodet.tasks.checkpoint import load


def export(config: DictConfig) -> None:
    """Export the detector of ``ckpt`` to the folder ``output``.

    Raises:
        ConfigError: If a setting is invalid, or a part of the detector cannot be exported.
    """
    folder, frame_size = Path(config.output), size_of(config.frame_size)
    check_format(config.format)  # before the checkpoint is read
    check_empty(folder)
    overrides: Any = OmegaConf.to_container(config.model)
    detector = load(config.ckpt, trusted=config.trusted, overrides=overrides)
    export_detector(detector, folder, config.format, frame_size)
    sizes = [
        f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in sorted(folder.iterdir())
    ]
    Screen().print(f"Wrote to {folder}: {', '.join(sizes)}", markup=False, soft_wrap=True)


def size_of(value: object) -> Size:
    """Return ``frame_size`` of a config as ``(height, width)``.

    Raises:
        ConfigError: If it is not two positive whole numbers.
    """
    numbers = list(value) if isinstance(value, ListConfig) else []
    if len(numbers) != 2 or not all(type(number) is int and number > 0 for number in numbers):
        msg = f"frame_size must be [HEIGHT,WIDTH] in pixels, such as [720,1280]; found {value}."
        raise ConfigError(msg)
    return numbers[0], numbers[1]
