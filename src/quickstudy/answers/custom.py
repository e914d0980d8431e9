"""Tasks with a loss and a score of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from quickstudy.answers.checks import check_count
from quickstudy.base.explain import explaining
from quickstudy.base.known import is_known, mean_of_known, zero_if_unknown
from quickstudy.base.shown import shown
from quickstudy.base.trees import leaves, map_tree
from quickstudy.core import Answer, Examples, Score, Statistic

Loss = Callable[[Any, Any], Tensor]
"""(predictions, targets) -> one loss for each row, (n,), or for each element of the targets."""

ScoreFunction = Callable[[Any, Any], Tensor]
"""(predictions, targets) -> one score for each row, (n,), or for each element of the targets."""


@dataclass(frozen=True)
class MeanOf(Score):
    """The weighted mean of ``function`` over known elements."""

    function: ScoreFunction
    name: str = ""  # type: ignore[misc]  # other scores have it as a ClassVar
    higher_is_better: bool = True  # type: ignore[misc]

    def statistic(self, predictions: Any, query: Examples) -> Statistic:
        """``sum`` and ``total``."""
        targets = map_tree(zero_if_unknown, query.targets)
        values = _called("score", self.function, predictions, targets)
        known = _known_like(values, query.targets)
        means, share = mean_of_known(values.where(known, 0.0), known)
        weights = query.weights * share
        return {"sum": (weights * means).sum(-1), "total": weights.sum(-1)}

    def value(self, statistic: Statistic) -> Tensor:
        """In the function's unit."""
        return statistic["sum"] / statistic["total"]


@dataclass(frozen=True)
class Custom(Answer):
    """Predictions of any width, with a loss and a score of the user's own.

    ``width``     of the layer that gives predictions.
    ``function``  (predictions, targets) -> losses: one for each row, (n,), or, where targets are
                  one tensor, one for each of its elements. Unknown elements (NaN, -1) of the
                  targets are passed as zeros and their losses left out; with one loss per row, only
                  rows that are known in full, in every leaf of a tree, count.
    ``given_score``  the :class:`~quickstudy.core.Score`; by default the mean loss, lower is
                  better.

    :func:`quickstudy.spec` makes them.
    """

    width: int
    function: Loss
    given_score: Score | None = None
    kind: ClassVar[str] = "custom"

    def __post_init__(self) -> None:
        check_count("spec", "outputs", self.width, 1)
        scored = self.given_score.function if isinstance(self.given_score, MeanOf) else None
        for what, function in (("loss", self.function), ("score", scored or self.function)):
            if not callable(function) or isinstance(function, type):
                instance = isinstance(function, type)
                raise ValueError(
                    f"spec: {what} must be a function (predictions, targets) -> one number for "
                    f"each row; found {shown(function)}. "
                    + ("Give an instance of that class." if instance else "Give a function.")
                )

    @property
    def outputs(self) -> int:
        """The width."""
        return self.width

    def check(self, targets: Any, what: str = "targets") -> None:
        """Any tensors: the loss must check their values itself."""
        if not all(isinstance(leaf, Tensor) for leaf in leaves(targets)):
            raise ValueError(f"{what}: targets must be tensors, or a tree of them.")

    def known(self, targets: Any) -> Tensor:
        """(n, ...): which elements are known; for a tree (n,), which rows are, in every leaf."""
        return _known(targets)

    def element_losses(self, predictions: Any, targets: Any) -> Tensor:
        """The function's losses; ValueError unless there is one per row or per element."""
        return _called("loss", self.function, predictions, targets)

    def loss_and_share(self, predictions: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """One loss per row, over its known elements, and their share."""
        losses = self.element_losses(predictions, self.fill(targets))
        known = _known_like(losses, targets)
        return mean_of_known(losses.where(known, 0.0), known)

    def encode(self, targets: Any, dtype: torch.dtype | None = None) -> Tensor:
        """The targets as reals, zeros where unknown; ValueError for a tree."""
        if not isinstance(targets, Tensor):
            raise ValueError(
                "spec: targets that are a tree have no encoding for learners that read targets. "
                "Write a subclass of Answer with its own encode."
            )
        numbers: Tensor = self.fill(targets).to(dtype or torch.get_default_dtype())
        return numbers if numbers.ndim > 1 else numbers.unsqueeze(-1)

    def prediction_shape(self, targets: Any) -> Any:
        """(n, ..., width), any number of dimensions in between; or any tree with n rows."""
        return (len(next(leaves(targets))), ..., self.width)

    @property
    def scores(self) -> tuple[Score, ...]:
        """The one given, or the loss."""
        return (self.given_score or MeanOf(self.function, "loss", higher_is_better=False),)


def _called(what: str, function: Loss, predictions: Any, targets: Any) -> Tensor:
    """The values of a function of the user's; ValueError where it fails, or gives wrong ones."""
    with explaining(f"spec: {what}", {"predictions": predictions, "targets": targets}):
        values = function(predictions, targets)
    _check_shape(what, values, targets)
    if not values.is_floating_point():
        raise ValueError(
            f"spec: {what} must give real numbers; found {values.dtype}. Turn them into reals "
            "(.float()); a loss must also have a gradient."
        )
    return values


def _check_shape(what: str, values: Any, targets: Any) -> None:
    """ValueError unless there is one value per row or, for a single tensor, per element."""
    rows = tuple(next(leaves(targets)).shape[:1])
    elements = tuple(targets.shape) if isinstance(targets, Tensor) else rows
    found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if found not in (rows, elements):
        each = f"each row, {rows}" + ("" if elements == rows else f", or each element, {elements}")
        raise ValueError(
            f"spec: {what} must give one {what} for {each}; found {found}. Leave out the mean over "
            "rows (reduction='none')."
        )


def _known(targets: Any) -> Tensor:
    if isinstance(targets, Tensor):
        return is_known(targets)
    return torch.stack([_in_full(is_known(leaf)) for leaf in leaves(targets)]).all(0)


def _in_full(known: Tensor) -> Tensor:
    """(n,): which rows of ``known`` (n, ...) are known in full."""
    return known.flatten(1).all(1) if known.ndim > 1 else known


def _known_like(values: Tensor, targets: Any) -> Tensor:
    """Which of ``values``, one per element or one per row, belong to known targets."""
    known = _known(targets)
    return known if values.shape == known.shape else _in_full(known)
