"""From a learner and a task to a view of its predictions, by the kind of the task's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.actions import Actions
from quickstudy.answers.boxes import Boxes, is_box
from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.pixels import Pixels
from quickstudy.answers.reals import Reals
from quickstudy.answers.spans import Spans
from quickstudy.answers.tokens import Tokens, comparable
from quickstudy.base.door import inspected
from quickstudy.base.replica import in_evaluation_mode
from quickstudy.base.trees import map_tree
from quickstudy.base.weighting import counting
from quickstudy.core import Answer, Examples, Learner, Predictor, Task
from quickstudy.objectives import predict_rows
from quickstudy.reports.molecule_pictures import molecule_images
from quickstudy.reports.protocols import Embeds, GivesUncertainty
from quickstudy.reports.usable_rows import as_images, as_numbers, pick, to_numpy, usable_rows
from quickstudy.reports.view_types import (
    BoxesView,
    EpisodeView,
    GeneralView,
    LabelsView,
    Objects,
    PixelsView,
    RegressionView,
    SpansView,
    TokensView,
    View,
)
from quickstudy.tasks.acting import needs_acting, run_acting
from quickstudy.tasks.examples import counted_weights


@inspected()  # what diverged is shown, not refused
@torch.no_grad()
def view(learner: Learner, task: Task, names: Sequence[str] | None = None) -> View:
    """The predictions of ``learner`` for ``task``, as the view for the task's kind of answer.

    ``names``  one for each way, label, class or token; "class 1", "class 2", … by default.

    For a task of acting, support and queries are made by acting first. Inputs may be of any kind;
    only images are drawn.

    Raises ValueError where no row has a known target, and for a wrong number of names.
    """
    learner = in_evaluation_mode(learner)
    support, query, spec = run_acting(learner, task) if needs_acting(task) else task
    assert isinstance(support, Examples)
    assert isinstance(query, Examples)
    predictor = learner(support, spec)
    chosen = None if names is None else tuple(str(name) for name in names)
    return view_of(spec.answer, _Adapted(predictor, support, query, chosen))


@dataclass(frozen=True)
class _Adapted:
    """A predictor with its support set, the queries, and the names that were given."""

    predictor: Predictor
    support: Examples
    query: Examples
    names: tuple[str, ...] | None

    @property
    def task(self) -> str:
        return self.predictor.spec.name

    @property
    def shown(self) -> tuple[Any, Any]:
        """(s,) and (q,): which support rows and which queries are shown."""
        answer = self.predictor.spec.answer
        return usable_rows(self.support, answer), usable_rows(self.query, answer)

    def named(self, count: int, what: str, default: str) -> tuple[str, ...]:
        """One name for each of ``count`` classes, labels or tokens, called ``what`` in errors."""
        if self.names is None:
            return tuple(default.format(each, each + 1) for each in range(count))
        if len(self.names) != count:
            raise ValueError(
                f"view: {len(self.names)} names were given for {count} {what}. Give one name for "
                "each."
            )
        return self.names


@singledispatch
def view_of(answer: Answer, given: _Adapted) -> View:
    """The view for this kind of ``answer``; by default a view of losses and scores."""
    predictions = predict_rows(given.predictor, given.query)
    losses = answer.loss(predictions, given.query.targets)
    scores = [_score_of_row(answer, predictions, given.query, i) for i in range(len(losses))]
    shown = usable_rows(given.query, answer)
    note = f"There is no picture for tasks of the kind {answer.kind!r}: see their scores."
    return GeneralView(
        to_numpy(losses)[shown], to_numpy(torch.stack(scores))[shown], note, given.task
    )


def _score_of_row(answer: Answer, predictions: Any, query: Examples, row: int) -> Tensor:
    one, its_query = map_tree(lambda leaf: leaf[row : row + 1], (predictions, query))
    value: Tensor = answer.score.value(answer.score.statistic(one, its_query))
    return value


@view_of.register
def _(answer: Actions, given: _Adapted) -> GeneralView:
    losses = answer.loss(predict_rows(given.predictor, given.query), given.query.targets)
    note = (
        "Queries were made by acting in the world of each task. The return is the sum of rewards "
        "in an episode, averaged over the episodes of a task."
    )
    return GeneralView(to_numpy(losses)[usable_rows(given.query, answer)], None, note, given.task)


@view_of.register
def _(answer: Classes, given: _Adapted) -> EpisodeView:
    kept_support, kept_query = given.shown
    # All rows are predicted at once, kept or not, as in the evaluation of a transductive learner.
    probability, predicted = predict_rows(given.predictor, given.query).softmax(-1).max(-1)
    support_images, query_images = as_images(given.support.inputs, given.query.inputs)
    if query_images is None:
        support_images, query_images = (
            molecule_images(rows.inputs, to_numpy(rows.targets))
            for rows in (given.support, given.query)
        )
    return EpisodeView(
        pick(support_images, kept_support),
        pick(query_images, kept_query),
        to_numpy(given.support.targets)[kept_support],
        to_numpy(given.query.targets)[kept_query],
        to_numpy(predicted)[kept_query],
        to_numpy(probability)[kept_query],
        pick(_embedded(given.predictor, given.support), kept_support),
        pick(_embedded(given.predictor, given.query), kept_query),
        given.named(answer.ways, "ways", "class {1}"),
        given.task,
    )


def _embedded(predictor: Predictor, rows: Examples) -> Tensor | None:
    if not isinstance(predictor.learner, Embeds):
        return None
    with counting(counted_weights(rows, predictor.spec.answer)):
        return predictor.learner.embed(predictor.state, rows.inputs)


@view_of.register
def _(answer: Reals, given: _Adapted) -> View:
    if given.query.targets.ndim > 2:
        return view_of.dispatch(Answer)(answer, given)
    learner, spec = given.predictor.learner, given.predictor.spec
    empty = given.support._replace(weights=torch.zeros_like(given.support.weights))
    before = predict_rows(learner(empty, spec), given.query)
    after = predict_rows(given.predictor, given.query)
    deviation = None
    if isinstance(learner, GivesUncertainty):
        with counting(counted_weights(given.query, answer)):
            deviation = learner.uncertainty(given.predictor.state, given.query.inputs)
    kept_support, kept_query = given.shown
    return RegressionView(
        to_numpy(given.support.targets)[kept_support],
        to_numpy(given.query.targets)[kept_query],
        to_numpy(before)[kept_query] if bool(before.isfinite().all()) else None,
        to_numpy(after)[kept_query],
        pick(as_numbers(given.support.inputs), kept_support),
        pick(as_numbers(given.query.inputs), kept_query),
        pick(deviation, kept_query),
        given.task,
    )


@view_of.register
def _(answer: Labels, given: _Adapted) -> LabelsView:
    def numbers(rows: Examples) -> Tensor:
        known = answer.known(rows.targets)
        filled: Tensor = answer.fill(rows.targets).float()
        return filled.where(known, torch.nan)

    kept_support, kept_query = given.shown
    return LabelsView(
        to_numpy(numbers(given.support))[kept_support],
        to_numpy(numbers(given.query))[kept_query],
        to_numpy(predict_rows(given.predictor, given.query).sigmoid())[kept_query],
        given.named(answer.k, "labels", "label {1}"),
        given.task,
    )


@view_of.register
def _(answer: Pixels, given: _Adapted) -> PixelsView:
    kept_support, kept_query = given.shown
    support_images, query_images = as_images(given.support.inputs, given.query.inputs)
    return PixelsView(
        pick(support_images, kept_support),
        pick(query_images, kept_query),
        to_numpy(given.support.targets)[kept_support],
        to_numpy(given.query.targets)[kept_query],
        to_numpy(predict_rows(given.predictor, given.query).argmax(-1))[kept_query],
        given.named(answer.k, "classes", "class {1}"),
        given.task,
    )


@view_of.register
def _(answer: Tokens, given: _Adapted) -> TokensView:
    kept = torch.from_numpy(usable_rows(given.query, answer))
    decoded = answer.decode(given.predictor, given.query.inputs)
    true, tags = given.query.targets, answer.before is None
    predicted, true = comparable(decoded.cpu()[kept], true.cpu()[kept], answer.end, tags)
    return TokensView(
        to_numpy(true),
        to_numpy(predicted),
        tags,
        given.named(answer.vocabulary, "tokens", "{0}"),
        given.task,
    )


@view_of.register
def _(answer: Spans, given: _Adapted) -> SpansView:
    known = (given.query.targets >= 0).all(-1) & (given.query.weights > 0)
    kept = known.nonzero().flatten()
    predicted = answer.decode(given.predictor, given.query.inputs)
    texts = None
    if given.names is not None:
        all_texts = given.named(len(given.query.targets), "queries", "{0}")
        texts = tuple(all_texts[row] for row in kept.tolist())
    return SpansView(
        to_numpy(given.query.targets[kept]), to_numpy(predicted[kept]), texts, given.task
    )


@view_of.register
def _(answer: Boxes, given: _Adapted) -> BoxesView:
    kept = usable_rows(given.query, answer)
    (images,) = as_images(given.query.inputs)
    is_object = is_box(given.query.targets)
    decoded = answer.decode(given.predictor, given.query.inputs)
    true = (
        Objects(*(to_numpy(given.query.targets[name][row][is_object[row]])
                  for name in ("boxes", "classes")))
        for row in kept.nonzero()[0]
    )  # fmt: skip
    predicted = (
        Objects(*(to_numpy(decoded[row][name]) for name in ("boxes", "classes", "confidence")))
        for row in kept.nonzero()[0]
    )
    return BoxesView(
        pick(images, kept),
        tuple(true),
        tuple(predicted),
        given.named(answer.k, "classes", "class {1}"),
        given.task,
    )
