"""The result of an evaluation, for the screen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

_ROWS = {
    "all objects": ("map", "map_50", "map_75", "mar_1", "mar_10", "mar_100"),
    "small": ("map_small", "", "", "", "", "mar_small"),
    "medium": ("map_medium", "", "", "", "", "mar_medium"),
    "large": ("map_large", "", "", "", "", "mar_large"),
}


def coco_table(result: Mapping[str, float]) -> Table:
    """Lay out the result of `coco_average_precision`: overall, by size, by class, in percent.

    A dash stands where there is nothing to find.
    """
    table = Table(
        title="COCO AP (IoU 0.50:0.95), percent",
        caption="small: below 32², medium: to 96², large: above 96² square pixels",
    )
    table.add_column("")
    for name in ("AP", "AP50", "AP75", "AR1", "AR10", "AR100"):
        table.add_column(name, justify="right")
    for name, keys in _ROWS.items():
        table.add_row(name, *(_number(result, key) for key in keys))
    table.add_section()
    for name in [key.removeprefix("map/") for key in result if key.startswith("map/")]:
        of_class = (f"map/{name}", f"map_50/{name}")
        table.add_row(escape(name), *(_number(result, key) for key in of_class))
    return table


@dataclass(frozen=True)
class _Column:
    """A number of a protocol: its title, its name in the result, and that of classes before "/"."""

    title: str
    key: str
    class_key: str = ""
    scale: float = 100.0


_COLUMNS = {
    "coco": (
        _Column("COCO\nAP", "map", "map"),
        _Column("COCO\nAP50", "map_50", "map_50"),
        _Column("COCO\nAP75", "map_75"),
    ),
    "vid": (_Column("VID\nAP50", "vid/ap_50", "vid/ap_50"),),
    "motion": (
        *(
            _Column(f"VID AP50\n{group}", f"motion/ap_50_{group}", f"motion/ap_50_{group}")
            for group in ("slow", "medium", "fast")
        ),
        *(
            _Column(f"COCO AP50\n{group}", f"motion/coco_ap_50_{group}")
            for group in ("slow", "medium", "fast")
        ),
    ),
    "uavdt": (
        _Column("UAVDT AP70\nvehicle", "uavdt/ap_70"),
        _Column("UAVDT AP70\nclasses", "uavdt/map_70", "uavdt/ap_70"),
    ),
    "steadiness": (
        _Column("steadiness\nfound", "steadiness/found"),
        _Column("drop-outs\n/100 frames", "steadiness/drop_outs", scale=1.0),
        _Column("steadiness\njitter", "steadiness/jitter"),
        _Column("score\nchange", "steadiness/score_change"),
    ),
}


def protocols_table(protocols: Iterable[str], result: Mapping[str, float]) -> Table:
    """Lay out the result of `measure_all` by several protocols side by side, in percent.

    A dash stands where there is nothing to find, a blank where the protocol has no such number.
    """
    names = list(protocols)
    columns = [column for name in names for column in _COLUMNS[name]]
    table = Table(title="Evaluation, percent")
    if "steadiness" in names:
        table.caption = f"steadiness: scores from {result['steadiness/score_threshold']:g}"
    table.add_column("")
    for column in columns:
        table.add_column(column.title, justify="right")
    table.add_row("all objects", *(_number(result, column.key, column.scale) for column in columns))
    table.add_section()
    prefixes = [f"{column.class_key}/" if column.class_key else "" for column in columns]
    for name in _class_names(prefixes, result):
        cells = [_number(result, prefix and prefix + name) for prefix in prefixes]
        table.add_row(escape(name), *cells)
    return table


def _class_names(prefixes: Iterable[str], result: Mapping[str, float]) -> list[str]:
    names = [
        key.removeprefix(prefix)
        for prefix in prefixes
        for key in result
        if prefix and key.startswith(prefix)
    ]
    return list(dict.fromkeys(names))


def _number(result: Mapping[str, float], key: str, scale: float = 100.0) -> str:
    if not key:
        return ""
    return "-" if math.isnan(result[key]) else f"{scale * result[key]:.1f}"
