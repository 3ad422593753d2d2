from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vodet.errors import ConfigError
from vodet.inference.drawing import draw
from vodet.inference.predicted_frame import PredictedFrame
from vodet.structures import Detections

NAMES = ("car", "dog", "行人")


def frame(count: int = 2, index: int = 7) -> PredictedFrame:
    return PredictedFrame(
        image=np.full((80, 120, 3), 90, np.uint8),
        detections=Detections(
            boxes=torch.tensor([[10.0, 20, 40, 60], [0.5, 1, 2, 4]])[:count],
            scores=torch.tensor([0.75, 0.5])[:count],
            labels=torch.tensor([2, 0])[:count],
        ),
        index=index,
        time=0.25,
        video="street",
        name="000007",
        class_names=NAMES,
    )


def test_text() -> None:
    text = "video='street', index=7, time=0.250, detections=[行人 0.75, car 0.50]"
    assert repr(frame()) == f"PredictedFrame({text})"


def test_plot() -> None:
    plotted = frame().plot()
    assert (plotted == draw(frame().image, frame().detections, NAMES)).all()
    assert (plotted != 90).any()
    assert (frame(0).plot() == 90).all()


def test_coco() -> None:
    boxes = ([10, 20, 30, 40], [0.5, 1, 1.5, 3])
    first, second = frame().to_coco()
    assert first == {"image_id": 7, "category_id": 2, "bbox": boxes[0], "score": 0.75}
    assert second == {"image_id": 7, "category_id": 0, "bbox": boxes[1], "score": 0.5}
    mapped = frame().to_coco(image_id=0, category_ids={"car": 3, "行人": 1})
    assert [(entry["image_id"], entry["category_id"]) for entry in mapped] == [(0, 1), (0, 3)]
    assert frame(0).to_coco() == []
    with pytest.raises(ConfigError, match=r"category_ids: .*found none of 行人"):
        frame().to_coco(category_ids={"car": 3})


def test_supervision() -> None:
    found = frame().to_supervision()
    assert found.xyxy.tolist() == [[10, 20, 40, 60], [0.5, 1, 2, 4]]
    assert found.confidence.tolist() == [0.75, 0.5]
    assert found.class_id.tolist() == [2, 0]
    assert found.data["class_name"].tolist() == ["行人", "car"]
    assert found.tracker_id is None
    assert found[found.confidence > 0.6].data["class_name"].tolist() == ["行人"]
    nothing = frame(0).to_supervision()
    assert len(nothing) == 0
    assert len(type(found).merge([nothing, found])) == 2
    tracked = frame()
    tracked.detections["track_ids"] = torch.tensor([4, 9])
    assert tracked.to_supervision().tracker_id.tolist() == [4, 9]


def test_pandas() -> None:
    import pandas  # not above: other tests import this module without it

    table = pandas.concat([item.to_pandas() for item in (frame(0, 6), frame())], ignore_index=True)
    assert table.to_dict("list") == {
        "video": ["street"] * 2,
        "frame": [7, 7],
        "time": [0.25, 0.25],
        "x1": [10, 0.5],
        "y1": [20, 1],
        "x2": [40, 2],
        "y2": [60, 4],
        "score": [0.75, 0.5],
        "label": [2, 0],
        "class_name": ["行人", "car"],
    }
    assert list(frame(0).to_pandas().columns) == list(table.columns)


@pytest.mark.parametrize("package", ["supervision", "pandas"])
def test_a_package_that_is_missing_is_named(package: str, tmp_path: Path) -> None:
    (tmp_path / f"{package}.py").write_text("raise ImportError('not here')")
    code = f"from inference.test_predicted_frame import frame; frame().to_{package}()"
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert "ConfigError" in ended.stderr
    for text in (f"needs the package {package}", f"pip install {package}", "'vodet[video]'"):
        assert text in ended.stderr.splitlines()[-1]
