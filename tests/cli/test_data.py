from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from vodet.cli import data
from vodet.cli.contact_sheet import contact_sheet, draw_annotations
from vodet.data.annotations.st_coco import read_st_coco
from vodet.data.generated.sets import generate
from vodet.data.generated.synthetic import SyntheticConfig

TINY = SyntheticConfig(train_videos=1, val_videos=3, frames_per_video=5, size=80)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("generated") / "tiny"
    generate(root, TINY)
    return root


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("command", [[], ["check"], ["show"], ["generate"]])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        data.main([*command, "--help"])

    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "examples:\n" in text
    assert text.index("examples:") < text.index(f"  vodet-data {' '.join(command)}")


def test_help_of_generate_names_every_setting_and_default(capsys):
    with pytest.raises(SystemExit):
        data.main(["generate", "--help"])

    text = capsys.readouterr().out
    assert "--degradation-rate" in text
    assert "0 to 0.5 (default: degraded 0.45)" in " ".join(text.split())
    assert "(default: degraded 60, long_range 240)" in " ".join(text.split())


def test_generate_makes_the_long_range_set(tmp_path):
    folder = tmp_path / "set"
    options = ["--train-videos=1", "--val-videos=2", "--frames-per-video=9", "--clear-frames=2"]

    assert data.main(["generate", str(folder), "--set=long_range", *options]) == 0

    images = json.loads((folder / "val.json").read_text())["images"]
    assert [image["is_clear"] for image in images] == ([True] * 2 + [False] * 7) * 2
    assert cv2.imread(str(folder / "contact_sheet.png")).shape == (2 * 256, 8 * 256, 3)


def test_generate_refuses_settings_of_another_set(tmp_path, capsys):
    options = ["--set=long_range", "--degradation-rate=0.3", "--seed=1"]

    assert data.main(["generate", str(tmp_path / "set"), *options]) == 1
    message = capsys.readouterr().err
    assert "long_range has no setting --degradation-rate" in message
    assert "clear_frames" in message


def test_check_prints_statistics(tiny, capsys):
    assert data.main(["check", str(tiny / "val.json")]) == 0

    text = capsys.readouterr().out
    assert "striped disc" in text
    assert "15" in text


@pytest.mark.parametrize(
    ("options", "verb"), [([], "found"), (["--decode"], "decoded, each of the annotated size")]
)
def test_check_of_images(tiny, capsys, options, verb):
    assert data.main(["check", str(tiny / "val.json"), "--images", str(tiny), *options]) == 0

    assert f"All 15 images were {verb}." in capsys.readouterr().out


def test_check_prints_faults_of_the_file_without_traceback(tiny, tmp_path, capsys):
    document = json.loads((tiny / "val.json").read_text())
    document["annotations"][0]["category_id"] = 99
    (tmp_path / "broken.json").write_text(json.dumps(document))

    assert data.main(["check", str(tmp_path / "broken.json")]) == 1

    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert "99" in error
    assert "Traceback" not in error


def test_check_of_a_missing_file(tmp_path, capsys):
    assert data.main(["check", str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err


def test_check_lists_missing_images(copy, capsys):
    for number in range(12):
        (copy / f"images/val/val_{number // 5:03d}/{number % 5:06d}.jpg").unlink()

    assert data.main(["check", str(copy / "val.json"), "--images", str(copy)]) == 1

    lines = capsys.readouterr().err.splitlines()
    assert f"12 of 15 images below {copy} are missing or damaged" in lines[0]
    assert lines[0].endswith("The first 10:")
    assert lines[1] == f"  {copy}/images/val/val_000/000000.jpg (image id 0)"
    assert len(lines) == 11


def test_check_decode_finds_truncated_and_mis_sized_images(copy, capsys):
    first, second = (copy / f"images/val/val_000/00000{number}.jpg" for number in (0, 1))
    first.write_bytes(first.read_bytes()[:300])
    cv2.imwrite(str(second), cv2.imread(str(second))[:40])

    assert data.main(["check", str(copy / "val.json"), "--images", str(copy)]) == 0
    assert data.main(["check", str(copy / "val.json"), "--decode"]) == 1

    error = capsys.readouterr().err
    assert "2 of 15 images" in error
    assert "000000.jpg" in error
    assert "40 x 80" in error


def test_show_writes_every_frame_with_its_boxes(tiny, tmp_path, capsys):
    output = tmp_path / "out"
    command = ["show", str(tiny / "val.json"), "--video", "val_001", "--output", str(output)]

    assert data.main(command) == 0

    assert f"5 frames written to {output}" in capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == [f"{n:06d}.jpg" for n in range(5)]
    shown = cv2.imread(str(output / "000000.jpg"))
    plain = cv2.imread(str(tiny / "images/val/val_001/000000.jpg"))
    assert shown.shape == (4 * 80, 4 * 80, 3)
    assert np.abs(shown.astype(int) - cv2.resize(plain, (320, 320))).max() > 50


def test_show_takes_evenly_spaced_frames_and_has_a_default_folder(copy, monkeypatch):
    monkeypatch.chdir(copy)

    assert data.main(["show", "val.json", "--video", "val_002", "--frames", "2"]) == 0

    shown = sorted(path.name for path in (copy / "runs/show/val_002").iterdir())
    assert shown == ["000000.jpg", "000002.jpg"]


def test_show_stays_in_its_folder_whatever_the_video_is_called(copy, monkeypatch):
    document = (copy / "val.json").read_text().replace('"val_001"', '"../../a/b"')
    (copy / "val.json").write_text(document)
    monkeypatch.chdir(copy)

    assert data.main(["show", "val.json", "--video", "../../a/b", "--frames", "1"]) == 0
    assert [path.name for path in (copy / "runs/show").iterdir()] == ["_.._a_b"]


def test_show_of_an_unknown_video_names_the_nearest(tiny, capsys):
    assert data.main(["show", str(tiny / "val.json"), "--video", "val_01"]) == 1

    error = capsys.readouterr().err
    assert "has no video 'val_01'; the closest names are: val_001" in error


def test_show_without_images_says_which_is_missing(tiny, tmp_path, capsys):
    command = ["show", str(tiny / "val.json"), "--video", "val_000", "--images", str(tmp_path)]

    assert data.main([*command, "--output", str(tmp_path / "out")]) == 1
    assert f"{tmp_path}/images/val/val_000/000000.jpg" in capsys.readouterr().err


def test_show_refuses_no_frames(tiny, capsys):
    with pytest.raises(SystemExit) as ended:
        data.main(["show", str(tiny / "val.json"), "--video", "val_000", "--frames", "0"])

    assert ended.value.code == 2
    assert "must be at least 1, found 0" in capsys.readouterr().err


def test_generate_makes_a_set_and_a_contact_sheet(tiny, tmp_path, capsys):
    folder = tmp_path / "set"
    options = ["--train-videos=1", "--val-videos=3", "--frames-per-video=5", "--size=80"]

    assert data.main(["generate", str(folder), *options]) == 0

    assert (folder / "val.json").read_bytes() == (tiny / "val.json").read_bytes()
    assert cv2.imread(str(folder / "contact_sheet.png")).shape == (3 * 320, 5 * 320, 3)
    assert str(folder / "contact_sheet.png") in capsys.readouterr().out


def test_generate_refuses_an_existing_folder_unless_asked(copy, capsys):
    options = ["--train-videos=1", "--val-videos=1", "--frames-per-video=1", "--size=64"]

    assert data.main(["generate", str(copy), *options]) == 1
    assert "exists already" in capsys.readouterr().err
    assert data.main(["generate", str(copy), *options, "--overwrite"]) == 0
    assert not (copy / "images/val/val_001").exists()


def test_generate_refuses_bad_settings(tmp_path, capsys):
    assert data.main(["generate", str(tmp_path / "set"), "--degradation-rate", "2"]) == 1
    assert "degradation_rate must be from 0 to 0.5, found 2" in capsys.readouterr().err


def test_contact_sheet_has_videos_as_rows_and_frames_as_columns(tiny):
    index = read_st_coco(tiny / "val.json")

    def read(frame):
        return cv2.imread(str(tiny / index.file_name(frame)))[..., ::-1].copy()

    sheet = contact_sheet(index, read, max_videos=2, max_frames=3)

    assert sheet.shape == (2 * 320, 3 * 320, 3)
    frame = index.frames_of(1)[3]  # of five: 0, 1 and 3
    assert (sheet[320:, 640:] == draw_annotations(index, frame, read(frame))).all()


def test_contact_sheet_leaves_room_after_a_short_video(copy):
    document = json.loads((copy / "val.json").read_text())
    document["images"] = document["images"][:5] + document["images"][5:7]
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] < 7]
    (copy / "short.json").write_text(json.dumps(document))

    sheet = contact_sheet(
        read_st_coco(copy / "short.json"), lambda _: np.full((80, 80, 3), 9, np.uint8)
    )

    assert sheet.shape == (2 * 320, 5 * 320, 3)
    assert (sheet[320:, 640:] == 0).all()
    assert (sheet[320:, :640] > 0).any()


def test_drawn_boxes_lie_on_the_annotated_objects(tiny):
    index = read_st_coco(tiny / "val.json")
    black = np.zeros((80, 80, 3), dtype=np.uint8)
    drawn = draw_annotations(index, 0, black).any(axis=2)

    for x1, y1, x2, y2 in (index.boxes[index.boxes_of(0)] * 4).astype(int):
        assert drawn[y1:y2, x1 : x1 + 2].any(axis=1).mean() > 0.9
        assert drawn[y2 - 2 : y2 + 1, x1:x2].any(axis=0).mean() > 0.9


def test_check_points_out_frames_of_several_sizes_and_names_of_windows(copy, capsys):
    document = json.loads((copy / "val.json").read_text())
    document["images"][1]["height"] = 40
    document["images"][7]["file_name"] = r"images\val\7.jpg"
    (copy / "odd.json").write_text(json.dumps(document))

    assert data.main(["check", str(copy / "odd.json")]) == 0

    text = capsys.readouterr().out
    sizes, names = (line for line in text.splitlines() if line.startswith("Warning"))
    assert all(fact in sizes for fact in ("1 of 3 videos", "'val_000', frame 0", "40 x 80"))
    assert all(fact in names for fact in ("1 of 15 file names", r"'images\\val\\7"))


def test_names_are_no_markup(copy, capsys):
    text = (copy / "val.json").read_text().replace("striped disc", "[/red] disc")
    (copy / "odd.json").write_text(text)

    assert data.main(["check", str(copy / "odd.json")]) == 0
    assert "[/red] disc" in capsys.readouterr().out


def turn(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as image:
        image.save(path, exif=exif)


@pytest.mark.parametrize("command", ["check", "show"])
def test_exif_is_applied_unless_it_is_to_be_ignored(copy, tmp_path, command):
    document = json.loads((copy / "val.json").read_text())
    for image in document["images"]:
        path = copy / image["file_name"]
        cv2.imwrite(str(path), cv2.imread(str(path))[:40])
        turn(path, 6)
        image |= {"height": 80, "width": 40}
    (copy / "turned.json").write_text(json.dumps(document))
    options = {"check": ["--decode"], "show": ["--video", "val_000", "--output", str(tmp_path)]}
    arguments = [command, str(copy / "turned.json"), *options[command]]

    assert data.main(arguments) == 0
    assert data.main([*arguments, "--exif", "ignore"]) == 1


def test_damage_inside_a_jpeg_is_found_by_check(copy, capsys):
    path = copy / "images/val/val_001/000002.jpg"
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(600) + whole[middle + 600 :])

    assert data.main(["check", str(copy / "val.json"), "--decode"]) == 1

    error = capsys.readouterr().err
    assert "1 of 15 images" in error
    assert "val_001/000002.jpg (image id 7)" in error
    assert "Corrupt JPEG data" in error


def test_show_does_not_write_among_the_images(copy, capsys):
    folder = copy / "images/val/val_000"
    before = (folder / "000000.jpg").read_bytes()

    command = ["show", str(copy / "val.json"), "--video", "val_000", "--output", str(folder)]
    assert data.main(command) == 1

    assert "contains the images of the video" in capsys.readouterr().err
    assert (folder / "000000.jpg").read_bytes() == before


def test_no_output_replaces_what_is_read(copy, capsys):
    before = (copy / "val.json").read_bytes()
    (copy / "again.json").symlink_to("val.json")
    (copy / "found.json").write_text("[]")
    source, same = str(copy / "val.json"), str(copy / "again.json")
    for command in (
        ["convert", "coco", source, same],
        ["convert", "cocovid", source, same],
        ["to-cocovid", source, same],
        ["export-results", str(copy / "found.json"), source, same, "--format", "coco"],
    ):
        assert data.main([*command, "--overwrite"]) == 1
        assert "again.json" in capsys.readouterr().err
    assert (copy / "val.json").read_bytes() == before


# Commands that fail to write, and the file that they have to name.
FULL_DISK = (
    (["convert", "cocovid", "val.json", "out.json"], "out.json"),
    (["to-cocovid", "val.json", "out.json"], "out.json"),
    (["show", "val.json", "--video", "val_000", "--output", "out"], "out/000001.jpg"),
    (["generate", "set", "--train-videos=1", "--val-videos=1", "--frames-per-video=2"], "set"),
    (["export-results", "found.json", "val.json", "kit", "--format", "uavdt"], "kit/val_000.txt"),
    (["export-results", "found.json", "val.json", "out.json", "--format", "coco"], "out.json"),
    (["convert", "cocovid", "val.json", "val.json/out.json"], "val.json/out.json"),
)

# Files of more than 4096 bytes cannot be written, as on a disk that becomes full.
LIMITED = """
import json, resource, signal, sys
from vodet.cli import data

sys.dont_write_bytecode = True  # otherwise modules imported later leave cut .pyc files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for arguments in json.loads(sys.argv[1]):
    print("status", data.main(arguments), file=sys.stderr)
"""


def test_a_full_disk_is_one_error_and_leaves_nothing_half_written(copy):
    document = json.loads((copy / "val.json").read_text())
    names = ("car", "truck", "bus")
    document["categories"] = [{"id": label, "name": name} for label, name in enumerate(names)]
    document["annotations"] = [a | {"category_id": 0} for a in document["annotations"]]
    document["images"] = [i | {"frame_number": i["frame_number"] + 1} for i in document["images"]]
    (copy / "val.json").write_text(json.dumps(document))
    results = [
        {"image_id": n % 15, "category_id": 0, "bbox": [n / 7, n / 9, n, n], "score": 0.5}
        for n in range(1, 900)
    ]
    (copy / "found.json").write_text(json.dumps(results))
    before = {path for path in copy.rglob("*") if path.is_file()}

    commands = json.dumps([arguments for arguments, _ in FULL_DISK])
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, commands],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )

    lines = [line for line in ended.stderr.splitlines() if line.startswith(("Error", "status"))]
    assert ended.returncode == 0, ended.stderr
    for (_, target), error, status in zip(FULL_DISK, lines[::2], lines[1::2], strict=True):
        assert error.startswith("Error: Cannot write ")
        assert f"{target}: " in error
        assert status == "status 1"
    assert {path for path in copy.rglob("*") if path.is_file()} == before
