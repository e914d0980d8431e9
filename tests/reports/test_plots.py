from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from report_samples import result_with

from quickstudy.evaluation.results import Evaluation
from quickstudy.reports import plots, style
from quickstudy.reports.view_types import EpisodeView, RegressionView


def curve(inputs: np.ndarray | None) -> RegressionView:
    y = np.linspace(0, 1, 5)[:, None]
    return RegressionView(y[:2], y, None, y + 0.1, None if inputs is None else inputs[:2], inputs)


def test_svg_is_well_formed_themed_and_the_same_each_time(
    metrics: list[dict[str, float]], square_views: list[EpisodeView]
) -> None:
    first, again = (
        style.to_svg(plots.projection(square_views[0]), "one", "A & <b>") for _ in range(2)
    )
    assert first == again
    root = ElementTree.fromstring(first)
    assert root.attrib["aria-label"] == "A & <b>"
    assert "width" not in root.attrib
    assert "var(--ink)" in style.to_svg(plots.learning_curves(metrics, "accuracy", "%"), "two", "")
    assert not re.search("|".join([style.INK, style.ACCENT, style.WRONG, style.LINE]), first)
    assert "<metadata" not in first
    assert "<text" in first, "text must stay text"


def test_ids_of_two_figures_differ(square_views: list[EpisodeView]) -> None:
    one, two = (style.to_svg(plots.reliability(square_views), p, "") for p in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:url\(#|href="#)([^")]*)', one))
    assert used <= ids[0], "every reference must find its target"
    with pytest.raises(ValueError, match="prefix must be letters"):
        style.to_svg(plots.reliability(square_views), 'x" onload="', "")


def test_figures_do_not_change_matplotlib_settings(square_views: list[EpisodeView]) -> None:
    before = dict(matplotlib.rcParams)
    style.to_svg(plots.projection(square_views[0]), "one", "")
    assert dict(matplotlib.rcParams) == before


def test_no_accuracy_lies_on_a_bin_edge() -> None:
    for queries, tasks in ((75, 600), (5, 40), (300, 1000)):
        noise = np.random.default_rng(queries)
        scores = np.float32(noise.binomial(queries, 0.8, tasks) / np.float32(queries))
        edges = plots._bin_edges(scores.astype(np.float64))
        assert len(edges) <= 33
        counts, _ = np.histogram(scores, edges)
        assert counts.sum() == tasks, "no score may fall outside"
        widths = np.diff(edges) * queries
        np.testing.assert_allclose(widths, widths.round(), atol=1e-2)
        nearest = np.abs(np.unique(scores)[:, None] - edges).min()
        assert nearest > 0.4 / queries, "no score may lie on an edge"


def test_equal_scores_are_drawn(make_evaluation: Callable[..., Evaluation]) -> None:
    plots.score_distribution(make_evaluation(torch.ones(10)).main)
    plots.score_distribution(make_evaluation(torch.zeros(10)).main)


def test_scores_that_are_not_numbers_are_left_out() -> None:
    scores = torch.tensor([0.2, 0.4, torch.nan, torch.inf, 0.4])
    bars = plots.score_distribution(result_with(scores, "mse")).axes[0].patches
    assert sum(bar.get_height() for bar in bars if bar.get_height() >= 1) >= 3


def test_unknown_numbers_are_not_drawn() -> None:
    known = curve(None)
    targets = known.query_targets.copy()
    targets[1] = np.nan
    dots = plots.predicted_against_true([replace(known, query_targets=targets)])
    assert len(np.asarray(dots.axes[0].collections[0].get_offsets())) == 4


def test_missing_values_of_the_log_are_left_out() -> None:
    rows = [{"step": s, "loss": 1.0, "score": float("nan")} for s in (1, 2, 3)]
    assert not plots.learning_curves(rows).axes[0].lines


def test_a_single_logged_value_is_marked() -> None:
    (line,) = plots.learning_curves([{"step": 4, "loss": 1.0}]).axes[1].lines
    assert line.get_marker() == "o"


def test_running_mean_is_neither_shifted_nor_padded() -> None:
    rows = [{"step": s, "loss": 1.0 + 0.01 * s, "score": 0.01 * s} for s in range(1, 101)]
    figure = plots.learning_curves(rows, "accuracy", "%")
    smooth = figure.axes[1].lines[-1].get_ydata()
    inner: Any = np.asarray(smooth)[5:-5]
    np.testing.assert_allclose(inner, [row["loss"] for row in rows][5:-5], atol=1e-9)


def test_reliability_dots_are_means_of_their_bin(square_views: list[EpisodeView]) -> None:
    view = replace(
        square_views[0],
        query_targets=np.array([0, 0, 0, 0]),
        predicted=np.array([0, 1, 0, 0]),
        probability=np.array([0.61, 0.69, 1.0, 0.98]),
    )
    dots = plots.reliability([view]).axes[0].collections[-1].get_offsets()
    np.testing.assert_allclose(np.asarray(dots), [[65, 50], [99, 100]], atol=1e-6)


def test_principal_plane_keeps_distances_of_flat_data() -> None:
    flat = np.random.default_rng(0).normal(size=(12, 2)) @ np.eye(2, 6)
    support, query, shares = plots._principal_plane(flat[:4], flat[4:])
    assert shares.sum() == pytest.approx(1)
    both = np.concatenate([support, query])
    distance = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (flat, both)]
    np.testing.assert_allclose(distance[0], distance[1], atol=1e-9)


def test_embeddings_of_one_number_or_all_equal_are_drawn(square_views: list[EpisodeView]) -> None:
    view = square_views[0]
    s, q = len(view.support_targets), len(view.query_targets)
    for width, value in ((1, 1.0), (5, 0.0)):
        plots.projection(
            replace(
                view,
                support_embeddings=value * np.arange(s * width, dtype=float).reshape(s, width),
                query_embeddings=value * np.arange(q * width, dtype=float).reshape(q, width),
            )
        )


def test_curves_and_scatter() -> None:
    inputs = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    drawn = plots.fitted_curve(curve(inputs)).axes[0].lines[0]
    assert np.asarray(drawn.get_xdata()).tolist() == [1, 2, 3, 4, 5], "curves are sorted by input"
    plots.predicted_against_true([curve(None)])
    with pytest.raises(ValueError, match="predicted_against_true"):
        plots.fitted_curve(curve(None))


def test_a_band_shows_the_predicted_standard_deviation() -> None:
    inputs, deviations = np.array([3.0, 1.0, 2.0, 5.0, 4.0]), np.array([0.3, 0.1, 0.2, 0.5, 0.4])
    view = replace(curve(inputs), deviation=deviations[:, None])
    (band,) = plots.fitted_curve(view).axes[0].collections
    edges = np.asarray(band.get_paths()[0].vertices)
    for x, y, deviation in zip(inputs, view.after[:, 0], deviations, strict=True):
        at = edges[edges[:, 0] == x, 1]
        assert np.allclose([at.min(), at.max()], [y - 2 * deviation, y + 2 * deviation])


def test_missing_data_is_an_error(square_views: list[EpisodeView]) -> None:
    with pytest.raises(ValueError, match="no row with a loss"):
        plots.learning_curves([{"step": 1, "validation": 0.5}])
    with pytest.raises(ValueError, match="found AP50, pooled over 9 tasks"):
        plots.score_distribution(result_with(torch.rand(9), "AP50", pooled=True))
    with pytest.raises(ValueError, match="found mse, not finite in all of 9 tasks"):
        plots.score_distribution(result_with(torch.full((9,), torch.nan), "mse"))
    with pytest.raises(ValueError, match="no views"):
        plots.reliability([])
    with pytest.raises(ValueError, match="no views"):
        plots.predicted_against_true([])
    with pytest.raises(ValueError, match="no embeddings"):
        plots.projection(replace(square_views[0], query_embeddings=None))
