"""The formats that ``vodet-data convert`` reads, with their options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vodet.data.formats.records import Records

OPTIONS: dict[str, dict[str, Any]] = {
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
class Format:
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
    "imagenet-vid": Format("ImageNet VID: SRC holds Annotations and Data", _XML, _TRAIN_VAL),
    "imagenet-det": Format(
        "ImageNet DET: objects of the classes of ImageNet VID; each image is a video",
        (*_XML, "--keep-empty"),
        _TRAIN_VAL,
    ),
    "kitti-mots": Format(
        "KITTI MOTS: SRC holds instances_txt or instances",
        (*_SEQUENCES, "--masks"),
        _TRAIN_VAL,
        ("txt", "png"),
    ),
    "kitti-tracking": Format(
        "KITTI tracking: SRC holds label_02; the splits are the splits of KITTI MOTS",
        _SEQUENCES,
        _TRAIN_VAL,
    ),
    "cityscapes": Format(
        "Cityscapes: SRC holds gtFine, leftImg8bit and, for neighbours, leftImg8bit_sequence",
        (*_SEQUENCES, "--masks"),
        _TRAIN_VAL,
        ("polygons", "instances"),
    ),
    "uavdt": Format("UAVDT: SRC holds GT and M_attr", _SEQUENCES, ("train", "test")),
    "mot": Format(
        "MOT Challenge: SRC holds the sequences or a folder train",
        _SEQUENCES,
        ("train", "half-train", "half-val"),
    ),
    "coco": Format(
        "any COCO detection file, of videos or pictures",
        ("--images", "--check-sizes", "--videos-from"),
    ),
    "yolo": Format(
        "Ultralytics YOLO: SRC is data.yaml or its folder",
        ("--images", "--split", "--videos-from"),
        ("train", "val", "test"),
    ),
    "voc": Format(
        "Pascal VOC: SRC holds Annotations (XML) and JPEGImages",
        ("--images", "--split", "--videos-from", "--zero-based"),
        ("train", "val", "trainval", "test"),
    ),
    "cvat-video": Format("CVAT for video 1.1: SRC is annotations.xml or its folder", ("--images",)),
    "youtube-vis": Format("YouTube-VIS: SRC is a JSON file with videos and tracks", ()),
    "label-studio-video": Format(
        "the JSON export of videos from Label Studio; the images are in a folder for each video",
        ("--images",),
    ),
    "bdd100k": Format(
        "BDD100K, box tracks (MOT 2020): SRC is a JSON file or holds labels/box_track_20",
        ("--images", "--split"),
        _TRAIN_VAL,
    ),
    "visdrone-vid": Format(
        "VisDrone-VID and VisDrone-MOT: SRC is the folder of a split, with annotations and "
        "sequences",
        ("--images", "--sequences"),
    ),
    "ua-detrac": Format(
        "UA-DETRAC: SRC holds XML files, or DETRAC-Train-Annotations-XML",
        _SEQUENCES,
        ("train", "test"),
    ),
    "cocovid": Format("a file in CocoVID, the format of mmtracking", ()),
}


def readers() -> dict[str, Callable[..., Records]]:
    """Return the function that reads each format."""
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


def recognised_formats(source: Path) -> list[str]:
    """Return the formats that a file or folder seems to have."""
    return [
        name
        for name, reader in readers().items()
        if sys.modules[reader.__module__].recognises(source)
    ]


def splits_of(name: str, source: Path) -> list[str]:
    """Return the splits of a data set, which need not have all splits of some formats.

    Args:
        name: Name of the format.
        source: The data set.

    Raises:
        DataError: If a file is missing or malformed.
    """
    from vodet.data.formats import voc, yolo_yaml

    finders = {"yolo": yolo_yaml.splits_in, "voc": voc.splits_in}
    find = finders.get(name)
    return find(source) if find else list(FORMATS[name].splits)
