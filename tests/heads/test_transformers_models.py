"""Models of the transformers library from folders and configs, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vodet
from tiny_detr import CONFIGS, config_of, saved
from vodet.errors import CheckpointError, ConfigError
from vodet.heads.transformers_detector import IMAGENET, TransformersDetector
from vodet.heads.transformers_models import make_config, values_of
from vodet.pretrained import no_pretrained_weights


def rewrite(folder: Path, name: str, change: Callable[[dict], object]) -> None:
    path = folder / name
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_the_statistics_are_those_of_the_models_own_processor(tmp_path: Path) -> None:
    plain = TransformersDetector(3, pretrained=saved(tmp_path / "a"))
    assert plain.mean.flatten().tolist() == [0, 0, 0]
    assert plain.std.flatten().tolist() == [255, 255, 255]
    own = {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    normalised = TransformersDetector(3, pretrained=saved(tmp_path / "b", **own))
    assert normalised.mean.flatten().tolist() == pytest.approx([25.5, 51, 76.5])
    assert normalised.std.flatten().tolist() == pytest.approx([102, 127.5, 153])
    given = TransformersDetector(3, pretrained=tmp_path / "b", mean=[1.0, 2.0, 3.0])
    assert given.mean.flatten().tolist() == [1, 2, 3]


def test_without_a_processor_imagenets_statistics_are_used_and_this_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (saved(tmp_path) / "preprocessor_config.json").unlink()
    detector = TransformersDetector(3, pretrained=tmp_path)
    expected = [255 * share for share in IMAGENET[0]]
    assert detector.mean.flatten().tolist() == pytest.approx(expected)
    assert "ImageNet" in caplog.text
    assert str(tmp_path) in caplog.text


def test_for_other_classes_some_layers_are_new_and_this_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path)
    same = TransformersDetector(3, pretrained=tmp_path)
    assert same.is_pretrained
    assert caplog.text == ""
    other = TransformersDetector(5, pretrained=tmp_path)
    assert not other.is_pretrained
    assert f"{tmp_path}: for 5 classes," in caplog.text
    assert "model.denoising_class_embed.weight" in caplog.text
    before, after = same.state_dict(), other.state_dict()
    differ = {n for n in before if before[n].shape != after[n].shape}
    assert all("class_embed" in name or "score_head" in name for name in differ)
    kept = before.keys() - differ
    assert all(torch.equal(before[name], after[name]) for name in kept)


def test_values_of_the_config_replace_those_of_the_folder(tmp_path: Path) -> None:
    detector = TransformersDetector(3, pretrained=saved(tmp_path), config={"num_queries": 7})
    logits, _, _ = detector(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert logits.shape == (1, 7, 3)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_values_of_a_config_make_it_again(name: str) -> None:
    values = values_of(make_config(config_of(name, num_labels=3)))
    assert values_of(make_config(values)) == values
    assert json.loads(json.dumps(values)) == values
    assert "/" not in json.dumps(values)


def test_unknown_values_are_said(caplog: pytest.LogCaptureFixture) -> None:
    make_config(config_of("rt_detr_v2", num_querys=7))
    assert "RTDetrV2Config has no values called num_querys" in caplog.text


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({}, ConfigError, r"model\.head\.pretrained.*config\.model_type.*found neither"),
        ({"model_type": "bert"}, CheckpointError, r"not a detector.*rt_detr_v2.*found bert"),
        ({"model_type": "no_such"}, CheckpointError, r"no_such"),
        (config_of("rt_detr_v2", d_model=15), CheckpointError, r"Cannot build .*rt_detr_v2"),
        (
            {
                "model_type": "rt_detr_v2",
                "backbone_config": {"model_type": "timm_backbone", "backbone": "hf_hub:a/b"},
            },
            ConfigError,
            r"must not name files or addresses.*found 'hf_hub:a/b'",
        ),
        (
            config_of("rt_detr_v2", attn_implementation="kernels-community/attention"),
            ConfigError,
            r"must not name files or addresses.*found 'kernels-community/attention'",
        ),
    ],
)
def test_configs_that_make_no_detector_are_refused(config, error, message: str) -> None:
    with pytest.raises(error, match=message):
        TransformersDetector(3, config=config)


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _damaged(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def _damaged_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _damaged_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text("[1")


def _of_another_kind(folder: Path) -> None:
    rewrite(folder, "config.json", lambda values: values.update(model_type="bert"))


def _pickled(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    _without_weights(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_config, r"read the config of .*config\.json and model\.safetensors"),
        (_damaged_config, r"read the config of .*config\.json"),
        (_without_weights, r"read the weights of .*model\.safetensors"),
        (_damaged, r"read the weights of "),
        (_damaged_processor, r"read the preprocessing of "),
        (_of_another_kind, r"is not a detector: .*found bert"),
        (_pickled, r"read the weights of .*model\.safetensors"),
    ],
)
def test_folders_that_hold_no_usable_detector_are_refused(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    spoil(saved(tmp_path))
    with pytest.raises(CheckpointError, match=message) as caught:
        TransformersDetector(3, pretrained=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_pickled_weights_are_loaded_if_trusted(tmp_path: Path) -> None:
    expected = TransformersDetector(3, pretrained=saved(tmp_path)).state_dict()
    _pickled(tmp_path)
    found = TransformersDetector(3, pretrained=tmp_path, trusted=True).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"read the config of .*/nothing.*a folder with"):
        TransformersDetector(3, pretrained=tmp_path / "nothing")


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    entries = {"AutoConfig": "own.Config", "AutoModelForObjectDetection": "own.Model"}
    rewrite(tmp_path, "config.json", lambda values: values.update(auto_map=entries))
    TransformersDetector(3, pretrained=tmp_path)
    assert not (tmp_path / "was_run").exists()


def test_what_a_checkpoint_names_is_not_opened(tmp_path: Path) -> None:
    with no_pretrained_weights():
        detector = TransformersDetector(
            3, pretrained=saved(tmp_path), config=config_of("rt_detr_v2")
        )
    assert not detector.is_pretrained


def run(code: str, **environment: str) -> str:
    """Run code in a process of its own that fails, and return what it says."""
    paths = [str(Path(vodet.__file__).parents[1]), str(Path(__file__).parents[1])]
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    return result.stderr


def test_a_hub_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    code = (
        "from vodet.heads.transformers_detector import TransformersDetector\n"
        "TransformersDetector(3, pretrained='nobody/no-such-detector')\n"
    )
    said = run(code, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert "CheckpointError" in said
    assert "nobody/no-such-detector" in said
    assert "huggingface.co" in said


def test_without_the_library_the_extra_is_named() -> None:
    code = (
        "import sys\n"
        "sys.modules['transformers'] = None\n"  # as if it were not installed
        "import vodet.heads.detr\n"  # works without it
        "from vodet.heads.transformers_detector import TransformersDetector\n"
        "TransformersDetector(3, config={'model_type': 'rt_detr_v2'})\n"
    )
    said = run(code)
    assert "ConfigError" in said
    assert "pip install 'vodet[transformers]'" in said
