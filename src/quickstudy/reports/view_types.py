"""A learner's predictions for one task, as arrays: one type for each kind of picture.

Rows of weight 0 and rows without a known target are left out. ``task`` is the name of the task, ""
for none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class EpisodeView:
    """A classification task and a learner's predictions; s support rows, q query rows.

    ``support_images``      (s, channels, height, width) in [0, 1], or None where not images.
    ``query_images``        (q, channels, height, width), likewise.
    ``support_targets``     (s,) ways.
    ``query_targets``       (q,) ways.
    ``predicted``           (q,) the most probable way.
    ``probability``         (q,) the probability of that way.
    ``support_embeddings``  (s, d) features of the rows, or None.
    ``query_embeddings``    (q, d), likewise.
    ``names``               a name per way.
    """

    support_images: Array | None
    query_images: Array | None
    support_targets: Array
    query_targets: Array
    predicted: Array
    probability: Array
    support_embeddings: Array | None
    query_embeddings: Array | None
    names: tuple[str, ...]
    task: str = ""

    @property
    def correct(self) -> Array:
        """(q,): whether the prediction for each query is right."""
        return np.asarray(self.predicted == self.query_targets)

    @property
    def confusion(self) -> Array:
        """(ways, ways): how many queries of each true way (row) were predicted as each (column)."""
        counts = np.zeros((len(self.names), len(self.names)), dtype=np.int64)
        np.add.at(counts, (self.query_targets, self.predicted), 1)
        return counts


@dataclass(frozen=True)
class RegressionView:
    """A regression task and a learner's predictions; s support rows, q query rows, d outputs.

    ``support_targets``  (s, d), NaN where a number is unknown.
    ``query_targets``    (q, d), likewise.
    ``before``           (q, d) predictions after adapting to an empty support set (every weight
                         0); None for a learner that cannot predict then.
    ``after``            (q, d) predictions after adapting to the support set.
    ``deviation``        (q, d) standard deviation that the learner predicts, or None.
    ``support_inputs``   (s,) where inputs are single numbers, else None.
    ``query_inputs``     (q,), likewise.
    """

    support_targets: Array
    query_targets: Array
    before: Array | None
    after: Array
    support_inputs: Array | None
    query_inputs: Array | None
    deviation: Array | None = None
    task: str = ""

    @property
    def is_curve(self) -> bool:
        """Whether inputs and targets are single numbers, so that the task is drawn as a curve."""
        return self.query_inputs is not None and self.query_targets.shape[1] == 1

    @property
    def error(self) -> float:
        """The mean squared error over known numbers."""
        return float(np.nanmean((self.after - self.query_targets) ** 2))


@dataclass(frozen=True)
class LabelsView:
    """A multi-label task and a learner's predictions; s support rows, q query rows, k labels.

    ``support_targets``  (s, k): 1 for yes, 0 for no, NaN where unknown.
    ``query_targets``    (q, k), likewise.
    ``probability``      (q, k) predicted probability of yes.
    ``names``            a name per label.
    """

    support_targets: Array
    query_targets: Array
    probability: Array
    names: tuple[str, ...]
    task: str = ""


@dataclass(frozen=True)
class PixelsView:
    """A segmentation task and a learner's predictions; s support rows, q query rows.

    ``support_images``   (s, channels, height, width) in [0, 1], or None where not images.
    ``query_images``     (q, channels, height, width), likewise.
    ``support_targets``  (s, height, width) class ids, -1 where unknown.
    ``query_targets``    (q, height, width), likewise.
    ``predicted``        (q, height, width) the most probable classes.
    ``names``            a name per class.
    """

    support_images: Array | None
    query_images: Array | None
    support_targets: Array
    query_targets: Array
    predicted: Array
    names: tuple[str, ...]
    task: str = ""


@dataclass(frozen=True)
class TokensView:
    """Token sequences and a learner's predictions.

    ``query_targets``  (q, length) token ids, -1 where unknown and after the end.
    ``predicted``      (q, length) predicted tokens, -1 after the end and where they do not count
                       (:func:`quickstudy.answers.tokens.comparable`).
    ``by_position``    whether predictions belong to positions (tags); else rows are generated from
                       left to right and may be shifted relative to the targets.
    ``names``          a name per token of the vocabulary.
    """

    query_targets: Array
    predicted: Array
    by_position: bool
    names: tuple[str, ...]
    task: str = ""


@dataclass(frozen=True)
class SpansView:
    """Texts of which a span answers, and a learner's predictions.

    ``true``       (q, 2) the places of the answer's first and last word.
    ``predicted``  (q, 2), likewise.
    ``texts``      the texts, with a space between words; None where they are not known.
    """

    true: Array
    predicted: Array
    texts: tuple[str, ...] | None
    task: str = ""


@dataclass(frozen=True)
class Objects:
    """The objects of one picture.

    ``boxes``       (m, 4) left, top, right and bottom, as shares of the picture.
    ``classes``     (m,) class ids, -1 where unknown.
    ``confidence``  (m,) of predicted objects; None for true ones.
    """

    boxes: Array
    classes: Array
    confidence: Array | None = None


@dataclass(frozen=True)
class BoxesView:
    """A detection task and a learner's predictions; q query rows.

    ``query_images``  (q, channels, height, width) in [0, 1], or None where not images.
    ``true``          the true objects of each query.
    ``predicted``     the predicted objects of each query, the most confident first.
    ``names``         a name per class.
    """

    query_images: Array | None
    true: tuple[Objects, ...]
    predicted: tuple[Objects, ...]
    names: tuple[str, ...]
    task: str = ""


@dataclass(frozen=True)
class GeneralView:
    """A task with another kind of answer, for which there is no picture.

    ``losses``  (q,) the loss of each query.
    ``scores``  (q,) the first score of each query by itself, NaN where it has none; None where
                single queries never have that score.
    ``note``    text for the report.
    """

    losses: Array
    scores: Array | None
    note: str
    task: str = ""


View = (
    EpisodeView
    | RegressionView
    | LabelsView
    | PixelsView
    | TokensView
    | SpansView
    | BoxesView
    | GeneralView
)
