from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from vodet.encodings import FeatureSpec
from vodet.errors import CheckpointError, ConfigError
from vodet.features.torchvision_backbone import TorchvisionBackbone
from vodet.pretrained import no_pretrained_weights

SMALL = ("mobilenet_v3_small", ("features.1", "features.9", "features.12"))


def frames(height: int = 64, width: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


def test_levels_are_those_of_torchvision_on_frames_normalised_by_hand():
    backbone = TorchvisionBackbone(*SMALL).eval()
    model = get_model("mobilenet_v3_small", weights=None).eval()
    model.load_state_dict(backbone.net.state_dict(), strict=False)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x, expected = (frames() / 255 - mean) / std, []
    for number, layer in enumerate(model.features):
        x = layer(x)
        if number in (1, 9, 12):
            expected.append(x)
    assert backbone.spec == FeatureSpec((16, 96, 576), (4, 32, 32))
    assert backbone.size_divisor == 32
    torch.testing.assert_close(list(backbone(frames()).levels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "nodes", "spec"),
    [
        ("resnet18", ["layer1", "layer3"], FeatureSpec((64, 256), (4, 16))),
        ("resnet18", ["layer3", "layer1"], FeatureSpec((64, 256), (4, 16))),
        ("convnext_tiny", ["features.1", "features.7"], FeatureSpec((96, 768), (4, 32))),
        ("regnet_y_400mf", ["trunk_output.block2"], FeatureSpec((104,), (8,))),
    ],
)
def test_other_families_of_models(name, nodes, spec):
    backbone = TorchvisionBackbone(name, nodes)
    assert backbone.spec == spec
    levels = backbone(frames()).levels
    assert [tuple(level.shape) for level in levels] == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(spec.channels, spec.strides, strict=True)
    ]
    sum(level.sum() for level in levels).backward()
    assert all(p.grad is not None for p in backbone.parameters())  # nothing unused, for DDP


def test_frozen_modules_neither_learn_nor_change_their_statistics():
    backbone = TorchvisionBackbone(*SMALL, frozen=("features.0", "features.2"), frozen_norm=True)
    backbone = copy.deepcopy(backbone)  # as for an average of the weights
    backbone.eval().train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    sum(level.sum() for level in backbone(frames()).levels).backward()
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    changed = {
        ".".join(name.split(".")[1:3])
        for name, value in backbone.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {f"features.{number}" for number in range(13)} - {"features.0", "features.2"}
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)
    assert backbone.net.get_submodule("features.1").training


def test_layers_after_the_last_node_are_left_out():
    backbone = TorchvisionBackbone("resnet18", ["layer2"])
    assert backbone.size_divisor == 8
    assert {name for name, _ in backbone.net.named_children()} == {
        *("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")
    }


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision looks for the weights of the small model before it downloads them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = get_model_weights("mobilenet_v3_small").DEFAULT.url.rpartition("/")[2]
    path = tmp_path / "hub" / "checkpoints" / name
    path.parent.mkdir(parents=True)
    return path


def test_weights_come_from_the_cache_of_torchvision(cached: Path):
    state = get_model("mobilenet_v3_small", weights=None).state_dict()
    torch.save(state, cached)
    backbone = TorchvisionBackbone(*SMALL, pretrained=True)
    for name, value in backbone.net.state_dict().items():
        assert torch.equal(value, state[name])
    with no_pretrained_weights():
        other = TorchvisionBackbone(*SMALL, pretrained=True).net.state_dict()
    name = "features.0.0.weight"
    assert not torch.equal(other[name], state[name])


def test_damaged_and_hostile_weights_are_refused(cached: Path, tmp_path: Path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path / "trace").touch, ()

    cached.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=rf"weights of mobilenet_v3_small .*{tmp_path}"):
        TorchvisionBackbone(*SMALL, pretrained=True)
    torch.save({"features.0.0.weight": Hostile()}, cached, pickle_module=pickle)
    with pytest.raises(CheckpointError, match=r"mobilenet_v3_small .*Weights only load failed$"):
        TorchvisionBackbone(*SMALL, pretrained=True)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("name", "nodes", "options", "message"),
    [
        ("resnet81", ["layer1"], {}, "no classification model 'resnet81'. Did you mean resnet18"),
        ("fasterrcnn_resnet50_fpn", ["backbone"], {}, "no classification model 'fasterrcnn"),
        ("resnet18", [], {}, r"at least one layer .*found model.backbone.nodes=\[\]"),
        ("resnet18", ["layer9"], {}, r"nodes=\['layer9'\].* layers are conv1, .*layer4"),
        ("resnet18", ["fc"], {}, r"'fc' of resnet18 .*expected .*found \[1, 1000\]"),
        ("resnet18", ["avgpool"], {}, r"'avgpool' of resnet18 .*found \[1, 512, 1, 1\]"),
        ("swin_t", ["features.1"], {}, r"'features.1' of swin_t .*found \[1, 88, 120, 96\]"),
        ("alexnet", ["features"], {}, r"'features' of alexnet .*found \[1, 256, 10, 14\]"),
        ("maxvit_t", ["blocks.0"], {}, "maxvit_t cannot be a backbone: for a frame of 352 x 480"),
        ("vit_b_16", ["encoder"], {}, "vit_b_16 .*352 x 480.*224"),
        ("resnet18", ["layer1"], {"frozen": ("layer9",)}, r"\['layer9'\] to freeze.*layer1"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, nodes, options, message, capfd):
    with pytest.raises(ConfigError, match=message):
        TorchvisionBackbone(name, nodes, **options)
    assert capfd.readouterr().err == ""


def test_padding_with_the_mean_is_0_after_normalisation():
    backbone = TorchvisionBackbone(*SMALL, padding="mean").eval()
    assert backbone.size_divisor == 1
    found = backbone(frames(50, 70))
    normalised = (frames(50, 70) - backbone.mean) / backbone.std
    expected = backbone.net(nn.functional.pad(normalised, (0, 26, 0, 14)))
    torch.testing.assert_close(list(found.levels), list(expected.values()))


def test_batch_norms_take_another_eps():
    def eps(**options):
        net = TorchvisionBackbone(*SMALL, **options).net
        return {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)}

    assert eps() == {1e-3}
    assert eps(norm_eps=1e-5) == {1e-5}
