"""The support rows nearest to a query: by attention, or by distance of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quickstudy.reports.view_types import Array, EpisodeView


@dataclass(frozen=True)
class Nearest:
    """The support rows nearest to one query, nearest first; rows are numbered as in the view.

    ``query``    row of the query.
    ``support``  (m,) rows of the support set.
    ``by``       (m,) the values that rank them: shares of the query's attention where the learner
                 has attention, else Euclidean distances of features.
    """

    query: int
    support: Array
    by: Array


def nearest(
    shown: EpisodeView, shares: Array | None = None, queries: int = 6, neighbours: int = 3
) -> tuple[Nearest, ...]:
    """The nearest support rows of some queries: wrong predictions first, the most confident on top.

    Where fewer than ``queries`` are wrong, the least confident right predictions follow.

    ``shares``  (q, s) attention; support rows with share 0 are left out. None ranks by Euclidean
                distances of features, even where the learner itself uses another distance; a
                learner without features then has no nearest rows.
    """
    by = _distances(shown) if shares is None else shares
    if by is None:
        return ()
    order = np.where(shown.correct, shown.probability, -shown.probability)
    found = []
    for query in np.lexsort((order, shown.correct))[:queries]:
        distance = by[query] if shares is None else -by[query]
        rows = np.argsort(distance, kind="stable")[:neighbours]
        if shares is not None:
            rows = rows[by[query, rows] > 0]
        found.append(Nearest(int(query), rows, by[query, rows]))
    return tuple(one for one in found if len(one.support))


def _distances(shown: EpisodeView) -> Array | None:
    """(q, s) Euclidean distances of features; None without features."""
    if shown.support_embeddings is None or shown.query_embeddings is None:
        return None
    support, query = (
        features.astype(np.float64).reshape(len(features), -1)
        for features in (shown.support_embeddings, shown.query_embeddings)
    )
    return np.asarray(np.linalg.norm(query[:, None] - support, axis=-1))
