"""``vodet-data export-results``: converts saved predictions to the formats of official toolkits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vodet.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from vodet.data.annotations.index import VideoIndex
    from vodet.metrics.detection_table import DetectionTable

EPILOG = """\
RESULTS is the file that vodet-eval writes with predictions=FILE. DST is one file for vid-devkit and
coco, and a folder with one file per sequence for the other formats. Classes are matched by the
names that `vodet-data convert` gives them.

formats:
  vid-devkit  frame_index class_id score xmin ymin xmax ymax, for ImageNet VID's development kit
  uavdt       frame,-1,left,top,width,height,score,class,-1, for RES_DET of the toolkit
  kitti       results of KITTI tracking, track -1
  mot         frame,-1,left,top,width,height,score,-1,-1,-1, as det.txt of MOT Challenge
  coco        a COCO results file; --images-of FILE takes the ids from the original file

examples:
  vodet-data export-results predictions.json.gz val.json vid.txt --format vid-devkit
  vodet-data export-results predictions.json val.json vid.txt --format vid-devkit \\
      --val-list ILSVRC2015/ImageSets/VID/val.txt
  vodet-data export-results predictions.json test.json RES_DET/det_ours --format uavdt
  vodet-data export-results predictions.json static.json results.json --format coco \\
      --images-of image_info_test-dev2017.json
"""

FORMATS = ("vid-devkit", "uavdt", "kitti", "mot", "coco")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a COCO results file")
    parser.add_argument(
        "annotations", type=Path, metavar="ANNOTATIONS", help="the ST-COCO file of the evaluation"
    )
    parser.add_argument("target", type=Path, metavar="DST", help="the file or folder to write")
    parser.add_argument("--format", required=True, choices=FORMATS, help="the format to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of DST")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.0,
        metavar="S",
        help="skip detections with scores below S",
    )
    parser.add_argument(
        "--val-list",
        type=Path,
        metavar="FILE",
        help="vid-devkit: the kit's val.txt, which numbers the frames (default: number the frames "
        "video by video)",
    )
    parser.add_argument(
        "--images-of",
        type=Path,
        metavar="FILE",
        help="coco: the file that was converted to ANNOTATIONS; the results get its ids",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the results and print a summary.

    Raises:
        ConfigError: If DST exists already, or an option belongs to another format.
        DataError: If RESULTS does not match ANNOTATIONS, or the format cannot represent the data.
    """
    from vodet.data.annotations.st_coco import read_st_coco
    from vodet.metrics.results_file import read_predictions

    _check(arguments)
    index = read_st_coco(arguments.annotations)
    predictions = read_predictions(arguments.results, index.ground_truth())
    kept = predictions[predictions.scores >= arguments.score_threshold]
    if arguments.format == "coco":
        _write_coco(arguments, index, kept)
    else:
        _write_lines(arguments, index, kept)
    _print(arguments, index, kept, len(predictions) - len(kept))


def _check(arguments: argparse.Namespace) -> None:
    from vodet.data.formats.writer import refuse_source

    for option, format_name in (("val_list", "vid-devkit"), ("images_of", "coco")):
        if getattr(arguments, option) is not None and arguments.format != format_name:
            name = f"--{option.replace('_', '-')}"
            msg = f"{name} needs --format {format_name}, found --format {arguments.format}."
            raise ConfigError(msg)
    sources = (arguments.results, arguments.annotations, arguments.val_list, arguments.images_of)
    refuse_source(arguments.target, filter(None, sources))
    if arguments.target.exists() and not arguments.overwrite:
        msg = (
            f"{arguments.target} exists already. Choose another DST, or replace its files with "
            f"--overwrite."
        )
        raise ConfigError(msg)


def _write_lines(
    arguments: argparse.Namespace, index: VideoIndex, predictions: DetectionTable
) -> None:
    from vodet.data.formats.export import SEQUENCE_TOOLKITS, DetectionRows, write_sequences
    from vodet.data.formats.export_vid import write_vid_devkit
    from vodet.id_lookup import positions_in
    from vodet.metrics.results_file import shortest_decimals

    rows = DetectionRows(
        positions_in(index.image_ids, predictions.image_ids),
        shortest_decimals(predictions.boxes),
        shortest_decimals(predictions.scores),
        predictions.labels,
    )
    if arguments.format == "vid-devkit":
        write_vid_devkit(index, rows, arguments.target, arguments.val_list)
    else:
        toolkit = SEQUENCE_TOOLKITS[arguments.format]
        write_sequences(toolkit, index, rows, arguments.target)


def _write_coco(
    arguments: argparse.Namespace, index: VideoIndex, predictions: DetectionTable
) -> None:
    from dataclasses import replace

    from vodet.metrics.results_file import write_predictions

    ground_truth = index.ground_truth()
    if arguments.images_of is not None:
        image_ids, category_ids = _original_ids(arguments.images_of, index, predictions)
        predictions = replace(predictions, image_ids=image_ids)
        ground_truth = replace(ground_truth, category_ids=category_ids)
    write_predictions(arguments.target, ground_truth, predictions)


def _original_ids(
    original: Path, index: VideoIndex, predictions: DetectionTable
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image id of each detection and the category id of each class in a COCO file.

    Args:
        original: The COCO file from which the data set was converted.
        index: The index of the data set.
        predictions: The detections.
    """
    import numpy as np

    from vodet.data.formats.coco import read_coco_ids
    from vodet.id_lookup import positions_in

    images, categories = read_coco_ids(original)
    used, places = np.unique(
        positions_in(index.image_ids, predictions.image_ids), return_inverse=True
    )
    files = [index.file_name(frame) for frame in used]
    for what, names, known in (
        ("images", files, images),
        ("categories", index.class_names, categories),
    ):
        if missing := [name for name in names if name not in known]:
            msg = (
                f"--images-of: expected all {what} of {index.source} in {original}, but "
                f"{len(missing)} are missing there, such as {missing[0]!r}. Give the file that was "
                "converted to ANNOTATIONS."
            )
            raise DataError(msg)
    image_ids = np.array([images[name] for name in files], np.int64)[places]
    return image_ids, np.array([categories[name] for name in index.class_names], np.int64)


def _print(
    arguments: argparse.Namespace, index: VideoIndex, kept: DetectionTable, num_skipped: int
) -> None:
    import numpy as np
    from rich.table import Table

    from vodet.data.formats.imagenet import OFFICIAL_FRAMES
    from vodet.screen import Screen

    console = Screen(soft_wrap=True)
    table = Table("class", "detections")
    counts = np.bincount(kept.labels, minlength=len(index.class_names)).tolist()
    for name, count in zip(index.class_names, counts, strict=True):
        table.add_row(name, str(count))
    console.print(table)
    console.print(
        f"{len(kept)} detections of {index.num_videos} videos, {index.num_frames} frames: "
        f"{arguments.target}"
    )
    if num_skipped:
        threshold = arguments.score_threshold
        console.print(f"Skipped: {num_skipped} detections with scores below {threshold:g}")
    is_numbered = arguments.format == "vid-devkit" and arguments.val_list is None
    if is_numbered and index.num_frames != OFFICIAL_FRAMES["val"]:
        console.print(
            f"Warning: frames are numbered 1 to {index.num_frames}, but the kit's val.txt has "
            f"{OFFICIAL_FRAMES['val']} frames. Pass your list of frames with --val-list"
        )
