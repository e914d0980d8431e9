"""The support rows that a query's answer rests on most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quickstudy.reports.view_types import Array, EpisodeView


@dataclass(frozen=True)
class Nearest:
    """The support rows nearest to one query, nearest first; rows of the view.

    ``query``    row of the query.
    ``support``  (m,) rows of the support set.
    ``by``       (m,) what ranks them: shares of the query's attention where the learner attends,
                 else Euclidean distances of features.
    """

    query: int
    support: Array
    by: Array


def nearest(
    shown: EpisodeView, shares: Array | None = None, queries: int = 6, neighbours: int = 3
) -> tuple[Nearest, ...]:
    """The nearest support rows of some queries: mistakes first, the surest of them on top.

    Where mistakes are fewer than ``queries``, the right answers given with most doubt follow.

    ``shares``  (q, s) attention, by which the learner itself says which rows are near; rows without
                any are left out. None: by Euclidean distances of features, whatever the learner
                compares by, and no rows for a learner without features.
    """
    by = _distances(shown) if shares is None else shares
    if by is None:
        return ()
    doubt = np.where(shown.correct, shown.probability, -shown.probability)
    found = []
    for query in np.lexsort((doubt, shown.correct))[:queries]:
        farness = by[query] if shares is None else -by[query]
        rows = np.argsort(farness, kind="stable")[:neighbours]
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
