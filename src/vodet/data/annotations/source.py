"""Where data sets lie; their classes joined by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from vodet.data.annotations.index import VideoIndex
from vodet.data.annotations.st_coco import read_st_coco
from vodet.errors import ConfigError, DataError
from vodet.structures import NO_CATEGORY, GroundTruth

Labelled = TypeVar("Labelled", VideoIndex, GroundTruth)


@dataclass(frozen=True)
class Source:
    """Where a data set lies.

    Args:
        annotations: ST-COCO file.
        images: Folder or fsspec URL that the file names in it are relative to.
        share: Of several sets to train on, the part of an epoch's clips that this one has, in
            proportion to the shares of the others; None in all of them leaves each what it has.
    """

    annotations: str
    images: str
    share: float | int | None = None


def read_source(source: Source, name: str) -> VideoIndex:
    """Read the annotations of a data set.

    Args:
        source: Where it lies.
        name: Its name in the config below ``data``, for the text of errors.

    Raises:
        DataError: If it is not there or not right.
    """
    advice = (
        f"Set data.{name}.annotations and data.{name}.images, or VODET_DATA to the folder of your "
        "data sets. `vodet-data generate` makes a data set; `vodet-data check FILE` says whether "
        "a file of your own, converted to ST-COCO, is right."
    )
    if not os.path.lexists(source.annotations):
        msg = f"data.{name}.annotations: no such file: {source.annotations}. {advice}"
        raise DataError(msg)
    # Of a URL the first frame will tell.
    if "://" not in source.images and not os.path.isdir(source.images):  # noqa: PTH112  never raises
        msg = f"data.{name}.images: no such folder: {source.images}. {advice}"
        raise DataError(msg)
    return read_st_coco(source.annotations)


def match_classes(data: Labelled, class_names: Sequence[str]) -> Labelled:
    """Give annotations the labels of a detector, by the names of the classes.

    Category ids stay those of the annotations, so that predictions fit their file; a class that
    they lack has ``NO_CATEGORY``.

    Args:
        data: The annotations.
        class_names: Classes of the detector.

    Raises:
        ConfigError: If the annotations have a class that is not among the given ones.
    """
    unknown = [name for name in data.class_names if name not in class_names]
    if unknown:
        msg = (
            f"{data.source} has classes that the detector lacks: {', '.join(unknown)}. The classes "
            f"of the detector, which are those of its training data, are: {', '.join(class_names)}."
        )
        raise ConfigError(msg)
    ids = dict(zip(data.class_names, data.category_ids.tolist(), strict=True))
    labels = [class_names.index(name) for name in data.class_names]
    return replace(
        data,
        class_names=tuple(class_names),
        category_ids=np.array([ids.get(name, NO_CATEGORY) for name in class_names], np.int64),
        labels=np.array(labels, data.labels.dtype)[data.labels],
    )
