"""``vodet-data convert``: converts other formats to ST-COCO."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vodet.cli.formats import FORMATS, OPTIONS, readers, recognised_formats, splits_of

if TYPE_CHECKING:
    from rich.progress import Progress

    from vodet.data.formats.records import Records
    from vodet.data.formats.writer import Summary

AUTO = "auto"
EPILOG = """\
File names in DST are relative to the image root, which is SRC or the DIR of --images. Crowds and
ignore regions get "ignore": 1 and "iscrowd": 1. Boxes are clipped to the image. At the end, the
command prints how many objects and frames it skipped.

examples:
  vodet-data convert auto labels data/mine.json   (finds out the format)
  vodet-data convert uavdt UAVDT data/uavdt       (writes train.json and test.json in data/uavdt)
  vodet-data convert imagenet-vid ILSVRC2015 val.json --split val
  vodet-data convert kitti-mots KITTI train.json --split train --masks png
  vodet-data convert mot MOT17 half.json --split train --sequences MOT17-02-FRCNN,MOT17-04-FRCNN
  vodet-data convert coco instances_val2017.json static.json
  vodet-data convert coco frames.json train.json --videos-from folder
  vodet-data convert yolo YOLO data/mine --videos-from folder

`vodet-data convert FORMAT --help` explains each format.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a subparser for each format to the parser of the command."""
    subparsers = parser.add_subparsers(
        title="formats", metavar="FORMAT", dest="format", required=True
    )
    _add_auto(subparsers)
    for name, kind in FORMATS.items():
        subparser = subparsers.add_parser(name, help=kind.summary, description=f"{kind.summary}.")
        subparser.add_argument("source", type=Path, metavar="SRC", help="file or folder to read")
        add_target(
            subparser,
            "the JSON file to write, or a folder to write SPLIT.json of every split to"
            if kind.splits
            else "the JSON file to write",
        )
        subparser.add_argument(
            "--drop-ignored",
            action="store_true",
            help="skip crowds and ignore regions, for programs that do not support them",
        )
        for option in kind.options:
            settings = dict(OPTIONS[option])
            if option == "--split":
                settings["help"] += f": {', '.join(kind.splits)}"
            elif option == "--masks":
                settings |= {"choices": kind.masks, "default": kind.masks[0]}
            subparser.add_argument(option, **settings)


def _add_auto(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = f"find out the format of SRC: one of {', '.join(FORMATS)}"
    subparser = subparsers.add_parser(AUTO, help="find out the format of SRC", description=summary)
    subparser.add_argument("source", type=Path, metavar="SRC", help="file or folder to read")
    subparser.add_argument("target", type=Path, metavar="DST", help="as for the format")
    subparser.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="...", help="options of the format"
    )


def _find_format(arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments of the format that SRC has."""
    from vodet.errors import DataError
    from vodet.screen import Screen

    source: Path = arguments.source
    names = recognised_formats(source)
    if len(names) != 1:
        found = f"looks like {' and '.join(names)}" if names else "looks like none of them"
        known = "" if names else f" The formats are {', '.join(FORMATS)}."
        msg = (
            f"Expected the data of one format in {source}, but it {found}.{known} Name the format: "
            f"vodet-data convert FORMAT {source} {arguments.target}"
        )
        raise DataError(msg)
    Screen().print(f"Format of {source}: {names[0]}", soft_wrap=True)
    parser = argparse.ArgumentParser(prog="vodet-data convert")
    add_arguments(parser)
    return parser.parse_args([names[0], str(source), str(arguments.target), *arguments.rest])


def run(arguments: argparse.Namespace) -> None:
    """Convert SRC to DST and print a summary. If DST is a folder, write one file per split.

    Raises:
        ConfigError: If DST exists already, or the split does not exist.
        DataError: If something in SRC is missing or malformed, or its format is not recognised.
    """
    from vodet.data.formats.writer import check_target

    if arguments.format == AUTO:
        arguments = _find_format(arguments)
    target: Path = arguments.target
    splits = FORMATS[arguments.format].splits
    if not splits or (target.suffix and not target.is_dir()):
        check_target(target, overwrite=arguments.overwrite, sources=[arguments.source])
        _convert(arguments, target)
        return
    chosen = [arguments.split] if arguments.split else splits_of(arguments.format, arguments.source)
    targets = {split: target / f"{split}.json" for split in chosen}
    for path in targets.values():
        check_target(path, overwrite=arguments.overwrite)
    for split, path in targets.items():
        _convert(argparse.Namespace(**{**vars(arguments), "split": split}), path)


def _convert(arguments: argparse.Namespace, target: Path) -> None:
    from vodet.data.formats.writer import write_st_coco

    records = _read(arguments)
    with progress_bar() as progress:
        task = progress.add_task("frames", total=records.num_frames)
        summary = write_st_coco(
            records,
            target,
            overwrite=arguments.overwrite,
            drop_ignored=arguments.drop_ignored,
            on_frame=lambda: progress.advance(task),
        )
    print_summary(summary, target)


def add_target(parser: argparse.ArgumentParser, help_text: str = "the JSON file to write") -> None:
    """Add the arguments DST and ``--overwrite`` to the parser of a command."""
    parser.add_argument("target", type=Path, metavar="DST", help=help_text)
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")


def _read(arguments: argparse.Namespace) -> Records:
    from vodet.data.formats.folders import read_sequences

    given = dict(vars(arguments))
    if given.get("sequences") is not None:
        given["sequences"] = read_sequences(given["sequences"])
    names = [option.removeprefix("--").replace("-", "_") for option in _options_of(arguments)]
    keywords = {"frames" if name == "list" else name for name in names}
    return readers()[arguments.format](
        arguments.source, **{keyword: given[keyword] for keyword in keywords}
    )


def _options_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    return FORMATS[arguments.format].options


def progress_bar() -> Progress:
    """Return a progress bar for frames, on standard error. The total number may be unknown."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from vodet.screen import Screen

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns,
        TimeElapsedColumn(),
        console=Screen(stderr=True),
        refresh_per_second=2,
        transient=True,
    )


def print_summary(summary: Summary, target: Path) -> None:
    """Print how many boxes, frames and videos were written, clipped or skipped."""
    from rich.table import Table

    from vodet.screen import Screen

    console = Screen(soft_wrap=True)
    table = Table("class", "boxes", "ignored")
    for label, name in enumerate(summary.class_names):
        table.add_row(name, str(summary.boxes[label]), str(summary.ignored[label]))
    table.add_section()
    table.add_row("all", str(summary.boxes.total()), str(summary.ignored.total()))
    console.print(table)
    support = f", {summary.support_frames} of them not annotated" if summary.support_frames else ""
    console.print(f"{summary.videos} videos, {summary.frames} frames{support}: {target}")
    annotated, official = summary.frames - summary.support_frames, summary.official_frames
    if official not in (None, annotated):
        console.print(f"Warning: the official split has {official} frames, found {annotated}")
    if summary.clipped:
        console.print(f"Clipped: {summary.clipped} boxes that stuck out of the image")
    for reason, count in sorted(summary.skipped.items()):
        console.print(f"Skipped: {count} {reason}")
