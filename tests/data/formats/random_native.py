"""Random annotations in the native formats at their real sizes, with what is to be read of them.

Each function writes a data set below a folder and returns, by video and frame number, the boxes in
the order of the files: class, ``(left, top, width, height)`` inside the image, identity, and
whether it is an ignore region.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

Row = tuple[str, tuple[float, ...], str | None, int]
Frames = dict[tuple[str, int], list[Row]]


def inside(box: tuple[float, ...], height: int, width: int) -> tuple[float, ...] | None:
    """A box ``xyxy`` clipped to the image, as ``xywh``; None if nothing is left."""
    left, right = max(box[0], 0), min(box[2], width)
    top, bottom = max(box[1], 0), min(box[3], height)
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def write_images(paths: list[Path], height: int, width: int) -> None:
    """Write a black image and hard links to it."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = paths
    first.write_bytes(cv2.imencode(first.suffix, np.zeros((height, width), np.uint8))[1].tobytes())
    for path in others:
        os.link(first, path)


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def mot(root: Path, rng: np.random.Generator, name: str = "MOT17-04-FRCNN") -> Frames:
    height, width, length = 1080, 1920, 9
    frames: Frames = {(name, frame): [] for frame in range(1, length + 1)}
    lines = []
    for track in range(1, 50):  # all frames of a target come together
        kind = int(rng.choice([1, 1, 1, 1, 2, 3, 7, 8, 9, 11, 12, 13]))
        for frame in range(1, length + 1):
            left, top = (int(rng.integers(-60, side)) for side in (width, height))
            box_width, box_height = (int(side) for side in rng.integers(1, 300, 2))
            is_considered = int(rng.random() < 0.9)
            box = inside((left, top, left + box_width, top + box_height), height, width)
            lines.append(
                f"{frame},{track},{left},{top},{box_width},{box_height},{is_considered},{kind},"
                f"{rng.random():.5f}"
            )
            if box is not None and kind in (1, 2, 7, 8, 12, 13):
                is_ignored = int(kind != 1 or not is_considered)
                frames[name, frame].append(("pedestrian", box, str(track), is_ignored))
    folder = root / name
    write_lines(folder / "gt/gt.txt", lines)
    write_lines(
        folder / "seqinfo.ini",
        [
            *("[Sequence]", f"name={name}", "imDir=img1", "frameRate=30", f"seqLength={length}"),
            *(f"imWidth={width}", f"imHeight={height}", "imExt=.jpg"),
        ],
    )
    paths = [folder / f"img1/{frame:06d}.jpg" for frame in range(1, length + 1)]
    write_images(paths, height, width)
    return frames


def kitti_tracking(root: Path, rng: np.random.Generator, name: str = "0001") -> Frames:
    height, width, length = 375, 1242, 6
    types = ["Car", "Van", "Truck", "Pedestrian", "Person", "Cyclist", "Tram", "Misc"]
    classes = [kind.lower() for kind in types]
    classes[classes.index("person")] = "person_sitting"
    frames: Frames = {(name, frame): [] for frame in range(length)}
    lines = []
    for frame in range(length):
        for track in range(12):
            left, top = rng.uniform(-20, width - 30), rng.uniform(-20, height - 30)
            corners = (left, top, left + rng.uniform(30, 90), top + rng.uniform(30, 60))
            box = inside(tuple(round(corner, 6) for corner in corners), height, width)
            kind = int(rng.integers(-1, len(types)))
            numbers = " ".join(f"{corner:.6f}" for corner in corners)
            given = f"{track} {types[kind]} 0 {rng.integers(0, 4)}"
            given = "-1 DontCare -1 -1" if kind < 0 else given
            lines.append(f"{frame} {given} -1.793451 {numbers} 1.5 1.6 3.7 2.9 1.5 13.1 -1.57")
            if kind < 0:
                frames[name, frame] += [(label, box, None, 1) for label in classes]
            else:
                frames[name, frame].append((classes[kind], box, str(track), 0))
    write_lines(root / f"label_02/{name}.txt", lines)
    paths = [root / f"training/image_02/{name}/{frame:06d}.png" for frame in range(length)]
    write_images(paths, height, width)
    return frames


def kitti_mots(root: Path, rng: np.random.Generator, name: str = "0001") -> Frames:
    """Ellipses that hide each other, in both forms of masks; boxes are counted pixel by pixel."""
    height, width, length = 375, 1242, 3
    frames: Frames = {(name, frame): [] for frame in range(length)}
    lines = []
    for frame in range(length):
        ids = np.zeros((height, width), np.uint16)
        for number in (10000, *range(1000, 1006), *range(2000, 2004)):
            drawn = np.zeros((height, width), np.uint8)
            center = (int(rng.integers(0, width)), int(rng.integers(0, height)))
            axes = (int(rng.integers(5, 90)), int(rng.integers(5, 60)))
            cv2.ellipse(drawn, center, axes, float(rng.integers(0, 180)), 0, 360, 1, -1)
            ids[drawn == 1] = number
        path = root / f"instances/{name}/{frame:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", ids)[1].tobytes())
        for number in (int(number) for number in np.unique(ids) if number):
            rows, columns = np.nonzero(ids == number)
            left, top = columns.min(), rows.min()
            box = (left, top, columns.max() + 1 - left, rows.max() + 1 - top)
            kinds = {1: ["car"], 2: ["pedestrian"], 10: ["car", "pedestrian"]}[number // 1000]
            frames[name, frame] += [
                (kind, box, str(number), int(len(kinds) == 2)) for kind in kinds
            ]
            mask = np.asfortranarray((ids == number).astype(np.uint8))
            counts = coco_mask.encode(mask)["counts"].decode()
            lines.append(f"{frame} {number} {number // 1000} {height} {width} {counts}")
    write_lines(root / f"instances_txt/{name}.txt", lines)
    paths = [root / f"training/image_02/{name}/{frame:06d}.png" for frame in range(length)]
    write_images(paths, height, width)
    return frames


def uavdt(root: Path, images: Path, rng: np.random.Generator, name: str = "M0801") -> Frames:
    height, width, length = 540, 1024, 298
    objects: defaultdict[int, list[Row]] = defaultdict(list)
    regions: defaultdict[int, list[Row]] = defaultdict(list)
    lines, ignored = [], []
    for track in range(1, 25):
        kind = int(rng.integers(1, 4))
        for frame in range(int(rng.integers(1, 200)), int(rng.integers(200, length + 1))):
            left, top = (int(rng.integers(-40, side)) for side in (width, height))
            right, bottom = left + int(rng.integers(5, 90)), top + int(rng.integers(5, 90))
            occlusion = rng.integers(1, 5)
            lines.append(
                f"{frame},{track},{left},{top},{right - left},{bottom - top},1,{occlusion},{kind}"
            )
            if (box := inside((left, top, right, bottom), height, width)) is not None:
                objects[frame].append((("car", "truck", "bus")[kind - 1], box, str(track), 0))
    for frame in range(1, length, 7):
        ignored.append(f"{frame},1,{frame},0,50,30,1,-1,-1")
        regions[frame] = [(kind, (frame, 0, 50, 30), None, 1) for kind in ("car", "truck", "bus")]
    write_lines(root / f"GT/{name}_gt_whole.txt", lines)
    write_lines(root / f"GT/{name}_gt_ignore.txt", ignored)
    paths = [images / f"{name}/img{frame:06d}.jpg" for frame in range(1, length + 1)]
    write_images(paths, height, width)
    return {(name, frame): objects[frame] + regions[frame] for frame in range(1, length + 1)}


def imagenet_vid(root: Path, rng: np.random.Generator, classes: dict[str, str]) -> Frames:
    """Three videos of validation, of which every third frame has no XML file; and their list."""
    height, width, length = 480, 640, 30
    frames: Frames = {}
    listed, images = [], []
    for video in range(3):
        name = f"ILSVRC2015_val_{video:08d}"
        for frame in range(length):
            images.append(root / f"Data/VID/val/{name}/{frame:06d}.JPEG")
            if frame % 3 == 2:
                continue
            rows: list[Row] = []
            objects = ""
            for track in range(int(rng.integers(0, 4))):
                wordnet = str(rng.choice(list(classes)))
                left, top = int(rng.integers(0, width - 9)), int(rng.integers(0, height - 9))
                right, bottom = (
                    int(rng.integers(left + 1, width)),
                    int(rng.integers(top + 1, height)),
                )
                rows.append(
                    (classes[wordnet], (left, top, right - left, bottom - top), str(track), 0)
                )
                objects += (
                    f"\t<object>\n\t\t<trackid>{track}</trackid>\n\t\t<name>{wordnet}</name>\n"
                    f"\t\t<bndbox>\n\t\t\t<xmax>{right}</xmax>\n\t\t\t<xmin>{left}</xmin>\n"
                    f"\t\t\t<ymax>{bottom}</ymax>\n\t\t\t<ymin>{top}</ymin>\n\t\t</bndbox>\n"
                    "\t\t<occluded>0</occluded>\n\t\t<generated>1</generated>\n\t</object>\n"
                )
            frames[f"val/{name}", frame] = rows
            listed.append(f"{name}/{frame:06d} {len(listed) + 1}")
            write_lines(
                root / f"Annotations/VID/val/{name}/{frame:06d}.xml",
                [
                    f"<annotation>\n\t<folder>{name}</folder>\n\t<filename>{frame:06d}</filename>",
                    "\t<source>\n\t\t<database>ILSVRC_2015</database>\n\t</source>",
                    f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t</size>",
                    f"{objects}</annotation>",
                ],
            )
    write_images(images, height, width)
    write_lines(root / "ImageSets/VID/val.txt", listed)
    return frames
