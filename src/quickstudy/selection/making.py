"""Making learners, the same ones from the same seed, and finding the card of one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from quickstudy.core import Learner
from quickstudy.files.registry import LEARNERS
from quickstudy.learners.cards import Card


def made(make: Callable[[], Learner], seed: int) -> Learner:
    """A new learner, whose weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def card_of(learner: Learner) -> Card | None:
    """The card of a learner of this library; None for one of the user's."""
    cls = type(learner)
    target = f"{cls.__module__}:{cls.__qualname__}"
    return next((card for card in LEARNERS.values() if card.target == target), None)
