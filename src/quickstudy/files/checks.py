"""Checks of saved tensors against the learner that they are loaded into."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers import Custom
from quickstudy.base.errors import first_line
from quickstudy.base.modules import device_of, without_numbers
from quickstudy.base.replica import in_evaluation_mode
from quickstudy.base.trees import dtype_and_shape, leaves, map_tree, named_leaves
from quickstudy.base.words import count
from quickstudy.core import Predictor
from quickstudy.files.limits import LARGEST_NUMBER

_LARGEST_TRIAL = 2**18
"""Entries of a row up to which it is tried with numbers: those of an RGB picture of 295 pixels.
Without numbers a trial takes no memory, but torch needs seconds to prepare the first one."""


def refuse_other_tensors(saved: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    """ValueError unless ``saved`` has the names and shapes of ``own``, a module's tensors.

    Floating-point tensors may be of other precision; other types must be the same.
    """
    missing, unknown = own.keys() - saved.keys(), saved.keys() - own.keys()
    if missing or unknown:
        raise ValueError(
            f"{count(len(missing), 'tensor')} of the learner not in the file {_some(missing)}, and "
            f"{count(len(unknown), 'tensor')} of the file not in the learner {_some(unknown)}"
        )
    for name, tensor in own.items():
        found = saved[name]
        fits = isinstance(found, Tensor) and found.shape == tensor.shape
        if not fits or _kind(found) != _kind(tensor):
            raise ValueError(
                f"{name} must be {dtype_and_shape(tensor)}; found {dtype_and_shape(found)}"
            )


def refuse_wrong_weights(weights: Mapping[str, Tensor], own_buffers: Collection[str] = ()) -> None:
    """ValueError for a learner's tensor with NaN, infinity, or numbers so large that they overflow.

    ``own_buffers``  buffers of the user's own code, which may be infinite: masks, for example.
    """
    for name, tensor in weights.items():
        largest = math.inf if name in own_buffers else LARGEST_NUMBER
        _refuse_beyond(tensor, largest, f"learner.{name}")


def refuse_wrong_state(state: Any) -> None:
    """ValueError for a tensor of a state with NaN or infinity."""
    for name, leaf in named_leaves(state, "state"):
        _refuse_beyond(leaf, torch.finfo(torch.float64).max, name)


def _refuse_beyond(tensor: Any, largest: float, name: str) -> None:
    if _is_float(tensor) and not bool((tensor.abs() <= largest).all()):
        raise ValueError(
            f"{name} has numbers that are NaN, infinite or too large, so predictions would be wrong"
        )


def refuse_mixed_precision(tree: Any) -> None:
    """ValueError unless floating-point tensors are of one type, as products need them."""
    found = sorted({str(leaf.dtype) for leaf in leaves(tree) if _is_float(leaf)})
    if len(found) > 1:
        raise ValueError(f"its numbers are of different precision: {', '.join(found)}")


def declared_rows(learner: nn.Module) -> Tensor | None:
    """(0, ...) inputs of a learner whose backbone declares the shape of one; else None."""
    shape = getattr(getattr(learner, "backbone", None), "input_shape", None)
    if shape is None:
        return None
    floats = (p.dtype for p in learner.parameters() if p.dtype.is_floating_point)
    return torch.empty(0, *shape, dtype=next(floats, torch.get_default_dtype()))


def to_device(state: Any, device: torch.device) -> Any:
    """A state on ``device``; what is no tensor in it is unchanged."""
    return map_tree(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, state)


def try_prediction(predictor: Predictor) -> None:
    """ValueError if a prediction for one row of ones fails, or is not one for this task.

    Does nothing if it is not known what a row is. The learner is not changed.
    """
    try:
        _try_prediction(predictor)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"its state does not give predictions: {first_line(error)}") from error


def _try_prediction(predictor: Predictor) -> None:
    learner, state, rows = predictor.learner, predictor.state, predictor.no_rows
    if rows is None:
        return
    device = device_of(learner)
    if sum(math.prod(leaf.shape[1:]) for leaf in leaves(rows)) > _LARGEST_TRIAL:
        refuse_mixed_precision([dict(learner.state_dict()), state, rows])  # it would not be noticed
        device = torch.device("meta")
        learner, state = without_numbers(learner), to_device(state, device)
    row = map_tree(
        lambda leaf: torch.ones((1, *leaf.shape[1:]), dtype=leaf.dtype, device=device), rows
    )
    with torch.no_grad():
        predictions = in_evaluation_mode(learner).predict(state, row, predictor.spec)
    for leaf in leaves(predictions):
        _check_prediction(leaf)
    is_whole = isinstance(predictions, Tensor) and not isinstance(predictor.spec.answer, Custom)
    if is_whole and predictions.shape[-1] != predictor.spec.outputs:
        raise ValueError(
            f"its task has {predictor.spec.outputs} outputs, but it predicts "
            f"{dtype_and_shape(predictions)}"
        )


def _check_prediction(leaf: Any) -> None:
    if not isinstance(leaf, Tensor) or leaf.shape[:1] != (1,):
        raise ValueError(f"its prediction for one row is {dtype_and_shape(leaf)}")
    if leaf.device.type != "meta" and not bool(leaf.isfinite().all()):
        raise ValueError("its prediction for a row of ones is NaN or infinite")


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _kind(tensor: Tensor) -> str:
    return "floating" if tensor.is_floating_point() else str(tensor.dtype)


def _some(names: Iterable[str]) -> str:
    listed = sorted(map(str, names))
    return f"({', '.join(listed[:3])}{', …' if len(listed) > 3 else ''})" if listed else "(none)"
