"""Compiled gradients, for small networks, where calling operators takes most of the time.

The function ``parameters, support, query -> gradients, losses, scores`` of a stack is traced to a
graph of operators, in which autograd and vmap are already resolved, and torch compiles that graph,
once per shape. The graph holds the values that Python code read *when it was traced*, so nothing
else that a learner or objective reads may change while it trains. Replaced buffers, changed
training modes and newly frozen parameters are noticed and traced again; a
:class:`quickstudy.objectives.Scheduled` learner or objective is never compiled.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from quickstudy.base.errors import first_line, out_of_memory
from quickstudy.base.modules import device_of
from quickstudy.base.trees import leaves, map_tree
from quickstudy.compute.gradients import GradientMaker, Gradients, Parameters
from quickstudy.core import Learner, Task
from quickstudy.objectives import Objective, Outcome

_ON_CPU: dict[str, Any] = {"cpp_wrapper": True}
"""Also generate the calls of kernels as C++: saves a fifth of a small network's step."""


class CannotCompile(RuntimeError):
    """Code for a stack could not be compiled; the message says why."""


class CompiledGradients:
    """Compiled gradients of stacks whose rows have the shapes of ``like``, of any number of tasks.

    ``make_gradients``  the mapping of tasks to compile.

    Stacks of other shapes are not supported (:meth:`serves`): compiling takes seconds per shape,
    and which shapes are compiled must not depend on where a run was resumed.
    """

    def __init__(
        self, learner: Learner, objective: Objective, like: Task, make_gradients: GradientMaker
    ) -> None:
        self._learner, self._objective = learner, objective
        self._make_gradients = make_gradients
        self._supported = _shapes(like)
        self._code: dict[Any, tuple[Gradients, list[Tensor]]] = {}

    def serves(self, stack: Task) -> bool:
        """Whether the rows of ``stack`` have the shapes for which this was made."""
        return bool(_shapes(stack) == self._supported)

    def __call__(self, stack: Task, uniform: bool) -> tuple[Parameters, Outcome]:
        """The gradient of the sum of the tasks' losses, and the losses and scores (tasks,).

        ``uniform``  whether weights are uniform; each case is compiled separately.

        Raises :class:`CannotCompile`, and out-of-memory errors of torch.
        """
        named, parts = list(self._learner.named_parameters()), list(self._learner.modules())
        parameters = {name: p.detach() for name, p in named if p.requires_grad}
        buffers = [b for part in parts for b in part._buffers.values() if b is not None]
        constants = [p for _, p in named if not p.requires_grad] + buffers
        strides = tuple(leaf.stride() for leaf in leaves(stack[:2]))
        modes = tuple(part.training for part in parts)
        key = (len(stack.support.weights), strides, uniform, tuple(parameters),
               tuple(map(id, constants)), modes, _dtype_settings(stack))  # fmt: skip
        if key not in self._code:  # kept alive, so that no id is reused
            self._code[key] = self._build(parameters, stack), constants
        gradients, _ = self._code[key]
        with torch.no_grad():
            return gradients(parameters, stack.support, stack.query)

    def _build(self, parameters: Parameters, stack: Task) -> Gradients:
        gradients = self._make_gradients(self._learner, self._objective, stack.spec)
        # Views, since the tracer would treat inputs that are the same tensor here as always equal.
        support, query = (map_tree(lambda leaf: leaf.view_as(leaf), part) for part in stack[:2])
        inputs = parameters, support, query
        try:
            operators = make_fx(gradients)(*inputs)
            operators.graph.eliminate_dead_code()  # e.g. of code whose exception was caught
            operators.recompile()
            options = _ON_CPU if device_of(self._learner).type == "cpu" else {}
            compiled: Gradients = torch.compile(
                operators, fullgraph=True, dynamic=False, options=options
            )
            with torch.no_grad():
                compiled(*inputs)  # torch compiles in the first call
        except Exception as error:  # anything, from the learner's code to the C++ compiler
            if out_of_memory(error):
                raise
            raise CannotCompile(first_line(error)) from error
        return compiled


def refuse_without_compiler(device: torch.device) -> None:
    """ValueError on a CPU without a C++ compiler, which torch needs for compiled code."""
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(
        sys.platform, "g++"
    )
    if device.type == "cpu" and shutil.which(compiler.split()[0]) is None:
        raise ValueError(
            f"compile=True: torch builds with a C++ compiler, but {compiler} is not found. Install "
            "it, name another in the environment variable CXX, or leave compile out."
        )


def _dtype_settings(stack: Task) -> Any:
    """Autocast and default dtype, which are fixed in a traced graph."""
    device = stack.support.weights.device.type
    cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return cast, torch.get_default_dtype()


def _shapes(stack: Task) -> Any:
    """Spec, shapes, dtypes and devices of a stack, without its number of tasks."""
    parts = (stack.support, stack.query)
    return stack.spec, [(leaf.shape[1:], leaf.dtype, leaf.device) for leaf in leaves(parts)]
