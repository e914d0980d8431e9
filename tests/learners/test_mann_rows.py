"""MANN's recurrence equals a row-by-row loop under every transform of torch.func."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from quickstudy.learners.memory.mann_rows import (
    MemoryState,
    RowInputs,
    Weights,
    all_rows,
    one_row,
)

ROWS, HIDDEN, HEADS, WIDTH, SLOTS, DECAY = 6, 5, 2, 3, 7, 0.9
FOUND = HEADS * WIDTH

Parts = tuple[RowInputs, MemoryState, Weights]


def drawn(tags: int) -> Parts:
    noise = torch.Generator().manual_seed(tags)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=noise, dtype=torch.float64)

    def free(*shape: int) -> Tensor:
        return (0.7 * normal(*shape)).requires_grad_()

    inputs = RowInputs(
        free(ROWS, 4 * HIDDEN), free(ROWS, 2 * FOUND + HEADS),
        normal(ROWS, tags), normal(ROWS, tags),
    )  # fmt: skip
    start = MemoryState(
        free(FOUND + HIDDEN), free(HIDDEN), free(SLOTS, WIDTH + tags), normal(SLOTS).exp(),
        normal(HEADS, SLOTS).softmax(-1).requires_grad_(),
    )  # fmt: skip
    strength = torch.tensor([5.0, 0.0], dtype=torch.float64, requires_grad=True)
    return (
        inputs,
        start,
        Weights(free(4 * HIDDEN, FOUND + HIDDEN), free(2 * FOUND + HEADS, HIDDEN), strength),
    )


def free_of(parts: Parts) -> list[Tensor]:
    return [tensor for part in parts for tensor in part if tensor.requires_grad]


@pytest.mark.parametrize("tags", [0, 2])
def test_states_are_stacked_from_the_start_on(tags: int) -> None:
    inputs, start, weights = drawn(tags)
    kept = all_rows(inputs, start, weights, DECAY)
    expected = start
    for k, row in enumerate([None, *zip(*inputs, strict=True)]):
        if row is not None:
            expected = one_row(RowInputs(*row), expected, weights, DECAY)
        for part, of_row in zip(kept, expected, strict=True):
            assert torch.equal(part[k], of_row)
    assert len(kept.recurrent) == ROWS + 1
    assert not kept.usage.requires_grad


def seen_of(parts: Parts, gates: Tensor) -> Tensor:
    inputs, start, weights = parts
    return all_rows(inputs._replace(gates=gates), start, weights, DECAY).recurrent


def of_weights(parts: Parts, gates: Tensor) -> Tensor:
    inputs, start, weights = parts
    return all_rows(inputs, start, weights._replace(gates=gates), DECAY).recurrent


@pytest.mark.parametrize("function", [seen_of, of_weights])
@pytest.mark.parametrize("tags", [0, 2])
def test_mapped_sequences_equal_looped_ones(
    function: Callable[[Parts, Tensor], Tensor], tags: int
) -> None:
    """Both where the sequences differ and where the weights differ."""
    parts = drawn(tags)
    one = parts[0 if function is seen_of else 2].gates
    several = torch.stack([one, one.cos(), one.sin()], 1)
    mapped = torch.func.vmap(partial(function, parts), in_dims=1)(several)
    looped = torch.stack([function(parts, gates) for gates in several.unbind(1)])
    torch.testing.assert_close(mapped, looped, rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad(x.sin().sum(), free_of(parts), retain_graph=True, allow_unused=True)
        for x in (mapped, looped)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_mapped_twice_each_sequence_keeps_its_own_start() -> None:
    inputs, start, weights = drawn(0)

    def recurrent(gates: Tensor, memory: Tensor) -> Tensor:
        before = start._replace(memory=memory)
        return all_rows(inputs._replace(gates=gates), before, weights, DECAY).recurrent

    gates = torch.stack([inputs.gates, inputs.gates.cos(), inputs.gates.sin()])
    memories = torch.stack([start.memory, start.memory.cos()])
    inner = torch.func.vmap(recurrent, in_dims=(None, 0))
    mapped = torch.func.vmap(inner, in_dims=(0, None))(gates, memories)
    looped = torch.stack([torch.stack([recurrent(g, m) for m in memories]) for g in gates])
    torch.testing.assert_close(mapped, looped, rtol=1e-12, atol=1e-12)


def test_gradients_may_be_mapped_and_differentiated_again() -> None:
    parts = drawn(1)

    def loss(gates: Tensor) -> Tensor:
        return of_weights(parts, gates).sin().sum()

    weights = parts[2].gates
    several = torch.stack([weights, weights.cos()]).detach()
    mapped = torch.func.vmap(torch.func.grad(loss))(several)
    free = [gates.clone().requires_grad_() for gates in several]
    looped = torch.stack([torch.autograd.grad(loss(gates), gates)[0] for gates in free])
    torch.testing.assert_close(mapped, looped, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradgradcheck(loss, weights, atol=1e-4, fast_mode=True)


def test_rows_may_share_a_state() -> None:
    inputs, start, weights = drawn(2)
    together = one_row(inputs, start, weights, DECAY)
    alone = [one_row(RowInputs(*row), start, weights, DECAY) for row in zip(*inputs, strict=True)]
    for found, expected in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(expected))


def test_autocast_does_not_change_the_recurrence() -> None:
    """Its inputs may have lower precision, but a row mixes no types."""
    inputs, start, weights = (type(part)(*(t.float() for t in part)) for part in drawn(0))
    rough = inputs._replace(gates=inputs.gates.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        found = all_rows(rough, start, weights, DECAY)
    exact = all_rows(inputs._replace(gates=rough.gates.float()), start, weights, DECAY)
    torch.testing.assert_close(found, exact)
