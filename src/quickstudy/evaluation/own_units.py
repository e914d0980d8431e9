"""Scoring standardised real targets in their original unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from quickstudy.core import Examples
from quickstudy.evaluation.predicted import Prediction


@runtime_checkable
class HasScales(Protocol):
    """A task source whose tasks of some names have standardised targets."""

    @property
    def scales(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Shift and scale (d,) by name; the original targets are ``scale * targets + shift``."""


def in_own_unit(source: Any, name: str, predictions: Any, query: Examples) -> tuple[Any, Examples]:
    """Predictions (n, ..., d) and queries of a task called ``name``, in the original unit."""
    if not isinstance(source, HasScales) or name not in source.scales:
        return predictions, query

    def original(values: Tensor) -> Tensor:
        shift, scale = (each.to(values) for each in source.scales[name])
        return scale * values + shift

    return original(predictions), query._replace(targets=original(query.targets))


def in_own_units(
    source: Any, name: str, baselines: Mapping[str, Prediction]
) -> dict[str, Prediction]:
    """The predictions of baselines, each of one or more strategies, in the original unit."""
    found: dict[str, Prediction] = {}
    for baseline, predicted in baselines.items():
        pairs = [
            in_own_unit(source, name, predictions, predicted.query)
            for predictions in predicted.predictions
        ]
        found[baseline] = predicted._replace(
            predictions=[predictions for predictions, _ in pairs], query=pairs[0][1]
        )
    return found
