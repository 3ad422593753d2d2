"""``vodet-data import-weights``: converts checkpoints of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vodet.errors import ConfigError
from vodet.screen import Screen

if TYPE_CHECKING:
    from vodet.tasks.detectron2_weights import Architecture

EPILOG = """\
SRC is a checkpoint of detectron2: model_final.pth of SLTnet or of its baseline, Faster R-CNN with
FPN, or a .pkl file from detectron2's model zoo. No code in SRC is executed. The command infers the
architecture from the weights. It takes the window, the memory, and a mean and std that are not in
SRC from conf/experiment/imagenet_vid_sltnet.yaml or detectron2's defaults, and prints a summary.

For transformers, SRC is the name of a DETR-type detector on the Hugging Face hub, or a folder. Its
config tells its classes, and its preprocessing the size and normalisation of its input.

examples:
  vodet-data import-weights transformers PekingU/rtdetr_v2_r18vd detr.ckpt
  vodet-data import-weights sltnet model_final.pth sltnet.ckpt
  vodet-data import-weights sltnet model_final.pkl coco.ckpt --classes coco_names.txt
  vodet-data import-weights sltnet own.pth own.ckpt --classes car,dog,kite --overwrite
"""

# In the order of ImageNet VID's development kit.
IMAGENET_VID = (
    "airplane,antelope,bear,bicycle,bird,bus,car,cattle,dog,domestic_cat,elephant,fox,giant_panda,"
    "hamster,horse,lion,lizard,monkey,motorcycle,rabbit,red_panda,sheep,snake,squirrel,tiger,train,"
    "turtle,watercraft,whale,zebra"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument(
        "program", choices=["sltnet", "transformers"], help="the program that wrote SRC"
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="the checkpoint to read")
    parser.add_argument("target", type=Path, metavar="DST", help="the checkpoint to write")
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help="names of the classes in the order of the weights: a file with one per line, or A,B,C "
        "(default for 30 classes: ImageNet VID)",
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
        ConfigError: If DST exists, or the class names do not fit.
        CheckpointError: If SRC cannot be read, or its architecture is not supported.
    """
    # Imported here because the imports take seconds and other commands do not need them.
    from vodet.tasks.checkpoint import AtomicCheckpointIO
    from vodet.tasks.detectron2_weights import architecture_of, convert
    from vodet.tasks.weights import read_weights

    source, target = arguments.source, arguments.target
    if target.exists() and not arguments.overwrite:
        msg = f"{target} exists already. Choose another DST, or replace it with --overwrite."
        raise ConfigError(msg)
    if arguments.program == "transformers":
        _run_transformers(arguments)
        return
    weights = read_weights(source)
    architecture = architecture_of(weights, source)
    names = class_names(arguments.classes, architecture.num_classes)
    model = model_config(architecture)
    checkpoint, report = convert(weights, architecture, model, names, source)
    AtomicCheckpointIO().save_checkpoint(checkpoint, target)
    console = Screen(soft_wrap=True)
    for line in (_summary(architecture), report, _input(architecture)):
        console.print(str(line))
    console.print(f"Next: vodet-eval ckpt={target} data.annotations=FILE data.images=FOLDER")


def _run_transformers(arguments: argparse.Namespace) -> None:
    from vodet.cli.import_transformers import import_transformers, label_count

    source, names = str(arguments.source), None
    if arguments.classes is not None:
        names = class_names(arguments.classes, label_count(source))
    lines = import_transformers(source, arguments.target, names, trusted=arguments.trusted)
    for line in (*lines, f"Next: vodet-predict ckpt={arguments.target} source=VIDEO"):
        Screen(soft_wrap=True).print(line)


def class_names(text: str | None, count: int) -> list[str]:
    """Return the names of the classes.

    Args:
        text: A file with one name per line, or names separated by commas; None means ImageNet VID.
        count: The number of classes.

    Raises:
        ConfigError: If the number of names is not ``count``, or names are not distinct.
    """
    if text is None:
        text = IMAGENET_VID
        if count != text.count(",") + 1:
            msg = (
                f"The weights are for {count} classes, but the file does not contain their names. "
                f"Expected --classes with {count} names in the order of the weights."
            )
            raise ConfigError(msg)
    is_file = "," not in text and Path(text).is_file()
    content = Path(text).read_text("utf-8", errors="replace") if is_file else text
    parts = content.splitlines() if is_file else content.split(",")
    names = [part.strip() for part in parts if part.strip()]
    if len(names) != count or len(set(names)) != count:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        where = f"in {text}" if is_file else "separated by commas (there is no such file)"
        msg = (
            f"--classes: expected {count} different names, because the weights are for {count} "
            f"classes; found {len(names)} {where}: {listed or 'nothing'}."
        )
        raise ConfigError(msg)
    return names


def model_config(architecture: Architecture) -> dict[str, Any]:
    """Compose the config of a detector from ``conf/`` and the architecture of the weights."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from vodet.cli.app import config_dir

    overrides = ["experiment=imagenet_vid_faster_rcnn"]
    if architecture.candidate_fusion != "none":
        overrides = [
            "experiment=imagenet_vid_sltnet",
            f"model/head/fusion={architecture.candidate_fusion}",
        ]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", overrides)
    for key, value in architecture.settings().items():
        OmegaConf.update(config.model, key, value)  # raises an error for an unknown key
    plain: Any = OmegaConf.to_container(config.model, resolve=True)
    return dict(plain)


def _summary(architecture: Architecture) -> str:
    kinds = {"none": "Faster R-CNN", "max": "Faster R-CNN with anchor linking", "sltnet": "SLTnet"}
    attention = "".join(f", {key}={value}" for key, value in architecture.attention.items())
    return (
        f"{kinds[architecture.candidate_fusion]}, {architecture.backbone}, "
        f"{architecture.num_classes} classes{attention}"
    )


def _input(architecture: Architecture) -> str:
    origin = "from the file" if architecture.states_input else "defaults of detectron2"
    place = "1 x 1" if architecture.stride_in_1x1 else "3 x 3"
    return (
        f"Input: {architecture.channel_order.upper()}, mean {list(architecture.mean)}, std "
        f"{list(architecture.std)} ({origin}), strides in the {place} convolutions"
    )
