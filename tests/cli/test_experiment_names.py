"""Experiments DATA_METHOD that have no file, from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from cli.conftest import TINY, Command
from vodet.cli.app import config_dir
from vodet.cli.experiments import experiments, own_config_dirs, register_experiments


@pytest.fixture(autouse=True)
def forgets() -> Iterator[None]:
    """Experiments that a test makes Hydra know are known to this test alone."""
    register_experiments(config_dir())
    known = ConfigStore.instance().repo["experiment"]
    before = set(known)
    yield
    for name in set(known) - before:
        del known[name]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a data set and a method, and an experiment that says more."""
    files = {
        "data/mine.yaml": "defaults: [default]\ntrain: {annotations: mine.json, images: .}\n",
        "method/fast.yaml": "# @package _global_\ntrainer: {max_epochs: 7}\n",
        "experiment/mine_fast.yaml": (
            "# @package _global_\n"
            "defaults: [{override /data: mine}, {override /method: fast}]\n"
            "seed: 3\n"
        ),
    }
    for name, text in files.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "conf"


def shown(command: Command, capsys: pytest.CaptureFixture[str], *arguments: str):
    command("train", *arguments, "--cfg", "job")
    return OmegaConf.create(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config-dir", "conf", "experiment=demo"], ["conf"]),
        (["experiment=demo", "-cd", "conf", "-m"], ["conf"]),
        (["--config-dir=conf"], ["conf"]),
        (["--cfg", "job", "seed=1", "-m"], []),
        (["-c", "job", "-p", "model"], []),
        (["--config-name", "train"], []),
        ([], []),
    ],
)
def test_own_config_dirs(arguments: list[str], expected: list[str]) -> None:
    assert own_config_dirs(arguments) == [Path(folder) for folder in expected]


def test_own_data_sets_and_methods_join_those_of_vodet(own: Path) -> None:
    found = experiments(config_dir(), own)
    assert found["mine_stf"] == ("mine", "stf")
    assert found["mot17_fast"] == ("mot17", "fast")
    assert not {"mine_fast", "default_stf", "cityscapes_sltnet"} & set(found)


def test_a_file_wins_over_the_name(
    own: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    config = shown(command, capsys, f"--config-dir={own}", "experiment=mine_fast")
    assert (config.seed, config.name, config.data.train.images) == (3, "train", ".")


def test_overrides_of_values_and_groups(
    own: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    config = shown(
        command,
        capsys,
        "--config-dir",
        str(own),
        "trainer.max_epochs=3",
        "experiment=mine_stf",
        "model/fusion=mean",
        "name=other",
    )
    assert config.data.train.annotations == "mine.json"
    assert config.model.fusion._target_ == "vodet.fusion.mean.MeanFusion"
    assert config.window.past == 1
    assert (config.trainer.max_epochs, config.name) == (3, "other")


def test_help_lists_them(own: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command("train", "--config-dir", str(own), "--help")
    (line,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("experiment: ")
    ]
    listed = line.removeprefix("experiment: ").split(", ")
    assert {"cityscapes_stf", "mine_stf", "mine_fast", "uavdt_fast", "demo"} <= set(listed)
    assert len(listed) == len(set(listed))


def test_unknown_names_are_refused_with_the_nearest(
    own: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command("train", "--config-dir", str(own), "experiment=mine_sltnt")
    message = " ".join(capsys.readouterr().err.split())
    assert "There is no experiment=mine_sltnt. Did you mean experiment=mine_sltnet?" in message


def test_several_run_one_after_the_other(inside: Path, command: Command) -> None:
    absent = "model.pyramid"  # of these methods
    small = [setting for setting in TINY[1:] if not setting.startswith(absent)]
    command(
        "train",
        "experiment=synthetic_centernet,synthetic_stf",
        *small,
        "model.backbone.pretrained=false",
        "model.backbone.strides=[4]",
        "trainer.max_epochs=1",
        "runs_dir=runs/several",
        "-m",
    )
    fusions = {
        path.parents[1].name: OmegaConf.load(path).model.fusion._target_
        for path in (inside / "runs/several").rglob("config.yaml")
    }
    assert fusions == {
        "synthetic_centernet": "vodet.fusion.none.NoFusion",
        "synthetic_stf": "vodet.fusion.stf.STF",
    }
