"""Properties of a backbone that learners need: the shape of its features, its device and type."""

from __future__ import annotations

from typing import TypeVar, cast

from torch import Tensor, nn

from quickstudy.base.shown import shown

Own = TypeVar("Own", bound=nn.Module | Tensor)


def feature_shape(backbone: nn.Module, learner: str) -> tuple[int, ...]:
    """One row of features: (d,), or (channels, height, width) of a backbone that gives maps.

    Read from the attribute ``feature_shape`` or, for vectors, ``features``. Raises ValueError for a
    backbone that has neither, and for one with a head.
    """
    shape = _declared_shape(backbone)
    if shape is None:
        raise ValueError(
            f"{learner}: needs the number of features for its own layers, but the backbone "
            f"({type(backbone).__name__}) does not declare it. Set an attribute `features` (int) "
            "on it, or `feature_shape` where it gives maps (channels, height, width)."
        )
    _refuse_head(backbone, learner)
    return shape


def feature_size(backbone: nn.Module, learner: str) -> int:
    """The number of features of a backbone that gives vectors.

    Raises ValueError where :func:`feature_shape` does, and for maps.
    """
    shape = feature_shape(backbone, learner)
    _refuse_maps(shape, learner)
    return shape[0]


def refuse_heads_and_maps(backbone: nn.Module, learner: str) -> None:
    """Raise ValueError for a backbone whose outputs are not feature vectors.

    It ends in a head (attributes ``features`` and ``outputs``) or returns maps
    (``feature_shape``). A backbone that declares neither is assumed to return vectors (n, d).
    """
    shape = _declared_shape(backbone)
    if shape is not None:
        _refuse_head(backbone, learner)
        _refuse_maps(shape, learner)


def like(backbone: nn.Module, own: Own) -> Own:
    """A learner's ``own`` layers or tensor, in the dtype and on the device of its backbone.

    They are those of its first floating-point parameter; without one, ``own`` is unchanged.
    """
    for parameter in backbone.parameters():
        if parameter.dtype.is_floating_point:
            return cast("Own", own.to(parameter.device, parameter.dtype))
    return own


def refuse_sizes(who: str, **sizes: int) -> None:
    """Raise ValueError, prefixed by ``who``, for the first of ``sizes`` that is not 1 or more."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{who}: {name} must be at least 1; found {shown(size)}.")


def _declared_shape(backbone: nn.Module) -> tuple[int, ...] | None:
    shape = getattr(backbone, "feature_shape", None)
    if shape is None and isinstance(getattr(backbone, "features", None), int):
        shape = (backbone.features,)
    return None if shape is None else tuple(shape)


def _refuse_head(backbone: nn.Module, learner: str) -> None:
    outputs = getattr(backbone, "outputs", None)
    if isinstance(outputs, int) and outputs:
        raise ValueError(
            f"{learner}: works on features, but the backbone ends in a head: found "
            f"{type(backbone).__name__}(outputs={outputs}). Leave outputs=None."
        )


def _refuse_maps(shape: tuple[int, ...], learner: str) -> None:
    if len(shape) != 1:
        raise ValueError(
            f"{learner}: needs a backbone that gives vectors (n, d); found maps of shape {shape}. "
            "Flatten them: Conv4(flat=True)."
        )
