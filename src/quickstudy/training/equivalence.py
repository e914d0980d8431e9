"""Proof, on the learner at hand, that a way of computing its gradient gives the loop's."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from quickstudy.base.errors import first_line, out_of_memory, with_memory_fallback
from quickstudy.base.trees import map_tree
from quickstudy.compute.compiled import CompiledGradients
from quickstudy.compute.engine import GRADIENT_MAKERS, accumulate
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import prepare_stack
from quickstudy.contract.check import doubled
from quickstudy.core import Learner, Task
from quickstudy.objectives import Objective
from quickstudy.tasks.numbering import generator
from quickstudy.tasks.stacks import as_stack, count, first_tasks

TOLERANCE = 1e-8
"""Relative difference in float64 up to which two ways of mapping count as the same gradient."""


def difference_from_loop(
    learner: Learner,
    step: Sequence[Task],
    mapping: Mapping,
    objective: Objective,
    compile: bool = False,
) -> str | None:
    """Why ``mapping``, perhaps compiled, cannot be trusted with this learner; None where it can.

    Judged on the first two tasks of each stack of ``step``.
    """

    def difference() -> str | None:
        each = (_difference(learner, stack, mapping, objective, compile) for stack in step)
        return next((found for found in each if found), None)

    return with_memory_fallback(
        difference,
        lambda: "the comparison in float64 does not fit in memory",
    )


def _difference(
    learner: Learner, batch: Task, mapping: Mapping, objective: Objective, compile: bool
) -> str | None:
    judged = _in_general_position(in_double(learner))
    two = first_tasks(doubled(few_queries(batch, 4)), 2)
    way = "compiled code" if compile else mapping.value
    try:
        compiled = None
        if compile:
            compiled = CompiledGradients(judged, objective, two, GRADIENT_MAKERS[mapping])
        found = _gradients(judged, two, objective, mapping, compiled)
        expected = _gradients(judged, two, objective, Mapping.LOOP)
    except Exception as error:  # whatever they cannot take, the loop can
        if out_of_memory(error):
            raise
        return f"{way} cannot map it: {first_line(error)}"
    if [g is None for g in expected] != [g is None for g in found]:
        return f"{way} gives gradients to other parameters than the loop"
    right, ours = _flat(expected), _flat(found)
    if not right.norm() > 0:
        return f"the tasks compared have no gradient, which says nothing of {way}"
    difference = float((right - ours).norm() / right.norm())
    if difference <= TOLERANCE:
        return None
    return f"the meta-gradient of {way} differs from the loop's by {difference:.1g}"


def _gradients(
    learner: Learner,
    batch: Task,
    objective: Objective,
    mapping: Mapping,
    compiled: CompiledGradients | None = None,
) -> list[Tensor | None]:
    """The meta-gradient of each parameter, None for those that the objective does not reach."""
    learner.zero_grad()
    step = [prepare_stack(learner, as_stack(batch))]
    accumulate(learner, step, objective, Plan(mapping, "", count(batch)), compiled)
    return [p.grad for p in learner.parameters()]


def _flat(gradients: list[Tensor | None]) -> Tensor:
    there = [g.flatten() for g in gradients if g is not None]
    return torch.cat(there) if there else torch.zeros(1)


def in_double(learner: Learner) -> Learner:
    """A copy in float64."""
    return copy.deepcopy(learner).double()


def _in_general_position(learner: Learner) -> Learner:
    """Every parameter moved a little: ones and zeros of an initialisation can hide a wrong term."""
    noise = generator(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            shift = torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
            parameter.add_(0.05 * shift.to(parameter.device))
    return learner


def few_queries(task: Task, n: int) -> Task:
    """The first ``n`` query rows: enough to compare two computations, and cheap."""
    batched = task.query.weights.ndim == 2

    def cut(leaf: Tensor) -> Tensor:
        return leaf[:, :n] if batched else leaf[:n]

    return task._replace(query=map_tree(cut, task.query))
