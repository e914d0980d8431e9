"""A meta-gradient that changes as training goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quickstudy.learners.gradient.descend import Descent, Update, Weights
from quickstudy.learners.gradient.meta_gradients import Exact, FirstOrder, MetaGradient
from quickstudy.learners.gradient.network import SupportLoss


@dataclass(frozen=True)
class Annealed(MetaGradient):
    """First order at the beginning of training, ``then`` another (MAML++'s DA).

    ``first_order_until``  share of training. Outside of training it is ``then`` throughout.

    Raises ValueError for a share that is not in [0, 1].

    Reference: Antoniou, Edwards and Storkey (2019), How to Train Your MAML, section 4.
    """

    first_order_until: float = 0.3
    then: MetaGradient = Exact()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        if not 0 <= self.first_order_until <= 1:
            raise ValueError(
                "Annealed: first_order_until is a share of training, in [0, 1]; found "
                f"{self.first_order_until}."
            )

    @property
    def scheduled(self) -> bool:
        """Whether first order comes before anything else, or what follows changes."""
        return self.first_order_until > 0 or self.then.scheduled

    def descend(self, loss: SupportLoss, weights: Weights, descent: Descent) -> Iterator[Weights]:
        """Steps as at the end of training."""
        return self.then.descend(loss, weights, descent)

    def at(self, progress: float) -> MetaGradient:
        """First order, or what comes then."""
        return FirstOrder() if progress < self.first_order_until else self.then.at(progress)

    def check(self, who: str, steps: int, rate: float | None, update: Update) -> None:
        """Refuse what the later one refuses; first order takes everything."""
        self.then.check(who, steps, rate, update)
