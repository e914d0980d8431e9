"""The gradient of each task of a step: the rows of its Jacobian, whole or a part at a time.

Rows are those of the parameters that tasks *share*. Parameters of which every task has its own
part (``per_task`` of a learner) get the gradient of their own task's loss, and have no rows: with
stacked heads (tasks, ...) a row would be zero but for one task.

Gradients are computed task by task, by autograd or by ``vmap`` of a task's gradient, never as a
batch of backward passes through one graph, where the derivative of ``torch.cdist`` is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from quickstudy.compute.engine import accumulate, chunks, computing, plan_for
from quickstudy.compute.gradients import TaskLoss, as_outcome
from quickstudy.compute.loop import seeded, stack_outcomes
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import Prepared, entries_at, in_step_order
from quickstudy.core import Learner
from quickstudy.objectives import Objective, Outcome
from quickstudy.tasks.stacks import unstack

Parameters = dict[str, nn.Parameter]


def shared_and_own(learner: Learner) -> tuple[Parameters, Parameters]:
    """The trained parameters by name: those that tasks share, and those with a part per task."""
    per_task = set(getattr(learner, "per_task", ()))
    trained = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    shared = {name: p for name, p in trained.items() if name not in per_task}
    return shared, {name: p for name, p in trained.items() if name in per_task}


@dataclass
class Found:
    """What :func:`gradient_rows` finds beside the rows, complete after the last part.

    ``outcome``  losses and scores (tasks,).
    ``own``      gradients of the parameters with a part per task, of the scaled sum of the losses.
    ``reached``  names of the parameters on which the loss of any task depends.
    """

    outcome: Outcome = None  # type: ignore[assignment]  # set with the first part
    own: dict[str, Tensor] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)


def gradient_rows(
    learner: Learner,
    step: Sequence[Prepared],
    objective: Objective,
    scale: Tensor,
    plan: Plan,
    found: Found,
) -> Iterator[Tensor]:
    """The tasks' gradients (tasks, p), flat, in ``plan.parts`` parts (tasks, p / parts).

    p counts the shared parameters. Each part costs a pass over the tasks, and only one part is in
    memory. Rows are zero where a task's loss does not depend on a parameter.

    ``scale``  (tasks,) factors on the losses, for the gradients of ``found.own``.
    """
    shared, own = shared_and_own(learner)
    mapped = any(_is_mapped(plan, prepared) for prepared in step)
    for place, (names, cut) in enumerate(_parts(shared, plan.parts)):
        first = place == 0
        rows, outcomes = [], []
        for prepared in step:
            with computing(learner, prepared.task, prepared.inspection):
                if _is_mapped(plan, prepared):
                    part, outcome = _mapped(learner, prepared, objective, plan, names, cut, found)
                else:
                    of_own = list(own) if first and not mapped else []
                    factors = entries_at(scale, prepared.places)
                    part, outcome = _looped(
                        learner, prepared, objective, factors, names, cut, of_own, found
                    )
            rows.append(part)
            outcomes.append(outcome)
        if first:
            parts = zip(*outcomes, strict=True)
            found.outcome = Outcome(*(in_step_order(step, each) for each in parts))
        yield in_step_order(step, rows)
    if mapped and own:
        _own_gradients(learner, step, objective, scale, plan, found)


def _is_mapped(plan: Plan, prepared: Prepared) -> bool:
    return plan_for(plan, prepared.task).mapping is not Mapping.LOOP and not prepared.dropout


def _parts(shared: Parameters, parts: int) -> Iterator[tuple[list[str], slice]]:
    """For each part: the parameters that it touches, and where in their flat gradient it is."""
    ends, end = {}, 0
    for name, parameter in shared.items():
        ends[name] = (end, end + parameter.numel())
        end += parameter.numel()
    size = max(1, -(-end // parts))
    for start in range(0, max(1, end), size):
        stop = min(start + size, end)
        names = [name for name, (a, b) in ends.items() if a < stop and b > start]
        offset = ends[names[0]][0] if names else 0
        yield names, slice(start - offset, stop - offset)


def _looped(
    learner: Learner,
    prepared: Prepared,
    objective: Objective,
    factors: Tensor,
    names: Sequence[str],
    cut: slice,
    own: Sequence[str],
    found: Found,
) -> tuple[Tensor, Outcome]:
    parameters = dict(learner.named_parameters())
    wanted = [parameters[name] for name in (*names, *own)]
    rows, outcomes = [], []
    for place, task in enumerate(unstack(prepared.task)):
        outcome = as_outcome(objective(seeded(learner, prepared.dropout, place), task))
        outcomes.append(Outcome(outcome.loss.detach(), outcome.score.detach()))
        if not wanted:  # nothing is shared, and the parts of tasks are computed elsewhere
            rows.append(outcome.loss.new_zeros(0).detach())
            continue
        gradients = dict(zip((*names, *own),
                             torch.autograd.grad(outcome.loss, wanted, allow_unused=True),
                             strict=True))  # fmt: skip
        found.reached |= {name for name, gradient in gradients.items() if gradient is not None}
        flat = [
            (torch.zeros_like(parameters[name]) if gradients[name] is None else gradients[name])
            for name in names
        ]
        rows.append(_flat(flat, outcome.loss)[cut])
        for name in own:
            if (gradient := gradients[name]) is not None:
                scaled = factors[place].to(gradient.dtype) * gradient
                found.own[name] = found.own[name] + scaled if name in found.own else scaled
    return torch.stack(rows), stack_outcomes(outcomes)


def _flat(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    flat = [part.flatten() for part in parts]
    return torch.cat(flat) if flat else like.new_zeros(0).detach()


def _mapped(
    learner: Learner,
    prepared: Prepared,
    objective: Objective,
    plan: Plan,
    names: Sequence[str],
    cut: slice,
    found: Found,
) -> tuple[Tensor, Outcome]:
    trained = {n: p.detach() for n, p in learner.named_parameters() if p.requires_grad}
    wanted = {name: trained.pop(name) for name in names}
    loss = TaskLoss(learner, objective, prepared.task.spec)
    # Constants are an argument, so that torch wraps them as it does the places that index them.
    over_tasks = vmap(grad_and_value(loss, has_aux=True), in_dims=(None, 0, 0, None))
    rows, outcomes = [], []
    for chunk, _ in chunks(prepared.task, None, plan.chunk):
        gradients, (losses, scores) = over_tasks(wanted, chunk.support, chunk.query, trained)
        parts = [gradient.flatten(1) for gradient in gradients.values()]
        rows.append(torch.cat(parts, 1)[:, cut] if parts else losses.new_zeros(len(losses), 0))
        outcomes.append(Outcome(losses.detach(), scores.detach()))
    found.reached |= loss.reached
    joined = (torch.cat(part) for part in zip(*outcomes, strict=True))
    return torch.cat(rows).detach(), Outcome(*joined)


def _own_gradients(
    learner: Learner,
    step: Sequence[Prepared],
    objective: Objective,
    scale: Tensor,
    plan: Plan,
    found: Found,
) -> None:
    """Another pass: rows of stacked heads under ``vmap`` would have the square of their size."""
    _, own = shared_and_own(learner)
    before = {name: p.grad for name, p in learner.named_parameters()}
    for parameter in learner.parameters():
        parameter.grad = None
    accumulate(learner, step, objective, plan, None, scale)
    found.own = {name: p.grad for name, p in own.items() if p.grad is not None}
    found.reached |= found.own.keys()
    for name, parameter in learner.named_parameters():
        parameter.grad = before[name]
