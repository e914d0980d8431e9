"""Base learners of learners that change the weights of rows."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from quickstudy.backbones.norms import ignores_weights
from quickstudy.core import Answer, Learner


def base_learner(
    learner: nn.Module,
    who: str,
    answer: type[Answer] | None,
    default: Callable[[nn.Module], Learner],
) -> Learner:
    """``learner``, or the ``default`` learner on it where it is a backbone.

    Raises ValueError, beginning with ``who``, for a learner that does not give answers of the kind
    ``answer``, if one is named, and for one that ignores row weights.
    """
    if not isinstance(learner, Learner):
        return default(learner)
    name = type(learner).__name__
    if answer and not any(issubclass(answer, kind) for kind in learner.answers):
        raise ValueError(
            f"{who}: needs a base learner of {answer.__name__}; found {name}, which gives "
            f"{', '.join(kind.__name__ for kind in learner.answers)}. Use another learner."
        )
    why = learner.exceptions.get("weight_zero_is_absent")
    if not why and (ignoring := ignores_weights(learner)):
        why = f"the statistics of {', '.join(ignoring[:3])} ignore row weights"
    if why:
        raise ValueError(
            f"{who}: needs a base learner that counts rows by their weights, but in {name} {why}. "
            "Use another learner, or a norm of quickstudy.backbones.norms."
        )
    return learner


def own_exceptions(learner: Learner, vmap_reason: str | None) -> dict[str, str]:
    """The laws that ``learner`` excepts, and with a reason that of vmap."""
    looped = {"vmap_equals_loop": vmap_reason} if vmap_reason else {}
    return {**learner.exceptions, **looped}
