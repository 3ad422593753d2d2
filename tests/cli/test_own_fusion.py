"""Map fusions and candidate fusions of a user's own package, outside this repository."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import vodet
from cli.conftest import TINY, Command
from cli.test_two_stage import TINY_TWO_STAGE
from tiny import random_frames, tiny_detector, tiny_two_stage
from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.errors import CheckpointError
from vodet.structures import Window

MODULE = '''
import torch
from torch import nn

from vodet import CandidateFusion, Candidates, CandidateSpec, FeatureMaps, FeatureSpec, State


class PowerMean(nn.Module):
    """Mean of the window's maps, each scaled by a learnt weight of its level."""

    def __init__(self, spec: FeatureSpec, initial: float = 1.0) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((len(spec.channels),), initial))

    def forward(self, window: FeatureMaps, reference: int) -> FeatureMaps:
        return FeatureMaps(tuple(w * x.mean(dim=1) for w, x in zip(self.weights, window.levels)))


class TubeletMean(CandidateFusion):
    """Mean of an object's features over the frames of the window, scaled."""

    needs_links = True

    def __init__(self, spec: CandidateSpec, scale: float = 1.0) -> None:
        super().__init__()
        self.spec = spec
        self.scale = scale

    def forward(self, candidates: Candidates, state: State) -> tuple[Candidates, State]:
        features = candidates.features
        return candidates.fused(self.scale * sum(features) / len(features)), state
'''

YAML = """
_target_: own_fusion.PowerMean
_partial_: true
initial: 0.5
"""

ROI_YAML = """
mean:
  _target_: own_fusion.TubeletMean
  _partial_: true
  scale: 0.5
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a module of a fusion, and a config folder with its YAML."""
    (tmp_path / "own_fusion.py").write_text(MODULE)
    group = tmp_path / "conf" / "model" / "fusion"
    group.mkdir(parents=True)
    (group / "power_mean.yaml").write_text(YAML)
    fusion_group = tmp_path / "conf" / "model" / "head" / "fusion"
    fusion_group.mkdir(parents=True)
    (fusion_group / "tubelet_mean.yaml").write_text(ROI_YAML)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_fusion", raising=False)
    return tmp_path


class Latest(nn.Module):
    """The last frame of the window: written in a cell of a notebook."""

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()

    def forward(self, window: FeatureMaps, reference: int) -> FeatureMaps:
        return window[:, -1]


def test_works_from_a_notebook(own: Path) -> None:
    from own_fusion import PowerMean

    frames = random_frames(4)
    for fusion in (PowerMean, partial(PowerMean, initial=0.5), Latest):
        detector = tiny_detector(fusion, Window(past=1, future=1))
        stream = vodet.StreamingDetector(detector)
        results = stream.push(frames) + stream.flush()
        assert [result.frame_index for result in results] == [0, 1, 2, 3]
    baseline = vodet.StreamingDetector(tiny_detector(Latest, Window()))
    later = baseline.push(frames)  # frame i + 1 is the last of the window of frame i
    for result, expected in zip(results[:3], later[1:], strict=True):
        torch.testing.assert_close(
            result.detections["scores"], expected.detections["scores"], rtol=1e-4, atol=1e-5
        )


def test_works_from_the_command_line(own: Path, inside: Path, command: Command) -> None:
    command(
        "train",
        "--config-dir",
        str(own / "conf"),
        *TINY,
        "model/fusion=power_mean",
        "trainer.max_epochs=1",
        "run_dir=runs/own",
    )
    checkpoint = inside / "runs/own/last.ckpt"
    with pytest.raises(CheckpointError, match=r"names 'own_fusion.PowerMean'.*trusted="):
        vodet.load(checkpoint)
    detector = vodet.load(checkpoint, trusted=["own_fusion"])
    assert type(detector.fusion.net).__name__ == "PowerMean"
    assert detector.fusion.net.weights.tolist() == pytest.approx([0.5, 0.5], abs=0.1)
    command(
        "eval",
        f"ckpt={checkpoint}",
        "trusted=[own_fusion]",
        "trainer.accelerator=cpu",
        "data.num_workers=0",
        "output=runs/own",
    )


def test_a_candidate_fusion_works_from_a_notebook(own: Path) -> None:
    from own_fusion import TubeletMean

    frames = random_frames(4)
    detectors = [
        tiny_two_stage({"mean": partial(TubeletMean, scale=scale)}, Window(past=1))
        for scale in (1.0, 0.5)
    ]
    results = [vodet.StreamingDetector(detector).push(frames) for detector in detectors]
    assert [[a.frame_index for a in stream] for stream in results] == [[0, 1, 2, 3]] * 2
    scores = [stream[2].detections["scores"][:10] for stream in results]
    assert (scores[0] - scores[1]).abs().max() > 1e-3


def test_a_candidate_fusion_works_from_the_command_line(
    own: Path, inside: Path, command: Command
) -> None:
    command(
        "train",
        "--config-dir",
        str(own / "conf"),
        "experiment=demo_baseline",
        *TINY_TWO_STAGE,
        "window=previous",
        "model/head/fusion=tubelet_mean",
        "run_dir=runs/own_roi",
    )
    checkpoint = inside / "runs/own_roi/last.ckpt"
    with pytest.raises(CheckpointError, match=r"names 'own_fusion.TubeletMean'.*trusted="):
        vodet.load(checkpoint)
    detector = vodet.load(checkpoint, trusted=["own_fusion"])
    assert detector.head.fusion.members["mean"].scale == 0.5
    assert len(vodet.StreamingDetector(detector).push(random_frames(3))) == 3


METHODS = {
    "conv_gru": (
        "model/fusion/own.yaml",
        "_target_: own_methods.conv_gru.ConvGRU\n_partial_: true\n",
        [
            *TINY,
            "model/fusion=own",
            "window=single",
            "data.history.windows=2",
            "data.history.policy=previous",
            "data.losses_on=all",
        ],
    ),
    "fgfa": (
        "model/fusion/own.yaml",
        "_target_: own_methods.fgfa.FGFA\n_partial_: true\nembedding_width: 8\nflow_updates: 1\n",
        [*TINY, "model/fusion=own"],
    ),
    "selsa": (
        "model/head/fusion/own.yaml",
        "own:\n  _target_: own_methods.selsa.SELSA\n  _partial_: true\n  width: 32\n  heads: 2\n",
        [
            "experiment=demo_baseline",
            *TINY_TWO_STAGE,
            "window=previous",
            "model/head/fusion=own",
            "model.head.refine=boxes",
        ],
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_of_three_families_work_in_a_package_of_a_user(
    name: str, inside: Path, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file of each method, moved into another package as it is, with a YAML of its own."""
    path, yaml, overrides = METHODS[name]
    (tmp_path / "own_methods").mkdir()
    source = Path(vodet.__file__).parent / "fusion" / f"{name}.py"
    (tmp_path / "own_methods" / source.name).write_text(source.read_text())
    config = tmp_path / "conf" / path
    config.parent.mkdir(parents=True)
    config.write_text(yaml)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("own_methods", f"own_methods.{name}"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    folder = f"runs/own_{name}"
    command(
        "train",
        "--config-dir",
        str(tmp_path / "conf"),
        *overrides,
        "trainer.max_epochs=1",
        f"run_dir={folder}",
    )
    detector = vodet.load(inside / folder / "last.ckpt", trusted=["own_methods"])
    names = {type(module).__module__ for module in detector.modules()}
    assert f"own_methods.{name}" in names
    assert f"vodet.fusion.{name}" not in names
    frames = random_frames(3)
    stream = vodet.StreamingDetector(detector)
    assert len([result for frame in frames for result in stream.push(frame)]) == 3
