"""Checks of learners that know tasks by name, against a loop over these tasks in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import quickstudy as qs
from made_up import examples_of
from quickstudy.compute.engine import accumulate
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import prepare_tasks
from quickstudy.core import Examples, Task
from quickstudy.objectives import objective_of

TASKS = {"kind": 5, "size": 2, "colour": 4}
"""Their numbers, and the number of tasks, are no width of any layer: see :func:`rows_of_others`."""

Predict = Callable[[int, Tensor], Tensor]
"""(place of a task, inputs (n, 4)) -> predictions (n, outputs), from scratch."""


def randomised(learner: Any) -> Any:
    """``learner`` in float64 with random parameters, also where they start at zero."""
    generator = torch.Generator().manual_seed(1)
    learner.double()
    with torch.no_grad():
        for parameter in learner.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.4 * noise)
    return learner


def drawn_tasks(known: dict[str, int]) -> list[Task]:
    """One task of each name, with the outputs given: "size" of reals, the others of classes."""
    generator = torch.Generator().manual_seed(2)
    tasks = []
    for name, outputs in known.items():
        spec = qs.classification(outputs, name)
        if name == "size":
            spec = qs.regression(outputs, name=name)
        parts = []
        for n in (6, 5):
            x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
            if name == "size":
                y = torch.randn(n, outputs, generator=generator, dtype=torch.float64)
            else:
                y = torch.randint(outputs, (n,), generator=generator)
            parts.append(examples_of(x, y))
        tasks.append(Task(*parts, spec))
    return tasks


def check_against_loop(
    learner: Any, predict: Predict, penalty: Callable[[int], Tensor] | None = None
) -> None:
    """Predictions, and the gradient of a step over all tasks, equal those of a loop.

    The two tasks of classes share a stack; the loss is over all rows of a task.
    """
    tasks, names = drawn_tasks(learner.tasks), list(learner.tasks)
    losses = []
    for task in tasks:
        place = names.index(task.spec.name)
        torch.testing.assert_close(
            learner(task.support, task.spec)(task.query.inputs),
            predict(place, task.query.inputs)[:, : task.spec.outputs],
        )
        x = torch.cat([task.support.inputs, task.query.inputs])
        y = torch.cat([task.support.targets, task.query.targets])
        predictions = predict(place, x)[:, : task.spec.outputs]
        loss = F.cross_entropy if y.ndim == 1 else F.mse_loss
        losses.append(loss(predictions, y) + (0.0 if penalty is None else penalty(place)))
    named = dict(learner.named_parameters())
    expected = torch.autograd.grad(sum(losses) / len(losses), list(named.values()))
    step = prepare_tasks(learner, tasks)
    assert len(step) == 2, "the tasks of classes share a stack"
    outcome = accumulate(learner, step, objective_of(learner), Plan(Mapping.VMAP, "", len(tasks)))
    torch.testing.assert_close(outcome.loss, torch.stack(losses).detach())
    for (name, parameter), gradient in zip(named.items(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=f"the gradient of {name}")


def check_per_task(learner: Any) -> None:
    """``per_task`` names exactly the parameters of which the loss of a task reads only its row."""
    named, places = dict(learner.named_parameters()), list(learner.tasks)
    own = {name for name, p in named.items() if len(p) == len(places)}
    for task in drawn_tasks(learner.tasks):
        predictions = learner(task.support, task.spec)(task.query.inputs)
        found = torch.autograd.grad(
            predictions.square().sum(), list(named.values()), allow_unused=True
        )
        place = places.index(task.spec.name)
        for name, gradient in zip(named, found, strict=True):
            if gradient is not None and name in own:
                others = gradient[[t for t in range(len(places)) if t != place]]
                if others.abs().max() > 0:
                    own.discard(name)
    assert set(learner.per_task) == own


def new_task() -> tuple[Examples, Tensor, qs.TaskSpec]:
    """Labelled rows, queries (3, 4) and the spec of a task of two reals that no learner knows."""
    generator = torch.Generator().manual_seed(3)
    x, q = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (9, 3))
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2] + 1], -1)
    return examples_of(x, y), q, qs.regression(2)


def ridge_head(features: Tensor, y: Tensor, l2: float) -> Tensor:
    """[W; b] (h + 1, outputs) of least sum of squares plus l2 |W|², by the normal equations."""
    rows = torch.cat([features, torch.ones_like(features[:, :1])], 1)
    penalty = l2 * torch.eye(rows.shape[1], dtype=rows.dtype)
    penalty[-1, -1] = 0
    return torch.linalg.solve(rows.T @ rows + penalty, rows.T @ y)
