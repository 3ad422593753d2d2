"""``vodet-data import-weights``: converts checkpoints of other programs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vodet.errors import ConfigError
from vodet.screen import Screen

if TYPE_CHECKING:
    from vodet.tasks.foreign_weights import Architecture

EPILOG = """\
For torchvision, detectron2 and sltnet, SRC holds the weights of a Faster R-CNN with FPN:
  torchvision   weights of fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2 (.pth), or another
                ResNet with FPN; of fasterrcnn_mobilenet_v3_large_fpn; or, with --base
                torchvision_mobilenet_v3_large_320_fpn, of fasterrcnn_mobilenet_v3_large_320_fpn
  detectron2    a model from its zoo (.pkl) or your own (model_final.pth)
  sltnet        model_final.pth of SLTnet, or of its baseline in detectron2
For transformers, SRC is the name of a DETR-type detector on the Hugging Face hub, or a folder. Its
config contains the class names, and its preprocessing the size and normalisation of the input.

No code in SRC is executed. The command infers the architecture from the weights. Settings that the
weights do not contain come from conf/base or, for SLTnet, from
conf/experiment/imagenet_vid_sltnet.yaml. docs/pretrained-weights.md says where to get the files.

examples:
  vodet-data import-weights torchvision fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth coco.ckpt
  vodet-data import-weights torchvision own.pth own.ckpt --classes car,dog,kite --overwrite
  vodet-data import-weights detectron2 model_final_280758.pkl coco.ckpt
  vodet-data import-weights transformers PekingU/rtdetr_v2_r18vd detr.ckpt
  vodet-data import-weights sltnet model_final.pth sltnet.ckpt
"""

# Further Hydra overrides of each program: the frame size that differs from the one in conf/base.
_CHOICES = {"torchvision": [], "detectron2": [], "sltnet": ["data/input=short_600"]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    programs = [*_CHOICES, "transformers"]
    parser.add_argument("program", choices=programs, help="the program that wrote SRC")
    parser.add_argument("source", type=Path, metavar="SRC", help="the checkpoint to read")
    parser.add_argument("target", type=Path, metavar="DST", help="the checkpoint to write")
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help="names of the classes in the order of the weights: a file with one per line, or A,B,C "
        "(default for 80 classes: COCO; for 30: ImageNet VID)",
    )
    parser.add_argument(
        "--base",
        metavar="NAME",
        help="file of conf/base with the settings of the network, if several fit the weights",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")
    parser.add_argument(
        "--trusted",
        action="store_true",
        help="transformers: also read weights that are a pickle, if you trust their author",
    )


def run(arguments: argparse.Namespace) -> None:
    """Read SRC, write DST and print a summary.

    Raises:
        ConfigError: If DST exists, or the class names or the base do not fit.
        CheckpointError: If SRC cannot be read, or its architecture is not supported.
    """
    # Imported here because the imports take seconds and other commands do not need them.
    from vodet.tasks.checkpoint import AtomicCheckpointIO
    from vodet.tasks.conversion import convert
    from vodet.tasks.foreign_weights import PROGRAMS
    from vodet.tasks.weights import read_weights

    source, target = arguments.source, arguments.target
    if target.exists() and not arguments.overwrite:
        msg = f"{target} exists already. Choose another DST, or replace it with --overwrite."
        raise ConfigError(msg)
    if arguments.program == "transformers":
        _run_transformers(arguments)
        return
    weights = read_weights(source)
    architecture = PROGRAMS[arguments.program](weights, source)
    names = class_names(arguments.classes, *architecture.class_counts)
    base = chosen_base(architecture, arguments.base)
    others = [name for name in architecture.bases if name != base]
    choices = [f"base={base}"] if others else []  # SLTnet's overrides have no base
    model = model_config(architecture, *choices, *_CHOICES[arguments.program])
    checkpoint, report = convert(weights, architecture, model, names, source)
    AtomicCheckpointIO().save_checkpoint(checkpoint, target)
    console = Screen(soft_wrap=True)
    kind, *details = architecture.summary
    for line in (kind, report, *details):
        console.print(str(line))
    if others:
        console.print(f"Settings: {base}. --base chooses {' or '.join(others)}, which also fits.")
    console.print(f"Next: vodet-eval ckpt={target} data.annotations=FILE data.images=FOLDER")


def _run_transformers(arguments: argparse.Namespace) -> None:
    from vodet.cli.import_transformers import import_transformers, label_count

    if arguments.base is not None:
        msg = "--base is for weights of torchvision, not of transformers: leave it out."
        raise ConfigError(msg)
    source, names = str(arguments.source), None
    if arguments.classes is not None:
        names = class_names(arguments.classes, label_count(source))
    lines = import_transformers(source, arguments.target, names, trusted=arguments.trusted)
    for line in (*lines, f"Next: vodet-predict ckpt={arguments.target} source=VIDEO"):
        Screen(soft_wrap=True).print(line)


def class_names(text: str | None, *counts: int) -> list[str]:
    """Return the class names that ``--classes`` gives, or the default names.

    Args:
        text: The value of ``--classes``: a file with one name per line, or names separated by
            commas; None if it is not set.
        counts: The possible numbers of classes; the first is the default.

    Raises:
        ConfigError: If the number of names is not one of ``counts``, or names are not distinct.
    """
    expected = " or ".join(map(str, counts))
    if text is None:
        return _known_names(counts)
    is_file = "," not in text and Path(text).is_file()
    content = Path(text).read_text("utf-8", errors="replace") if is_file else text
    parts = content.splitlines() if is_file else content.split(",")
    names = [part.strip() for part in parts if part.strip()]
    if len(names) not in counts or len(set(names)) != len(names):
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        where = f"in {text}" if is_file else "separated by commas (there is no such file)"
        msg = (
            f"--classes: expected {expected} different names, because the weights are for "
            f"{expected} classes; found {len(names)} {where}: {listed or 'nothing'}."
        )
        raise ConfigError(msg)
    return names


def _known_names(counts: Sequence[int]) -> list[str]:
    """Return the class names of the data set with the default number of classes, ``counts[0]``."""
    from vodet.tasks.foreign_weights import known_class_names

    names = known_class_names(counts[0])
    if names is None:
        msg = (
            f"The weights are for {counts[0]} classes, whose names are not in the file. Give "
            f"--classes with {counts[0]} names, in the order in which they were trained."
        )
        raise ConfigError(msg)
    return list(names)


def chosen_base(architecture: Architecture, name: str | None) -> str:
    """Return the value of ``--base``, or the default base of the architecture.

    Raises:
        ConfigError: If the base does not fit the weights.
    """
    if name is not None and name not in architecture.bases:
        fitting = " or ".join(architecture.bases)
        msg = f"--base: expected {fitting}, which fits the weights; found {name!r}."
        raise ConfigError(msg)
    return name or architecture.bases[0]


def model_config(architecture: Architecture, *choices: str) -> dict[str, Any]:
    """Compose the config of a detector from ``conf/`` and the architecture of the weights.

    Args:
        architecture: The architecture of the network, as inferred from its weights.
        choices: Further Hydra overrides, such as ``data/input=short_800``.

    Returns:
        The config as plain values.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from vodet.cli.app import config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", [*architecture.overrides, *choices])
    for key, value in architecture.settings().items():
        OmegaConf.update(config.model, key, value)  # raises an error for an unknown key
    plain: Any = OmegaConf.to_container(config.model, resolve=True)
    return dict(plain)
