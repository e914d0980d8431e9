"""Stacks: groups of tasks that are computed at once, with a leading dimension of tasks.

The tasks of a step may be of several kinds. Tasks whose answers join and whose rows have the same
shape share a stack; if their numbers of rows differ, they are padded with rows of weight 0. Rows of
different sizes (sequences, graphs) are padded with zeros in the dimensions that a leaf ``mask`` of
their inputs spans, and targets of different sizes with the value for unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quickstudy.base.door import check_not_empty
from quickstudy.base.known import unknown_value
from quickstudy.base.trees import map_tree, named_leaves
from quickstudy.core import Answer, Examples, Task, TaskSpec
from quickstudy.tasks.examples import pad_rows
from quickstudy.tasks.stackable import Group, NameKey, group_stackable, own_name

MAX_STACKS = 3
"""Most stacks for tasks of one kind whose numbers of rows differ."""

MAX_PADDING = 1.25
"""Number of padded rows per real row above which tasks of one kind get a further stack."""


class Stack(NamedTuple):
    """Several tasks as one Task, whose tensors have shape (tasks, rows, ...).

    ``places``  the index of each of its tasks in the step; ``names``, their names.
    """

    task: Task
    places: tuple[int, ...]
    names: tuple[str, ...]


def stack(tasks: Sequence[Task], name_key: NameKey = own_name) -> Task:
    """Tasks -> one task whose tensors have shape (tasks, rows, ...).

    Raises ValueError where they cannot be computed at once, and what :func:`stacks` raises.
    """
    groups = group_stackable(tasks, name_key)
    if len(groups) > 1:
        specs = list(dict.fromkeys(task.spec for task in tasks))
        raise ValueError(
            f"stack: the tasks of one stack must have answers that join and rows of one shape; "
            f"found {len(groups)} kinds among {', '.join(map(str, specs[:3]))}. Use stacks, which "
            "makes one of each kind."
        )
    return _stacked(tasks, groups[0].answer)


def stacks(tasks: Sequence[Task], name_key: NameKey = own_name, *, pad: bool = True) -> list[Stack]:
    """Tasks -> as few stacks as possible, see the module's docstring.

    ``name_key``  tasks for which it differs never share a stack: a learner's ``name_key``; by
                  default the name.
    ``pad``       False for stacks without added rows, of tasks of one size each: what a
                  transductive learner says of a query depends on all rows beside it.

    Raises ValueError for a support or query set without rows, and for targets that do not fit their
    own task's answer where the stack has a wider one.
    """
    found = []
    for group in group_stackable(tasks, name_key):
        for places in _split_by_size(tasks, group.places) if pad else _of_one_size(tasks, group):
            members = [tasks[place] for place in places]
            answer = members[0].spec.answer
            for member in members[1:]:
                answer = _joined(answer, member.spec.answer)
            names = tuple(member.spec.name for member in members)
            found.append(Stack(_stacked(members, answer), tuple(places), names))
    return found


def _joined(a: Answer, b: Answer) -> Answer:
    joined = a.join(b)
    assert joined is not None, "tasks of one group have answers that join"
    return joined


def _size(task: Task) -> int:
    parts = (task.support, task.query)
    return sum(len(part.weights) for part in parts if isinstance(part, Examples))


def _of_one_size(tasks: Sequence[Task], group: Group) -> list[list[int]]:
    """Indices of tasks of one kind, split by their numbers of support rows and of queries."""
    found: dict[tuple[int, ...], list[int]] = {}
    for place in group.places:
        parts = (tasks[place].support, tasks[place].query)
        sizes = tuple(len(part.weights) for part in parts if isinstance(part, Examples))
        found.setdefault(sizes, []).append(place)
    return list(found.values())


def _split_by_size(tasks: Sequence[Task], places: list[int]) -> list[list[int]]:
    """Indices of tasks of one kind, split by number of rows if padding exceeds MAX_PADDING."""
    sizes = sorted({_size(tasks[place]) for place in places})
    real = sum(_size(tasks[place]) for place in places)
    best = [sizes[-1:]]
    for parts in range(1, min(MAX_STACKS, len(sizes)) + 1):
        best, padded = _least_padding(sizes, [_size(tasks[place]) for place in places], parts)
        if padded <= MAX_PADDING * real:
            break
    return [
        members for members in
        ([p for p in places if _size(tasks[p]) in part] for part in best) if members
    ]  # fmt: skip


def _least_padding(
    sizes: list[int], of_tasks: list[int], parts: int
) -> tuple[list[list[int]], int]:
    """The split of ascending ``sizes`` into ``parts`` ranges with least padding; padded rows."""
    counts = [of_tasks.count(size) for size in sizes]
    # best[i]: cheapest partition of the first i sizes into the parts so far, as (cost, cuts).
    best: list[tuple[float, tuple[int, ...]]] = [(float("inf"), ())] * (len(sizes) + 1)
    best[0] = (0, (0,))
    for _ in range(parts):
        best = [
            min(
                (
                    (best[i][0] + sizes[j - 1] * sum(counts[i:j]), (*best[i][1], j))
                    for i in range(j)
                ),
                default=(float("inf"), ()),
            )
            for j in range(len(sizes) + 1)
        ]  # fmt: skip
    cost, cuts = best[-1]
    return [sizes[a:b] for a, b in pairwise(cuts)], int(cost)


def _stacked(tasks: Sequence[Task], answer: Answer) -> Task:
    _check_under_own_answers(tasks, answer)
    names = {task.spec.name for task in tasks}
    spec = TaskSpec(answer, names.pop() if len(names) == 1 else "")
    support, query = (
        _stack_parts([getattr(task, part) for task in tasks], part) for part in ("support", "query")
    )
    return Task(support, query, spec)


def _check_under_own_answers(tasks: Sequence[Task], joined: Answer) -> None:
    """Check targets that the stack's ``joined`` answer might allow, but their own does not.

    Those of tasks with the answer of the stack are checked with it.
    """
    for task in tasks:
        answer = task.spec.answer
        if answer is joined or answer == joined:
            continue
        for what, part in (("support", task.support), ("query", task.query)):
            if isinstance(part, Examples):
                answer.check(part.targets, what)
                answer.check_values(part.targets, what)


def _stack_parts(parts: Sequence[Any], what: str) -> Any:
    if isinstance(parts[0], Examples):
        sizes = [len(part.weights) for part in parts]
        check_not_empty(min(sizes), what)
        parts = _pad_ragged([pad_rows(part, max(sizes)) for part in parts])
    return map_tree(lambda *leaves: torch.stack(leaves), parts[0], *parts[1:])


def _pad_ragged(parts: Sequence[Examples]) -> list[Examples]:
    """Inputs of different sizes padded with zeros, targets with the value for unknown."""
    shapes = {tuple(leaf.shape for _, leaf in named_leaves(part)) for part in parts}
    if len(shapes) == 1:
        return list(parts)
    inputs = _pad_to_largest([part.inputs for part in parts], lambda _: 0)
    targets = _pad_to_largest([part.targets for part in parts], unknown_value)
    return [p._replace(inputs=i, targets=t) for p, i, t in zip(parts, inputs, targets, strict=True)]


def _pad_to_largest(trees: Sequence[Any], value: Callable[[Tensor], float]) -> list[Any]:
    """Every leaf padded at the end of each dimension to the largest size of that leaf."""

    def padded(i: int) -> Callable[..., Tensor]:
        return lambda *group: _padded(group[i], [leaf.shape for leaf in group], value)

    return [map_tree(padded(i), *trees) for i in range(len(trees))]


def _padded(leaf: Tensor, shapes: Sequence[Any], value: Callable[[Tensor], float]) -> Tensor:
    shape = tuple(map(max, zip(*shapes, strict=True)))
    if tuple(leaf.shape) == shape:
        return leaf
    padded = leaf.new_full(shape, value(leaf))
    padded[tuple(slice(size) for size in leaf.shape)] = leaf
    return padded


def map_task(function: Callable[..., Tensor], task: Task) -> Task:
    """``function`` of every tensor of the support and the query; the spec stays."""
    return Task(map_tree(function, task.support), map_tree(function, task.query), task.spec)


def as_stack(stacked: Task) -> Stack:
    """A stacked Task as the Stack that holds all tasks of a step, in order."""
    tasks = count(stacked)
    return Stack(stacked, tuple(range(tasks)), (stacked.spec.name,) * tasks)


def count(stacked: Task) -> int:
    """The number of tasks in a stacked Task."""
    return int(next(leaf for _, leaf in named_leaves(stacked[:2])).shape[0])


def unstack(stacked: Task) -> list[Task]:
    """The single tasks of a stack; padding is not removed."""
    return [map_task(lambda leaf, i=i: leaf[i], stacked) for i in range(count(stacked))]


def first_tasks(stacked: Task, n: int) -> Task:
    """The first ``n`` tasks of a stack, as a stack."""
    return map_task(lambda leaf: leaf[:n], stacked)


def to_device(task: Task, device: torch.device) -> Task:
    """The task on ``device``; itself if it is there already."""
    if next(leaf for _, leaf in named_leaves(task[:2])).device == device:
        return task
    return map_task(lambda leaf: tensor_to_device(leaf, device), task)


def tensor_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; copies from CPU to GPU are asynchronous."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # From pinned memory the GPU copies while the host goes on. torch's allocator reuses the
        # pinned block only after the copy is done.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
