"""The illustrated sections of a report: figures and pictures with what they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from quickstudy.reports import episodes, insight_pieces, insight_plots, plots
from quickstudy.reports.insights import Adaptation, Insights
from quickstudy.reports.markup import Markup, tag
from quickstudy.reports.style import to_svg
from quickstudy.reports.views import Array, EpisodeView, RegressionView, View
from quickstudy.reports.words import score

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


def insights(seen: Insights) -> Markup | None:
    """What the learner did with the first task; None where it lets nothing be seen."""
    figures = list(_insight_figures(seen))
    if not figures:
        return None
    note = "On the first test task: what moved as it adapted, and what its answers rest on."
    return tag(
        "section",
        tag("h2", "What the learner did"),
        tag("p", note, class_="note"),
        tag("div", *figures, class_="figures"),
    )


def _insight_figures(seen: Insights) -> Iterator[Markup]:
    if seen.adaptation is not None:
        yield from _adaptation_figures(seen.adaptation)
    if seen.rates is not None:
        yield _figure(
            insight_plots.learnt_rates(seen.rates),
            "rates",
            "Learnt learning rates",
            "How fast each layer learns: dots are medians, bars the middle half of its rates, and "
            "on the right stands the share that is negative.",
        )
    if seen.attention is not None:
        yield _attention(seen.attention, seen.view)
    if seen.nearest and isinstance(seen.view, EpisodeView):
        by_attention = seen.attention is not None
        note = (
            "they looked at most; below each its class and its share of the query's attention."
            if by_attention
            else "lie nearest to them in the space of features; below each its class and its "
            "Euclidean distance, which need not be the learner's own measure."
        )
        note = f"Queries, mistakes first, with the support examples that {note}"
        drawn = insight_pieces.nearest_list(seen.nearest, seen.view, by_attention)
        yield _piece("Nearest support examples", note, drawn)


def _adaptation_figures(a: Adaptation) -> Iterator[Markup]:
    steps = "one inner step" if a.steps[-1] == 1 else f"{a.steps[-1]} inner steps"
    name = "accuracy" if a.metric == "accuracy" else "error"
    before, after = score(a.query_score[0], a.metric), score(a.query_score[-1], a.metric)
    yield _figure(
        insight_plots.step_by_step(a),
        "steps",
        "Step by step",
        f"From before the first to after the last of {steps}, {name} on the queries went from "
        f"{before} to {after} and the loss on the support set from {a.support_loss[0]:.3g} to "
        f"{a.support_loss[-1]:.3g}.",
    )
    if a.layers:
        dots = "." if len(a.steps) == 2 else "; a dot for each step, the stronger the later."
        yield _figure(
            insight_plots.movement(a),
            "movement",
            "What adaptation changed",
            f"How far {steps} moved each layer, its weights and the features it makes of the "
            f"queries, in percent of where they started{dots}",
        )


def _attention(shares: Array, view: View) -> Markup:
    heat = "each column a support example, and the stronger the colour the larger the share of "
    heat += "attention"
    if isinstance(view, EpisodeView):
        own, chance = insight_pieces.own_class_share(shares, view)
        note = f"Each row is a query, those answered wrongly (✗) last in their class, {heat}; "
        note += f"{100 * own:.0f}% of it goes to a query's own class, where chance is "
        note += f"{100 * chance:.0f}%."
        width = "wide" if len(view.names) > episodes.WAYS_SIDE_BY_SIDE else None
        drawn = insight_pieces.attention_table(shares, view)
        return _piece("Attention over the support set", note, drawn, width)
    drawn = insight_pieces.attention_picture(shares, view)
    order = "" if view.query_inputs is None else ", both sorted by input"
    note = f"Each row is a query, {heat}{order}."
    return _piece("Attention over the support set", note, drawn)


def _piece(title: str, note: str, drawn: Markup, width: str | None = None) -> Markup:
    caption = tag("figcaption", tag("h3", title), tag("p", note, class_="note"))
    return tag("figure", caption, drawn, class_=width)


def _figure(drawing: Figure, prefix: str, title: str, note: str) -> Markup:
    caption = tag("figcaption", tag("h3", title), tag("p", note, class_="note"))
    return tag("figure", caption, Markup(to_svg(drawing, prefix, f"{title}. {note}")))
