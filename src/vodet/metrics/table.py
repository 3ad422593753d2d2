"""The result of an evaluation, for the screen."""

from __future__ import annotations

import math
from collections.abc import Mapping

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
        table.add_row(name, *(_percent(result, key) for key in keys))
    table.add_section()
    for name in [key.removeprefix("map/") for key in result if key.startswith("map/")]:
        of_class = (f"map/{name}", f"map_50/{name}")
        table.add_row(escape(name), *(_percent(result, key) for key in of_class))
    return table


def _percent(result: Mapping[str, float], key: str) -> str:
    if not key:
        return ""
    return "-" if math.isnan(result[key]) else f"{100 * result[key]:.1f}"
