"""A paired test, and Holm's correction for testing many tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def paired_p(differences: Tensor) -> float:
    """The two-sided p-value of Student's paired t-test that ``differences`` (n,) have mean 0.

    It is never below 2 / 2^m, with m the differences that are not 0: the least p-value of the exact
    test by signs. So five rows that all differ alike are no proof, although their variance is 0.
    NaN for fewer than 2 differences, or where one is NaN.
    """
    from scipy.special import stdtr  # imported here, since importing scipy is slow

    n = len(differences)
    if n < 2 or bool(differences.isnan().any()):
        return math.nan
    changed = int((differences != 0).sum())
    if not changed:
        return 1.0
    mean, error = float(differences.mean()), float(differences.std()) / math.sqrt(n)
    p = 2 * float(stdtr(n - 1, -abs(mean) / error)) if error > 0 else 0.0
    return min(max(p, 2.0 ** (1 - changed)), 1.0)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for testing all of these, NaN where there is none: reject where ≤ level.

    The smallest of m is multiplied by m, the next by m - 1, …; none is below one before it. The
    chance of any false rejection is then at most the level, whatever the dependence of the tests.

    Reference: Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure.
    """
    tested = sorted((value, place) for place, value in enumerate(p) if not math.isnan(value))
    adjusted, before = [math.nan] * len(p), 0.0
    for rank, (value, place) in enumerate(tested):
        before = max(before, min(1.0, (len(tested) - rank) * value))
        adjusted[place] = before
    return adjusted


def clustered_half_width(parts: Sequence[Tensor], clusters: Sequence[Tensor | None]) -> float:
    """Half the 95% interval of the mean over T tasks, each with pseudo-values (n_t,) in ``parts``.

        e_ti = (v_ti - v_t) / (T sqrt(n_t (n_t - 1)))        Var = sum over clusters (sum of e_ti)^2

    ``clusters``  for each task (n_t,) a number for each row, equal for rows of several tasks that
                  are the same row; None where no row is shared with another task. Rows of one task
                  are never the same: a number's first row there is its first row elsewhere, and
                  so on.

    Student's t has Welch's and Satterthwaite's degrees of freedom, at most the clusters less 1. For
    a single task it is Student's interval, for two without shared rows Welch's. Infinite where a
    task has fewer than 2 pseudo-values, or one that is NaN.
    """
    from quickstudy.evaluation.intervals import quantile

    if not parts or any(len(part) < 2 or bool(part.isnan().any()) for part in parts):
        return math.inf
    errors, keys, fresh = [], [], 0
    for values, of in zip(parts, clusters, strict=True):
        n = len(values)
        errors.append((values - values.mean()).double() / (len(parts) * math.sqrt(n * (n - 1))))
        alone = torch.arange(fresh, fresh + n)
        keys.append(torch.stack([
            torch.full((n,), of is not None).long(), alone if of is None else of,
            torch.zeros_like(alone) if of is None else _occurrences(of),
        ], 1))  # fmt: skip
        fresh += n
    _, place = torch.cat(keys).unique(dim=0, return_inverse=True)
    sums = torch.zeros(int(place.max()) + 1, dtype=torch.float64)
    sums.index_add_(0, place, torch.cat(errors))
    variance = float(sums.square().sum())
    if not variance:
        return 0.0
    of_tasks = torch.stack([error.square().sum() for error in errors])
    freedom = torch.tensor([len(error) - 1.0 for error in errors], dtype=torch.float64)
    welch = float(of_tasks.sum() ** 2 / (of_tasks**2 / freedom).sum())
    return quantile(min(len(sums) - 1, welch)) * math.sqrt(variance)


def _occurrences(numbers: Tensor) -> Tensor:
    """(n,): how many rows before have the same number."""
    ordered, order = numbers.sort(stable=True)
    places = torch.arange(len(numbers))
    first = torch.searchsorted(ordered, ordered)
    found = torch.empty_like(places)
    found[order] = places - first
    return found
