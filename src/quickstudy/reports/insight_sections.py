"""The section of a report about what the learner did with one task."""

from __future__ import annotations

from collections.abc import Iterator

from quickstudy.evaluation.wording import score
from quickstudy.reports import episodes, insight_pieces, insight_plots
from quickstudy.reports.framing import figure, piece, section
from quickstudy.reports.insights import Adaptation, Insights
from quickstudy.reports.markup import Markup, tag
from quickstudy.reports.view_types import Array, EpisodeView, View


def insights(seen: Insights) -> Markup | None:
    """What the learner did with the first task; None where it lets nothing be seen."""
    figures = list(_insight_figures(seen))
    if not figures:
        return None
    note = "On the first test task: what moved as it adapted, and what its answers rest on."
    return section("What the learner did", "", note, tag("div", *figures, class_="figures"))


def _insight_figures(seen: Insights) -> Iterator[Markup]:
    if seen.adaptation is not None:
        yield from _adaptation_figures(seen.adaptation)
    if seen.rates is not None:
        yield figure(
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
        yield piece("Nearest support examples", note, drawn)


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
        dots = "." if len(a.steps) == 2 else "; a dot for each step, the stronger the later."
        yield figure(
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
        return piece("Attention over the support set", note, drawn, width)
    drawn = insight_pieces.attention_picture(shares, view)
    order = ", both sorted by input" if insight_pieces.sorted_by_input(view) else ""
    note = f"Each row is a query, {heat}{order}."
    return piece("Attention over the support set", note, drawn)
