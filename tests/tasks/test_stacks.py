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
from quickstudy.tasks.stacks import count, stack, stacks, tensor_to_device, to_device, unstack


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


def test_tasks_of_different_names_share_a_stack_unless_by_name():
    a, b = (task(vectors(4), vectors(4, 1), qs.regression(name=name)) for name in "ab")
    assert len(stacks([a, b, a], by_name=True)) == 2
    (together,) = stacks([a, b, a], by_name=False)
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
