"""From a batch of tasks to the losses and the meta-gradient: right for every module, and batched.

Learners are written for one task. The engine maps ``(support, query) -> loss`` over the tasks of a
batch in one of four ways, all of which give the loop's gradient:

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
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from quickstudy.backbones.norms import blind_to_weights, rows_count_alike
from quickstudy.core import Examples, Learner, Task
from quickstudy.learners.objectives import Objective, Outcome
from quickstudy.tasks.batches import unstack
from quickstudy.tasks.targets import check_support, check_targets
from quickstudy.training.compiled import Compiled
from quickstudy.training.composite import Parameters, as_outcome, of_each_task
from quickstudy.training.features import embedded
from quickstudy.training.workers import in_order, shared_out
from quickstudy.trees import map_tree


class Mapping(Enum):
    """How tasks are mapped; see the module's docstring."""

    VMAP = "vmap"
    FEATURES = "features"
    VMAP_GRAD = "vmap_grad"
    LOOP = "loop"


@dataclass(frozen=True)
class Plan:
    """How a batch is computed: the mapping, why it was chosen, and how many tasks at a time.

    ``workers``   threads among which a loop shares the tasks of a chunk.
    ``compiled``  whether mapped tasks run as compiled code (:mod:`quickstudy.training.compiled`).
    ``bytes``     that the graph of a task holds at most; 0 where that was not counted.
    """

    mapping: Mapping
    why: str
    chunk: int
    workers: int = 1
    compiled: bool = False
    bytes: int = field(default=0, compare=False)

    @property
    def at_once(self) -> int:
        """How many tasks' graphs are in memory at the same time."""
        return self.workers if self.mapping is Mapping.LOOP else self.chunk

    def to_json(self) -> dict[str, str | int]:
        """As JSON, for a checkpoint."""
        return asdict(self) | {"mapping": self.mapping.value}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Plan:
        """What :meth:`to_json` gave."""
        return Plan(**(values | {"mapping": Mapping(values["mapping"])}))

    def __str__(self) -> str:
        how = f"{self.mapping.value}, compiled" if self.compiled else self.mapping.value
        tasks = "1 task" if self.at_once == 1 else f"{self.at_once} tasks"
        return f"{how}, {tasks} at a time ({self.why})"


def accumulate(
    learner: Learner,
    batch: Task,
    objective: Objective,
    plan: Plan,
    compiled: Compiled | None = None,
) -> Outcome:
    """Add the gradient of the batch's mean loss to ``.grad``; returns losses and scores (tasks,).

    The batch is computed in chunks of ``plan.chunk`` tasks, whose graphs are freed one by one; by
    ``compiled``, where it is given and made for tasks such as these.
    """
    total = len(batch.support.weights)
    steps: dict[Mapping, Callable[..., Outcome]] = {
        Mapping.VMAP: _vmap,
        Mapping.FEATURES: _features,
        Mapping.VMAP_GRAD: _vmap_grad,
        Mapping.LOOP: partial(_loop, plan.workers),
    }
    step = steps[plan.mapping]
    with computing(learner, batch) as alike:
        if compiled is not None and compiled.serves(batch):
            step = partial(_compiled, compiled, alike)
        parts = [step(learner, chunk, objective, total) for chunk in _chunks(batch, plan.chunk)]
    return Outcome(torch.cat([p.loss for p in parts]), torch.cat([p.score for p in parts]))


def _vmap(learner: Learner, batch: Task, objective: Objective, total: int) -> Outcome:
    outcome = vmap(_composite(learner, objective, batch))(batch.support, batch.query)
    (outcome.loss.sum() / total).backward()
    return Outcome(outcome.loss.detach(), outcome.score.detach())


def _features(learner: Learner, batch: Task, objective: Objective, total: int) -> Outcome:
    return _vmap(*embedded(learner, batch), objective, total)


def _vmap_grad(learner: Learner, batch: Task, objective: Objective, total: int) -> Outcome:
    # Detached, because `grad` keeps its own record and autograd's would be a second one.
    detached = {name: p.detach() for name, p in learner.named_parameters() if p.requires_grad}
    gradients = of_each_task(learner, objective, batch.spec)
    found, outcome = gradients(detached, batch.support, batch.query)
    _add(learner, found, total)
    return Outcome(outcome.loss.detach(), outcome.score.detach())


def _compiled(
    compiled: Compiled, alike: bool, learner: Learner, batch: Task, _: Objective, total: int
) -> Outcome:
    found, outcome = compiled(batch, alike)
    _add(learner, found, total)
    return outcome


def _add(learner: Learner, gradients: Parameters, total: int) -> None:
    parameters = dict(learner.named_parameters())
    for name, gradient in gradients.items():
        parameters[name].grad = _sum(parameters[name].grad, gradient / total)


def _loop(workers: int, learner: Learner, batch: Task, objective: Objective, total: int) -> Outcome:
    parameters = [p for p in learner.parameters() if p.requires_grad]

    def work(learner: Learner, tasks: Sequence[Task]) -> tuple[list[Outcome], list[Tensor | None]]:
        outcomes: list[Outcome] = []
        gradients: list[Tensor | None] = [None] * len(parameters)
        for task in tasks:
            outcome = as_outcome(objective(learner, task))
            found = torch.autograd.grad(outcome.loss / total, parameters, allow_unused=True)
            gradients = [_sum(a, b) for a, b in zip(gradients, found, strict=True)]
            outcomes.append(Outcome(outcome.loss.detach(), outcome.score.detach()))
        return outcomes, gradients

    shares = shared_out(work, learner, unstack(batch), workers)
    for _, gradients in shares:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = _sum(parameter.grad, gradient)
    outcomes = in_order([outcomes for outcomes, _ in shares])
    return Outcome(
        torch.stack([o.loss for o in outcomes]), torch.stack([o.score for o in outcomes])
    )


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:  # cloned, since autograd may give several parameters one tensor
        return a if b is None else b.clone()
    return a + b


def map_tasks(
    function: Callable[[Learner, Task], Tensor], batch: Task, learner: Learner, plan: Plan
) -> Tensor:
    """``function`` of every task, stacked (tasks, ...), without gradients: for evaluation."""

    def each(learner: Learner, tasks: Sequence[Task]) -> list[Tensor]:
        return [function(learner, task) for task in tasks]

    with torch.no_grad(), computing(learner, batch):
        if plan.mapping is Mapping.LOOP:
            tasks = unstack(batch)
            return torch.stack(in_order(shared_out(each, learner, tasks, plan.workers)))
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
    for start in range(0, len(batch.support.weights), size):
        part = slice(start, start + size)
        yield Task(
            map_tree(lambda leaf, part=part: leaf[part], batch.support),
            map_tree(lambda leaf, part=part: leaf[part], batch.query),
            batch.spec,
        )


@contextmanager
def computing(learner: Learner, batch: Task) -> Iterator[bool]:
    """In which tasks of ``batch`` are computed, one or many; gives whether all rows count alike.

    Raises ValueError for tasks that the learner would get wrong, and for targets that the spec does
    not ask for.
    """
    with _right_attention(learner), _uniform_rows(learner, batch) as alike:
        yield alike


@contextmanager
def _uniform_rows(learner: Learner, batch: Task) -> Iterator[bool]:
    """One look at the batch's weights, outside vmap, spares every norm a weighted mean.

    Gives whether all rows count alike, which the norms inside are then promised.

    Raises ValueError where they are not all one and ``learner`` would take them for one, and for
    targets that the spec does not ask for.
    """
    support, query = batch.support, batch.query
    check_support(map_tree(lambda leaf: leaf[0], support), batch.spec)
    check_targets("query", query.targets[0], batch.spec)
    targets = (support.targets, query.targets)
    alike = all(bool((e.weights == 1).all()) for e in (support, query)) and not any(
        bool(t.isnan().any() if t.is_floating_point() else (t < 0).any()) for t in targets
    )
    for ids in targets:
        if not ids.is_floating_point() and int(ids.max()) >= batch.spec.outputs:
            raise ValueError(
                f"tasks: class ids must lie in 0 … {batch.spec.outputs - 1} for "
                f"{batch.spec.outputs} outputs; found {int(ids.max())}. Renumber the classes of "
                "support and query alike, or raise the spec's ways."
            )
    reason = None if alike else miscounts_rows(learner)
    if reason:
        raise ValueError(
            "tasks of different sizes, and unlabelled rows, need a learner to which a row of "
            f"weight 0 is absent, but in {type(learner).__name__} {reason}. Use a norm of "
            "quickstudy.backbones.norms, or tasks of one size, fully labelled."
        )
    with rows_count_alike() if alike else nullcontext():
        yield alike


def miscounts_rows(learner: Learner) -> str | None:
    """Why rows of weight 0 are not absent to ``learner``; None where they are."""
    declared = learner.exceptions.get("weight_zero_is_absent")
    if declared:
        return declared
    blind = blind_to_weights(learner)
    return f"the statistics of {', '.join(blind[:3])} know no weights" if blind else None


def _right_attention(learner: Learner) -> AbstractContextManager[None]:
    """Second derivatives of attention exist only in its plain mathematical form."""
    if learner.differentiates:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
