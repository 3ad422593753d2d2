"""Reads UA-DETRAC: an XML file for each sequence, and images ``{sequence}/img%05d.jpg``.

Frames are numbered from 1; a frame that the file does not mention has no objects. The ignored
regions of a sequence are ignore regions in each of its frames.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree.ElementTree import Element

from vodet.data.formats.folders import NUMBERED, choose_sequences, find_folder, named
from vodet.data.formats.outline import first_file, has_root
from vodet.data.formats.records import Box, Records, Video, categories_of, ignored_for_all
from vodet.data.formats.sequence import Sequence
from vodet.data.formats.tables import integer, number, raise_faults, xyxy
from vodet.data.formats.xml_files import line_of, one_of_names, read_xml, value
from vodet.errors import DataError

CLASS_NAMES = ("car", "van", "bus", "others")
SPLITS = ("train", "test")
_LABELS = {name: label for label, name in enumerate(CLASS_NAMES)}
_SIDES = ("left", "top", "width", "height")


def recognises(source: Path) -> bool:
    """Return whether a folder holds UA-DETRAC."""
    places = ("DETRAC-*-Annotations-XML/*.xml", "*.xml")
    return any(has_root(first_file(source, place), "sequence") for place in places)


def read_ua_detrac(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    sequences: Mapping[str, range | None] | None = None,
) -> Records:
    """Read sequences of UA-DETRAC.

    Args:
        source: The folder of the XML files, or of ``DETRAC-Train-Annotations-XML`` and
            ``DETRAC-Test-Annotations-XML``.
        images: The image root, with the folders of the sequences, directly or in
            ``Insight-MVT_Annotation_Train`` and ``Insight-MVT_Annotation_Test``; by default
            ``source``.
        split: ``train`` or ``test``; necessary if ``source`` has both folders.
        sequences: The sequences to read, each with the numbers of its frames to read, or None for
            all its frames.

    Raises:
        ConfigError: If there is no such split.
        DataError: If a file or folder is missing or malformed.
    """
    root = images or source
    part = named("--split", split, SPLITS).capitalize() if split else None
    places = [f"DETRAC-{part}-Annotations-XML"] if part else []
    annotations = find_folder(source, (*places, "."), "XML files of UA-DETRAC")
    places = [f"Insight-MVT_Annotation_{part}"] if part else []
    pixels = find_folder(root, (*places, "."), "images of UA-DETRAC")
    there = [path.stem for path in annotations.glob("*.xml")]
    chosen = choose_sequences(there, None, {}, sequences, annotations)
    wanted = sequences or {}

    def video(name: str) -> Video:
        images_of = Sequence(name, pixels / name, NUMBERED, root, wanted.get(name), first=1)
        file = annotations / f"{name}.xml"
        objects, ignored = _read(file, images_of, wanted.get(name))
        return Video(name, images_of.frames(lambda frame, _: [*objects.get(frame, []), *ignored]))

    return Records(categories_of(CLASS_NAMES, ["vehicle"] * 4), map(video, chosen), None, Counter())


def _read(
    file: Path, images: Sequence, wanted: range | None
) -> tuple[Mapping[int, list[Box]], list[Box]]:
    """Return the objects by frame, and the ignore regions of all frames."""
    root = read_xml(file, "sequence", "annotations of UA-DETRAC")
    objects: dict[int, list[Box]] = defaultdict(list)
    faults = []
    try:
        for element in root.findall("frame"):
            frame = value(element, "num", integer)
            if frame in images.numbers:
                objects[frame].extend(_objects(element))
            elif wanted is None or frame in wanted:
                expected = "expected a frame with an image"
                faults.append(f"line {line_of(element)}: {expected}, found frame {frame}")
        regions = [Box(0, _corners(box)) for box in root.findall("ignored_region/box")]
    except ValueError as error:
        msg = f"{file}: {error}."
        raise DataError(msg) from None
    raise_faults(file, faults)
    return objects, [box for region in regions for box in ignored_for_all(region, len(CLASS_NAMES))]


def _objects(frame: Element) -> Iterator[Box]:
    for target in frame.findall("target_list/target"):
        box, attribute = target.find("box"), target.find("attribute")
        if box is None or attribute is None:
            msg = f"line {line_of(target)}: target: expected elements box and attribute"
            raise ValueError(msg)
        yield Box(
            label=_LABELS[value(attribute, "vehicle_type", one_of_names(_LABELS))],
            xyxy=_corners(box),
            track=value(target, "id", str),
            is_occluded=target.find("occlusion") is not None,
        )


def _corners(box: Element) -> tuple[int | float, int | float, int | float, int | float]:
    return xyxy({side: value(box, side, number) for side in _SIDES})
