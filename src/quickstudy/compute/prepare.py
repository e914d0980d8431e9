"""A stack of tasks on its way to be computed: made by acting where need be, inspected, moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.func import vmap

from quickstudy.base.modules import device_of
from quickstudy.base.trees import structure
from quickstudy.core import Learner, Task
from quickstudy.tasks.acting import needs_acting, run_acting
from quickstudy.tasks.inspection import Inspection, inspect_stack
from quickstudy.tasks.stacks import Stack, stacks, to_device, unstack


class Prepared(NamedTuple):
    """A stack whose rows are given, on the learner's device.

    ``places``      where each of its tasks stands in the step; ``names``, their names.
    ``inspection``  what was found of its numbers before it moved.
    """

    task: Task
    places: tuple[int, ...]
    names: tuple[str, ...]
    inspection: Inspection


def prepare_stack(learner: Learner, stack: Stack) -> Prepared:
    """Inspect a stack and move it; where it is to be made by acting, ``learner`` acts first.

    Raises ValueError for targets that the answer cannot judge, see
    :func:`quickstudy.tasks.inspection.inspect_stack`.
    """
    device, task = device_of(learner), stack.task
    if needs_acting(task):
        task = _run_acting_of_stack(learner, to_device(task, device))
    inspection = inspect_stack(task)
    return Prepared(to_device(task, device), stack.places, stack.names, inspection)


def prepare_tasks(learner: Learner, tasks: Sequence[Task]) -> list[Prepared]:
    """Tasks of one step, in stacks that are ready to be computed."""
    return [prepare_stack(learner, stack) for stack in stacks(tasks, learner.reads_name)]


def _run_acting_of_stack(learner: Learner, stack: Task) -> Task:
    """A stack of tasks with the rows that acting gives, all tasks at once where that maps."""

    def one(support: Any, query: Any) -> tuple[Any, Any]:
        task = run_acting(learner, Task(support, query, stack.spec))
        return task.support, task.query

    try:
        support, query = vmap(one)(stack.support, stack.query)
        return Task(support, query, stack.spec)
    except RuntimeError:  # of operators that vmap cannot map
        made = stacks([run_acting(learner, task) for task in unstack(stack)], by_name=False)
        return made[0].task


def kind_of(task: Task) -> str:
    """What a proof about one task says of others: its kind of answer, and how its inputs are made.

    The number of rows, of classes and of features is no part of it.
    """
    inputs = structure(task.support.inputs)
    return f"{task.spec.answer.kind} {inputs}"


def names_of(step: Sequence[Prepared]) -> list[str]:
    """The names of a step's tasks, in order."""
    pairs = (
        (p, n) for prepared in step for p, n in zip(prepared.places, prepared.names, strict=True)
    )
    return [name for _, name in sorted(pairs)]


def count_of(step: Sequence[Prepared]) -> int:
    """The number of tasks of a step."""
    return sum(len(prepared.places) for prepared in step)


def in_step_order(step: Sequence[Prepared], parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Vectors (tasks of each stack,), one after the other, in the order of the step's tasks."""
    joined = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    if len(parts) == 1:  # one stack holds the tasks in their order
        return joined
    places = [place for prepared in step for place in prepared.places]
    return entries_at(joined, sorted(range(len(places)), key=places.__getitem__))


def entries_at(values: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    """Some entries of the first dimension, by views: indices would be copied to the device."""
    entries = values.unbind()
    return torch.stack([entries[place] for place in places])
