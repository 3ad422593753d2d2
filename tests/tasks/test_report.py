from __future__ import annotations

import json
from pathlib import Path

from vodet.tasks.report import draw_curves, json_text, read_curves


def test_curves_of_a_resumed_training(tmp_path: Path) -> None:
    first, resumed = tmp_path / "0.csv", tmp_path / "1.csv"
    first.write_text("epoch,step,train/loss,val/map\n0,9,3.0,\n0,12,,0.25\n1,19,2.0,\n1,29,9.0,\n")
    resumed.write_text("epoch,step,train/loss,val/map,lr\n1,19,1.5,,\n1,25,,0.5,\n1,29,1.0,,0.1\n")

    assert read_curves([first, resumed]) == {
        "epoch": [(9, 0), (12, 0), (19, 1), (25, 1), (29, 1)],
        "train/loss": [(9, 3.0), (19, 1.5), (29, 1.0)],
        "val/map": [(12, 0.25), (25, 0.5)],
        "lr": [(29, 0.1)],
    }


def test_no_log_is_no_curve() -> None:
    assert read_curves([]) == {}


def test_what_is_not_a_number_is_null() -> None:
    values = {"a": float("nan"), "last": {"b": float("inf"), "c": 0.5}, "steps": 3}
    text = json_text(values)
    assert json.loads(text) == {"a": None, "last": {"b": None, "c": 0.5}, "steps": 3}
    assert text.endswith("}\n")


def test_loss_is_drawn_left_and_ap_right() -> None:
    curves = {"train/loss": [(0, 2.0), (10, 1.0)], "val/map": [(10, 0.5)], "lr": [(0, 0.1)]}
    left, right = draw_curves(curves).axes
    assert [line.get_label() for line in left.lines] == ["train/loss"]
    assert left.lines[0].get_xydata().tolist() == [[0, 2], [10, 1]]
    assert [line.get_label() for line in right.lines] == ["val/map"]
    assert (left.get_yscale(), right.get_ylim()) == ("log", (0, 1))
