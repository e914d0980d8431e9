"""Cross-stitch and sluice networks against loops over networks, layers and subspaces."""

from __future__ import annotations

from typing import Any

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


def cross_stitch(tasks: dict[str, int] = TASKS, **options: Any) -> qs.CrossStitch:
    made = qs.CrossStitch(MLP(4, (6,)), tasks, hidden=(8, 7), l2=0.3, **options)
    return randomised(made)  # type: ignore[no-any-return]


def sluice(tasks: dict[str, int] = TASKS, **options: Any) -> qs.Sluice:
    made = qs.Sluice(MLP(4, (6,)), tasks, width=8, layers=3, penalty=0.5, l2=0.3, **options)
    return randomised(made)  # type: ignore[no-any-return]


def stitched_row(own: qs.CrossStitch, row: Tensor) -> list[Tensor]:
    """What the head of each network reads."""
    stitches, count = [*own.stitches, own.last_stitch], len(own.last_stitch)
    x = [row] * count
    for k, alpha in enumerate(stitches):
        weights, offsets = own.stitched.weights[k], own.stitched.offsets[k]
        h = [F.linear(x[s], weights[s].T, offsets[s]).relu() for s in range(count)]
        x = [torch.stack([alpha[t, s] * h[s] for s in range(count)]).sum(0) for t in range(count)]
    return x


def sluice_row(own: qs.Sluice, row: Tensor) -> list[Tensor]:
    """What the head of each network reads; every subspace has 4 of the 8 units."""
    count, mixed = len(own.betas), [torch.zeros(8, dtype=row.dtype)] * len(own.betas)
    x = [row] * count
    for k, alpha in enumerate([*own.alphas, own.last_alpha]):
        weights, offsets = own.stitched.weights[k], own.stitched.offsets[k]
        h = [F.linear(x[s], weights[s].T, offsets[s]).relu() for s in range(count)]
        after = []
        for t in range(count):
            parts = []
            for p in range(2):
                part = torch.zeros(4, dtype=row.dtype)
                for s in range(count):
                    part = part + alpha[t, p, s, 0] * h[s][:4] + alpha[t, p, s, 1] * h[s][4:]
                parts.append(part)
            after.append(torch.cat(parts))
        x = after
        mixed = [m + own.betas[t, k] * x[t] for t, m in enumerate(mixed)]
    return mixed


def overlap(own: qs.Sluice) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for weights in own.stitched.weights:
        for of_network in weights:
            total = total + torch.linalg.matrix_norm(of_network[:, :4].T @ of_network[:, 4:]) ** 2
    return total


@pytest.mark.parametrize("by_channel", [False, True])
def test_cross_stitched_tasks_equal_a_loop_over_networks(by_channel: bool) -> None:
    own = cross_stitch(by_channel=by_channel)

    def predict(place: int, x: Tensor) -> Tensor:
        assert own.heads is not None
        features = torch.stack([stitched_row(own, row)[place] for row in own.backbone(x)])
        return features @ own.heads.weight[place] + own.heads.bias[place]

    check_against_loop(own, predict)


def test_tasks_of_a_sluice_equal_a_loop_over_subspaces_with_their_overlap_in_the_loss() -> None:
    own = sluice()

    def predict(place: int, x: Tensor) -> Tensor:
        assert own.heads is not None
        features = torch.stack([sluice_row(own, row)[place] for row in own.backbone(x)])
        return features @ own.heads.weight[place] + own.heads.bias[place]

    check_against_loop(own, predict, penalty=lambda _: 0.5 * overlap(own))


@pytest.mark.parametrize("own", [cross_stitch(), cross_stitch(by_channel=True), sluice()])
def test_heads_and_rows_that_only_they_read_are_a_tasks_own(own: Any) -> None:
    check_per_task(own)


@pytest.mark.parametrize("tasks", [TASKS, {}], ids=["known tasks", "none"])
@pytest.mark.parametrize(("make", "row"), [(cross_stitch, stitched_row), (sluice, sluice_row)])
def test_a_new_task_gets_the_ridge_head_on_all_networks_side_by_side(
    make: Any, row: Any, tasks: dict[str, int]
) -> None:
    own = make(tasks)
    support, queries, spec = new_task()

    def features(x: Tensor) -> Tensor:
        rows = [torch.cat(row(own, z)) for z in own.backbone(x)]
        return torch.stack(rows) / (len(tasks) or 2) ** 0.5

    head = ridge_head(features(support.inputs), support.targets, 0.3)
    expected = features(queries) @ head[:-1] + head[-1]
    torch.testing.assert_close(own(support, spec)(queries), expected)


def test_mixing_starts_near_the_own_network() -> None:
    alpha = qs.CrossStitch(MLP(4, (6,)), TASKS, own=0.8).last_stitch
    torch.testing.assert_close(alpha, torch.full((3, 3), 0.1) + 0.7 * torch.eye(3))
    of_sluice = qs.Sluice(MLP(4, (6,)), TASKS, own=0.5).last_alpha.view(6, 6)
    torch.testing.assert_close(of_sluice, torch.full((6, 6), 0.1) + 0.4 * torch.eye(6))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda net: qs.CrossStitch(net, own=1.5), "own must be between 0 and 1; found 1.5"),
        (lambda net: qs.CrossStitch(net, networks=0), "networks must be at least 1"),
        (lambda net: qs.CrossStitch(net, l2=0.0), "l2 must be positive"),
        (lambda net: qs.Sluice(net, width=7), "found 2 subspaces of a width of 7"),
        (lambda net: qs.Sluice(net, penalty=-1.0), "penalty must be a number of at least 0"),
        (lambda net: qs.Sluice(net, layers=0), "layers must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(make: Any, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        make(MLP(4, (6,)))
