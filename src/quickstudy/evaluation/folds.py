"""The result of a cross-validation over classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quickstudy.base.words import count
from quickstudy.evaluation import wording
from quickstudy.evaluation.compared import Compared
from quickstudy.evaluation.intervals import half_width
from quickstudy.evaluation.results import Evaluation
from quickstudy.evaluation.strict_json import plain


@dataclass(frozen=True)
class Fold:
    """The evaluation of a learner on tasks of ``classes``, on which it was not trained."""

    classes: tuple[str, ...]
    evaluation: Evaluation


@dataclass(frozen=True)
class CrossValidation:
    """Evaluations of one recipe, in which every class is a test class exactly once.

    Each fold has its own learner, trained on the classes of all other folds. ``mean`` is the mean
    over folds of each fold's mean, and ``half_width`` half its 95% interval (Student's t over the
    folds): it shows how much the result depends on which classes are the test classes. Folds share
    training classes, so that they are not independent and the interval is approximate.

    Reference: Bengio and Grandvalet (2004), No unbiased estimator of the variance of K-fold
    cross-validation, JMLR 5.
    """

    folds: tuple[Fold, ...]

    @property
    def means(self) -> torch.Tensor:
        """(folds,): the mean of the first score in each fold."""
        return torch.tensor([fold.evaluation.mean for fold in self.folds], dtype=torch.float64)

    @property
    def mean(self) -> float:
        """The mean over the folds of their means."""
        return float(self.means.mean())

    @property
    def half_width(self) -> float:
        """Half the 95% interval of the mean, over the folds."""
        return half_width(self.means)

    @property
    def score(self) -> str:
        """The name of the score."""
        return self.folds[0].evaluation.main.score

    @property
    def unit(self) -> str:
        """The unit of the score, "%" or ""."""
        return self.folds[0].evaluation.main.unit

    @property
    def figure(self) -> str:
        """The mean and its interval over the folds, for example "61.2% ± 9.8"."""
        mean, width = wording.score(self.mean, self.unit), self.half_width
        return f"{mean} ± {wording.half_width(width, self.unit)}"

    @property
    def range(self) -> str:
        """The lowest and the highest mean of a fold."""
        low, high = (wording.score(float(m), self.unit) for m in self.means.aminmax())
        return f"{low} to {high}"

    @property
    def baselines(self) -> tuple[Compared, ...]:
        """The baselines that every fold has: one value for each fold, compared over the folds."""
        found = [{b.name: b for b in fold.evaluation.main.baselines} for fold in self.folds]
        return tuple(
            self._over_folds([of_fold[name] for of_fold in found])
            for name in found[0]
            if all(name in of_fold for of_fold in found)
        )

    def _over_folds(self, baselines: Sequence[Compared]) -> Compared:
        means, gains = (
            torch.tensor([getattr(each, what) for each in baselines], dtype=torch.float64)
            for what in ("mean", "gain")
        )
        mean, width = float(means.mean()), half_width(gains)
        inside = abs(self.mean - mean) <= self.half_width
        name, unit = baselines[0].name, baselines[0].unit
        return Compared(name, unit, means, mean, float(gains.mean()), width, inside)

    @property
    def better(self) -> bool | None:
        """Whether it is better than every baseline; None without baselines."""
        return all(b.verdict == "better" for b in self.baselines) if self.baselines else None

    @property
    def explanation(self) -> str:
        """What was done, and what the interval means."""
        classes = sum(len(fold.classes) for fold in self.folds)
        why = "folds share training classes" if len(self.folds) > 2 else "there are only two"
        return (
            f"Cross-validation over classes: {count(classes, 'class', 'classes')} in "
            f"{count(len(self.folds), 'fold')}. In each fold, a learner was trained on the classes "
            "of the other folds and tested on tasks of its own, so every class was new in exactly "
            "one test. The result is the mean over folds; its interval is over folds, and "
            f"approximate, because {why}."
        )

    def __str__(self) -> str:
        over = f"(95% CI over {count(len(self.folds), 'fold')})"
        return "; ".join(
            [f"{self.score} {self.figure} {over}", *(b.sentence for b in self.baselines)]
        )

    def to_json(self) -> dict[str, Any]:
        """The result as strict JSON, with the evaluation of every fold."""
        return {
            "score": self.score,
            "unit": self.unit,
            "mean": plain(self.mean),
            "half_width": plain(self.half_width),
            "baselines": [baseline.to_json() for baseline in self.baselines],
            "folds": [
                {"classes": list(fold.classes), "evaluation": fold.evaluation.to_json()}
                for fold in self.folds
            ],
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> CrossValidation:
        """The cross-validation of which :meth:`to_json` gave ``values``."""
        folds: Sequence[Mapping[str, Any]] = values["folds"]
        return CrossValidation(
            tuple(Fold(tuple(f["classes"]), Evaluation.from_json(f["evaluation"])) for f in folds)
        )
