from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from inference.made_videos import picture, write_image, write_video
from vodet.errors import FrameError
from vodet.inference.sources import find_videos, open_source


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for name, value in [("f10.png", 100), ("f2.png", 20), ("f1.PNG", 10)]:
        write_image(tmp_path / "clip" / name, picture(value))
    (tmp_path / "clip" / "notes.txt").write_text("no image")
    (tmp_path / "clip" / "._f3.png").write_text("left behind by a file system")
    source = open_source(str(tmp_path / "clip"))
    assert (source.name, source.fps, source.length) == ("clip", None, 3)
    frames = list(source)
    assert [frame.name for frame in frames] == ["f1.PNG", "f2.png", "f10.png"]
    assert [frame.pixels[0, 0, 1] for frame in frames] == [10, 20, 100]
    assert (frames[0].pixels == picture(10)).all()


def test_glob_and_single_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/2.png", "a/10.png", "b/1.png"):
        write_image(tmp_path / name, picture())
    (tmp_path / "b" / "1.txt").write_text("")
    for found, names in [("a/1*.png", ["10.png"]), ("a/2.png", ["2.png"])]:
        assert [frame.name for frame in open_source(tmp_path / found)] == names
    monkeypatch.chdir(tmp_path)
    assert [frame.name for frame in open_source("a/*.png")] == ["2.png", "10.png"]


def test_the_images_of_each_folder_are_a_video(tmp_path: Path) -> None:
    for name in ("1/left/2.png", "1/left/10.png", "2/left/1.png", "2/right/1.png"):
        write_image(tmp_path / name, picture())
    videos = find_videos(tmp_path / "*" / "*" / "*")
    assert [video.name for video in videos] == ["1_left", "2_left", "right"]
    assert [len(list(video.open())) for video in videos] == [2, 1, 1]
    with pytest.raises(FrameError, match="found 3"):
        open_source(tmp_path / "*" / "*" / "*")


def test_a_folder_of_videos_is_several(tmp_path: Path) -> None:
    for name in ("b2.mp4", "b10.MP4", "a.mp4", "c.ts"):
        (tmp_path / name).write_text("")
    (tmp_path / "._a.mp4").write_text("left behind by a file system")
    (tmp_path / "notes.txt").write_text("")
    assert [video.name for video in find_videos(tmp_path)] == ["a", "b2", "b10", "c"]
    assert [video.name for video in find_videos(tmp_path / "*.mp4")] == ["a", "b2"]
    assert [video.name for video in find_videos(tmp_path / "a.mp4")] == ["a"]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["cam1/video.mp4", "cam2/video.mp4"], ["cam1_video", "cam2_video"]),
        (["cam1/video.mp4", "cam2/Video.mp4", "cam2/x.mp4"], ["cam1_video", "cam2_Video", "x"]),
        (["a/b/v.mp4", "a/c/v.mp4"], ["a_b_v", "a_c_v"]),
        (["a/v.mkv", "a/v.mp4"], ["a_v.mkv", "a_v.mp4"]),
        (["a/b.mp4", "c/a_b.mp4", "c/b.mp4"], ["a_b", "a_b-2", "c_b"]),
    ],
)
def test_videos_have_names_of_their_own(tmp_path: Path, files: list[str], names: list[str]) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    assert [video.name for video in find_videos(tmp_path / "**" / "*.m*")] == names


def test_names_with_glob_characters_that_exist(tmp_path: Path) -> None:
    assert open_source(write_video(tmp_path / "clip[1].mp4", 2)).length == 2


def test_videos_beside_images(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "thumb.jpg"):
        (tmp_path / name).write_text("")
    for source in (tmp_path, tmp_path / "*"):
        with pytest.raises(FrameError, match=r"2, such as a\.mp4.*1, such as thumb.*/\*\.mp4"):
            find_videos(source)


def test_nothing_there(tmp_path: Path) -> None:
    for missing in ("none.mp4", "none/*.png", "none/*/x", "."):
        with pytest.raises(FrameError, match=r"found nothing at .*"):
            find_videos(tmp_path / missing)
    with pytest.raises(FrameError, match="an empty path"):
        find_videos("")
    (tmp_path / "a.xyz").write_text("")
    with pytest.raises(FrameError, match=r"\.jpg.*\.mp4.*1, such as a\.xyz"):
        find_videos(tmp_path)


def special_files(folder: Path) -> list[Path]:
    os.mkfifo(folder / "pipe.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "gone.mp4").symlink_to("nowhere.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "device.mp4").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.mp4"))
    return sorted(folder.iterdir())


@pytest.mark.timeout(30)
def test_special_files_among_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    specials = special_files(Path())
    assert len(specials) == 6
    videos = find_videos(tmp_path)
    assert [video.paths[0].name for video in videos] == [path.name for path in specials]
    for video in videos:
        with pytest.raises(FrameError, match=video.paths[0].name):
            video.open()
        if video.name != "folder":
            with pytest.raises(FrameError, match=video.paths[0].name):
                open_source(video.paths[0])


@pytest.mark.timeout(30)
def test_special_files_among_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in special_files(Path()):
        with pytest.raises(FrameError, match=path.stem):
            list(open_source(path.rename(path.with_suffix(".png"))))
