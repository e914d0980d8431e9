"""What is sent to another process, as bytes."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn


def sent(thing: Any) -> bytes:
    """``thing`` as bytes of which ``pickle.loads`` makes it again, in a process like this one.

    Functions and classes may be such that no other process could import them. Parameters come
    without gradients. Raises what pickling does: TypeError, ``pickle.PicklingError``, ...
    """
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(thing)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Of a tensor only its own elements: torch would send the whole batch with every task of it."""

    def reducer_override(self, thing: Any) -> Any:
        """How to make ``thing`` again."""
        if type(thing) not in (Tensor, nn.Parameter) or not _is_plain(thing):
            return super().reducer_override(thing)
        values = thing.detach()
        if not (values.is_contiguous() or values.is_contiguous(memory_format=_layout(values))):
            values = values.contiguous()
        elements = values.as_strided((values.numel(),), (1,)).view(torch.uint8).numpy()
        facts = (values.dtype, tuple(values.shape), values.stride(), thing.requires_grad)
        return _tensor, (pickle.PickleBuffer(elements), type(thing), *facts)


def _is_plain(tensor: Tensor) -> bool:
    """Whether its elements, shape and strides are all that there is to a tensor."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    alone = tensor.is_leaf and not (tensor.is_complex() or tensor.is_neg() or vars(tensor))
    return alone and tensor.numel() > 0


def _layout(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.ndim == 4 else torch.contiguous_format


def _tensor(
    elements: bytearray,
    kind: type[Tensor],
    dtype: torch.dtype,
    shape: Sequence[int],
    stride: Sequence[int],
    requires_grad: bool,
) -> Tensor:
    values = torch.frombuffer(elements, dtype=dtype).as_strided(shape, stride)
    if kind is nn.Parameter:
        return nn.Parameter(values, requires_grad)
    return values.requires_grad_(requires_grad)
