"""A source of given tasks, for example a published test set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.door import check_not_empty
from quickstudy.core import Acting, Examples, Task, TaskSpec


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare tasks by
class FixedTasks:
    """The task source that :func:`fixed` makes; task number i is the i-th of ``tasks``.

    ``scales``  shift and scale (d,) of named tasks whose real targets are standardised: evaluations
                score ``scale * targets + shift``, in the original unit.
    """

    tasks: tuple[Task, ...] = field(repr=False)
    scales: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"fixed({len(self)} tasks)"

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        """The tasks, in order."""
        return iter(self.tasks)

    def at(self, index: int) -> Task:
        """Task ``index``, modulo the number of tasks."""
        return self.tasks[index % len(self.tasks)]

    def __call__(self, generator: torch.Generator) -> Task:
        """One of them at random."""
        return self.tasks[int(torch.randint(len(self.tasks), (), generator=generator))]


def fixed(tasks: Iterable[Task]) -> FixedTasks:
    """A source of the given tasks: task number i is the i-th of them, in every stream and seed.

    ``tasks``  a list, or any iterable that ends, which is read once, now.

    ``evaluate(learner, fixed(tasks))`` scores each once, in order. Training goes through them in
    order, again and again. Tasks given to both are trained on and scored: give two sources.

    Raises ValueError for no tasks, for anything that is not a task, for support or query sets
    without rows, and for targets that do not fit their task's answer.
    """
    if isinstance(tasks, Task | Examples) or not isinstance(tasks, Iterable):
        raise ValueError(
            f"fixed: needs a list of tasks; found one {type(tasks).__name__}. Write "
            "fixed([qs.Task(support, query, spec), …])."
        )
    given = tuple(tasks)
    if not given:
        raise ValueError("fixed: needs at least 1 task; found none. Give a list of tasks.")
    for index, task in enumerate(given):
        try:
            _check(task)
        except ValueError as error:
            raise ValueError(f"fixed: task {index} of {len(given)}: {error}") from error
    return FixedTasks(given)


def _check(task: Any) -> None:
    if not isinstance(task, Task):
        raise ValueError(
            f"must be a quickstudy.Task; found {type(task).__name__}. Make it by "
            "qs.Task(support, query, spec)."
        )
    if not isinstance(task.spec, TaskSpec):
        raise ValueError(
            f"spec must be a TaskSpec; found {type(task.spec).__name__}. Make it by "
            "qs.classification, qs.regression, …"
        )
    for what, part in (("support", task.support), ("query", task.query)):
        if isinstance(part, Acting):
            continue
        if not isinstance(part, Examples):
            raise ValueError(
                f"{what} must be Examples; found {type(part).__name__}. Make them by qs.examples."
            )
        check_not_empty(len(part.weights), what)
        task.spec.answer.check(part.targets, what)
        task.spec.answer.check_values(part.targets, what)


def number_of_tasks(who: str, source: Any, tasks: int | None, default: int) -> int:
    """How many tasks to score: ``tasks``, by default all of a fixed source or else ``default``.

    Raises ValueError for more than a fixed source has.
    """
    if not isinstance(source, FixedTasks):
        return default if tasks is None else tasks
    given = len(source)
    if tasks is not None and tasks > given:
        raise ValueError(
            f"{who}: {tasks} tasks asked, but the source has {given} given tasks. Repeated ones "
            "would make the interval too narrow. Leave tasks out, to score each once."
        )
    return given if tasks is None else tasks
