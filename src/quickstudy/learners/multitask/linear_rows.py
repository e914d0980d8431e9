"""The rows of tasks as linear models read them, and the states and predictions of such models.

A linear model of a task is a weight (d, outputs) and an offset (outputs,) on features (n, d).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.reals import Reals
from quickstudy.backbones.norms import Statistics, embed_query, embed_support
from quickstudy.base.dropout import dropout_off
from quickstudy.base.words import first_few
from quickstudy.core import (
    Answer,
    Examples,
    Learner,
    State,
    TaskSpec,
    check_answer,
    checked_support,
)
from quickstudy.learners.outputs import element_weights, label_vectors
from quickstudy.learners.transfer.linear_probe import by_columns
from quickstudy.tasks.examples import labelled, without_absent

Linear = tuple[Tensor, Tensor]
"""Weight (d, outputs) and offset (outputs,) of one task."""


class LinearRows(NamedTuple):
    """The rows of one task as linear models read them.

    ``features``  (n, d).
    ``encoded``   targets (n, outputs) as numbers, 0 where unknown.
    ``counts``    (n, outputs), how often each of them counts.
    ``answer``    of the task.
    """

    features: Tensor
    encoded: Tensor
    counts: Tensor
    answer: Answer

    def parts(self) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """The outputs that share row weights: their places, targets (n, k) and weights (n,)."""
        outputs = range(self.encoded.shape[1])
        separate = by_columns(self.answer)
        for places in [[j] for j in outputs] if separate else [list(outputs)]:
            yield places, self.encoded[:, places], self.counts[:, places[0]]


def read_support(
    backbone: nn.Module, support: Examples, spec: TaskSpec
) -> tuple[LinearRows, Statistics]:
    """The rows of one task, and the backbone's statistics to reuse for its queries."""
    support = labelled(support, spec.answer)
    features, statistics = embed_support(backbone, support)
    encoded = label_vectors(support, spec.answer, spec.outputs, features.dtype)
    counts = element_weights(support, spec.answer, features.dtype)
    return LinearRows(features, encoded, counts, spec.answer), statistics


def linear_state(linear: Linear, rows: LinearRows, statistics: Statistics) -> State:
    """The state of a learner whose predictor is linear in features."""
    weight, offset = linear
    # The solver returns column-major memory, but files are row-major. Rounding depends on the
    # layout, so fix it here.
    state: State = {"weight": weight.contiguous(), "offset": offset, "statistics": statistics}
    if isinstance(rows.answer, Classes):
        state["present"] = (rows.counts * rows.encoded).sum(0) > 0
    return state


def linear_predictions(
    backbone: nn.Module, state: State, inputs: object, answer: Answer, scale: float
) -> Tensor:
    """Regression values, or logits, which are ``scale`` times the values (n, outputs)."""
    features = embed_query(backbone, inputs, state["statistics"])
    values: Tensor = features @ state["weight"] + state["offset"]
    if not isinstance(answer, Reals):
        values = scale * values
    return without_absent(values, state.get("present"))


def read_tasks(
    learner: Learner,
    backbone: nn.Module,
    named: Mapping[str, Examples],
    specs: Mapping[str, TaskSpec] | TaskSpec | None,
) -> list[LinearRows]:
    """The rows of all tasks in float64, computed with dropout off and without gradients.

    ``specs``  of the tasks by name, or one for all; None where ``named`` has its own
               (:class:`quickstudy.tasks.NamedTasks`).

    Raises ValueError for no tasks, no specs, answers that the learner does not give, rows that do
    not fit, features of different numbers, and tasks without known targets. Warns of a single task.
    """
    who = f"{type(learner).__name__}.learn_from"
    if not named:
        raise ValueError(f"{who}: needs at least one task; found none. Give names and their rows.")
    if specs is None:
        specs = getattr(named, "specs", None)
    if specs is None:
        raise ValueError(
            f"{who}: needs the spec of each task; found none. Give specs=qs.regression() for all "
            "tasks, a mapping from their names, or tasks made by qs.tasks.domains."
        )
    if len(named) == 1:
        warnings.warn(
            f"{who}: found one task, {next(iter(named))!r}, so nothing is shared. Give more tasks, "
            "or use qs.LinearProbe.",
            stacklevel=3,
        )
    found = {}
    with torch.no_grad(), dropout_off(learner):
        for name, rows in named.items():
            spec = specs if isinstance(specs, TaskSpec) else _spec_of(who, name, specs)
            check_answer(learner, spec.answer)
            try:
                rows = checked_support(learner, rows, spec.answer)
            except ValueError as error:
                raise ValueError(f"{who}: task {name!r}: {error}") from error
            linear, _ = read_support(backbone, rows, spec)
            found[name] = linear._replace(
                features=linear.features.to("cpu", torch.float64),
                encoded=linear.encoded.to("cpu", torch.float64),
                counts=linear.counts.to("cpu", torch.float64),
            )
    _check(who, found)
    return list(found.values())


def _spec_of(who: str, name: str, specs: Mapping[str, TaskSpec]) -> TaskSpec:
    if name not in specs:
        raise ValueError(
            f"{who}: needs the spec of each task; found none for {name!r}, but of "
            f"{first_few(list(specs))}. Add it to specs."
        )
    return specs[name]


def _check(who: str, tasks: Mapping[str, LinearRows]) -> None:
    unknown = [name for name, rows in tasks.items() if not rows.counts.any()]
    if unknown:
        raise ValueError(
            f"{who}: each task needs rows with known targets; found none in {first_few(unknown)}. "
            "Leave such tasks out: they can be adapted to when they have some."
        )
    widths = {name: rows.features.shape[1] for name, rows in tasks.items()}
    if len(set(widths.values())) > 1:
        (first, d), *others = widths.items()
        name, other = next((n, w) for n, w in others if w != d)
        raise ValueError(
            f"{who}: tasks must have the same features; found {d} in {first!r} and {other} in "
            f"{name!r}. Use a backbone that gives as many for every task."
        )
