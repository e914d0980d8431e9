"""The title of a run's report."""

from __future__ import annotations

from quickstudy.datasets.dataset import Dataset
from quickstudy.reports.words import visible

NAMED = 3
LONGEST = 30
"""How many classes of a user's own data a title names, and the most letters of one name."""


def title_of(learner: str, data: Dataset) -> str:
    """What was learnt: "Prototypical Networks on Omniglot", or, on data of a user's own, "…: cat,
    dog, owl and 7 more classes", since their set has no name that says what it is.
    """
    if data.card.classes is not None:
        return f"{learner} on {data.card.title}"
    names = list(dict.fromkeys(name for split in data.splits.values() for name in split.names))
    named = [_short(name) for name in names[:NAMED]]
    more = len(names) - len(named)
    listed = f"{', '.join(named)} and {more} more classes" if more else _listed(named)
    return f"{learner}: {listed}"


def _short(name: str) -> str:
    text = visible(name)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
