"""``vodet-data split`` and ``vodet-data merge``: divide and join ST-COCO files by videos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vodet.cli.convert import add_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vodet.data.annotations.index import VideoIndex

SPLIT_EPILOG = """\
Writes FILE_train.json and FILE_val.json beside FILE, or in the DIR of --output. No video is
divided. FILE_val.json gets about the same share of the boxes of each class.

examples:
  vodet-data split all.json --val 0.2
  vodet-data split all.json --val 0.1 --seed 1 --output data/mine
"""
MERGE_EPILOG = """\
Classes are matched by name. The names of videos and images must differ between the files, and all
images must be below one image root.

examples:
  vodet-data merge all.json city.json harbour.json
"""


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``split`` to its parser."""
    parser.add_argument("file", type=Path, metavar="FILE", help="an ST-COCO file")
    parser.add_argument(
        "--val", type=float, required=True, metavar="SHARE", help="share for validation, as in 0.2"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="the folder to write (default: of FILE)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``merge`` to its parser."""
    add_target(parser)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="ST-COCO files")


def run_split(arguments: argparse.Namespace) -> None:
    """Split an ST-COCO file into training and validation data, and print how.

    Raises:
        ConfigError: If a file to write exists already, or the share is invalid.
        DataError: If FILE is missing or malformed.
    """
    from vodet.data.annotations.rows import read_rows
    from vodet.data.annotations.split import choose_videos, write_part
    from vodet.data.formats.writer import check_target

    file: Path = arguments.file
    folder = arguments.output or file.parent
    stem = file.name.removesuffix(".gz").removesuffix(".json")
    targets = [folder / f"{stem}_{part}.json" for part in ("train", "val")]
    for target in targets:
        check_target(target, overwrite=arguments.overwrite, sources=[file])
    rows = read_rows(file)
    is_val = choose_videos(rows.index, arguments.val, arguments.seed)
    for target, chosen in zip(targets, (~is_val, is_val), strict=True):
        videos = {rows.index.video_name(int(video)) for video in chosen.nonzero()[0]}
        write_part(rows, videos, target)
    _print_parts(targets, arguments.val)


def run_merge(arguments: argparse.Namespace) -> None:
    """Merge ST-COCO files, and print what the new file has.

    Raises:
        ConfigError: If DST exists already.
        DataError: If a file is missing or malformed, or a video is in two files.
    """
    from vodet.data.annotations.merge import merge
    from vodet.data.annotations.rows import read_rows
    from vodet.data.annotations.st_coco import read_st_coco
    from vodet.data.annotations.statistics import statistics_table
    from vodet.data.formats.writer import check_target
    from vodet.screen import Screen

    check_target(arguments.target, overwrite=arguments.overwrite, sources=arguments.files)
    lacking = merge([read_rows(file) for file in arguments.files], arguments.target)
    screen = Screen()
    screen.print(statistics_table(read_st_coco(arguments.target)))
    for lack in lacking:
        text = f"Warning: {lack}: objects of these classes count as background there"
        screen.print(text, soft_wrap=True)


def _print_parts(targets: Sequence[Path], share: float) -> None:
    from rich.table import Table

    from vodet.data.annotations.st_coco import read_st_coco
    from vodet.screen import Screen

    train, val = (read_st_coco(target) for target in targets)
    table = Table("", "train", "val", f"share of val (wanted {share:g})")
    rows = {
        "videos": (train.num_videos, val.num_videos),
        "frames": (train.num_frames, val.num_frames),
    }
    for name, *numbers in zip(train.class_names, _objects(train), _objects(val), strict=True):
        rows[f"boxes of {name}"] = (numbers[0], numbers[1])
    for name, (in_train, in_val) in rows.items():
        total = in_train + in_val
        table.add_row(name, str(in_train), str(in_val), f"{in_val / total:.2f}" if total else "-")
    screen = Screen(soft_wrap=True)
    screen.print(table)
    for name, (in_train, in_val) in rows.items():
        if min(in_train, in_val) == 0 < max(in_train, in_val):
            part = "train" if in_train == 0 else "val"
            screen.print(f"Warning: there are no {name} in {part}: too few videos have them")
    screen.print(f"Written: {targets[0]} and {targets[1]}")


def _objects(index: VideoIndex) -> list[int]:
    import numpy as np

    labels = index.labels[~index.iscrowd]
    return [int(count) for count in np.bincount(labels, minlength=len(index.class_names))]
