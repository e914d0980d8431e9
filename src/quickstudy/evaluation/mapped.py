"""How an evaluation computes predictions for a stack of tasks: all at once, or one at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.errors import first_line
from quickstudy.base.modules import convolves_on_cpu
from quickstudy.base.trees import leaves
from quickstudy.compute.cost import cost_of_one_task
from quickstudy.compute.engine import computing, map_tasks
from quickstudy.compute.features import embedded
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.core import Learner, Task
from quickstudy.objectives import predict_queries
from quickstudy.tasks.inspection import Inspection
from quickstudy.tasks.stacks import first_tasks


def predictions_of(learner: Learner, stack: Task, plan: Plan, inspection: Inspection) -> Any:
    """Predictions (tasks, n, ...) for the queries of a stack."""
    if plan.mapping is Mapping.FEATURES:
        with torch.no_grad(), computing(learner, stack, inspection):
            learner, stack = embedded(learner, stack)
        plan = replace(plan, mapping=Mapping.VMAP)
    return map_tasks(predict_queries, stack, learner, plan, inspection)


def plan_for(learner: Learner, stack: Task, inspection: Inspection, tasks: int) -> Plan:
    """How to predict for stacks like this one: all tasks at once where that gives the same."""
    one_by_one = Plan(Mapping.LOOP, "one task at a time is as fast, and small", 1)
    if learner.differentiates:
        return one_by_one
    one = first_tasks(stack, 1)
    plan = Plan(Mapping.VMAP, "one graph for all tasks", tasks)
    with torch.no_grad():
        if convolves_on_cpu(learner):
            if not cost_of_one_task(learner, one, predict_queries, inspection).is_arithmetic:
                return _vmap_or_loop(learner, one, plan, inspection)
            plan = Plan(Mapping.FEATURES, "the backbone once for all rows", tasks)
            is_same = _predicts_the_same(learner, one, plan, one_by_one, inspection)
            return plan if is_same else one_by_one
    return _vmap_or_loop(learner, one, plan, inspection)


def _vmap_or_loop(learner: Learner, one: Task, plan: Plan, inspection: Inspection) -> Plan:
    try:
        map_tasks(predict_queries, one, learner, plan, inspection)
    except Exception as error:  # what vmap cannot compute, the loop can
        return Plan(Mapping.LOOP, first_line(error), 1)
    return plan


def _predicts_the_same(
    learner: Learner, stack: Task, plan: Plan, reference: Plan, inspection: Inspection
) -> bool:
    """Whether ``plan`` gives the predictions of ``reference``; False where it raises an error."""
    expected = predictions_of(learner, stack, reference, inspection)
    try:
        found = predictions_of(learner, stack, plan, inspection)
    except Exception:  # learners that need more than the backbone's features
        return False
    pairs = zip(leaves(expected), leaves(found), strict=False)
    return all(a.shape == b.shape and _close(a, b) for a, b in pairs)


def _close(a: Tensor, b: Tensor) -> bool:
    scale = float(a.abs().median())  # not the mean or maximum: absent classes are -1e30
    return torch.allclose(b, a, rtol=1e-3, atol=1e-3 * scale)
