"""Reads the data sets that a config names, and matches their classes by name."""

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
    """Where a data set is stored, and how often its clips are drawn in training.

    Args:
        annotations: ST-COCO file.
        images: The image root, a folder or an fsspec URL, to which the file names in the
            annotations are relative.
        share: Relative share of the clips of an epoch: a training set with share 2 contributes
            twice as many clips as one with share 1. If no training set has a share, the sets
            contribute in proportion to their numbers of clips.
    """

    annotations: str
    images: str
    share: float | int | None = None


def read_source(source: Source, name: str) -> VideoIndex:
    """Read the annotations of a data set.

    Args:
        source: Location of the data set.
        name: Name of the data set in the config, such as ``train``, for error messages.

    Raises:
        DataError: If the annotations are missing or invalid, or the image folder is missing.
    """
    advice = (
        f"Set data.{name}.annotations and data.{name}.images, or set VODET_DATA to the folder of "
        "your data sets. `vodet-data generate` generates a data set; `vodet-data check FILE` "
        "checks an ST-COCO file."
    )
    if not os.path.lexists(source.annotations):
        msg = f"data.{name}.annotations: no such file: {source.annotations}. {advice}"
        raise DataError(msg)
    # A wrong URL is reported when the first frame is read.
    if "://" not in source.images and not os.path.isdir(source.images):  # noqa: PTH112  never raises
        msg = f"data.{name}.images: no such folder: {source.images}. {advice}"
        raise DataError(msg)
    return read_st_coco(source.annotations)


def match_classes(data: Labelled, class_names: Sequence[str]) -> Labelled:
    """Return annotations with the labels of a detector, matching classes by name.

    Each class keeps its category id, so that exported predictions match the annotation file. A
    class of the detector that the annotations lack gets the category id ``NO_CATEGORY``.

    Args:
        data: The annotations.
        class_names: Class names of the detector, in order of label.

    Raises:
        ConfigError: If the annotations have a class that is not in ``class_names``.
    """
    unknown = [name for name in data.class_names if name not in class_names]
    if unknown:
        msg = (
            f"{data.source} has classes that the detector lacks: {', '.join(unknown)}. The "
            f"detector has the classes of its training data: {', '.join(class_names)}. Rename or "
            "remove the other classes in the annotations."
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
