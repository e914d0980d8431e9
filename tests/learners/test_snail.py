"""SNAIL equals its layers applied to the whole sequence, written with loops over time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP
from quickstudy.base.trees import map_tree


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(length: int = 6, outputs: int = 3) -> qs.SNAIL:
    torch.manual_seed(0)
    return qs.SNAIL(MLP(4, (6, 5)), outputs, length, filters=7).double()


def support(n: int = 5, weights: list[float] | None = None) -> qs.Examples:
    targets = torch.arange(n) % 3
    return examples_of(
        numbers(1, n, 4), targets, torch.tensor(weights or [1.0] * n, dtype=torch.float64)
    )


def step_inputs(learner: qs.SNAIL, rows: Tensor, labels: list[int | None]) -> list[Tensor]:
    """Normalised features beside labels of length √d, zero for a query."""
    steps = []
    for row, label in zip(learner.backbone(rows), labels, strict=True):
        row = (row - row.mean()) / (row.var(correction=0) + 1e-5).sqrt()
        vector = torch.zeros(learner.outputs, dtype=row.dtype)
        if label is not None:
            vector[label] = math.sqrt(len(row))
        steps.append(torch.cat([row, vector]))
    return steps


def plain(learner: qs.SNAIL, steps: list[Tensor]) -> list[list[Tensor]]:
    """Activations of the plain causal network: one list over time for each block's output."""
    every = [steps]
    for block in learner.blocks:
        if hasattr(block, "dilation"):
            steps = [convolved(block, steps, t) for t in range(len(steps))]
        else:
            steps = [attended(block, steps, t) for t in range(len(steps))]
        every.append(steps)
    return every


def convolved(block: torch.nn.Module, steps: list[Tensor], t: int) -> Tensor:
    before = steps[t - block.dilation] if t >= block.dilation else torch.zeros_like(steps[t])
    both = block.now.weight @ steps[t] + block.now.bias + block.before.weight @ before
    half = len(both) // 2
    return torch.cat([steps[t], both[:half].tanh() / (1 + (-both[half:]).exp())])


def attended(block: torch.nn.Module, steps: list[Tensor], t: int) -> Tensor:
    query = block.query.weight @ steps[t] + block.query.bias
    scores = [query @ (block.key.weight @ s) / math.sqrt(len(query)) for s in steps[: t + 1]]
    total = sum(score.exp() for score in scores)
    values = [block.value.weight @ s + block.value.bias for s in steps[: t + 1]]
    read = sum(s.exp() / total * v for s, v in zip(scores, values, strict=True))
    return torch.cat([steps[t], read])


@pytest.mark.parametrize("length", [3, 6, 12])  # shorter than the sequence, as long, longer
def test_the_cached_prediction_equals_that_of_the_whole_sequence(length: int) -> None:
    learner, queries = made(length), numbers(2, 3, 4)
    rows = support()
    with torch.no_grad():
        found = learner(rows, qs.classification(3))(queries)
        for query, answer in zip(queries, found, strict=True):
            steps = step_inputs(
                learner, torch.cat([rows.inputs, query[None]]), [*rows.targets.tolist(), None]
            )
            expected = learner.head(plain(learner, steps)[-1][-1])
            torch.testing.assert_close(answer, expected, rtol=1e-10, atol=1e-12)


def test_rows_of_weight_zero_leave_no_gap_in_the_sequence() -> None:
    learner, queries = made(), numbers(2, 3, 4)
    rows = support(5, [1.0, 0.0, 1.0, 0.0, 1.0])
    kept = map_tree(lambda leaf: leaf[::2], rows)
    with torch.no_grad():
        found = learner(rows, qs.classification(3))(queries)
        expected = learner(kept, qs.classification(3))(queries)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_later_rows_do_not_change_earlier_outputs() -> None:
    learner, bias = made(), torch.zeros(5, dtype=torch.float64)
    rows = numbers(3, 5, 8)
    changed = torch.cat([rows[:3], numbers(4, 2, 8)])
    with torch.no_grad():
        for block in learner._layers():
            rows, changed = block.read(rows, bias)[0], block.read(changed, bias)[0]
            torch.testing.assert_close(rows[:3], changed[:3], rtol=1e-12, atol=1e-12)
            assert not torch.allclose(rows[3:], changed[3:])


def test_convolutions_reach_the_first_row_of_a_full_sequence() -> None:
    learner = made(length=6)
    dilations = [b.dilation for b in learner.blocks if hasattr(b, "dilation")]
    assert dilations == [1, 2, 4, 1, 2, 4]  # 1 + 1 + 2 + 4 rows: at least 6


def test_attention_sums_to_one_and_absent_rows_get_none() -> None:
    learner, queries = made(), numbers(2, 3, 4)
    rows = support(5, [1.0, 0.0, 1.0, 0.0, 1.0])
    with torch.no_grad():
        share = learner.attention(learner(rows, qs.classification(3)).state, queries)
        kept = map_tree(lambda leaf: leaf[::2], rows)
        expected = learner.attention(learner(kept, qs.classification(3)).state, queries)
    torch.testing.assert_close(share.sum(-1), torch.ones(3, dtype=torch.float64))
    assert torch.equal(share[:, 1::2], torch.zeros(3, 2, dtype=torch.float64))
    torch.testing.assert_close(share[:, ::2], expected, rtol=1e-10, atol=1e-12)


def test_more_ways_than_the_learner_has_outputs_are_refused() -> None:
    rows = support()
    with pytest.raises(
        ValueError, match=r"SNAIL: the task has 4 outputs, but the learner has 3.*outputs=4"
    ):
        made()(rows, qs.classification(4))
