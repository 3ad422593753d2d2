"""The evaluation protocols to choose from, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from vodet.errors import ConfigError
from vodet.metrics.coco import coco_average_precision
from vodet.metrics.motion import motion_average_precision
from vodet.metrics.predictions import Measure, Predictions
from vodet.metrics.steadiness import steadiness
from vodet.metrics.uavdt import uavdt_average_precision
from vodet.metrics.vid import vid_average_precision
from vodet.structures import GroundTruth


def choose_protocols(names: Iterable[str], score_threshold: float = 0.3) -> dict[str, Measure]:
    """Return the protocols of these names, in their order.

    Args:
        names: Of ``coco``, ``vid``, ``motion``, ``uavdt`` and ``steadiness``, at least one.
        score_threshold: The lowest score that counts as found for ``steadiness``.

    Raises:
        ConfigError: If a name is none of these, or there is none.
    """
    known: dict[str, Measure] = {
        "coco": coco_average_precision,
        "vid": vid_average_precision,
        "motion": motion_average_precision,
        "uavdt": uavdt_average_precision,
        "steadiness": partial(steadiness, score_threshold=score_threshold),
    }
    wanted = list(dict.fromkeys(names))
    if not wanted or any(name not in known for name in wanted):
        msg = f"Expected protocols to be one or more of {', '.join(known)}, found {wanted}."
        raise ConfigError(msg)
    return {name: known[name] for name in wanted}


def measure_all(
    protocols: Mapping[str, Measure], ground_truth: GroundTruth, predictions: Predictions
) -> dict[str, float]:
    """Evaluate predictions by several protocols.

    Returns:
        The numbers of all. Each is named after its protocol, as ``vid/ap_50``, but for those of
        COCO, ``map`` and so on, which have the names that training logs.
    """
    return {
        name: value
        for measure in protocols.values()
        for name, value in measure(ground_truth, predictions).items()
    }
