"""Which tasks share a stack, and copying a stack to the learner's device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.base.trees import leaves, map_tree
from quickstudy.core import Examples, Task, TaskSpec
from quickstudy.tasks.examples import one_place
from quickstudy.tasks.numbering import draw, draw_stacks
from quickstudy.tasks.stacks import (
    MAX_PADDING,
    count,
    stack,
    stacks,
    tensor_to_device,
    to_device,
    unstack,
)


class RecordingTensor(Tensor):
    """Records the calls of pin_memory and to, and does nothing: there may be no GPU."""

    calls: list[Any]

    def pin_memory(self, device: Any = None) -> Tensor:
        self.calls.append("pinned")
        return self

    def to(self, *args: Any, **options: Any) -> Tensor:
        self.calls.append((*args, options))
        return self


@pytest.mark.parametrize(
    ("device", "calls"),
    [
        ("cuda:1", ["pinned", (torch.device("cuda:1"), {"non_blocking": True})]),
        ("cpu", [(torch.device("cpu"), {})]),  # else it could be read before it is copied
    ],
)
def test_copies_to_a_gpu_are_pinned_and_asynchronous(device: str, calls: Any) -> None:
    tensor = torch.ones(3).as_subclass(RecordingTensor)
    tensor.calls = []
    tensor_to_device(tensor, torch.device(device))
    assert tensor.calls == calls


def test_to_device_moves_every_tensor_and_returns_a_task_already_there() -> None:
    batch = draw_stacks(qs.Sinusoids(2, 3), 0, range(4))[0].task
    assert to_device(batch, torch.device("cpu")) is batch
    there = to_device(batch, torch.device("meta"))
    assert {leaf.device.type for leaf in leaves(there[:2])} == {"meta"}
    assert [leaf.shape for leaf in leaves(there[:2])] == [leaf.shape for leaf in leaves(batch[:2])]


def task(inputs: Any, targets: Any, spec: TaskSpec, shots: int = 2) -> Task:
    def rows(part: slice) -> Examples:
        x, y = (map_tree(lambda leaf: leaf[part], tree) for tree in (inputs, targets))
        weights = torch.ones(len(next(leaves(y))))
        return Examples(x, y, weights, one_place(weights))

    return Task(rows(slice(shots)), rows(slice(shots, None)), spec)


def vectors(n: int, size: int = 3) -> Tensor:
    return torch.arange(n * size, dtype=torch.float32).view(n, size)


def test_tasks_of_different_ways_and_shots_are_padded_in_one_stack():
    few = task(vectors(4), torch.tensor([0, 1, 0, 1]), qs.classification(2))
    many = task(vectors(9), torch.arange(9) % 3, qs.classification(3), shots=4)
    joined = stack([few, many])
    assert joined.spec == qs.classification(3)
    assert joined.support.weights.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert count(joined) == 2
    again = unstack(joined)[0]
    assert torch.equal(again.support.inputs[:2], few.support.inputs)


def test_tasks_of_different_kinds_are_never_stacked_and_stacks_hold_their_indices():
    ids = task(vectors(4), torch.tensor([0, 1, 0, 1]), qs.classification(2))
    reals = task(vectors(4), vectors(4, 1), qs.regression())
    wide = task(vectors(4, 5), torch.tensor([0, 1, 0, 1]), qs.classification(2))
    found = stacks([ids, reals, ids, wide, reals])
    assert [each.places for each in found] == [(0, 2), (1, 4), (3,)]
    with pytest.raises(ValueError, match="found 2 kinds"):
        stack([ids, reals])


def test_tasks_of_different_names_share_a_stack_if_their_keys_are_equal():
    a, b = (task(vectors(4), vectors(4, 1), qs.regression(name=name)) for name in "ab")
    assert len(stacks([a, b, a])) == 2
    (together,) = stacks([a, b, a], lambda spec: "")
    assert together.names == ("a", "b", "a")
    assert together.task.spec.name == ""


@pytest.mark.parametrize("ways", [(5, 50), (2, 60)])
def test_tasks_of_5_to_50_ways_make_at_most_3_stacks_with_little_padding(ways):
    inputs = vectors(60 * 20)
    source = qs.episodes(
        qs.LabelledRows(inputs, torch.full((60,), 20), tuple(map(str, range(60)))), ways, (1, 5), 3
    )
    found = draw_stacks(source, 0, range(32))
    assert len(found) <= 3
    assert sorted(place for each in found for place in each.places) == list(range(32))
    drawn = [draw(source, 0, i) for i in range(32)]
    real = sum(len(t.support.weights) + len(t.query.weights) for t in drawn)
    padded = sum(e.task.support.weights.numel() + e.task.query.weights.numel() for e in found)
    assert padded < 1.5 * real


def test_ragged_inputs_with_a_mask_are_padded_with_0_and_targets_with_unknown():
    def sentence(length: int) -> Task:
        ids = torch.ones(4, length, dtype=torch.long)
        return task({"ids": ids, "mask": ids > 0}, ids, qs.tokens(3))

    joined = stack([sentence(3), sentence(5)])
    assert joined.support.inputs["mask"][0].tolist() == [[True, True, True, False, False]] * 2
    assert joined.support.targets[0].tolist() == [[1, 1, 1, -1, -1]] * 2
    assert joined.support.inputs["ids"].dtype == torch.long


def test_ragged_inputs_without_a_mask_are_not_stacked():
    def sentence(length: int) -> Task:
        return task(torch.ones(4, length), torch.tensor([0, 1, 0, 1]), qs.classification(2))

    assert len(stacks([sentence(3), sentence(5), sentence(3)])) == 2


def test_graphs_of_different_size_share_a_stack():
    def graph(nodes: int) -> Task:
        inputs = {
            "features": torch.ones(4, nodes, 2), "edges": torch.ones(4, nodes, nodes),
            "mask": torch.ones(4, nodes, dtype=torch.bool),
        }  # fmt: skip
        return task(inputs, vectors(4, 1), qs.regression())

    (joined,) = stacks([graph(3), graph(6)])
    assert joined.task.support.inputs["edges"].shape == (2, 2, 6, 6)
    assert joined.task.support.inputs["edges"][0, 0].sum() == 9
    assert joined.task.support.inputs["mask"][0, 0].tolist() == [True] * 3 + [False] * 3


def pictures(channels: int, side: int) -> Task:
    """Pictures with a mask of their pixels."""
    inputs = {"image": torch.ones(4, channels, side, side), "mask": torch.ones(4, side, side)}
    return task(inputs, torch.tensor([0, 1, 0, 1]), qs.classification(2))


def sequences(length: int, features: int, **more: Tensor) -> Task:
    """Sequences of vectors with a mask."""
    inputs = {"x": torch.ones(4, length, features), "mask": torch.ones(4, length), **more}
    return task(inputs, torch.tensor([0, 1, 0, 1]), qs.classification(2))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (pictures(1, 6), pictures(3, 6)),
        (pictures(1, 6), pictures(3, 8)),
        (sequences(7, 3), sequences(7, 5)),
        (sequences(7, 3), sequences(8, 5)),
        (sequences(3, 3), sequences(4, 5)),  # the features of one are as many as its places
        (sequences(7, 3, extra=torch.ones(4, 2)), sequences(7, 3, extra=torch.ones(4, 6))),
    ],
)
def test_dimensions_that_the_mask_does_not_span_are_never_padded(a: Task, b: Task) -> None:
    assert [each.places for each in stacks([a, b, a, b])] == [(0, 2), (1, 3)]


@pytest.mark.parametrize(
    ("a", "b", "shape"),
    [
        (pictures(3, 6), pictures(3, 8), (3, 8, 8)),
        (pictures(3, 3), pictures(3, 4), (3, 4, 4)),  # as many channels as rows of pixels
        (sequences(3, 3), sequences(5, 3), (5, 3)),
        (sequences(5, 5), sequences(3, 5), (5, 5)),
    ],
)
def test_dimensions_that_the_mask_spans_are_padded_whatever_their_size(
    a: Task, b: Task, shape: tuple[int, ...]
) -> None:
    (joined,) = stacks([a, b, a])
    assert next(leaves(joined.task.support.inputs)).shape == (3, 2, *shape)


def test_a_dimension_is_spanned_in_all_tasks_of_a_stack_or_in_none() -> None:
    """The features of the first could be places, but those of the second are 3 of another kind."""
    tasks = [sequences(3, 3), sequences(5, 3), sequences(5, 5)]
    assert [each.places for each in stacks(tasks)] == [(0, 1), (2,)]


def test_each_mask_spans_dimensions_of_its_own_size() -> None:
    def both(words: int, nodes: int) -> Task:
        text = {"ids": torch.ones(4, words), "mask": torch.ones(4, words)}
        graph = {"edges": torch.ones(4, nodes, nodes), "mask": torch.ones(4, nodes)}
        return task({"text": text, "graph": graph}, torch.zeros(4).long(), qs.classification(2))

    (joined,) = stacks([both(4, 4), both(7, 5), both(6, 9)])
    assert joined.task.query.inputs["graph"]["edges"].shape == (3, 2, 9, 9)
    assert joined.task.query.inputs["text"]["ids"].shape == (3, 2, 7)


NAN = float("nan")
ALONE = {
    "an id beyond the ways": (
        task(vectors(4), torch.tensor([0, 1, 0, 4]), qs.classification(3)),
        task(vectors(4), torch.arange(4), qs.classification(5)),
        r"query: class ids must lie in 0 … 2 .*; found 4",
    ),
    "an undeclared NaN": (
        task(vectors(4), torch.tensor([[NAN], [0.0], [1.0], [2.0]]), qs.regression()),
        task(vectors(4), vectors(4, 1), qs.regression(missing=True)),
        "support: .*missing=True",
    ),
    "a pixel beyond the classes": (
        task(torch.ones(4, 1, 2, 2), torch.full((4, 2, 2), 2), qs.segmentation(2)),
        task(torch.ones(4, 1, 2, 2), torch.full((4, 2, 2), 2), qs.segmentation(3)),
        r"support: class ids must lie in 0 … 1 .*; found 2",
    ),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ALONE)
def test_targets_are_checked_under_the_answer_of_their_own_task(name: str, first: bool) -> None:
    """The joined answer of the stack would allow them."""
    invalid, wider, message = ALONE[name]
    tasks = [invalid, wider] if first else [wider, invalid]
    for make in (stack, stacks):
        with pytest.raises(ValueError, match=message):
            make(tasks)
    assert len(stacks([wider, wider])) == 1


@pytest.mark.parametrize("empty", ["support", "query"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_part_without_rows_is_refused_before_padding(empty: str, alone: bool) -> None:
    full = task(vectors(4), torch.tensor([0, 1, 0, 1]), qs.classification(2))
    nothing = map_tree(lambda leaf: leaf[:0], getattr(full, empty))
    without = full._replace(**{empty: nothing})
    with pytest.raises(ValueError, match=f"^{empty}: needs at least 1 row; found 0"):
        stacks([without] if alone else [full, without])


def test_tasks_of_one_kind_make_no_more_than_3_stacks_whatever_they_cost() -> None:
    """Five sizes, each with as many rows in all, so that every stack saved costs much padding."""
    tasks = [
        task(vectors(2 * n), torch.zeros(2 * n).long(), qs.classification(2), shots=n)
        for n in (1, 4, 16, 64)
        for _ in range(64 // n)
    ]
    tasks += [task(vectors(512), torch.zeros(512).long(), qs.classification(2), shots=256)]
    found = stacks(tasks)
    assert len(found) == 3
    padded = sum(each.task.support.weights.numel() for each in found)
    real = sum(len(each.support.weights) for each in tasks)
    assert padded > MAX_PADDING * real
