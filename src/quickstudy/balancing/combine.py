"""How the losses or gradients of a step's tasks are combined into one gradient.

A combiner declares in ``reads`` what it needs, each more expensive than the one before:

    nothing     for the mean of the losses of all drawn tasks: one pass
    losses      to give each task a weight: another pass, without gradients
    gramian     to give each task a weight from the inner products of the tasks' gradients: a
                backward pass per task; the gradients need not be in memory
    gradients   to combine the tasks' gradients themselves: a backward pass per task, all in memory

All but the first see one loss and one gradient for each task: the drawn tasks of one name are
averaged, and tasks without any known label are left out
(:mod:`quickstudy.balancing.grouping`). Gradients are those of the parameters that tasks share;
parameters with a part per task (``per_task`` of a learner, such as heads) get the plain gradient
of their own task's loss. Weights that are computed from losses act on all parameters.

A combiner with a state of its own has ``state_dict`` and ``load_state_dict`` (:class:`HasState`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from quickstudy.base.shown import shown
from quickstudy.core import Answer


@dataclass(frozen=True)
class Mean:
    """The mean over drawn tasks, whatever their names."""

    reads: ClassVar[Literal["nothing"]] = "nothing"


@runtime_checkable
class WeighsTasks(Protocol):
    """A combiner that computes a weight for each task from the losses of all."""

    reads: ClassVar[Literal["losses"]]

    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        """Factors (tasks,) on ``losses`` (tasks,); no gradient flows through them.

        ``names``  the tasks' names.
        """


@runtime_checkable
class WeighsGradients(Protocol):
    """A combiner that computes a weight for each task from inner products of their gradients."""

    reads: ClassVar[Literal["gramian"]]

    def gradient_weights(self, gramian: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
        """Factors (tasks,) on the tasks' gradients.

        ``gramian``  (tasks, tasks) in float64: entry (i, j) is the inner product of the gradients
                     of tasks i and j by the shared parameters.

        The factors also act on parameters with a part per task where the class has a true
        ``weighs_all``.
        """


@runtime_checkable
class CombinesGradients(Protocol):
    """A combiner that computes one gradient from the tasks' gradients."""

    reads: ClassVar[Literal["gradients"]]

    def gradient(self, gradients: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
        """One gradient (p,) from ``gradients`` (tasks, p) and ``losses`` (tasks,)."""


@runtime_checkable
class HasState(Protocol):
    """A combiner whose result depends on earlier steps, such as one with running means.

    Checkpoints hold its state, so that a resumed run has the results of an uninterrupted one.
    Without these methods a combiner starts anew when a run is resumed.
    """

    def state_dict(self) -> dict[str, Any]:
        """The state: nested dicts and lists of tensors and JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Continue from ``state``; its tensors are on the learner's device."""


@runtime_checkable
class ReadsAnswers(Protocol):
    """A combiner that depends on the kinds of target that tasks have."""

    def read_answers(self, answers: Mapping[str, Answer]) -> None:
        """Called in each step, before the other methods, with the answer of each name."""


@runtime_checkable
class SeesResult(Protocol):
    """A combiner that reads the losses of the same tasks again, after the optimiser's step."""

    def see_result(self, losses: Tensor, names: Sequence[str]) -> None:
        """Called after each step; costs a pass without gradients."""


Combine = Mean | WeighsTasks | WeighsGradients | CombinesGradients

mean = Mean()
"""The default."""


def check_combine(combine: Combine) -> None:
    """ValueError without a valid ``reads``, or without the method that it requires."""
    needs = {"nothing": Mean, "losses": WeighsTasks, "gramian": WeighsGradients,
             "gradients": CombinesGradients}  # fmt: skip
    reads = getattr(combine, "reads", None)
    if isinstance(combine, type):  # has the same methods, but no self
        raise ValueError(
            f"fit: combine must be an object; found the class {combine.__name__}. Call it: "
            f"{combine.__name__}()."
        )
    if isinstance(reads, str) and reads in needs and isinstance(combine, needs[reads]):
        return
    raise ValueError(
        "fit: combine must say what it reads: reads = 'losses' with a method weights(losses, "
        "names), 'gramian' with gradient_weights(gramian, losses, names), or 'gradients' with "
        f"gradient(gradients, losses, names); found {shown(combine)}. Choose one of qs.balancing, "
        "such as qs.balancing.UPGrad() or qs.balancing.named('upgrad'). Leave it out for the mean."
    )


def reads_gradients(combine: Combine) -> bool:
    """Whether the gradient of each task is computed."""
    return isinstance(combine, WeighsGradients | CombinesGradients)
