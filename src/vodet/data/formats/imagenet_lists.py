"""Reads the list files of ImageNet VID and DET, which select the videos and frames to read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vodet.data.formats.tables import raise_faults
from vodet.errors import DataError
from vodet.files import read_file


@dataclass
class Selection:
    """The videos and frames that a list file selects.

    The keys are the paths of the videos below the folder of the split.

    Args:
        frames: Numbers of the frames to read from each video; an empty list reads all frames.
        annotated: Numbers of the frames of each video whose boxes are read; the boxes of all frames
            are read if a video is missing here.
        lengths: Number of frames of each video; videos are missing if the list does not say it.
    """

    frames: dict[str, list[int]] = field(default_factory=dict)
    annotated: dict[str, list[int]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)


def read_list(path: Path, split: str) -> Selection:
    """Read a list file, which selects videos or frames.

    The lines of a list file have one of these forms:

    - ``path 1 frame_index n_frames``, as in ``VID_train_15frames.txt``: only the listed frames of a
      video are annotated; its other frames are support frames.
    - ``path start 0 n_frames``, as in ``VID_val_videos.txt``: whole videos.
    - ``video/frame index``, as in ``ImageSets/VID/val.txt``: single frames.
    - ``video index``, as in ``ImageSets/VID/train_1.txt``: whole videos.

    Args:
        path: The list file.
        split: ``train`` or ``val``; paths in the list may begin with ``train/`` or ``val/``.

    Raises:
        DataError: If the list file is missing, empty or malformed.
    """
    lines = _read_lines(path)
    numbered = {line: parts for line, parts in lines.items() if len(parts) == 4}
    faults = [
        f"line {line}: expected `path number` or `path number frame_index n_frames` with integers, "
        f"found {' '.join(parts)!r}"
        for line, parts in lines.items()
        if len(parts) not in (1, 2, 4) or not all(part.isdecimal() for part in parts[1:])
    ]
    if numbered and len(numbered) < len(lines):
        found = f"{len(numbered)} of {len(lines)} lines with 4 columns"
        faults.append(f"expected 4 columns in all lines or in none, found {found}")
    raise_faults(path, faults)
    return _by_length(path, numbered, split) if numbered else _by_path(lines, split)


def _read_lines(path: Path) -> dict[int, list[str]]:
    try:
        lines = read_file(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"--list: cannot read {path}: {error}."
        raise DataError(msg) from error
    parts = {line: text.split() for line, text in enumerate(lines, start=1) if text.strip()}
    if not parts:
        msg = f"--list: expected videos or frames in {path}, found an empty file."
        raise DataError(msg)
    return parts


def _by_length(path: Path, lines: dict[int, list[str]], split: str) -> Selection:
    selection = Selection()
    faults = []
    for line, (name, _, index, length) in lines.items():
        video = _below(name, split)
        selection.annotated.setdefault(video, []).append(int(index))
        selection.lengths[video] = int(length)
        selection.frames[video] = []
        if int(index) >= int(length):
            faults.append(f"line {line}: expected a frame_index below {length}, found {index}")
    raise_faults(path, faults)
    if all(frames == [0] for frames in selection.annotated.values()):
        selection.annotated.clear()  # a list of whole videos
    return selection


def _by_path(lines: dict[int, list[str]], split: str) -> Selection:
    selection = Selection()
    for name, *_ in lines.values():
        video, _, frame = _below(name, split).rpartition("/")
        if len(frame) == 6 and frame.isdecimal():
            selection.frames.setdefault(video, []).append(int(frame))
        else:
            selection.frames[_below(name, split)] = []
    return selection


def _below(name: str, split: str) -> str:
    return name.removeprefix(f"{split}/").removesuffix(".JPEG")
