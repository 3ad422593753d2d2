from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.optical_flow import raft_small
from torchvision.models.optical_flow._utils import upsample_flow

from vodet.encodings import EncodedFrames, FeatureMaps, FeatureSpec, WindowBatch
from vodet.errors import CheckpointError
from vodet.fusion.fgfa import FGFA, warp

SPEC = FeatureSpec(channels=(6, 4), strides=(8, 16))


def lively(*, moving: bool = True, **options) -> FGFA:
    """With embeddings that tell maps apart and, unless told not to, some flow everywhere."""
    torch.manual_seed(0)
    module = FGFA(SPEC, embedding_width=5, flow_updates=2, **options)
    for weight in module.embeddings.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    if moving:
        torch.nn.init.normal_(module.flow.update_block.flow_head.conv2.weight, std=0.1)
    return module.eval()


def encoded(module: FGFA, pixels: Tensor, seed: int = 0) -> EncodedFrames:
    generator = torch.Generator().manual_seed(seed)
    levels = tuple(
        torch.randn(len(pixels), c, 128 // s, 160 // s, generator=generator)
        for c, s in zip(SPEC.channels, SPEC.strides, strict=True)
    )
    maps, sizes = FeatureMaps(levels), torch.tensor([[128, 160]]).expand(len(pixels), 2)
    return EncodedFrames(maps, sizes, module.encode(pixels, sizes, maps))


def pixels_of(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 16, 20, generator=generator)
    return (255 * F.interpolate(coarse, scale_factor=8, mode="bicubic").clamp(0, 1)).byte()


def fused(module: FGFA, frames: EncodedFrames, rows: list[int], reference: int) -> FeatureMaps:
    maps, state = module(WindowBatch.of(frames, torch.tensor([rows]), reference), {})
    assert state == {}
    return maps


def assert_close(found: FeatureMaps, expected: FeatureMaps) -> None:
    for a, b in zip(found.levels, expected.levels, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def flow_of(x: float, y: float, height: int, width: int) -> Tensor:
    """A flow by whole cells of a map, in shares of it, on a coarser grid."""
    shares = torch.tensor([x / width, y / height]).view(1, 2, 1, 1)
    return shares.expand(1, 2, max(1, height // 2), max(1, width // 2))


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 9)])
def test_no_flow_is_the_identity(size: tuple[int, int]) -> None:
    maps = torch.randn(1, 3, *size)
    torch.testing.assert_close(warp(maps, flow_of(0, 0, *size)), maps, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("x", "y"), [(1, 0), (0, 2), (-3, 1), (20, 0)])
def test_a_flow_of_whole_cells_is_a_shift_that_repeats_the_border(x: int, y: int) -> None:
    maps = torch.randn(1, 3, 6, 8)
    columns = (torch.arange(8) + x).clamp(0, 7)
    rows = (torch.arange(6) + y).clamp(0, 5)
    found = warp(maps, flow_of(x, y, 6, 8))
    torch.testing.assert_close(found, maps[:, :, rows][..., columns], rtol=0, atol=1e-4)


@torch.inference_mode()
def test_the_flow_is_that_of_torchvisions_raft() -> None:
    module, pixels = lively(), pixels_of(2)
    frames = encoded(module, pixels)
    windows = WindowBatch.of(frames, torch.tensor([[0, 1]]), 1)
    found = module._flow(windows, [0])
    pictures = module._pictures(pixels)
    height, width = pictures.shape[-2:]
    expected = module.flow(pictures[1:], pictures[:1], num_flow_updates=2)[-1]
    cells = found * torch.tensor([width / 8, height / 8]).view(1, 2, 1, 1)
    torch.testing.assert_close(upsample_flow(cells), expected, rtol=1e-4, atol=1e-4)
    assert expected.abs().max() > 1


@torch.inference_mode()
def test_weights_and_sum_agree_with_their_formula() -> None:
    module = lively(moving=False, temperature=0.5)
    frames = encoded(module, pixels_of(3))
    found = fused(module, frames, [2, 0, 1], reference=1)
    for number, level in enumerate(frames.maps.levels):
        embedding, own = frames.extras[f"embedding_{number}"], [2, 0, 1]
        expected = torch.zeros_like(level[0])
        for y in range(level.shape[2]):
            for x in range(level.shape[3]):
                e = embedding[:, :, y, x]
                cosines = [e[row] @ e[0] / (e[row].norm() * e[0].norm()) for row in own]
                weights = torch.stack(cosines).div(0.5).exp()
                weights = weights / weights.sum()
                expected[:, y, x] = sum(
                    w * level[row, :, y, x] for w, row in zip(weights, own, strict=True)
                )
        torch.testing.assert_close(found.levels[number][0], expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_one_frame_is_the_single_frame_detector() -> None:
    module = lively()
    frames = encoded(module, pixels_of(1))
    assert_close(fused(module, frames, [0], 0), frames.maps)


@torch.inference_mode()
def test_the_same_frame_everywhere_gives_its_maps_where_nothing_moves() -> None:
    module = lively(moving=False)
    frames = encoded(module, pixels_of(1))
    assert_close(fused(module, frames, [0, 0, 0], 1), frames.maps)


@torch.inference_mode()
def test_the_order_of_support_frames_does_not_matter() -> None:
    module = lively()
    frames = encoded(module, pixels_of(4))
    assert_close(fused(module, frames, [0, 1, 2, 3], 1), fused(module, frames, [3, 1, 0, 2], 1))


def test_gradients_reach_flow_and_embeddings() -> None:
    module = lively(moving=False).train()
    frames = encoded(module, pixels_of(2))
    maps = fused(module, frames, [0, 1], 1)
    sum((level * torch.randn_like(level)).sum() for level in maps.levels).backward()
    assert module.flow.update_block.flow_head.conv2.weight.grad.abs().sum() > 0
    for embedding in module.embeddings:
        assert all(weight.grad.abs().sum() > 0 for weight in embedding[0].parameters())


def test_pictures_are_half_as_large_but_at_least_128_pixels() -> None:
    module = lively()
    sizes = {(320, 576): (160, 288), (128, 160): (128, 128), (608, 1088): (304, 544)}
    for size, expected in sizes.items():
        pictures = module._pictures(torch.zeros(1, 3, *size, dtype=torch.uint8))
        assert tuple(pictures.shape[-2:]) == expected
        torch.testing.assert_close(pictures, torch.full_like(pictures, -1))


def test_flow_weights_come_from_a_file(tmp_path: Path) -> None:
    net = raft_small(weights=None)
    torch.save(net.state_dict(), tmp_path / "raft.pth")
    module = FGFA(SPEC, checkpoint_path=tmp_path / "raft.pth")
    for name, value in module.flow.state_dict().items():
        assert torch.equal(value, net.state_dict()[name])


@pytest.mark.parametrize("content", [None, b"", {"a": torch.zeros(1)}])
def test_files_that_are_no_flow_weights_are_refused(tmp_path: Path, content) -> None:
    path = tmp_path / "raft.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(
        CheckpointError, match=r"Cannot load weights of raft_small from .*raft\.pth"
    ):
        FGFA(SPEC, checkpoint_path=path)
