"""Laws of learners that answer before any support, and of those that take more of it later."""

from __future__ import annotations

from typing import Any

import torch

from quickstudy.base.trees import concatenate
from quickstudy.contract.compare import compare
from quickstudy.core import Learner, State, Task
from quickstudy.tasks.acting import prior_of


def extending_the_prior_equals_adapting(learner: Learner, task: Task) -> None:
    """extend(prior, A) = adapt(A), for learners that have both."""
    if getattr(learner, "prior", None) is None or getattr(learner, "extend", None) is None:
        return
    with torch.no_grad():
        state = _extended(learner, prior_of(learner, task), task.support, task)
        _same_predictions(
            learner, task, learner.adapt(task.support, task.spec), state,
            "extending the prior by a support set must equal adapting to it",
        )  # fmt: skip


def extending_equals_adapting_to_all(learner: Learner, task: Task) -> None:
    """extend(adapt(A), B) = adapt(A and B), for learners that can be given more support later."""
    if getattr(learner, "extend", None) is None:
        return
    more = task.query
    with torch.no_grad():
        state = _extended(learner, learner.adapt(task.support, task.spec), more, task)
        _same_predictions(
            learner, task, learner.adapt(concatenate(task.support, more), task.spec), state,
            "extending a state by more support must equal adapting to all of it",
        )  # fmt: skip


def _extended(learner: Any, state: State, support: Any, task: Task) -> State:
    return learner.extend(state, support, task.spec)


def _same_predictions(
    learner: Learner, task: Task, expected: State, found: State, rule: str
) -> None:
    before, after = (
        learner.predict(state, task.query.inputs, task.spec) for state in (expected, found)
    )
    compare(
        before, after, rule,
        "Keep in the state what a later support set must be added to, or declare the law in "
        "`exceptions`.",
    )  # fmt: skip
