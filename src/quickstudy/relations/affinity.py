"""What each task does for each other one: a matrix, and the clusters of tasks in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.base.words import count, first_few
from quickstudy.evaluation.strict_json import number, plain


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class Affinity:
    """What task i does for task j, for every pair of tasks; positive where it helps.

    ``what``      the measure: "gradient cosine", "lookahead affinity" or "pairwise gain".
    ``names``     of the tasks.
    ``matrix``    (tasks, tasks): entry [i, j] is what i does for j. NaN where it was not measured.
                  The diagonal says what a task does for itself; it is used nowhere.
    ``measured``  the number of measurements that the entries are means of.
    """

    what: str
    names: tuple[str, ...]
    matrix: Tensor
    measured: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.matrix, Tensor):
            raise ValueError(
                f"Affinity: the matrix must be a tensor; found {type(self.matrix).__name__}. Make "
                "it by torch.tensor."
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError(
                f"Affinity: each task needs a name of its own; found {first_few(self.names)}. "
                "Give each its own."
            )
        if self.matrix.shape != (len(self.names), len(self.names)) or len(self.names) < 2:
            raise ValueError(
                "Affinity: needs a matrix (tasks, tasks) for at least 2 tasks; found "
                f"{tuple(self.matrix.shape)} for {count(len(self.names), 'task')}. One task has no "
                "relations."
            )

    def of(self, giver: str, receiver: str) -> float:
        """What one task does for another; ValueError for an unknown name."""
        return float(self.matrix[self._place(giver), self._place(receiver)])

    @property
    def given(self) -> dict[str, float]:
        """What each task does for the others, the mean: least for those that harm most."""
        return self._means(1)

    @property
    def received(self) -> dict[str, float]:
        """What the others do for each task, the mean."""
        return self._means(0)

    def clusters(self, k: int | None = None) -> tuple[tuple[str, ...], ...]:
        """The tasks in clusters that are alike, the largest first.

        By average linkage on the distance ``max - (A + A^T) / 2``, by scikit-learn.

        ``k``  the number of clusters; by default the one of the best silhouette, from 2 to
               tasks - 1. A silhouette cannot tell one cluster from several: look at the matrix.

        Raises ValueError for a k that is not from 1 to the number of tasks, and for a matrix with
        entries that were not measured.
        """
        tasks = len(self.names)
        if k is not None and not 1 <= k <= tasks:
            raise ValueError(
                f"clusters: k must be from 1 to {tasks}, the number of tasks; found {k}."
            )
        distance = self.distances()
        if k is None:
            k = _best_number(distance)
        labels = _labels(distance, k)
        found = [tuple(n for n, of in zip(self.names, labels, strict=True) if of == c)
                 for c in range(k)]  # fmt: skip
        return tuple(sorted(found, key=lambda names: (-len(names), self.names.index(names[0]))))

    def distances(self) -> NDArray[np.float64]:
        """(tasks, tasks), symmetric, zeros on the diagonal: low between tasks that help each other.

        Raises ValueError where an entry was not measured.
        """
        both = ((self.matrix + self.matrix.T) / 2).double().numpy()
        others = ~np.eye(len(self.names), dtype=bool)
        if np.isnan(both[others]).any():
            missing = int(np.isnan(both[others]).sum()) // 2
            raise ValueError(
                f"Affinity: every pair must have been measured; found {missing} without. Give "
                "pairwise_gains a larger budget."
            )
        distance = both[others].max() - both
        distance[~others] = 0.0
        return np.asarray(distance)

    def __str__(self) -> str:
        width = max(map(len, self.names))
        head = f"{self.what} of row for column, mean of {count(self.measured, 'measurement')}"
        rows = [
            f"  {name:<{width}}  " + "  ".join(
                "    –" if i == j or math.isnan(value) else f"{value:+.2f}"
                for j, value in enumerate(row)
            )
            for i, (name, row) in enumerate(zip(self.names, self.matrix.tolist(), strict=True))
        ]  # fmt: skip
        return "\n".join([head, *rows])

    def to_json(self) -> dict[str, Any]:
        """As strict JSON."""
        return {"what": self.what, "names": list(self.names), "measured": self.measured,
                "matrix": plain(self.matrix.tolist())}  # fmt: skip

    @staticmethod
    def from_json(values: dict[str, Any]) -> Affinity:
        """What :meth:`to_json` gave."""
        matrix = torch.tensor(number(values["matrix"]), dtype=torch.float64)
        return Affinity(values["what"], tuple(values["names"]), matrix, values["measured"])

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(
                f"Affinity: no task called {name!r}; found {', '.join(self.names)}. Give one of "
                "these."
            )
        return self.names.index(name)

    def _means(self, axis: int) -> dict[str, float]:
        matrix = self.matrix.clone().fill_diagonal_(torch.nan)
        return dict(zip(self.names, matrix.nanmean(axis).tolist(), strict=True))


def _labels(distance: NDArray[np.float64], k: int) -> Sequence[int]:
    from sklearn.cluster import AgglomerativeClustering

    model = AgglomerativeClustering(k, metric="precomputed", linkage="average")
    return [int(label) for label in model.fit_predict(distance)]


def _best_number(distance: NDArray[np.float64]) -> int:
    from sklearn.metrics import silhouette_score

    tasks = len(distance)
    if tasks < 4 or not distance.any():  # too few for a silhouette, or all alike
        return 1
    scores = {
        k: silhouette_score(distance, _labels(distance, k), metric="precomputed")
        for k in range(2, tasks)
    }
    return max(scores, key=lambda k: scores[k])
