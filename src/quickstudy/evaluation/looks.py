"""Adding tasks until every pair is decided, without more false verdicts than with one look.

Whoever looks at results again and again, and stops as soon as one is significant, finds something
in the end where there is nothing. So there are few looks, known before, and the level is divided
among them: the chance of a false verdict at any look is then at most the sum of the levels
(Bonferroni), whatever the looks have in common and whatever rule stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quickstudy.answers.checks import check_count
from quickstudy.evaluation.paired import LEVEL, Pair

FEWEST = 50
"""Tasks of the first look, at least."""

MOST = 4
"""Looks, at most."""


@dataclass(frozen=True)
class Look:
    """A look at the results of the first ``tasks`` tasks, with its part ``level`` of the level."""

    tasks: int
    level: float


def looks(tasks: int) -> tuple[Look, ...]:
    """When to look, with at most ``tasks`` tasks: each look has twice the tasks of the one before.

    The last look has twice the level of each one before, since most comparisons that are hard to
    decide are decided there: for 600 tasks, 75, 150 and 300 with a level of 0.01, 600 with 0.02.
    """
    check_count("looks", "tasks", tasks, 2)
    numbers = [tasks]
    while len(numbers) < MOST and numbers[0] // 2 >= FEWEST:
        numbers.insert(0, numbers[0] // 2)
    part = LEVEL / (len(numbers) + 1) if len(numbers) > 1 else LEVEL / 2
    return tuple(Look(n, 2 * part if n == tasks else part) for n in numbers)


def undecided(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The pairs that more tasks may decide: those that nothing is known of on these classes."""
    return tuple(pair for pair in pairs if pair.here == "not known")
