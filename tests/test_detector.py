from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tiny import frame_info, random_frames, tiny_detector
from vodet.detector import VideoDetector
from vodet.encodings import EncodedFrames, FeatureMaps, FeatureSpec, Memory, State, WindowBatch
from vodet.errors import ConfigError
from vodet.fusion.mean import MeanFusion
from vodet.fusion.none import NoFusion
from vodet.stages import Head, MapFusion
from vodet.structures import ClipBatch, ClipLayout, Target, Window


@pytest.mark.parametrize("class_names", [(), ("car", "dog", "car")])
def test_class_names_are_distinct(class_names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"needs .*class name.*found \["):
        tiny_detector(MeanFusion, Window(), class_names)


@torch.inference_mode()
def test_frames_are_padded_with_black_at_the_right_and_the_bottom() -> None:
    detector = tiny_detector(MeanFusion, Window())
    frames = random_frames(2, size=(50, 70))
    padded = F.pad(frames, (0, 96 - 70, 0, 64 - 50))

    found, expected = detector.encode(frames), detector.encode(padded)

    assert detector.backbone.size_divisor == 32
    assert [tuple(level.shape) for level in found.maps.levels] == [(2, 8, 16, 24), (2, 8, 8, 12)]
    torch.testing.assert_close(found.maps.levels, expected.maps.levels, rtol=0, atol=0)
    assert found.sizes.tolist() == [[50, 70]] * 2


@torch.inference_mode()
def test_step_predicts_for_the_reference_frame_and_returns_a_new_memory() -> None:
    detector = tiny_detector(MeanFusion, Window(past=1))
    frames = detector.encode(random_frames(4))
    windows = WindowBatch.of_clips(frames, length=2, reference=1)

    outputs, after = detector.step(windows, detector.begin(2, frames))

    assert after == Memory({"fusion": {}, "head": {}})
    assert {len(output) for output in outputs.values()} == {2}
    mean = windows.maps.map(lambda level: level.mean(dim=1))
    torch.testing.assert_close(outputs, detector.head.predict(mean))


def clip_batch(original_size: tuple[int, int] = (64, 64)) -> ClipBatch:
    info = frame_info(size=original_size)
    info = type(info)(**{**vars(info), "size": (64, 64)})
    target = Target(
        boxes=torch.tensor([[4.0, 8, 40, 48]]),
        labels=torch.tensor([1]),
        track_ids=torch.tensor([0]),
        iscrowd=torch.tensor([False]),
    )
    layout = ClipLayout.of_window(2, reference=1)
    return ClipBatch(random_frames(2)[None], ((info, info),), ((target, target),), layout)


def test_losses_have_names_and_reach_every_weight() -> None:
    detector = tiny_detector(MeanFusion, Window(past=1)).train()
    losses = detector.losses(clip_batch())
    assert set(losses) == {"heatmap", "size", "offset"}
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, weight in detector.named_parameters() if weight.grad is None] == []


@torch.inference_mode()
def test_detections_are_in_original_pixels() -> None:
    detector = tiny_detector(MeanFusion, Window(past=1))
    (found,) = detector(clip_batch())
    (larger,) = detector(clip_batch(original_size=(128, 192)))
    assert len(found["scores"]) > 0
    torch.testing.assert_close(larger["boxes"], found["boxes"] * torch.tensor([3.0, 2, 3, 2]))
    torch.testing.assert_close(larger["scores"], found["scores"])


class Decaying(MapFusion):
    """Adds to each map what it remembers of the maps before, which fades."""

    remembers = True

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.keep = nn.Parameter(torch.tensor(0.5))

    def begin(self, videos: int, frames: EncodedFrames) -> State:
        return {
            str(number): level.new_zeros(videos, *level.shape[1:])
            for number, level in enumerate(frames.maps.levels)
        }

    def forward(self, windows: WindowBatch, state: State) -> tuple[FeatureMaps, State]:
        maps = windows.reference_maps.levels
        after = {str(n): self.keep * state[str(n)] + level for n, level in enumerate(maps)}
        return FeatureMaps(tuple(after.values())), after


@torch.inference_mode()
def test_what_a_step_leaves_in_the_memory_is_what_the_next_one_gets() -> None:
    detector = tiny_detector(Decaying, Window())
    frames = detector.encode(random_frames(4))
    memory = detector.begin(2, frames)
    assert all(not value.any() for value in memory.states["fusion"].values())
    first, after = detector.step(WindowBatch.of(frames, torch.tensor([[0], [1]]), 0), memory)
    assert all(not value.any() for value in memory.states["fusion"].values())
    second, _ = detector.step(WindowBatch.of(frames, torch.tensor([[2], [3]]), 0), after)

    assert detector.remembers
    torch.testing.assert_close(first, detector.head.predict(frames.maps[:2]))
    pairs = frames.maps.map(lambda level: level[2:] + 0.5 * level[:2])
    torch.testing.assert_close(second, detector.head.predict(pairs))


def clips_of(
    layout: ClipLayout, unknown: Sequence[tuple[int, int]] = (), clips: int = 2
) -> ClipBatch:
    """Clips with an object in every frame, of which those of some are not known."""
    count = 1 + max(frame for window in (*layout.windows, *layout.history) for frame in window)
    infos = tuple(
        tuple(
            replace(frame_info(str(clip), number), is_annotated=(clip, number) not in unknown)
            for number in range(count)
        )
        for clip in range(clips)
    )

    def target(clip: int, number: int) -> Target:
        shift = 2.0 * number + clip
        return Target(
            boxes=torch.tensor([[4.0 + shift, 8, 40 + shift, 48]]),
            labels=torch.tensor([number % 3]),
            track_ids=torch.tensor([0]),
            iscrowd=torch.tensor([False]),
        )

    targets = tuple(tuple(target(clip, n) for n in range(count)) for clip in range(clips))
    frames = random_frames(clips * count).view(clips, count, 3, 64, 64)
    return ClipBatch(frames, infos, targets, layout)


ALL_THREE = ClipLayout(((0, 0), (0, 1), (1, 2)), reference=1, reference_frame=2)


def averaged(
    terms: Sequence[dict[str, torch.Tensor]], counts: Sequence[int]
) -> dict[str, torch.Tensor]:
    return {
        name: sum(count * term[name] for count, term in zip(counts, terms, strict=True))
        / sum(counts)
        for name in terms[0]
    }


@pytest.mark.parametrize(
    ("unknown", "counts"), [((), (2, 2, 2)), (((0, 1),), (2, 1, 2)), (((0, 0), (0, 1)), (1, 1, 2))]
)
def test_losses_on_all_are_the_mean_of_those_of_each_window_in_turn(unknown, counts) -> None:
    detector = tiny_detector(Decaying, Window(past=1))
    batch = clips_of(ALL_THREE, unknown)
    found = detector.losses(batch)

    frames = detector.encode(batch.frames.flatten(0, 1))
    maps = frames.maps.map(lambda level: level.unflatten(0, (2, 3)))
    before = [torch.zeros_like(level[:, 0]) for level in maps.levels]
    terms = []
    for number in range(3):
        before = [
            detector.fusion.keep * old + level[:, number]
            for old, level in zip(before, maps.levels, strict=True)
        ]
        known = [clip for clip in range(2) if (clip, number) not in unknown]
        outputs = detector.head.predict(FeatureMaps(tuple(level[known] for level in before)))
        targets = [batch.targets[clip][number] for clip in known]
        terms.append(detector.head.criterion(outputs, targets))
    torch.testing.assert_close(found, averaged(terms, counts))
    torch.stack(list(found.values())).sum().backward()
    assert detector.fusion.keep.grad != 0


def test_without_a_memory_losses_on_all_are_those_of_the_windows_at_once() -> None:
    detector = tiny_detector(MeanFusion, Window(past=1))
    batch = clips_of(ALL_THREE, unknown=[(1, 0)])
    terms = []
    for window in ALL_THREE.windows:
        layout = ClipLayout((window,), reference=1, reference_frame=window[1])
        terms.append(detector.losses(replace(batch, layout=layout)))
    # One object in every frame that is annotated: each counts as much as another.
    torch.testing.assert_close(detector.losses(batch), averaged(terms, (1, 2, 2)))


def test_windows_that_are_not_annotated_do_not_matter_without_a_memory() -> None:
    detector = tiny_detector(NoFusion, Window())
    layout = ClipLayout(((0,), (1,), (2,)), reference=0, reference_frame=2)
    without = replace(layout, windows=((0,), (2,)))
    unknown = [(0, 1), (1, 1)]
    found = detector.losses(clips_of(layout, unknown))
    batch = replace(clips_of(layout, unknown), layout=without)
    torch.testing.assert_close(found, detector.losses(batch))


def test_a_window_of_which_nothing_is_annotated_still_passes_on_its_state() -> None:
    detector = tiny_detector(Decaying, Window())
    layout = ClipLayout(((0,), (1,)), reference=0, reference_frame=1)
    found = detector.losses(clips_of(layout, unknown=[(0, 0), (1, 0)]))
    history = ClipLayout(((1,),), reference=0, reference_frame=1, history=((0,),))
    torch.testing.assert_close(found, detector.losses(clips_of(history)))


@pytest.mark.parametrize("fusion", [NoFusion, Decaying])
def test_a_repeated_frame_has_one_loss_and_stays_known_as_a_support_frame(
    fusion: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = tiny_detector(fusion, Window(past=1, future=1))
    layout = ClipLayout(((0, 0, 1), (0, 1, 2), (1, 2, 2)), reference=1, reference_frame=2)
    batch = clips_of(layout, unknown=[(1, 1)])
    infos = tuple(
        tuple(replace(info, has_loss=(clip, number) != (0, 0)) for number, info in enumerate(own))
        for clip, own in enumerate(batch.infos)
    )
    batch = replace(batch, infos=infos)
    seen: list[list[Target | None]] = []

    def losses(windows, targets, state):
        seen.extend(targets)
        return {"one": torch.tensor(float(len(targets)))}, state

    monkeypatch.setattr(detector.head, "losses", losses)
    detector.losses(batch)
    a, b = batch.targets
    expected = [
        [a[0], None, a[1]],
        [b[0], b[0], None],
        [a[0], a[1], a[2]],
        [b[0], None, b[2]],
        [a[1], a[2], a[2]],
        [None, b[2], b[2]],
    ]
    assert [[id(t) for t in clip if t is not None] for clip in seen] == [
        [id(t) for t in clip if t is not None] for clip in expected
    ]
    assert [[t is None for t in clip] for clip in seen] == [
        [t is None for t in clip] for clip in expected
    ]


def test_the_losses_of_clips_with_a_repeated_frame_are_those_of_the_others() -> None:
    detector = tiny_detector(Decaying, Window(past=1))
    batch = clips_of(ALL_THREE)
    infos = tuple((replace(own[0], has_loss=False), *own[1:]) for own in batch.infos)
    found = detector.losses(replace(batch, infos=infos))
    # To a head that looks at no support frame it is as if the frame were not annotated.
    torch.testing.assert_close(found, detector.losses(clips_of(ALL_THREE, [(0, 0), (1, 0)])))


def test_the_state_of_a_clip_is_that_after_its_history() -> None:
    detector = tiny_detector(Decaying, Window())
    layout = ClipLayout(((2,),), reference=0, reference_frame=2, history=((0,), (1,)))
    batch = clips_of(layout)
    frames = detector.encode(batch.frames.flatten(0, 1))
    keep = detector.fusion.keep
    maps = frames.maps.map(lambda level: level[2::3] + keep * (level[1::3] + keep * level[0::3]))
    expected = detector.head.criterion(
        detector.head.predict(maps), [clip[2] for clip in batch.targets]
    )
    found = detector.losses(batch)
    torch.testing.assert_close(found, expected)
    found["heatmap"].backward()
    assert keep.grad != 0


def test_a_history_is_encoded_with_gradients_only_for_a_map_fusion_that_remembers() -> None:
    layout = ClipLayout(((2,),), reference=0, reference_frame=2, history=((0,), (1,)))
    found = {}
    for fusion, head_remembers in ((Decaying, False), (NoFusion, True), (NoFusion, False)):
        detector = tiny_detector(fusion, Window())
        detector.train()
        detector.head.remembers = head_remembers
        calls = found[fusion.__name__, head_remembers] = []
        detector.backbone.register_forward_pre_hook(
            lambda _, args, calls=calls: calls.append((len(args[0]), torch.is_grad_enabled()))
        )
        detector.losses(clips_of(layout))
    assert found == {
        ("Decaying", False): [(6, True)],
        ("NoFusion", True): [(2, True), (4, False)],
        ("NoFusion", False): [(2, True)],
    }


def test_a_detector_that_remembers_needs_a_history_to_train() -> None:
    detector = tiny_detector(Decaying, Window())
    with pytest.raises(ConfigError, match=r"found none: set data\.history\.windows=2 .*windows=7 "):
        detector.losses(clips_of(ClipLayout.of_window(1, 0)))


class PixelHead(Head):
    needs_pixels = True


def test_no_map_fusion_comes_before_a_head_that_needs_pixels() -> None:
    plain = tiny_detector(NoFusion, Window())

    def build(fusion: type[nn.Module]) -> VideoDetector:
        return VideoDetector(
            plain.backbone,
            pyramid=lambda _: plain.pyramid,
            fusion=fusion,
            head=lambda *_: PixelHead(),
            window=Window(),
            class_names=["car"],
            resize=plain.resize,
        )

    assert build(NoFusion).head.needs_pixels
    expected = "PixelHead .*pixels of the frames.* model/fusion=none; found MeanFusion"
    with pytest.raises(ConfigError, match=expected):
        build(MeanFusion)
