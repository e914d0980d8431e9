"""Validating a stack: which weights are uniform, and which targets are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.core import Examples, Task, TaskSpec
from quickstudy.tasks.inspection import inspect_stack

ONES = torch.ones(3, 4)
PLACE = torch.zeros(3, 4, dtype=torch.long)
IDS = torch.tensor([[0, 1, 1, 0]] * 3)
REALS = torch.randn(3, 4, 1)
NUMBERS = [torch.long, torch.int32, torch.uint8, torch.float32, torch.float64]


def stack_with(
    targets: Tensor, weights: Tensor = ONES, spec: TaskSpec | None = None, query: bool = True
) -> Task:
    """A stack with ``targets`` and ``weights`` in the query only, or in the support only."""
    plain = IDS if not targets.is_floating_point() else REALS
    other = Examples(ONES, plain.to(targets.dtype), ONES, PLACE)
    parts = [other, Examples(ONES, targets, weights, PLACE)]
    usual = qs.regression(missing=True) if targets.is_floating_point() else qs.classification(2)
    return Task(*(parts if query else reversed(parts)), spec or usual)


def changed(tensor: Tensor, value: float) -> Tensor:
    """``tensor`` with ``value`` as its last number."""
    changed = tensor.clone()
    changed.view(-1)[-1] = value
    return changed


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_weights_are_uniform_where_all_are_one_and_targets_known(
    dtype: torch.dtype, query: bool
) -> None:
    targets = (REALS if dtype.is_floating_point else IDS).to(dtype)
    assert inspect_stack(stack_with(targets, query=query)).uniform
    for weight in (0.0, 2.0, 1 - 2**-24, 1 + 2**-23):
        odd = changed(ONES, weight)
        assert not inspect_stack(stack_with(targets, odd, query=query)).uniform, weight
    odd = changed(ONES.double(), 1 + 2**-52)
    assert not inspect_stack(stack_with(targets, odd, query=query)).uniform


@pytest.mark.parametrize("query", [True, False])
def test_unknown_targets_are_not_uniform_but_infinite_ones_are(query: bool) -> None:
    assert not inspect_stack(stack_with(changed(IDS, -1), query=query)).uniform
    assert not inspect_stack(stack_with(changed(REALS, torch.nan), query=query)).uniform
    for value in (torch.inf, -torch.inf):
        assert inspect_stack(stack_with(changed(REALS, value), query=query)).uniform


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("weights", [ONES, ONES.half()])
@pytest.mark.parametrize("outputs", [2, 3000, 70_000])  # float16 cannot represent 70,000
def test_ids_without_an_output_are_refused(outputs: int, weights: Tensor, query: bool) -> None:
    spec = qs.classification(outputs)
    inspect_stack(stack_with(changed(IDS, outputs - 1), weights, spec, query))
    with pytest.raises(ValueError, match=rf"0 … {outputs - 1} for .*; found {outputs}\. Renumber"):
        inspect_stack(stack_with(changed(IDS, outputs), weights, spec, query))


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("weight", [-1.0, torch.nan, torch.inf, -torch.inf])
def test_negative_and_non_finite_weights_are_refused(weight: float, query: bool) -> None:
    name = "query" if query else "support"
    with pytest.raises(ValueError, match=rf"{name}: weights must be non-negative, finite"):
        inspect_stack(stack_with(IDS, changed(ONES, weight), query=query))


@pytest.mark.parametrize("empty", ["support", "query"])
def test_a_support_and_a_query_without_rows_are_refused(empty: str) -> None:
    nothing = Examples(ONES[:, :0], REALS[:, :0], ONES[:, :0], PLACE[:, :0])
    full = Examples(ONES, REALS, ONES, PLACE)
    task = Task(full, full, qs.regression())._replace(**{empty: nothing})
    with pytest.raises(ValueError, match=rf"^{empty}: needs at least 1 row; found 0\. Give"):
        inspect_stack(task)


def test_a_query_of_an_absent_class_is_not_uniform() -> None:
    """Its loss is left out, which a plain mean would not do."""
    support = Examples(ONES, torch.zeros_like(IDS), ONES, PLACE)
    query = Examples(ONES, IDS, ONES, PLACE)
    assert not inspect_stack(Task(support, query, qs.classification(2))).uniform
    assert inspect_stack(Task(query, support, qs.classification(2))).uniform


def test_a_missing_number_is_refused_unless_declared() -> None:
    with pytest.raises(ValueError, match="missing=True"):
        inspect_stack(stack_with(changed(REALS, torch.nan), spec=qs.regression()))
