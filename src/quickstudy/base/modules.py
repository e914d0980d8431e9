"""Properties of torch modules and tensors: device, modes, parameters, layout, active transforms."""

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
    """Whether this layer's output for a row depends on other rows (batch statistics)."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or module.running_mean is None
    return bool(getattr(module, "sees_other_rows", False))


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each submodule is in its own earlier mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


_Table = dict[str, nn.Parameter | None]
"""``Module._parameters``: one submodule's own parameters, by name."""


def call_with(module: nn.Module, weights: Mapping[str, Tensor], *inputs: Any) -> Any:
    """``module(*inputs)`` with ``weights`` in place of the parameters of these names.

    A parameter that several submodules share is replaced in all of them, whichever of its names is
    given. torch's ``functional_call`` takes four times as long, and has a bug: it swaps a submodule
    with two names twice and then restores the wrong tensor, so later gradients are wrong.
    """
    named, places = _parameters_of(module)
    replaced: list[tuple[_Table, str, Tensor | None]] = []
    try:
        for name, weight in weights.items():
            for table, leaf in places[id(named[name])]:
                replaced.append((table, leaf, table[leaf]))
                table[leaf] = weight  # type: ignore[assignment]  # torch accepts any tensor
        return module(*inputs)
    finally:
        for table, leaf, parameter in reversed(replaced):  # reversed: a slot may be in it twice
            table[leaf] = parameter  # type: ignore[assignment]


def _parameters_of(
    module: nn.Module,
) -> tuple[dict[str, nn.Parameter], dict[int, list[tuple[_Table, str]]]]:
    """Each name's parameter, and by the parameter's id the (table, key) pairs that hold it.

    Recomputed in each call: a cache would be wrong after a submodule has been replaced.
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


def in_torch_func() -> bool:
    """Whether this code runs inside a transform of ``torch.func``: vmap, grad, vjp, …"""
    return bool(torch._C._are_functorch_transforms_active())


def needs_plain_operators() -> bool:
    """Whether only torch's own operators work: in compiling, tracing, exporting, and in
    forward-mode differentiation, none of which supports our ``autograd.Function``s.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return True
    return bool(torch.autograd.forward_ad._current_level >= 0)


def custom_gradient_allowed() -> bool:
    """Whether an ``autograd.Function`` may replace torch's operators in the code that runs now.

    Not where :func:`needs_plain_operators`, not in inference mode, where autograd records nothing,
    and not under autocast, which chooses types operator by operator.
    """
    if torch.is_inference_mode_enabled() or torch._C._is_any_autocast_enabled():
        return False
    return not needs_plain_operators()


def mapped(x: Tensor) -> bool:
    """Whether vmap may have batched x: inside ``torch.func``, or by ``is_grads_batched=True``.

    The latter uses an older vmap, which does not support ``autograd.Function``.
    """
    return in_torch_func() or bool(torch._C._functorch.is_legacy_batchedtensor(x))


def channels_last(x: Tensor) -> bool:
    """Whether x (n, channels, height, width) is on a CPU with memory layout channels last."""
    if x.device.type != "cpu" or x.ndim != 4:
        return False
    try:
        return x.is_contiguous(memory_format=torch.channels_last)
    except RuntimeError:  # vmap does not support the query
        return False


def fast_on_cpu(images: Tensor) -> Tensor:
    """Images (n, channels, height, width), on a CPU in the layout that is fastest to convolve.

    Channels last: convolution is 1.3 times as fast, max-pooling ten times. Each layer keeps the
    layout of its input, so converting the images is enough. This copies them, unless they have one
    channel.
    """
    if images.device.type != "cpu" or images.ndim != 4:
        return images
    try:
        return images.to(memory_format=torch.channels_last)
    except RuntimeError:  # under vmap the tensor has one more dimension
        return images


def convolves_on_cpu(module: nn.Module) -> bool:
    """Whether the module convolves on a CPU, where memory bandwidth then limits speed."""
    convolves = any(isinstance(m, nn.modules.conv._ConvNd) for m in module.modules())
    return convolves and device_of(module).type == "cpu"
