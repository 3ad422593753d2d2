"""``vodet-data to-cocovid``: converts ST-COCO to CocoVID, the format of mmtracking."""

from __future__ import annotations

import argparse
from pathlib import Path

from vodet.cli.convert import add_target, print_summary, progress_bar

EPILOG = """\
As mmtracking requires, frame numbers have no gaps and track ids are unique in the data set. The
file keeps boxes, classes, tracks, crowds, and which frames are annotated.

examples:
  vodet-data to-cocovid train.json train_cocovid.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument("source", type=Path, metavar="SRC", help="an ST-COCO file")
    add_target(parser)


def run(arguments: argparse.Namespace) -> None:
    """Convert an ST-COCO file to CocoVID.

    Raises:
        ConfigError: If DST exists already.
        DataError: If SRC is missing or malformed.
    """
    from vodet.data.annotations.st_coco import read_st_coco
    from vodet.data.formats.cocovid import write_cocovid
    from vodet.data.formats.writer import check_target

    check_target(arguments.target, overwrite=arguments.overwrite, sources=[arguments.source])
    index = read_st_coco(arguments.source)
    with progress_bar() as progress:
        task = progress.add_task("frames", total=index.num_frames)
        summary = write_cocovid(
            index,
            arguments.target,
            overwrite=arguments.overwrite,
            on_frame=lambda: progress.advance(task),
        )
    print_summary(summary, arguments.target)
