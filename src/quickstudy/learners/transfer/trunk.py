"""Features of one support set under changing weights; what does not change is computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from quickstudy.backbones.norms import Statistics, embed_support, needs_support_statistics
from quickstudy.base.dropout import active_dropout
from quickstudy.base.modules import in_torch_func, needs_plain_operators
from quickstudy.base.replica import Replica
from quickstudy.base.trees import leaves, map_tree
from quickstudy.core import Examples
from quickstudy.learners.gradient.descend import Weights


class Trunk:
    """``backbone`` on the rows of one support set, as a function of some of its weights.

    All its other weights are constants, and so is what depends on them alone: where the last layers
    move, the outputs of the first ones are kept from one call to the next.

    ``fixed``      features (n, d) under the weights ``base``, without gradients.
    ``constants``  weights by name that take the place of the backbone's own.
    """

    def __init__(
        self, backbone: nn.Module, support: Examples, fixed: Tensor, constants: Weights
    ) -> None:
        self.backbone, self.support, self.fixed = backbone, support, fixed
        own = {name: p.detach() for name, p in backbone.named_parameters()}
        self.base = own | {name: weight.detach() for name, weight in constants.items()}
        self._kept: _Kept | None = None

    def features(self, moved: Weights, rows: Tensor | None = None) -> Tensor:
        """Features (n, d) where ``moved`` is added to the weights of these names.

        ``rows``  (m,): the indices of the rows to compute; all by default.
        """
        if not moved:
            return self.fixed if rows is None else self.fixed[rows]
        if self._kept is None or self._kept.names != tuple(moved):  # layers join one by one
            self._kept = _Kept(self, tuple(moved))
        return self._kept(moved, rows)

    def statistics(self, moved: Weights) -> Statistics:
        """Statistics that queries reuse, under the moved weights; empty but for norm="support"."""
        if not needs_support_statistics(self.backbone):
            return []
        weights = self.base | added(self.base, moved)
        return embed_support(partial(Replica(self.backbone), weights), self.support)[1]


def added(base: Mapping[str, Tensor], moved: Weights) -> Weights:
    """The weights of ``base`` plus the differences ``moved``, for the names of these."""
    return {name: base[name] + difference for name, difference in moved.items()}


class _Kept:
    """A replica in which modules that give the same outputs in every call are not computed again.

    Which these are is found by autograd: their outputs do not depend on the weights that move.
    They then return what they returned in the first call, the rows of it that are asked for.
    """

    def __init__(self, trunk: Trunk, names: tuple[str, ...]) -> None:
        self.trunk, self.names = trunk, names
        self._keep_or_not()

    def __call__(self, moved: Weights, rows: Tensor | None) -> Tensor:
        if rows is not None and not self._rows_tested:
            self._test(rows)
        return self._run(moved, rows)

    def _run(self, moved: Weights, rows: Tensor | None) -> Tensor:
        for module in self._modules:
            module.start(rows)
        support = self.trunk.support
        if rows is not None:
            support = Examples(*map_tree(lambda leaf: leaf[rows], tuple(support)))
        weights = self.trunk.base | added(self.trunk.base, moved)
        return embed_support(partial(self.replica, weights), support)[0]

    def _compute_all(self) -> None:
        self.replica = Replica(self.trunk.backbone)
        self._modules: list[_KeptModule] = []
        self._rows_tested = True

    def _keep_or_not(self) -> None:
        self._compute_all()
        if not _can_keep(self.trunk.backbone, self.names):
            return
        log = _Log([], [])
        found = [
            _KeptModule(self.replica.copy_of(part), log)
            for name, part in self.trunk.backbone.named_modules()
            if not any(moved.startswith(f"{name}." if name else "") for moved in self.names)
        ]
        with torch.enable_grad():
            start = {n: torch.zeros_like(self.trunk.base[n]).requires_grad_() for n in self.names}
            self._run(start, None)
        constant = {module.number for module in found if module.is_constant}
        self._modules = [module for module in found if module.keeps(constant)]
        self._rows_tested = False
        if not self._modules:
            return
        with _Used() as used:
            self._test(None)
        for module in self._modules:
            module.drop_unused(used.storages, len(self.trunk.support.weights))

    def _test(self, rows: Tensor | None) -> None:
        """Keep nothing where that gives other features than the network, as batch norms would."""
        nothing = {name: torch.zeros_like(self.trunk.base[name]) for name in self.names}
        expected = self.trunk.fixed if rows is None else self.trunk.fixed[rows]
        with torch.no_grad():
            found = self._run(nothing, rows)
        size = float(expected.abs().max()) if expected.numel() else 0.0
        close = size * torch.finfo(found.dtype).eps ** 0.75
        same = found.shape == expected.shape and bool(((found - expected).abs() <= close).all())
        if not same:
            self._compute_all()
        self._rows_tested = self._rows_tested or rows is not None


def _can_keep(backbone: nn.Module, names: Sequence[str]) -> bool:
    """Whether modules may be left out: not inside transforms of torch, where autograd cannot tell;
    not where they record statistics or draw random numbers."""
    if in_torch_func() or needs_plain_operators() or torch.is_inference_mode_enabled():
        return False
    if needs_support_statistics(backbone) or active_dropout(backbone):
        return False
    return len(names) < sum(1 for _ in backbone.named_parameters())


class _Log(NamedTuple):
    """What all modules share while they record.

    ``running``  the modules that run at the moment, from the outermost in.
    ``done``     the outputs of each call that has ended, and its place among them.
    """

    running: list[int]
    done: list[tuple[list[Any], int]]


_DROPPED = object()
"""In place of an output that will not be asked for: that of a module inside a constant one."""


class _KeptModule:
    """The forward of a module in a replica: it records outputs first, and then returns them.

    Afterwards it refers to the module no longer: such a cycle would outlive the replica.
    """

    def __init__(self, module: nn.Module, log: _Log) -> None:
        self._module: nn.Module | None = module
        self._before = module.__dict__.get("forward")
        self._log, self._forward = log, module.forward
        self.number = id(module)
        self._within: list[list[int]] = []
        self._outputs: list[Any] = []
        self._call: list[int] = []  # the number of the next call; empty while recording
        self._rows: Tensor | None = None
        self._n = -1
        module.__dict__["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._call:
            output = self._outputs[self._call[0]]
            self._call[0] += 1
            return self._at_rows(output)
        running, done = self._log
        self._within.append(running.copy())
        running.append(self.number)
        first = len(done)
        try:
            output = self._forward(*args, **kwargs)
        finally:
            running.pop()
        constant = _is_constant(output)
        if constant:
            for outputs, place in done[first:]:
                outputs[place] = _DROPPED
        done.append((self._outputs, len(self._outputs)))
        self._outputs.append(output if constant else None)
        return output

    def keeps(self, constant: set[int]) -> bool:
        """Whether it keeps outputs; stops recording.

        ``constant``  the modules whose outputs are; calls inside of these will not be repeated.
        """
        pairs = zip(self._outputs, self._within, strict=True)
        self._outputs = [each for each, within in pairs if constant.isdisjoint(within)]
        whole = not any(output is _DROPPED for output in self._outputs)
        keeps = self.number in constant and bool(self._outputs) and whole
        if keeps:
            self._call.append(0)
        elif self._module is not None:
            self._outputs = []
            del self._module.__dict__["forward"]
            if self._before is not None:
                self._module.__dict__["forward"] = self._before
        self._module = self._before = None
        self._forward, self._within, self._log = _never, [], _Log([], [])
        return keeps

    @property
    def is_constant(self) -> bool:
        """Whether it was called, and all its outputs depend on no moving weight."""
        return bool(self._outputs) and all(output is not None for output in self._outputs)

    def start(self, rows: Tensor | None) -> None:
        """Begin a pass."""
        self._rows = rows
        self._call[:] = [0]

    def drop_unused(self, storages: set[int], rows: int) -> None:
        """Free the outputs that only other kept modules read: of these a number remains."""
        self._n = rows
        self._outputs = [map_tree(partial(_unless_used, storages), each) for each in self._outputs]

    def _at_rows(self, output: Any) -> Any:
        rows = self._rows
        if rows is None:
            return output
        return map_tree(lambda t: t[rows] if t.ndim and len(t) == self._n else t, output)


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("a module that is kept is not computed")


def _is_constant(output: Any) -> bool:
    if type(output) not in (Tensor, tuple):
        return False
    return all(isinstance(t, Tensor) and not t.requires_grad for t in leaves(output))


def _unless_used(storages: set[int], output: Tensor) -> Tensor:
    if output.untyped_storage()._cdata in storages:
        return output
    return output.new_zeros(()).expand(output.shape)


class _Used(TorchDispatchMode):
    """The storages that operators read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: set[int] = set()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for part in leaves((args, kwargs or {})):
            if isinstance(part, Tensor):
                self.storages.add(part.untyped_storage()._cdata)
        return function(*args, **(kwargs or {}))
