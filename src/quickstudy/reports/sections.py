"""The sections of a report with figures and pictures: training, scores and test tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from quickstudy.base.words import count
from quickstudy.reports import (
    detection_pictures,
    episodes,
    label_tables,
    marked_texts,
    plots,
    segmentation_pictures,
    token_sequences,
)
from quickstudy.reports.limits import guess_of
from quickstudy.reports.markup import Markup, tag
from quickstudy.reports.page_parts import captioned, figure, section
from quickstudy.reports.view_types import (
    BoxesView,
    EpisodeView,
    GeneralView,
    LabelsView,
    PixelsView,
    RegressionView,
    SpansView,
    TokensView,
    View,
)

if TYPE_CHECKING:
    from quickstudy.evaluation.result import Result
    from quickstudy.evaluation.results import Evaluation

FIRST_TASKS = "The first test tasks in the order in which they were sampled, not selected."


def training(e: Evaluation, metrics: Sequence[Mapping[str, float]]) -> Markup:
    """The training log and the scores of the test tasks."""
    first = [row for row in e.rows if row.first]
    scores = [_distribution(row, index) for index, row in enumerate(first)]
    if not any("loss" in row for row in metrics):
        note = "Nothing was trained over tasks, so there are no learning curves."
        return section("Scores", "", note, tag("div", *scores, class_="figures"))
    name, unit = (e.main.score, e.main.unit) if e.of_one_kind else ("score", "")
    guess = guess_of(e.main) if e.of_one_kind else {}
    note = "Training tasks (thin: each value logged, thick: their running mean), validation tasks"
    note += f", and a baseline ({', '.join(guess)})." if guess else "."
    curves = figure(
        plots.learning_curves(metrics, name, unit, guess), "curves", "Learning curves", note
    )
    figures = tag("div", curves, *scores, class_="figures")
    return section("Training and test scores", "", None, figures)


def _distribution(row: Result, index: int) -> Markup:
    title = f"Scores of the test tasks{f': {row.name}' if row.name else ''}"
    if row.pooled:
        note = (
            f"{row.score} is pooled: it is computed from the predictions for all {row.tasks:,} "
            "tasks together, because single tasks are too small for it, so single tasks have no "
            "score. The interval comes from leaving out each task in turn (jackknife)."
        )
        return captioned(title, note, tag("p"))
    if not bool(row.values.isfinite().any()):
        return captioned(title, f"None of {count(row.tasks, 'task')} has a finite score.", tag("p"))
    note = (
        "Scores of single tasks differ much more than the interval is wide: the interval shows how "
        "precisely their mean is known, the histogram what one adaptation may give."
    )
    return figure(plots.score_distribution(row), f"scores-{index}", title, note)


def of_tasks(views: Sequence[View]) -> Iterator[Markup]:
    """Sections about test tasks; tasks of the same kind and name share a section."""
    kinds: dict[tuple[type[Any], str], list[View]] = {}
    for view in views:
        kinds.setdefault((type(view), view.task), []).append(view)
    for index, same_kind in enumerate(kinds.values()):
        yield from sections_of(same_kind[0], same_kind, f"kind-{index}-")


@singledispatch
def sections_of(first: View, views: Any, ids: str) -> Iterator[Markup]:
    """Sections that show ``views``, all of the same type as the ``first``.

    ``ids``  prefix of the ids of figures, so that they are unique within the page.
    """
    raise TypeError(
        f"report: there is no section for a {type(first).__name__}. Give views made by "
        "quickstudy.reports.views.view."
    )


@sections_of.register
def _(first: EpisodeView, views: Sequence[EpisodeView], ids: str) -> Iterator[Markup]:
    content = episodes.task_pictures(views)
    if content is not None:
        note = f"{FIRST_TASKS} Letters name classes within one task."
        yield section("Test tasks", first.task, note, content)
    figures = tag("div", *_episode_figures(views, ids), class_="figures")
    missing = None if content else "Inputs of these tasks are not images, so none are shown."
    yield section("Right and wrong predictions", first.task, missing, figures)


def _episode_figures(views: Sequence[EpisodeView], ids: str) -> Iterator[Markup]:
    first = views[0]
    if first.support_embeddings is not None and first.query_embeddings is not None:
        yield figure(
            plots.projection(first),
            f"{ids}projection",
            "Embeddings of task 1",
            "◆ support, ● query in the colour of its true class, × in a ring where wrong. "
            "The plane of largest variance (PCA); distances in the full feature space may differ.",
        )
    ways = len(first.names)
    if ways <= episodes.WAYS_SIDE_BY_SIDE:
        yield _confusion(first, None)
    queries = sum(len(v.correct) for v in views)
    yield figure(
        plots.reliability(views),
        f"{ids}reliability",
        "Calibration",
        "How often predictions of each probability are right: "
        f"{count(queries, 'query', 'queries')} of {count(len(views), 'task')}; a dot's area is its "
        "share of them. The dashed line is perfect calibration.",
    )
    pairs = episodes.confused_pairs(views)
    note = f"Within one task, among the first {len(views)}. A way is another class in each task, "
    note += "so counts are not added up over tasks."
    yield captioned(
        "Most often confused", note, pairs or tag("p", "Every query was predicted correctly.")
    )
    if episodes.WAYS_SIDE_BY_SIDE < ways <= episodes.WAYS_DRAWN:
        yield _confusion(first, "wide")


def _confusion(view: EpisodeView, width: str | None) -> Markup:
    note = "Rows are true classes, columns predicted classes; cells count queries."
    content = episodes.confusion_table(view)
    return captioned("Confusion among the ways of task 1", note, content, width)


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
            "Predictions against true values",
            f"All queries of the tasks shown ({len(views)}). On the dashed line they are exact.",
        )
    ]
    yield section("Test tasks", first.task, FIRST_TASKS, tag("div", *figures, class_="figures"))


@sections_of.register
def _(first: LabelsView, views: Sequence[LabelsView], ids: str) -> Iterator[Markup]:
    note = (
        f"Over the queries of the tasks shown ({len(views)}). ROC-AUC is the probability that a "
        "row with the label gets a higher prediction than a row without it; 0.5 is chance. It is "
        "undefined where all known rows have the label, or none has."
    )
    yield section("Labels", first.task, note, label_tables.label_table(views))


@sections_of.register
def _(first: PixelsView, views: Sequence[PixelsView], ids: str) -> Iterator[Markup]:
    note = f"{FIRST_TASKS} Colours are classes, drawn over the image; unknown pixels have none."
    yield section("Test tasks", first.task, note, *segmentation_pictures.task_pictures(views))


@sections_of.register
def _(first: TokensView, views: Sequence[TokensView], ids: str) -> Iterator[Markup]:
    note = f"{FIRST_TASKS} True tokens are above, predicted ones below."
    yield section("Test tasks", first.task, note, *token_sequences.task_pictures(views))


@sections_of.register
def _(first: SpansView, views: Sequence[SpansView], ids: str) -> Iterator[Markup]:
    yield section("Test tasks", first.task, FIRST_TASKS, *marked_texts.task_pictures(views))


@sections_of.register
def _(first: BoxesView, views: Sequence[BoxesView], ids: str) -> Iterator[Markup]:
    yield section("Test tasks", first.task, FIRST_TASKS, *detection_pictures.task_pictures(views))


@sections_of.register
def _(first: GeneralView, views: Sequence[GeneralView], ids: str) -> Iterator[Markup]:
    yield section("Test tasks", first.task, first.note)
