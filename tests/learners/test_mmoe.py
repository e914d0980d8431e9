"""MMoE against a loop over tasks and experts, and its gate for a new task against autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from known_tasks import (
    TASKS,
    check_against_loop,
    check_per_task,
    new_task,
    randomised,
    ridge_head,
)
from torch import Tensor

import quickstudy as qs
from quickstudy.backbones import MLP


def learner(tasks: dict[str, int] = TASKS, tower: tuple[int, ...] = (7,)) -> qs.MMoE:
    made = qs.MMoE(MLP(4, (6,)), tasks, experts=2, hidden=(8, 9), tower=tower, l2=0.3, rate=2.0)
    return randomised(made)  # type: ignore[no-any-return]


def expert(own: qs.MMoE, k: int, z: Tensor) -> Tensor:
    for weights, offsets in zip(
        own.expert_networks.weights, own.expert_networks.offsets, strict=True
    ):
        z = F.linear(z, weights[k].T, offsets[k]).relu()
    return z


def test_known_tasks_equal_a_loop_over_tasks_and_experts() -> None:
    own = learner()

    def predict(place: int, x: Tensor) -> Tensor:
        z = own.backbone(x)
        assert own.gates is not None
        assert own.towers is not None
        assert own.heads is not None
        rows = []
        for row in z:
            scores = row @ own.gates.weight[place] + own.gates.offset[place]
            shares = scores.exp() / scores.exp().sum()
            mixed = sum(share * expert(own, k, row) for k, share in enumerate(shares))
            for weight, offset in zip(own.towers.weights, own.towers.offsets, strict=True):
                mixed = F.linear(mixed, weight[place].T, offset[place]).relu()
            rows.append(mixed @ own.heads.weight[place] + own.heads.bias[place])
        return torch.stack(rows)

    check_against_loop(own, predict)


def test_gates_towers_and_heads_are_a_tasks_own() -> None:
    check_per_task(learner())


@pytest.mark.parametrize("tasks", [TASKS, {}], ids=["from the mean gate", "from equal shares"])
def test_a_new_task_descends_on_the_variance_that_the_best_head_leaves(
    tasks: dict[str, int],
) -> None:
    """By autograd through the normal equations of the head, which the learner does not do."""
    own = learner(tasks, tower=())
    support, queries, spec = new_task()
    y = support.targets

    def experts(x: Tensor) -> tuple[Tensor, Tensor]:
        z = own.backbone(x)
        return z, torch.stack([expert(own, k, z) for k in range(2)], 1)

    def mixed(gate: list[Tensor], x: Tensor) -> Tensor:
        z, outputs = experts(x)
        return ((z @ gate[0] + gate[1]).softmax(-1).unsqueeze(-1) * outputs).sum(1)

    def with_one(features: Tensor) -> Tensor:
        return torch.cat([features, torch.ones_like(features[:, :1])], 1)

    with torch.no_grad():
        z = experts(support.inputs)[0]
    gate = [torch.zeros(6, 2, dtype=y.dtype), torch.zeros(2, dtype=y.dtype)]
    if own.gates is not None:
        gate = [own.gates.weight.mean(0), own.gates.offset.mean(0)]
    for _ in range(own.steps):
        gate = [part.detach().requires_grad_() for part in gate]
        features = mixed(gate, support.inputs)
        head = ridge_head(features, y, own.l2)
        left = (with_one(features) @ head - y).square().sum() + own.l2 * head[:-1].square().sum()
        share = left / (y - y.mean(0)).square().sum()
        rate = own.rate / (1 + z.square().sum(1).mean())
        found = torch.autograd.grad(share, gate)
        gate = [part - rate * gradient for part, gradient in zip(gate, found, strict=True)]
    head = ridge_head(mixed(gate, support.inputs), y, own.l2)
    predictor = own(support, spec)
    torch.testing.assert_close(predictor.state["gate"]["weight"], gate[0])
    torch.testing.assert_close(predictor(queries), with_one(mixed(gate, queries)) @ head)


def test_shares_of_a_task_that_is_not_known_are_refused() -> None:
    own = learner()
    x = torch.zeros(2, 4, dtype=torch.float64)
    torch.testing.assert_close(own.shares(x, "kind").sum(-1), torch.ones(2, dtype=x.dtype))
    with pytest.raises(ValueError, match=r"found 'age'\. Known: kind, size, colour"):
        own.shares(x, "age")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"experts": 0}, "experts must be at least 1"),
        ({"hidden": ()}, r"hidden must give the width of each layer.*of 1 layers"),
        ({"tower": (0,)}, "tower must give the width of each layer, at least 1"),
        ({"hidden": 4}, r"hidden must give the width of each layer.*found 4"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"rate": 0.0}, "rate must be a positive number"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, object], found: str) -> None:
    with pytest.raises(ValueError, match=f"MMoE: {found}"):
        qs.MMoE(MLP(4, (6,)), **options)  # type: ignore[arg-type]
