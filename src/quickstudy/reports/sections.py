"""The illustrated sections of a report: figures and pictures with what they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from quickstudy.reports import episodes, plots
from quickstudy.reports.markup import Markup, tag
from quickstudy.reports.style import to_svg
from quickstudy.reports.views import EpisodeView, RegressionView

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from quickstudy.evaluation.evaluate import Evaluation


def training(e: Evaluation, metrics: Sequence[Mapping[str, float]]) -> Markup:
    """The training log and the scores of the test tasks."""
    scores = _figure(
        plots.score_distribution(e),
        "scores",
        "Scores of the test tasks",
        "Single tasks differ much more than the interval of their mean, which says how well the "
        "mean is known.",
    )
    if not any("loss" in row for row in metrics):
        note = tag("p", "There is no training log: this learner was not trained.", class_="note")
        return tag("section", tag("h2", "Scores"), note, tag("div", scores, class_="figures"))
    curves = _figure(
        plots.learning_curves(metrics, e.metric),
        "curves",
        "Learning curves",
        "Training tasks (thin: each value logged, thick: their running mean) and validation tasks.",
    )
    return tag(
        "section",
        tag("h2", "Training and test scores"),
        tag("div", curves, scores, class_="figures"),
    )


def tasks(views: Sequence[EpisodeView]) -> Markup | None:
    """The first test tasks as pictures; None where inputs are no images."""
    drawn = episodes.drawn_tasks(views)
    if drawn is None:
        return None
    note = "The first test tasks as they were drawn, not picked. Letters name the classes of a task"
    return tag(
        "section",
        tag("h2", "Test tasks"),
        tag("p", f"{note}: each task has its own.", class_="note"),
        drawn,
    )


def mistakes(views: Sequence[EpisodeView]) -> Markup:
    """Embeddings, confusion, calibration, and the classes most often taken for others."""
    return tag(
        "section",
        tag("h2", "Where it is right and wrong"),
        tag("div", *_mistake_figures(views), class_="figures"),
    )


def _mistake_figures(views: Sequence[EpisodeView]) -> Iterator[Markup]:
    first = views[0]
    if first.support_embeddings is not None and first.query_embeddings is not None:
        yield _figure(
            plots.projection(first),
            "projection",
            "Embeddings of task 1",
            "◆ support, ● query in the colour of its true class, × in a ring where wrong. "
            "The plane of largest variance, a shadow of the space in which the learner decides.",
        )
    ways = len(first.names)
    if ways <= episodes.WAYS_SIDE_BY_SIDE:
        yield _confusion(first, None)
    queries = sum(len(v.correct) for v in views)
    yield _figure(
        plots.reliability(views),
        "reliability",
        "Calibration",
        f"How often answers of each probability are right: {queries:,} queries of {len(views)} "
        "tasks; a dot's area is its share of them. On the dashed line, probabilities are honest.",
    )
    pairs = episodes.mistaken_pairs(views)
    note = f"Within one task, among the first {len(views)}. Ways differ between tasks, so nothing "
    note += "is added up over tasks."
    yield tag(
        "figure",
        tag("figcaption", tag("h3", "Most often mistaken"), tag("p", note, class_="note")),
        pairs or tag("p", "No query was answered wrongly."),
    )
    if episodes.WAYS_SIDE_BY_SIDE < ways <= episodes.WAYS_DRAWN:
        yield _confusion(first, "wide")


def _confusion(view: EpisodeView, width: str | None) -> Markup:
    note = "Rows are true classes, columns answers; cells count queries."
    return tag(
        "figure",
        tag(
            "figcaption",
            tag("h3", "Confusion among the ways of task 1"),
            tag("p", note, class_="note"),
        ),
        episodes.confusion_table(view),
        class_=width,
    )


def regressions(views: Sequence[RegressionView]) -> Markup:
    """The first test tasks as curves, or all answers against the truth."""
    curves = [(i, v) for i, v in enumerate(views, 1) if v.is_curve][:4]
    figures = [
        _figure(
            plots.fitted_curve(view),
            f"curve-{index}",
            f"Task {index}",
            f"Mean squared error {((view.after - view.query_targets) ** 2).mean():.3g} after "
            f"adapting to {len(view.support_targets)} points.",
        )
        for index, view in curves
    ] or [
        _figure(
            plots.predicted_against_true(views),
            "predicted",
            "Answers against true values",
            f"All queries of {len(views)} tasks. On the dashed line, answers are exact.",
        )
    ]
    note = "The first test tasks as they were drawn, not picked."
    return tag(
        "section",
        tag("h2", "Test tasks"),
        tag("p", note, class_="note"),
        tag("div", *figures, class_="figures"),
    )


def _figure(drawing: Figure, prefix: str, title: str, note: str) -> Markup:
    caption = tag("figcaption", tag("h3", title), tag("p", note, class_="note"))
    return tag("figure", caption, Markup(to_svg(drawing, prefix, f"{title}. {note}")))
