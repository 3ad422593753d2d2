from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recipe import REFERENCE
from vodet.encodings import FeatureMaps, FeatureSpec
from vodet.errors import ConfigError
from vodet.fusion.stf import (
    STF,
    DualFrameFusion,
    LevelFusion,
    MultiFrameAttention,
    SingleFrameAttention,
)


def load(part: str, module: nn.Module) -> dict[str, Tensor]:
    """Fill the module with the weights of a reference, and return its other values."""
    with np.load(REFERENCE / f"stf_{part}.npz") as file:
        values = {name: torch.as_tensor(file[name]) for name in file.files}
    weights = {n.removeprefix("sd::"): v for n, v in values.items() if n.startswith("sd::")}
    module.load_state_dict(weights)
    return values


def assert_same(found: Tensor, expected: Tensor) -> None:
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 1e-5, f"relative error {error:.1e}"


def test_multi_frame_attention_agrees_with_the_reference():
    module = MultiFrameAttention(8)
    values = load("multi_frame_attention", module)
    assert_same(module(values["x_t"], values["x_prev"].unsqueeze(1)), values["out"])


def test_single_frame_attention_agrees_with_the_reference():
    module = SingleFrameAttention(8)
    values = load("single_frame_attention", module)
    assert_same(module(values["x"]), values["out"])


def test_dual_frame_fusion_agrees_with_the_reference():
    module = DualFrameFusion(8, merge="concat").eval()
    values = load("dual_frame_fusion", module)
    assert_same(module(values["x_mfa"], values["x_sfa"]), values["out_eval"])
    module.train()
    assert_same(module(values["x_mfa"], values["x_sfa"]), values["out_train"])
    bn = module.deform_conv.bn
    assert_same(bn.running_mean, values["running_mean_after_train"])
    assert_same(bn.running_var, values["running_var_after_train"])


def test_merge_add_adds_the_single_frame_map_after_the_convolution():
    module = DualFrameFusion(4, merge="add").eval()
    multi, single = torch.randn(2, 4, 6, 5), torch.randn(2, 4, 6, 5)
    torch.testing.assert_close(module(multi, single), module.deform_conv(multi) + single)


def test_several_support_frames_are_averaged_after_their_own_weights():
    module = MultiFrameAttention(8)
    x, support = torch.randn(2, 8, 5, 4), torch.randn(2, 3, 8, 5, 4)
    alone = [module(x, support[:, k : k + 1]) for k in range(3)]
    torch.testing.assert_close(module(x, support), torch.stack(alone).mean(0))


def test_a_frame_without_support_supports_itself():
    module = LevelFusion(8).eval()
    window = torch.randn(2, 1, 8, 6, 6)
    torch.testing.assert_close(module(window, 0), module(window.expand(2, 2, 8, 6, 6), 1))


@pytest.mark.parametrize("merge", ["concat", "add"])
@pytest.mark.parametrize("reference", [0, 1, 2])
def test_the_reference_frame_plays_its_own_part(merge, reference):
    module = LevelFusion(8, merge).eval()
    window = torch.randn(2, 3, 8, 6, 6)
    support = torch.stack([window[:, k] for k in range(3) if k != reference], dim=1)
    x = window[:, reference]
    expected = module.fusion(module.multi(x, support), module.single(x))
    torch.testing.assert_close(module(window, reference), expected)


def test_each_level_has_its_own_weights_and_keeps_its_shape():
    spec = FeatureSpec((8, 12), (4, 8))
    window = FeatureMaps((torch.randn(2, 2, 8, 8, 6), torch.randn(2, 2, 12, 4, 3)))
    fused = STF(spec)(window, 1)
    assert [level.shape for level in fused.levels] == [(2, 8, 8, 6), (2, 12, 4, 3)]


def test_items_of_a_batch_do_not_meet():
    module = STF(FeatureSpec((8,), (4,))).eval()
    window = FeatureMaps((torch.randn(3, 2, 8, 6, 6),))
    together = module(window, 1).levels[0]
    alone = torch.cat([module(window[k : k + 1], 1).levels[0] for k in range(3)])
    torch.testing.assert_close(together, alone)


def test_unknown_merge_is_refused():
    with pytest.raises(ConfigError, match="merge must be one of concat, add; found 'mean'"):
        DualFrameFusion(8, merge="mean")
