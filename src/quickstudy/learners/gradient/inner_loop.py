"""The settings of the inner loop: how a gradient learner steps on a support set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from quickstudy.backbones.features import like
from quickstudy.base.shown import shown
from quickstudy.learners.gradient.descend import Update, sgd
from quickstudy.learners.gradient.meta_gradients import Exact, MetaGradient


@dataclass(frozen=True)
class InnerLoop:
    """The steps that a learner takes on a support set.

    ``learner``        the name of the learner, for error messages.
    ``steps``          number of steps while training.
    ``rate``           inner learning rate; None for a learner that defines its rates itself.
    ``meta_gradient``  how the meta-gradient passes back through the steps.
    ``adapts``         a name pattern, or several, of the parameters that the steps change.
    ``update``         the update rule of a step.
    ``clip``           greatest norm of the gradient of all adapted weights together, before
                       ``update``; None for no clipping.
    ``test_steps``     number of steps in evaluation mode; None for ``steps``.
    ``learn_rates``    a learnt rate for each step and parameter tensor (LSLR: Antoniou, Edwards and
                       Storkey, 2019, section 4), starting at ``rate``.
    ``fewest_steps``   least number of steps that the learner accepts.

    Raises ValueError for numbers that are not positive, for too few steps, and for settings that
    ``meta_gradient`` cannot work with.
    """

    learner: str
    steps: int
    rate: float | None = None
    meta_gradient: MetaGradient = Exact()  # noqa: RUF009  (frozen)
    adapts: str | Sequence[str] = ("*",)
    update: Update = sgd
    clip: float | None = None
    test_steps: int | None = None
    learn_rates: bool = False
    fewest_steps: int = 1

    def __post_init__(self) -> None:
        least = max(self.fewest_steps, int(self.learn_rates))
        for name, count, fewest in (
            ("steps", self.steps, least),
            ("test_steps", self.test_steps, 1),
        ):
            if count is not None and count < fewest:
                raise ValueError(
                    f"{self.learner}: {name} must be at least {fewest}; found {count}."
                )
        for name, value in (("rate", self.rate), ("clip", self.clip)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(
                    f"{self.learner}: {name} must be a positive number; found {value}."
                )
        if self.learn_rates and self.rate is None:
            raise ValueError(
                f"{self.learner}: learnt rates need a rate to start from; found rate=None. Give "
                "rate=0.01."
            )
        fixed_rate = None if self.learn_rates else self.rate
        self.meta_gradient.check(self.learner, self.steps, fixed_rate, self.update)

    def first_rates(self, names: Sequence[str], network: nn.Module) -> nn.Parameter | None:
        """(steps, names) rates that all start at ``rate``; None if rates are not learnt."""
        if not self.learn_rates:
            return None
        assert self.rate is not None
        shape = (self.steps, len(names))
        return nn.Parameter(like(network, torch.full(shape, self.rate, dtype=torch.float64)))

    def names_in(self, network: nn.Module) -> list[str]:
        """Names of the trainable parameters of ``network`` that match ``adapts``, in its order.

        Raises ValueError for no pattern, and for one that matches no trainable parameter.
        """
        return matching_names(network, self.adapts, self.learner)


def matching_names(network: nn.Module, adapts: str | Sequence[str], learner: str) -> list[str]:
    """Names of the trainable parameters of ``network`` that match ``adapts``, in its order.

    Raises ValueError, prefixed by ``learner``, for no pattern, and for one that matches no
    trainable parameter.
    """
    patterns = (adapts,) if isinstance(adapts, str) else adapts
    trainable = {name: p.requires_grad for name, p in network.named_parameters()}
    if not patterns:
        raise ValueError(
            f"{learner}: adapts=() lets no parameter adapt. Give name patterns such as "
            "'head.*', or leave adapts out to adapt all."
        )
    for pattern in patterns:
        matching = [name for name in trainable if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(
                f"{learner}: adapts={shown(pattern)} matches no parameter. The backbone "
                f"has: {', '.join(list(trainable)[:8])}{', …' if len(trainable) > 8 else ''}."
            )
        if not any(trainable[name] for name in matching):
            raise ValueError(
                f"{learner}: adapts={shown(pattern)} matches frozen parameters alone "
                f"({', '.join(matching[:8])}), and frozen parameters do not adapt. Set "
                "requires_grad=True for some of them, or leave the pattern out."
            )
    return [
        name for name, free in trainable.items()
        if free and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]  # fmt: skip
