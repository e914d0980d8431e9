"""Figures of a run: training log, scores, calibration, embeddings, fitted curves.

Each function returns a new matplotlib figure: save it with ``savefig`` in any format, or put it
into a page with :func:`quickstudy.reports.style.to_svg`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from quickstudy.evaluation import wording
from quickstudy.reports import style
from quickstudy.reports.limits import draw_baselines, limits_of, say_single, set_limits
from quickstudy.reports.view_types import Array, EpisodeView, RegressionView
from quickstudy.reports.words import axis, in_unit, letter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from quickstudy.evaluation.result import Result


def learning_curves(
    metrics: Sequence[Mapping[str, float]],
    score: str = "score",
    unit: str = "",
    baselines: Mapping[str, float] = MappingProxyType({}),
) -> Figure:
    """Score (above) and loss (below) against training steps.

    ``metrics``    rows of a training log, see :func:`quickstudy.training.log.read_metrics`.
    ``score``      the score's name, such as "accuracy".
    ``unit``       its unit, "%" for one that is shown in percent.
    ``baselines``  scores to draw as horizontal lines, by name.

    Thin lines are logged values, thick ones their running mean; dots are validation with its 95%
    interval. Raises ValueError where the log has no row with a loss.
    """
    training = [row for row in metrics if "loss" in row]
    if not training:
        raise ValueError(
            "learning_curves: the training log has no row with a loss. Give the log of a run "
            "that has trained."
        )
    with style.figure_style():
        figure = style.new_figure(3.7)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        scale = in_unit(unit)
        _noisy_line(above, training, "score", scale, style.MUTED, "training")
        _noisy_line(below, training, "loss", 1.0, style.MUTED, None)
        draw_baselines(above, baselines, unit, upright=False)
        validation = [row for row in metrics if math.isfinite(row.get("validation", math.nan))]
        if validation:
            above.errorbar(
                [row["step"] for row in validation],
                [scale * row["validation"] for row in validation],
                [scale * row.get("half_width", 0.0) for row in validation],
                color=style.ACCENT,
                marker="o",
                markersize=3.5,
                elinewidth=1.0,
                label="validation, with 95% interval",
            )
        if above.get_legend_handles_labels()[0]:
            style.legend_above(above, columns=3)
        set_limits(above, below, training, validation, unit, baselines)
        above.set_ylabel(axis(score, unit))
        below.set_ylabel("loss")
        below.set_xlabel("training step")
    return figure


def _noisy_line(
    axes: Axes,
    rows: Sequence[Mapping[str, float]],
    key: str,
    scale: float,
    colour: str,
    label: str | None,
) -> None:
    """Logged values, thin, and their running mean over about a twentieth of them, thick."""
    rows = [row for row in rows if math.isfinite(row.get(key, math.nan))]
    if not rows:
        return
    steps = np.array([row["step"] for row in rows])
    values = scale * np.array([row[key] for row in rows])
    span = max(1, len(values) // 20)
    if span > 1:
        # The window is cut off at both ends, so that the mean is neither shifted nor padded.
        totals = np.concatenate([[0.0], np.cumsum(values)])
        first = np.maximum(np.arange(len(values)) - span // 2, 0)
        last = np.minimum(np.arange(len(values)) + span // 2 + 1, len(values))
        axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.35)
        values = (totals[last] - totals[first]) / (last - first)
    marker = None
    if len(values) == 1:  # a line through a single point is invisible, and its axis has no scale
        marker = "o"
        say_single(axes, steps[0], values[0], f"{values[0]:.4g}")
    axes.plot(
        steps, values, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=label
    )


def score_distribution(result: Result) -> Figure:
    """A histogram of the scores of single tasks, with their mean and its 95% interval.

    Raises ValueError for a pooled score, which single tasks do not have, and without finite scores.
    """
    from matplotlib.ticker import MaxNLocator

    scores = result.values[result.values.isfinite()].numpy()
    if result.pooled or not len(scores):
        how = "pooled over" if result.pooled else "not finite in all of"
        raise ValueError(
            f"score_distribution: single tasks must have a score; found {result.label}, {how} "
            f"{result.tasks} tasks. Leave the figure out."
        )
    scale = in_unit(result.unit)
    with style.figure_style():
        figure = style.new_figure(3.7)
        axes = figure.subplots()
        edges = (scale * _bin_edges(scores)).tolist()
        axes.hist(scale * scores, edges, color=style.MUTED, alpha=0.45, rwidth=0.9)
        mean, width = scale * result.mean, scale * result.half_width
        if math.isfinite(width):
            axes.axvspan(mean - width, mean + width, color=style.ACCENT, alpha=0.25, linewidth=0)
        axes.axvline(mean, color=style.ACCENT, label=f"mean {result.figure}, with 95% interval")
        baselines = {f"{b.name} {wording.score(b.mean, b.unit)}": b.mean for b in result.baselines}
        draw_baselines(axes, baselines, result.unit, upright=True)
        marked = [*edges, mean, *(scale * b for b in baselines.values())]
        if result.unit == "%":  # a bin around 0 or 100 reaches beyond the scale, which ends there
            low, high = limits_of([min(max(value, 0.0), 100.0) for value in marked], "%")
            axes.set_xlim(min(low, edges[0]), max(high, edges[-1]))
            axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])
        else:
            axes.set_xlim(limits_of(marked, result.unit))
        style.legend_above(axes, columns=1)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(axis(f"{result.score} of one task", result.unit, result.higher_is_better))
        axes.set_ylabel("tasks")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure


def _bin_edges(scores: Array) -> Array:
    """Up to about 30 bins, fewer for few tasks; their width is a multiple of the scores' spacing.

    With 75 queries accuracies are multiples of 1/75. Bins of another width would hold sometimes one
    and sometimes two of these values, so the histogram would show gaps that are not in the data.
    """
    values = np.unique(scores.round(6))
    if len(values) == 1:
        return np.array([values[0] - 0.005, values[0] + 0.005])
    gap = float(np.diff(values).min())
    most = min(30, max(8, math.ceil(2 * len(scores) ** 0.5)))
    steps = max(1, math.ceil((values[-1] - values[0]) / gap / most))
    width = gap * steps
    bins = math.floor((values[-1] - values[0]) / width + 1e-6) + 1
    return np.asarray(values[0] - gap / 2 + width * np.arange(bins + 1))


def reliability(views: Sequence[EpisodeView], bins: int = 10) -> Figure:
    """How often predictions of each probability are right (a reliability diagram).

    All queries of ``views`` are pooled and sorted into ``bins`` equal ranges of probability; the
    area of a dot is the share of queries in its range. Raises ValueError where there is no view.
    """
    if not views:
        raise ValueError("reliability: there are no views. Give at least one.")
    probability = np.concatenate([v.probability for v in views])
    correct = np.concatenate([v.correct for v in views]).astype(float)
    index = np.minimum((probability * bins).astype(int), bins - 1)
    counts = np.bincount(index, minlength=bins)
    filled = counts > 0
    means = np.bincount(index, probability, bins)[filled] / counts[filled]
    accuracies = np.bincount(index, correct, bins)[filled] / counts[filled]
    with style.figure_style():
        figure = style.new_figure(3.7)
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.vlines(100 * means, 100 * means, 100 * accuracies, color=style.ACCENT, linewidth=1.2)
        areas = 14 + 260 * counts[filled] / counts.sum()
        axes.scatter(100 * means, 100 * accuracies, areas, color=style.ACCENT, linewidths=0)
        for name, (x, y), side in (("underconfident", (0.04, 0.94), "left"),
                                   ("overconfident", (0.97, 0.06), "right")):  # fmt: skip
            axes.text(x, y, name, transform=axes.transAxes, ha=side, va="center", fontsize=8.5,
                      color=style.MUTED)  # fmt: skip
        axes.set(xlim=(0, 103), ylim=(0, 106), xlabel="probability of the prediction (%)")
        axes.set_ylabel("right (%)")
    return figure


def projection(view: EpisodeView) -> Figure:
    """Embeddings of one task in two dimensions: the plane of largest variance (PCA).

    ◆ with a letter is a support row, ● a query in the colour of its true class, linked to the mean
    of the support rows of that class; a wrongly predicted query is a cross in a ring. Distances in
    the full feature space may differ.

    Raises ValueError where the learner has no embeddings.
    """
    if view.support_embeddings is None or view.query_embeddings is None:
        raise ValueError(
            "projection: this view has no embeddings. Give the learner a method embed, or leave "
            "the projection out."
        )
    support, query, shares = _principal_plane(view.support_embeddings, view.query_embeddings)
    size = min(1.0, 150 / len(view.query_targets)) ** 0.5  # smaller marks for many points
    with style.figure_style():
        figure = style.new_figure(4.2)
        axes = figure.subplots()
        for way in range(len(view.names)):
            colour = style.CLASS_COLOURS[way % len(style.CLASS_COLOURS)]
            shown, queries = support[view.support_targets == way], query[view.query_targets == way]
            if len(shown):
                centre = np.broadcast_to(shown.mean(0), queries.shape)
                links = np.stack([centre, queries], axis=1)
                axes.add_collection(_lines(links, colour))
            right = view.correct[view.query_targets == way]
            (x, y), s = queries[right].T, 20 * size
            axes.scatter(x, y, s, color=colour, linewidths=0, zorder=2)
            (x, y), s = queries[~right].T, 20 * size
            axes.scatter(x, y, s, color=colour, marker="x", zorder=3)
            (x, y), s = shown.T, 105 * size
            axes.scatter(x, y, s, color=colour, marker="D", edgecolors=style.PAPER, zorder=4)
            for x, y in shown:
                axes.text(x, y, letter(way), color=style.PAPER, ha="center", va="center_baseline",
                          fontsize=7.5 * size**0.5, fontweight="bold", zorder=5)  # fmt: skip
        (x, y), s = query[~view.correct].T, 75 * size
        axes.scatter(x, y, s, facecolors="none", edgecolors=style.WRONG, zorder=3)
        axes.margins(0.06)
        axes.set_xlabel(f"{100 * shares[0]:.0f}% of the variance")
        axes.set_ylabel(f"{100 * shares[1]:.0f}% of the variance")
        axes.set(xticks=[], yticks=[])
    return figure


def _lines(links: Array, colour: str) -> Any:
    from matplotlib.collections import LineCollection

    return LineCollection(list(links), colors=colour, linewidths=0.7, alpha=0.35, zorder=1)


def _principal_plane(support: Array, query: Array) -> tuple[Array, Array, Array]:
    """Support (s, 2), query (q, 2), and the share of variance (2,) along each axis."""
    from sklearn.decomposition import PCA

    points = np.concatenate([support, query]).astype(np.float64)
    points = points.reshape(len(points), -1)
    plane, shares = np.zeros((len(points), 2)), np.zeros(2)
    rank = min(2, *points.shape)
    if points.std() > 0:
        # The full solver needs no random numbers, and scikit-learn fixes the signs.
        pca = PCA(rank, svd_solver="full")
        plane[:, :rank] = pca.fit_transform(points)
        shares[:rank] = pca.explained_variance_ratio_
    return plane[: len(support)], plane[len(support) :], shares


def fitted_curve(view: RegressionView) -> Figure:
    """One regression task with single numbers: true curve, support points, predictions.

    Where the learner predicts its uncertainty, a band shows two standard deviations around its
    predictions.

    Raises ValueError where inputs or outputs are more than one number.
    """
    if not view.is_curve or view.query_inputs is None or view.support_inputs is None:
        raise ValueError(
            "fitted_curve: inputs and targets must be single numbers. "
            "Use predicted_against_true for other regression tasks."
        )
    order = np.argsort(view.query_inputs, kind="stable")
    x = view.query_inputs[order]
    with style.figure_style():
        figure = style.new_figure(3.0)
        axes = figure.subplots()
        axes.plot(x, view.query_targets[order, 0], color=style.MUTED, label="truth")
        if view.before is not None:
            axes.plot(x, view.before[order, 0], color=style.MUTED, linewidth=1.0,
                      linestyle=(0, (3, 3)), label="before")  # fmt: skip
        axes.plot(x, view.after[order, 0], color=style.ACCENT, label="adapted")
        if view.deviation is not None:
            middle, reach = view.after[order, 0], 2 * view.deviation[order, 0]
            axes.fill_between(x, middle - reach, middle + reach, color=style.ACCENT, alpha=0.15,
                              linewidth=0, label="± 2 deviations")  # fmt: skip
        axes.plot(view.support_inputs, view.support_targets[:, 0], "D", color=style.INK,
                  markersize=5, label="support")  # fmt: skip
        style.legend_above(axes, columns=4 if view.deviation is None else 3)
        axes.set(xlabel="input", ylabel="output")
    return figure


def predicted_against_true(views: Sequence[RegressionView]) -> Figure:
    """Predictions after adapting against true values; all known numbers of ``views`` are pooled.

    Raises ValueError where there is no view.
    """
    if not views:
        raise ValueError("predicted_against_true: there are no views. Give at least one.")
    true = np.concatenate([v.query_targets.ravel() for v in views])
    predicted = np.concatenate([v.after.ravel() for v in views])
    true, predicted = true[~np.isnan(true)], predicted[~np.isnan(true)]
    with style.figure_style():
        figure = style.new_figure(3.7)
        axes = figure.subplots()
        ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
        axes.plot(ends, ends, color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.scatter(true, predicted, 12, color=style.ACCENT, alpha=0.5, linewidths=0)
        axes.set(xlabel="true value", ylabel="prediction after adaptation")
    return figure
