"""Which sources help a target and which harm it: the score with a source, and without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.checks import check_count
from quickstudy.base.words import count
from quickstudy.core import Examples, Learner, Score, TaskSpec
from quickstudy.evaluation import wording
from quickstudy.evaluation.evaluate import check_call
from quickstudy.evaluation.intervals import half_width
from quickstudy.evaluation.source_predictors import domain_distance, gradient_cosine
from quickstudy.evaluation.strict_json import plain
from quickstudy.tasks.examples import take
from quickstudy.tasks.numbering import Stream, draw
from quickstudy.tasks.transfer import transfer

REPEATS = 20
"""Divisions of the target rows into labelled ones and queries, by default."""


@dataclass(frozen=True)
class OfSource:
    """What one source does to the target; all figures are negative where it harms.

    ``effect``           the mean of the two gains below: a source's share in the score.
    ``half_width``       half the 95% interval of ``effect``, paired over the divisions.
    ``gain``             the score with all sources, minus that without this one. Small where the
                         other sources say the same, or drown it.
    ``alone``            the score with this source alone, minus that with target rows alone; NaN
                         without labelled target rows.
    ``values``           (divisions,) the effect in each.
    ``gradient_cosine``  cosine of the gradients of the mean losses of the source and the labelled
                         target rows, see :func:`gradient_cosine`; the mean over the divisions.
    ``distance``         how well a classifier tells its inputs from the target's, in [-2, 2]: see
                         :func:`domain_distance`; NaN where inputs are no vectors of reals.
    """

    name: str
    effect: float
    half_width: float
    gain: float
    alone: float
    values: Tensor
    gradient_cosine: float
    distance: float

    @property
    def verdict(self) -> str:
        """ "harms" or "helps" where the interval excludes 0, else "neither shown"."""
        if self.effect + self.half_width < 0:
            return "harms"
        return "helps" if self.effect - self.half_width > 0 else "neither shown"


@dataclass(frozen=True)
class NegativeTransfer:
    """The sources, the most harmful first, and the scores with all of them and with none.

    ``score``, ``unit``  of the target's answer.
    ``with_all``         its mean with all sources; ``target_only``, without any, None where no
                         target row is labelled.
    ``repeats``          the number of divisions of the target rows; ``seed``, that of the choice.
    """

    score: str
    unit: str
    with_all: float
    target_only: float | None
    repeats: int
    seed: int
    table: tuple[OfSource, ...]

    @property
    def harmful(self) -> list[str]:
        """The names of the sources that were shown to harm."""
        return [row.name for row in self.table if row.verdict == "harms"]

    def __str__(self) -> str:
        alone = "" if self.target_only is None else (
            f", {wording.score(self.target_only, self.unit)} with target rows alone"
        )  # fmt: skip
        lines = [
            f"{self.score} {wording.score(self.with_all, self.unit)} with all sources{alone} (mean "
            f"of {count(self.repeats, 'division')}, seed {self.seed}); each source's share in it:"
        ]
        width = max(len(row.name) for row in self.table)
        lines += [
            f"  {row.name:<{width}}  {wording.difference(row.effect, self.unit)} ± "
            f"{wording.half_width(row.half_width, self.unit)}  {row.verdict} (among the others "
            f"{wording.difference(row.gain, self.unit)}, alone "
            f"{wording.difference(row.alone, self.unit)}, gradient cosine "
            f"{row.gradient_cosine:+.2f}, domain distance {row.distance:.2f})"
            for row in self.table
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """As strict JSON, with the effect in every division."""
        numbers = ("effect", "half_width", "gain", "alone", "gradient_cosine", "distance")
        table = [
            {"name": row.name, **{n: plain(getattr(row, n)) for n in numbers},
             "verdict": row.verdict, "values": plain(row.values.tolist())}
            for row in self.table
        ]  # fmt: skip
        about = ("score", "unit", "with_all", "target_only", "repeats", "seed")
        return {**{name: plain(getattr(self, name)) for name in about}, "table": table}


def negative_transfer(
    learner: Learner,
    sources: Mapping[str, Examples],
    target: Examples,
    spec: TaskSpec,
    *,
    labelled: int = 5,
    queries: int | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
) -> NegativeTransfer:
    """What each source adds to the score on the target: to all others, and to target rows alone.

        effect_s = ( score(all) - score(all without s)  +  score(target and s) - score(target) ) / 2

    In each of ``repeats`` divisions, some target rows keep their labels and the others are queries.
    ``learner`` adapts to all sources and these rows, to the same without each source, to each of
    the sources and these rows, and to these rows alone. The differences are the last and the first
    term of the source's Shapley value. Leaving one out is not enough: it misses a harmful source
    that is drowned by others, and a good one that others repeat.

    ``learner``   any; without :mod:`learners.transfer`, all rows of a support set count alike.
    ``sources``   name -> labelled rows. With one source, both gains are over target rows alone.
    ``target``    labelled rows of the place that is asked about.
    ``labelled``  target rows that keep their labels; for classes, of each class.
    ``queries``   target rows to predict in each division; by default all that remain.

    Beside each stand two predictors that adapt nothing: the cosine of gradients, which sees labels,
    and the distance of domains, which sees inputs alone.

    The divisions are of the same target rows, so an interval says how well the mean over divisions
    is known, for these rows.

    Raises ValueError without sources, for a single one without labelled target rows, for a learner
    that does not support the answer, for fewer than 2 repeats, and as
    :func:`quickstudy.tasks.transfer` does for rows that do not fit.

    Reference: Wang et al. (2019), Characterizing and Avoiding Negative Transfer, CVPR, for the
    definition by the same learner with and without source rows.

    >>> import torch, quickstudy as qs
    >>> x, spec = torch.linspace(-1, 1, 40)[:, None], qs.regression()
    >>> sources = {"like": qs.examples(x, 2 * x), "opposite": qs.examples(x, -2 * x)}
    >>> learner = qs.LinearProbe(torch.nn.Identity())
    >>> qs.negative_transfer(learner, sources, qs.examples(x, 2 * x), spec, repeats=3).harmful
    ['opposite']
    """
    check_call("negative_transfer", learner, seed)
    check_count("negative_transfer", "repeats", repeats, 2)
    if not sources:
        raise ValueError(
            "negative_transfer: needs at least 1 source; found none. Give name -> labelled rows."
        )
    if not labelled and len(sources) == 1:
        raise ValueError(
            "negative_transfer: needs something to compare a source with; found 1 source and no "
            "labelled target row. Give labelled=1 or more, or another source."
        )
    tasks = transfer(list(sources.values()), target, spec, labelled=labelled, queries=queries)
    score, wholes, owns = spec.answer.score, [], []
    gains: dict[str, list[float]] = {name: [] for name in sources}
    alone: dict[str, list[float]] = {name: [] for name in sources}
    cosines: dict[str, list[float]] = {name: [] for name in sources}
    sign = 1.0 if score.higher_is_better else -1.0
    for number in range(repeats):
        support, query, _ = draw(tasks, seed, number, Stream.TEST)

        def scored(kept: Tensor, support: Examples = support, query: Examples = query) -> float:
            rows = take(support, kept)
            return _score(learner, rows, query, spec, score) if len(rows.weights) else torch.nan

        groups = support.groups
        wholes.append(scored(groups >= 0))
        owns.append(scored(groups == 0))
        for group, name in enumerate(sources, 1):
            gains[name].append(sign * (wholes[-1] - scored(groups != group)))
            both = scored((groups == 0) | (groups == group)) if labelled else torch.nan
            alone[name].append(sign * (both - owns[-1]))
            if labelled:
                source, own = (take(support, groups == each) for each in (group, 0))
                cosines[name].append(gradient_cosine(learner, source, own, spec))
    rows = [
        _of_source(name, gains[name], alone[name], cosines[name],
                   domain_distance(given, target, learner, seed))
        for name, given in sources.items()
    ]  # fmt: skip
    rows.sort(key=lambda row: row.effect)
    mean = sum(wholes) / repeats
    return NegativeTransfer(
        score.name, score.unit, mean, sum(owns) / repeats if labelled else None, repeats, seed,
        tuple(rows),
    )  # fmt: skip


def _of_source(
    name: str, gains: list[float], alone: list[float], cosines: list[float], distance: float
) -> OfSource:
    both = torch.tensor([gains, alone], dtype=torch.float64)
    values, (gain, own) = both.nanmean(0), both.mean(1).tolist()
    cosine = float(torch.tensor(cosines or [torch.nan]).nanmean())
    return OfSource(
        name, float(values.mean()), half_width(values), gain, own, values, cosine, distance
    )


@torch.no_grad()
def _score(
    learner: Learner, support: Examples, query: Examples, spec: TaskSpec, score: Score
) -> float:
    predictions = learner(support, spec)(query.inputs)
    return float(score.value(score.statistic(predictions, query)))
