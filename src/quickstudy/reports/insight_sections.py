"""The section of a report about how the learner adapted to one task."""

from __future__ import annotations

from collections.abc import Iterator

from quickstudy.evaluation.wording import score
from quickstudy.reports import episodes, insight_pieces, insight_plots
from quickstudy.reports.insights import Adaptation, Insights
from quickstudy.reports.markup import Markup, tag
from quickstudy.reports.page_parts import captioned, figure, section
from quickstudy.reports.view_types import Array, EpisodeView, View


def insights(found: Insights) -> Markup | None:
    """How the learner adapted to the first task; None where it has nothing to show."""
    figures = list(_insight_figures(found))
    if not figures:
        return None
    note = (
        "On the first test task: what adaptation changed, and the support rows behind predictions."
    )
    return section("What the learner did", "", note, tag("div", *figures, class_="figures"))


def _insight_figures(found: Insights) -> Iterator[Markup]:
    if found.adaptation is not None:
        yield from _adaptation_figures(found.adaptation)
    if found.rates is not None:
        yield figure(
            insight_plots.learnt_rates(found.rates),
            "rates",
            "Learnt learning rates",
            "The inner learning rates of each layer: dots are medians, bars the middle half, and "
            "numbers on the right the share of negative rates.",
        )
    if found.attention is not None:
        yield _attention(found.attention, found.view)
    if found.nearest and isinstance(found.view, EpisodeView):
        by_attention = found.attention is not None
        note = (
            "that get most of their attention; below each its class and its share of attention."
            if by_attention
            else "nearest to them in feature space; below each its class and its Euclidean "
            "distance, which may differ from the distance that the learner uses."
        )
        note = f"Queries, wrong ones first, with the support examples {note}"
        content = insight_pieces.nearest_list(found.nearest, found.view, by_attention)
        yield captioned("Nearest support examples", note, content)


def _adaptation_figures(a: Adaptation) -> Iterator[Markup]:
    steps = "one inner step" if a.steps[-1] == 1 else f"{a.steps[-1]} inner steps"
    before, after = (score(float(a.query_score[moment]), a.unit) for moment in (0, -1))
    yield figure(
        insight_plots.step_by_step(a),
        "steps",
        "Step by step",
        f"From before the first to after the last of {steps}, {a.score} on the queries went from "
        f"{before} to {after} and the loss on the support set from {a.support_loss[0]:.3g} to "
        f"{a.support_loss[-1]:.3g}.",
    )
    if a.layers:
        dots = "." if len(a.steps) == 2 else "; a dot for each step, later ones more opaque."
        yield figure(
            insight_plots.movement(a),
            "movement",
            "What adaptation changed",
            f"How far {steps} moved the weights of each layer, and its outputs for the queries, in "
            f"percent of their initial norm{dots}",
        )


def _attention(shares: Array, view: View) -> Markup:
    heat = "each column a support example, and a stronger colour is a larger share of attention"
    if isinstance(view, EpisodeView):
        own, chance = insight_pieces.own_class_share(shares, view)
        note = f"Each row is a query, wrong ones (✗) last in their class, {heat}; "
        note += f"{100 * own:.0f}% of it is on the query's own class, where chance is "
        note += f"{100 * chance:.0f}%."
        width = "wide" if len(view.names) > episodes.WAYS_SIDE_BY_SIDE else None
        content = insight_pieces.attention_table(shares, view)
        return captioned("Attention over the support set", note, content, width)
    content = insight_pieces.attention_picture(shares, view)
    order = ", both sorted by input" if insight_pieces.sorted_by_input(view) else ""
    note = f"Each row is a query, {heat}{order}."
    return captioned("Attention over the support set", note, content)
