"""Extractive question answering: which of the words of a text answer, as first and last place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from quickstudy.answers.checks import check_count, check_ids
from quickstudy.base.modules import values_can_be_read
from quickstudy.core import Answer, Examples, Predictor, Score, Statistic

LONGEST = 10
"""Words of an answer at most; longer spans are never predicted."""


@dataclass(frozen=True)
class _SpanScore(Score):
    """The mean over rows of a score of the best span of at most ``longest`` places."""

    longest: int = LONGEST
    unit: ClassVar[str] = "%"

    def statistic(self, predictions: Tensor, query: Examples) -> Statistic:
        """``score`` and ``total``: the weighted sum over rows with a known span, and its weight."""
        known = (query.targets >= 0).all(-1)
        weights = query.weights * known.to(query.weights.dtype)
        found = best_spans(predictions, self.longest)
        scores = self._row_scores(found, query.targets.clamp_min(0)).to(weights.dtype)
        return {"score": (weights * scores).sum(-1), "total": weights.sum(-1)}

    def value(self, statistic: Statistic) -> Tensor:
        """In [0, 1]."""
        return statistic["score"] / statistic["total"]

    def _row_scores(self, found: Tensor, true: Tensor) -> Tensor:
        """(n,) from spans (n, 2)."""
        raise NotImplementedError


@dataclass(frozen=True)
class SpanF1(_SpanScore):
    """F1 of the places in the predicted and in the true span; the mean over rows."""

    name: ClassVar[str] = "F1"

    def _row_scores(self, found: Tensor, true: Tensor) -> Tensor:
        return overlap_f1(found, true)


@dataclass(frozen=True)
class SpanExactMatch(_SpanScore):
    """The share of rows whose predicted span is the true one."""

    name: ClassVar[str] = "exact match"

    def _row_scores(self, found: Tensor, true: Tensor) -> Tensor:
        return (found == true).all(-1)


@dataclass(frozen=True)
class Spans(Answer):
    """A span of places in a text: extractive question answering.

    Targets (n, 2) integer places of the first and of the last word of the answer, counted from 0,
    -1 where unknown; scores leave out rows of which an end is unknown. Predictions (n, length, 2):
    for each place of the text the logit that the answer begins there, and that it ends there;
    places beyond the text must have logits far below the others. The loss is the mean of two
    cross-entropies over places. The predicted span has the largest sum of its two logits
    (:func:`best_spans`).

    ``longest``  words of a predicted span at most.

    Scores are F1, of the *places* in the predicted and the true span, and exact match. SQuAD's F1
    compares bags of words instead, so that the same word elsewhere in the text counts there too.

    Reference: Rajpurkar, Zhang, Lopyrev and Liang (2016), SQuAD, for the scores; first and last
    place by two softmaxes as in Wang and Jiang (2017), Machine Comprehension Using Match-LSTM and
    Answer Pointer, the boundary model.

    Raises ValueError for ``longest`` below 1.
    """

    longest: int = LONGEST
    kind: ClassVar[str] = "spans"
    guess_name: ClassVar[str] = "a span of the support"
    ragged: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count("Spans", "longest", self.longest, 1)

    @property
    def outputs(self) -> int:
        """2 for each place: whether the answer begins there, and whether it ends there."""
        return 2

    def check(self, targets: Any, what: str = "targets") -> None:
        """Integer places (n, 2)."""
        remedy = "Give the places of the first and of the last word, -1 where unknown."
        check_ids(targets, what, "a task of spans", ("n", "2"), remedy)
        if targets.shape[1] != 2:
            raise ValueError(
                f"{what}: a span is two places, its first and its last word; found targets of "
                f"shape {tuple(targets.shape)}. {remedy}"
            )

    def check_values(self, targets: Tensor, what: str = "targets") -> None:
        """No span that ends before it begins."""
        first, last = targets.unbind(-1)
        wrong = ((first > last) & (last >= 0)).flatten()
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"{what}: a span must not end before it begins; found "
                f"{targets.flatten(0, -2)[row].tolist()} in row {row}. Give the places of the "
                "first and of the last word, -1 where unknown."
            )

    def known(self, targets: Tensor) -> Tensor:
        """(n, 2): which ends are known."""
        return targets >= 0

    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """-log softmax over places at the true one, for both ends: (n, 2)."""
        refuse_beyond(targets, predictions.shape[-2])
        chosen = targets.long().unsqueeze(-2)
        return -predictions.log_softmax(-2).gather(-2, chosen).squeeze(-2)

    def encode(self, targets: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The two places (n, 2) as reals, zeros where unknown."""
        return targets.clamp_min(0).to(dtype or torch.get_default_dtype())

    def decode(self, predictor: Predictor, inputs: Any) -> Tensor:
        """The spans (n, 2) with the largest sum of logits."""
        return best_spans(predictor(inputs), self.longest)

    def prediction_shape(self, targets: Tensor) -> tuple[int | None, ...]:
        """(n, length, 2), with any length."""
        return len(targets), None, 2

    @property
    def scores(self) -> tuple[Score, ...]:
        """F1 and exact match."""
        return SpanF1(self.longest), SpanExactMatch(self.longest)

    def guesses(self, support: Examples, query: Examples) -> list[Tensor]:
        """The span of each support row that counts, the same for every query."""
        rows = (support.weights > 0) & (support.targets >= 0).all(-1)
        length = 1 + int(torch.cat([support.targets, query.targets]).max().clamp_min(0))
        made = []
        for span in support.targets[rows].tolist():
            logits = support.weights.new_zeros(length, 2)
            logits[span[0], 0] = logits[span[1], 1] = 1.0
            made.append(logits.expand(len(query.weights), -1, -1))
        return made


def refuse_beyond(targets: Tensor, length: int) -> None:
    """ValueError for a span beyond the ``length`` places of its text, where values can be read."""
    if not targets.numel() or not values_can_be_read(targets):
        return
    most = int(targets.max())
    if most >= length:
        raise ValueError(
            f"targets: a span must be within the {length} places of its text, 0 to {length - 1}; "
            f"found {most}. Leave such rows out, or give longer texts."
        )


def best_spans(predictions: Tensor, longest: int) -> Tensor:
    """The spans (..., 2) of at most ``longest`` places with the largest sum of two logits.

    ``predictions``  (..., length, 2): the logits of each place as first and as last one.

    >>> import torch
    >>> best_spans(torch.tensor([[[0.0, 1.0], [3.0, 0.0], [0.0, 2.0]]]), longest=2)
    tensor([[1, 2]])
    """
    first, last = predictions.unbind(-1)
    length = first.shape[-1]
    place = torch.arange(length, device=first.device)
    words = place - place.unsqueeze(-1)  # (first, last): the last place less the first one
    sums = first.unsqueeze(-1) + last.unsqueeze(-2)
    sums = torch.where((words >= 0) & (words < longest), sums, -torch.inf)
    best = sums.flatten(-2).argmax(-1)
    return torch.stack([best // length, best % length], -1)


def overlap_f1(found: Tensor, true: Tensor) -> Tensor:
    """F1 (...,) of the places in two spans (..., 2): 2 |both| / (|found| + |true|).

    >>> import torch
    >>> overlap_f1(torch.tensor([3, 4]), torch.tensor([4, 6]))
    tensor(0.4000)
    """
    both = torch.minimum(found[..., 1], true[..., 1]) - torch.maximum(found[..., 0], true[..., 0])
    sizes = (found[..., 1] - found[..., 0]) + (true[..., 1] - true[..., 0]) + 2
    return 2 * (both + 1).clamp_min(0) / sizes
