"""Refusing modules that change themselves when they are called, as batch norms do in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from quickstudy.base.errors import BrokenLaw
from quickstudy.base.modules import in_torch_func


def refusing_updates(learner: nn.Module) -> AbstractContextManager[None]:
    """Refuse a learner in training mode whose buffers change when it is called inside.

    In evaluation mode, where norms of torch update nothing, nothing is examined; nor inside
    ``torch.func``, which raises errors of its own.

    Raises :class:`quickstudy.testing.BrokenLaw`, for norms of torch before they change.
    """
    if not learner.training or in_torch_func() or torch.compiler.is_compiling():
        return _NOTHING
    stateful = _with_buffers_in_training(learner)
    if not stateful:
        return _NOTHING
    if any(map(_updates, stateful)):
        raise BrokenLaw(
            f"{updating_norm(learner)} in forward, so a call would change the learner. Call "
            "learner.eval() before you use it, or freeze that part: qs.frozen(module)."
        )
    return _refusing_changes(learner, stateful)


_NOTHING = nullcontext()


@contextmanager
def _refusing_changes(learner: nn.Module, parts: Sequence[nn.Module]) -> Iterator[None]:
    versions = [(part, n, b, b._version) for part in parts for n, b in _buffers(part)]
    yield
    changed = [
        f"{_name(learner, part)}.{name}"
        for part, name, buffer, version in versions
        if part._buffers.get(name) is not buffer or buffer._version != version
    ]
    if changed:
        raise BrokenLaw(
            "adapt and predict must change nothing in the module, but "
            f"{', '.join(changed[:3])} changed. Call learner.eval() before you use it, freeze that "
            "part by qs.frozen(module), or compute its statistics anew in every pass."
        )


def updating_norm(module: nn.Module) -> str | None:
    """What is the first norm of torch inside that updates running statistics; None without one."""
    part = next(filter(_updates, module.modules()), None)
    if part is None:
        return None
    return f"{_name(module, part)} is a {type(part).__name__} that updates running statistics"


def _updates(part: nn.Module) -> bool:
    norm = isinstance(part, nn.modules.batchnorm._NormBase)
    return norm and part.training and part._buffers.get("running_mean") is not None


def _with_buffers_in_training(module: nn.Module) -> list[nn.Module]:
    """The modules of the tree that have buffers and are in training mode.

    ``module.modules()`` takes ten times as long, and this runs in every call.
    """
    found, waiting = [], [module]
    while waiting:
        part = waiting.pop()
        if part._buffers and part.training:
            found.append(part)
        waiting.extend(child for child in part._modules.values() if child is not None)
    return found


def _buffers(part: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Those that count their changes; tensors made in inference mode do not."""
    named = part._buffers.items()
    return [(n, b) for n, b in named if b is not None and not b.is_inference()]


def _name(module: nn.Module, part: nn.Module) -> str:
    name: str = next(name for name, each in module.named_modules() if each is part)
    return name
