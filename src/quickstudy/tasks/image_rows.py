"""What augmentations share: the sides of images, and one factor for each of them."""

from __future__ import annotations

from torch import Tensor

from quickstudy.base.trees import dtype_and_shape
from quickstudy.tasks.stacks import tensor_to_device


def image_sides(images: Tensor, name: str) -> tuple[int, int]:
    """Height and width of images; ValueError for rows that are none, where ``name`` begins."""
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"{name}: needs images (n, channels, height, width) of floats; found "
            f"{dtype_and_shape(images)}. Leave {name} out."
        )
    return images.shape[2], images.shape[3]


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Values (n,) for images (n, c, h, w): (n, 1, 1, 1) on their device; factors in their type."""
    if values.is_floating_point():
        values = values.to(images.dtype)
    return tensor_to_device(values, images.device)[:, None, None, None]
