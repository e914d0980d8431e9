"""Knowing tasks by name: the place of each in stacked parameters, and errors for other names."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from typing import Self

from torch import Tensor

from quickstudy.base.shown import shown
from quickstudy.base.words import count, first_few
from quickstudy.core import Learner, TaskSpec
from quickstudy.learners.multitask.stacked_parameters import Place


class KnowsTasks(Learner):
    """A learner with parameters (tasks, ...) that have a row, the *place*, for each task it knows.

    A subclass calls :meth:`_know` in its constructor, and asks :meth:`_place_in` for the place of
    the task at hand.

    ``tasks``  name -> number of outputs, in the order of the parameters' rows.

    Known tasks of all names share stacks, and so do all others.
    """

    reads_name = True
    tasks: dict[str, int]
    _place: Tensor | None = None
    """In the copy that :meth:`at` gives: the place of the task that it is for."""

    def _know(self, tasks: Mapping[str, int]) -> None:
        """Keep the names of the tasks; ValueError for one without a name or without an output."""
        who = type(self).__name__
        if not isinstance(tasks, Mapping):
            raise ValueError(
                f"{who}: tasks must be a mapping from names to numbers of outputs; found "
                f"{type(tasks).__name__}. Give {{name: number of outputs}}, such as the outputs of "
                "qs.tasks.domains(…)."
            )
        for name, outputs in tasks.items():
            if not isinstance(name, str) or not name:
                raise ValueError(
                    f"{who}: every task needs a name, a text that is not empty; found {name!r}. "
                    "Give tasks={name: number of outputs}."
                )
            if not isinstance(outputs, int) or isinstance(outputs, bool) or outputs < 1:
                raise ValueError(
                    f"{who}: every task needs a whole number of outputs, at least 1; found "
                    f"{shown(outputs)} for {name!r}. Give the outputs of its spec, such as the "
                    "number of classes; qs.tasks.domains(…) has them all as outputs."
                )
        self.tasks = dict(tasks)
        self._places = {name: place for place, name in enumerate(self.tasks)}

    def place_of(self, name: str) -> int:
        """The row of this task in the stacked parameters; -1 for a name that is not known."""
        return self._places.get(name, -1)

    def at(self, place: Tensor) -> Self:
        """A copy for the task at ``place`` (), whatever the name; it shares all parameters."""
        twin = copy.copy(self)
        twin._place = place
        return twin

    def name_key(self, spec: TaskSpec) -> Hashable:
        """Whether the task is known: all known tasks may share a stack, and so may all others.

        Raises ValueError for a known name with another number of outputs.
        """
        return self._place_in(spec) is not None

    def unknown_task(self, name: str) -> ValueError:
        """The error for a task whose name is unknown, and whose rows are not labelled."""
        known = first_few(self.tasks) if self.tasks else "none"
        return ValueError(
            f"{type(self).__name__}: knows no task {name!r}, and its support set has no labelled "
            f"row to adapt from. The tasks it knows: {known}. Use one of these names, or adapt: "
            "learner(support, spec) with labelled rows."
        )

    def _place_in(self, spec: TaskSpec) -> Place | None:
        """The place of a known task; None for any other."""
        if self._place is not None:
            return self._place
        place = self.place_of(spec.name)
        if place < 0:
            return None
        if spec.outputs != self.tasks[spec.name]:
            raise ValueError(
                f"{type(self).__name__}: the task {spec.name!r} was declared with "
                f"{count(self.tasks[spec.name], 'output')}, but its answer has {spec.outputs} "
                f"({spec.answer}). Give the spec that it was made with, or another name."
            )
        return place
