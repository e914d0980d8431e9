"""What a baseline predicted for one task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from quickstudy.core import Examples


class Prediction(NamedTuple):
    """What one baseline predicted for a task's queries.

    ``predictions``  of one or more strategies, of which the best over all tasks counts.
    ``query``        the queries that they are for.
    ``decoded``      likewise the decoded outputs; None where they were not computed.
    """

    predictions: Sequence[Any]
    query: Examples
    decoded: Sequence[Any] | None = None
