"""Proof, in float64 and on the learner at hand, that a way of mapping gives the loop's gradient."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
from torch import Tensor

from quickstudy.core import Learner, Task
from quickstudy.learners.objectives import Objective
from quickstudy.tasks.sampling import generator
from quickstudy.testing import doubled
from quickstudy.training.compiled import Compiled
from quickstudy.training.engine import COMPOSITES, Mapping, Plan, accumulate
from quickstudy.training.errors import in_a_line, out_of_memory, where_it_fits
from quickstudy.training.untold import untold_progress
from quickstudy.trees import map_tree

TOLERANCE = 1e-8
"""Relative difference in float64 up to which two ways of mapping count as the same gradient."""


def difference_from_loop(
    learner: Learner, batch: Task, mapping: Mapping, objective: Objective, compile: bool = False
) -> str | None:
    """Why ``mapping``, perhaps compiled, cannot be trusted with this learner; None where it can."""
    return where_it_fits(
        lambda: _difference(learner, batch, mapping, objective, compile),
        lambda: "the comparison in float64 does not fit in memory",
    )


def _difference(
    learner: Learner, batch: Task, mapping: Mapping, objective: Objective, compile: bool
) -> str | None:
    judged = _in_general_position(in_double(learner))
    task = doubled(few_queries(batch, 4))
    two = Task(
        map_tree(lambda leaf: leaf[:2], task.support),
        map_tree(lambda leaf: leaf[:2], task.query),
        task.spec,
    )
    way = "compiled code" if compile else mapping.value
    expected = _gradients(judged, two, objective, Mapping.LOOP)
    # With progress an objective might come to look at the inputs that features have replaced.
    fixed = untold_progress(judged) if mapping is Mapping.FEATURES else nullcontext()
    try:
        compiled = Compiled(judged, objective, two, COMPOSITES[mapping]) if compile else None
        with fixed:
            found = _gradients(judged, two, objective, mapping, compiled)
    except Exception as error:  # whatever they cannot take, the loop can
        if out_of_memory(error):
            raise
        return f"{way} cannot map it: {in_a_line(error)}"
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
    compiled: Compiled | None = None,
) -> list[Tensor | None]:
    """The meta-gradient of each parameter, None for those that the objective does not reach."""
    learner.zero_grad()
    accumulate(learner, batch, objective, Plan(mapping, "", 2), compiled)
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
