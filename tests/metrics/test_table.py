from __future__ import annotations

import math

from rich.console import Console

from vodet.metrics.table import coco_table


def test_rows_by_size_and_by_class() -> None:
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
    names += ("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large")
    result = {name: position / 100 for position, name in enumerate(names)}
    result |= {"map_small": math.nan, "mar_small": math.nan}
    result |= {
        "map/[red]/x": 0.4123,
        "map_50/[red]/x": 1.0,
        "map/b": math.nan,
        "map_50/b": math.nan,
    }
    console = Console(width=100)
    with console.capture() as capture:
        console.print(coco_table(result))
    lines = [line.replace("│", " ").split() for line in capture.get().splitlines()]
    assert ["all", "objects", "0.0", "1.0", "2.0", "6.0", "7.0", "8.0"] in lines
    assert ["small", "-", "-"] in lines
    assert ["large", "5.0", "11.0"] in lines
    assert ["[red]/x", "41.2", "100.0"] in lines
    assert ["b", "-", "-"] in lines
    assert "COCO AP" in capture.get()
