"""A sequence: numbered images in one folder, and text files with one object per line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vodet.data.formats.folders import image_size, numbered_images, relative
from vodet.data.formats.records import Box, Frame
from vodet.data.formats.tables import Row, raise_faults, read_rows


class Sequence:
    r"""The frames to read from a sequence.

    Args:
        name: Name of the sequence.
        folder: The folder of its images.
        pattern: Regular expression of the file names, with the frame number as its group, such as
            ``(\d{6})\.png``.
        root: The image root.
        wanted: The frames to read; by default, all frames.
        first: Number of the first frame. Images that are numbered from 0 are renumbered from it.

    Raises:
        DataError: If the folder or a wanted image is missing, or there is no image.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        pattern: str,
        root: Path,
        wanted: range | None = None,
        first: int = 0,
    ) -> None:
        self.name = name
        self._images = numbered_images(folder, pattern, wanted, first)
        self._root, self._wanted = root, wanted

    def rows(
        self, path: Path, columns: Mapping[str, Callable[[str], Any]], separator: str | None = ","
    ) -> Mapping[int, list[Row]]:
        """Group the lines of a file by its column ``frame``, for the frames to read.

        Raises:
            DataError: If the file is missing or malformed, or a line has a frame without an image.
        """
        groups: dict[int, list[Row]] = defaultdict(list)
        faults = []
        for row in read_rows(path, columns, separator):
            frame = row.values["frame"]
            if frame in self._images:
                groups[frame].append(row)
            elif self._wanted is None or frame in self._wanted:
                fault = f"expected a frame with an image, found frame {frame}"
                faults.append(f"line {row.line}: {fault}")
        raise_faults(path, faults)
        return groups

    def frames(
        self,
        boxes_of: Callable[[int, tuple[int, int]], Iterable[Box]],
        size: tuple[int, int] | None = None,
    ) -> Iterator[Frame]:
        """Yield the frames in order.

        Args:
            boxes_of: Returns the boxes of a frame by its number and ``(height, width)``.
            size: ``(height, width)`` that every image should have, if it is known.

        Raises:
            FrameError: If an image cannot be read or has another size.
        """
        for number, image in self._images.items():
            found = image_size(image, size)
            boxes = list(boxes_of(number, found))
            yield Frame(relative(image, self._root), number, found, boxes)
