from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from inference.made_videos import encode, noise, picture, write_video
from vodet.errors import FrameError
from vodet.inference.sources import open_source


def test_video(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "a b.mp4"))
    assert (source.name, source.fps, source.length) == ("a b", Fraction(30000, 1001), 30)
    names, frames, times = zip(*source, strict=True)
    assert names == tuple(f"{number:06d}" for number in range(30))
    assert times == tuple(Fraction(number * 1001, 30000) for number in range(30))
    for number, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - picture(number * 4)).mean() < 5
    assert len(list(source)) == 30  # can be read again
    assert source.faults == []
    assert source.pixel_aspect == 1


@pytest.mark.parametrize(("codec", "suffix"), [("mp4v", "mp4"), ("XVID", "avi"), ("MJPG", "avi")])
def test_videos_of_another_program(tmp_path: Path, codec: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    written = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 3, (1920, 1080))
    for number in range(8):
        written.write(picture(number * 20, (1080, 1920))[..., ::-1])
    written.release()
    source = open_source(path)
    assert (source.fps, source.length) == (3, 8)
    frames = list(source)
    assert [frame.pixels.shape for frame in frames] == [(1080, 1920, 3)] * 8
    assert [frame.time for frame in frames] == [Fraction(number, 3) for number in range(8)]
    for number, frame in enumerate(frames):
        assert np.abs(frame.pixels.astype(int) - picture(number * 20, (1080, 1920))).mean() < 5
    assert source.faults == []


FORMATS = [
    ("a.ts", "mpeg2video"),
    ("a.mts", "libx264"),
    ("a.wmv", "wmv2"),
    ("a.flv", "flv"),
    ("a.3gp", "mpeg4"),
    ("a.gif", "gif"),
    ("a.h264", "libx264"),
    ("a.mkv", "libx264"),
    ("a.webm", "libvpx"),
    ("a.mpg", "mpeg1video"),
    ("a.mxf", "mpeg2video"),
    ("a.mov", "mjpeg"),
    ("a.avi", "mpeg4"),
]
"""With the codec of each."""


@pytest.mark.parametrize(("name", "codec"), FORMATS)
def test_formats(tmp_path: Path, name: str, codec: str) -> None:
    pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    frames = [picture(number * 20, (64, 96)) for number in range(8)]
    encode(tmp_path / name, frames, codec, pix_fmt=pix_fmt)
    (tmp_path / "beside.txt").write_text("")
    source = open_source(tmp_path)
    frames = list(source)
    assert len(frames) == 8
    assert np.abs(frames[3].pixels.astype(int) - picture(60, (64, 96))).mean() < 30
    assert source.fps
    assert source.faults == []


def with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44  # the 3 x 3 matrix of the track header, 16.16 fixed point
    a, b, c, d = (value << 16 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_turned_and_mirrored_frames(tmp_path: Path, turns: int, is_mirrored: bool) -> None:
    """A phone held upright writes lying frames and says by a matrix how to turn them."""
    shown = picture()
    shown[:16, :16] = 255
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5, width=48, height=32)
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode(None))
    a, b, c, d = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][turns]
    matrix = (-a, b, -c, d) if is_mirrored else (a, b, c, d)  # mirrored after the turn
    (frame,) = open_source(with_matrix(tmp_path / "a.mp4", matrix))
    expected = np.rot90(shown, -turns)
    expected = expected[:, ::-1] if is_mirrored else expected
    assert frame.pixels.shape == expected.shape
    assert np.abs(frame.pixels.astype(int) - expected).mean() < 5


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", [picture()], "libx264", sample_aspect_ratio=Fraction(16, 11))
    assert open_source(path).pixel_aspect == Fraction(16, 11)
    source = open_source(with_matrix(path, (0, 1, -1, 0)))
    assert source.pixel_aspect == Fraction(11, 16)
    assert [frame.pixels.shape for frame in source] == [(48, 32, 3)]


def test_times_of_a_variable_rate(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", [picture()] * 5, "libx264", times=[7, 8, 10, 30, 31])
    times = [frame.time for frame in open_source(path)]
    assert times == [Fraction(place, 25) for place in (0, 1, 3, 23, 24)]


def test_colours_are_those_of_the_source(tmp_path: Path) -> None:
    color = np.full((64, 96, 3), (200, 60, 40), np.uint8)
    for matrix, full in [(1, False), (5, False), (1, True), (6, True)]:
        path = tmp_path / f"{matrix}{full}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=5, width=96, height=64)
            stream.pix_fmt = "yuv420p"
            stream.codec_context.colorspace = matrix
            stream.codec_context.color_range = 2 if full else 1
            frame = av.VideoFrame.from_ndarray(color, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=matrix, dst_color_range=2 if full else 1
            )
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        (found,) = open_source(path)
        assert np.abs(found.pixels[5, 5].astype(int) - (200, 60, 40)).max() <= 3, path.name


def test_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"this is no video at all" * 100)
    with pytest.raises(FrameError, match=r"a\.mp4.*cannot be read: Invalid data"):
        open_source(tmp_path / "a.mp4")


def test_playlists_open_nothing(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.mp4", 3)
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    (tmp_path / "b.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"
    )
    for name in ("a.mp4", "b.m3u8"):
        with pytest.raises(FrameError, match=name):
            open_source(tmp_path / name)


def test_frames_of_an_impossible_size(tmp_path: Path) -> None:
    (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 W50000 H30000 F25:1 C420jpeg\nFRAME\n")
    with pytest.raises(FrameError, match=r"a\.y4m.*50000 x 30000|a\.y4m.*cannot be read"):
        open_source(tmp_path / "a.y4m")


def test_cover_pictures_are_no_videos(tmp_path: Path) -> None:
    cover = cv2.imencode(".jpg", picture())[1].tobytes()
    for name, codec in [("song.mka", "aac"), ("film.mkv", "libx264")]:
        with av.open(str(tmp_path / name), "w", format="matroska") as container:
            container.add_attachment("cover.jpg", "image/jpeg", cover)
            if codec == "aac":
                stream = container.add_stream(codec, rate=8000)
                samples = np.zeros((1, 1024), np.float32)
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.sample_rate = 8000
            else:
                stream = container.add_stream(codec, rate=5, width=96, height=64)
                frame = av.VideoFrame.from_ndarray(picture(9, (64, 96)), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    with pytest.raises(FrameError, match=r"song\.mka.*cover picture"):
        open_source(tmp_path / "song.mka")
    (frame,) = open_source(tmp_path / "film.mkv")
    assert frame.pixels.shape == (64, 96, 3)


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * share)])
    return path


def test_an_mp4_that_is_cut_short(tmp_path: Path) -> None:
    options = {"movflags": "+faststart"}
    source = open_source(
        cut(encode(tmp_path / "a.mp4", noise(40), "libx264", options=options), 0.5)
    )
    count = len(list(source))
    assert 15 < count < 25
    assert any(
        "a.mp4" in fault and "40" in fault and str(count) in fault for fault in source.faults
    )
    assert len(list(source)) == count
    assert len(source.faults) == len(set(source.faults))  # of one reading, not of two


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.flv", "flv")],
)
def test_other_files_that_are_cut_short(tmp_path: Path, name: str, codec: str) -> None:
    source = open_source(cut(encode(tmp_path / name, noise(80), codec), 0.5))
    count = len(list(source))
    assert 20 < count < 50
    assert any(name in fault and "3.2" in fault for fault in source.faults)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi", "a.flv"])
@pytest.mark.parametrize("seconds", [1, 20])
def test_slow_videos_are_not_cut_short(tmp_path: Path, name: str, seconds: int) -> None:
    codec = {"a.avi": "mpeg4", "a.flv": "flv"}.get(name, "libx264")
    path = encode(tmp_path / name, noise(4), codec, time_base=Fraction(seconds))
    source = open_source(path)
    times = [frame.time for frame in source]
    assert times == [0, seconds, 2 * seconds, 3 * seconds]
    assert source.faults == []


def test_frames_left_out_by_an_edit_list_are_no_loss(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "a.mp4",
        noise(10),
        "libx264",
        times=list(range(-4, 6)),
        options={"avoid_negative_ts": "disabled", "use_editlist": "1"},
    )
    source = open_source(path)
    assert source.length == 10
    assert len(list(source)) == 6
    assert source.faults == []


def damage(path: Path, number: int) -> Path:
    """Overwrite a packet of a video."""
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    path.write_bytes(content.replace(packets[number], bytes(len(packets[number]))))
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mjpeg")]
)
@pytest.mark.parametrize("number", [5, 18, 19])
def test_a_damaged_packet(tmp_path: Path, name: str, codec: str, number: int) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = encode(tmp_path / name, noise(20), codec, pix_fmt=pix_fmt)
    whole = [frame.pixels for frame in open_source(path)]
    source = open_source(damage(path, number))
    found = [frame.pixels for frame in source]
    expected = whole[:number] + whole[number + 1 :]
    assert len(found) == len(expected)
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    assert any(name in fault and f"after {number} frames" in fault for fault in source.faults)


def test_a_packet_that_is_damaged_in_part(tmp_path: Path) -> None:
    """Its frame is decoded as far as possible."""
    path = encode(tmp_path / "a.avi", noise(20), "mpeg4")
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0)][12]
    start, end = len(packet) // 3, len(packet) // 2
    torn = packet[:start] + bytes(end - start) + packet[end:]
    path.write_bytes(path.read_bytes().replace(packet, torn))
    source = open_source(path)
    assert len(list(source)) == 20
    (fault,) = source.faults
    assert "a.avi" in fault
    assert fault.endswith("damaged parts: 1.")


def test_nothing_can_be_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30)
    content = path.read_bytes()
    start = content.index(b"mdat") + 4
    path.write_bytes(content[:start] + b"\xff" * (len(content) - start))
    with pytest.raises(FrameError, match=r"a\.mp4.*no frame that can be decoded"):
        list(open_source(path))
