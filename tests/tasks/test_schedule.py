from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from vodet.errors import ConfigError
from vodet.tasks.schedule import Schedule

STEPS_PER_EPOCH = 4


def learning_rates(schedule: Schedule, epochs: int) -> list[float]:
    """Learning rate of each step, with the schedules advanced as Lightning does."""
    optimizer: Optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    configs = schedule(optimizer)
    rates = []
    for _ in range(epochs):
        for _ in range(STEPS_PER_EPOCH):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            for config in configs:
                if config["interval"] == "step":
                    config["scheduler"].step()
        for config in configs:
            if config["interval"] == "epoch":
                config["scheduler"].step()
    return rates


def test_warm_up_rises_linearly_and_then_leaves_the_schedule_alone() -> None:
    schedule = Schedule(
        partial(MultiStepLR, milestones=[2, 3], gamma=0.1), warmup_steps=5, warmup_start=0.5
    )
    assert learning_rates(schedule, epochs=4) == pytest.approx(
        [0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1, *[0.1] * 4, *[0.01] * 4]
    )


def test_warm_up_multiplies_a_schedule_that_moves() -> None:
    cosine = partial(CosineAnnealingLR, T_max=8)
    plain = learning_rates(Schedule(cosine, interval="step", warmup_steps=0), epochs=2)
    warm = learning_rates(
        Schedule(cosine, interval="step", warmup_steps=4, warmup_start=0.2), epochs=2
    )
    factors = [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1]
    assert warm == pytest.approx([rate * f for rate, f in zip(plain, factors, strict=True)])


def test_no_warm_up_is_no_schedule_of_its_own() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    (config,) = Schedule(partial(MultiStepLR, milestones=[1]), warmup_steps=0)(optimizer)
    assert isinstance(config["scheduler"], MultiStepLR)
    assert config["interval"] == "epoch"


def test_a_cosine_without_a_number_of_epochs_is_refused() -> None:
    schedule = Schedule(partial(CosineAnnealingLR, T_max=-1))
    with pytest.raises(ConfigError, match=r"T_max must be at least 1, found -1\b.*constant"):
        schedule(SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0))
