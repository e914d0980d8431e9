"""Regression: real numbers for each row, or for each position in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from quickstudy.answers.checks import check_count, equal_but_for
from quickstudy.base.known import zero_if_unknown
from quickstudy.base.trees import dtype_and_shape
from quickstudy.core import Answer, Examples, Score, Statistic


@dataclass(frozen=True)
class MeanSquaredError(Score):
    """The mean of (prediction - target)² over known numbers, weighted; lower is better."""

    name: ClassVar[str] = "mse"
    higher_is_better: ClassVar[bool] = False

    def statistic(self, predictions: Tensor, query: Examples) -> Statistic:
        """``error`` and ``total``: the weighted sum of squared errors, and the total weight."""
        known = ~query.targets.isnan()
        squares = (predictions - query.targets.nan_to_num()).square().where(known, 0.0)
        per_row = squares.flatten(1).mean(1), known.to(squares.dtype).flatten(1).mean(1)
        return {
            name: (query.weights * rows).sum(-1)
            for name, rows in zip(("error", "total"), per_row, strict=True)
        }

    def value(self, statistic: Statistic) -> Tensor:
        """In the squared unit of the targets."""
        return statistic["error"] / statistic["total"]


@dataclass(frozen=True)
class Reals(Answer):
    """``d`` real numbers for each row, or for each position in a row.

    Targets (n, d), or (n, ..., d), for example depth maps (n, height, width, 1); predictions of the
    same shape. Loss and score are the squared error.

    ``missing``  whether single numbers may be unknown (NaN). Must be declared, because code under
                 ``vmap`` cannot branch on values, and some learners then solve per output.

    Raises ValueError for d < 1.
    """

    d: int = 1
    missing: bool = False
    kind: ClassVar[str] = "reals"
    guess_name: ClassVar[str] = "mean of the support"
    loss_is_score: ClassVar[bool] = True
    squared_error: ClassVar[bool] = True
    """Its loss is that of a Gaussian, but for its variance; other answers have a cross-entropy."""

    def __post_init__(self) -> None:
        check_count("Reals", "d", self.d, 1)

    @property
    def outputs(self) -> int:
        """d."""
        return self.d

    def check(self, targets: Any, what: str = "targets") -> None:
        """Floating-point targets (n, ..., d)."""
        real = isinstance(targets, Tensor) and targets.is_floating_point()
        if real and targets.ndim >= 2 and targets.shape[-1] == self.d:
            return
        raise ValueError(
            f"{what}: regression needs real targets (n, {self.d}); found "
            f"{dtype_and_shape(targets)}. {_remedy(targets)}"
        )

    def check_values(self, targets: Tensor, what: str = "targets") -> None:
        """No NaN unless ``missing`` is declared."""
        if not self.missing and bool(targets.isnan().any()):
            raise ValueError(
                f"{what}: Reals({self.d}) needs known numbers, but some are NaN. Where they are "
                f"unknown, declare it: qs.regression({self.d}, missing=True)."
            )

    def known(self, targets: Tensor) -> Tensor:
        """(n, ..., d): which numbers are known."""
        if self.missing:
            return ~targets.isnan()
        return torch.ones_like(targets, dtype=torch.bool)

    def fill(self, targets: Tensor) -> Tensor:
        """Zeros for unknown numbers."""
        return zero_if_unknown(targets) if self.missing else targets

    def loss_and_share(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared difference over the known numbers of each row, and their share."""
        if self.missing:
            return super().loss_and_share(predictions, targets)
        losses = self.element_losses(predictions, targets).flatten(1).mean(-1)
        return losses, torch.ones_like(losses)

    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """(prediction - target)²."""
        return (predictions - targets).square()

    def encode(self, targets: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The numbers, zeros where unknown."""
        return self.fill(targets).to(dtype or torch.get_default_dtype())

    def prediction_shape(self, targets: Tensor) -> tuple[int, ...]:
        """The shape of the targets."""
        return tuple(targets.shape)

    @property
    def scores(self) -> tuple[Score, ...]:
        """Mean squared error."""
        return (MeanSquaredError(),)

    def join(self, other: Answer) -> Answer | None:
        """The same ``d``, with ``missing`` if either has it."""
        if not equal_but_for("missing", self, other):
            return None
        return self if self.missing else other

    def guesses(self, support: Examples, query: Examples) -> list[Tensor]:
        """The support's weighted mean of each number, in every row; 0 where none is known."""
        known = ~support.targets.isnan()
        weights = support.weights.reshape(-1, *[1] * (known.ndim - 1)) * known
        totals = (weights * zero_if_unknown(support.targets)).sum(0)
        means = totals / weights.sum(0).clamp_min(torch.finfo(totals.dtype).tiny)
        return [means.expand(query.targets.shape)]


def _remedy(targets: Any) -> str:
    if not isinstance(targets, Tensor) or not targets.is_floating_point():
        return "Use real targets, or qs.classification(ways)."
    if targets.ndim == 1:
        return "Write targets[:, None] for one output."
    return f"Give as many targets as outputs: qs.regression({targets.shape[-1]})."
