"""The gradient of one step by a combiner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quickstudy.balancing.combine import (
    Combine,
    CombinesGradients,
    Mean,
    ReadsAnswers,
    SeesResult,
    WeighsGradients,
    WeighsTasks,
)
from quickstudy.balancing.grouping import Grouping, answers_of, group, unlabelled_places
from quickstudy.base.shown import shown
from quickstudy.base.trees import dtype_and_shape
from quickstudy.base.words import first_few
from quickstudy.compute.compiled import CompiledGradients
from quickstudy.compute.engine import losses_of_tasks
from quickstudy.compute.jacobian import Found, gradient_rows, shared_and_own
from quickstudy.compute.memory import accumulate_within
from quickstudy.compute.plan import Mapping as PlanMapping
from quickstudy.compute.plan import Plan
from quickstudy.compute.prepare import Prepared, count_of, names_of
from quickstudy.core import Learner
from quickstudy.objectives import Objective, Outcome


class NotFinite(ArithmeticError):
    """The loss or gradient of drawn tasks is NaN or infinite.

    ``what``    what is not finite: "loss" or "gradient".
    ``places``  of these tasks in the step; all, where no single one has such a gradient.
    ``names``   of these tasks, "" for a task without one.
    """

    def __init__(
        self, what: str, places: Sequence[int], step: Sequence[Prepared], value: float
    ) -> None:
        names = names_of(step)
        self.what, self.places = what, list(places)
        self.names = [names[place] for place in places]
        named = first_few([repr(name) for name in dict.fromkeys(self.names) if name])
        self.whose = f"task {named}" if named else "a task"
        super().__init__(f"the {what} of {self.whose} became {value}")


def combined(
    combine: Combine,
    learner: Learner,
    step: Sequence[Prepared],
    objective: Objective,
    plan: Plan,
    compiled: CompiledGradients | None,
) -> tuple[Outcome, Plan]:
    """Set ``.grad`` to the combined gradient; returns the outcome and the plan that was used.

    Raises :class:`NotFinite` where a loss or gradient that the combiner would read is not finite,
    and ValueError where no drawn task has a known label.
    """
    if isinstance(combine, Mean):
        outcome, plan = accumulate_within(learner, step, objective, plan, compiled)
        if unlabelled_places(step):
            _tasks(step, outcome.loss)
        return outcome, plan
    if isinstance(combine, ReadsAnswers):
        combine.read_answers(answers_of(step))
    if isinstance(combine, WeighsTasks):
        losses = losses_of_tasks(learner, step, objective).loss
        tasks = _tasks(step, losses)
        averages = tasks.averages(losses)
        weights = combine.weights(averages @ losses, tasks.names)
        _check_weights(combine, weights, averages @ losses, tasks.names)
        scale = weights.detach().to(averages.dtype) @ averages
        return accumulate_within(learner, step, objective, plan, compiled, scale)
    if isinstance(combine, WeighsGradients):
        return _by_gramian(combine, learner, step, objective, plan)
    return _by_gradients(combine, learner, step, objective, plan), plan


def see_result(
    combine: Combine, learner: Learner, step: Sequence[Prepared], objective: Objective
) -> None:
    """Give ``combine`` the losses of the same tasks after the optimiser's step, if it reads them.

    Raises :class:`NotFinite` where one is not finite.
    """
    if isinstance(combine, SeesResult):
        losses = losses_of_tasks(learner, step, objective).loss
        tasks = _tasks(step, losses)
        combine.see_result(tasks.averages(losses) @ losses, tasks.names)


def _tasks(step: Sequence[Prepared], losses: Tensor) -> Grouping:
    """The tasks that are not absent; refuses losses that are not finite, and a step without any."""
    _refuse_not_finite("loss", losses, step)
    absent = [place for place in unlabelled_places(step) if losses[place] == 0]
    tasks = group(step, absent)
    if tasks.names:
        return tasks
    names = [name or "without a name" for name in dict.fromkeys(names_of(step))]
    raise ValueError(
        f"fit: at least one task of a step needs a query with a known label; found none in "
        f"{count_of(step)} drawn tasks ({first_few(names)}). Draw more rows or tasks in a step, "
        "or leave out rows without labels."
    )


def _tasks_before_gradients(
    learner: Learner, step: Sequence[Prepared], objective: Objective
) -> Grouping:
    """:func:`_tasks`; costs a pass without gradients where some could be absent."""
    if not unlabelled_places(step):
        return group(step)
    return _tasks(step, losses_of_tasks(learner, step, objective).loss)


def _refuse_not_finite(what: str, numbers: Tensor, step: Sequence[Prepared]) -> None:
    found = numbers.tolist()
    places = [place for place, number in enumerate(found) if not math.isfinite(number)]
    if places:
        raise NotFinite(what, places, step, found[places[0]])


def refuse_not_finite(
    learner: Learner,
    step: Sequence[Prepared],
    objective: Objective,
    losses: Sequence[float],
    norm: float,
) -> None:
    """:class:`NotFinite` where one of the ``losses`` or the combined gradient's norm is not finite.

    To name the tasks, their gradients are then computed again, one after the other. All tasks are
    named where each has a finite gradient.
    """
    _refuse_not_finite("loss", torch.tensor(losses), step)
    if math.isfinite(norm):
        return
    shared, drawn = shared_and_own(learner)[0], count_of(step)
    parts = 1 + drawn * sum(p.numel() for p in shared.values()) // 2**24
    plan = Plan(PlanMapping.LOOP, "to find a gradient that is not finite", 1, parts=parts)
    scale = torch.ones(drawn)
    for rows in gradient_rows(learner, step, objective, scale, plan, Found()):
        _refuse_not_finite("gradient", rows.sum(1), step)
    raise NotFinite("gradient", range(drawn), step, norm)


def _by_gramian(
    combine: WeighsGradients,
    learner: Learner,
    step: Sequence[Prepared],
    objective: Objective,
    plan: Plan,
) -> tuple[Outcome, Plan]:
    """Two passes where the gradients are computed in parts: their weights, then their sum."""
    tasks, found = _tasks_before_gradients(learner, step, objective), Found()
    shared, own = shared_and_own(learner)
    averages = tasks.averages(next(iter((shared or own).values())))
    gramian, rows = torch.zeros(()), averages
    for part in gradient_rows(learner, step, objective, averages.sum(0), plan, found):
        _refuse_rows_not_finite(found.outcome.loss, part, step)
        rows = tasks.averaged(part)
        gramian = gramian.to(rows.device) + gramian_of(rows)
    if not shared:
        _set_gradient(learner, rows.new_zeros(0), found)
        return found.outcome, plan
    losses = averages.to(found.outcome.loss) @ found.outcome.loss
    weights = combine.gradient_weights(gramian, losses, tasks.names)
    _check_weights(combine, weights, losses, tasks.names)
    weights, weighs_all = weights.detach().to(averages), getattr(combine, "weighs_all", False)
    if plan.parts == 1 and not (own and weighs_all):
        _set_gradient(learner, weights @ rows, found)
        return found.outcome, plan
    outcome, _ = accumulate_within(learner, step, objective, plan, None, weights @ averages)
    if not weighs_all:
        for name, parameter in own.items():
            parameter.grad = found.own.get(name)
    return outcome, plan


def _by_gradients(
    combine: CombinesGradients,
    learner: Learner,
    step: Sequence[Prepared],
    objective: Objective,
    plan: Plan,
) -> Outcome:
    tasks, found = _tasks_before_gradients(learner, step, objective), Found()
    shared, own = shared_and_own(learner)
    averages = tasks.averages(next(iter((shared or own).values())))
    whole = replace(plan, parts=1)
    (drawn,) = gradient_rows(learner, step, objective, averages.sum(0), whole, found)
    _refuse_rows_not_finite(found.outcome.loss, drawn, step)
    rows = tasks.averaged(drawn)
    flat = rows.new_zeros(0)
    if shared:
        losses = averages.to(found.outcome.loss) @ found.outcome.loss
        flat = combine.gradient(rows, losses, tasks.names)
        what = "one number for each entry of the trained parameters that tasks share"
        _check_floats(flat, rows.shape[1:], what)
    _set_gradient(learner, flat.detach(), found)
    return found.outcome


def gramian_of(rows: Tensor) -> Tensor:
    """(tasks, p) -> their inner products (tasks, tasks) in float64, a few columns at a time."""
    double = torch.float64 if rows.device.type != "mps" else torch.float32  # which has no other
    gramian = torch.zeros(len(rows), len(rows), dtype=double, device=rows.device)
    for columns in rows.split(_COLUMNS, dim=1):
        part = columns.to(double)
        gramian += part @ part.T
    return gramian


_COLUMNS = 2**16


def _refuse_rows_not_finite(losses: Tensor, rows: Tensor, step: Sequence[Prepared]) -> None:
    _refuse_not_finite("loss", losses, step)
    _refuse_not_finite("gradient", rows.sum(1), step)


def _check_weights(combine: Combine, weights: Any, losses: Tensor, names: Sequence[str]) -> None:
    _check_floats(weights, losses.shape, "one weight for each task of the step")
    if bool(weights.isfinite().all()):
        return
    bad = [i for i, fine in enumerate(weights.isfinite().tolist()) if not fine]
    found = [f"{names[i] or 'a task'}: {float(weights[i]):g}, loss {float(losses[i]):.3g}"
             for i in bad]  # fmt: skip
    raise ValueError(
        f"fit: {shown(combine)} must give finite weights; found {first_few(found)}. Use another "
        "combiner, or look at the losses of these tasks."
    )


def _check_floats(found: Any, shape: Sequence[int], what: str) -> None:
    if isinstance(found, Tensor) and found.is_floating_point() and found.shape == tuple(shape):
        return
    raise ValueError(
        f"fit: combine must give {what}, floating-point of shape {tuple(shape)}; found "
        f"{dtype_and_shape(found)}. Another shape would be broadcast, or cut, without a word."
    )


def _set_gradient(learner: Learner, flat: Tensor, found: Found) -> None:
    """Parameters that no loss depends on keep none: zeros would let weight decay move them."""
    shared, own = shared_and_own(learner)
    parts = flat.split([p.numel() for p in shared.values()])
    for (name, parameter), part in zip(shared.items(), parts, strict=True):
        reached = name in found.reached
        parameter.grad = part.view_as(parameter).clone() if reached else None
    for name, parameter in own.items():
        parameter.grad = found.own.get(name)
