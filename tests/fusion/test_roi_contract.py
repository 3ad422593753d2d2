"""What every RoI fusion must do, for each YAML of conf/model/head/roi_fusion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tiny import roi_fusion_names, roi_fusions_of
from vodet.encodings import KeyFrame, RoIs, RoISpec, TemporalMemory
from vodet.stages import LongTermFusion, RoIFusion

SPEC = RoISpec(channels=6, resolution=3)
NAMES = [name for name in roi_fusion_names() if name != "none"]


def build(name: str) -> nn.ModuleDict:
    torch.manual_seed(0)
    spec, fusions = SPEC, nn.ModuleDict()
    for part, factory in roi_fusions_of(name).items():
        fusions[part] = factory(spec)
        assert isinstance(fusions[part], RoIFusion)
        spec = fusions[part].spec
    for weight in fusions.parameters():
        nn.init.normal_(weight, std=0.3)
    return fusions


def rois_of(windows: int, length: int, count: int = 10, seed: int = 0) -> RoIs:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(windows, *shape, generator=generator)

    corner, sides = 40 * random(length, count, 2), 5 + 20 * random(length, count, 2)
    features = random(length, count, SPEC.channels, SPEC.resolution, SPEC.resolution) - 0.3
    return RoIs(
        features=features.unbind(1),
        boxes=torch.cat((corner, corner + sides), dim=-1),
        objectness=random(count).sort(descending=True).values,
        is_valid=torch.ones(windows, count, dtype=torch.bool),
        sizes=torch.full((windows, 2), 64),
        reference=length // 2,
    )


def memories_of(fusions: nn.ModuleDict, windows: int, seed: int = 9) -> list[TemporalMemory]:
    """Memories with two key frames, where one of the fusions looks at key frames."""
    long_term = [fusion for fusion in fusions.values() if isinstance(fusion, LongTermFusion)]
    if not long_term:
        return [TemporalMemory()] * windows
    drawn = [
        KeyFrame(frame.features.detach(), frame.boxes)
        for frame in long_term[0].key_frames(rois_of(2 * windows, 1, seed=seed))
    ]
    return [TemporalMemory(key_frames=(drawn[i], drawn[windows + i])) for i in range(windows)]


def run(fusions: nn.ModuleDict, rois: RoIs, memories: list[TemporalMemory]) -> RoIs:
    for fusion in fusions.values():
        rois, memories = fusion(rois, memories)
    return rois


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_gives_rois_of_the_reference_frame_of_its_spec(name: str, length: int) -> None:
    fusions = build(name)
    rois = rois_of(2, length)
    fused = run(fusions, rois, memories_of(fusions, 2))
    spec = list(fusions.values())[-1].spec
    (features,) = fused.features
    assert features.shape == (2, 10, spec.channels, spec.resolution, spec.resolution)
    assert torch.isfinite(features).all()
    assert torch.equal(fused.boxes[:, 0], rois.boxes[:, length // 2])
    assert fused.reference == 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_no_memory_and_no_roi_are_well(name: str, training: bool) -> None:
    fusions = build(name).train(training)
    for count in (10, 0):
        rois = rois_of(2, 3, count)
        fused = run(fusions, rois, [TemporalMemory()] * 2)
        (features,) = fused.features
        assert features.shape[1] == count
        features.sum().backward() if list(fusions.parameters()) else None
        assert torch.isfinite(features).all()
        for weight in fusions.parameters():
            assert weight.grad is not None
            assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter(name: str) -> None:
    fusions = build(name).train()
    fused = run(fusions, rois_of(2, 3), memories_of(fusions, 2))
    if not list(fusions.parameters()):
        return
    fused.features[0].square().sum().backward()
    for parameter_name, weight in fusions.named_parameters():
        if parameter_name.endswith("key.bias"):  # softmax does not see what all logits share
            continue
        assert weight.grad is not None, parameter_name
        assert weight.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_batch_items_do_not_influence_each_other(name: str, training: bool) -> None:
    fusions = build(name).train(training)
    rois, memories = rois_of(3, 3), memories_of(fusions, 3)
    memories[1] = replace(memories[1], key_frames=memories[1].key_frames[:1])
    memories[2] = TemporalMemory()
    together = run(fusions, rois, memories)
    for item in range(3):
        one = slice(item, item + 1)
        own = RoIs(
            tuple(frame[one] for frame in rois.features),
            rois.boxes[one],
            rois.objectness[one],
            rois.is_valid[one],
            rois.sizes[one],
            rois.reference,
        )
        alone = run(fusions, own, memories[one])
        torch.testing.assert_close(
            alone.features[0][0], together.features[0][item], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("name", NAMES)
def test_holds_nothing_after_a_step(name: str) -> None:
    fusions = build(name).eval()
    memories = memories_of(fusions, 2)
    before = {module: set(vars(module)) for module in fusions.modules()}
    state = {key: value.clone() for key, value in fusions.state_dict().items()}
    kept = [[frame.boxes.clone() for frame in memory.key_frames] for memory in memories]
    run(fusions, rois_of(2, 3), memories)
    assert {module: set(vars(module)) for module in fusions.modules()} == before
    for key, value in fusions.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)
    for memory, boxes in zip(memories, kept, strict=True):  # a value, which nobody changes
        assert all(torch.equal(a.boxes, b) for a, b in zip(memory.key_frames, boxes, strict=True))
