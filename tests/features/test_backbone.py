from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch

from vodet.encodings import FeatureSpec
from vodet.errors import CheckpointError, ConfigError
from vodet.features.backbone import TimmBackbone


def frames(height: int = 64, width: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def resnet() -> TimmBackbone:
    return TimmBackbone("resnet10t", strides=(4, 16)).eval()


def test_levels_are_those_of_timm_on_frames_normalised_by_hand(resnet):
    assert resnet.spec == FeatureSpec((64, 256), (4, 16))
    assert resnet.size_divisor == 32
    mean, std = (torch.tensor(resnet.net.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    expected = resnet.net((frames() / 255 - mean) / std)
    for level, timm_level in zip(resnet(frames()).levels, expected, strict=True):
        torch.testing.assert_close(level, timm_level, rtol=1e-4, atol=1e-4)


def test_each_frame_is_encoded_by_itself(resnet):
    together = resnet(frames())
    alone = resnet(frames()[1:])
    torch.testing.assert_close(together[1:].levels, alone.levels)


def test_hrnet_gives_its_branches():
    backbone = TimmBackbone("hrnet_w18_small")
    assert backbone.spec == FeatureSpec((16, 32, 64, 128), (4, 8, 16, 32))
    levels = backbone(frames()).levels
    assert [tuple(level.shape[1:]) for level in levels] == [
        (16, 16, 24),
        (32, 8, 12),
        (64, 4, 6),
        (128, 2, 3),
    ]
    sum(level.sum() for level in levels).backward()
    assert all(p.grad is not None for p in backbone.parameters())  # nothing unused, for DDP


def test_hrnet_w32_has_the_channels_of_the_paper():
    with torch.device("meta"):
        backbone = TimmBackbone("hrnet_w32", strides=(4, 8))
    assert backbone.spec == FeatureSpec((32, 64), (4, 8))
    assert backbone.size_divisor == 32


@pytest.mark.parametrize(
    ("name", "options", "spec"),
    [
        ("mobilenetv3_small_050", {}, FeatureSpec((8, 16, 24, 288), (4, 8, 16, 32))),
        (
            "swin_tiny_patch4_window7_224",  # its maps are NHWC
            {"strides": (4, 8), "img_size": (64, 96)},
            FeatureSpec((96, 192), (4, 8)),
        ),
        (
            "vit_tiny_patch16_224",  # all its levels have one stride
            {"strides": (16,)},
            FeatureSpec((192,), (16,)),
        ),
        (
            "vit_tiny_patch16_224",  # position embeddings of another size than the frames
            {"strides": (16,), "img_size": (160, 288)},
            FeatureSpec((192,), (16,)),
        ),
        ("swinv2_tiny_window8_256", {"strides": (4, 32)}, FeatureSpec((96, 768), (4, 32))),
        ("test_vit", {"strides": [16]}, FeatureSpec((64,), (16,))),
        ("eva02_tiny_patch14_224", {"strides": [14]}, FeatureSpec((192,), (14,))),
        ("hieradet_small", {"strides": (8, 32)}, FeatureSpec((192, 768), (8, 32))),
    ],
)
def test_other_families_of_models(name, options, spec):
    with torch.device("meta"):
        backbone = TimmBackbone(name, **options).eval()
        assert backbone.spec == spec
        assert backbone.frame_size is None
        divisor = backbone.size_divisor
        for rows, columns in ((1, 1), (2, 3), (5, 9)):
            height, width = rows * divisor, columns * divisor
            levels = backbone(torch.empty(2, 3, height, width, dtype=torch.uint8)).levels
            assert [tuple(level.shape) for level in levels] == [
                (2, channels, height // stride, width // stride)
                for channels, stride in zip(spec.channels, spec.strides, strict=True)
            ]


@pytest.mark.parametrize(
    ("name", "strides", "img_size"),
    [
        ("hiera_tiny_224", (4, 8, 16, 32), (96, 160)),
        ("maxvit_tiny_tf_224", (4, 32), (96, 160)),
        ("levit_128s", (16, 32, 64), (128, 192)),
        ("efficientformer_l1", (4, 8, 16, 32), (224, 224)),  # has no argument img_size
    ],
)
def test_frames_are_padded_to_the_one_size_that_a_model_is_built_for(name, strides, img_size):
    with torch.device("meta"):
        backbone = TimmBackbone(name, strides=strides, img_size=list(img_size)).eval()
        levels = backbone(torch.empty(2, 3, 50, 70, dtype=torch.uint8)).levels
    assert backbone.frame_size == img_size
    assert backbone.size_divisor == 1  # nobody else has to pad
    assert [tuple(level.shape[2:]) for level in levels] == [
        (img_size[0] // stride, img_size[1] // stride) for stride in strides
    ]


def test_a_padded_frame_is_encoded_as_if_its_border_were_black():
    backbone = TimmBackbone("efficientformerv2_s0", strides=(4, 32), img_size=(64, 96)).eval()
    small = frames(40, 96)
    whole = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
    whole[:, :, :40] = small
    expected = backbone.net((whole / 255 - backbone.mean / 255) / (backbone.std / 255))
    found = list(backbone(small).levels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_vit_gives_at_its_own_size_what_timm_gives():
    backbone = TimmBackbone("vit_tiny_patch16_224", strides=(16,)).eval()
    timm_net = timm.create_model(
        "vit_tiny_patch16_224", features_only=True, out_indices=(11,)
    ).eval()
    timm_net.load_state_dict(backbone.net.state_dict())
    own = frames(224, 224)
    (expected,) = timm_net((own - backbone.mean) / backbone.std)
    torch.testing.assert_close(backbone(own).levels[0], expected)


def test_frozen_modules_neither_learn_nor_change_their_statistics():
    backbone = TimmBackbone("resnet10t", frozen=("conv1", "bn1", "layer1", "layer3"))
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    levels = backbone(frames()).levels
    assert not levels[0].requires_grad  # no graph is kept before the first part that learns
    sum(level.sum() for level in levels[1:]).backward()
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    changed = {
        name.split(".")[1]
        for name, value in backbone.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"layer2", "layer4"}
    assert not backbone.net.layer3.training
    assert backbone.net.layer2.training


@pytest.mark.parametrize("name", ["resnet10t", "hrnet_w18_small", "convnext_atto"])
def test_weights_come_from_a_local_file(tmp_path: Path, name: str):
    classifier = timm.create_model(name)
    path = tmp_path / "weights.pth"
    torch.save(classifier.state_dict(), path)
    backbone = TimmBackbone(name, checkpoint_path=path)
    stored = {key.replace(".", "_"): value for key, value in classifier.state_dict().items()}
    for key, value in backbone.net.state_dict().items():
        assert torch.equal(value, stored[key.replace(".", "_")])


@pytest.mark.parametrize("name", ["resnet10t", "hrnet_w18_small"])
def test_weights_of_another_model_are_refused(tmp_path: Path, name: str):
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), path)
    with pytest.raises(CheckpointError, match=f"Cannot load weights of {name} from {path}"):
        TimmBackbone(name, checkpoint_path=path)


def test_missing_damaged_and_hostile_files_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"nothing\.pth"):
        TimmBackbone("resnet10t", checkpoint_path=tmp_path / "nothing.pth")

    damaged = tmp_path / "damaged.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), damaged)
    damaged.write_bytes(damaged.read_bytes()[:10_000])
    with pytest.raises(CheckpointError, match=r"damaged\.pth"):
        TimmBackbone("resnet10t", checkpoint_path=damaged)

    hostile, trace = tmp_path / "hostile.pth", tmp_path / "trace"

    class Hostile:
        def __reduce__(self):
            return trace.touch, ()

    torch.save({"conv1.weight": Hostile()}, hostile, pickle_module=pickle)
    with pytest.raises(CheckpointError, match="weights_only"):
        TimmBackbone("resnet10t", checkpoint_path=hostile)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet10x", {}, "no model 'resnet10x'. Did you mean resnet10t"),
        ("resnet10t.no_such_tag", {}, "timm cannot build resnet10t.no_such_tag"),
        ("resnet10t", {"strides": (4, 7)}, r"strides \[2, 4, 8, 16, 32\], found strides=\[4, 7\]"),
        (
            "vit_tiny_patch16_224",
            {},
            r"strides \[16\], found strides=\[4, 8, 16, 32\]. Set model.backbone.strides .* \[16\]",
        ),
        (
            "hiera_tiny_224",
            {},
            r"expected model.backbone.img_size=\[height,width\], multiples of 32, such as "
            r"\[160,288\]; found none. .*data.resize",
        ),
        ("efficientformerv2_s0", {"img_size": (100, 90)}, r"such as .160,288.; found \[100,90\]"),
        (
            "efficientformer_l1",
            {"img_size": (96, 160)},
            r"expected model.backbone.img_size=\[224,224\], the only .*; found \[96,160",
        ),
        (
            "resnet10t",
            {"img_size": (64, 96)},
            r"accepts frames of any size.*leave out .*img_size=\(64, 96\)",
        ),
        (
            "inception_v4",  # its convolutions do not pad: maps would lie beside their frames
            {},
            r"inception_v4 cannot be a backbone: .* 299 x 299 .*expected maps of \[\(160",
        ),
        ("resnet10t", {"strides": (8, 4)}, r"found strides=\[8, 4\]. .* such as \[4, 8\]"),
        ("resnet10t", {"strides": (4, 4)}, r"found strides=\[4, 4\]. .* such as \[4\]"),
        ("resnet10t", {"strides": ()}, r"found strides=\[\]"),
        ("resnet10t", {"drop_pat": 0.1}, "drop_pat"),
        ("resnet10t", {"frozen": ("layer9",)}, r"\['layer9'\] to freeze.*conv1, bn1.*layer4"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        TimmBackbone(name, **options)


def test_sizes_that_the_model_cannot_take_are_refused(resnet):
    with pytest.raises(ConfigError, match="multiples of 32, found 64 x 80"):
        resnet(frames(64, 80))
    with torch.device("meta"):
        hiera = TimmBackbone("hiera_tiny_224", img_size=(64, 96)).eval()
    with pytest.raises(ConfigError, match=r"at most 64 x 96 .* found 64 x 128.*img_size larger"):
        hiera(frames(64, 128).to("meta"))


def test_padding_with_the_mean_is_0_after_normalisation():
    backbone = TimmBackbone("resnet10t", strides=(4, 32), padding="mean").eval()
    assert backbone.size_divisor == 1
    found = backbone(frames(50, 70))
    normalised = (frames(50, 70) - backbone.mean) / backbone.std
    expected = backbone.net(torch.nn.functional.pad(normalised, (0, 26, 0, 14)))
    torch.testing.assert_close(list(found.levels), expected)
    assert found.levels[0].shape[-2:] == (16, 24)


def test_batch_norms_take_another_eps():
    def eps(**options):
        net = TimmBackbone("resnet10t", **options).net
        return {m.eps for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)}

    assert eps() == {1e-5}
    assert eps(norm_eps=0.0) == {0.0}
