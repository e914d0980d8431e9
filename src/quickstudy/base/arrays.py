"""Tensors from what people hold: arrays, lists, tables, and trees of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.masked import MaskedTensor

from quickstudy.base.trees import leaves


def one_tensor(value: Any, what: str) -> Tensor:
    """``value`` as a tensor; ValueError, naming ``what``, also for trees."""
    if isinstance(value, (dict, tuple)):
        raise ValueError(
            f"{what} must be one tensor, array or list; found {type(value).__name__}. Give one "
            "number for each row."
        )
    return _as_tensor(value, what, None)


def as_tensors(tree: Any, what: str, device: torch.device | None = None) -> Any:
    """``tree`` with a tensor for each leaf, which may be a tensor, an array, or lists of rows.

    ``device``  where tensors of arrays and lists are made; the CPU by default.

    Raises ValueError, naming ``what``, for a tree without leaves and for leaves that hold anything
    but numbers.
    """
    if next(leaves(tree), None) is None and isinstance(tree, (dict, tuple)):
        raise ValueError(f"{what} must hold at least one tensor; found {tree!r}. Give a tensor.")
    return _as_tensors(tree, what, device)


def _as_tensors(tree: Any, what: str, device: torch.device | None) -> Any:
    if isinstance(tree, dict):
        return {name: _as_tensors(part, f"{what}.{name}", device) for name, part in tree.items()}
    if isinstance(tree, tuple):
        names = getattr(tree, "_fields", range(len(tree)))
        parts = [_as_tensors(p, f"{what}.{n}", device) for n, p in zip(names, tree, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return _as_tensor(tree, what, device)


def _as_tensor(value: Any, what: str, device: torch.device | None) -> Tensor:
    value = list(value) if isinstance(value, range) else value
    if not isinstance(value, Tensor):
        tensors = isinstance(value, list) and {type(each) for each in value} == {Tensor}
        value = (
            _stacked(value, what) if tensors
            else torch.from_numpy(own_array(as_array(value, what), what)).to(device)
        )  # fmt: skip
    if kind := _unusual(value):
        raise ValueError(
            f"{what} must be dense tensors of real numbers; found {kind}. Write .to_dense(), "
            ".to_padded_tensor(0.0), .dequantize(), or torch.view_as_real(...)."
        )
    if value.dtype in (torch.uint16, torch.uint32, torch.uint64):
        signed = value.long()  # beyond int64 it would be negative
        _refuse_beyond_int64(value.dtype == torch.uint64 and bool((signed < 0).any()), what)
        value = signed
    tensor: Tensor = value
    return tensor


def _unusual(tensor: Tensor) -> str:
    """What makes a tensor one that no learner computes with; "" for an ordinary one."""
    if isinstance(tensor, MaskedTensor):
        return "a masked tensor"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return "quantised"
    if tensor.layout != torch.strided or tensor.is_complex():
        return f"{tensor.dtype}, {tensor.layout}"
    return ""


def _refuse_beyond_int64(beyond: bool, what: str) -> None:
    if beyond:
        raise ValueError(
            f"{what} must be integers below 2^63, the largest that torch computes with; found "
            "greater ones. Number them anew, from 0."
        )


def array_of(tensor: Tensor, what: str) -> np.ndarray:
    """A tensor as an array, reals of a type that numpy lacks as float32.

    Raises ValueError, naming ``what``, for tensors that :func:`as_tensors` refuses, and for those
    without values.
    """
    if tensor.is_meta:
        raise ValueError(f"{what} must have values; found a tensor on the meta device. Fill it.")
    tensor = _as_tensor(tensor, what, None).detach().cpu().resolve_neg()
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.float().numpy()


def _stacked(tensors: list[Tensor], what: str) -> Tensor:
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise ValueError(
            f"{what} must have rows of one shape; found {', '.join(map(str, shapes[:4]))}. Resize "
            "or pad them."
        )
    return torch.stack(tensors)


def as_array(value: Any, what: str) -> np.ndarray:
    """Lists, numbers, and whatever is or gives a numpy array, as an array of numbers.

    Raises ValueError for anything else, before numpy iterates over it: a data set without an end
    would be read for ever.
    """
    if not isinstance(value, (list, int, float)) and not hasattr(value, "__array__"):
        raise ValueError(f"{what} must be tensors, arrays, or lists; found {_found(value)}.")
    if isinstance(value, list):
        refuse_foreign(value, what)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{what} must be numbers in rows of one shape; found a {type(value).__name__} that "
            f"numpy cannot read ({str(error).splitlines()[0][:100]}). Resize or pad the rows."
        ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{what} must hold numbers; found dtype {array.dtype}. Turn texts into tokens "
            "(encoder.tokenize(texts)) and other objects into numbers first, and fill what is "
            "missing."
        )
    if np.ma.is_masked(value):
        raise ValueError(
            f"{what} must be known numbers, but entries of this masked array are masked. Fill "
            "them, or leave their rows out."
        )
    return array


def _found(value: Any) -> str:
    """The type of what cannot be converted, and the remedy."""
    kind = type(value).__name__
    if isinstance(value, (torch.utils.data.Dataset, torch.utils.data.DataLoader)):
        return (
            f"the torch data set or loader {kind}. Read its rows first: "
            "pairs = [data[i] for i in range(len(data))], inputs = torch.stack([x for x, _ in "
            "pairs]), labels = [y for _, y in pairs]"
        )
    return f"{kind}. Give its rows as a tensor (torch.stack) or an array (numpy.stack)"


def refuse_foreign(rows: list[Any], what: str) -> None:
    """ValueError for a list that holds anything but lists, numbers, tensors, arrays and texts."""
    by_type = {type(each): each for each in rows}
    for kind, value in by_type.items():
        plain = (int, float, complex, str, bytes, tuple, np.generic, type(None))
        if not issubclass(kind, (list, *plain)) and not hasattr(value, "__array__"):
            raise ValueError(f"{what} must be lists of numbers; found one of {_found(value)}.")
    if list in by_type:
        for each in rows:
            if isinstance(each, list):
                refuse_foreign(each, what)


def own_array(array: np.ndarray, what: str) -> np.ndarray:
    """An array that torch can share: native order, writeable, no unsigned but uint8."""
    if array.dtype.kind == "u" and array.dtype != np.uint8:
        _refuse_beyond_int64(bool((array > np.iinfo(np.int64).max).any()), what)
        array = array.astype(np.int64)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()
    return array
