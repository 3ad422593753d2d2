"""What detects in a video, as a config says: with or without test-time augmentation."""

from __future__ import annotations

from functools import partial

from omegaconf import DictConfig, ListConfig

from vodet.augmented_stream import AugmentedStream, check_scales
from vodet.errors import ConfigError
from vodet.streaming import StreamFactory, StreamingDetector


def stream_factory(augmentation: DictConfig) -> StreamFactory:
    """Return `StreamingDetector`, or what builds an `AugmentedStream` if there is another view.

    Args:
        augmentation: ``flip`` and ``scales``.

    Raises:
        ConfigError: If these are not a bool and a list of different positive numbers.
    """
    flip, scales = augmentation.flip, augmentation.scales
    is_list = isinstance(scales, ListConfig)
    if not isinstance(flip, bool) or not is_list or not all(map(_is_number, scales)):
        msg = (
            "test_time_augmentation: expected flip=true or false and scales such as [1.0, 1.25], "
            f"found flip={flip}, scales={scales}."
        )
        raise ConfigError(msg)
    factors = tuple(float(scale) for scale in scales)
    check_scales(factors)
    if not flip and factors == (1.0,):
        return StreamingDetector
    return partial(AugmentedStream, flip=flip, scales=factors)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
