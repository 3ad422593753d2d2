"""Writes a detector to a folder of safetensors and JSON, and uploads it to the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import torch
from huggingface_hub import HfApi
from safetensors.torch import save
from torch import Tensor

from vodet import __version__
from vodet.errors import ConfigError, OutputError
from vodet.files import replacing
from vodet.names import visible

CONFIG_FILE, WEIGHTS_FILE, README_FILE = "config.json", "model.safetensors", "README.md"


@runtime_checkable
class SavableDetector(Protocol):
    """What saving needs of a detector; `VideoDetector` documents the members."""

    class_names: tuple[str, ...]
    config: dict[str, Any] | None
    about: Mapping[str, Any]
    head: Any

    @property
    def state_dict(self) -> Callable[[], Mapping[str, Tensor]]:
        """Return the weights by name."""

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, metrics: Mapping[str, float | int] | None = None
    ) -> None:
        """Write the detector to a folder."""


def model_card(detector: SavableDetector, config: dict[str, Any] | None) -> dict[str, Any]:
    """Return the description of a detector that checkpoints and ``config.json`` contain.

    Args:
        detector: The detector.
        config: The resolved config of the run; None if the detector was built without a config.
    """
    return {
        "version": __version__,
        "class_names": list(detector.class_names),
        "config": config,
        "settings": {"head": dict(detector.head.settings)},
    }


class Saves:
    """Adds the methods `save_pretrained` and `push_to_hub` to a detector."""

    def save_pretrained(
        self: SavableDetector,
        folder: str | os.PathLike[str],
        *,
        metrics: Mapping[str, float | int] | None = None,
    ) -> None:
        """Write the detector to a folder, from which `vodet.from_pretrained` rebuilds it.

        The folder contains ``model.safetensors``, ``config.json``, and a model card ``README.md``
        with the classes, the training data and the metrics, as far as they are known.

        Args:
            folder: The folder, created if needed. Files of these names are replaced.
            metrics: Results for the model card, such as those of `Evaluator.run`; by default the
                metrics in the checkpoint that the detector was loaded from.

        Raises:
            ConfigError: If the detector was not built from a config.
            OutputError: If a file cannot be written.

        Example:
            ::

                detector = vodet.load("best.ckpt")
                detector.save_pretrained("street-detector")
                detector = vodet.from_pretrained("street-detector")
        """
        if self.config is None:
            msg = (
                "Only a detector that was built from a config can be saved with its config: found "
                "one that was built in Python. Use a detector from vodet.load or "
                "vodet.from_pretrained, or save its state_dict()."
            )
            raise ConfigError(msg)
        about = dict(self.about)
        if metrics is not None:
            about["metrics"] = {name: float(value) for name, value in metrics.items()}
        model = _without_files(self.config)
        card = {**model_card(self, {"model": model}), "about": about}
        weights = {
            # Copies, because safetensors rejects tensors that share memory, such as tied weights.
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.state_dict().items()
        }
        _write(Path(folder), weights, card)

    def push_to_hub(
        self: SavableDetector,
        name: str,
        *,
        metrics: Mapping[str, float | int] | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Upload the files of `save_pretrained` to a repository of the Hugging Face hub.

        Args:
            name: Name of the repository, ``OWNER/NAME``; it is created if needed.
            metrics: As for `save_pretrained`.
            private: Whether a new repository is private.
            token: Access token; by default the token that ``hf auth login`` stored.

        Returns:
            The URL of the commit.

        Raises:
            ConfigError: If the detector was not built from a config.
            OutputError: If the hub cannot be reached or does not accept the files.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, metrics=metrics)
            try:
                api = HfApi(token=token)
                api.create_repo(name, private=private, exist_ok=True)
                commit = api.upload_folder(repo_id=name, folder_path=folder)
            except Exception as error:  # many kinds: of the connection, the name, the permission
                msg = (
                    f"Cannot upload the detector to {name} on the Hugging Face hub: "
                    f"{first_line(error)} Check the connection, the name (OWNER/NAME) and the "
                    "token (hf auth login)."
                )
                raise OutputError(msg) from error
        return str(commit.commit_url)


def _without_files(config: Any) -> Any:
    """Return a config without the files of weights, which are on the machine of the training."""
    if isinstance(config, dict):
        return {
            key: None if key == "checkpoint_path" else _without_files(value)
            for key, value in config.items()
        }
    return config


def first_line(error: Exception) -> str:
    """Return the first line of an error's text as a sentence, or its type if it has no text."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if line.endswith(".") else f"{line}."


def _write(folder: Path, weights: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    contents = {
        WEIGHTS_FILE: save(dict(weights), metadata={"format": "pt"}),
        README_FILE: "".join(f"{line}\n" for line in _readme(card)).encode(),
        CONFIG_FILE: json.dumps(card, ensure_ascii=False, indent=2).encode(),
    }
    for name, content in contents.items():
        with replacing(folder / name) as partial:
            partial.write_bytes(content)


def _readme(card: Mapping[str, Any]) -> Iterator[str]:
    model, about = card["config"]["model"], card["about"]
    names = ", ".join(visible(name) for name in card["class_names"])
    yield from ("---", "library_name: vodet", "pipeline_tag: object-detection")
    yield from ("tags:", "- video-object-detection", "---", "", "# Video object detector", "")
    yield f"Trained with vodet {card['version']}. Classes ({len(card['class_names'])}): {names}."
    yield from ("", "```python", "import vodet", "")
    yield "detector = vodet.from_pretrained(NAME)  # the name of this repository, or a folder"
    yield 'for frame in detector.predict("street.mp4"):'
    yield "    print(frame.index, frame.detections)"
    yield from ("```", "", "## Model", "")
    for part in ("backbone", "pyramid", "fusion", "head", "window"):
        if isinstance(settings := model.get(part), dict):
            kind = str(settings.get("_target_", "")).rpartition(".")[2]
            plain = {k: v for k, v in settings.items() if isinstance(v, int | float | str)}
            shown = ", ".join(f"{k}={v}" for k, v in plain.items() if not k.startswith("_"))
            yield f"- {part}: {kind} ({shown})" if shown else f"- {part}: {kind}"
    for title in ("training", "metrics"):
        values = about.get(title)
        if isinstance(values, dict) and values:
            yield from ("", f"## {title.capitalize()}", "", f"| {title} | |", "|---|---|")
            yield from (
                f"| {visible(str(key))} | {_cell(value)} |" for key, value in values.items()
            )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))
