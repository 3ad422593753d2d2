"""Detectors are saved to folders, and shared through the Hugging Face hub."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

import vodet
from tasks.small_checkpoint import MODEL, contents
from tasks.test_trust import watched
from tiny import random_frames, tiny_detector
from vodet.errors import CheckpointError, ConfigError, OutputError
from vodet.fusion.none import NoFusion
from vodet.structures import Window

TESTS = Path(__file__).parents[1]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """As of a run that measured a metric, with paths that are nobody's business."""
    made = contents()
    made["vodet"]["config"] = {
        "model": MODEL,
        "name": "street_stf",
        "data": {"train": {"annotations": "/home/jo/street/train.json"}, "val": None},
        "evaluation": {"protocols": "coco"},
    }
    state = {"monitor": "val/map", "current_score": torch.tensor(0.3125)}
    made["callbacks"] = {"ModelCheckpoint": state}
    torch.save(made, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    vodet.load(checkpoint).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_the_same_detections(checkpoint: Path, folder: Path) -> None:
    frames = random_frames(4)
    detectors = vodet.load(checkpoint), vodet.from_pretrained(folder)
    expected, found = (list(each.predict(frames, score_threshold=0.1)) for each in detectors)
    for a, b in zip(found, expected, strict=True):
        assert len(b.detections["scores"]) > 3
        assert all(torch.equal(a.detections[key], b.detections[key]) for key in ("boxes", "scores"))
    assert not detectors[1].training
    again = folder.parent / "again"
    detectors[1].save_pretrained(again)
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_model_card(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    for part in ("car, dog, kite", "| run | street_stf |", "| protocols | coco |", "MeanFusion"):
        assert part in text
    assert "| val/map | 0.3125 |" in text
    detector = vodet.from_pretrained(folder)
    detector.save_pretrained(folder, metrics={"vid_ap50": 0.5})
    text = (folder / "README.md").read_text()
    assert "| vid_ap50 | 0.5 |" in text
    assert "val/map" not in text


def test_a_detector_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"built in Python.*state_dict"):
        tiny_detector(NoFusion, Window()).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_folder_that_cannot_be_written(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/model\.safetensors"):
        vodet.load(checkpoint).save_pretrained(tmp_path / "file")


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def cut_config(folder: Path) -> None:
    content = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(content[: len(content) // 2])


def config_of_another_program(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "rt_detr"}')


def config_is_a_pipe(folder: Path) -> None:
    remove_config(folder)
    os.mkfifo(folder / "config.json")


def weights_of_another_model(folder: Path) -> None:
    save_file({"backbone.weight": torch.zeros(3)}, folder / "model.safetensors")


def weights_of_another_size(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["head.size.out.bias"] = torch.zeros(7)
    save_file(weights, folder / "model.safetensors")


def weights_that_are_not_finite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["head.size.out.bias"].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_config, r"found no config\.json"),
        (remove_weights, r"found no model\.safetensors"),
        (cut_weights, r"model\.safetensors is damaged"),
        (cut_config, r"config\.json is damaged"),
        (config_of_another_program, r"not written by vodet.*class_names"),
        (config_is_a_pipe, r"config\.json .*named pipe"),
        (weights_of_another_model, r"does not fit[\s\S]*backbone"),
        (weights_of_another_size, r"head\.size\.out\.bias: expected shape \(2,\), found \(7,\)"),
        (weights_that_are_not_finite, r"head\.size\.out\.bias': 2 of 2 numbers are not finite"),
    ],
)
def test_folders_that_cannot_be_used(
    spoil: Callable[[Path], None], message: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        vodet.from_pretrained(folder)
    assert str(folder) in str(caught.value)


def test_a_config_names_no_class_outside_vodet(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["config"]["model"]["pyramid"]["_target_"] = "os.system"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"names 'os\.system'.*trusted=\['os'\]"):
        vodet.from_pretrained(folder)


def test_nothing_that_a_config_names_is_opened(folder: Path) -> None:
    """The config says pretrained=true and names a checkpoint file."""
    config = json.loads((folder / "config.json").read_text())
    backbone = config["config"]["model"]["backbone"]
    assert backbone["checkpoint_path"] is None  # the file of the training is not published
    backbone["checkpoint_path"] = "/no/where.pt"
    (folder / "config.json").write_text(json.dumps(config))
    with watched() as events:
        vodet.from_pretrained(folder)
    assert events == [f"open {folder}/{name}" for name in ("config.json", "model.safetensors")]


@pytest.mark.parametrize("name", ["nowhere", "/no/where", "a/b/c", "../saved/x y"])
def test_a_name_that_is_neither_folder_nor_repository(name: str) -> None:
    with pytest.raises(CheckpointError, match="found no folder at") as caught:
        vodet.from_pretrained(name)
    assert name in str(caught.value)


def in_process(code: str, endpoint: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with another hub, which huggingface_hub reads from the environment on import."""
    home = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "t"}
    environment = {**os.environ, **home, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", f"import vodet\n{code}"],
        capture_output=True,
        text=True,
        cwd=TESTS,
        env=environment,
        timeout=200,
    )


def test_a_hub_that_cannot_be_reached(checkpoint: Path, tmp_path: Path) -> None:
    code = f"""
for action in (
    lambda: vodet.from_pretrained("ann/street"),
    lambda: vodet.load({str(checkpoint)!r}).push_to_hub("ann/street"),
):
    try:
        action()
    except vodet.VodetError as error:
        print(type(error).__name__, error)
"""
    ended = in_process(code, "http://127.0.0.1:9", tmp_path)
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["CheckpointError", "OutputError"], ended.stderr
    assert all("ann/street" in line and "connection" in line for line in lines)


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that an upload and a download need."""

    files: ClassVar[dict[str, bytes]] = {}
    sha = "1" * 40

    @property
    def url(self) -> str:
        return f"http://{self.headers['Host']}/ann/street"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            kinds = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": file["path"], **kinds} for file in asked]})
        if self.path.endswith("/commit/main"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            commit = {"commitUrl": f"{self.url}/commit/1", "commitOid": self.sha}
            return self.answer({"success": True, **commit})
        return self.answer({"url": self.url})

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            return self.send(self.files[self.path.rpartition("/")[2]])
        if "/tree/" in self.path:
            sizes = {name: len(content) for name, content in self.files.items()}
            entries = [{"path": name, "size": size} for name, size in sizes.items()]
            return self.answer([{"type": "file", "oid": "1", **entry} for entry in entries])
        siblings = [{"rfilename": name} for name in self.files]
        return self.answer({"id": "ann/street", "sha": self.sha, "siblings": siblings})

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, content: object) -> None:
        self.send(json.dumps(content).encode())

    def send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{zlib.crc32(body)}"')
        self.send_header("X-Repo-Commit", self.sha)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_through_a_hub(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    code = f"""
print(vodet.load({str(checkpoint)!r}).push_to_hub("ann/street"))
print(vodet.from_pretrained("ann/street").class_names)
"""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ended = in_process(code, f"http://127.0.0.1:{server.server_port}", tmp_path)
        server.shutdown()
    url = f"http://127.0.0.1:{server.server_port}/ann/street/commit/1"
    assert ended.stdout.splitlines() == [url, "('car', 'dog', 'kite')"], ended.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == Hub.files
