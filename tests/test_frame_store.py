from __future__ import annotations

import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vodet.encodings import EncodedFrames, FeatureMaps
from vodet.errors import DataError, OutputError
from vodet.frame_store import FrameStore, write_frames


def frames(count: int, seed: int = 0) -> EncodedFrames:
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.rand(count, 3, side, 2 * side, generator=generator) for side in (8, 4, 2)]
    maps[0] = maps[0].to(memory_format=torch.channels_last)
    extras = {
        "head.boxes": torch.rand(count, 5, 4, generator=generator),
        "head.is_valid": torch.rand(count, 5, generator=generator) > 0.5,
        "head.rows": torch.randint(99, (count, 5), generator=generator),
        "head.half/of it": torch.rand(count, 2, 3, generator=generator).bfloat16(),
        "head.score": torch.rand(count, generator=generator),
    }
    return EncodedFrames(FeatureMaps(tuple(maps)), torch.full((count, 2), 64), extras)


def write(folder: Path, *chunks: EncodedFrames, **options: Any) -> list[int]:
    """Write a store; return the sizes that were announced."""
    sizes: list[int] = []
    settings: dict[str, Any] = {"frames": sum(map(len, chunks)), "levels": 2, "about": {"a": 1}}
    write_frames(folder, chunks, **settings | options, announce=sizes.append)
    return sizes


def test_frames_are_read_as_they_were_written(tmp_path: Path) -> None:
    chunks = [frames(3, seed=0), frames(2, seed=1)]
    (size,) = write(tmp_path / "store", *chunks)
    files = [path for path in (tmp_path / "store").iterdir() if path.name != "frames.json"]
    assert sum(path.stat().st_size for path in files) == size
    store = FrameStore(tmp_path / "store")
    assert len(store) == 5
    found = store.read(torch.tensor([4, 0, 4]))
    for (number, read), first, second in zip(
        enumerate(found.tensors()), *(chunk.tensors() for chunk in chunks), strict=True
    ):
        expected = torch.stack([second[1], first[0], second[1]])
        assert read.dtype == expected.dtype
        if number == 2:  # of the third level, only the shape is stored
            assert read.shape == expected.shape
        else:
            assert torch.equal(read, expected)
    assert list(found.extras) == list(chunks[0].extras)
    assert found.maps.levels[0].is_contiguous(memory_format=torch.channels_last)


def test_a_copy_does_not_change_the_store(tmp_path: Path) -> None:
    write(tmp_path / "store", frames(2))
    FrameStore(tmp_path / "store").read(torch.tensor([0])).maps.levels[0].zero_()
    again = FrameStore(tmp_path / "store").read(torch.tensor([0]))
    assert torch.equal(again.maps.levels[0], frames(2).maps.levels[0][:1])


def test_a_store_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    count = free // 500
    with pytest.raises(OutputError) as caught:
        write(tmp_path / "store", frames(1), frames=count)
    needed, found = re.findall(r"([\d,.]+) GB", str(caught.value))
    assert float(needed.replace(",", "")) > float(found.replace(",", ""))
    assert float(found.replace(",", "")) == pytest.approx(free / 1e9, rel=0.1)
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match=str(tmp_path / "store" / "maps.0")):
            write(tmp_path / "store", frames(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_process_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Iterator[EncodedFrames]:
        yield frames(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_frames(tmp_path / "store", chunks(), 4, 3, {}, lambda size: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (lambda folder: (folder / "frames.json").unlink(), "No such file"),
        (lambda folder: (folder / "frames.json").write_text("{"), "truncated"),
        (lambda folder: (folder / "frames.json").write_text('{"frames": "x"}'), "int"),
        (lambda folder: replace_in(folder, '"bool"', '"float32"'), "expected 40 bytes"),
        (lambda folder: replace_in(folder, '"bool"', '"nn"'), "itemsize"),
        (lambda folder: replace_in(folder, '"frames": 2', '"frames": 3'), "for 3 frames"),
        (lambda folder: (folder / "head.boxes").unlink(), "head.boxes"),
        (lambda folder: (folder / "maps.0").write_bytes(b""), "found 0"),
    ],
)
def test_damage_is_reported(damage: Any, fact: str, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write(folder, frames(2))
    damage(folder)
    with pytest.raises(DataError) as caught:
        FrameStore(folder)
    assert fact in str(caught.value)
    assert str(folder) in str(caught.value)


def replace_in(folder: Path, old: str, new: str) -> None:
    text = (folder / "frames.json").read_text()
    assert old in text
    (folder / "frames.json").write_text(text.replace(old, new))
