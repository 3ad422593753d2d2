from __future__ import annotations

from pathlib import Path

from evaluation.report.made import made_data, noisy_run
from vodet.evaluation.report.analysis import Analysis
from vodet.evaluation.report.events import find_events
from vodet.evaluation.report.gallery import Gallery


def test_pictures_stop_at_the_limit(tmp_path: Path) -> None:
    data = made_data(tmp_path / "set")
    analysis = Analysis(data.ground_truth, noisy_run(data, "run"), 0.3)
    events = [event for group in find_events([analysis]) for event in group.events]
    gallery = Gallery(data, [analysis], limit=1)
    first, second = (gallery.item(event, [0]) for event in events[:2])
    assert first.mp4
    assert first.strip
    assert (second.mp4, second.strip) == ("", [])
    assert second.event is events[1]


def test_frames_around_an_event(tmp_path: Path) -> None:
    data = made_data(tmp_path / "set", frames=60, video_names=["long"], tracks=1)
    run = noisy_run(data, "run", found=1)
    late = run.predictions[run.predictions.image_ids < 50]
    analysis = Analysis(data.ground_truth, type(run)("run", late, run.result), 0.0)
    misses = find_events([analysis])[0]
    item = Gallery(data, [analysis]).item(misses.events[0], [0])
    assert item.numbers == (50, 59)
    numbers = [picture.number for picture in item.strip]
    assert numbers[0] == 48
    assert numbers[-1] == 59
    assert len(numbers) == 6
    assert [picture.is_concerned for picture in item.strip] == [n >= 50 for n in numbers]
    assert item.strip[0].seconds == (48 - 44 + 0.5) / 8  # the video starts 6 frames earlier
