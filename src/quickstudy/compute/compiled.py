"""A step's gradients as compiled code: for small networks, whose time goes into calling operators.

Of a batch of tasks, ``parameters, support, query -> gradients, losses, scores`` becomes one list of
operators without Python, autograd or vmap (all of which have done their work by then), and that is
compiled, once for each shape. The list is what the operators were *when it was made*: what else a
learner or objective looks at must not change while it trains. What is seen to change has another
list made (buffers that are replaced, modes, what is frozen); what is
:class:`quickstudy.objectives.Scheduled` is not compiled.
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
"""Calls between kernels in C++, too: a fifth of a small network's step."""


class CannotCompile(RuntimeError):
    """Code for a batch could not be built; the message says why."""


class CompiledGradients:
    """Gradients of tasks whose rows have the shapes of those in ``like``, however many there are.

    ``composite``  which mapping of tasks is compiled.

    Tasks of other shapes are left to the caller (:meth:`serves`): compiling takes seconds for each,
    and which ones a run has compiled must not depend on where it was resumed.
    """

    def __init__(
        self, learner: Learner, objective: Objective, like: Task, composite: GradientMaker
    ) -> None:
        self._learner, self._objective, self._composite = learner, objective, composite
        self._like = _shapes(like)
        self._code: dict[Any, tuple[Gradients, list[Tensor]]] = {}

    def serves(self, batch: Task) -> bool:
        """Whether the rows of ``batch`` have the shapes that this was made for."""
        return bool(_shapes(batch) == self._like)

    def __call__(self, batch: Task, uniform: bool) -> tuple[Parameters, Outcome]:
        """The gradient of the sum of the tasks' losses, and what each gave.

        ``uniform``  whether uniform weights have been promised; a graph is made for each.

        Raises :class:`CannotCompile`, and what says that memory ran out.
        """
        named, parts = list(self._learner.named_parameters()), list(self._learner.modules())
        parameters = {name: p.detach() for name, p in named if p.requires_grad}
        buffers = [b for part in parts for b in part._buffers.values() if b is not None]
        constants = [p for _, p in named if not p.requires_grad] + buffers
        strides = tuple(leaf.stride() for leaf in leaves(batch[:2]))
        modes = tuple(part.training for part in parts)
        key = (len(batch.support.weights), strides, uniform, tuple(parameters),
               tuple(map(id, constants)), modes, _types_in_use(batch))  # fmt: skip
        if key not in self._code:  # the constants are held, so that none of their ids comes back
            self._code[key] = self._build(parameters, batch), constants
        gradients, _ = self._code[key]
        with torch.no_grad():
            return gradients(parameters, batch.support, batch.query)

    def _build(self, parameters: Parameters, batch: Task) -> Gradients:
        gradients = self._composite(self._learner, self._objective, batch.spec)
        # Views, because tensors that are one here, by chance, would be taken for one ever after.
        support, query = (map_tree(lambda leaf: leaf.view_as(leaf), part) for part in batch[:2])
        inputs = parameters, support, query
        try:
            operators = make_fx(gradients)(*inputs)
            operators.graph.eliminate_dead_code()  # such as attempts that raised, and were caught
            operators.recompile()
            options = _ON_CPU if device_of(self._learner).type == "cpu" else {}
            compiled: Gradients = torch.compile(
                operators, fullgraph=True, dynamic=False, options=options
            )
            with torch.no_grad():
                compiled(*inputs)  # the first call builds
        except Exception as error:  # of any kind, from the learner to the C++ compiler
            if out_of_memory(error):
                raise
            raise CannotCompile(first_line(error)) from error
        return compiled


def refuse_without_compiler(device: torch.device) -> None:
    """ValueError on a CPU without a C++ compiler, with which torch builds what it compiles."""
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(
        sys.platform, "g++"
    )
    if device.type == "cpu" and shutil.which(compiler.split()[0]) is None:
        raise ValueError(
            f"compile=True: torch builds with a C++ compiler, but {compiler} is not found. Install "
            "it, name another in the environment variable CXX, or leave compile out."
        )


def _types_in_use(batch: Task) -> Any:
    """What torch makes of an operator's types; casts are in the list of operators."""
    device = batch.support.weights.device.type
    cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return cast, torch.get_default_dtype()


def _shapes(batch: Task) -> Any:
    """What decides over the operators for a batch, but for the number of its tasks."""
    parts = (batch.support, batch.query)
    return batch.spec, [(leaf.shape[1:], leaf.dtype, leaf.device) for leaf in leaves(parts)]
