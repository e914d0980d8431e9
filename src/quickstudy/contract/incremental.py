"""Laws for learners with ``prior`` (predict before any support) or ``extend`` (more support)."""

from __future__ import annotations

from typing import Any

import torch

from quickstudy.base.trees import concatenate
from quickstudy.contract.compare import compare
from quickstudy.core import Learner, State, Task
from quickstudy.tasks.acting import prior_of


def extending_the_prior_equals_adapting(learner: Learner, task: Task) -> None:
    """extend(prior, A) = adapt(A), for learners with both methods."""
    if getattr(learner, "prior", None) is None or getattr(learner, "extend", None) is None:
        return
    with torch.no_grad():
        state = _extended(learner, prior_of(learner, task), task.support, task)
        _compare_states(
            learner, task, learner.adapt(task.support, task.spec), state,
            "extending the prior by a support set must equal adapting to it",
        )  # fmt: skip


def extending_equals_adapting_to_all(learner: Learner, task: Task) -> None:
    """extend(adapt(A), B) = adapt(A and B), for learners with ``extend``."""
    if getattr(learner, "extend", None) is None:
        return
    more = task.query
    with torch.no_grad():
        state = _extended(learner, learner.adapt(task.support, task.spec), more, task)
        _compare_states(
            learner, task, learner.adapt(concatenate(task.support, more), task.spec), state,
            "extending a state by more support must equal adapting to all of it",
        )  # fmt: skip


def _extended(learner: Any, state: State, support: Any, task: Task) -> State:
    return learner.extend(state, support, task.spec)


def _compare_states(learner: Learner, task: Task, expected: State, found: State, rule: str) -> None:
    expected_predictions, predictions = (
        learner.predict(state, task.query.inputs, task.spec) for state in (expected, found)
    )
    compare(
        expected_predictions, predictions, rule,
        "Keep in the state what a later support set must be added to, or declare the law in "
        "`exceptions`.",
    )  # fmt: skip
