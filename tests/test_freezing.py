from __future__ import annotations

import pytest
import torch
from torch import nn

from vodet.errors import ConfigError
from vodet.freezing import find_modules, freeze


def make_net() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    return nn.ModuleDict({"stem": nn.Conv2d(3, 3, 1), "body": body, "head": nn.Conv2d(4, 2, 1)})


def test_modules_are_found_by_dotted_names_in_the_order_asked_for():
    net = make_net()
    assert find_modules(net, ["body.1", "stem"], "The net") == [net["body"][1], net["stem"]]
    assert find_modules(net, [], "The net") == []


def test_an_unknown_name_is_refused_with_those_there_are():
    expected = r"The net has no module \['body.7', 'tail'\] to freeze. .*: stem, body, head\."
    with pytest.raises(ConfigError, match=expected):
        find_modules(make_net(), ["body.7", "stem", "tail"], "The net")


def test_frozen_modules_and_all_in_them_neither_learn_nor_train():
    net = make_net().train()
    freeze([net["body"]])
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {
        "stem.weight",
        "stem.bias",
        "head.weight",
        "head.bias",
    }
    assert {name for name, module in net.named_modules() if not module.training} == {
        "body",
        "body.0",
        "body.1",
    }


def test_statistics_of_a_frozen_norm_stay():
    net = make_net().train()
    before = net["body"][1].running_mean.clone()
    freeze([net["body"]])
    net["body"](torch.randn(2, 3, 4, 4) + 5)
    assert torch.equal(net["body"][1].running_mean, before)
    assert net["body"][1].num_batches_tracked == 0


def test_no_graph_is_kept_of_what_only_frozen_modules_computed():
    net = make_net()
    freeze([net["stem"], net["body"]])
    features = net["body"](net["stem"](torch.randn(1, 3, 4, 4)))
    assert not features.requires_grad
    net["head"](features).sum().backward()
    assert net["head"].weight.grad.abs().sum() > 0


def test_a_gradient_passes_through_frozen_modules_to_those_before():
    net = make_net()
    freeze([net["body"], net["head"]])
    net["head"](net["body"](net["stem"](torch.randn(1, 3, 4, 4)))).sum().backward()
    assert net["stem"].weight.grad.abs().sum() > 0
    assert net["body"][0].weight.grad is None
