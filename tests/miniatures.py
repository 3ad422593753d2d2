"""The public data sets in small, each in its own format, with all sequences of its splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from vodet.data.formats import kitti, uavdt

HEIGHT, WIDTH = 48, 80
Box = tuple[int, int, int, int]  # left, top, width, height


def moving(frames: int) -> Iterator[tuple[int, Box]]:
    """A box that moves to the right, by frame from 0."""
    for frame in range(frames):
        yield frame, (6 + 4 * frame, 10, 24, 20)


def write_picture(path: Path, box: Box) -> None:
    """Write a dark picture with a bright box."""
    left, top, width, height = box
    picture = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    picture[top : top + height, left : left + width] = (60, 180, 240)
    write(path, cv2.imencode(path.suffix.lower(), picture)[1].tobytes())


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def imagenet_vid(root: Path) -> None:
    for split in ("train", "val"):
        for video in range(2):
            name = f"{split}/ILSVRC2015_{split}_{video:08d}"
            if split == "train":
                name = f"train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_{video:08d}"
            for frame, box in moving(3):
                write_imagenet(root, f"VID/{name}/{frame:06d}", box, ["n02084071"])


def imagenet_det(root: Path) -> None:
    for image, (_, box) in enumerate(moving(3)):
        names = ["n02391049", "n02363005"]  # zebra; beaver, which VID does not have
        write_imagenet(root, f"DET/train/n02391049/n02391049_{image}", box, names)


def write_imagenet(root: Path, name: str, box: Box, names: list[str]) -> None:
    left, top, width, height = box
    objects = "".join(
        f"<object><trackid>{track}</trackid><name>{name}</name><bndbox><xmax>{left + width}</xmax>"
        f"<xmin>{left}</xmin><ymax>{top + height}</ymax><ymin>{top}</ymin></bndbox>"
        "<occluded>0</occluded><generated>0</generated></object>"
        for track, name in enumerate(names)
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    write(root / f"Annotations/{name}.xml", f"<annotation>{size}{objects}</annotation>")
    write_picture(root / f"Data/{name}.JPEG", box)


def kitti_mots(root: Path) -> None:
    for sequence in (name for names in kitti.SPLITS.values() for name in names):
        lines = []
        for frame, box in moving(2):
            left, top, width, height = box
            write_picture(root / f"training/image_02/{sequence}/{frame:06d}.png", box)
            mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
            mask[top : top + height, left : left + width] = 1
            counts = coco_mask.encode(mask)["counts"].decode()
            lines.append(f"{frame} 1001 1 {HEIGHT} {WIDTH} {counts}\n")
        write(root / f"instances_txt/{sequence}.txt", "".join(lines))


def cityscapes(root: Path) -> None:
    for split, city in (("train", "aachen"), ("val", "lindau")):
        for number in range(4):
            for frame, box in moving(3):
                stem = f"{split}/{city}/{city}_{number:06d}_{frame + 18:06d}"
                write_picture(root / f"leftImg8bit_sequence/{stem}_leftImg8bit.png", box)
            left, top, width, height = (10, 10, 24, 20)
            right, bottom = left + width - 1, top + height - 1
            corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
            polygon = f'{{"label": "car", "polygon": {corners}}}'
            stem = f"{split}/{city}/{city}_{number:06d}_000019"
            write(
                root / f"gtFine/{stem}_gtFine_polygons.json",
                f'{{"imgHeight": {HEIGHT}, "imgWidth": {WIDTH}, "objects": [{polygon}]}}',
            )
            write_picture(root / f"leftImg8bit/{stem}_leftImg8bit.png", (10, 10, 24, 20))


def uavdt_benchmark(root: Path) -> None:
    for split, names in uavdt.SPLITS.items():
        for sequence in names:
            lines = []
            for frame, box in moving(2):
                write_picture(root / f"UAV-benchmark-M/{sequence}/img{frame + 1:06d}.jpg", box)
                lines.append(f"{frame + 1},1,{','.join(map(str, box))},1,1,1\n")
            write(root / f"GT/{sequence}_gt_whole.txt", "".join(lines))
            write(root / f"GT/{sequence}_gt_ignore.txt", "1,1,0,0,5,5,1,-1,-1\n")
            attributes = f"1,0,0,{int(split == 'test')},0,0,0,0,0,0\n"
            write(root / f"M_attr/{split}/{sequence}_attr.txt", attributes)


def mot17(root: Path) -> None:
    for sequence in ("MOT17-02-FRCNN", "MOT17-04-FRCNN"):
        folder = root / "train" / sequence
        lines = []
        for frame, box in moving(5):
            write_picture(folder / f"img1/{frame + 1:06d}.jpg", box)
            lines.append(f"{frame + 1},1,{','.join(map(str, box))},1,1,1.0\n")
        write(folder / "gt/gt.txt", "".join(lines))
        write(
            folder / "seqinfo.ini",
            f"[Sequence]\nimDir=img1\nseqLength=5\nimWidth={WIDTH}\nimHeight={HEIGHT}\nimExt=.jpg\n",
        )


# By the name of their folder below data_dir.
MINIATURES: dict[str, Callable[[Path], None]] = {
    "imagenet_vid": imagenet_vid,
    "imagenet_det": imagenet_det,
    "kitti_mots": kitti_mots,
    "cityscapes": cityscapes,
    "uavdt": uavdt_benchmark,
    "mot17": mot17,
}
