"""Reads XML files, and reports malformed elements with their lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast
from xml.etree import ElementTree
from xml.parsers import expat

from vodet.errors import DataError
from vodet.files import read_file

T = TypeVar("T")


class XmlElement(ElementTree.Element):
    """An element of an XML file that knows its line, from 1."""

    line = 0


def read_xml(path: Path, root: str, expected: str) -> XmlElement:
    """Read an XML file and return its root element.

    Entities are not expanded: a file that declares one is refused, because a short file could grow
    without limit.

    Args:
        path: The file.
        root: Name of the root element.
        expected: What the file should be, for error messages, such as ``an annotation of VOC``.

    Raises:
        DataError: If the file is missing, is not XML, or has another root element.
    """
    try:
        element = _parse(read_file(path))
    except FileNotFoundError:
        msg = f"Expected {expected} at {path}, found none."
        raise DataError(msg) from None
    except (OSError, ValueError, LookupError, expat.ExpatError) as error:
        msg = f"{path}: expected {expected}, but it cannot be read as XML: {error}."
        raise DataError(msg) from error
    if element.tag != root:
        msg = f"{path}: expected {expected} with the element {root}, found {element.tag}."
        raise DataError(msg)
    return element


def _parse(data: bytes) -> XmlElement:
    parser = expat.ParserCreate()
    builder = ElementTree.TreeBuilder(XmlElement)

    def start(tag: str, attributes: dict[str, str]) -> None:
        cast(XmlElement, builder.start(tag, attributes)).line = parser.CurrentLineNumber

    def refuse(name: str, *_: object) -> NoReturn:
        msg = f"it declares the entity {name}, and entities are not supported"
        raise ValueError(msg)

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    parser.Parse(data, True)
    return cast(XmlElement, builder.close())


def value(element: ElementTree.Element, name: str, kind: Callable[[str], T]) -> T:
    """Return an attribute of an element.

    Args:
        element: The element.
        name: Name of the attribute.
        kind: Parses the attribute, and raises ValueError if it is malformed.

    Raises:
        ValueError: If the attribute is missing or malformed; the message names the line.
    """
    return _read(element, f"the attribute {name}", element.get(name), kind)


def content(element: ElementTree.Element, name: str, kind: Callable[[str], T]) -> T:
    """Return the text of an element inside another one, such as ``size/width``.

    Args:
        element: The outer element.
        name: Path of the inner element.
        kind: Parses the text, and raises ValueError if it is malformed.

    Raises:
        ValueError: If the inner element is missing or malformed; the message names the line.
    """
    return _read(element, f"an element {name} with text", element.findtext(name), kind)


def _read(element: ElementTree.Element, what: str, text: str | None, kind: Callable[[str], T]) -> T:
    where = f"line {line_of(element)}: {element.tag}"
    if not text:
        msg = f"{where}: expected {what}, found none"
        raise ValueError(msg)
    try:
        return kind(text.strip())
    except ValueError as error:
        msg = f"{where}: {what}: {error}"
        raise ValueError(msg) from None


def line_of(element: ElementTree.Element) -> int:
    """Return the line of an element that `read_xml` has read."""
    return getattr(element, "line", 0)


def one_of_names(labels: Mapping[str, Any]) -> Callable[[str], str]:
    """Return a parser that accepts only the keys of a mapping, such as the known classes."""

    def read(text: str) -> str:
        if text not in labels:
            msg = f"expected one of {', '.join(labels)}; found {text!r}"
            raise ValueError(msg)
        return text

    return read
