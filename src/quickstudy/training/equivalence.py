"""Checking, for a given learner, that a mapping of tasks gives the same gradient as the loop."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from quickstudy.base.errors import first_line, out_of_memory, with_memory_fallback
from quickstudy.base.trees import map_tree
from quickstudy.compute.compiled import CompiledGradients
from quickstudy.compute.engine import GRADIENT_MAKERS, accumulate
from quickstudy.compute.jacobian import Found, gradient_rows
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import prepare_stack
from quickstudy.contract.check import doubled
from quickstudy.core import Learner, Task
from quickstudy.objectives import Objective
from quickstudy.tasks.numbering import generator
from quickstudy.tasks.stacks import as_stack, count, first_tasks

TOLERANCE = 1e-8
"""Relative difference in float64 up to which two gradients count as equal."""


def difference_from_loop(
    learner: Learner,
    step: Sequence[Task],
    mapping: Mapping,
    objective: Objective,
    compile: bool = False,
) -> str | None:
    """Why ``mapping`` must not be used for this learner; None where its gradient is the loop's.

    Compares gradients in float64 for the first two tasks of each stack of ``step``.

    ``compile``  compare the compiled mapping.
    """

    def difference() -> str | None:
        each = (_difference(learner, stack, mapping, objective, compile) for stack in step)
        return next((reason for reason in each if reason), None)

    return with_memory_fallback(
        difference,
        lambda: "the comparison in float64 does not fit in memory",
    )


def _difference(
    learner: Learner, batch: Task, mapping: Mapping, objective: Objective, compile: bool
) -> str | None:
    double = _perturb(in_double(learner))
    two = first_tasks(doubled(few_queries(batch, 4)), 2)
    name = "compiled code" if compile else mapping.value
    try:
        compiled = None
        if compile:
            compiled = CompiledGradients(double, objective, two, GRADIENT_MAKERS[mapping])
        found = _gradients(double, two, objective, mapping, compiled)
        expected = _gradients(double, two, objective, Mapping.LOOP)
    except Exception as error:  # whatever the mapping cannot compute, the loop can
        if out_of_memory(error):
            raise
        return f"{name} cannot map it: {first_line(error)}"
    if [g is None for g in expected] != [g is None for g in found]:
        return f"{name} gives gradients to other parameters than the loop"
    by_loop, by_mapping = _flat(expected), _flat(found)
    if not by_loop.norm() > 0:
        return f"the tasks compared have no gradient, so {name} cannot be checked"
    difference = float((by_loop - by_mapping).norm() / by_loop.norm())
    if difference <= TOLERANCE:
        return None
    return f"the meta-gradient of {name} differs from the loop's by {difference:.1g}"


def rows_differ_from_loop(
    learner: Learner, step: Sequence[Task], mapping: Mapping, objective: Objective
) -> str | None:
    """Why ``mapping`` must not give single tasks' gradients; None where each is the loop's."""

    def difference() -> str | None:
        each = (_difference_of_rows(learner, stack, mapping, objective) for stack in step)
        return next((reason for reason in each if reason), None)

    return with_memory_fallback(
        difference,
        lambda: "the comparison in float64 does not fit in memory",
    )


def _difference_of_rows(
    learner: Learner, batch: Task, mapping: Mapping, objective: Objective
) -> str | None:
    double, two = _perturb(in_double(learner)), first_tasks(doubled(few_queries(batch, 4)), 2)
    prepared, found = [prepare_stack(double, as_stack(two))], []
    scale = torch.linspace(1, 2, count(two), dtype=torch.float64)
    try:
        for each in (mapping, Mapping.LOOP):
            beside = Found()
            plan = Plan(each, "", count(two))
            (rows,) = gradient_rows(double, prepared, objective, scale, plan, beside)
            own = [beside.own[name].flatten() for name in sorted(beside.own)]
            found.append((torch.cat([rows.flatten(), *own]), beside.reached))
    except Exception as error:  # whatever the mapping cannot compute, the loop can
        if out_of_memory(error):
            raise
        return f"{mapping.value} cannot map it: {first_line(error)}"
    (by_mapping, reached), (by_loop, expected) = found
    if reached != expected:
        return f"{mapping.value} gives gradients to other parameters than the loop"
    if not by_loop.norm() > 0:
        return f"the tasks compared have no gradient, so {mapping.value} cannot be checked"
    difference = float((by_loop - by_mapping).norm() / by_loop.norm())
    if difference <= TOLERANCE:
        return None
    return f"the tasks' gradients by {mapping.value} differ from the loop's by {difference:.1g}"


def _gradients(
    learner: Learner,
    batch: Task,
    objective: Objective,
    mapping: Mapping,
    compiled: CompiledGradients | None = None,
) -> list[Tensor | None]:
    """The meta-gradient of each parameter; None where the objective does not depend on it."""
    learner.zero_grad()
    step = [prepare_stack(learner, as_stack(batch))]
    accumulate(learner, step, objective, Plan(mapping, "", count(batch)), compiled)
    return [p.grad for p in learner.parameters()]


def _flat(gradients: list[Tensor | None]) -> Tensor:
    flat = [g.flatten() for g in gradients if g is not None]
    return torch.cat(flat) if flat else torch.zeros(1)


def in_double(learner: Learner) -> Learner:
    """A copy of ``learner`` in float64."""
    return copy.deepcopy(learner).double()


def _perturb(learner: Learner) -> Learner:
    """Add noise to all parameters, since initial ones and zeros can hide a wrong gradient term."""
    noise = generator(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            shift = torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
            parameter.add_(0.05 * shift.to(parameter.device))
    return learner


def few_queries(task: Task, n: int) -> Task:
    """The task or stack with its first ``n`` query rows only, for cheap comparisons."""
    batched = task.query.weights.ndim == 2

    def cut(leaf: Tensor) -> Tensor:
        return leaf[:, :n] if batched else leaf[:n]

    return task._replace(query=map_tree(cut, task.query))
