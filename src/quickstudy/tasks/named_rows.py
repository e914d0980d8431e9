"""The rows of tasks by name, which share inputs where several tasks are about the same things."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.names import unknown_name
from quickstudy.base.trees import leaves, map_tree
from quickstudy.base.words import count, first_few
from quickstudy.core import Answer, Examples, TaskSpec
from quickstudy.tasks.numbering import generator

MUCH_MEMORY = 2 * 2**30
"""Bytes of gathered rows of which :func:`warn_of_memory` tells."""


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class NamedRows(Mapping[str, Examples]):
    """The rows of each task by its name, gathered when they are asked for.

    ``inputs``   the table (N, ...) of inputs of each task: one tensor, or tree, may serve many.
    ``index``    (n,): the row of that table that each row of the task is.
    ``targets``, ``weights``, ``groups``  of the rows (n, ...) of each task, as in Examples.

    So 617 labels of 8,000 molecules need the memory of one table, not of 617.
    """

    inputs: Mapping[str, Any]
    index: Mapping[str, Tensor]
    targets: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    groups: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Examples:
        """All rows of task ``name``; ValueError for a name that is not one of them."""
        if name not in self.index:
            raise unknown_name("tasks", name, self.index)
        return self.take(name, torch.arange(self.count(name)))

    def __iter__(self) -> Iterator[str]:
        """The names of the tasks."""
        return iter(self.index)

    def __contains__(self, name: object) -> bool:
        """Whether a task has this name."""
        return name in self.index

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self.index)

    def count(self, name: str) -> int:
        """The number of rows of task ``name``."""
        return len(self.index[name])

    def take(self, name: str, chosen: Tensor) -> Examples:
        """The ``chosen`` rows of task ``name``, by their numbers within the task."""
        return Examples(
            _taken(self.inputs[name], self.index[name][chosen]),
            *(_taken(part[name], chosen) for part in (self.targets, self.weights, self.groups)),
        )

    def select(self, chosen: Mapping[str, Tensor]) -> NamedRows:
        """The tasks named in ``chosen``, each with these of its rows; inputs are not copied."""
        return NamedRows(
            {name: self.inputs[name] for name in chosen},
            {name: self.index[name][rows] for name, rows in chosen.items()},
            *(
                {name: _taken(part[name], rows) for name, rows in chosen.items()}
                for part in (self.targets, self.weights, self.groups)
            ),
        )

    def tables(self) -> list[list[str]]:
        """The names of the tasks of each table: tasks whose inputs are the same tensors."""
        found: dict[int, list[str]] = {}
        for name in self:
            found.setdefault(id(next(leaves(self.inputs[name]))), []).append(name)
        return list(found.values())

    def bytes_of(self, name: str) -> int:
        """The memory of all rows of task ``name`` once they are gathered."""
        per_row = sum(x[:1].numel() * x.element_size() for x in leaves(self.inputs[name]))
        own = sum(x.numel() * x.element_size() for x in leaves(self.targets[name]))
        return self.count(name) * per_row + own


def of_examples(rows: Mapping[str, Examples]) -> NamedRows:
    """The same rows; tasks whose inputs are one object share a table."""
    return NamedRows(
        {name: each.inputs for name, each in rows.items()},
        {name: torch.arange(len(each.weights)) for name, each in rows.items()},
        {name: each.targets for name, each in rows.items()},
        {name: each.weights for name, each in rows.items()},
        {name: each.groups for name, each in rows.items()},
    )


def with_labels(rows: NamedRows, spec: TaskSpec) -> Tensor:
    """(n,): which rows of the task of ``spec`` have weight and some known target."""
    known = spec.answer.known(rows.targets[spec.name])
    some = known if known.ndim == 1 else known.flatten(1).any(1)
    return (some & (rows.weights[spec.name] > 0)).cpu()


def one_class_only(targets: Any, answer: Answer) -> bool:
    """Whether all known targets are of one class, or each label is always yes or always no.

    Always false where the answer has no classes.
    """
    if answer.kind == "classes":
        return len(targets[targets >= 0].unique()) < 2
    if answer.kind == "labels":
        both = ((targets == 0).any(0)) & ((targets == 1).any(0))
        return not bool(both.any())
    return False


def in_first_part(
    who: str, numbers: Mapping[str, Tensor], train: float, seed: int
) -> dict[str, Tensor]:
    """(n,) for each task: which of its ``numbers`` (n,), rows or groups, are in the first part.

    A number that several tasks have is in the same part of all. A share ``train`` of the different
    numbers is in the first part, chosen at random, but neither none nor all.
    """
    if not 0 < train < 1:
        raise ValueError(f"{who}: train must be a share between 0 and 1; found {train}.")
    every = torch.cat([each.cpu() for each in numbers.values()]).unique()
    if len(every) < 2:
        raise ValueError(
            f"{who}: two parts need at least 2 rows or groups; found {len(every)} in "
            f"{first_few(list(numbers))}. Add some, or leave the task out."
        )
    kept = min(max(round(train * len(every)), 1), len(every) - 1)
    first = torch.zeros(len(every), dtype=torch.bool)
    first[torch.randperm(len(every), generator=generator(seed))[:kept]] = True
    return {name: first[torch.searchsorted(every, each.cpu())] for name, each in numbers.items()}


def some_of(n: int, most: int | None, seed: int) -> Tensor:
    """``most`` of n rows at random, in order; all where there are no more, or for None."""
    if most is None or n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=generator(seed))[:most].sort().values


def mean_and_deviation(rows: NamedRows, name: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (d,) of the known targets of a task; 1 for a deviation of 0."""
    given = rows.targets[name]
    known, values = ~given.isnan(), given.nan_to_num().double()
    per_row = rows.weights[name].double().reshape(-1, *[1] * (given.ndim - 1))
    over, weights = tuple(range(given.ndim - 1)), known * per_row
    total = weights.sum(over).clamp_min(torch.finfo(weights.dtype).tiny)
    mean = (weights * values).sum(over) / total
    deviation = ((weights * (values - mean).square()).sum(over) / total).sqrt()
    varies = deviation > 1e-12 * mean.abs()  # equal numbers differ from their mean by rounding
    return mean.to(given.dtype), deviation.where(varies, 1.0).to(given.dtype)


def _taken(tree: Any, chosen: Tensor) -> Any:
    return map_tree(lambda leaf: leaf[chosen.to(leaf.device)], tree)


def warn_of_memory(train: NamedRows, test: NamedRows, support: int | None) -> None:
    """Warn where ``support`` rows of each task, and its test rows, take much memory."""
    needed = 0
    for name in test:
        share = 1.0 if support is None else min(support / train.count(name), 1.0)
        needed += int(train.bytes_of(name) * share) + test.bytes_of(name)
    if needed > MUCH_MEMORY:
        warnings.warn(
            f"tested_on: support and query rows of {count(len(test), 'task')} take "
            f"{needed / 2**30:.1f} GiB. Ask for fewer support rows, support=100, or test some at "
            "a time: train.tested_on(test.only(names)).",
            stacklevel=4,
        )
