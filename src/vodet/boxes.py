"""Pure functions on boxes: xyxy float tensors in pixels, sizes as ``(height, width)``."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vodet.structures import Size


def clip_boxes(
    boxes: Float[Tensor, "*n 4"], size: Size | Int[Tensor, "*m 2"]
) -> Float[Tensor, "*n 4"]:
    """Clip boxes to a picture of the given size; a tensor of sizes is broadcast to the boxes."""
    sides = size.to(boxes) if isinstance(size, Tensor) else boxes.new_tensor(size)
    return boxes.clamp(min=0).minimum(torch.cat((sides.flip(-1), sides.flip(-1)), dim=-1))


def rescale_boxes(
    boxes: Float[Tensor, "n 4"], from_size: Size, to_size: Size
) -> Float[Tensor, "n 4"]:
    """Scale boxes from one size of a picture to another, with a separate factor for each axis."""
    scale_y, scale_x = (to / origin for to, origin in zip(to_size, from_size, strict=True))
    return boxes * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])


def mirror_boxes(boxes: Float[Tensor, "*n 4"], width: int) -> Float[Tensor, "*n 4"]:
    """Mirror boxes left to right in a picture that is ``width`` pixels wide."""
    left, top, right, bottom = boxes.unbind(dim=-1)
    return torch.stack([width - right, top, width - left, bottom], dim=-1)


def box_areas(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Return the area of each box in square pixels; 0 for a box without extent."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(dim=-1)
    return width * height
