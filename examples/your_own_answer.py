"""An answer of your own: a rating from 1 to 5, where 4 for a true 5 is better than 1.

``Ratings`` is an ``Answer`` with a loss and two scores. No other code is needed: tasks
with ratings work with ``fit``, ``evaluate`` and every learner that takes any answer.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import quickstudy as qs


@dataclass(frozen=True)
class MeanDistance(qs.Score):
    """By how many levels ratings are wrong, the mean over queries; lower is better."""

    name: ClassVar[str] = "distance"
    higher_is_better: ClassVar[bool] = False

    def statistic(self, predictions: Tensor, query: qs.Examples) -> dict[str, Tensor]:
        """``levels``, the weighted sum of distances, and ``total``, the weight of known rows."""
        weights = query.weights * (query.targets >= 0)
        distance = ((predictions > 0).sum(-1) - query.targets).abs()
        return {"levels": (weights * distance).sum(-1), "total": weights.sum(-1)}

    def value(self, statistic: dict[str, Tensor]) -> Tensor:
        """In levels."""
        return statistic["levels"] / statistic["total"]


@dataclass(frozen=True)
class WithinOne(qs.Score):
    """The share of ratings that are wrong by one level at most."""

    name: ClassVar[str] = "within one"
    unit: ClassVar[str] = "%"

    def statistic(self, predictions: Tensor, query: qs.Examples) -> dict[str, Tensor]:
        """``close``, the weight of such rows, and ``total``."""
        weights = query.weights * (query.targets >= 0)
        close = ((predictions > 0).sum(-1) - query.targets).abs() <= 1
        return {"close": (weights * close).sum(-1), "total": weights.sum(-1)}

    def value(self, statistic: dict[str, Tensor]) -> Tensor:
        """In [0, 1]."""
        return statistic["close"] / statistic["total"]


@dataclass(frozen=True)
class Ratings(qs.Answer):
    """One of ``levels`` levels in their order.

    Targets (n,) integers from 0, -1 where unknown; predictions (n, levels - 1) logits, of which
    entry j is for the question "is the rating above level j?". The loss is the mean of their binary
    cross-entropies.

    Reference: Frank and Hall (2001), A Simple Approach to Ordinal Classification.
    """

    levels: int
    kind: ClassVar[str] = "ratings"

    @property
    def outputs(self) -> int:
        """One question between each two levels."""
        return self.levels - 1

    def check(self, targets: Any, what: str = "targets") -> None:
        """Integers (n,)."""
        if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 1:
            raise ValueError(f"{what}: ratings are integers (n,). Number the levels from 0.")

    def check_values(self, targets: Tensor, what: str = "targets") -> None:
        """No level beyond the last."""
        if targets.numel() and int(targets.max()) >= self.levels:
            raise ValueError(f"{what}: ratings must be below {self.levels}; found {targets.max()}.")

    def known(self, targets: Tensor) -> Tensor:
        """(n,): whether the rating is known."""
        return targets >= 0

    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """(n,): the mean over the questions of a row."""
        above = self._above(targets).to(predictions.dtype)
        return (nn.functional.softplus(predictions) - above * predictions).mean(-1)

    def encode(self, targets: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """1 for yes, -1 for no to each question, zeros where unknown: (n, levels - 1)."""
        signs = 2 * self._above(targets).to(dtype or torch.get_default_dtype()) - 1
        return signs * self.known(targets).unsqueeze(-1)

    def decode(self, predictor: qs.Predictor, inputs: Any) -> Tensor:
        """The rating (n,): the number of questions with a yes."""
        return (predictor(inputs) > 0).sum(-1)

    def prediction_shape(self, targets: Tensor) -> tuple[int, ...]:
        """(n, levels - 1)."""
        return len(targets), self.outputs

    @property
    def scores(self) -> tuple[qs.Score, ...]:
        """The mean distance, by which weights are chosen, and the share within one level."""
        return MeanDistance(), WithinOne()

    def _above(self, targets: Tensor) -> Tensor:
        return targets.unsqueeze(-1) > torch.arange(self.outputs, device=targets.device)


def tastes(generator: torch.Generator) -> qs.Task:
    """One person's ratings of 30 things, each of 4 features; another person in every task."""
    things = torch.randn(30, 4, generator=generator)
    liking = things @ torch.randn(4, generator=generator)
    ratings = torch.bucketize(liking, torch.tensor([-2.0, -0.7, 0.7, 2.0]))
    support, query = (
        qs.examples(things[rows], ratings[rows]) for rows in (slice(10), slice(10, 30))
    )
    return qs.Task(support, query, qs.TaskSpec(Ratings(5)))


def main(steps: int = 300, tasks: int = 200) -> tuple[qs.Evaluation, qs.Evaluation]:
    torch.manual_seed(0)  # of the network's first weights
    learner = qs.MAML(qs.backbones.MLP(4, hidden=(40, 40), outputs=4), steps=3, rate=0.3)
    before = qs.evaluate(learner, tastes, tasks)
    qs.fit(learner, tastes, steps, 16, validation=qs.Validation(tastes, every=150, tasks=50))
    after = qs.evaluate(learner, tastes, tasks)
    for row in after.rows:
        print(f"{row.label}: {before.row(score=row.score).figure} before, {row.figure} after")
    return before, after


if __name__ == "__main__":
    main()
