"""``vodet-data``: checks, draws, generates and converts data; exports results; imports weights."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vodet.cli import convert, export, import_weights, parts, to_cocovid
from vodet.cli.ending import AGAIN, run_command
from vodet.cli.faults import explain
from vodet.cli.formats import recognised_formats
from vodet.errors import ConfigError, DataError, FrameError
from vodet.files import replacing

if TYPE_CHECKING:
    import numpy as np

    from vodet.data.annotations.index import VideoIndex
    from vodet.data.frames.images import ExifUse
    from vodet.data.generated.sets import SetConfig

_SHOWN_FAULTS = 10
_FILE_HELP = "ST-COCO annotations: COCO detection JSON with video and frame_number for each image"

_EPILOG = """\
examples:
  vodet-data generate data/generated
  vodet-data check data/generated/train.json --images data/generated
  vodet-data show data/generated/val.json --video val_000
  vodet-data convert imagenet-vid ILSVRC2015 val.json --split val
  vodet-data export-results predictions.json val.json vid.txt --format vid-devkit
  vodet-data import-weights torchvision weights.pth coco.ckpt

`vodet-data COMMAND --help` explains each command.
"""

_CHECK_EPILOG = """\
examples:
  vodet-data check train.json                            check only the file
  vodet-data check train.json --images data/frames       also check that all images exist
  vodet-data check train.json --images data/frames --decode
                                                         also decode them and check their sizes
"""

_SHOW_EPILOG = """\
examples:
  vodet-data show data/generated/val.json --video val_000
  vodet-data show train.json --images data/frames --video street --frames 5 --output /tmp/street
"""

_GENERATE_EPILOG = """\
The command writes train.json and val.json (ST-COCO), images/ and an overview, contact_sheet.png.
The same settings always produce identical files.

examples:
  vodet-data generate data/generated
  vodet-data generate data/tiny --train-videos 4 --val-videos 2 --size 96
  vodet-data generate data/clean --degradation-rate 0 --overwrite
  vodet-data generate data/long_range --set long_range
"""

_SET_HELP = """\
degraded: many frames are blurred and noisy, dark, or partly hidden; long_range: the class of an
object shows only in the first frames of a video, so that the later ones need a memory (default:
%(default)s)"""

_GENERATE_OPTIONS = {
    "train_videos": "number of training videos",
    "val_videos": "number of validation videos",
    "frames_per_video": "number of frames per video",
    "clear_frames": "number of frames at the start of each video in which the classes show",
    "size": "side of the square frames in pixels",
    "min_objects": "minimum number of objects per video",
    "max_objects": "maximum number of objects per video",
    "degradation_rate": "share of frames that are blurred and noisy, dark, or partly hidden, "
    "0 to 0.5",
    "jpeg_quality": "JPEG quality, 1 to 100",
    "seed": "random seed",
}


@dataclass(frozen=True)
class _Command:
    """A subcommand of ``vodet-data``.

    Args:
        name: Name of the subcommand.
        summary: One line of help.
        epilog: Help that is shown after the arguments.
        add_arguments: Adds the arguments to the parser of the subcommand.
        run: Runs the subcommand with the parsed arguments.
    """

    name: str
    summary: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``vodet-data`` and return its exit code."""
    words = sys.argv[1:] if argv is None else argv

    def work() -> None:
        arguments = _parser(words).parse_args(words)
        arguments.run(arguments)

    return run_command(work, explain, lambda: AGAIN)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vodet-data",
        description="Check, draw, generate, convert, split and merge video data sets in ST-COCO "
        "format; export results; import weights.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if command.name in words:  # the arguments of the other commands may need slow imports
            command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help=_FILE_HELP)
    parser.add_argument("--images", metavar="DIR", help="image root; checks that all images exist")
    parser.add_argument(
        "--decode",
        action="store_true",
        help="also decode every image and compare its size (default root: the folder of FILE)",
    )
    _add_exif(parser)


def _add_show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help=_FILE_HELP)
    parser.add_argument("--video", required=True, metavar="V", help="name of the video")
    parser.add_argument("--images", metavar="DIR", help="image root (default: the folder of FILE)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="the folder to write (default: runs/show/V)"
    )
    parser.add_argument(
        "--frames",
        type=_positive,
        metavar="N",
        help="write at most N frames, evenly spaced (default: all)",
    )
    _add_exif(parser)


def _add_exif(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exif",
        choices=("apply", "ignore"),
        default="apply",
        help="whether to apply the EXIF orientation of images, as viewers and annotation tools do "
        "(default: %(default)s)",
    )


def _add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    from vodet.data.generated.sets import SETS

    parser.add_argument("folder", type=Path, metavar="DST", help="the folder to write")
    parser.add_argument("--set", choices=SETS, default=next(iter(SETS)), help=_SET_HELP)
    for name, explanation in _GENERATE_OPTIONS.items():
        defaults = {
            kind: setting.default
            for kind, config in SETS.items()
            for setting in fields(config)
            if setting.name == name
        }
        listed = ", ".join(f"{kind} {default}" for kind, default in defaults.items())
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(next(iter(defaults.values()))),
            metavar="N",
            help=f"{explanation} (default: {listed})",
        )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a generated data set if DST has one"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        msg = f"must be at least 1, found {number}"
        raise argparse.ArgumentTypeError(msg)
    return number


def _check(arguments: argparse.Namespace) -> None:
    from vodet.data.annotations.st_coco import read_st_coco
    from vodet.data.annotations.statistics import oddities, statistics_table
    from vodet.screen import Screen

    try:
        index = read_st_coco(arguments.file)
    except DataError as error:
        if names := recognised_formats(arguments.file):
            command = f"vodet-data convert {names[0]} {arguments.file} DST"
            msg = f"{error}\nIt looks like {' or '.join(names)}. Convert it: {command}"
            raise DataError(msg) from error
        raise
    screen = Screen()
    screen.print(statistics_table(index))
    for oddity in oddities(index):
        screen.print(f"Warning: {oddity}", soft_wrap=True)
    if arguments.images is not None or arguments.decode:
        _check_images(index, arguments)
        verb = "decoded, each of the annotated size" if arguments.decode else "found"
        screen.print(f"All {index.num_frames} images were {verb}.")


def _check_images(index: VideoIndex, arguments: argparse.Namespace) -> None:
    from rich.progress import track

    root = _image_root(arguments)
    find_fault = partial(_unreadable, exif=arguments.exif) if arguments.decode else _missing
    found = (
        find_fault(index, frame, root)
        for frame in track(range(index.num_frames), "images", transient=True)
    )
    faults = [fault for fault in found if fault is not None]
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults[:_SHOWN_FAULTS])
        msg = (
            f"{len(faults)} of {index.num_frames} images below {root} are missing or damaged. Set "
            "the image root with --images, or replace these images. The first "
            f"{min(len(faults), _SHOWN_FAULTS)}:\n{listed}"
        )
        raise FrameError(msg)


def _missing(index: VideoIndex, frame: int, root: str) -> str | None:
    from vodet.data.frames.images import image_path, is_image_there

    path = image_path(root, index.file_name(frame))
    return None if is_image_there(path) else f"{path} (image id {index.image_ids[frame]})"


def _unreadable(index: VideoIndex, frame: int, root: str, exif: ExifUse) -> str | None:
    try:
        _read(index, frame, root, exif)
    except FrameError as error:
        return str(error)
    return None


def _show(arguments: argparse.Namespace) -> None:
    from vodet.cli.contact_sheet import draw_annotations
    from vodet.data.annotations.st_coco import read_st_coco
    from vodet.names import file_names
    from vodet.screen import Screen

    index = read_st_coco(arguments.file)
    video = _find_video(index, arguments.video)
    frames = index.frames_of(video)
    wanted = min(arguments.frames or len(frames), len(frames))
    names = file_names(map(index.video_name, range(index.num_videos)))
    folder = arguments.output or Path("runs/show", names[video])
    root = _image_root(arguments)
    _refuse_folder_of_images(index, frames, folder, root)
    for frame in (frames[i * len(frames) // wanted] for i in range(wanted)):
        picture = _read(index, frame, root, arguments.exif)
        path = folder / f"{index.frame_numbers[frame]:06d}.jpg"
        _write_image(path, draw_annotations(index, frame, picture))
    Screen().print(f"{wanted} frames written to {folder}", soft_wrap=True)


def _refuse_folder_of_images(
    index: VideoIndex, frames: Sequence[int], folder: Path, root: str
) -> None:
    from vodet.data.frames.images import image_path

    images = (Path(image_path(root, index.file_name(frame))) for frame in frames)
    if os.path.realpath(folder) in {os.path.realpath(image.parent) for image in images}:
        msg = f"--output: {folder} contains the images of the video. Choose another folder."
        raise ConfigError(msg)


def _find_video(index: VideoIndex, name: str) -> int:
    names = [index.video_name(video) for video in range(index.num_videos)]
    if name in names:
        return names.index(name)
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    msg = f"{index.source} has no video {name!r}; the closest names are: {', '.join(nearest)}."
    raise DataError(msg)


def _generate(arguments: argparse.Namespace) -> None:
    from vodet.cli.contact_sheet import contact_sheet
    from vodet.data.annotations.st_coco import read_st_coco
    from vodet.data.annotations.statistics import statistics_table
    from vodet.data.generated.sets import generate
    from vodet.screen import Screen

    folder: Path = arguments.folder
    generate(folder, _set_config(arguments), overwrite=arguments.overwrite)
    index = read_st_coco(folder / "val.json")
    sheet = contact_sheet(index, lambda frame: _read(index, frame, str(folder)))
    _write_image(folder / "contact_sheet.png", sheet)
    screen = Screen()
    screen.print(statistics_table(index))
    screen.print(f"Look at {folder / 'contact_sheet.png'}", soft_wrap=True)


def _set_config(arguments: argparse.Namespace) -> SetConfig:
    from vodet.data.generated.sets import SETS

    config = SETS[arguments.set]
    given = {
        name: getattr(arguments, name)
        for name in _GENERATE_OPTIONS
        if getattr(arguments, name) is not None
    }
    known = [setting.name for setting in fields(config)]
    if unknown := [f"--{name.replace('_', '-')}" for name in given if name not in known]:
        msg = (
            f"The set {arguments.set} has no setting {', '.join(unknown)}: expected some of "
            f"{', '.join(known)}."
        )
        raise ConfigError(msg)
    return config(**given)


def _image_root(arguments: argparse.Namespace) -> str:
    return str(arguments.images or arguments.file.parent)


def _read(index: VideoIndex, frame: int, root: str, exif: ExifUse = "apply") -> np.ndarray:
    from vodet.data.frames.images import image_path, read_frame

    height, width = (int(side) for side in index.sizes[frame])
    path = image_path(root, index.file_name(frame))
    return read_frame(path, int(index.image_ids[frame]), (height, width), exif=exif)


def _write_image(path: Path, picture: np.ndarray) -> None:
    import cv2

    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


_COMMANDS = (
    _Command(
        "check",
        "validate an ST-COCO file and print its statistics",
        _CHECK_EPILOG,
        _add_check_arguments,
        _check,
    ),
    _Command(
        "show",
        "draw the annotated boxes on frames of a video",
        _SHOW_EPILOG,
        _add_show_arguments,
        _show,
    ),
    _Command(
        "generate",
        "generate videos in which a single frame is often not enough to recognise the objects",
        _GENERATE_EPILOG,
        _add_generate_arguments,
        _generate,
    ),
    _Command(
        "convert",
        "convert a data set in another format to ST-COCO",
        convert.EPILOG,
        convert.add_arguments,
        convert.run,
    ),
    _Command(
        "split",
        "split an ST-COCO file into training and validation data, by whole videos",
        parts.SPLIT_EPILOG,
        parts.add_split_arguments,
        parts.run_split,
    ),
    _Command(
        "merge",
        "merge ST-COCO files of different videos",
        parts.MERGE_EPILOG,
        parts.add_merge_arguments,
        parts.run_merge,
    ),
    _Command(
        "to-cocovid",
        "convert an ST-COCO file to CocoVID",
        to_cocovid.EPILOG,
        to_cocovid.add_arguments,
        to_cocovid.run,
    ),
    _Command(
        "export-results",
        "convert saved predictions to the files that benchmark toolkits read",
        export.EPILOG,
        export.add_arguments,
        export.run,
    ),
    _Command(
        "import-weights",
        "convert weights that another program has trained to a checkpoint",
        import_weights.EPILOG,
        import_weights.add_arguments,
        import_weights.run,
    ),
)


if __name__ == "__main__":
    sys.exit(main())
