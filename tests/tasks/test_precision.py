from __future__ import annotations

import logging

import lightning as L
import pytest
import torch

from vodet.errors import ConfigError
from vodet.tasks.precision import (
    PRECISIONS,
    check_precision,
    convolution_seconds,
    warn_of_slow_precision,
)


@pytest.mark.parametrize("precision", [*PRECISIONS, 32, 16, "bf16"])
def test_mixed_and_single_precision(precision: object) -> None:
    check_precision(precision)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true", 64, "bf16mixed"])
def test_other_precisions_are_refused_with_a_list(precision: object) -> None:
    with pytest.raises(ConfigError) as caught:
        check_precision(precision)
    message = str(caught.value)
    assert f"found '{precision}'" in message
    assert all(known in message for known in PRECISIONS)
    assert "float32" in message


@pytest.mark.parametrize(
    ("precision", "slowness", "warnings"),
    [("bf16-mixed", 17.0, 1), ("bf16-mixed", 1.1, 0), ("32-true", 17.0, 0)],
)
def test_a_cpu_that_emulates_is_told(
    precision: str, slowness: float, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = L.Trainer(accelerator="cpu", precision=precision, logger=False)
    times = {torch.bfloat16: slowness, torch.float32: 1.0}
    with caplog.at_level(logging.WARNING, "vodet"):
        warn_of_slow_precision(trainer, times.__getitem__)
    texts = [record.getMessage() for record in caplog.records if record.name.startswith("vodet")]
    assert len(texts) == warnings
    for text in texts:
        assert "bf16-mixed" in text
        assert "17.0 times" in text
        assert "32-true" in text


def test_a_convolution_takes_time() -> None:
    assert 0 < convolution_seconds(torch.float32) < 1
