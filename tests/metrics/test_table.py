from __future__ import annotations

import io
import math
from collections import defaultdict

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from metrics.tracked import moving_objects, noisy_detections
from vodet.metrics.protocols import HEADLINES, choose_protocols, measure_all
from vodet.metrics.table import coco_table, protocols_table


def text_of(table: Table) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def rows_of(table: Table) -> list[list[str]]:
    """Label and cells of each row."""
    lines = [line.split("│")[1:-1] for line in text_of(table).splitlines()]
    return [[cell.strip() for cell in line] for line in lines if line]


def test_rows_by_size_and_by_class() -> None:
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
    names += ("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large")
    result = {name: position / 100 for position, name in enumerate(names)}
    result |= {"map_small": math.nan, "mar_small": math.nan}
    result |= {
        "map/[/red]\x1b[31m:car:/x": 0.4123,
        "map_50/[/red]\x1b[31m:car:/x": 1.0,
        "map/b": math.nan,
        "map_50/b": math.nan,
    }
    table = coco_table(result)
    rows = rows_of(table)
    assert rows[0] == ["all objects", "0.0", "1.0", "2.0", "6.0", "7.0", "8.0"]
    assert rows[1] == ["small", "-", "", "", "", "", "-"]
    assert rows[3] == ["large", "5.0", "", "", "", "", "11.0"]
    assert rows[4:] == [
        [r"[/red]\x1b[31m:car:/x", "41.2", "100.0", "", "", "", ""],
        ["b", "-", "-", "", "", "", ""],
    ]
    assert "COCO AP" in text_of(table)
    by_video = {"map@[b]night": 0.5, "map_50@[b]night": 0.6, "map_75@[b]night": 0.4}
    by_video |= {f"seq_nms/{key}": value / 2 for key, value in (result | by_video).items()}
    both = rows_of(coco_table(result | by_video, ["seq_nms"]))
    assert both[0::2] == [*rows, ["videos: [b]night", "50.0", "60.0", "40.0", "", "", ""]]
    assert {row[0] for row in both[1::2]} == {"+ seq_nms"}
    assert both[7][1::5] == ["2.5", "5.5"]
    assert both[9][1:3] == ["20.6", "50.0"]
    assert both[13][1:4] == ["25.0", "30.0", "20.0"]


def test_protocols_side_by_side_with_their_linked_numbers_below() -> None:
    rng = np.random.default_rng(0)
    truth = moving_objects(rng, videos=4, attributes={"night": [0, 2], "[fog]": [1]})
    protocols = choose_protocols(HEADLINES)
    result = measure_all(protocols, truth, noisy_detections(rng, truth))
    linked = measure_all(protocols, truth, noisy_detections(rng, truth))
    result |= {f"max/{key}": value for key, value in linked.items()}
    table = protocols_table(HEADLINES, result, ["max"])
    titles = [" ".join(str(column.header).split()) for column in table.columns]
    wanted = ["COCO AP50 fast motion", "VID AP50 long track", "UAVDT AP70 vehicle", "score change"]
    assert {"COCO AP", "VID AP50", *wanted} < set(titles)
    assert len(set(titles)) == len(titles)
    assert "scores from 0.3" in text_of(table)
    rows = [row for row in rows_of(table) if any(cell[-1:].isdigit() for cell in row[1:])]
    labels = [row[0] for row in rows]
    assert labels[0::2] == [
        "all objects",
        *(f"class {label}" for label in range(2)),
        "videos: night",
        "videos: [fog]",
    ]
    assert set(labels[1::2]) == {"+ max"}
    keys = [key for protocol in HEADLINES for key in HEADLINES[protocol]]
    for position, suffix in ((0, ""), (6, "@night"), (8, "@[fog]")):
        for row, prefix in ((position, ""), (position + 1, "max/")):
            values = [result[prefix + key + suffix] for key in keys]
            scales = [1 if key == "stability/drop_outs" else 100 for key in keys]
            assert rows[row][1:] == [
                "-" if math.isnan(value) else f"{scale * value:.1f}"
                for value, scale in zip(values, scales, strict=True)
            ]
    by_class = dict(zip(keys, rows[4][1:], strict=True))
    assert by_class["vid/ap_50"] == f"{100 * result['vid/ap_50/class 1']:.1f}"
    assert by_class["uavdt/map_70"] == f"{100 * result['uavdt/ap_70/class 1']:.1f}"
    assert by_class["uavdt/ap_70"] == by_class["map_75"] == by_class["stability/found"] == ""
    unknown = next(row for row in rows_of(table) if row[0] == "class 2")  # has no objects
    assert unknown[1] == "-"


@pytest.mark.parametrize("protocol", [name for name in HEADLINES if name != "stability"])
def test_in_80_columns_long_names_wrap_and_numbers_stay_whole(protocol: str) -> None:
    name = "a_class_of_vehicles_with_a_name_that_is_long"
    by_class = ("map", "map_50", "vid/ap_50", "motion/ap_50_slow", "uavdt/ap_70")
    result = defaultdict(lambda: 0.5, {f"{key}/{name}": 1.0 for key in by_class})
    result[f"{HEADLINES[protocol][0]}@{name}"] = 1.0
    console = Console(file=io.StringIO(), width=80)
    console.print(protocols_table([protocol], result))
    text = console.file.getvalue()
    assert "…" not in text
    first = "".join(line.split("│")[1].strip() for line in text.splitlines() if "│" in line)
    assert name in first
    assert text.count("50.0") >= len(HEADLINES[protocol])
