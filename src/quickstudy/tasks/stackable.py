"""Which tasks can share a stack: those whose answers join and whose rows have the same shape.

Inputs with a leaf ``mask`` may differ in size, but only in dimensions that the mask spans: in a
graph of ``nodes`` (n, size, features) with a ``mask`` (n, size), the number of nodes, not that of
their features. A dimension is spanned if in every task its size is that of the mask's dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from quickstudy.base.trees import named_leaves, structure
from quickstudy.core import Acting, Answer, Examples, Task, TaskSpec

NameKey = Callable[[TaskSpec], Hashable]
"""Equal for tasks that may share a stack, whatever their names: ``Learner.name_key``."""


def own_name(spec: TaskSpec) -> str:
    """The key with which no stack has tasks of different names."""
    return spec.name


Spans = list[frozenset[Any]]
"""For each dimension of each leaf, what its size is: a number, or that of a mask's dimension."""


@dataclass
class Group:
    """Tasks that can share a stack: their joined answer, and their indices."""

    answer: Answer
    places: list[int]
    _key: Any
    _spans: Spans

    def add(self, answer: Answer, place: int, key: Any, spans: Spans) -> bool:
        """Whether a task belongs to this group; if so, it is added."""
        if self._key != key:
            return False
        common = [a & b for a, b in zip(self._spans, spans, strict=True)]
        joined = self.answer.join(answer) if all(common) else None
        if joined is None:
            return False
        self.answer, self._spans = joined, common
        self.places.append(place)
        return True


def group_stackable(tasks: Sequence[Task], name_key: NameKey) -> list[Group]:
    """Groups of tasks that can share a stack, in order of their first task.

    ``name_key``  tasks for which it differs are never in one group.
    """
    groups: list[Group] = []
    for place, task in enumerate(tasks):
        answer, spans = task.spec.answer, Spans()
        parts = (task.support, task.query)
        key = [name_key(task.spec), *(_key(part, answer.ragged, spans) for part in parts)]
        if not any(group.add(answer, place, key, spans) for group in groups):
            groups.append(Group(answer, [place], key, spans))
    return groups


def _key(part: Examples | Acting, ragged_targets: bool, spans: Spans) -> Any:
    """Equal for parts that can be stacked if their spans agree, which are added to ``spans``."""
    if isinstance(part, Acting):
        leaves = [(leaf.shape, leaf.dtype) for _, leaf in named_leaves(part)]
        return "acting", structure(part), leaves
    inputs = list(named_leaves(part.inputs))
    masks = [(name, leaf) for name, leaf in inputs if name.split(".")[-1] == "mask"]
    if masks:
        _add_spans(inputs, masks, spans)
    return (
        structure(part.inputs), _sizes(inputs, bool(masks)),
        structure(part.targets), _sizes(named_leaves(part.targets), ragged_targets),
        part.weights.dtype, part.weights.device,
    )  # fmt: skip


def _sizes(leaves: Any, ragged: bool) -> list[Any]:
    """Shapes of rows and dtypes; for ragged trees the numbers of dimensions suffice."""
    return [(leaf.ndim if ragged else leaf.shape[1:], leaf.dtype) for _, leaf in leaves]


def _add_spans(
    inputs: list[tuple[str, Tensor]], masks: list[tuple[str, Tensor]], spans: Spans
) -> None:
    """Append, for each dimension after the first (the rows), all that its size can be."""
    of_masks: dict[int, set[Any]] = {}
    for name, mask in masks:
        for dimension, size in enumerate(mask.shape[1:]):
            of_masks.setdefault(size, {size}).add((name, dimension))
    for _, leaf in inputs:
        spans.extend(frozenset(of_masks.get(size, (size,))) for size in leaf.shape[1:])
