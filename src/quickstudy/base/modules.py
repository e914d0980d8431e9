"""Small facts about torch modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters; the CPU for one without."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def sees_other_rows(module: nn.Module) -> bool:
    """Whether what this layer gives for a row depends on the rows beside it."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or module.running_mean is None
    return bool(getattr(module, "sees_other_rows", False))


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each part's own mode again: some may be frozen in it."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


_Table = dict[str, nn.Parameter | None]
"""The parameters that a part holds itself, by name."""


def call_with(module: nn.Module, weights: Mapping[str, Tensor], *inputs: Any) -> Any:
    """``module(*inputs)`` with ``weights`` in the place of the parameters of these names.

    A parameter that several parts share is replaced in all of them, whichever of its names is
    given. ``functional_call`` does this too, but takes four times as long to find the places, and
    a part that stands in two of them it swaps twice and restores wrongly: the module is left
    without its parameter, and later gradients go astray.
    """
    named, places = _parameters_of(module)
    own: list[tuple[_Table, str, Tensor | None]] = []
    try:
        for name, weight in weights.items():
            for table, leaf in places[id(named[name])]:
                own.append((table, leaf, table[leaf]))
                table[leaf] = weight  # type: ignore[assignment]  # torch asks for a tensor alone
        return module(*inputs)
    finally:
        for table, leaf, parameter in reversed(own):  # what was replaced twice comes back first
            table[leaf] = parameter  # type: ignore[assignment]


def _parameters_of(
    module: nn.Module,
) -> tuple[dict[str, nn.Parameter], dict[int, list[tuple[_Table, str]]]]:
    """Parameters by every name, and the places where each stands: tables of parts, and the key.

    Looked up for each call: whatever kept them would not see that a part was changed.
    """
    named: dict[str, nn.Parameter] = {}
    places: dict[int, list[tuple[_Table, str]]] = {}
    waiting = [("", module)]
    while waiting:
        prefix, part = waiting.pop()
        for leaf, parameter in part._parameters.items():
            if parameter is not None:
                named[prefix + leaf] = parameter
                places.setdefault(id(parameter), []).append((part._parameters, leaf))
        for name, child in part._modules.items():
            if child is not None:
                waiting.append((f"{prefix}{name}.", child))
    return named, places


def transformed() -> bool:
    """Whether ``torch.func`` is transforming what runs now: vmap, grad, vjp, …"""
    return bool(torch._C._are_functorch_transforms_active())


def torch_must_see() -> bool:
    """Whether torch has to see its own operators: a graph is made for others by compiling, tracing
    or exporting, or derivatives go forward.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return True
    return bool(torch.autograd.forward_ad._current_level >= 0)


def own_derivatives_serve() -> bool:
    """Whether an ``autograd.Function`` may stand for torch's operators in what runs now.

    Not where torch must see these, where nothing is recorded, and where autocast has types of its
    own inside an operator.
    """
    if torch.is_inference_mode_enabled() or torch._C._is_any_autocast_enabled():
        return False
    return not torch_must_see()


def mapped(x: Tensor) -> bool:
    """Whether x stands for many: under ``torch.func``, or for ``is_grads_batched`` of autograd.

    The latter is a vmap of its own, which calls no ``autograd.Function`` as it should.
    """
    return transformed() or bool(torch._C._functorch.is_legacy_batchedtensor(x))


def channels_last(x: Tensor) -> bool:
    """Whether x (n, channels, height, width) lies in memory channels last, on a CPU."""
    if x.device.type != "cpu" or x.ndim != 4:
        return False
    try:
        return x.is_contiguous(memory_format=torch.channels_last)
    except RuntimeError:  # of vmap, which cannot say
        return False


def fast_on_cpu(images: Tensor) -> Tensor:
    """Images (n, channels, height, width) in the layout in which a CPU convolves them fastest.

    Channels last: convolution is 1.3 times as fast, max-pooling ten times. A layer's output has
    the layout of its input, so it is enough to say it once. It costs a copy of the images, and
    none for one channel.
    """
    if images.device.type != "cpu" or images.ndim != 4:
        return images
    try:
        return images.to(memory_format=torch.channels_last)
    except RuntimeError:  # of vmap, under which there is one dimension more
        return images


def convolves_on_cpu(module: nn.Module) -> bool:
    """Whether time goes into convolutions on a CPU, which memory bandwidth then bounds."""
    convolves = any(isinstance(m, nn.modules.conv._ConvNd) for m in module.modules())
    return convolves and device_of(module).type == "cpu"
