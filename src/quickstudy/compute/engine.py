"""From a batch of tasks to the losses and the meta-gradient: right for every module, and batched.

Learners are written for one task. The engine maps ``(support, query) -> loss`` over the tasks of a
batch in one of five ways, all of which give the loop's gradient:

    task_axis   all tasks at once, by the learner's own :meth:`Learner.over_tasks`
    vmap        one batched graph, differentiated from outside; for learners whose ``adapt`` takes
                no gradient itself
    features    the backbone once for the rows of all tasks, and vmap for what follows
    vmap_grad   vmap over whole per-task gradients, then their mean; for those whose ``adapt`` does
                (differentiating *through* vmap(grad) is silently wrong in torch for some norms)
    loop        one task after the other, or some at once, in threads; right for everything that
                autograd can differentiate
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from quickstudy.backbones.norms import blind_to_weights, rows_count_alike
from quickstudy.base.trees import map_tree
from quickstudy.compute.compiled import CompiledGradients
from quickstudy.compute.features import embedded
from quickstudy.compute.gradients import (
    GradientMaker,
    Parameters,
    as_outcome,
    of_each_task,
    of_one_graph,
    of_task_axis,
    outcome_over_tasks,
)
from quickstudy.compute.loop import in_task_order, loop_gradients, map_in_threads
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.core import Examples, Learner, Task
from quickstudy.objectives import Objective, Outcome
from quickstudy.tasks.inspection import Look, look_at
from quickstudy.tasks.stacks import unstack

GRADIENT_MAKERS: dict[Mapping, GradientMaker] = {
    Mapping.TASK_AXIS: of_task_axis,
    Mapping.VMAP: of_one_graph,
    Mapping.VMAP_GRAD: of_each_task,
}
"""The mappings that can be compiled."""


def accumulate(
    learner: Learner,
    batch: Task,
    objective: Objective,
    plan: Plan,
    compiled: CompiledGradients | None = None,
    look: Look | None = None,
) -> Outcome:
    """Add the gradient of the batch's mean loss to ``.grad``; returns losses and scores (tasks,).

    The batch is computed in chunks of ``plan.chunk`` tasks, whose graphs are freed one by one; by
    ``compiled``, where it is given and made for tasks such as these. ``look`` is for
    :func:`computing`.
    """
    total = len(batch.support.weights)
    steps: dict[Mapping, Callable[..., Outcome]] = {
        Mapping.TASK_AXIS: _task_axis,
        Mapping.VMAP: _vmap,
        Mapping.FEATURES: _features,
        Mapping.VMAP_GRAD: _vmap_grad,
        Mapping.LOOP: partial(loop_gradients, plan.workers),
    }
    step = steps[plan.mapping]
    with computing(learner, batch, look) as alike:
        if compiled is not None and compiled.serves(batch):
            step = partial(_compiled, compiled, alike)
        parts = [step(learner, chunk, objective, total) for chunk in _chunks(batch, plan.chunk)]
    if len(parts) == 1:
        return parts[0]
    return Outcome(torch.cat([p.loss for p in parts]), torch.cat([p.score for p in parts]))


def _task_axis(learner: Learner, batch: Task, objective: Objective, total: int) -> Outcome:
    outcome = outcome_over_tasks(learner, batch, objective)
    (outcome.loss.sum() / total).backward()
    return Outcome(outcome.loss.detach(), outcome.score)


def _vmap(learner: Learner, batch: Task, objective: Objective, total: int) -> Outcome:
    outcome = vmap(_composite(learner, objective, batch))(batch.support, batch.query)
    (outcome.loss.sum() / total).backward()
    return Outcome(outcome.loss.detach(), outcome.score.detach())


def _features(learner: Learner, batch: Task, objective: Objective, total: int) -> Outcome:
    reader, features = embedded(learner, batch)
    return _vmap(reader, features, objective, total)


def _vmap_grad(learner: Learner, batch: Task, objective: Objective, total: int) -> Outcome:
    # Detached, because `grad` keeps its own record and autograd's would be a second one.
    detached = {name: p.detach() for name, p in learner.named_parameters() if p.requires_grad}
    gradients = of_each_task(learner, objective, batch.spec)
    found, outcome = gradients(detached, batch.support, batch.query)
    _add(learner, found, total)
    return Outcome(outcome.loss.detach(), outcome.score.detach())


def _compiled(
    compiled: CompiledGradients,
    alike: bool,
    learner: Learner,
    batch: Task,
    _: Objective,
    total: int,
) -> Outcome:
    found, outcome = compiled(batch, alike)
    _add(learner, found, total)
    return outcome


def _add(learner: Learner, gradients: Parameters, total: int) -> None:
    if not gradients:
        return
    parameters = dict(learner.named_parameters())
    shares = torch._foreach_div(list(gradients.values()), total)
    for name, share in zip(gradients, shares, strict=True):
        before = parameters[name].grad
        parameters[name].grad = share if before is None else before + share


def map_tasks(
    function: Callable[[Learner, Task], Tensor],
    batch: Task,
    learner: Learner,
    plan: Plan,
    look: Look | None = None,
) -> Tensor:
    """``function`` of every task, stacked (tasks, ...), without gradients: for evaluation.

    ``look`` is for :func:`computing`.
    """

    def each(learner: Learner, tasks: Sequence[Task]) -> list[Tensor]:
        return [function(learner, task) for task in tasks]

    with torch.no_grad(), computing(learner, batch, look):
        if plan.mapping is Mapping.LOOP:
            tasks = unstack(batch)
            return torch.stack(in_task_order(map_in_threads(each, learner, tasks, plan.workers)))
        return torch.cat([
            vmap(lambda support, query: function(learner, Task(support, query, batch.spec)))(
                chunk.support, chunk.query
            )
            for chunk in _chunks(batch, plan.chunk)
        ])  # fmt: skip


def _composite(
    learner: Learner, objective: Objective, batch: Task
) -> Callable[[Examples, Examples], Outcome]:
    return lambda support, query: as_outcome(objective(learner, Task(support, query, batch.spec)))


def _chunks(batch: Task, size: int) -> Iterator[Task]:
    if size >= len(batch.support.weights):  # slices of the whole would cost a small network's step
        yield batch
        return
    for start in range(0, len(batch.support.weights), size):
        part = slice(start, start + size)
        yield Task(
            map_tree(lambda leaf, part=part: leaf[part], batch.support),
            map_tree(lambda leaf, part=part: leaf[part], batch.query),
            batch.spec,
        )


@contextmanager
def computing(learner: Learner, batch: Task, look: Look | None = None) -> Iterator[bool]:
    """In which tasks of ``batch`` are computed, one or many; gives whether all rows count alike.

    ``look``  what :func:`quickstudy.tasks.inspection.look_at` saw of these tasks, for a batch that
              has been moved since; without it, the batch is looked at.

    Raises ValueError for tasks that the learner would get wrong, and for targets that the spec does
    not ask for.
    """
    alike = (look or look_at(batch)).rows_count_alike
    reason = None if alike else miscounts_rows(learner)
    if reason:
        raise ValueError(
            "tasks of different sizes, and unlabelled rows, need a learner to which a row of "
            f"weight 0 is absent, but in {type(learner).__name__} {reason}. Use a norm of "
            "quickstudy.backbones.norms, or tasks of one size, fully labelled."
        )
    # A promise, made once and outside vmap, that spares every norm a weighted mean.
    promised = rows_count_alike() if alike else nullcontext()
    with _differentiable_attention(learner), promised:
        yield alike


def _differentiable_attention(learner: Learner) -> AbstractContextManager[None]:
    """Second derivatives of attention exist only in its plain mathematical form."""
    return sdpa_kernel(SDPBackend.MATH) if learner.differentiates else nullcontext()


def miscounts_rows(learner: Learner) -> str | None:
    """Why rows of weight 0 are not absent to ``learner``; None where they are."""
    declared = learner.exceptions.get("weight_zero_is_absent")
    if declared:
        return declared
    blind = blind_to_weights(learner)
    return f"the statistics of {', '.join(blind[:3])} know no weights" if blind else None
