"""Modules that stay as they are: in evaluation mode for ever, and without gradients."""

from __future__ import annotations

from types import new_class
from typing import Any, TypeVar, cast

from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def frozen(module: AnyModule) -> AnyModule:
    """``module`` itself, in evaluation mode for ever, its parameters without gradients.

    Neither ``train()`` of a learner around it, nor ``fit``, nor its own ``train()`` changes that:
    batch norms in it use their stored statistics and do not update them, dropout does nothing, and
    no step, inner or outer, moves its parameters. Saved learners keep it so.

    >>> import torch, quickstudy as qs
    >>> body = qs.frozen(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8)))
    >>> learner = qs.Prototypical(torch.nn.Sequential(body, torch.nn.Linear(8, 8)))
    >>> body.train().training
    False

    Raises ValueError for anything but a module, and for a lazy one that was not called yet.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"frozen: needs a torch.nn.Module; found {type(module).__name__}. For one parameter, "
            "use requires_grad_(False)."
        )
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.lazy.LazyModuleMixin):
            raise ValueError(
                f"frozen: {name or 'the module'} is a {type(part).__name__}, whose shape is not "
                "known yet. Call the module once before."
            )
    module.requires_grad_(False)
    return keep_in_evaluation_mode(module)


def keep_in_evaluation_mode(module: AnyModule) -> AnyModule:
    """``module`` itself, which ``train()`` no longer changes, nor its submodules."""
    module.eval()
    for part in module.modules():
        if not isinstance(part, _Frozen):
            part.__class__ = _frozen_kind(type(part))
    return module


def is_frozen(module: nn.Module) -> bool:
    """Whether ``module`` stays in evaluation mode for ever."""
    return isinstance(module, _Frozen)


def frozen_names(module: nn.Module, prefix: str = "") -> list[str]:
    """The names of the frozen modules inside ``module``, but not of those inside them."""
    if is_frozen(module):
        return [prefix]
    inside = ((f"{prefix}.{name}".strip("."), child) for name, child in module.named_children())
    return [found for name, child in inside for found in frozen_names(child, name)]


class _Frozen(nn.Module):
    """What a frozen module's class has before that of the module itself."""

    def train(self, mode: bool = True) -> Any:
        """Stay in evaluation mode."""
        return super().train(False)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """How to copy and pickle: by the class of the module itself, since only it has a name."""
        make, arguments, *rest = cast("tuple[Any, ...]", super().__reduce_ex__(protocol))
        kind = type(self).__mro__[2]
        return _remake, (make, tuple(kind if a is type(self) else a for a in arguments)), *rest


def _remake(make: Any, arguments: tuple[Any, ...]) -> nn.Module:
    module: nn.Module = make(*arguments)
    module.__class__ = _frozen_kind(type(module))
    return module


_KINDS: dict[type[nn.Module], type[nn.Module]] = {}
"""The frozen subclass of each class that was ever frozen."""


def _frozen_kind(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of ``kind``, of its name, that stays in evaluation mode."""
    if kind not in _KINDS:
        names = ("__module__", "__qualname__", "__doc__")
        of_kind = {name: getattr(kind, name) for name in names}
        _KINDS[kind] = new_class(kind.__name__, (_Frozen, kind), {}, lambda n: n.update(of_kind))
    return _KINDS[kind]
