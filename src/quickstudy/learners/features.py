"""What learners with layers of their own must know of a backbone: the shape of its features."""

from __future__ import annotations

from torch import nn


def feature_shape(backbone: nn.Module, learner: str) -> tuple[int, ...]:
    """One row of features: (d,), or (channels, height, width) of a backbone that gives maps.

    Read from the attribute ``feature_shape`` or, for vectors, ``features``. Raises ValueError for a
    backbone that has neither.
    """
    shape = getattr(backbone, "feature_shape", None)
    if shape is None and isinstance(getattr(backbone, "features", None), int):
        shape = (backbone.features,)
    if shape is None:
        raise ValueError(
            f"{learner}: its own layers must know the size of the features, but the backbone "
            f"({type(backbone).__name__}) does not tell it. Set an attribute `features` (int) on "
            "it, or `feature_shape` where it gives maps (channels, height, width)."
        )
    return tuple(shape)


def feature_size(backbone: nn.Module, learner: str) -> int:
    """The number of features of a backbone that gives vectors; ValueError for one with maps."""
    shape = feature_shape(backbone, learner)
    if len(shape) != 1:
        raise ValueError(
            f"{learner}: needs a backbone that gives vectors (n, d); found maps of shape {shape}. "
            "Flatten them: Conv4(flat=True)."
        )
    return shape[0]
