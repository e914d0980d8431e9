"""How the losses or gradients of a step's tasks become one gradient, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import clouds, planes
from quickstudy.backbones import MLP
from quickstudy.balancing.combine import Combine, mean
from quickstudy.balancing.step import combined
from quickstudy.compute.engine import accumulate
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import prepare_tasks
from quickstudy.contract.check import doubled
from quickstudy.core import Learner, Task
from quickstudy.objectives import query_loss
from quickstudy.tasks.numbering import draw
from witness import error, flat, in_general_position

NAMES = ("red", "blue", "", "", "white")


def learner_for(mapping: Mapping) -> Learner:
    torch.manual_seed(0)
    by_gradients = mapping in (Mapping.VMAP_GRAD, Mapping.TASK_AXIS)
    learner: Learner = (
        qs.MAML(MLP(4, (6,), outputs=3), 2, 0.1) if by_gradients else qs.LinearProbe(MLP(4, (6,)))
    )
    in_general_position(learner)
    return learner


def named_tasks() -> list[Task]:
    """Of two kinds, in turn: a step of two stacks."""
    tasks = [draw((clouds(3, 2), planes(3))[place % 2], 0, place) for place in range(len(NAMES))]
    return [
        doubled(task)._replace(spec=qs.TaskSpec(task.spec.answer, name))
        for task, name in zip(tasks, NAMES, strict=True)
    ]


def without_engine(learner: Learner, tasks: Sequence[Task], weights: Tensor) -> Tensor:
    """The gradient of the weighted sum of the tasks' losses, without the engine."""
    losses = torch.stack([query_loss(learner, task).loss for task in tasks])
    parameters = list(learner.parameters())
    return flat(torch.autograd.grad((weights * losses).sum(), parameters))


def gradient_by(combine: Combine, learner: Learner, tasks: Sequence[Task], plan: Plan) -> Tensor:
    learner.zero_grad()
    step = prepare_tasks(learner, tasks)
    assert len(step) == 2
    combined(combine, learner, step, query_loss, plan, None)
    return flat([p.grad for p in learner.parameters() if p.grad is not None])


@dataclass
class RecordingWeights:
    """Equal or given weights; records the losses and names that it gets."""

    given: Tensor | None = None
    reads = "losses"
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    names: list[str] = field(default_factory=list)

    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        self.losses, self.names = losses, list(names)
        return torch.full_like(losses, 1 / len(losses)) if self.given is None else self.given


@dataclass
class Average:
    """The mean of the gradients; records what it gets."""

    reads = "gradients"
    names: list[str] = field(default_factory=list)
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))

    def gradient(self, gradients: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
        self.names, self.losses = list(names), losses
        return gradients.mean(0)


EVERY = pytest.mark.parametrize("mapping", list(Mapping), ids=lambda mapping: mapping.value)


@EVERY
def test_the_mean_is_the_default_to_the_bit(mapping: Mapping) -> None:
    learner, tasks, plan = learner_for(mapping), named_tasks(), Plan(mapping, "", 2)
    found = gradient_by(mean, learner, tasks, plan)
    learner.zero_grad()
    accumulate(learner, prepare_tasks(learner, tasks), query_loss, plan)
    assert torch.equal(found, flat([p.grad for p in learner.parameters() if p.grad is not None]))
    equal = torch.full((len(tasks),), 1 / len(tasks), dtype=torch.float64)
    assert error(found, without_engine(learner, tasks, equal)) <= 1e-12


def test_fit_uses_the_mean_by_default() -> None:
    ends = []
    for options in ({}, {"combine": mean}):
        torch.manual_seed(0)
        learner = qs.MAML(MLP(4, (6,), outputs=3), rate=0.1)
        qs.fit(learner, clouds(), 3, 2, progress=False, **options)  # type: ignore[arg-type]
        ends.append(flat([p.detach() for p in learner.parameters()]))
    assert torch.equal(*ends)


@EVERY
def test_equal_weights_give_the_mean(mapping: Mapping) -> None:
    learner, tasks, plan = learner_for(mapping), named_tasks(), Plan(mapping, "", 2)
    expected = gradient_by(mean, learner, tasks, plan)
    assert error(gradient_by(RecordingWeights(), learner, tasks, plan), expected) <= 1e-12


@EVERY
def test_unequal_weights_give_the_weighted_sum(mapping: Mapping) -> None:
    learner, tasks = learner_for(mapping), named_tasks()
    weights = torch.tensor([0.5, 0.0, 3.0, -1.0, 0.2], dtype=torch.float64)
    expected = without_engine(learner, tasks, weights)
    for chunk in (1, 2, 5):  # each chunk has its own factors
        found = gradient_by(RecordingWeights(weights), learner, tasks, Plan(mapping, "", chunk))
        assert error(found, expected) <= 1e-12


def test_averaged_gradients_equal_the_gradient_of_the_mean() -> None:
    for mapping in (Mapping.VMAP_GRAD, Mapping.VMAP):
        learner, tasks, plan = learner_for(mapping), named_tasks(), Plan(mapping, "", 5)
        combine = Average()
        found = gradient_by(combine, learner, tasks, plan)
        expected = gradient_by(mean, learner, tasks, plan)
        assert error(found, expected) <= 1e-12


@pytest.mark.parametrize("combine", [RecordingWeights(), Average()], ids=lambda c: c.reads)
def test_losses_and_names_are_in_the_order_of_the_tasks(combine: Any) -> None:
    learner, tasks = learner_for(Mapping.VMAP), named_tasks()
    gradient_by(combine, learner, tasks, Plan(Mapping.VMAP, "", 5))
    assert combine.names == list(NAMES)
    losses = torch.stack([query_loss(learner, task).loss.detach() for task in tasks])
    torch.testing.assert_close(combine.losses, losses, rtol=1e-12, atol=0)


def test_fit_uses_a_combiner() -> None:
    """With a weight of zero for all but the first task, SGD uses the gradient of the first."""

    class FirstAlone:
        reads = "losses"

        def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
            return torch.eye(len(losses), dtype=losses.dtype)[0]

    learner = learner_for(Mapping.VMAP).float()
    start = flat([p.detach().clone() for p in learner.parameters()])
    alone = without_engine(learner, [draw(clouds(), 0, 0)], torch.ones(1))
    qs.fit(learner, clouds(), 1, 3, combine=FirstAlone(), optimiser=qs.optimisers.sgd(1.0),
           progress=False)  # fmt: skip
    end = flat([p.detach() for p in learner.parameters()])
    torch.testing.assert_close(end, start - alone, rtol=1e-4, atol=1e-5)


class Silent:
    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        return losses


class WithoutMethod:
    reads = "gradients"


@pytest.mark.parametrize("combine", [Silent(), WithoutMethod(), "mean"])
def test_a_combiner_that_does_not_declare_what_it_reads_is_refused(combine: Any) -> None:
    remedy = r"must say what it reads: reads = 'losses' .* Leave it out for the mean"
    with pytest.raises(ValueError, match=remedy):
        qs.fit(learner_for(Mapping.VMAP), clouds(), 1, 2, combine=combine, progress=False)


def test_the_class_of_a_balancer_is_refused() -> None:
    """It has all methods of a balancer, and would fail in the first step for want of self."""
    for combine in (qs.balancing.GradNorm, qs.balancing.Equal):
        with pytest.raises(ValueError, match=rf"the class {combine.__name__}\. Call it"):
            qs.fit(learner_for(Mapping.VMAP), clouds(), 1, 2, combine=combine, progress=False)  # type: ignore[arg-type]


def test_a_combined_gradient_of_a_wrong_length_is_refused() -> None:
    class Short:
        reads = "gradients"

        def gradient(self, gradients: Tensor, losses: Tensor, names: Sequence[str]) -> Tensor:
            return gradients[0, 1:]

    learner = learner_for(Mapping.VMAP)
    with pytest.raises(ValueError, match=r"of shape \(30,\); found .* of shape \(29,\)"):
        gradient_by(Short(), learner, named_tasks(), Plan(Mapping.LOOP, "", 1))


@pytest.mark.parametrize(
    "given",
    [
        torch.full((5, 1), 0.2, dtype=torch.float64),
        torch.full((6,), 0.2, dtype=torch.float64),
        torch.full((1,), 0.2, dtype=torch.float64),
        torch.tensor(0.2, dtype=torch.float64),
        torch.ones(5, dtype=torch.long),
        [0.2] * 5,
    ],
    ids=("column", "longer", "shorter", "scalar", "integers", "list"),
)
def test_weights_of_a_wrong_shape_or_type_are_refused(given: Any) -> None:
    """A column would be broadcast, and the end of a longer vector be left out."""
    learner = learner_for(Mapping.VMAP)
    for mapping in (Mapping.VMAP, Mapping.LOOP):
        with pytest.raises(ValueError, match=r"one weight for each task.* of shape \(5,\); found"):
            gradient_by(RecordingWeights(given), learner, named_tasks(), Plan(mapping, "", 5))


@pytest.mark.parametrize("combine", [mean, RecordingWeights(), Average()])
def test_a_parameter_that_no_loss_depends_on_has_no_gradient(combine: Any) -> None:
    learner = learner_for(Mapping.LOOP)
    learner.register_parameter("idle", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    gradient_by(combine, learner, named_tasks(), Plan(Mapping.LOOP, "", 5))
    assert learner.idle.grad is None
