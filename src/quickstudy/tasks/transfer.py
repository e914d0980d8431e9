"""Transfer tasks: the support set holds rows of other places beside those of the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quickstudy.answers.classes import Classes
from quickstudy.base.known import unknown_value
from quickstudy.base.trees import concatenate, map_tree, named_leaves
from quickstudy.core import Examples, Task, TaskSpec
from quickstudy.tasks.examples import take

TARGET = 0
"""The group of the rows of the place that is asked about; every other group is a source.

A plain support set has groups of zeros, so all its rows are target rows.
"""


def is_target(rows: Examples) -> Tensor:
    """(n,): which rows are of the target, :data:`TARGET`."""
    return rows.groups == TARGET


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare tasks by
class TransferTasks:
    """The task source that :func:`transfer` makes."""

    source: Examples = field(repr=False)
    target: Examples = field(repr=False)
    spec: TaskSpec
    labelled: int
    unlabelled: int
    queries: int | None

    def __call__(self, generator: torch.Generator) -> Task:
        """All source rows and a new choice of target rows as support; others as query."""
        order = torch.randperm(len(self.target.weights), generator=generator)
        chosen = self._labelled(order)
        rest = order[~torch.isin(order, chosen)]
        blind, query = rest[: self.unlabelled], rest[self.unlabelled :]
        query = query if self.queries is None else query[: self.queries]
        parts = [self.source, take(self.target, chosen)]
        if self.unlabelled:
            parts.append(without_labels(take(self.target, blind)))
        return Task(Examples(*concatenate(*parts)), take(self.target, query), self.spec)

    def _labelled(self, order: Tensor) -> Tensor:
        """The target rows that keep their labels: ``labelled`` of each class, or of all rows."""
        if not isinstance(self.spec.answer, Classes):
            return order[: self.labelled]
        ids = self.target.targets[order]
        return torch.cat([order[ids == k][: self.labelled] for k in range(self.spec.outputs)])


def transfer(
    sources: Examples | Sequence[Examples],
    target: Examples,
    spec: TaskSpec,
    *,
    labelled: int = 0,
    unlabelled: int = 0,
    queries: int | None = None,
) -> TransferTasks:
    """Tasks whose support has all rows of the sources and some of the target's.

    Support rows of source k, counted from 1, have group k, and rows of the target have group 0
    (:data:`TARGET`), as in any plain task. Queries are rows of the target.

    ``sources``     labelled rows of one other place, or of several.
    ``target``      labelled rows of the place that is asked about. Each task draws its own.
    ``labelled``    target rows that keep their labels in the support; for classes, of each class.
    ``unlabelled``  further target rows in the support, whose labels are hidden (-1 or NaN).
    ``queries``     target rows to predict; by default all that remain.

    Raises ValueError where inputs of source and target have different shapes, for targets that do
    not fit ``spec``, for ``unlabelled`` rows of reals unless they may be missing, and where the
    target has too few rows.
    """
    given = (sources,) if isinstance(sources, Examples) else tuple(sources)
    for each in (*given, target):
        if not isinstance(each, Examples):
            raise ValueError(
                f"transfer: sources and target must be Examples; found {type(each).__name__}. "
                "Make them with qs.examples(inputs, targets)."
            )
    if not given:
        raise ValueError("transfer: needs at least 1 source; found none. Give labelled rows.")
    for number, source in enumerate(given, 1):
        _refuse_other_columns(source, target, number)
    for name, rows in (*((f"source {k}", s) for k, s in enumerate(given, 1)), ("target", target)):
        spec.answer.check(rows.targets, f"transfer: {name}")
        spec.answer.check_values(rows.targets, f"transfer: {name}")
    if unlabelled:
        _refuse_where_all_is_known(target, spec)
    _refuse_too_few(target, spec, labelled, unlabelled, queries)
    numbered = [s._replace(groups=torch.full_like(s.groups, k)) for k, s in enumerate(given, 1)]
    own = target._replace(groups=torch.full_like(target.groups, TARGET))
    source = Examples(*concatenate(*numbered))
    return TransferTasks(source, own, spec, labelled, unlabelled, queries)


def without_labels(rows: Examples) -> Examples:
    """``rows`` with all targets unknown: -1 for ids, NaN for reals."""
    hidden = map_tree(lambda leaf: torch.full_like(leaf, unknown_value(leaf)), rows.targets)
    return rows._replace(targets=hidden)


def _refuse_other_columns(source: Examples, target: Examples, number: int) -> None:
    found, wanted = (
        {name: tuple(leaf.shape[1:]) for name, leaf in named_leaves(rows.inputs, "inputs")}
        for rows in (source, target)
    )
    if found != wanted:
        raise ValueError(
            f"transfer: source and target need the same columns, in the same order; found "
            f"{found} in source {number} and {wanted} in the target. Keep the columns that both "
            "have, or put both through one backbone."
        )


def _refuse_where_all_is_known(target: Examples, spec: TaskSpec) -> None:
    """ValueError for an answer whose targets must all be known, so that none can be hidden."""
    blind = without_labels(take(target, torch.arange(len(target.weights))[:1]))
    try:
        spec.answer.check_values(blind.targets, "transfer: unlabelled rows")
    except ValueError as error:
        raise ValueError(
            f"transfer: unlabelled rows need an answer that may be unknown; found {spec.answer}. "
            "For real targets, declare it: qs.regression(1, missing=True)."
        ) from error


def _refuse_too_few(
    target: Examples, spec: TaskSpec, labelled: int, unlabelled: int, queries: int | None
) -> None:
    if labelled < 0 or unlabelled < 0 or (queries is not None and queries < 1):
        raise ValueError(
            "transfer: labelled and unlabelled must be at least 0, and queries at least 1; found "
            f"labelled={labelled}, unlabelled={unlabelled}, queries={queries}."
        )
    rows, kept = len(target.weights), labelled
    if isinstance(spec.answer, Classes):
        kept = labelled * spec.outputs
        fewest = int(torch.bincount(target.targets.clamp_min(0), minlength=spec.outputs).min())
        if fewest < labelled:
            raise ValueError(
                f"transfer: {labelled} labelled rows of each class asked, but a class of the "
                f"target has {fewest}. Lower labelled, or add rows."
            )
    if kept + unlabelled + (queries or 1) > rows:
        raise ValueError(
            f"transfer: {kept} labelled and {unlabelled} unlabelled rows and {queries or 1} "
            f"queries asked, but the target has {rows} rows. Lower one of them, or add rows."
        )
