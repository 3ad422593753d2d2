"""Merges ST-COCO files of different videos into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from vodet.data.annotations.rows import Row, Rows, write_rows
from vodet.data.formats.tables import raise_faults
from vodet.data.formats.writer import FIRST_ANNOTATION
from vodet.json_files import shown


def merge(files: Sequence[Rows], target: Path) -> list[str]:
    """Write the videos of several ST-COCO files to one; classes are matched by name.

    Images and annotations get new ids, and images get the fields ``video`` and ``frame_number``.
    All other fields stay as they are.

    Args:
        files: The files.
        target: The file to write.

    Returns:
        For each file that lacks classes of the other files, what it lacks.

    Raises:
        DataError: If a video or an image is in two files.
    """
    _check_distinct(files, target)
    categories = _categories(files)
    ids = {category["name"]: category["id"] for category in categories}
    tables: dict[str, Iterator[Row] | list[Row]] = {
        "images": _images(files),
        "annotations": _annotations(files, ids),
        "categories": categories,
    }
    if videos := [video for rows in files for video in rows.table("videos")]:
        tables["videos"] = [video | {"id": place} for place, video in enumerate(videos)]
    write_rows(target, {"info": msgspec.Raw(b"{}"), **tables})
    return [
        f"{rows.index.source} has no class {', '.join(missing)}"
        for rows in files
        if (missing := [name for name in ids if name not in rows.index.class_names])
    ]


def _check_distinct(files: Sequence[Rows], target: Path) -> None:
    seen: dict[tuple[str, str], int] = {}
    faults = []
    for place, rows in enumerate(files):
        index = rows.index
        videos = [("video", index.video_name(video)) for video in range(index.num_videos)]
        images = [("image", index.file_name(frame)) for frame in range(index.num_frames)]
        for kind, name in [*videos, *images]:
            if (first := seen.setdefault((kind, name), place)) != place:
                found = f"{shown(name)} in {files[first].index.source} and in {index.source}"
                faults.append(f"expected each {kind} in one file, found {found}")
    raise_faults(target, faults)


def _categories(files: Sequence[Rows]) -> list[Row]:
    """Return the classes of all files; a class keeps its id if no earlier class has it."""
    found: dict[str, Row] = {}
    taken: set[int] = set()
    for category in (category for rows in files for category in rows.table("categories")):
        if category["name"] not in found:
            number = category["id"] if category["id"] not in taken else max(taken) + 1
            taken.add(number)
            found[category["name"]] = category | {"id": number}
    return list(found.values())


def _images(files: Sequence[Rows]) -> Iterator[Row]:
    first = 0
    for rows in files:
        for place, (text, video) in enumerate(zip(rows.images, rows.videos, strict=True)):
            row: Row = msgspec.json.decode(text)
            number = row.pop("frame_id", None)
            row.pop("video_id", None)
            row["frame_number"] = number if row.get("frame_number") is None else row["frame_number"]
            yield row | {"id": first + place, "video": video}
        first += len(rows.images)


def _annotations(files: Sequence[Rows], ids: dict[str, int]) -> Iterator[Row]:
    first_image, number = 0, FIRST_ANNOTATION
    for rows in files:
        names = {category["id"]: category["name"] for category in rows.table("categories")}
        for text, image in zip(rows.annotations, rows.image_of, strict=True):
            row: Row = msgspec.json.decode(text)
            row.pop("video_id", None)
            category = ids[names[row["category_id"]]]
            yield row | {"id": number, "image_id": first_image + image, "category_id": category}
            number += 1
        first_image += len(rows.images)
