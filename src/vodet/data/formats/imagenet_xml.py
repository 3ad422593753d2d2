"""Parses the XML files of ImageNet VID and DET in several processes.

This module imports nothing heavy, because each process imports it when it starts.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from vodet.errors import DataError
from vodet.files import read_file

CHUNK = 128  # files per task: parsing takes about 10 ms, much longer than sending the task
FEW = 64 * CHUNK  # files: parsing takes about a second, as long as starting processes
_IGNORE_INTERRUPT = (signal.SIGINT, signal.SIG_IGN)  # the main process stops its workers
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class XmlObject(NamedTuple):
    """An object in an XML file: its WordNet id, its box, and its track id, None in DET."""

    name: str
    xyxy: tuple[int | float, ...]
    track: str | None
    is_occluded: bool | None


class XmlFrame(NamedTuple):
    """The content of an XML file: ``(height, width)`` of the image, and the objects in it."""

    size: tuple[int, int]
    objects: list[XmlObject]


def parse_all(paths: Iterable[Path], workers: int | None = None) -> Iterator[XmlFrame]:
    """Parse XML files in order, keeping a limited number of results in memory.

    `FEW` or more files are parsed in several processes; a script that does this needs
    ``if __name__ == "__main__":``.

    Args:
        paths: The files.
        workers: Number of processes; 1 parses in this process. By default one per processor.

    Raises:
        DataError: At the first file that is missing or malformed.
    """
    workers = workers or os.cpu_count() or 1
    remaining = iter(paths)
    first = list(islice(remaining, FEW))
    if workers <= 1 or len(first) < FEW:
        yield from map(parse_xml, first)
        yield from map(parse_xml, remaining)
        return
    chunks = _chunks(first, remaining)
    # Spawned, because a fork does not copy the threads of progress bars.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, signal.signal, _IGNORE_INTERRUPT) as pool:
        pending: deque[Future[list[XmlFrame]]] = deque()
        try:
            for chunk in chunks:
                pending.append(pool.submit(_parse_chunk, chunk))
                if len(pending) > 4 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _chunks(first: list[Path], remaining: Iterator[Path]) -> Iterator[list[str]]:
    for start in range(0, len(first), CHUNK):
        yield [str(path) for path in first[start : start + CHUNK]]
    while chunk := [str(path) for path in islice(remaining, CHUNK)]:
        yield chunk


def _parse_chunk(paths: list[str]) -> list[XmlFrame]:
    return [parse_xml(Path(path)) for path in paths]


def parse_xml(path: Path) -> XmlFrame:
    """Parse one XML file.

    Raises:
        DataError: If the file is missing or malformed; the message names the faulty element.
    """
    try:
        root = ElementTree.fromstring(read_file(path))
        size = (int(_text(root, "size/height")), int(_text(root, "size/width")))
        if min(size) < 1:
            msg = f"size: expected height and width above 0, found {size[0]} and {size[1]}"
            raise ValueError(msg)
        objects = [_object(element, place) for place, element in enumerate(root.findall("object"))]
        return XmlFrame(size, objects)
    except FileNotFoundError:
        msg = f"Expected an XML file at {path}, found none."
    except (OSError, ValueError, ElementTree.ParseError) as error:
        msg = f"{path}: cannot be read as an ImageNet annotation: {error}. Replace the file."
    raise DataError(msg)


def _object(element: ElementTree.Element, place: int) -> XmlObject:
    try:
        box = element.find("bndbox")
        if box is None:
            msg = "expected an element bndbox, found none"
            raise ValueError(msg)
        xyxy = tuple(_number(_text(box, corner)) for corner in _CORNERS)
        occluded = element.findtext("occluded")
        is_occluded = None if occluded is None else bool(int(occluded))
        return XmlObject(_text(element, "name"), xyxy, element.findtext("trackid"), is_occluded)
    except ValueError as error:
        msg = f"object {place + 1}: {error}"
        raise ValueError(msg) from None


def _text(element: ElementTree.Element, name: str) -> str:
    text = element.findtext(name)
    if not text:
        msg = f"expected an element {name} with text, found none"
        raise ValueError(msg)
    return text


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        value = float(text)  # a few files have fractions
    if not abs(value) < float("inf"):
        msg = f"bndbox: expected finite numbers, found {text}"
        raise ValueError(msg)
    return value
