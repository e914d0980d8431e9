"""The title of a run's report."""

from __future__ import annotations

from collections.abc import Sequence

from quickstudy.base.words import count, enumerated
from quickstudy.reports.words import visible

NAMED = 3
LONGEST = 30
"""How many classes of a user's own data a title names, and the most letters of one name."""


def title_of(learner: str, name: str, own: Sequence[str] = ()) -> str:
    """What was learnt: "Prototypical Networks on Omniglot", or, on data of a user's own, "…: cat,
    dog, owl and 7 more classes", since the name of a folder rarely says what is in it.

    ``name``  of the data; it stands in the title where ``own``, the user's own classes, is empty.
    """
    if not own:
        return f"{learner} on {name}"
    named = [_short(each) for each in own[:NAMED]]
    more = len(own) - len(named)
    others = count(more, "more class", "more classes")
    return f"{learner}: " + (f"{', '.join(named)} and {others}" if more else enumerated(named))


def _short(name: str) -> str:
    text = visible(name)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
