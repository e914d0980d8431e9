"""The base of learners that hold parameters for each task they know by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.norms import needs_support_statistics
from quickstudy.base.door import readable
from quickstudy.core import Answer, Examples, NamedExamples, State, Task, TaskSpec
from quickstudy.learners.multitask.known_tasks import KnowsTasks
from quickstudy.learners.multitask.stacked_parameters import Place, has_row_per_task, row_at
from quickstudy.objectives import Outcome, all_rows_loss, query_loss
from quickstudy.tasks.examples import counted_weights, without_absent


def named_loss(learner: Any, task: Task) -> Outcome:
    """The objective of a :class:`MultiTaskLearner`.

    For a task it knows by name, the mean loss over *all* rows of the task, support and query,
    since its predictions depend on no support row. For any other task, the query loss.
    """
    return (all_rows_loss if learner.knows(task) else query_loss)(learner, task)


class MultiTaskLearner(KnowsTasks):
    """Maps a task that it knows by name to parameters it holds, any other by its support set.

        adapt(support, name)  = {}                    where the name is known: it reads no row
                              = adapt_new(support)    otherwise

    A subclass keeps its arguments as attributes, and first calls :meth:`_know` in its constructor.
    It defines how it predicts for a known task from its ``place``, the row of this task in
    parameters (tasks, ...), and how it adapts to a new task and predicts for that.

    ``tasks``  name -> number of outputs, in the order of the parameters' rows.

    Known tasks of all names share stacks, and so do new ones. In training, known tasks count with
    all their rows (:func:`named_loss`).
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes, Reals, Labels)
    objective = staticmethod(named_loss)

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
        super()._know(tasks)
        if tasks:
            self.exceptions = {  # type: ignore[misc]  # those of this instance
                "relabelling_permutes_outputs": "a known task's classes are those of its head",
                "joined_answer_changes_nothing": "a known task has all classes of its head",
            }

    @property
    def per_task(self) -> tuple[str, ...]:
        """Names of the parameters whose first axis is the tasks; all others are shared."""
        return tuple(
            f"{prefix}.{name}" for prefix, module in self.named_modules()
            if has_row_per_task(module) for name, _ in module.named_parameters()
        )  # fmt: skip

    def knows(self, task: Task) -> bool:
        """Whether the task is known: by its name or, in a stack, because it has a place."""
        return isinstance(task.support, NamedExamples) or self.place_of(task.spec.name) >= 0

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
