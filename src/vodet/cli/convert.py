"""``vodet-data convert``: converts other formats to ST-COCO."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

    from vodet.data.formats.records import Records
    from vodet.data.formats.writer import Summary

EPILOG = """\
File names in DST are relative to the image root, which is SRC or the DIR of --images. Crowds and
ignore regions get "ignore": 1 and "iscrowd": 1. Boxes are clipped to the image. At the end, the
command prints how many objects and frames it skipped.

examples:
  vodet-data convert uavdt UAVDT data/uavdt       (writes train.json and test.json in data/uavdt)
  vodet-data convert imagenet-vid ILSVRC2015 val.json --split val
  vodet-data convert kitti-mots KITTI train.json --split train --masks png
  vodet-data convert mot MOT17 half.json --split train --sequences MOT17-02-FRCNN,MOT17-04-FRCNN
  vodet-data convert coco instances_val2017.json static.json
  vodet-data convert coco frames.json train.json --videos-from folder
  vodet-data convert yolo YOLO data/mine --videos-from folder

`vodet-data convert FORMAT --help` explains each format.
"""

_OPTIONS: dict[str, dict[str, Any]] = {
    "--images": {
        "type": Path,
        "metavar": "DIR",
        "help": "image root (default: SRC)",
    },
    "--split": {"metavar": "NAME", "help": "official split"},
    "--sequences": {
        "metavar": "NAMES",
        "help": "convert only these sequences (for Cityscapes: cities): A,B,C, a file with one "
        "name per line, or a KITTI seqmap",
    },
    "--list": {
        "dest": "frames",
        "type": Path,
        "metavar": "FILE",
        "help": "list of frames or videos to read, such as VID_train_15frames.txt (the listed "
        "frames are annotated, the other frames of their videos are support frames) or "
        "VID_val_videos.txt",
    },
    "--masks": {"help": "the form of the masks to read (default: %(default)s)"},
    "--keep-empty": {
        "action": "store_true",
        "help": "keep images without annotated objects of the 30 classes",
    },
    "--workers": {
        "type": int,
        "metavar": "N",
        "help": "processes that parse XML (default: one per processor)",
    },
    "--check-sizes": {
        "action": "store_true",
        "help": "open every image and compare its size with the annotations",
    },
    "--videos-from": {
        "metavar": "HOW",
        "help": "how images are grouped into videos: none (each image is a video), folder (each "
        "folder is a video; the last number of a name is the frame number), field (coco only: the "
        "fields of the images), or a regular expression for file names with the groups "
        "(?P<video>...) and (?P<frame>...)",
    },
    "--zero-based": {
        "action": "store_true",
        "help": "the corners of boxes count from 0, as in files of labelImg, not from 1 as in VOC",
    },
}


@dataclass(frozen=True)
class _Format:
    """A format that can be converted.

    Args:
        summary: One line of help.
        options: The options of the command that this format supports.
        splits: Names of the official splits.
        masks: The forms of masks that can be read; the first is the default.
    """

    summary: str
    options: tuple[str, ...]
    splits: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()


_TRAIN_VAL = ("train", "val")
_SEQUENCES = ("--images", "--split", "--sequences")
_XML = ("--images", "--split", "--list", "--workers", "--check-sizes")
FORMATS = {
    "imagenet-vid": _Format("ImageNet VID: SRC holds Annotations and Data", _XML, _TRAIN_VAL),
    "imagenet-det": _Format(
        "ImageNet DET: objects of the classes of ImageNet VID; each image is a video",
        (*_XML, "--keep-empty"),
        _TRAIN_VAL,
    ),
    "kitti-mots": _Format(
        "KITTI MOTS: SRC holds instances_txt or instances",
        (*_SEQUENCES, "--masks"),
        _TRAIN_VAL,
        ("txt", "png"),
    ),
    "kitti-tracking": _Format(
        "KITTI tracking: SRC holds label_02; the splits are the splits of KITTI MOTS",
        _SEQUENCES,
        _TRAIN_VAL,
    ),
    "cityscapes": _Format(
        "Cityscapes: SRC holds gtFine, leftImg8bit and, for neighbours, leftImg8bit_sequence",
        (*_SEQUENCES, "--masks"),
        _TRAIN_VAL,
        ("polygons", "instances"),
    ),
    "uavdt": _Format("UAVDT: SRC holds GT and M_attr", _SEQUENCES, ("train", "test")),
    "mot": _Format(
        "MOT Challenge: SRC holds the sequences or a folder train",
        _SEQUENCES,
        ("train", "half-train", "half-val"),
    ),
    "coco": _Format(
        "any COCO detection file, of videos or pictures",
        ("--images", "--check-sizes", "--videos-from"),
    ),
    "yolo": _Format(
        "Ultralytics YOLO: SRC is data.yaml or its folder",
        ("--images", "--split", "--videos-from"),
        ("train", "val", "test"),
    ),
    "voc": _Format(
        "Pascal VOC: SRC holds Annotations (XML) and JPEGImages",
        ("--images", "--split", "--videos-from", "--zero-based"),
        ("train", "val", "trainval", "test"),
    ),
    "cvat-video": _Format(
        "CVAT for video 1.1: SRC is annotations.xml or its folder", ("--images",)
    ),
    "youtube-vis": _Format("YouTube-VIS: SRC is a JSON file with videos and tracks", ()),
    "label-studio-video": _Format(
        "the JSON export of videos from Label Studio; the images are in a folder for each video",
        ("--images",),
    ),
    "bdd100k": _Format(
        "BDD100K, box tracks (MOT 2020): SRC is a JSON file or holds labels/box_track_20",
        ("--images", "--split"),
        _TRAIN_VAL,
    ),
    "visdrone-vid": _Format(
        "VisDrone-VID and VisDrone-MOT: SRC is the folder of a split, with annotations and "
        "sequences",
        ("--images", "--sequences"),
    ),
    "ua-detrac": _Format(
        "UA-DETRAC: SRC holds XML files, or DETRAC-Train-Annotations-XML",
        _SEQUENCES,
        ("train", "test"),
    ),
    "cocovid": _Format("a file in CocoVID, the format of mmtracking", ()),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a subparser for each format to the parser of the command."""
    subparsers = parser.add_subparsers(
        title="formats", metavar="FORMAT", dest="format", required=True
    )
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
            settings = dict(_OPTIONS[option])
            if option == "--split":
                settings["help"] += f": {', '.join(kind.splits)}"
            elif option == "--masks":
                settings |= {"choices": kind.masks, "default": kind.masks[0]}
            subparser.add_argument(option, **settings)


def run(arguments: argparse.Namespace) -> None:
    """Convert SRC to DST and print a summary. If DST is a folder, write one file per split.

    Raises:
        ConfigError: If DST exists already, or the split does not exist.
        DataError: If something in SRC is missing or malformed.
    """
    from vodet.data.formats.writer import check_target

    target: Path = arguments.target
    splits = FORMATS[arguments.format].splits
    if not splits or (target.suffix and not target.is_dir()):
        check_target(target, overwrite=arguments.overwrite, sources=[arguments.source])
        _convert(arguments, target)
        return
    chosen = [arguments.split] if arguments.split else _splits_in(arguments)
    targets = {split: target / f"{split}.json" for split in chosen}
    for path in targets.values():
        check_target(path, overwrite=arguments.overwrite)
    for split, path in targets.items():
        _convert(argparse.Namespace(**{**vars(arguments), "split": split}), path)


def _splits_in(arguments: argparse.Namespace) -> list[str]:
    """Return the splits to convert: of some formats, a data set need not have all of them."""
    from vodet.data.formats import voc, yolo_yaml

    finders = {"yolo": yolo_yaml.splits_in, "voc": voc.splits_in}
    find = finders.get(arguments.format)
    return find(arguments.source) if find else list(FORMATS[arguments.format].splits)


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
    return _readers()[arguments.format](
        arguments.source, **{keyword: given[keyword] for keyword in keywords}
    )


def _options_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    return FORMATS[arguments.format].options


def _readers() -> dict[str, Callable[..., Records]]:
    # Imported here because the imports are slow and other commands do not need them.
    from vodet.data.formats.bdd100k import read_bdd100k
    from vodet.data.formats.cityscapes import read_cityscapes
    from vodet.data.formats.coco import read_coco
    from vodet.data.formats.cocovid import read_cocovid
    from vodet.data.formats.cvat_video import read_cvat_video
    from vodet.data.formats.imagenet import read_imagenet_vid
    from vodet.data.formats.imagenet_det import read_imagenet_det
    from vodet.data.formats.kitti_mots import read_kitti_mots
    from vodet.data.formats.kitti_tracking import read_kitti_tracking
    from vodet.data.formats.label_studio_video import read_label_studio_video
    from vodet.data.formats.mot import read_mot
    from vodet.data.formats.ua_detrac import read_ua_detrac
    from vodet.data.formats.uavdt import read_uavdt
    from vodet.data.formats.visdrone_vid import read_visdrone_vid
    from vodet.data.formats.voc import read_voc
    from vodet.data.formats.yolo import read_yolo
    from vodet.data.formats.youtube_vis import read_youtube_vis

    return {
        "imagenet-vid": read_imagenet_vid,
        "imagenet-det": read_imagenet_det,
        "kitti-mots": read_kitti_mots,
        "kitti-tracking": read_kitti_tracking,
        "cityscapes": read_cityscapes,
        "uavdt": read_uavdt,
        "mot": read_mot,
        "coco": read_coco,
        "yolo": read_yolo,
        "voc": read_voc,
        "cvat-video": read_cvat_video,
        "youtube-vis": read_youtube_vis,
        "label-studio-video": read_label_studio_video,
        "bdd100k": read_bdd100k,
        "visdrone-vid": read_visdrone_vid,
        "ua-detrac": read_ua_detrac,
        "cocovid": read_cocovid,
    }


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
