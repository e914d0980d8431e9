"""MANN's sequence as one operation against its definition, row by row, under every transform."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from quickstudy.learners.memory.mann_sequence import all_rows
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from quickstudy.learners.memory import mann_sequence
from quickstudy.learners.memory.mann_rows import Kept, Told, Weights, one_row

ROWS, HIDDEN, HEADS, WIDTH, SLOTS, DECAY = 6, 5, 2, 3, 7, 0.9
FOUND = HEADS * WIDTH

Parts = tuple[Told, Kept, Weights]


def drawn(tags: int) -> Parts:
    noise = torch.Generator().manual_seed(tags)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=noise, dtype=torch.float64)

    def free(*shape: int) -> Tensor:
        return (0.7 * normal(*shape)).requires_grad_()

    told = Told(
        free(ROWS, 4 * HIDDEN), free(ROWS, 2 * FOUND + HEADS),
        normal(ROWS, tags), normal(ROWS, tags),
    )  # fmt: skip
    start = Kept(
        free(FOUND + HIDDEN), free(HIDDEN), free(SLOTS, WIDTH + tags), normal(SLOTS).exp(),
        normal(HEADS, SLOTS).softmax(-1).requires_grad_(),
    )  # fmt: skip
    strength = torch.tensor([5.0, 0.0], dtype=torch.float64, requires_grad=True)
    return (
        told,
        start,
        Weights(free(4 * HIDDEN, FOUND + HIDDEN), free(2 * FOUND + HEADS, HIDDEN), strength),
    )


def by_definition(told: Told, start: Kept, weights: Weights, decay: float) -> Kept:
    kept = [start]
    for row in zip(*told, strict=True):
        kept.append(one_row(Told(*row), kept[-1], weights, decay))
    return Kept(*(torch.stack(part) for part in zip(*kept, strict=True)))


def free_of(parts: Parts) -> list[Tensor]:
    return [tensor for part in parts for tensor in part if tensor.requires_grad]


def wavy(kept: Kept, names: tuple[str, ...]) -> Tensor:
    """A number that depends on every entry of some of what is kept."""
    return torch.stack([getattr(kept, name).sin().cumsum(0).sum() for name in names]).sum()


@pytest.mark.parametrize("tags", [0, 2])
@pytest.mark.parametrize(
    "names", [("seen",), ("memory",), ("seen", "cell", "memory", "looks"), ("looks", "cell")]
)
def test_values_and_slopes_are_those_of_the_definition(tags: int, names: tuple[str, ...]) -> None:
    parts = drawn(tags)
    found, expected = all_rows(*parts, DECAY), by_definition(*parts, DECAY)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slopes = [
        torch.autograd.grad(wavy(kept, names), free_of(parts), materialize_grads=True)
        for kept in (found, expected)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-10)


def test_training_takes_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the definition, which would be as right and much slower."""
    monkeypatch.setattr(mann_sequence, "one_row", None)
    parts = drawn(0)
    more = torch.stack([parts[0].gates, parts[0].gates.cos()])
    mapped = torch.func.vmap(partial(seen_of, parts))(more)
    assert all(s.isfinite().all() for s in torch.autograd.grad(mapped.sum(), list(parts[2])))


def seen_of(parts: Parts, gates: Tensor) -> Tensor:
    told, start, weights = parts
    return all_rows(told._replace(gates=gates), start, weights, DECAY).seen


def of_weights(parts: Parts, gates: Tensor) -> Tensor:
    told, start, weights = parts
    return all_rows(told, start, weights._replace(gates=gates), DECAY).seen


@pytest.mark.parametrize("function", [seen_of, of_weights])
@pytest.mark.parametrize("tags", [0, 2])
def test_mapped_sequences_are_the_looped_ones(
    function: Callable[[Parts, Tensor], Tensor], tags: int
) -> None:
    """Whether the sequences differ or the weights that read them."""
    parts = drawn(tags)
    one = parts[0 if function is seen_of else 2].gates
    several = torch.stack([one, one.cos(), one.sin()], 1)
    mapped = torch.func.vmap(partial(function, parts), in_dims=1)(several)
    looped = torch.stack([function(parts, gates) for gates in several.unbind(1)])
    torch.testing.assert_close(mapped, looped, rtol=1e-12, atol=1e-12)
    slopes = [
        torch.autograd.grad(x.sin().sum(), free_of(parts), retain_graph=True, allow_unused=True)
        for x in (mapped, looped)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-10)


def test_mapped_twice_each_sequence_stays_with_its_own_start() -> None:
    told, start, weights = drawn(0)

    def seen(gates: Tensor, memory: Tensor) -> Tensor:
        before = start._replace(memory=memory)
        return all_rows(told._replace(gates=gates), before, weights, DECAY).seen

    gates = torch.stack([told.gates, told.gates.cos(), told.gates.sin()])
    memories = torch.stack([start.memory, start.memory.cos()])
    inner = torch.func.vmap(seen, in_dims=(None, 0))
    mapped = torch.func.vmap(inner, in_dims=(0, None))(gates, memories)
    looped = torch.stack([torch.stack([seen(g, m) for m in memories]) for g in gates])
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
    assert torch.autograd.gradgradcheck(loss, weights, atol=1e-4)


def test_rows_may_share_what_is_kept() -> None:
    told, start, weights = drawn(2)
    together = one_row(told, start, weights, DECAY)
    alone = [one_row(Told(*row), start, weights, DECAY) for row in zip(*told, strict=True)]
    for found, expected in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(expected))


def test_every_way_of_autograd_gives_the_same_slopes() -> None:
    """One by one, at once, mapped over a graph recorded before, and out of a checkpoint."""
    parts = drawn(1)
    gates = parts[2].gates
    seen = all_rows(*parts, DECAY).seen
    directions = torch.stack([seen.detach(), seen.detach().cos()])

    def slope(direction: Tensor) -> Tensor:
        return torch.autograd.grad(seen, gates, direction, retain_graph=True)[0]

    expected = torch.stack([slope(direction) for direction in directions])
    at_once = torch.autograd.grad(seen, gates, directions, retain_graph=True, is_grads_batched=True)
    torch.testing.assert_close(at_once[0], expected)
    torch.testing.assert_close(torch.func.vmap(slope)(directions), expected)
    again = checkpoint(partial(of_weights, parts), gates, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again, gates, directions[0])[0], expected[0])


def test_forward_derivatives_are_those_of_the_definition() -> None:
    told, start, weights = drawn(0)

    def along(rows: Callable[..., Kept]) -> Tensor:
        def of(gates: Tensor) -> Tensor:
            return rows(told, start, weights._replace(gates=gates), DECAY).seen

        return torch.func.jvp(of, (weights.gates,), (weights.gates.cos(),))[1]

    torch.testing.assert_close(along(all_rows), along(by_definition))


def test_slopes_that_are_given_are_not_written_to() -> None:
    kept = all_rows(*drawn(0), DECAY)
    given = [torch.ones_like(part) for part in (kept.memory, kept.looks, kept.cell)]
    sum((part * slope).sum() for part, slope in zip((kept.memory, kept.looks, kept.cell), given,
        strict=True)).backward(retain_graph=True)  # fmt: skip
    torch.autograd.backward((kept.memory, kept.looks, kept.cell), given)
    assert all(bool((slope == 1).all()) for slope in given)
    assert not kept.usage.requires_grad


def test_slots_used_alike_are_taken_in_order() -> None:
    told, start, weights = drawn(0)
    many = 128  # from how many on a sort that is not stable shows
    start = start._replace(
        memory=torch.zeros(many, WIDTH), usage=torch.zeros(many), looks=torch.zeros(HEADS, many)
    )
    parts = [type(part)(*(t.double() for t in part)) for part in (told, start, weights)]
    found, expected = all_rows(*parts, DECAY), by_definition(*parts, DECAY)
    torch.testing.assert_close(found, expected)


def test_autocast_leaves_the_recurrence_as_it_is() -> None:
    """Its parts may come in lower precision, but a row mixes no types."""
    told, start, weights = (type(part)(*(t.float() for t in part)) for part in drawn(0))
    rough = told._replace(gates=told.gates.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        found = all_rows(rough, start, weights, DECAY)
    exact = all_rows(told._replace(gates=rough.gates.float()), start, weights, DECAY)
    torch.testing.assert_close(found, exact)
