"""Data that people give: conversion to tensors, and refusal of what would be wrong silently.

All doors use these functions: ``examples``, the rows of a data set, a call of a learner or of a
predictor, and the estimators. The engine receives each stack once, so inside :func:`inspected`
nothing is converted or checked again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.base.arrays import as_tensors, one_tensor
from quickstudy.base.modules import device_of, values_can_be_read
from quickstudy.base.trees import dtype_and_shape, leaves, map_tree, named_leaves
from quickstudy.base.weighting import counting

PIXELS = 255
"""The largest value of a pixel that is an integer."""

_CHANNELS = (1, 3, 4)
"""Numbers of channels by which integers (n, channels, height, width) are known to be pixels."""

_inspected: ContextVar[bool] = ContextVar("quickstudy_inspected", default=False)


@contextmanager
def inspected() -> Iterator[None]:
    """Inside, rows count as received: for the engine, which receives each stack once."""
    token = _inspected.set(True)
    try:
        yield
    finally:
        _inspected.reset(token)


def readable(tree: Any) -> bool:
    """Whether values may be read here (:func:`values_can_be_read`) and the engine has not yet."""
    return not _inspected.get() and all(map(values_can_be_read, leaves(tree)))


def received(module: nn.Module, inputs: Any, what: str, state: Any = ()) -> Any:
    """``inputs`` of any kind as ``module`` reads them: see :func:`as_tensors`, :func:`to_inputs`.

    Reals get a type that the module's parameters, or without any its ``state``, have. Nothing is
    done inside :func:`inspected`.
    """
    if _inspected.get():
        return inputs
    tree = as_tensors(inputs, f"{what}: inputs", device_of(module))
    check_rows(tree, what)
    return to_inputs(tree, what, dtype_for(module, tree, state))


def dtype_for(module: nn.Module, inputs: Any, state: Any = ()) -> torch.dtype:
    """The type of reals that ``module`` computes with: the inputs' own, if a parameter has it.

    Else that of its first parameter or, without parameters, of its ``state``; without that, the
    inputs' own or the default type.
    """
    given = next((x.dtype for x in leaves(inputs) if x.is_floating_point()), None)
    own = None
    for parameter in module.parameters():  # mostly the first one decides
        if parameter.dtype == given:
            return given
        if own is None and parameter.is_floating_point():
            own = parameter.dtype
    if own is not None:
        return own
    of_state = [x.dtype for x in leaves(state) if isinstance(x, Tensor) and x.is_floating_point()]
    if not of_state:
        return given or torch.get_default_dtype()
    return given if given in of_state else of_state[0]


def to_inputs(tree: Any, what: str, dtype: torch.dtype | None = None, stacked: int = 0) -> Any:
    """Inputs (n, ...) as learners read them; ``tree`` holds tensors, one row per example.

    Pixels become reals in [0, 1]: uint8 of any shape or, in a tree, of images; and other integers
    (n, 1, 3 or 4 channels, height, width). All other integers stay as they are, as int64: they are
    ids. Reals become ``dtype``, torch's default type by default; booleans too, unless in a tree,
    where they are masks.

    Raises ValueError for what :func:`check_pixels` refuses, for NaN and infinity, and for leaves of
    different numbers of rows.
    """
    check_pixels(tree, what, stacked)
    dtype = dtype or torch.get_default_dtype()
    single = isinstance(tree, Tensor)
    converted = map_tree(lambda leaf: _input(leaf, dtype, single, stacked), tree)
    refuse_not_finite(converted, what)
    return converted


def _input(leaf: Tensor, dtype: torch.dtype, single: bool, stacked: int) -> Tensor:
    if is_pixels(leaf, stacked):
        return to_unit(leaf, dtype)
    if leaf.is_floating_point() or (single and leaf.dtype == torch.bool):
        return leaf.to(dtype)
    return leaf if leaf.dtype == torch.bool else leaf.long()


def to_stored(tree: Any, what: str) -> Any:
    """Like :func:`to_inputs`, but pixels become uint8, unscaled: for data sets."""
    check_pixels(tree, what)
    dtype, single = torch.get_default_dtype(), isinstance(tree, Tensor)

    def store(leaf: Tensor) -> Tensor:
        return leaf.to(torch.uint8) if is_pixels(leaf) else _input(leaf, dtype, single, 0)

    stored = map_tree(store, tree)
    refuse_not_finite(stored, what)
    return stored


def is_pixels(leaf: Tensor, stacked: int = 0) -> bool:
    """Whether these are integers that :func:`to_inputs` takes for pixels."""
    if leaf.dtype == torch.uint8:
        return True
    return is_integer(leaf) and leaf.ndim == 4 + stacked and leaf.shape[-3] in _CHANNELS


def is_integer(leaf: Tensor) -> bool:
    """Whether the type is a whole number's, and not that of booleans."""
    return not leaf.is_floating_point() and not leaf.is_complex() and leaf.dtype != torch.bool


def to_unit(pixels: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Integer pixels in 0…255 -> reals in [0, 1], of the default type by default."""
    return pixels.to(dtype or torch.get_default_dtype()).mul_(1 / PIXELS)


def check_pixels(inputs: Any, what: str, stacked: int = 0) -> None:
    """ValueError for integer inputs that are no pixels: all pixels are scaled to [0, 1].

    A single uint8 tensor of any shape is taken for pixels. In a tree, a uint8 leaf must have the
    shape of images, (n, channels, height, width): others could be ids or masks, for which a share
    of 255 would be wrong. Integers of another type in the shape of images must lie in 0…255.
    """
    single = isinstance(inputs, Tensor)
    for name, leaf in named_leaves(inputs, "inputs"):
        if leaf.dtype == torch.uint8 and leaf.ndim != 4 + stacked and not single:
            raise ValueError(
                f"{what}: uint8 inputs in a tree must be images (n, channels, height, width), "
                f"since they are scaled to [0, 1]; found {name} of shape {tuple(leaf.shape)}. Turn "
                "ids into .long(), masks into .bool(), and pixels of another shape into .float()."
            )
        if (
            is_pixels(leaf, stacked)
            and leaf.dtype != torch.uint8
            and leaf.numel()
            and readable(leaf)
        ):
            least, most = (int(bound) for bound in leaf.aminmax())
            if least < 0 or most > PIXELS:
                raise ValueError(
                    f"{what}: integers of shape (n, channels, height, width) are pixels in "
                    f"0…{PIXELS}; found {name} from {least} to {most}. Give other numbers as reals."
                )


def refuse_not_finite(
    tree: Any,
    what: str,
    names: str = "inputs",
    remedy: str = "Fill those entries or remove their rows; masks are booleans.",
) -> None:
    """ValueError for reals that are NaN or infinite, where :func:`readable`."""
    for name, leaf in named_leaves(tree, names):
        if leaf.is_floating_point() and readable(leaf) and not bool(leaf.isfinite().all()):
            wrong = leaf[~leaf.isfinite()]
            raise ValueError(
                f"{what}: {name} must be finite; found NaN or infinity ({wrong[0].item():g} in "
                f"{wrong.numel()} of {leaf.numel()} numbers of {leaf.dtype}). {remedy}"
            )


def refuse_infinite(targets: Any, what: str) -> None:
    """ValueError for infinite targets, where :func:`readable`; NaN marks unknown ones."""
    for name, leaf in named_leaves(targets, "targets"):
        if leaf.is_floating_point() and readable(leaf) and bool(leaf.isinf().any()):
            raise ValueError(
                f"{what}: real {name} must be finite in {leaf.dtype}; found infinity. Clip them, "
                "or give NaN where a target is unknown."
            )


def received_rows(
    module: nn.Module, rows: tuple[Any, Any, Any, Any], what: str
) -> tuple[Any, Any, Tensor, Tensor]:
    """Inputs, targets, weights and groups as ``module`` reads them; see :func:`received`.

    Real targets and weights get the type of the inputs' reals.
    """
    if _inspected.get():
        return rows
    inputs, targets, weights, groups = rows
    inputs = received(module, inputs, what)
    n = check_rows(inputs, what)
    check_not_empty(n, what)
    targets = as_tensors(targets, f"{what}: targets")
    weights, groups = one_tensor(weights, f"{what}: weights"), one_tensor(groups, f"{what}: groups")
    check_rows(targets, what, n, "targets")
    refuse_infinite(targets, what)
    check_weights(weights, n, what)
    dtype = dtype_for(module, inputs)

    def like_inputs(leaf: Tensor) -> Tensor:
        return leaf.to(dtype) if leaf.is_floating_point() else leaf

    return inputs, map_tree(like_inputs, targets), weights.to(dtype), groups


def check_not_empty(rows: int, what: str) -> None:
    """ValueError for a set of examples (``what``) without rows."""
    if rows == 0:
        remedy = (
            "Give rows to predict; learner(support, spec) needs none."
            if what == "query" else "Give a row of weight 0 where there is nothing to learn from."
        )  # fmt: skip
        raise ValueError(f"{what}: needs at least 1 row; found 0. {remedy}")


def check_rows(tree: Any, what: str, n: int | None = None, names: str = "inputs") -> int:
    """The number of rows; ValueError unless each leaf has ``n``, or as many as the first leaf."""
    for name, leaf in named_leaves(tree, names):
        if leaf.ndim == 0 or (n is not None and len(leaf) != n):
            counted = "rows first" if n is None else f"{n} rows"
            raise ValueError(
                f"{what}: inputs have {counted}, but {name} have shape {tuple(leaf.shape)}. "
                "Give one entry per row."
            )
        n = len(leaf)
    return n or 0


def check_weights(weights: Tensor, n: int, what: str) -> None:
    """ValueError unless ``weights`` are n non-negative, finite numbers."""
    fits = weights.shape == (n,)
    valid = (weights >= 0) & weights.isfinite() if fits and readable(weights) else None
    if not fits or (valid is not None and not bool(valid.all())):
        found = "" if valid is None else f" with {float(weights[~valid][0]):g}"
        raise ValueError(
            f"{what}: weights must be {n} non-negative, finite numbers, one per row; found shape "
            f"{tuple(weights.shape)}{found}. Give 0 to a row that must not count."
        )


def counted(weights: Any, inputs: Any) -> AbstractContextManager[None]:
    """A context in which batch statistics count the rows of ``inputs`` by ``weights``, if given."""
    if weights is None:
        return nullcontext()
    if not _inspected.get():
        weights = one_tensor(weights, "predictor: weights")
        check_weights(weights, check_rows(inputs, "predictor"), "predictor")
    return counting(weights)


def check_predictions(predictions: Any, inputs: Any, module: nn.Module) -> Any:
    """``predictions``; ValueError unless they are finite, one row for each of ``inputs``."""
    if _inspected.get():
        return predictions
    n, who = check_rows(inputs, "predictor"), type(module).__name__
    for name, leaf in named_leaves(predictions, "predictions"):
        if not isinstance(leaf, Tensor) or leaf.ndim == 0 or len(leaf) != n:
            raise ValueError(
                f"{who}: must give one row of predictions for each of {n} rows of inputs; found "
                f"{name} {dtype_and_shape(leaf)}. Give rows (n, ...), also a single one: "
                "inputs[None]."
            )
    remedy = (
        "Inputs or inner steps that are too large do this, and weights that are not finite: scale "
        "the inputs, or lower the rate."
    )
    refuse_not_finite(predictions, who, "predictions", remedy)
    return predictions
