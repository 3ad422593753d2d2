"""Finds the videos at a path: a file, a folder or a glob."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vodet.errors import FrameError
from vodet.inference.reading import FrameSource, open_images
from vodet.inference.video_file import open_video
from vodet.names import file_names

_IMAGE = re.compile(r"\.(bmp|jpe?g|png|tiff?|webp)", re.IGNORECASE)
# Selects the videos in folders and globs, which may also contain other files. A source that is a
# single file may have any suffix, as FFmpeg detects its format from the content.
_VIDEO = re.compile(
    r"\.(26[45]|3g2|3gp|amv|asf|avi|divx|dv|f4v|flv|gif|h26[45]|hevc|ivf|m[124]v|m2ts?|mj2|mjpe?g|"
    r"mkv|mov|mp4|mpe?g?|mpv|mts|mxf|nut|obu|og[mv]|qt|rm|rmvb|tod|ts|vob|webm|wmv|wtv|y4m)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class VideoFiles:
    """The files of one video.

    Args:
        name: Name of the video and of its output files; valid as a file name.
        paths: One video file, or images in the order of the frames.
    """

    name: str
    paths: tuple[Path, ...]

    def open(self) -> FrameSource:
        """Open the video.

        Raises:
            FrameError: If FFmpeg cannot open the video file. Errors in images, damaged frames and
                different frame sizes are only detected when the frames are read.
        """
        if _IMAGE.fullmatch(self.paths[0].suffix):
            return open_images(self.name, self.paths)
        return open_video(self.name, self.paths[0])


def is_image(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is an existing file, and its suffix that of an image."""
    return bool(_IMAGE.fullmatch(Path(path).suffix)) and Path(path).is_file()


def open_source(source: str | Path) -> FrameSource:
    """Open the video at a path where there is exactly one video.

    Args:
        source: A file, folder or glob, as for `find_videos`.

    Raises:
        FrameError: If there is no video or more than one, or the video cannot be opened.
    """
    videos = find_videos(source)
    if len(videos) > 1:
        msg = f"Expected one video at {source}, found {len(videos)}. Give the path of one of them."
        raise FrameError(msg)
    return videos[0].open()


def find_videos(source: str | os.PathLike[str]) -> list[VideoFiles]:
    """Find the videos at a path: a video file, a folder of videos or images, or a glob.

    All images in the same folder are the frames of one video. Files are sorted in natural order,
    2.jpg before 10.jpg. Hidden files are left out. The names of the videos differ by more than
    upper and lower case.

    Raises:
        FrameError: If there are neither videos nor images, or both.
    """
    path = Path(source)
    if not str(source):  # `Path("")` is the current folder
        raise FrameError(_nothing("an empty path", ()))
    if os.path.lexists(path) and not path.is_dir():
        return [VideoFiles(file_names([path.stem])[0], (path,))]
    folder, files = _listed(path)
    images = [file for file in files if _IMAGE.fullmatch(file.suffix)]
    videos = [file for file in files if _VIDEO.fullmatch(file.suffix)]
    if images and videos:
        msg = (
            f"Expected only videos or only images at {source}, found both: videos "
            f"({len(videos)}, such as {videos[0].name}) and images ({len(images)}, such as "
            f"{images[0].name}). Choose with a glob: 'source={folder}/*{videos[0].suffix}' or "
            f"'source={folder}/*{images[0].suffix}'."
        )
        raise FrameError(msg)
    if not images and not videos:
        raise FrameError(_nothing(source, files))
    return _of_folders(images, folder) if images else _of_files(videos, folder)


def _of_files(videos: Sequence[Path], folder: Path) -> list[VideoFiles]:
    paths = [video.relative_to(folder) for video in videos]
    names = _distinct(
        [path.stem for path in paths],
        [str(path.with_suffix("")) for path in paths],
        [str(path) for path in paths],
    )
    return [VideoFiles(name, (video,)) for name, video in zip(names, videos, strict=True)]


def _of_folders(images: Sequence[Path], folder: Path) -> list[VideoFiles]:
    groups = defaultdict(list)
    for image in images:
        groups[image.parent].append(image)
    names = _distinct(
        [parent.resolve().name for parent in groups],
        [str(parent.relative_to(folder)) for parent in groups],
    )
    return [
        VideoFiles(name, tuple(group)) for name, group in zip(names, groups.values(), strict=True)
    ]


def _distinct(*levels: Sequence[str]) -> list[str]:
    """Return a distinct name for each video, valid as a file name.

    Args:
        levels: The possible names of all videos: first the shortest names, then longer ones. Each
            video gets its first name that no other video has.
    """
    counts = [Counter(map(str.casefold, level)) for level in levels]
    return file_names(
        next((n for n, c in zip(names, counts, strict=True) if c[n.casefold()] == 1), names[-1])
        for names in zip(*levels, strict=True)
    )


def _listed(path: Path) -> tuple[Path, list[Path]]:
    """Return the folder that a path or glob refers to, and its files in natural order.

    The folder of a glob is the part of its path before the first wildcard.
    """
    folder = path
    while not folder.is_dir() and set("*?[") & set(str(folder)):
        folder = folder.parent
    try:
        if path.is_dir():
            files = list(path.iterdir())
        else:
            files = list(folder.glob(str(path.relative_to(folder)))) if folder != path else []
    except (OSError, ValueError) as error:
        msg = f"Expected a readable folder at {folder}, found: {error}."
        raise FrameError(msg) from error
    shown = [file for file in files if not file.name.startswith(".")]
    return folder, sorted(shown, key=_natural)


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", str(path))
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], str(path)


def _nothing(source: str | os.PathLike[str], files: Sequence[Path]) -> str:
    if not files:
        return (
            f"Expected a video, a folder of images or videos, or a glob; found nothing at {source}."
        )
    return (
        f"Expected images such as .jpg or videos such as .mp4 at {source}, found "
        f"only other files ({len(files)}, such as {files[0].name}). To open a video with another "
        "suffix, give the path of the file itself."
    )
