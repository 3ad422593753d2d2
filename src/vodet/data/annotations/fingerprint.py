"""Computes fingerprints, which identify a data set by its annotations, not by its file name."""

from __future__ import annotations

import hashlib
import textwrap
from typing import Any

import numpy as np

from vodet.data.annotations.index import VideoIndex
from vodet.errors import ConfigError

_FRAMES = ("video_starts", "frame_numbers", "box_starts")
_BOXES = ("boxes", "labels", "track_ids", "iscrowd")


def fingerprint(index: VideoIndex) -> dict[str, Any]:
    """Return a fingerprint of a data set: its file, counts, classes and a hash of its annotations.

    If fingerprints differ only in the file, the data sets are the same.
    """
    content = hashlib.sha256()
    for name in _FRAMES + _BOXES:
        content.update(np.ascontiguousarray(getattr(index, name)).tobytes())
    return {
        "file": index.source,
        "videos": index.num_videos,
        "frames": index.num_frames,
        "boxes": index.num_boxes,
        "classes": list(index.class_names),
        "sha256": content.hexdigest(),
    }


def check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Check that a resumed run has the same training data as before.

    Args:
        before: Fingerprints at the start of the run; the keys are the names of the data sets in the
            config, such as ``train``.
        now: Fingerprints of the data sets in the current config, with the same kind of keys.

    Raises:
        ConfigError: If a data set differs; the message shows both fingerprints.
    """
    for name in before | now:
        old, new = before.get(name), now.get(name)
        if _content(old) != _content(new):
            msg = (
                f"data.{name}.annotations: the run was trained on {_shown(old)}; found "
                f"{_shown(new)}. Resume with the annotations of the run, or start a new run with "
                "init_from=CHECKPOINT."
            )
            raise ConfigError(msg)


def _content(data: dict[str, Any] | None) -> dict[str, Any] | None:
    return data and {key: value for key, value in data.items() if key != "file"}


def _shown(data: dict[str, Any] | None) -> str:
    if data is None:
        return "no such data set"
    texts = {key: str(value) for key, value in data.items()}
    texts["classes"] = textwrap.shorten(texts["classes"], 80)
    return ", ".join(f"{key} {text}" for key, text in texts.items())
