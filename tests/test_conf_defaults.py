"""The values that conf/ gives to vodet's classes are the defaults of their constructors.

A file of conf/ that names a class by ``_target_`` shows a user the values of its arguments, and a
notebook gets the constructor's defaults: these must be the same. Where several files name one
class, as the windows do, they are variants, and the default is the value of one of them. Files
without ``_target_`` only override values, and entries of lists, such as augmentations, belong to
one recipe. A default of None says that an option is not used, which a config may decide to do.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from vodet.cli.app import config_dir

Uses = list[tuple[str, DictConfig]]


def nodes(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The paths of the mappings that name a class of vodet, and the classes."""
    if isinstance(node, dict):
        if str(node.get("_target_")).startswith("vodet."):
            yield path, node["_target_"]
        for key, value in node.items():
            yield from nodes(value, (*path, key))


def package(file: Path, text: str) -> tuple[str, ...]:
    """Where in the config the content of a file goes."""
    header = re.match(r"# @package (\S+)", text)
    if header is None:
        return file.parent.parts
    return () if header.group(1) == "_global_" else tuple(header.group(1).split("."))


def composed(file: Path) -> DictConfig:
    choice = f"{file.parent}={file.stem}"
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        try:
            return hydra.compose("train", [choice])
        except HydraException:  # a group that only the two-stage head has
            return hydra.compose("train", ["model/head=two_stage", choice])


def places() -> dict[str, list[tuple[Path, str]]]:
    """Every class, with the files that name it and the keys at which they do."""
    found: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for path in sorted(config_dir().rglob("*/*.yaml")):
        file, text = path.relative_to(config_dir()), path.read_text()
        for where, target in nodes(yaml.safe_load(text)):
            found[target].append((file, ".".join((*package(file, text), *where))))
    return found


PLACES = places()


def uses(target: str) -> Uses:
    """What each file that names a class makes of it."""
    return [
        (f"{file}: {key}", OmegaConf.select(composed(file), key)) for file, key in PLACES[target]
    ]


def defaults(target: str) -> dict[str, Any]:
    named = get_object(target)
    if inspect.isclass(named) and "__init__" not in vars(named):
        return {}  # a constructor of Lightning
    parameters = inspect.signature(named).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty and parameter.default is not None
    }


def value_of(node: DictConfig, key: str) -> Any:
    value = node[key]
    if isinstance(value, DictConfig):
        return instantiate(value) if "_target_" in value else OmegaConf.to_container(value)
    return tuple(value) if OmegaConf.is_list(value) else value


def disagreements(target: str, found: Uses) -> Iterator[str]:
    for key, default in defaults(target).items():
        values = {
            f"{where}.{key}": value_of(node, key)
            for where, node in found
            if key in node and not OmegaConf.is_missing(node, key)
        }
        expected = tuple(default) if isinstance(default, list) else default
        if values and expected not in values.values():
            yield f"{target}({key}={default!r}), but {values}"


def test_classes_of_every_group_are_found() -> None:
    assert len(PLACES) > 20
    assert len(PLACES["vodet.structures.Window"]) == 4
    ((where, node),) = uses("vodet.data.clips.datamodule.ClipDataModule")
    assert (where, node.chunk_size) == ("data/default.yaml: data", 8)


@pytest.mark.parametrize("target", PLACES)
def test_constructor_and_config_agree(target: str) -> None:
    assert list(disagreements(target, uses(target))) == []


def test_disagreements_are_seen() -> None:
    window = "vodet.structures.Window"
    narrow, wide = (OmegaConf.create({"past": past, "frame_stride": 1}) for past in (0, 3))
    assert list(disagreements(window, [("a", narrow), ("b", wide)])) == []
    assert list(disagreements(window, [("b", wide)])) == [
        "vodet.structures.Window(past=0), but {'b.past': 3}"
    ]
