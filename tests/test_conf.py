"""Every YAML file of conf/ composes and builds what it names."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import product
from pathlib import Path

import hydra
import pytest
import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from vodet.cli.app import config_dir
from vodet.cli.experiments import experiments, register_experiments
from vodet.cli.train import begin, build
from vodet.cli.trainer import build_trainer
from vodet.data.generated.sets import generate
from vodet.data.generated.synthetic import SyntheticConfig
from vodet.errors import ConfigError
from vodet.stages import PlainMapFusion
from vodet.structures import Window

COMMANDS = ("train", "eval", "predict", "export")


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def groups() -> list[str]:
    """Every group of the training config, that is, every folder with YAML files."""
    folders = {path.parent.relative_to(config_dir()) for path in config_dir().rglob("*/*.yaml")}
    return sorted(str(folder) for folder in folders if folder.parts[0] != "hydra")


DETR = ("detr", "query_attention", "model/backbone=none")
DETR_OVERRIDES = [
    "model/backbone=none",
    "model/pyramid=identity",
    "model/fusion=none",
    "model.head.pretrained=null",
    "++model.head.config.model_type=rt_detr_v2",
]

CHOICES = [(group, option) for group in groups() for option in options(group)]
PAIRS = experiments(config_dir())


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "demo"
    generate(root, SyntheticConfig(train_videos=1, val_videos=1, frames_per_video=3, size=64))
    (root.parent / "imagenet_det").symlink_to(root)  # that one config trains on beside its own
    return root


@pytest.fixture
def compose(data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Composes the training config with data that are there and nothing to download."""
    for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES"):
        monkeypatch.setenv(name, "1")
    overrides = [
        f"run_dir={tmp_path}",
        f"data_dir={data_set.parent}",
        f"data.train.annotations={data_set}/train.json",
        f"data.train.images={data_set}",
        f"data.val.annotations={data_set}/val.json",
        f"data.val.images={data_set}",
        "prepare_data=null",
        "trainer.accelerator=cpu",
    ]

    register_experiments(config_dir())

    def compose_(*choices: str) -> DictConfig:
        parts = [choice for choice in choices if not choice.startswith("model/head/fusion=")]
        is_detr = any(part.endswith(DETR) for part in parts)
        # A DETR has no backbone of its own, and its model is on a hub.
        own = DETR_OVERRIDES if is_detr else ["model.backbone.pretrained=false"]
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            return hydra.compose("train", [*choices, *overrides, *own])

    return compose_


def test_all_groups_are_found() -> None:
    expected = {"data", "model/backbone", "model/fusion", "experiment", "window", "trainer"}
    assert expected <= set(groups())
    assert len(CHOICES) > 30


@pytest.mark.parametrize("command", COMMANDS)
def test_command_composes(command: str) -> None:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose(command, return_hydra_config=True)
    assert config.hydra.output_subdir is None


@pytest.mark.parametrize(("group", "option"), CHOICES)
def test_choice_builds(group: str, option: str, compose) -> None:
    if (group, option) in {("trainer", "gpu")}:
        pytest.skip("needs a GPU; the trainer's YAML differs from default in two values")
    further = {
        "trainer": ["trainer.accelerator=cpu"],
        "model/head/fusion": ["model/head=two_stage"],
        "phase": ["model/head=two_stage", "window=symmetric"],
        "model/backbone": ["model/head=detr"] if option == "none" else [],
    }
    if group == "logger" and option in {"wandb", "mlflow"} and find_spec(option) is None:
        pytest.skip(f"needs {option}")
    config = compose(*further.get(group, []), f"{group}={option}")
    data, task = build(config)
    trainer = build_trainer(config)
    assert isinstance(task.detector.window, Window)
    assert task.detector.window == data.window
    assert data.class_names == task.detector.class_names
    assert trainer.max_epochs == config.trainer.max_epochs
    if group == "model/head/fusion":
        fusions = task.detector.head.fusion.members
        named = [fusion._target_ for fusion in (config.model.head.fusion or {}).values()]
        assert [name.rpartition(".")[2] for name in named] == [
            type(fusion).__name__ for fusion in fusions.values()
        ]
        assert len(fusions) == (option != "none") + (option == "sltnet")
    elif group.startswith("model/"):
        part = getattr(task.detector, group.removeprefix("model/"))
        part = part.net if isinstance(part, PlainMapFusion) else part
        target = OmegaConf.load(config_dir() / group / f"{option}.yaml").get("_target_")
        assert target is None or target.endswith(f".{type(part).__name__}")


def test_data_sets_and_methods_make_experiments_without_a_file() -> None:
    data = {"cityscapes", "custom", "imagenet_vid", "imagenet_vid_det", "kitti_mots", "mot17"}
    data |= {"long_range", "synthetic", "uavdt"}
    methods = {"centernet", "detr", "faster_rcnn", "one_stage", "query_attention", "selsa"}
    methods |= {"sltnet", "stf", "yolov", "yolov_pp"}
    files = {"cityscapes_sltnet"} | {
        f"imagenet_vid_{m}" for m in ("faster_rcnn", "selsa", "sltnet")
    }
    assert set(PAIRS) == {f"{d}_{m}" for d in data for m in methods} - files
    assert files <= set(options("experiment"))


@pytest.mark.parametrize("name", PAIRS)
def test_experiment_without_a_file_is_its_data_set_with_its_method(name: str, compose) -> None:
    data, method = PAIRS[name]
    # The method's own backbone is built by the test of the method.
    small = ["model.backbone.name=test_resnet"] if method not in DETR else []
    config = compose(*small, f"experiment={name}")
    assert config == compose(*small, f"data={data}", f"name={name}", f"method={method}")
    data_module, task = build(config)
    assert task.detector.window == data_module.window == instantiate(config.window)


@pytest.mark.parametrize(
    ("option", "environment"),
    [
        (
            "ddp_torchrun",
            {
                "TORCHELASTIC_RUN_ID": "vodet",
                "LOCAL_WORLD_SIZE": "2",
                "GROUP_WORLD_SIZE": "3",
                "WORLD_SIZE": "6",
                "RANK": "0",
                "LOCAL_RANK": "0",
                "GROUP_RANK": "0",
            },
        ),
        (
            "ddp_slurm",
            {
                "SLURM_JOB_NAME": "vodet",
                "SLURM_NTASKS_PER_NODE": "2",
                "SLURM_NNODES": "3",
                "SLURM_NTASKS": "6",
                "SLURM_PROCID": "0",
                "SLURM_LOCALID": "0",
                "SLURM_NODEID": "0",
            },
        ),
    ],
)
def test_launcher_says_how_many_processes(
    option: str, environment: dict[str, str], compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    trainer = build_trainer(compose(f"trainer={option}"))
    cluster = trainer.strategy.cluster_environment
    assert cluster.creates_processes_externally
    cluster.validate_settings(num_devices=2, num_nodes=3)
    assert (trainer.num_devices, trainer.num_nodes, trainer.world_size) == (2, 3, 6)


def uses_maps(head: str) -> bool:
    target = OmegaConf.load(config_dir() / "model" / "head" / f"{head}.yaml").get("_target_")
    return target is None or get_object(target).uses_maps


def test_any_two_parts_combine(compose) -> None:
    pyramids = ("projection", "fpn", "pafpn")
    heads = [*filter(uses_maps, options("model/head"))]
    fusions = options("model/fusion")
    assert min(len(heads), len(fusions)) >= len(pyramids)  # so every pair occurs below
    for (row, fusion), (column, head) in product(enumerate(fusions), enumerate(heads)):
        config = compose(
            "model.backbone.name=test_resnet",
            f"model/fusion={fusion}",
            f"model/pyramid={pyramids[(row + column) % len(pyramids)]}",
            f"model/head={head}",
            "window=symmetric",
        )
        with torch.device("meta"):  # without initial weights, which take most of the time
            detector = instantiate(config.model, class_names=["a"])
        assert detector.window.lookahead == 3


@pytest.mark.parametrize("window", ["causal", "symmetric"])
def test_the_window_of_an_evaluation_is_chosen_by_name(window: str) -> None:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra.compose("eval", [f"window={window}"])
        default = hydra.compose("eval")
    expected = OmegaConf.load(config_dir() / "window" / f"{window}.yaml")
    assert {key: config.window[key] for key in expected} == expected
    assert default.window == {"past": None, "future": None, "frame_stride": None}


@pytest.mark.parametrize(
    ("choices", "protocols", "best_by"),
    [
        (["experiment=imagenet_vid_stf"], "vid motion coco track_length stability", "vid/ap_50"),
        (["data=imagenet_vid_det"], "vid motion coco track_length stability", "vid/ap_50"),
        (["data=uavdt"], "uavdt coco motion track_length stability", "uavdt/ap_70"),
        (["data=mot17"], "coco motion track_length stability", "map"),
        (["data=custom"], "coco", "map"),
        (["data=uavdt", "evaluation=vid"], "vid motion coco track_length stability", "vid/ap_50"),
        (["data=uavdt", "evaluation.protocols=[uavdt]"], "uavdt", "uavdt/ap_70"),
    ],
)
def test_a_data_set_says_how_it_is_evaluated(
    choices: list[str], protocols: str, best_by: str, compose
) -> None:
    config = compose(*choices)
    assert config.evaluation.protocols == protocols.split()
    assert config.callbacks.best.monitor == f"val/{best_by}"
    assert "evaluation" not in config.data


def test_the_evaluation_of_a_checkpoint_is_chosen_by_name() -> None:
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        chosen = hydra.compose("eval", ["evaluation=uavdt"]).evaluation
        default = hydra.compose("eval").evaluation
    assert chosen.protocols == ["uavdt", "coco", "motion", "track_length", "stability"]
    assert (default.protocols, default.tubelet_linking) == (None, None)


def test_second_phases_freeze_their_first(compose) -> None:
    for name in ("demo_sltnet", "imagenet_vid_sltnet"):
        config = compose(f"experiment={name}", "model.backbone.name=test_resnet")
        with pytest.raises(
            ConfigError, match=r"model\.frozen.*head\.rpn.* random.*init_from=CHECKPOINT"
        ):
            begin(config, instantiate(config.model, class_names=["a"]))
        detector = instantiate(config.model, class_names=["a"])
        learning = {n for n, weight in detector.named_parameters() if weight.requires_grad}
        assert {".".join(n.split(".")[:2]) for n in learning} == {
            "head.fusion",
            "head.st_head",
        }
        assert (config.window.past, config.window.future) == (3, 3)
