"""The evaluation protocols that a user can choose by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from vodet.errors import ConfigError
from vodet.id_lookup import positions_in
from vodet.metrics import motion, track_length
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.detection_table import DetectionTable, Measure
from vodet.metrics.groups import group_headlines
from vodet.metrics.stability import STABILITY_METRICS, stability
from vodet.metrics.uavdt import uavdt_average_precision
from vodet.metrics.vid import vid_average_precision
from vodet.structures import GroundTruth

# The metrics of each protocol that tables show and that are also computed per video attribute.
HEADLINES: dict[str, tuple[str, ...]] = {
    "coco": ("map", "map_50", "map_75"),
    "vid": ("vid/ap_50",),
    "motion": group_headlines("motion", motion.GROUPS),
    "track_length": group_headlines("track_length", track_length.GROUPS),
    "uavdt": ("uavdt/ap_70", "uavdt/map_70"),
    "stability": STABILITY_METRICS,
}

LOWER_IS_BETTER = STABILITY_METRICS[1:]


def choose_protocols(names: Iterable[str], score_threshold: float = 0.3) -> dict[str, Measure]:
    """Return for each named protocol the function that computes its metrics, in the same order.

    Args:
        names: One or more of ``coco``, ``vid``, ``motion``, ``track_length``, ``uavdt`` and
            ``stability``.
        score_threshold: Minimum score of the detections used for ``stability``.

    Raises:
        ConfigError: If a name is unknown or no name is given.
    """
    known: dict[str, Measure] = {
        "coco": coco_average_precision,
        "vid": vid_average_precision,
        "motion": motion.motion_average_precision,
        "track_length": track_length.track_length_average_precision,
        "uavdt": uavdt_average_precision,
        "stability": partial(stability, score_threshold=score_threshold),
    }
    wanted = list(dict.fromkeys(names))
    if not wanted or any(name not in known for name in wanted):
        msg = f"protocols must be one or more of {', '.join(known)}; found {wanted}."
        raise ConfigError(msg)
    return {name: known[name] for name in wanted}


def measure_all(
    protocols: Mapping[str, Measure], ground_truth: GroundTruth, predictions: DetectionTable
) -> dict[str, float]:
    """Return the metrics of several protocols.

    Args:
        protocols: For each protocol, the function that computes its metrics: the result of
            `choose_protocols`.
        ground_truth: The annotations.
        predictions: The detections.

    Returns:
        The metrics by name. Names begin with the protocol, as in ``vid/ap_50``, except for COCO
        metrics, such as ``map``. If videos have attributes, the `HEADLINES` of each protocol are
        also computed on only the videos with an attribute, with names such as ``vid/ap_50@night``.
    """
    result = _measure_each(protocols, ground_truth, predictions)
    for attribute, has_it in zip(
        ground_truth.attribute_names, ground_truth.video_attributes.T, strict=True
    ):
        part = ground_truth.select(has_it[ground_truth.videos])
        found = predictions[positions_in(part.image_ids, predictions.image_ids) >= 0]
        of_part = _measure_each(protocols, part, found)
        headlines = [key for name in protocols for key in HEADLINES[name]]
        result |= {f"{key}@{attribute}": of_part[key] for key in headlines}
    return result


def _measure_each(
    protocols: Mapping[str, Measure], ground_truth: GroundTruth, predictions: DetectionTable
) -> dict[str, float]:
    return {
        name: value
        for measure in protocols.values()
        for name, value in measure(ground_truth, predictions).items()
    }
