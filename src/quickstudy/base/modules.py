"""Properties of torch modules and tensors: device, modes, parameters, layout, active transforms."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters; the CPU for one without."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def sees_other_rows(module: nn.Module) -> bool:
    """Whether this layer's output for a row depends on other rows (batch statistics)."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or module.running_mean is None
    return bool(getattr(module, "sees_other_rows", False))


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


def values_can_be_read(tensor: Tensor) -> bool:
    """Whether reading a value is possible, and cheap.

    Not on a GPU, where it synchronises; not under transforms of ``torch.func``, in compiling and in
    exporting, where there are no values.
    """
    return tensor.device.type == "cpu" and not (in_torch_func() or needs_plain_operators())


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor of any dtype, for digests; NumPy has no bfloat16."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


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


def without_numbers(module: AnyModule) -> AnyModule:
    """A copy whose tensors have shapes and types, but no numbers, and take no memory."""
    named = [*module.named_parameters(), *module.named_buffers()]
    copies: dict[int, Any] = {id(tensor): tensor.detach().to("meta") for _, tensor in named}
    for parameter in module.parameters():
        copies[id(parameter)] = nn.Parameter(copies[id(parameter)], parameter.requires_grad)
    return copy.deepcopy(module, copies)
