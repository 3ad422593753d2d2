"""Reads the YAML file of a data set in the format of Ultralytics YOLO, and finds its images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from vodet.data.formats.folders import IMAGE_SUFFIXES, listed
from vodet.data.formats.records import Category
from vodet.data.formats.tables import parse_lines
from vodet.errors import DataError
from vodet.files import read_file
from vodet.json_files import shown

SPLITS = ("train", "val", "test")


def splits_in(source: Path) -> list[str]:
    """Return the splits that a data set has.

    Args:
        source: The YAML file, or its folder.

    Raises:
        DataError: If the YAML file is missing or malformed, or has no split.
    """
    file = find_yaml(source)
    config = read_yaml(file)
    if found := [split for split in SPLITS if config.get(split)]:
        return found
    msg = f"{file}: expected one of the keys {', '.join(SPLITS)} with images, found none."
    raise DataError(msg)


def find_yaml(source: Path) -> Path:
    """Return the YAML file of a data set, given the file or its folder.

    Raises:
        DataError: If the folder has no YAML file, or several without a ``data.yaml``.
    """
    if not source.is_dir():
        return source
    files = sorted([*source.glob("*.yaml"), *source.glob("*.yml")])
    files = [file for file in files if file.stem == "data"] or files
    if len(files) != 1:
        found = listed(file.name for file in files)
        msg = f"Expected data.yaml in {source}, found {found}. Set SRC to the YAML file."
        raise DataError(msg)
    return files[0]


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the keys of a YAML file.

    Raises:
        DataError: If the file is missing or is not a mapping in YAML.
    """
    try:
        config = yaml.safe_load(read_file(file))
    except FileNotFoundError:
        msg = f"Expected the YAML file of a data set for YOLO at {file}, found none."
        raise DataError(msg) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        msg = f"Cannot read {file} as the YAML file of a data set for YOLO: {reason}."
        raise DataError(msg) from error
    if not isinstance(config, dict):
        msg = f"{file}: expected keys such as train and names, found {shown(config)}."
        raise DataError(msg)
    if "validation" in config:  # Ultralytics reads this key too
        config.setdefault("val", config["validation"])
    return config


def read_categories(config: dict[str, Any], file: Path) -> list[Category]:
    """Return the classes; the id of a class is its number in the labels.

    Args:
        config: The keys of the YAML file.
        file: The YAML file, for error messages.

    Raises:
        DataError: If class names are missing or malformed, or do not fit ``nc``.
    """
    names = config.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        msg = (
            f"{file}: expected the class names in the key names, as a list or by class number; "
            f"found {shown(names)}."
        )
        raise DataError(msg)
    for key, name in names.items():
        is_text = isinstance(name, str | int | float) and not isinstance(name, bool)
        if not isinstance(key, int) or not is_text:
            msg = (
                f"{file}: names: expected a class number and a name, found {key!r}: {name!r}. Put "
                "names such as yes and no in quotes."
            )
            raise DataError(msg)
    if repeated := [name for name, count in Counter(map(str, names.values())).items() if count > 1]:
        msg = f"{file}: names: expected each name once, found {listed(repeated)} several times."
        raise DataError(msg)
    if config.get("nc", len(names)) != len(names):
        msg = (
            f"{file}: nc is {config['nc']}, but names has {len(names)} names. Correct one of them."
        )
        raise DataError(msg)
    return [Category(key, str(name), str(name)) for key, name in sorted(names.items())]


def find_images(config: dict[str, Any], split: str, file: Path) -> Iterator[Path]:
    """Yield the images of a split, in the order of their names or of the list.

    Args:
        config: The keys of the YAML file.
        split: Name of the split.
        file: The YAML file.

    Raises:
        DataError: If the images are missing.
    """
    entries = config[split] if isinstance(config[split], list) else [config[split]]
    for entry in entries:
        path = _find(str(entry), str(config.get("path") or "."), split, file)
        if path.is_dir():
            yield from _images_in(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path
        else:
            yield from _listed_images(path)


def _find(entry: str, path: str, split: str, file: Path) -> Path:
    """Find a folder or file of a split; ``path`` may be of the machine that wrote the file."""
    roots = [file.parent / path, Path(path), file.parent]
    entries = [entry, entry.removeprefix("../")]  # Roboflow writes ../ without the folder above
    places = [Path(os.path.normpath(root / text)) for text in entries for root in roots]
    for place in places:
        if place.exists():
            return place
    looked = ", ".join(dict.fromkeys(map(str, places)))
    msg = (
        f"{file}: {split}: expected a folder of images or a list of them, found none at {looked}. "
        "Correct path or this entry."
    )
    raise DataError(msg)


def _images_in(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        msg = f"Expected images in {folder}, found none."
        raise DataError(msg)
    return found


def _listed_images(file: Path) -> list[Path]:
    def find(text: str) -> Path:
        name = text.strip()
        places = [Path(os.path.normpath(root / name)) for root in (file.parent, Path())]
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            msg = f"expected an image, found none at {places[0]}"
            raise ValueError(msg)
        return place

    return [path for _, path in parse_lines(file, find)]
