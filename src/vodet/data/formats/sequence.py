"""Sequences of a data set: videos as folders of numbered images, annotated in text files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vodet.data.formats.folders import image_size, numbered_images, relative
from vodet.data.formats.records import Box, Frame
from vodet.data.formats.tables import Row, raise_faults, read_rows


class Sequence:
    r"""A sequence of a data set, that is, a video; all frames are read, or only some.

    Args:
        name: Name of the sequence.
        folder: The folder of the images.
        pattern: Regular expression for the names of the images, whose group is the frame number,
            such as ``(\d{6})\.png``.
        root: The image root.
        wanted: Numbers of the frames to read; None reads all frames.
        first: Number of the first frame in the annotations. If the images are numbered from 0, this
            is added to their numbers.

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

    @property
    def numbers(self) -> Collection[int]:
        """Numbers of the selected frames."""
        return self._images.keys()

    def rows(
        self, path: Path, columns: Mapping[str, Callable[[str], Any]], separator: str | None = ","
    ) -> Mapping[int, list[Row]]:
        """Read a text file with a column ``frame``; return its lines by frame number.

        Lines of frames that are not to be read are left out.

        Args:
            path: The file.
            columns: Parser of each column, see `read_rows`.
            separator: Separator of the values; None for whitespace.

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
        """Yield each selected frame with its boxes, in order of frame number.

        Args:
            boxes_of: Returns the boxes of a frame, given its number and its ``(height, width)``.
            size: ``(height, width)`` that every image should have; None if it is not known.

        Raises:
            FrameError: If an image cannot be read or has another size.
        """
        for number, image in self._images.items():
            found = image_size(image, size)
            boxes = list(boxes_of(number, found))
            yield Frame(relative(image, self._root), number, found, boxes)
