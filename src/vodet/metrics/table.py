"""Tables of evaluation results for the terminal.

Each row shows metrics without tubelet linking. If there are also metrics after tubelet linking,
such as ``seq_nms/map``, they are shown in the row below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from vodet.metrics import motion, track_length
from vodet.metrics.protocols import HEADLINES
from vodet.names import visible

_COCO_ROWS = {
    "all objects": ("map", "map_50", "map_75", "mar_1", "mar_10", "mar_100"),
    "small": ("map_small", "", "", "", "", "mar_small"),
    "medium": ("map_medium", "", "", "", "", "mar_medium"),
    "large": ("map_large", "", "", "", "", "mar_large"),
}


@dataclass(frozen=True)
class _Column:
    """A column of the table of several protocols.

    Args:
        title: Title of the column.
        class_key: Name of the metric whose values per class, ``<class_key>/<class>``, are shown;
            empty for blank cells.
        scale: Factor by which the metric is multiplied.
    """

    title: str
    class_key: str = ""
    scale: float = 100.0


def _group_columns(protocol: str, groups: tuple[str, ...], noun: str) -> dict[str, _Column]:
    """Return the columns, by metric, of a protocol that divides objects into groups.

    Args:
        protocol: Name of the protocol.
        groups: Names of the groups.
        noun: Word that follows the name of a group in a title, such as ``motion``.
    """
    columns = {}
    for group in groups:
        by_vid, by_coco = f"{protocol}/ap_50_{group}", f"{protocol}/coco_ap_50_{group}"
        columns[by_vid] = _Column(f"VID\nAP50\n{group}\n{noun}", by_vid)
        columns[by_coco] = _Column(f"COCO\nAP50\n{group}\n{noun}")
    return columns


_COLUMNS = {
    "map": _Column("COCO\nAP", "map"),
    "map_50": _Column("COCO\nAP50", "map_50"),
    "map_75": _Column("COCO\nAP75"),
    "vid/ap_50": _Column("VID\nAP50", "vid/ap_50"),
    **_group_columns("motion", motion.GROUPS, "motion"),
    **_group_columns("track_length", track_length.GROUPS, "track"),
    "uavdt/ap_70": _Column("UAVDT\nAP70\nvehicle"),
    "uavdt/map_70": _Column("UAVDT\nAP70\nclasses", "uavdt/ap_70"),
    "stability/found": _Column("stability\nfound"),
    "stability/drop_outs": _Column("drop-outs\n/ 100\nframes", scale=1.0),
    "stability/jitter": _Column("stability\njitter"),
    "stability/score_change": _Column("score\nchange"),
}


def metric_title(key: str) -> str:
    """Return the title of a metric, such as ``VID AP50 fast motion``."""
    return _COLUMNS[key].title.replace("\n", " ")


def metric_scale(key: str) -> float:
    """Return the factor by which tables multiply a metric."""
    return _COLUMNS[key].scale


def coco_table(result: Mapping[str, float], linkings: Sequence[str] = ()) -> Table:
    """Return a table of COCO metrics for all objects, by size, by class and by video attribute.

    Numbers are in percent. A dash means that there are no objects.

    Args:
        result: The metrics by name.
        linkings: Names of the tubelet linkings in the result.
    """
    table = Table(
        title="COCO AP (IoU 0.50:0.95), percent",
        caption="small: below 32², medium: 32² to 96², large: above 96² pixels",
    )
    table.add_column("", overflow="fold")  # long names wrap, numbers stay whole
    for name in ("AP", "AP50", "AP75", "AR1", "AR10", "AR100"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = _Rows(table, result, linkings, (100.0,) * 6)
    for name, keys in _COCO_ROWS.items():
        rows.add(name, keys)
    rows.add_classes(("map", "map_50"))
    rows.add_attributes(HEADLINES["coco"])
    return table


def protocols_table(
    protocols: Iterable[str], result: Mapping[str, float], linkings: Sequence[str] = ()
) -> Table:
    """Return a table with the metrics of several protocols side by side, in percent.

    A dash means that there are no objects; a blank cell, that the protocol has no such metric.

    Args:
        protocols: Names of the protocols.
        result: The metrics by name.
        linkings: Names of the tubelet linkings in the result.
    """
    names = list(protocols)
    keys = [key for name in names for key in HEADLINES[name]]
    columns = [_COLUMNS[key] for key in keys]
    table = Table(title="Evaluation, percent", caption=_caption(names, result))
    table.add_column("", overflow="fold")  # long names wrap, numbers stay whole
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    rows = _Rows(table, result, linkings, [column.scale for column in columns])
    rows.add("all objects", keys)
    rows.add_classes([column.class_key for column in columns])
    rows.add_attributes(keys)
    return table


def _caption(protocols: Sequence[str], result: Mapping[str, float]) -> str | None:
    if "stability" not in protocols:
        return None
    return f"stability: scores from {result['stability/score_threshold']:g}"


@dataclass(frozen=True)
class _Rows:
    """Adds rows with metrics to a table.

    Args:
        table: The table, which has a column for names and a column for each factor in ``scales``.
        result: The metrics by name.
        linkings: Names of the tubelet linkings in the result.
        scales: The factor for the numbers of each column.
    """

    table: Table
    result: Mapping[str, float]
    linkings: Sequence[str]
    scales: Sequence[float]

    def add(self, label: str, keys: Sequence[str]) -> None:
        """Add a row with metrics, and below it a row for each tubelet linking.

        Args:
            label: Name of the row.
            keys: Name of the metric in each column; empty for a blank cell.
        """
        for linking in ("", *self.linkings):
            prefix = f"{linking}/" if linking else ""
            cells = [
                self._cell(key and prefix + key, scale)
                for key, scale in zip(keys, self.scales, strict=False)
            ]
            self.table.add_row(f"  + {linking}" if linking else Text(visible(label)), *cells)

    def _cell(self, key: str, scale: float) -> str:
        if not key:
            return ""
        return "-" if math.isnan(self.result[key]) else f"{scale * self.result[key]:.1f}"

    def add_classes(self, class_keys: Sequence[str]) -> None:
        """Add a section with a row per class.

        Args:
            class_keys: For each column, the metric whose values ``<metric>/<class>`` are shown;
                empty for blank cells.
        """
        self.table.add_section()
        names = [
            key.removeprefix(f"{class_key}/")
            for class_key in class_keys
            for key in self.result
            if class_key and key.startswith(f"{class_key}/")
        ]
        for name in dict.fromkeys(names):
            self.add(name, [key and f"{key}/{name}" for key in class_keys])

    def add_attributes(self, keys: Sequence[str]) -> None:
        """Add a section with a row per video attribute.

        Args:
            keys: For each column, the metric whose values ``<metric>@<attribute>`` are shown.
        """
        self.table.add_section()
        start = f"{keys[0]}@"
        for name in [key.removeprefix(start) for key in self.result if key.startswith(start)]:
            self.add(f"videos: {name}", [f"{key}@{name}" for key in keys])
