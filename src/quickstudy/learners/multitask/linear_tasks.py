"""Rows of many tasks for linear models, in float64, and what such models share.

A linear model of a task is a weight (d, outputs) and an offset (outputs,) on features (n, d). Its
sum of squares is that of at most as many rows as there are features, so each task is reduced to
them once, and tasks of equal size are solved together (:func:`stacked`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

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

Setting = TypeVar("Setting")

_NUMBERS = 2**24
"""Numbers in the rows of a stack, at most, for the memory that solving takes."""


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


class Stack(NamedTuple):
    """Tasks reduced to rows of one size, which have the same sums of squares.

        sum_i w_i |x_i W + b - y_i|^2 = |rows W - targets|^2 + a constant

    ``tasks``    their places in the sequence of tasks.
    ``outputs``  the places of the k outputs.
    ``rows``     (tasks, m, d), with one more column for the offset where it is part of W; else
                 centred, and b is the best offset for W.
    ``targets``  (tasks, m, k).
    ``means``    of features (tasks, d) and of targets (tasks, k), where they were subtracted.
    """

    tasks: list[int]
    outputs: list[int]
    rows: Tensor
    targets: Tensor
    means: tuple[Tensor, Tensor] | None


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


def stacked(tasks: Sequence[LinearRows], with_ones: bool = False) -> list[Stack]:
    """The tasks, each reduced to as many rows as it has features at most, in stacks.

    ``with_ones``  whether features get a column of ones, for offsets that are part of the weight;
                   else they are centred.
    """
    alike: dict[tuple[int, tuple[int, ...]], list[tuple[int, list[Tensor]]]] = {}
    for place, task in enumerate(tasks):
        for outputs, targets, weights in task.parts():
            reduced = _reduced(task.features, targets, weights, with_ones)
            alike.setdefault((len(reduced[0]), tuple(outputs)), []).append((place, reduced))
    stacks = []
    for (m, places), each in alike.items():
        most = max(1, _NUMBERS // max(1, m * each[0][1][0].shape[1]))
        for chunk in (each[i : i + most] for i in range(0, len(each), most)):
            members, parts = zip(*chunk, strict=True)
            x, y, *means = (torch.stack(part) for part in zip(*parts, strict=True))
            both = None if with_ones else (means[0], means[1])
            stacks.append(Stack(list(members), list(places), x, y, both))
    return stacks


def _reduced(x: Tensor, y: Tensor, weights: Tensor, with_ones: bool) -> list[Tensor]:
    """Rows and targets of the same sums of squares, and the means that were subtracted."""
    share = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
    means = share @ x, share @ y
    if with_ones:
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
    else:
        x, y = x - means[0], y - means[1]
    root = weights.sqrt().unsqueeze(-1)
    x, y = root * x, root * y
    if len(x) > x.shape[1]:
        q, x = torch.linalg.qr(x)
        y = q.mT @ y
    return [x, y, *means]


def linear_models(
    tasks: Sequence[LinearRows], stacks: Sequence[Stack], weights: Sequence[Tensor]
) -> list[Linear]:
    """The model of each task, from the weights (tasks, d or d + 1, k) of every stack."""
    models = []
    for task in tasks:
        d, outputs = task.features.shape[1], task.encoded.shape[1]
        models.append((task.features.new_zeros(d, outputs), task.features.new_zeros(outputs)))
    for stack, found in zip(stacks, weights, strict=True):
        if stack.means is None:
            found, offsets = found[:, :-1], found[:, -1]
        else:
            offsets = stack.means[1] - torch.einsum("td,tdk->tk", stack.means[0], found)
        for place, w, b in zip(stack.tasks, found, offsets, strict=True):
            weight, offset = models[place]
            weight[:, stack.outputs], offset[stack.outputs] = w, b
    return models


def best_setting(
    settings: Sequence[Setting],
    tasks: Sequence[LinearRows],
    fit: Callable[[Setting, Sequence[Stack]], Sequence[Tensor]],
    with_ones: bool,
    folds: int,
    seed: int,
) -> Setting:
    """The setting with the least squared error on left-out rows; of a tie, the first.

    The rows of every task are dealt to ``folds`` folds at random. ``fit`` gives the weights of all
    stacks without the rows of one fold, which the models then predict.

    Raises ValueError for less than 2 folds.
    """
    if folds < 2:
        raise ValueError(f"learn_from: choosing needs at least 2 folds; found {folds}. Use 5.")
    generator = torch.Generator().manual_seed(seed)
    fold_of = [torch.randperm(len(t.counts), generator=generator) % folds for t in tasks]
    errors = dict.fromkeys(range(len(settings)), 0.0)
    for fold in range(folds):
        left_out = [(of == fold).double().unsqueeze(-1) for of in fold_of]
        rest = [
            task._replace(counts=task.counts * (1 - out))
            for task, out in zip(tasks, left_out, strict=True)
        ]
        stacks = stacked(rest, with_ones)
        for number, setting in enumerate(settings):
            models = linear_models(rest, stacks, fit(setting, stacks))
            for task, out, (weight, offset) in zip(tasks, left_out, models, strict=True):
                squares = (task.features @ weight + offset - task.encoded).square()
                errors[number] += float((task.counts * out * squares).sum())
    return settings[min(errors, key=errors.__getitem__)]


def listed(values: float | Sequence[float]) -> list[float]:
    """One number, or several to choose from, as a list."""
    return [float(v) for v in (values if isinstance(values, Sequence) else [values])]
