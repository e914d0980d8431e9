"""Tasks of several sources, for learning across data sets."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from quickstudy.base.words import count
from quickstudy.core import Task, TaskSource


@dataclass(frozen=True)
class Mixture:
    """The task source that :func:`mixture` makes.

    ``shares``      of the sources in the drawn tasks; their sum is 1.
    ``task_names``  the name that each source's tasks get; empty to leave names as they are.
    """

    sources: tuple[TaskSource, ...] = field(repr=False)
    shares: tuple[float, ...]
    task_names: tuple[str, ...] = ()

    def __call__(self, generator: torch.Generator) -> Task:
        """A task of a random source."""
        chosen = float(torch.rand((), generator=generator, dtype=torch.float64))
        ends = list(accumulate(self.shares))
        place = min(bisect_right(ends, chosen), len(ends) - 1)  # sums of shares may round below 1
        task = self.sources[place](generator)
        if not self.task_names:
            return task
        return task._replace(spec=type(task.spec)(task.spec.answer, self.task_names[place]))


def mixture(
    sources: Sequence[TaskSource] | Mapping[str, TaskSource],
    weights: Sequence[float] | Mapping[str, float] | None = None,
) -> Mixture:
    """A source whose tasks come from several sources, each task from one of them.

    ``sources``  a list, or a mapping from names, which the tasks then get: ``evaluate`` gives a row
                 for each name.
    ``weights``  how often each source is drawn, relative to the others: as many as sources, or a
                 mapping from the same names. By default all are drawn equally often.

    Tasks of one kind share a stack where their rows have the same shape: pictures of one size, or
    features that one backbone made of all of them.

    Raises ValueError for no sources, for one that is no function, and for weights that are not
    positive or not as many.

    >>> import quickstudy as qs
    >>> both = qs.tasks.mixture({"waves": qs.Sinusoids(), "more": qs.Sinusoids()}, [3, 1])
    >>> both.shares
    (0.75, 0.25)
    """
    names = tuple(sources) if isinstance(sources, Mapping) else ()
    given = tuple(sources.values()) if isinstance(sources, Mapping) else tuple(sources)
    if not given:
        raise ValueError("mixture: needs at least 1 source; found none. Give a list of sources.")
    for place, source in enumerate(given):
        if not callable(source):
            raise ValueError(
                f"mixture: a source must be a function from a torch.Generator to a task; found "
                f"{type(source).__name__} in place {place}. Use qs.episodes for labelled rows, or "
                "qs.tasks.fixed for a list of tasks."
            )
    if isinstance(weights, Mapping):
        if set(weights) != set(names):
            raise ValueError(
                f"mixture: weights by name need sources by the same names; found weights of "
                f"{', '.join(map(str, weights))} and sources {', '.join(map(str, names)) or '–'}."
            )
        weights = [weights[name] for name in names]
    return Mixture(
        given, _shares([1.0] * len(given) if weights is None else weights, len(given)), names
    )


def _shares(weights: Sequence[float], sources: int) -> tuple[float, ...]:
    if len(weights) != sources:
        raise ValueError(
            f"mixture: needs one weight for each of {count(sources, 'source')}; found "
            f"{len(weights)}. Leave weights out to draw all equally often."
        )
    numbers = [float(weight) if _is_number(weight) else math.nan for weight in weights]
    if not all(0 < number < math.inf for number in numbers):
        raise ValueError(
            f"mixture: weights must be positive, finite numbers; found {list(weights)}. Leave out "
            "a source that must not be drawn."
        )
    parts = [number / max(numbers) for number in numbers]  # sums of large ones would overflow
    total = math.fsum(parts)
    return tuple(part / total for part in parts)


def _is_number(weight: object) -> bool:
    return isinstance(weight, int | float) or (getattr(weight, "shape", None) == ())
