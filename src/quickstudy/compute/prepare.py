"""Preparing a stack of tasks for the engine: make its rows by acting, validate, copy to device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.func import vmap

from quickstudy.answers.custom import Custom
from quickstudy.base.door import dtype_for, inspected, to_inputs
from quickstudy.base.modules import device_of
from quickstudy.base.trees import map_tree, structure
from quickstudy.base.words import first_few
from quickstudy.compute.plan import Kind
from quickstudy.core import Examples, Learner, NamedExamples, PlacesNames, Task
from quickstudy.tasks.acting import needs_acting, run_acting
from quickstudy.tasks.examples import counted_weights
from quickstudy.tasks.inspection import Inspection, inspect_stack
from quickstudy.tasks.stacks import Stack, stacks, to_device, unstack
from quickstudy.tasks.stacks import stack as stack_tasks


class Prepared(NamedTuple):
    """A validated stack on the learner's device.

    ``places``      the index of each of its tasks in the step; ``names``, their names.
    ``inspection``  the result of validating it, before the copy.
    ``dropout``     a seed of dropout masks for each task; empty for a learner without dropout.
    """

    task: Task
    places: tuple[int, ...]
    names: tuple[str, ...]
    inspection: Inspection
    dropout: tuple[int, ...] = ()


def prepare_stack(learner: Learner, stack: Stack) -> Prepared:
    """Validate a stack and copy it to the learner's device; ``learner`` acts first if needed.

    Raises ValueError for targets that do not fit the answer, see
    :func:`quickstudy.tasks.inspection.inspect_stack`.
    """
    device, task = device_of(learner), stack.task
    if needs_acting(task):
        task = _run_acting_of_stack(learner, to_device(task, device))
    task = placed(learner, stack._replace(task=_received(learner, task)))
    inspection = inspect_stack(task)
    return Prepared(to_device(task, device), stack.places, stack.names, inspection)


def placed(learner: Learner, stack: Stack) -> Task:
    """The stacked task, with the place of each task beside its support rows where ``learner`` has
    parameters for its name (:class:`quickstudy.core.PlacesNames`).

    Raises ValueError for known and unknown names in one stack, which ``name_key`` must prevent, and
    for an unknown name where no support row is labelled.
    """
    task = stack.task
    if not isinstance(learner, PlacesNames) or not isinstance(task.support, Examples):
        return task
    places = [learner.place_of(name) for name in stack.names]
    if max(places) < 0:
        _refuse_unlabelled(learner, stack)
        return task
    if min(places) < 0:
        raise ValueError(
            f"{type(learner).__name__}: the tasks of one stack must all be known by name, or none; "
            f"found both among {first_few(dict.fromkeys(stack.names))}. Let its name_key tell them "
            "apart."
        )
    place = torch.tensor(places, device=task.support.weights.device)
    return task._replace(support=NamedExamples(*task.support, place))


def _refuse_unlabelled(learner: PlacesNames, stack: Stack) -> None:
    for name, task in zip(stack.names, unstack(stack.task), strict=True):
        if name and not bool((counted_weights(task.support, task.spec.answer) > 0).any()):
            raise learner.unknown_task(name)


def _received(learner: Learner, stack: Task) -> Task:
    """The stack in the learner's type of reals, with pixels scaled, as one task is by its call."""

    def convert(part: Examples) -> Examples:
        dtype = dtype_for(learner, part.inputs)
        with inspected():  # values are checked by inspect_stack, losses and predictions by the user
            inputs = to_inputs(part.inputs, "task: inputs", dtype, stacked=1)

        def like_inputs(leaf: torch.Tensor) -> torch.Tensor:
            return leaf.to(dtype) if leaf.is_floating_point() else leaf

        return part._replace(
            inputs=inputs,
            targets=map_tree(like_inputs, part.targets),
            weights=like_inputs(part.weights),
        )

    return Task(convert(stack.support), convert(stack.query), stack.spec)


def prepare_tasks(learner: Learner, tasks: Sequence[Task]) -> list[Prepared]:
    """The tasks of one step in prepared stacks."""
    return [prepare_stack(learner, stack) for stack in stacks(tasks, learner.name_key)]


def _run_acting_of_stack(learner: Learner, stack: Task) -> Task:
    """The stack with its rows made by acting, for all tasks at once if vmap supports it."""

    def one(support: Any, query: Any) -> tuple[Any, Any]:
        task = run_acting(learner, Task(support, query, stack.spec))
        return task.support, task.query

    try:
        support, query = vmap(one)(stack.support, stack.query)
        return Task(support, query, stack.spec)
    except RuntimeError:  # an operator without vmap support
        return stack_tasks([run_acting(learner, task) for task in unstack(stack)])


def kind_of(task: Task) -> Kind:
    """The kind of a task: its kind of answer, the structure of its inputs, and whether the
    learner knows it by name.

    A check of a mapping with one task holds for all tasks of its kind. The numbers of rows, classes
    and features do not matter. Answers with the user's own code are each a kind of their own:
    vmap may support one loss and not another.
    """
    answer = task.spec.answer
    ours = type(answer).__module__.startswith("quickstudy.") and not isinstance(answer, Custom)
    inputs = structure(task.support.inputs)
    known = isinstance(task.support, NamedExamples)
    return answer.kind if ours else answer, ("known by name", inputs) if known else inputs


def names_of(step: Sequence[Prepared]) -> list[str]:
    """The names of a step's tasks, in the order of the step."""
    pairs = (
        (p, n) for prepared in step for p, n in zip(prepared.places, prepared.names, strict=True)
    )
    return [name for _, name in sorted(pairs)]


def count_of(step: Sequence[Prepared]) -> int:
    """The number of tasks of a step."""
    return sum(len(prepared.places) for prepared in step)


def in_step_order(step: Sequence[Prepared], parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate tensors (tasks of each stack, ...), sorted into the order of the step's tasks."""
    if len(parts) == 1:  # a single stack has them in order
        return parts[0]
    places = [place for prepared in step for place in prepared.places]
    return entries_at(torch.cat(list(parts)), sorted(range(len(places)), key=places.__getitem__))


def entries_at(values: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    """The entries at ``places``, without an index tensor, which would be copied to the device."""
    entries = values.unbind()
    return torch.stack([entries[place] for place in places])
