"""Soft sharing against a loop over networks, and its new tasks against plain descent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from known_tasks import TASKS, check_against_loop, check_per_task, new_task, randomised
from torch import Tensor

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.contract.check import doubled
from quickstudy.learners.gradient.descend import sgd
from quickstudy.learners.multitask.soft_sharing import squared_norm, stacked_trace_norm
from quickstudy.learners.multitask.soft_sharing_deviations import Deviations
from quickstudy.learners.transfer.starting_heads import zero_head
from quickstudy.tasks.numbering import draw

Weights = dict[str, Tensor]
ALIKE = {"kind": 2, "size": 2, "colour": 2}
"""Tasks whose heads are parts of the networks."""


def learner(tasks: dict[str, int], **options: Any) -> qs.SoftSharing:
    return randomised(qs.SoftSharing(MLP(4, (6, 7)), tasks, strength=0.3, **options))  # type: ignore[no-any-return]


def parameters(own: qs.SoftSharing) -> tuple[Weights, Weights]:
    """w_0 and v by the same names."""
    start = {f"backbone.{name}": p for name, p in own.backbone.named_parameters()}
    if own.shared_head is not None:
        start |= {f"head.{name}": p for name, p in own.shared_head.named_parameters()}
    assert own.differences is not None
    v = {name.replace("/", "."): p for name, p in own.differences.named_parameters()}
    assert v.keys() == start.keys()
    return start, v


def network(w: Weights, x: Tensor) -> Tensor:
    for k in (0, 2):
        x = F.linear(x, w[f"backbone.layers.{k}.weight"], w[f"backbone.layers.{k}.bias"]).relu()
    return F.linear(x, w["head.weight"], w["head.bias"]) if "head.weight" in w else x


@pytest.mark.parametrize("tasks", [ALIKE, TASKS], ids=["shared head", "own heads"])
@pytest.mark.parametrize("penalty", [squared_norm, stacked_trace_norm])
def test_known_tasks_equal_a_loop_over_networks(penalty: Any, tasks: dict[str, int]) -> None:
    own = learner(tasks, penalty=penalty)
    start, v = parameters(own)

    def predict(place: int, x: Tensor) -> Tensor:
        outputs = network({name: start[name] + v[name][place] for name in start}, x)
        if own.heads is not None:
            outputs = outputs @ own.heads.weight[place] + own.heads.bias[place]
        return outputs

    def of_task(place: int) -> Tensor:
        """The trace norm without smoothing, by singular values."""
        if penalty is squared_norm:
            return 0.3 * sum(v[name][place].square().sum() for name in v)  # type: ignore[return-value]
        stacked = [torch.stack([start[n] + v[n][t] for t in range(3)]).flatten(1) for n in v]
        return 0.3 / 3 * sum(torch.linalg.matrix_norm(w, "nuc") for w in stacked)  # type: ignore[return-value]

    check_against_loop(own, predict, of_task)


@pytest.mark.parametrize("tasks", [ALIKE, TASKS], ids=["shared head", "own heads"])
def test_differences_and_heads_are_a_tasks_own(tasks: dict[str, int]) -> None:
    check_per_task(learner(tasks))


@pytest.mark.parametrize("shrinkage", [1.0, 0.4])
def test_a_new_task_descends_from_the_mean_along_the_covariance(shrinkage: float) -> None:
    """u steps on L(start + C^½ u) + s |u|², so w steps by C ∇L + 2 s (w - start)."""
    own = learner(ALIKE, shrinkage=shrinkage, update=sgd, rate=0.05, steps=4)
    support, queries, spec = new_task()
    start, v = parameters(own)
    begin = {name: (start[name] + v[name].mean(0)).detach() for name in v}
    covariances = {name: covariance(each, shrinkage) for name, each in v.items()}
    w = begin
    for _ in range(4):
        free = {name: weight.clone().requires_grad_() for name, weight in w.items()}
        loss = F.mse_loss(network(free, support.inputs), support.targets)
        gradients = dict(zip(free, torch.autograd.grad(loss, list(free.values())), strict=True))
        for name in w:
            along = (covariances[name] @ gradients[name].flatten()).view_as(w[name])
            w = w | {name: w[name] - 0.05 * (along + 0.6 * (w[name] - begin[name]))}
    torch.testing.assert_close(own(support, spec)(queries), network(w, queries))


def covariance(v: Tensor, shrinkage: float) -> Tensor:
    rows = (v - v.mean(0)).flatten(1).detach()
    s = rows.T @ rows / len(rows)
    eye = torch.eye(len(s), dtype=s.dtype)
    return (1 - shrinkage) * len(s) / s.trace() * s + shrinkage * eye


def test_without_deviations_the_covariance_is_the_identity() -> None:
    u = torch.randn(5, 3, dtype=torch.float64)
    found = Deviations({"w": torch.ones(4, 5, 3, dtype=torch.float64)}, 0.4).scaled({"w": u})
    torch.testing.assert_close(found["w"], u)


@pytest.mark.parametrize("tasks", [{}, TASKS], ids=["none", "own heads"])
def test_a_new_task_without_a_shared_head_is_fine_tuned_near_the_start(
    tasks: dict[str, int],
) -> None:
    own = learner(tasks, head=zero_head, steps=6, rate=0.05)
    support, queries, spec = new_task()
    backbone = MLP(4, (6, 7)).double()
    weights = own.backbone.state_dict()
    if own.differences is not None:
        v = own.differences.named_parameters()
        means = {name.replace("/", ".").removeprefix("backbone."): p.mean(0) for name, p in v}
        weights = {name: weight + means[name] for name, weight in weights.items()}
    backbone.load_state_dict(weights)
    tuned = qs.FineTune(backbone, head=zero_head, steps=6, rate=0.05, towards_start=0.6)
    torch.testing.assert_close(own(support, spec)(queries), tuned(support, spec)(queries))


def test_frozen_parameters_are_the_same_for_all_tasks() -> None:
    backbone = MLP(4, (6, 7))
    backbone.layers[0].requires_grad_(False)
    own = qs.SoftSharing(backbone, ALIKE)
    assert own.differences is not None
    assert not any("layers/0" in name for name, _ in own.differences.named_parameters())
    support, _, spec = new_task()
    state = own.double()(support, spec).state
    assert not any("layers.0" in name for name in state["weights"])


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"steps": -1}, "steps must be at least 0; found -1"),
        ({"strength": -0.1}, "strength must be a number of at least 0; found -0.1"),
        ({"shrinkage": 0.0}, "shrinkage must be above 0 and at most 1; found 0.0"),
        ({"rate": 0.0}, "rate must be a positive number; found 0.0"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=f"SoftSharing: {found}"):
        qs.SoftSharing(MLP(4, (6,)), **options)


def test_a_new_task_of_one_shot_pictures_reads_rows_of_weight_zero_as_absent() -> None:
    """From a probe, whose loss is nearly zero, Adam's steps are the signs of rounding errors."""
    task = draw(qs.episodes(qs.datasets.load("glyphs").train, 5, 1, 5), 0, 0)
    support = doubled(task).support
    more = qs.examples(
        torch.cat([support.inputs, support.inputs[:1] + 0.3]),
        torch.cat([support.targets, support.targets[:1]]),
        weights=torch.cat([support.weights, torch.zeros(1, dtype=torch.float64)]),
    )
    torch.manual_seed(0)
    learner = qs.SoftSharing(qs.backbones.Conv4(16)).double().eval()
    new = doubled(task).query.inputs
    expected, found = (learner(rows, task.spec)(new).detach() for rows in (support, more))
    assert torch.allclose(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
