"""How the losses or gradients of a step's tasks are combined into one gradient.

A combiner declares in ``reads`` what it needs, each more expensive than the one before:

    nothing     for the mean of the losses: one pass
    losses      to give each task a weight: another pass, without gradients
    gradients   to combine the tasks' gradients: a backward pass per task, all in memory

A combiner with a state of its own has ``state_dict`` and ``load_state_dict`` (:class:`HasState`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from quickstudy.base.shown import shown
from quickstudy.base.trees import dtype_and_shape
from quickstudy.compute.compiled import CompiledGradients
from quickstudy.compute.engine import gradients_of_tasks, losses_of_tasks
from quickstudy.compute.memory import accumulate_within
from quickstudy.compute.plan import Plan
from quickstudy.compute.prepare import Prepared, names_of
from quickstudy.core import Learner
from quickstudy.objectives import Objective, Outcome


@dataclass(frozen=True)
class Mean:
    """The mean over tasks."""

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


Combine = Mean | WeighsTasks | CombinesGradients

mean = Mean()
"""The default."""


def check_combine(combine: Combine) -> None:
    """ValueError without a valid ``reads``, or without the method that it requires."""
    needs = {"nothing": Mean, "losses": WeighsTasks, "gradients": CombinesGradients}
    reads = getattr(combine, "reads", None)
    if reads in needs and isinstance(combine, needs[reads]):
        return
    raise ValueError(
        "fit: combine must say what it reads: reads = 'losses' with a method weights(losses, "
        "names), or 'gradients' with gradient(gradients, losses, names); found "
        f"{shown(combine)}. Leave it out for the mean."
    )


def combined(
    combine: Combine,
    learner: Learner,
    step: Sequence[Prepared],
    objective: Objective,
    plan: Plan,
    compiled: CompiledGradients | None,
) -> tuple[Outcome, Plan]:
    """Set ``.grad`` to the combined gradient; returns the outcome and the plan that was used."""
    names = [] if isinstance(combine, Mean) else names_of(step)
    if isinstance(combine, CombinesGradients):
        gradients, outcome, reached = gradients_of_tasks(learner, step, objective)
        _set_gradient(learner, combine.gradient(gradients, outcome.loss, names), reached)
        return outcome, plan
    weights = None
    if isinstance(combine, WeighsTasks):
        losses = losses_of_tasks(learner, step, objective).loss
        weights = combine.weights(losses, names)
        _check_floats(weights, losses.shape, "one weight for each task of the step")
        weights = weights.detach()
    return accumulate_within(learner, step, objective, plan, compiled, weights)


def _check_floats(found: Any, shape: Sequence[int], what: str) -> None:
    if isinstance(found, Tensor) and found.is_floating_point() and found.shape == tuple(shape):
        return
    raise ValueError(
        f"fit: combine must give {what}, floating-point of shape {tuple(shape)}; found "
        f"{dtype_and_shape(found)}. Another shape would be broadcast, or cut, without a word."
    )


def _set_gradient(learner: Learner, flat: Tensor, reached: Sequence[bool]) -> None:
    """Parameters that no loss depends on keep none: zeros would let weight decay move them."""
    parameters = [p for p in learner.parameters() if p.requires_grad]
    expected = sum(p.numel() for p in parameters)
    _check_floats(flat, (expected,), "one number for each entry of the trained parameters")
    parts = flat.split([p.numel() for p in parameters])
    for parameter, part, depends in zip(parameters, parts, reached, strict=True):
        parameter.grad = part.view_as(parameter).clone() if depends else None
