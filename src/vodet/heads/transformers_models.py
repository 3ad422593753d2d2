"""Reads and builds models of the ``transformers`` library, which is imported only when needed.

Any failure while reading or building a model is raised as an error of vodet. Code from a model's
repository is never run, and building a model from a config opens no file and no connection.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vodet.errors import CheckpointError, ConfigError

# Config values that name a place or depend on the classes of a data set.
_LEFT_OUT = ("_name_or_path", "id2label", "label2id", "auto_map", "transformers_version")
_log = logging.getLogger(__name__)


def transformers() -> Any:
    """Import and return the ``transformers`` library.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        return import_module("transformers")
    except ImportError as error:
        msg = (
            "model/head=detr needs the package transformers, which is not installed: run pip "
            "install 'vodet[transformers]'."
        )
        raise ConfigError(msg) from error


def read_config(source: str | Path, values: Mapping[str, Any]) -> Any:
    """Return the config of a model on the Hugging Face hub or in a folder.

    Args:
        source: Name of the model, or the folder.
        values: Values, by name, that replace values of the config.

    Raises:
        ConfigError: If ``transformers`` is not installed, or a value names a file or an address.
        CheckpointError: If the config cannot be read, or is not the config of a detector.
    """
    library, values = transformers(), _plain(values)
    with _reading("config", source):
        config = library.AutoConfig.from_pretrained(source, trust_remote_code=False, **values)
    return _checked(library, config, values, source)


def make_config(values: Mapping[str, Any]) -> Any:
    """Return the config of a model of type ``values["model_type"]`` with the given values.

    Raises:
        ConfigError: If ``transformers`` is not installed, there is no ``model_type``, or a value
            names a file or an address.
        CheckpointError: If ``transformers`` rejects the type or a value, or builds no detector.
    """
    if "model_type" not in values:
        msg = (
            "model/head=detr needs a model: set model.head.pretrained to a name, such as "
            "PekingU/rtdetr_v2_r18vd, or to a folder, or, for random weights, set "
            "+model.head.config.model_type, for example to rt_detr_v2; found neither, with "
            f"model.head.config={dict(values)}."
        )
        raise ConfigError(msg)
    library, values = transformers(), _plain(values)
    with _building(values["model_type"]):
        config = library.AutoConfig.for_model(**values)
    return _checked(library, config, values, "model.head.config")


def build_model(config: Any) -> nn.Module:
    """Build a detector with random weights.

    Raises:
        CheckpointError: If no model can be built from the values of the config.
    """
    with _building(config.model_type):
        model: nn.Module = transformers().AutoModelForObjectDetection.from_config(
            config, trust_remote_code=False, dtype=torch.float32
        )
    return model


def read_model(source: str | Path, config: Any, *, trusted: bool) -> tuple[nn.Module, list[str]]:
    """Return a detector with pretrained weights, and the names of newly initialised weights.

    Args:
        source: Name of the model on the Hugging Face hub, or the folder.
        config: Config of the model, possibly with another number of classes than the weights.
        trusted: Whether weights in pickle files may be loaded, too; otherwise only safetensors
            files are loaded.

    Raises:
        CheckpointError: If the weights cannot be read.
    """
    library = transformers()
    with _reading("weights", source), _quiet(library):
        model, info = library.AutoModelForObjectDetection.from_pretrained(
            source,
            config=config,
            ignore_mismatched_sizes=True,
            use_safetensors=None if trusted else True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    new = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
    if new:
        message = "%s: for %d classes, %d weights are newly initialised: %s"
        _log.warning(message, source, config.num_labels, len(new), ", ".join(new))
    return model, new


def read_processor(source: str | Path) -> Any:
    """Return a model's image processor, which holds its mean and std; None if it has none.

    Raises:
        CheckpointError: If the image processor cannot be read.
    """
    library, name = transformers(), "preprocessor_config.json"
    with _reading("preprocessing", source):
        if not library.utils.cached_file(source, name, _raise_exceptions_for_missing_entries=False):
            return None
        return library.AutoImageProcessor.from_pretrained(source, trust_remote_code=False)


def values_of(config: Any) -> dict[str, Any]:
    """Return the values of a config as JSON types, from which `make_config` rebuilds the config.

    Values that name a place or depend on the classes of a data set are left out.
    """
    values: dict[str, Any] = _without_places(json.loads(config.to_json_string(use_diff=False)))
    return values


def first_line(error: Exception) -> str:
    """Return the first line of an error's message as a sentence, or the name of its class."""
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{text or type(error).__name__}."


def _checked(library: Any, config: Any, values: Mapping[str, Any], source: str | Path) -> Any:
    if type(config) not in library.MODEL_FOR_OBJECT_DETECTION_MAPPING:
        msg = (
            f"{source} is not a detector: expected a model such as rt_detr_v2, d_fine, deimv2, "
            f"rf_detr or lw_detr, found {config.model_type}."
        )
        raise CheckpointError(msg)
    config._attn_implementation = None  # the library's choice, never code that the config names
    known = type(config)().to_dict().keys() | config.attribute_map.keys()
    if unknown := sorted(values.keys() - known):
        message = "%s has no values called %s; model.head.config sets them without effect."
        _log.warning(message, type(config).__name__, ", ".join(unknown))
    return config


def _plain(value: Any) -> Any:
    """Convert nested values to dicts and lists; raise an error for names of files and addresses."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    if isinstance(value, str) and any(character in value for character in "/\\:"):
        msg = (
            "model.head.config must not name files or addresses, so no value may contain a slash, "
            f"a backslash or a colon; found {value!r}. Set model.head.pretrained to load a model."
        )
        raise ConfigError(msg)
    return value


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {n: _without_places(part) for n, part in value.items() if n not in _LEFT_OUT}
    return [_without_places(part) for part in value] if isinstance(value, list) else value


@contextmanager
def _reading(part: str, source: object) -> Iterator[None]:
    """Raise a `CheckpointError` for any exception while a part of a model is read."""
    try:
        yield
    except Exception as error:
        msg = (
            f"Cannot read the {part} of the detector {source}: {first_line(error)} Expected a "
            "model on the Hugging Face Hub, such as PekingU/rtdetr_v2_r18vd, or a folder with "
            "config.json and model.safetensors."
        )
        raise CheckpointError(msg) from error


@contextmanager
def _building(model_type: object) -> Iterator[None]:
    """Raise a `CheckpointError` for any exception while a model is built from its config."""
    try:
        yield
    except Exception as error:
        msg = (
            f"Cannot build a detector of type {model_type}: {first_line(error)} Check model_type "
            "and the other values in model.head.config."
        )
        raise CheckpointError(msg) from error


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Silence the library's report of newly initialised weights, which vodet logs in one line."""
    logs = library.utils.logging
    level, has_bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if has_bars:
            logs.enable_progress_bar()
