"""Calling a module with other weights, on a private replica of its tree of submodules.

Adapted weights must never stand in the module itself: another thread that uses it at the same time
would compute with them, and might restore the wrong ones. A replica has its own modules, but
shares every tensor, so making one copies no numbers: 10 to 100 µs.
"""

from __future__ import annotations

import copy
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)
_Table = dict[str, nn.Parameter | None]
"""``Module._parameters``: one submodule's own parameters, by name."""


def call_with(module: nn.Module, weights: Mapping[str, Tensor], *inputs: Any) -> Any:
    """``module(*inputs)`` with ``weights`` in place of the parameters of these names.

    For one call; a :class:`Replica` serves several. ``module`` is not changed, so it may be called
    in several threads at once. torch's ``functional_call`` replaces parameters in the module.
    """
    return Replica(module)(weights, *inputs)


def replica_of(module: AnyModule) -> AnyModule:
    """A copy of the module tree that shares all tensors; the rest may differ in it."""
    return cast(AnyModule, Replica(module).module)


def in_evaluation_mode(module: AnyModule) -> AnyModule:
    """A replica in evaluation mode; the module itself keeps its modes, also for other threads."""
    replica = replica_of(module)
    for part in replica.modules():
        part.training = False
    return replica


class Replica:
    """A private copy of a module tree, whose parameters can be replaced call by call.

    A parameter that several submodules share is replaced in all of them, whichever of its names is
    given. Attributes that refer to submodules or parameters of the tree (in lists, tuples, dicts,
    sets and deques, as bound methods, partial functions, closures, weak references or attributes
    of plain objects) refer to those of the copy.

    ``module``  the copy.

    Raises TypeError for scripted modules, whose parameters Python cannot replace.
    """

    def __init__(self, module: nn.Module) -> None:
        self._new: dict[int, Any] = {}  # by id of the original: the module's copy, the weight
        self._named: dict[str, nn.Parameter] = {}
        self._places: dict[int, list[tuple[_Table, str]]] = {}
        self._references: list[tuple[dict[str, Any], str, Any]] = []
        self.module = self._copy(module, "")
        parts = dict.fromkeys([*self._new, *self._places], _Part())
        self._references = [
            each for each in self._references if _redirected(each[2], parts) is not each[2]
        ]
        self._redirect()

    def __call__(self, weights: Mapping[str, Tensor], *inputs: Any) -> Any:
        """``module(*inputs)`` with ``weights``; parameters of other names keep their last value."""
        for name, weight in weights.items():
            parameter = self._named[name]
            self._new[id(parameter)] = weight
            for table, leaf in self._places[id(parameter)]:
                table[leaf] = weight  # type: ignore[assignment]  # torch accepts any tensor
        self._redirect()
        return self.module(*inputs)

    def copy_of(self, part: AnyModule) -> AnyModule:
        """The copy of a submodule."""
        return cast(AnyModule, self._new[id(part)])

    def _copy(self, module: nn.Module, prefix: str) -> nn.Module:
        """The copy of ``module``, one however many names it has; notes the parameters' names."""
        twin = self._new.get(id(module))
        if twin is None:
            twin = self._new[id(module)] = self._own_copy(module)
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                self._named[prefix + leaf] = parameter
        for name, child in module._modules.items():
            if child is not None:
                twin._modules[name] = self._copy(child, f"{prefix}{name}.")
        return cast(nn.Module, twin)

    def _own_copy(self, module: nn.Module) -> nn.Module:
        """A module with the attributes of ``module``, still without submodules of its own."""
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"{type(module).__name__}: a scripted module keeps its parameters outside of "
                "Python, so no learner can adapt them. Use the module that was scripted."
            )
        twin = object.__new__(type(module))
        attributes = twin.__dict__
        attributes.update(module.__dict__)
        table = module._parameters.copy()
        for leaf, parameter in table.items():
            if parameter is not None:
                self._places.setdefault(id(parameter), []).append((table, leaf))
        for name in attributes.keys() - _REGISTERED:
            value = attributes[name]
            if type(value) not in _PLAIN and not _is_plain_tuple(value):
                self._references.append((attributes, name, value))
        for name in _HOOKS:  # the copy's hooks are its own
            if hooks := attributes[name]:
                self._references.append((attributes, name, hooks))
            attributes[name] = hooks.copy()
        attributes["_parameters"] = table
        attributes["_buffers"] = module._buffers.copy()
        attributes["_modules"] = module._modules.copy()
        return twin

    def _redirect(self) -> None:
        """Let attributes refer to the copy's own parts and current weights."""
        for attributes, name, original in self._references:
            attributes[name] = _redirected(original, self._new)


class _Part(nn.Module):
    """Stands for any part of a tree where only the existence of a reference matters."""


_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_REGISTERED = frozenset(nn.Module().__dict__)
_PLAIN = frozenset(
    {type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size}
)
_LONGEST = 1000
"""Longer containers hold data, for example a vocabulary, and are not searched."""


def _is_plain_tuple(value: Any) -> bool:
    """Whether this is a tuple of numbers or texts, as most settings of torch's layers are."""
    return type(value) is tuple and _PLAIN.issuperset(map(type, value))


def _redirected(value: Any, new: Mapping[int, Any], through: int = 4, objects: int = 2) -> Any:
    """``value`` with what it refers to by ids in ``new`` replaced; itself if there is nothing.

    ``through``  how many containers, methods or functions inside one another are searched.
    ``objects``  how many plain objects inside one another are searched.
    """
    if id(value) in new:
        return new[id(value)]
    if type(value) in _PLAIN or not through or isinstance(value, nn.Module | Tensor | type):
        return value
    inside = partial(_redirected, new=new, through=through - 1, objects=objects)
    if isinstance(value, dict):
        return _with_items(value, inside)
    if isinstance(value, list | tuple | set | frozenset | deque):
        return _with_elements(value, inside)
    if isinstance(value, weakref.ref):
        target = value()
        return (
            weakref.ref(new[id(target)])
            if isinstance(target, nn.Module) and id(target) in new
            else value
        )
    if isinstance(value, MethodType):
        owner = inside(value.__self__)
        return value if owner is value.__self__ else MethodType(value.__func__, owner)
    if isinstance(value, partial):
        parts = (value.func, value.args, value.keywords)
        function, given, named = (inside(part) for part in parts)
        if _same(parts, (function, given, named)):
            return value
        return partial(function, *given, **named)
    if isinstance(value, FunctionType):
        return _with_closure(value, inside)
    if objects and not isinstance(value, ModuleType):
        return _with_attributes(value, partial(inside, objects=objects - 1))
    return value


Inside = Callable[[Any], Any]


def _same(old: Sequence[Any], new: Sequence[Any]) -> bool:
    """Whether these are the same objects, one by one."""
    return all(a is b for a, b in zip(old, new, strict=True))


def _with_items(items: dict[Any, Any], inside: Inside) -> dict[Any, Any]:
    """The dict with ``inside`` of each value; itself if that changes none."""
    if len(items) > _LONGEST:
        return items
    old_keys, old_values = list(items), list(items.values())
    keys, values = [inside(key) for key in old_keys], [inside(value) for value in old_values]
    if _same(old_keys, keys) and _same(old_values, values):
        return items
    twin = copy.copy(items)  # keeps the type: OrderedDict, defaultdict, …
    twin.clear()
    twin.update(zip(keys, values, strict=True))
    return twin


def _with_elements(elements: Any, inside: Inside) -> Any:
    """The list, tuple or set with ``inside`` of each element; itself if that changes none."""
    if len(elements) > _LONGEST or _PLAIN.issuperset(map(type, elements)):
        return elements
    old = list(elements)
    new = [inside(element) for element in old]
    if _same(old, new):
        return elements
    if isinstance(elements, list | deque):
        twin = copy.copy(elements)
        twin.clear()
        twin.extend(new)
        return twin
    return type(elements)(*new) if hasattr(elements, "_fields") else type(elements)(new)


def _with_attributes(value: Any, inside: Inside) -> Any:
    """The object with ``inside`` of its attributes, also those in slots; itself if none changes."""
    names = [*getattr(value, "__dict__", ())]
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    old = {name: getattr(value, name) for name in names if hasattr(value, name)}
    changed = {name: new for name, v in old.items() if (new := inside(v)) is not v}
    if changed:
        value = copy.copy(value)
        for name, new in changed.items():
            object.__setattr__(value, name, new)  # also of a frozen dataclass
    return value


def _with_closure(function: FunctionType, inside: Inside) -> FunctionType:
    """The function with ``inside`` of what it closes over and of its defaults."""
    own = function.__closure__ or ()
    cells = tuple(_changed_cell(cell, inside) for cell in own)
    defaults, named = inside(function.__defaults__), inside(function.__kwdefaults__)
    unchanged = (function.__defaults__, function.__kwdefaults__)
    if _same(own, cells) and _same(unchanged, (defaults, named)):
        return function
    closure = cells if function.__closure__ else None
    twin = FunctionType(
        function.__code__, function.__globals__, function.__name__, defaults, closure
    )
    twin.__kwdefaults__ = named
    twin.__dict__.update(function.__dict__)
    return twin


def _changed_cell(cell: CellType, inside: Inside) -> CellType:
    try:
        old = cell.cell_contents
    except ValueError:  # not assigned yet
        return cell
    new = inside(old)
    return cell if new is old else CellType(new)
