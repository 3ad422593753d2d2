from __future__ import annotations

from functools import partial
from pathlib import Path

import hydra
import lightning as L
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader

from tasks.test_detection import batch
from tiny import tiny_detector
from vodet.cli.app import config_dir
from vodet.errors import ConfigError
from vodet.fusion.none import NoFusion
from vodet.structures import Window
from vodet.tasks.detection import VideoDetectionTask
from vodet.tasks.optimizer import GroupedOptimizer
from vodet.tasks.schedule import Schedule


@pytest.fixture
def network() -> nn.ModuleDict:
    """A backbone, a head of two parts, and one whose name begins like another's."""
    return nn.ModuleDict(
        {
            "backbone": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            "head": nn.ModuleDict({"rpn": nn.Linear(4, 2), "box": nn.Linear(4, 3)}),
            "head_two": nn.Linear(2, 2, bias=False),
        }
    )


def groups_of(optimizer: Optimizer, network: nn.Module) -> dict[str, tuple[set[str], float, float]]:
    """By the name of each group: the names of its parameters, learning rate and weight decay."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        group["name"]: (
            {names[id(parameter)] for parameter in group["params"]},
            group["lr"],
            group["weight_decay"],
        )
        for group in optimizer.param_groups
    }


def test_each_parameter_is_in_the_group_of_the_longest_name(network: nn.ModuleDict) -> None:
    build = GroupedOptimizer(
        SGD,
        groups={"backbone": {"lr": 0.01}, "head": {"lr": 0.2}, "head.rpn": {"weight_decay": 0.5}},
        lr=0.1,
        weight_decay=0.3,
    )
    assert groups_of(build(network.named_parameters()), network) == {
        "backbone": (
            {"backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"},
            0.01,
            0.3,
        ),
        "head.rpn": ({"head.rpn.weight", "head.rpn.bias"}, 0.1, 0.5),  # nothing of head's options
        "head": ({"head.box.weight", "head.box.bias"}, 0.2, 0.3),
        "rest": ({"head_two.weight"}, 0.1, 0.3),
    }


def test_a_step_moves_each_part_by_its_own_learning_rate(network: nn.ModuleDict) -> None:
    build = GroupedOptimizer(SGD, groups={"head": {"rpn": {"lr": 0.01}}}, lr=1.0)
    optimizer = build(network.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        step = 0.01 if name.startswith("head.rpn.") else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] - step)


def test_frozen_parameters_are_in_no_group(network: nn.ModuleDict) -> None:
    network["backbone"].requires_grad_(False)
    network["head"]["box"].bias.requires_grad_(False)
    build = GroupedOptimizer(Adam, groups={"backbone": {"lr": 0.01}}, lr=0.1)
    (found,) = groups_of(build(network.named_parameters()), network).items()
    assert found == (
        "rest",
        (
            {"head.rpn.weight", "head.rpn.bias", "head.box.weight", "head_two.weight"},
            0.1,
            0,
        ),
    )


def test_norms_and_biases_without_weight_decay(network: nn.ModuleDict) -> None:
    build = GroupedOptimizer(
        AdamW,
        groups={"backbone": {"lr": 0.01, "weight_decay": 0.2}},
        decay_norms_and_biases=False,
        lr=0.1,
        weight_decay=0.3,
    )
    assert groups_of(build(network.named_parameters()), network) == {
        "backbone": ({"backbone.0.weight"}, 0.01, 0.2),
        "backbone/no_decay": (
            {"backbone.0.bias", "backbone.1.weight", "backbone.1.bias"},
            0.01,
            0,
        ),
        "rest": ({"head.rpn.weight", "head.box.weight", "head_two.weight"}, 0.1, 0.3),
        "rest/no_decay": ({"head.rpn.bias", "head.box.bias"}, 0.1, 0),
    }


def test_a_part_may_be_one_parameter(network: nn.ModuleDict) -> None:
    build = GroupedOptimizer(SGD, groups={"head_two.weight": {"lr": 2.0}}, lr=0.1)
    assert groups_of(build(network.named_parameters()), network)["head_two.weight"] == (
        {"head_two.weight"},
        2.0,
        0,
    )


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {"bakbone": {"lr": 1}},
            r"no part 'bakbone' .*Did you mean backbone\? .*: backbone, head, head_two\.",
        ),
        (
            {"head": {"rnp": {"lr": 1}}},
            r"no part 'head.rnp' .*Did you mean head.rpn\? .*: head.rpn, head.box\.",
        ),
        ({"head.rp": {"lr": 1}}, r"no part 'head.rp' with"),  # not every beginning is a part
        ({"lr": 1}, r"expected options by part of the detector, such as .* found \{'lr': 1\}"),
        ({"head": {"lrr": 1}}, r"optimizer\.groups\.head: .*unexpected keyword argument 'lrr'"),
        ({"head": {"lr": -1}}, r"optimizer\.groups\.head: Invalid learning rate: -1"),
        ({"head": {"lr": 1, "rpn": {"momentum": -1}}}, r"groups\.head\.rpn: Invalid momentum"),
    ],
)
def test_settings_that_cannot_be_are_refused(network: nn.ModuleDict, groups, message) -> None:
    with pytest.raises(ConfigError, match=message):
        GroupedOptimizer(SGD, groups=groups, lr=0.1)(network.named_parameters())


@pytest.mark.parametrize("option", ["adam", "adamw", "sgd"])
def test_every_optimizer_of_the_configs_has_groups(option: str, network: nn.ModuleDict) -> None:
    overrides = [
        f"optimizer={option}",
        "+optimizer.groups.backbone.lr=1e-5",
        "+optimizer.groups.head.rpn.lr=2e-5",
        "optimizer.decay_norms_and_biases=false",
    ]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("train", overrides)
    optimizer = instantiate(config.optimizer)(network.named_parameters())
    assert type(optimizer).__name__.lower() == option
    rates = {name: rate for name, (_, rate, _) in groups_of(optimizer, network).items()}
    assert rates == {
        "backbone": 1e-5,
        "backbone/no_decay": 1e-5,
        "head.rpn": 2e-5,
        "head.rpn/no_decay": 2e-5,
        "rest": config.optimizer.lr,
        "rest/no_decay": config.optimizer.lr,
    }


def fit(folder: Path, max_epochs: int, checkpoint: Path | None = None) -> VideoDetectionTask:
    torch.manual_seed(0)
    detector = tiny_detector(NoFusion, Window()).train()
    task = VideoDetectionTask(
        detector,
        optimizer=GroupedOptimizer(AdamW, groups={"backbone": {"lr": 0.001}}, lr=0.01),
        schedule=Schedule(partial(MultiStepLR, milestones=[2]), warmup_steps=2, warmup_start=0.5),
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=CSVLogger(folder, name="csv", version="0"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    loader = DataLoader([batch()], batch_size=None)
    trainer.fit(task, loader, loader, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    return task


def test_schedules_keep_the_ratios_and_logs_name_the_groups(tmp_path: Path) -> None:
    fit(tmp_path, 3)
    header, *lines = (tmp_path / "csv/0/metrics.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    rates = [(float(row["lr/rest"]), float(row["lr/backbone"])) for row in rows if row["lr/rest"]]
    # Half of it at first, by the warm-up; a tenth from the third epoch on.
    expected = [0.005, 0.0075, 0.001]
    assert [rest for rest, _ in rates] == pytest.approx(expected)
    assert [backbone for _, backbone in rates] == pytest.approx([rate / 10 for rate in expected])


def test_a_resumed_training_goes_on_with_its_groups(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 3)
    fit(tmp_path / "first", 1)
    second = fit(tmp_path / "second", 3, tmp_path / "first/last.ckpt")
    for name, value in whole.detector.state_dict().items():
        torch.testing.assert_close(second.detector.state_dict()[name], value, msg=name)
    optimizer = second.optimizers().optimizer
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == pytest.approx(
        {"backbone": 0.0001, "rest": 0.001}
    )
