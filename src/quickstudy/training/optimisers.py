"""Optimisers of the outer loop, and which parameters their first steps do not train."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer

from quickstudy.base.words import first_few

OptimiserMaker = Callable[[Iterable[Tensor]], Optimizer]
"""A function: parameters -> optimiser."""

PATIENCE = 20
"""Steps in which a parameter must be trained, where the first may have been none of its own."""


def adam(rate: float = 1e-3) -> OptimiserMaker:
    """The default optimiser: Adam at ``rate``."""
    return lambda parameters: Adam(parameters, lr=rate)


def sgd(rate: float) -> OptimiserMaker:
    """Plain gradient descent at ``rate``."""
    return lambda parameters: SGD(parameters, lr=rate)


def make_optimiser(maker: OptimiserMaker, parameters: Iterable[Tensor]) -> Optimizer:
    """``maker(parameters)``.

    Raises ValueError for an optimiser in place of a function that makes one, for a function that
    makes something else, for LBFGS, which evaluates the loss several times in a step, and for
    learning rates that are missing or not finite.
    """
    if not callable(maker) or isinstance(maker, Optimizer):
        raise ValueError(
            f"fit: optimiser must be a function of the parameters; found "
            f"{type(maker).__name__}. Write optimiser=lambda parameters: "
            "torch.optim.AdamW(parameters, lr=1e-3), or qs.optimisers.adam(1e-3)."
        )
    try:
        made = maker(parameters)
    except TypeError as error:
        raise ValueError(
            f"fit: optimiser must be a function of the parameters alone; found one that raises "
            f"{error}. Write optimiser=lambda parameters: torch.optim.SGD(parameters, lr=0.1)."
        ) from error
    if not isinstance(made, Optimizer) or isinstance(made, LBFGS):
        raise ValueError(
            f"fit: optimiser must give a torch.optim.Optimizer that steps along one gradient; "
            f"found {type(made).__name__}. Use qs.optimisers.adam() or sgd(rate)."
        )
    rates = [group.get("lr") for group in made.param_groups]
    if not all(isinstance(rate, float | int | Tensor) and 0 <= rate < math.inf for rate in rates):
        raise ValueError(
            "fit: every group of the optimiser must have a learning rate, lr, that the schedule "
            f"multiplies: a finite number of 0 or more; found {rates}. Give lr=1e-3."
        )
    return made


class FirstSteps:
    """The first steps of ``optimiser``: says, by name, which parameters they do not train.

    ``alike``  whether all tasks are of one kind and name. Otherwise a step may have none of those
               that a part is for, so parameters without a gradient are given PATIENCE steps; as are
               those whose gradient is zero, since initial zeros in a later layer do this.

    Raises ValueError for an optimiser that holds no trainable parameter of ``learner``, and for
    learning rates of 0. Warns where it does not hold all.
    """

    def __init__(self, learner: nn.Module, optimiser: Optimizer, alike: bool) -> None:
        trainable = {n: p for n, p in learner.named_parameters() if p.requires_grad}
        held = {id(p) for group in optimiser.param_groups for p in group["params"]}
        self._waiting = {name: p for name, p in trainable.items() if id(p) in held}
        self._optimiser, self._alike, self._steps = optimiser, alike, 0
        if not self._waiting:
            raise ValueError(
                f"fit: the optimiser holds no trainable parameter of {type(learner).__name__} "
                f"({first_few(trainable)}), so it would train nothing of it. Make it of the "
                "parameters that it is given: optimiser=lambda parameters: "
                "torch.optim.AdamW(parameters, lr=1e-3)."
            )
        if all(group["lr"] == 0 for group in optimiser.param_groups):
            raise ValueError(
                "fit: the optimiser's learning rate is 0, so it would train nothing. Give a "
                "positive one."
            )
        if missing := [name for name in trainable if name not in self._waiting]:
            warnings.warn(
                f"fit: the optimiser does not hold {first_few(missing)}, so "
                "these parameters stay as they are. Make it of all parameters that it is given, or "
                "freeze these before: qs.frozen(module), or requires_grad_(False).",
                stacklevel=3,
            )

    def step(self) -> bool:
        """One step of the optimiser; whether further ones need to be watched.

        Raises ValueError where it changes no parameter although gradients are not zero.
        """
        reached = {n: p for n, p in self._waiting.items() if _has_gradient(p)}
        before = {name: p.detach().clone() for name, p in reached.items()}
        self._optimiser.step()
        if all(group["lr"] == 0 for group in self._optimiser.param_groups):
            return True  # a schedule that begins at 0
        moved = [name for name, p in reached.items() if not p.equal(before[name])]
        self._steps += 1
        if self._steps == 1 and reached and not moved:
            raise ValueError(
                f"fit: the first step changed no parameter, although there are gradients for "
                f"{first_few(reached)}. Give the optimiser a greater learning rate, of which "
                f"{next(iter(reached.values())).dtype} can hold the steps, or another optimiser."
            )
        for name in moved:
            del self._waiting[name]
        if self._steps == 1 and self._alike:
            self._tell([n for n, p in self._waiting.items() if p.grad is None], level=5)
        if self._steps == PATIENCE:
            self.end()
        return bool(self._waiting)

    def end(self) -> None:
        """Tell which parameters were not trained up to now; called when training ends."""
        if not self._steps:
            warnings.warn(
                "fit: the learning rate was 0 in every step, so nothing was trained. Give a "
                "schedule that is positive somewhere.",
                stacklevel=3,
            )
            self._waiting.clear()
        self._tell(list(self._waiting), level=4)

    def _tell(self, names: list[str], level: int) -> None:
        if not names:
            return
        when = "the first step" if self._steps == 1 else f"the first {self._steps} steps"
        warnings.warn(
            f"fit: {when} did not train {first_few(names)}. The loss does not depend on these "
            "parameters (are they unused, or behind detach(), no_grad() or .data?), or only by a "
            "gradient that is zero, or too small at their learning rate. Mend forward, or freeze "
            "them: qs.frozen(module), or requires_grad_(False).",
            stacklevel=level,
        )
        for name in names:
            del self._waiting[name]


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())
