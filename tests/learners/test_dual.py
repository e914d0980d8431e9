"""The dual form of descent equals descent on the weights, and is used only where it is valid."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones import MLP, Conv4
from quickstudy.base.weighting import uniform_weights
from quickstudy.compute.gradients import outcome_over_tasks
from quickstudy.core import Examples, Learner, Task
from quickstudy.learners.gradient.descend import Momentum
from quickstudy.learners.gradient.meta_gradients import (
    Annealed,
    Exact,
    FiniteDifference,
    FirstOrder,
)
from quickstudy.objectives import query_loss
from quickstudy.tasks.examples import one_place
from quickstudy.tasks.stacks import stack, unstack

WAYS, ROWS, QUERIES = 3, 5, 4


class Sparse(nn.Module):
    """Layers without a bias, a middle layer that never adapts, and more outputs than classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8, bias=False)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, WAYS + 2)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(torch.tanh(self.norm(self.first(x))))
        return answers


LEARNERS: dict[str, Callable[[], Learner]] = {
    "one step": lambda: qs.MAML(MLP(6, (8, 7), outputs=WAYS), 1, 0.3),
    "four steps": lambda: qs.MAML(MLP(6, (8, 7), outputs=WAYS), 4, 0.3),
    "first order": lambda: qs.MAML(MLP(6, (8,), outputs=WAYS), 3, 0.3, FirstOrder()),
    "learnt rates": lambda: qs.MAML(MLP(6, (8,), outputs=WAYS), 3, 0.3, learn_rates=True),
    "learnt rates, first order": lambda: qs.MAML(
        MLP(6, (8,), outputs=WAYS), 2, 0.3, FirstOrder(), learn_rates=True
    ),
    "head alone": lambda: qs.MAML(MLP(6, (8,), outputs=WAYS), 2, 0.3, adapts="head.*"),
    "weights alone": lambda: qs.MAML(MLP(6, (8,), outputs=WAYS), 2, 0.3, adapts="*weight"),
    "some layers": lambda: qs.MAML(Sparse(), 2, 0.3, adapts=("first.*", "head.*")),
    "anil": lambda: qs.ANIL(MLP(6, (8,), outputs=WAYS), 3, 0.3),
    "anil, learnt rates": lambda: qs.ANIL(MLP(6, (8,), outputs=WAYS), 2, 0.3, learn_rates=True),
    "boil": lambda: qs.BOIL(MLP(6, (8, 7), outputs=WAYS), 3, 0.3, learn_rates=True),
    "images": lambda: qs.MAML(Conv4(8, image_size=16, outputs=WAYS), 2, 0.3, adapts="head.*"),
}


def task(seed: int, images: bool = False, regression: bool = False) -> Task:
    draw = torch.Generator().manual_seed(seed)

    def examples(n: int) -> Examples:
        shape = (n, 1, 16, 16) if images else (n, 6)
        inputs = torch.randn(shape, generator=draw, dtype=torch.float64)
        targets = (torch.arange(n) % WAYS)[torch.randperm(n, generator=draw)]
        weights = torch.ones(n, dtype=torch.float64)
        return Examples(inputs, targets, weights, one_place(weights))

    made = Task(examples(ROWS), examples(QUERIES), qs.classification(WAYS))
    if not regression:
        return made
    real = [e._replace(targets=torch.randn_like(e.inputs[:, :WAYS])) for e in made[:2]]
    return Task(*real, qs.regression(WAYS))


def uneven(tasks: list[Task]) -> list[Task]:
    """An absent row, a row that counts twice, unlabelled rows, an absent class."""
    tasks[0].support.weights[1] = 0.0
    tasks[0].query.weights[2] = 2.0
    tasks[1].support.targets[0] = -1
    tasks[1].query.targets[0] = -1
    tasks[2].support.targets.clamp_max_(WAYS - 2)
    return tasks


def gradients(learner: Learner, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for p in learner.parameters() if p.requires_grad]))


def agrees(learner: Learner, tasks: list[Task], uniform: bool) -> None:
    """Losses, scores and gradients of tasks at once equal those of one task after the other."""
    batch = stack(tasks)
    outcomes = [query_loss(learner, one) for one in unstack(batch)]
    expected = gradients(learner, torch.stack([o.loss for o in outcomes]).sum())
    if uniform:
        with uniform_weights():
            found = outcome_over_tasks(learner, batch, query_loss)
    else:
        found = outcome_over_tasks(learner, batch, query_loss)
    for own, one in (("loss", 0), ("score", 1)):
        right = torch.stack([outcome[one] for outcome in outcomes])
        torch.testing.assert_close(getattr(found, own), right, rtol=1e-11, atol=1e-12)
    for a, b in zip(gradients(learner, found.loss.sum()), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def made(name: str) -> Learner:
    torch.manual_seed(0)
    return LEARNERS[name]().double()


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("name", LEARNERS)
def test_dual_form_equals_descent_on_the_weights(name: str, uniform: bool) -> None:
    tasks = [task(seed, name == "images") for seed in range(3)]
    agrees(made(name), tasks if uniform else uneven(tasks), uniform)


def test_dual_form_of_regression() -> None:
    tasks = [task(seed, regression=True) for seed in range(3)]
    agrees(made("four steps"), tasks, True)
    tasks[1].query.weights[1] = 0.0
    agrees(made("four steps"), tasks, False)


def test_dual_form_of_regression_with_missing_numbers() -> None:
    spec = qs.regression(WAYS, missing=True)
    tasks = [task(seed, regression=True)._replace(spec=spec) for seed in range(3)]
    tasks[0].support.targets[1, 0] = torch.nan
    tasks[2].support.targets[2] = torch.nan
    agrees(made("four steps"), tasks, False)


def test_dual_form_of_labels_with_unknown_elements() -> None:
    tasks = []
    for seed in range(3):
        one = task(seed, regression=True)
        parts = [part._replace(targets=(part.targets > 0).double()) for part in one[:2]]
        tasks.append(Task(*parts, qs.multilabel(WAYS)))
    tasks[0].support.targets[1, 0] = torch.nan
    tasks[1].query.targets[2] = torch.nan
    agrees(made("four steps"), tasks, False)


def test_dual_form_is_not_used_for_outputs_other_than_a_vector_for_each_row() -> None:
    places = [
        part._replace(targets=part.targets.unsqueeze(2))
        for part in stack([task(0, regression=True)])[:2]
    ]
    learner = made("one step")
    assert learner.over_tasks(places[0], places[1].inputs, qs.regression(WAYS)) is None
    own = qs.spec(WAYS, lambda predicted, true: (predicted - true).abs())
    assert learner.over_tasks(places[0], places[1].inputs, own) is None


def test_dual_form_with_a_frozen_first_layer() -> None:
    torch.manual_seed(0)
    net = MLP(6, (8, 7), outputs=WAYS).double()
    net.layers[0].requires_grad_(False)
    learner = qs.MAML(net, 4, 0.3)
    agrees(learner, [task(0), task(1)], True)
    assert list(learner.adapt(*task(0)[::2])["weights"]) == list(learner.adapted)


@pytest.mark.parametrize("adapts", ["*.bias", "head.weight", ("head.bias", "layers.*.weight")])
def test_dual_form_where_weights_or_biases_alone_adapt(adapts: str | tuple[str, ...]) -> None:
    torch.manual_seed(0)
    net = MLP(6, (8, 7), outputs=WAYS).double()
    agrees(qs.MAML(net, 3, 0.3, adapts=adapts), [task(0), task(1)], True)


def test_the_network_does_not_change() -> None:
    learner, one = made("one step"), task(0)
    before = learner(one.support, one.spec)(one.query.inputs)
    outcome_over_tasks(learner, stack([one, task(1)]), query_loss)
    assert learner(one.support, one.spec)(one.query.inputs).equal(before)
    with torch.no_grad():  # as in evaluation
        found = outcome_over_tasks(learner, stack([one]), query_loss)
    assert not found.loss.requires_grad


@pytest.mark.parametrize(
    "learner",
    [
        qs.MAML(Conv4(8, image_size=16, outputs=WAYS)),
        qs.MAML(Conv4(8, "batch", image_size=16, outputs=WAYS), adapts="head.*"),
        qs.MAML(Sparse()),
        qs.MAML(MLP(6, (8,), outputs=WAYS), clip=1.0),
        qs.MAML(MLP(6, (8,), outputs=WAYS), update=Momentum()),
        qs.MAML(MLP(6, (8,), outputs=WAYS), meta_gradient=FiniteDifference()),
        qs.MAML(MLP(6, (8,), outputs=WAYS), meta_gradient=Annealed(0.5)),
        qs.MAML(MLP(6, (8,), outputs=WAYS), meta_gradient=Exact(recompute=True)),
    ],
    ids=["convolutions", "batch norm", "a norm that adapts", "clip", "update",
         "differences", "annealed", "recompute"],
)  # fmt: skip
def test_dual_form_is_not_used_for_settings_that_need_the_weights(learner: qs.MAML) -> None:
    refuses(learner)


def test_dual_form_is_not_used_for_layers_with_hooks() -> None:
    learner = made("one step")
    learner.backbone.head.register_forward_hook(lambda *given: 2 * given[-1])  # type: ignore[union-attr]
    refuses(learner)


def refuses(learner: Learner) -> None:
    batch = stack([task(0), task(1)])
    assert learner.over_tasks(batch.support, batch.query.inputs, batch.spec) is None
    with pytest.raises(TypeError, match="MAML has no over_tasks"):
        outcome_over_tasks(learner, batch, query_loss)


class Twice(Sparse):
    """Calls a layer that adapts twice in one forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) -> (n, WAYS + 2)."""
        return super().forward(x) + self.head(self.first(x))


class Sequences(Sparse):
    """Passes more than one row of each example to a layer that adapts."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) -> (n, WAYS + 2)."""
        return super().forward(x.unsqueeze(1)).squeeze(1)


class InPlace(Sparse):
    """Overwrites the output of a layer that adapts."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) -> (n, WAYS + 2)."""
        answers: Tensor = self.head(torch.tanh(self.first(x)))
        return answers.relu_()


@pytest.mark.parametrize("net", [Twice, Sequences, InPlace])
def test_dual_form_is_not_used_where_layers_are_called_otherwise(
    net: Callable[[], nn.Module],
) -> None:
    learner = qs.MAML(net().double(), adapts="head.*")
    with pytest.raises(TypeError, match="a linear layer that adapts"):
        outcome_over_tasks(learner, stack([task(0), task(1)]), query_loss)


def test_custom_objectives_are_refused() -> None:
    with pytest.raises(TypeError, match="the objective may need more"):
        outcome_over_tasks(made("one step"), stack([task(0)]), lambda *_: torch.zeros(()))
