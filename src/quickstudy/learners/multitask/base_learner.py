"""The base of learners that hold parameters for each task they know by name."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.norms import needs_support_statistics
from quickstudy.base.door import readable
from quickstudy.base.words import count, first_few
from quickstudy.core import Answer, Examples, Learner, NamedExamples, State, Task, TaskSpec
from quickstudy.learners.multitask.stacked import Place, has_row_per_task, row_at
from quickstudy.objectives import Outcome, all_rows_loss, query_loss
from quickstudy.tasks.examples import counted_weights, without_absent


def named_loss(learner: Any, task: Task) -> Outcome:
    """The objective of a :class:`MultiTaskLearner`.

    For a task it knows by name, the mean loss over *all* rows of the task, support and query,
    since its predictions depend on no support row. For any other task, the query loss.
    """
    return (all_rows_loss if learner.knows(task) else query_loss)(learner, task)


class MultiTaskLearner(Learner):
    """Maps a task that it knows by name to parameters it holds, any other by its support set.

        adapt(support, name)  = {}                    where the name is known: it reads no row
                              = adapt_new(support)    otherwise

    A subclass keeps its arguments as attributes, and first calls :meth:`_know` in its constructor. It
    defines how it predicts for a known task from its ``place``, the row of this task in parameters
    (tasks, ...) of modules of :mod:`quickstudy.learners.multitask.stacked`, and how it adapts to a
    new task and predicts for that.

    ``tasks``  name -> number of outputs, in the order of the parameters' rows.

    Known tasks of all names share stacks, and so do new ones. In training, known tasks count with
    all their rows (:func:`named_loss`).
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes, Reals, Labels)
    reads_name = True
    objective = staticmethod(named_loss)
    tasks: dict[str, int]
    _place: Tensor | None = None
    """In the copy that :meth:`at` gives: the place of the task that it is for."""

    @abstractmethod
    def _predict_known(self, place: Place, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, W) for the known task at ``place``; W is ``spec.outputs`` or more."""

    @abstractmethod
    def _adapt_new(self, support: Examples, spec: TaskSpec) -> State:
        """The state for a task that is not known by name."""

    @abstractmethod
    def _predict_new(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs) for a task that is not known by name."""

    def _know(self, tasks: Mapping[str, int]) -> None:
        """Keep the names of the tasks; ValueError for one without a name or without an output."""
        who = type(self).__name__
        for name, outputs in tasks.items():
            if not isinstance(name, str) or not name:
                raise ValueError(
                    f"{who}: every task needs a name, a text that is not empty; found {name!r}. "
                    "Give tasks={name: number of outputs}."
                )
            if not isinstance(outputs, int) or isinstance(outputs, bool) or outputs < 1:
                raise ValueError(
                    f"{who}: every task needs a whole number of outputs, at least 1; found "
                    f"{outputs!r} for {name!r}. Give the outputs of its spec, such as the number "
                    "of classes."
                )
        self.tasks = dict(tasks)
        if tasks:
            self.exceptions = {  # type: ignore[misc]  # those of this instance
                "relabelling_permutes_outputs": "a known task's classes are those of its head",
                "joined_answer_changes_nothing": "a known task has all classes of its head",
            }
        self._places = {name: place for place, name in enumerate(self.tasks)}

    @property
    def per_task(self) -> tuple[str, ...]:
        """Names of the parameters whose first axis is the tasks; all others are shared."""
        return tuple(
            f"{prefix}.{name}" for prefix, module in self.named_modules()
            if has_row_per_task(module) for name, _ in module.named_parameters()
        )  # fmt: skip

    def place_of(self, name: str) -> int:
        """The row of this task in the stacked parameters; -1 for a name that is not known."""
        return self._places.get(name, -1)

    def knows(self, task: Task) -> bool:
        """Whether the task is known: by its name or, in a stack, because it has a place."""
        return isinstance(task.support, NamedExamples) or self.place_of(task.spec.name) >= 0

    def at(self, place: Tensor) -> Learner:
        """A copy for the task at ``place`` (), whatever the name; it shares all parameters."""
        twin = copy.copy(self)
        twin._place = place
        return twin

    def name_key(self, spec: TaskSpec) -> Hashable:
        """Whether the task is known: all known tasks may share a stack, and so may all others.

        Raises ValueError for a known name with another number of outputs.
        """
        return self._place_in(spec) is not None

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """Nothing for a task that is known by name; for others what ``support`` taught.

        Raises ValueError for a known name with another number of outputs, and for an unknown name
        where no row of ``support`` is labelled.
        """
        if self._place_in(spec) is not None:
            return {}
        weights = counted_weights(support, spec.answer)
        if spec.name and readable(weights) and not bool((weights > 0).any()):
            raise self.unknown_task(spec.name)
        return self._adapt_new(support, spec)

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits or real numbers (n, outputs)."""
        place = self._place_in(spec)
        if place is None:
            return self._predict_new(state, inputs, spec)
        predictions = self._predict_known(place, inputs, spec)[:, : spec.outputs]
        return without_absent(predictions, self._own_outputs(place, spec))

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

    def _own_outputs(self, place: Place, spec: TaskSpec) -> Tensor | None:
        """(outputs,): the outputs that the task at ``place`` has, where in a stack there are more,
        because its answer was joined with one of more classes; None where it has all."""
        if isinstance(place, int) or min(self.tasks.values()) >= spec.outputs:
            return None
        widths = torch.tensor(list(self.tasks.values()), device=place.device)
        return torch.arange(spec.outputs, device=place.device) < row_at(widths, place)


def refuse_support_statistics(backbone: nn.Module, who: str) -> None:
    """ValueError for a backbone that normalises by the support set, where none is read."""
    if needs_support_statistics(backbone):
        raise ValueError(
            f"{who}: predicts for a known task without its support set, but the backbone "
            "normalises by the support set's statistics (norm='support'). Use norm='group'."
        )
