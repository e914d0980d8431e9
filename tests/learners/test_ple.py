"""PLE against a loop over levels, streams and experts."""

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


def learner(levels: int, tasks: dict[str, int] = TASKS, **options: Any) -> qs.PLE:
    made = qs.PLE(MLP(4, (6,)), tasks, shared=2, own=2, hidden=(8, 9), levels=levels, **options)
    return randomised(made)  # type: ignore[no-any-return]


def expert(perceptrons: Any, index: tuple[int, ...], z: Tensor) -> Tensor:
    for weights, offsets in zip(perceptrons.weights, perceptrons.offsets, strict=True):
        z = F.linear(z, weights[index].T, offsets[index]).relu()
    return z


def gated(gates: Any, place: int, stream: Tensor, experts: list[Tensor]) -> Tensor:
    scores = stream @ gates.weight[place] + gates.offset[place]
    shares = scores.exp() / scores.exp().sum()
    return torch.stack([s * e for s, e in zip(shares, experts, strict=True)]).sum(0)


def at_last_level(own: qs.PLE, row: Tensor) -> tuple[list[list[Tensor]], list[Tensor], Any]:
    """For one row: each task's experts at the last level, the shared ones, and the streams."""
    count = len(own.tasks)
    streams, shared = [row] * count, row
    for level in own.extraction:
        of_tasks = [[expert(level.own, (t, k), streams[t]) for k in range(2)] for t in range(count)]
        common = [expert(level.shared, (k,), shared) for k in range(2)]
        if level is own.extraction[-1]:
            return of_tasks, common, (streams, shared)
        everything = [e for experts in of_tasks for e in experts] + common
        streams = [gated(level.gates, t, streams[t], of_tasks[t] + common) for t in range(count)]
        shared = gated(level.shared_gate, 0, shared, everything)
    raise AssertionError


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_known_tasks_equal_a_loop_over_levels_and_experts(levels: int) -> None:
    own = learner(levels, tower=(7,))

    def predict(place: int, x: Tensor) -> Tensor:
        assert own.towers is not None
        assert own.heads is not None
        rows = []
        for row in own.backbone(x):
            of_tasks, common, (streams, _) = at_last_level(own, row)
            gates: Any = own.extraction[-1].gates
            mixed = gated(gates, place, streams[place], of_tasks[place] + common)
            mixed = expert(own.towers, (place,), mixed)
            rows.append(mixed @ own.heads.weight[place] + own.heads.bias[place])
        return torch.stack(rows)

    check_against_loop(own, predict)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_parts_that_no_other_task_reads_are_a_tasks_own(levels: int) -> None:
    check_per_task(learner(levels, tower=(7,)))


@pytest.mark.parametrize("tasks", [TASKS, {}], ids=["known tasks", "none"])
def test_a_new_task_mixes_all_experts_of_the_last_level(tasks: dict[str, int]) -> None:
    """Without steps: in equal shares. The steps of a gate are tested with those of MMoE."""
    own = learner(2, tasks, steps=0, l2=0.3)
    support, queries, spec = new_task()

    def features(x: Tensor) -> Tensor:
        rows = []
        for row in own.backbone(x):
            of_tasks, common, _ = at_last_level(own, row)
            rows.append(torch.stack([e for es in of_tasks for e in es] + common).mean(0))
        return torch.stack(rows)

    head = ridge_head(features(support.inputs), support.targets, 0.3)
    expected = features(queries) @ head[:-1] + head[-1]
    torch.testing.assert_close(own(support, spec)(queries), expected)


@pytest.mark.parametrize("name", ["shared", "own", "levels"])
def test_less_than_one_of_a_kind_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"PLE: {name} must be at least 1; found 0"):
        qs.PLE(MLP(4, (6,)), **{name: 0})  # type: ignore[arg-type]
