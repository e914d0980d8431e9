"""The illustrated sections of a report: figures and pictures with what they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from quickstudy.reports import (
    episodes,
    labels_drawn,
    masks_drawn,
    objects_drawn,
    plots,
    tokens_drawn,
)
from quickstudy.reports.framing import figure, piece, section
from quickstudy.reports.markup import Markup, tag
from quickstudy.reports.view_types import (
    BoxesView,
    EpisodeView,
    GeneralView,
    LabelsView,
    PixelsView,
    RegressionView,
    TokensView,
    View,
)

if TYPE_CHECKING:
    from quickstudy.evaluation.results import Evaluation, Result

DRAWN = "The first test tasks as they were drawn, not picked."


def training(e: Evaluation, metrics: Sequence[Mapping[str, float]]) -> Markup:
    """The training log and the scores of the test tasks."""
    first = [row for row in e.rows if row.first]
    scores = [_distribution(row, index) for index, row in enumerate(first)]
    if not any("loss" in row for row in metrics):
        note = "There is no training log: this learner was not trained."
        return section("Scores", "", note, tag("div", *scores, class_="figures"))
    name, unit = (e.main.score, e.main.unit) if e.of_one_kind else ("score", "")
    curves = figure(
        plots.learning_curves(metrics, name, unit),
        "curves",
        "Learning curves",
        "Training tasks (thin: each value logged, thick: their running mean) and validation tasks.",
    )
    figures = tag("div", curves, *scores, class_="figures")
    return section("Training and test scores", "", None, figures)


def _distribution(row: Result, index: int) -> Markup:
    title = f"Scores of the test tasks{f': {row.name}' if row.name else ''}"
    if row.pooled:
        note = (
            f"{row.score} is pooled: answers of all {row.tasks} tasks are judged together, because "
            "single tasks are too small for it. So there are no scores of single tasks to draw; "
            "the interval comes from leaving out each task in turn (jackknife)."
        )
        return piece(title, note, tag("p"))
    if not bool(row.values.isfinite().any()):
        return piece(title, f"None of {row.tasks} tasks has a finite score.", tag("p"))
    note = (
        "Single tasks differ much more than the interval of their mean, which says how well the "
        "mean is known."
    )
    return figure(plots.score_distribution(row), f"scores-{index}", title, note)


def of_tasks(views: Sequence[View]) -> Iterator[Markup]:
    """Sections about test tasks, those of one kind and name together."""
    kinds: dict[tuple[type[Any], str], list[View]] = {}
    for view in views:
        kinds.setdefault((type(view), view.task), []).append(view)
    for index, alike in enumerate(kinds.values()):
        yield from sections_of(alike[0], alike, f"kind-{index}-")


@singledispatch
def sections_of(first: View, views: Any, ids: str) -> Iterator[Markup]:
    """Sections that show ``views``, all of the kind of the ``first``.

    ``ids`` goes before the ids of figures, which one page must not have twice.
    """
    raise TypeError(
        f"report: no section draws a {type(first).__name__}. Give views made by "
        "quickstudy.reports.views.view."
    )


@sections_of.register
def _(first: EpisodeView, views: Sequence[EpisodeView], ids: str) -> Iterator[Markup]:
    drawn = episodes.drawn_tasks(views)
    if drawn is not None:
        note = f"{DRAWN[:-1]}. Letters name the classes of a task: each task has its own."
        yield section("Test tasks", first.task, note, drawn)
    figures = tag("div", *_episode_figures(views, ids), class_="figures")
    missing = None if drawn else "Inputs of these tasks are no pictures, so none are drawn."
    yield section("Where it is right and wrong", first.task, missing, figures)


def _episode_figures(views: Sequence[EpisodeView], ids: str) -> Iterator[Markup]:
    first = views[0]
    if first.support_embeddings is not None and first.query_embeddings is not None:
        yield figure(
            plots.projection(first),
            f"{ids}projection",
            "Embeddings of task 1",
            "◆ support, ● query in the colour of its true class, × in a ring where wrong. "
            "The plane of largest variance, a shadow of the space in which the learner decides.",
        )
    ways = len(first.names)
    if ways <= episodes.WAYS_SIDE_BY_SIDE:
        yield _confusion(first, None)
    queries = sum(len(v.correct) for v in views)
    yield figure(
        plots.reliability(views),
        f"{ids}reliability",
        "Calibration",
        f"How often answers of each probability are right: {queries:,} queries of {len(views)} "
        "tasks; a dot's area is its share of them. On the dashed line, probabilities are honest.",
    )
    pairs = episodes.mistaken_pairs(views)
    note = f"Within one task, among the first {len(views)}. Ways differ between tasks, so nothing "
    note += "is added up over tasks."
    yield piece("Most often mistaken", note, pairs or tag("p", "No query was answered wrongly."))
    if episodes.WAYS_SIDE_BY_SIDE < ways <= episodes.WAYS_DRAWN:
        yield _confusion(first, "wide")


def _confusion(view: EpisodeView, width: str | None) -> Markup:
    note = "Rows are true classes, columns answers; cells count queries."
    drawn = episodes.confusion_table(view)
    return piece("Confusion among the ways of task 1", note, drawn, width)


@sections_of.register
def _(first: RegressionView, views: Sequence[RegressionView], ids: str) -> Iterator[Markup]:
    curves = [(i, v) for i, v in enumerate(views, 1) if v.is_curve][:4]
    figures = [
        figure(
            plots.fitted_curve(view),
            f"{ids}curve-{index}",
            f"Task {index}",
            f"Mean squared error {view.error:.3g} after adapting to {len(view.support_targets)} "
            "points.",
        )
        for index, view in curves
    ] or [
        figure(
            plots.predicted_against_true(views),
            f"{ids}predicted",
            "Answers against true values",
            f"All queries of {len(views)} tasks. On the dashed line, answers are exact.",
        )
    ]
    yield section("Test tasks", first.task, DRAWN, tag("div", *figures, class_="figures"))


@sections_of.register
def _(first: LabelsView, views: Sequence[LabelsView], ids: str) -> Iterator[Markup]:
    note = (
        f"Over the queries of {len(views)} tasks, each label by its name. ROC-AUC is the "
        "probability that a row with the label gets a higher answer than one without; one half is "
        "chance, and where all known rows are alike there is none."
    )
    yield section("Labels", first.task, note, labels_drawn.label_table(views))


@sections_of.register
def _(first: PixelsView, views: Sequence[PixelsView], ids: str) -> Iterator[Markup]:
    note = f"{DRAWN} Colours are classes, laid over the picture; unknown pixels have none."
    yield section("Test tasks", first.task, note, *masks_drawn.drawn_tasks(views))


@sections_of.register
def _(first: TokensView, views: Sequence[TokensView], ids: str) -> Iterator[Markup]:
    note = f"{DRAWN} Above stands what is true, below what was answered."
    yield section("Test tasks", first.task, note, *tokens_drawn.drawn_tasks(views))


@sections_of.register
def _(first: BoxesView, views: Sequence[BoxesView], ids: str) -> Iterator[Markup]:
    yield section("Test tasks", first.task, DRAWN, *objects_drawn.drawn_tasks(views))


@sections_of.register
def _(first: GeneralView, views: Sequence[GeneralView], ids: str) -> Iterator[Markup]:
    yield section("Test tasks", first.task, first.note)
