"""What one look at a batch tells, and refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.core import Examples, Task, TaskSpec
from quickstudy.tasks.inspection import look_at

ONES = torch.ones(3, 4)
IDS = torch.tensor([[0, 1, 1, 0]] * 3)
REALS = torch.randn(3, 4, 1)
NUMBERS = [torch.long, torch.int32, torch.uint8, torch.float32, torch.float64]


def batch(
    targets: Tensor, weights: Tensor = ONES, spec: TaskSpec | None = None, query: bool = True
) -> Task:
    """A batch in which only the query, or only the support, is out of the ordinary."""
    plain = IDS if not targets.is_floating_point() else REALS
    parts = [Examples(ONES, plain.to(targets.dtype), ONES), Examples(ONES, targets, weights)]
    usual = qs.regression() if targets.is_floating_point() else qs.classification(2)
    return Task(*(parts if query else reversed(parts)), spec or usual)


def changed(tensor: Tensor, value: float) -> Tensor:
    """``tensor`` with another last number."""
    changed = tensor.clone()
    changed.view(-1)[-1] = value
    return changed


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_rows_count_alike_where_weights_are_one_and_targets_known(
    dtype: torch.dtype, query: bool
) -> None:
    targets = (REALS if dtype.is_floating_point else IDS).to(dtype)
    assert look_at(batch(targets, query=query)).rows_count_alike
    for weight in (0.0, 2.0, 1 - 2**-24, 1 + 2**-23, torch.nan):
        odd = changed(ONES, weight)
        assert not look_at(batch(targets, odd, query=query)).rows_count_alike, weight
    odd = changed(ONES.double(), 1 + 2**-52)
    assert not look_at(batch(targets, odd, query=query)).rows_count_alike


@pytest.mark.parametrize("query", [True, False])
def test_unknown_targets_do_not_count_alike_and_infinite_ones_do(query: bool) -> None:
    assert not look_at(batch(changed(IDS, -1), query=query)).rows_count_alike
    assert not look_at(batch(changed(REALS, torch.nan), query=query)).rows_count_alike
    for value in (torch.inf, -torch.inf):
        assert look_at(batch(changed(REALS, value), query=query)).rows_count_alike


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("weights", [ONES, ONES.half()])
@pytest.mark.parametrize("outputs", [2, 3000, 70_000])  # half precision has no such numbers
def test_ids_without_an_output_are_refused(outputs: int, weights: Tensor, query: bool) -> None:
    spec = qs.classification(outputs)
    assert look_at(batch(changed(IDS, outputs - 1), weights, spec, query)).rows_count_alike
    with pytest.raises(ValueError, match=rf"0 … {outputs - 1} for .*; found {outputs}\. Renumber"):
        look_at(batch(changed(IDS, outputs), weights, spec, query))


def test_the_mean_of_a_query_without_rows_is_no_plain_one() -> None:
    nothing = Examples(ONES[:, :0], REALS[:, :0], ONES[:, :0])
    task = Task(Examples(ONES, REALS, ONES), nothing, qs.regression())
    assert not look_at(task).rows_count_alike
