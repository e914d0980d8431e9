"""How the meta-gradient passes back through the inner steps: four methods, and a schedule of them.

A step w' = update(w, g(w)) contains the support gradient g, whose derivative is a matrix H of
second derivatives. The methods differ in how they multiply H with the vector v from later steps:

    Exact             H v by autograd, through recorded or recomputed steps
    FirstOrder        0
    FiniteDifference  (g(w + r v) - g(w - r v)) / 2r
    Implicit          (I + H / strength)^-1 v, once, at the end of the steps

In all but the last, autograd differentiates the update rule itself, so any rule works.
``Annealed`` is first order at the beginning of training and another method afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.func import grad, vjp

from quickstudy.learners.gradient.descend import (
    Descent,
    Update,
    Weights,
    constant,
    gradients_of,
    sgd,
)
from quickstudy.learners.gradient.network import SupportLoss
from quickstudy.learners.gradient.pullback import (
    Problem,
    Pulled,
    Tensors,
    conjugate_gradients,
    dot,
    gradients_with_product,
    in_double,
    recomputed_product,
    replaced,
    shifted,
)


class MetaGradient(ABC):
    """How to descend on a support loss, and how to differentiate the result."""

    @abstractmethod
    def descend(self, loss: SupportLoss, weights: Weights, descent: Descent) -> Iterator[Weights]:
        """The weights before and after each step; ``descent`` says how to step."""

    @property
    def scheduled(self) -> bool:
        """Whether the method changes during training."""
        return False

    def at(self, progress: float) -> MetaGradient:
        """The method to use when the share ``progress`` of training, in [0, 1], is done."""
        return self

    def check(self, who: str, steps: int, rate: float | None, update: Update) -> None:  # noqa: B027
        """Raise ValueError, prefixed by ``who``, for settings that this method does not support.

        ``rate``  None if rates are learnt.
        """


@dataclass(frozen=True)
class Exact(MetaGradient):
    """The exact derivative, second derivatives included (MAML).

    ``recompute``  recompute each step in the backward pass instead of storing its graph: memory is
                   that of one step instead of all, time about 1.5 times as much.
    """

    recompute: bool = False

    def descend(self, loss: SupportLoss, weights: Weights, descent: Descent) -> Iterator[Weights]:
        """Steps that autograd records or recomputes."""
        if not self.recompute:
            return descent.along(gradients_of(loss), weights)
        return descent.along(partial(gradients_with_product, loss, recomputed_product), weights)


@dataclass(frozen=True)
class FirstOrder(MetaGradient):
    """The support gradients as constants (FOMAML: Finn et al., 2017, section 5.2)."""

    def descend(self, loss: SupportLoss, weights: Weights, descent: Descent) -> Iterator[Weights]:
        """Steps whose derivative is that of ``update`` alone."""
        return descent.along(constant(gradients_of(loss)), weights)


@dataclass(frozen=True)
class FiniteDifference(MetaGradient):
    """Second order from gradients alone: H v = (g(w + r v) - g(w - r v)) / 2r + O(radius²).

    Memory is that of one gradient; the backward pass computes two more gradients per step.

    By default the two gradients are computed in float64, whatever the dtype of the learner, at the
    radius 1e-8 max(1, |w|). With ReLU and max-pooling g jumps, and H v of autograd leaves the jumps
    out: only a radius that crosses none agrees with it, and that is too small for float32. Where
    float64 does not work (some accelerators and networks), use ``Exact(recompute=True)``.

    ``radius``  norm of r v over all weights together, for gradients in the learner's own dtype. For
                smooth networks alone: 1e-2 (float32) or 1e-4 (float64) suits them. With jumps, and
                steps in sequence, no radius is right in float32: of Conv4 with five steps, the
                meta-gradient had a cosine of -0.2 to 0.4 with the exact one at every radius.

    Raises ValueError for a radius that is not positive.
    """

    radius: float | None = None

    def __post_init__(self) -> None:
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"FiniteDifference: needs radius > 0; found {self.radius}.")

    def descend(self, loss: SupportLoss, weights: Weights, descent: Descent) -> Iterator[Weights]:
        """Steps whose second derivatives are finite differences."""
        return descent.along(partial(gradients_with_product, loss, self._product), weights)

    def _product(
        self, problem: Problem, at: Tensors, _: Tensors, v: Tensors, needed: list[int]
    ) -> Tensors:
        dtypes = [at[i].dtype for i in needed]
        if self.radius is None:
            at, v = ([in_double(tensor) for tensor in each] for each in (at, v))
            problem = problem.in_double()
        weights = at[: len(v)]
        length = dot(v, v).sqrt()
        radius: float | Tensor | None = self.radius
        if radius is None:
            radius = 1e-8 * dot(weights, weights).sqrt().clamp_min(1)
        r = radius / length.clamp_min(torch.finfo(length.dtype).tiny)
        gradients = grad(problem.loss, argnums=tuple(needed))
        ahead, behind = (gradients(*shifted(weights, side, v), *at[len(v) :]) for side in (r, -r))
        return [
            ((a - b) / (2 * r)).to(dtype) for a, b, dtype in zip(ahead, behind, dtypes, strict=True)
        ]


@dataclass(frozen=True)
class Implicit(MetaGradient):
    """The derivative of the minimiser that the steps approach, independent of their path (iMAML).

        φ = argmin_w'  L_support(w') + strength / 2 |w' - w|²
        dφ/dw v = (I + H(φ) / strength)^-1 v,  by conjugate gradients    (lemma 1)

    with strength + damping in place of strength in the second line.

    Memory does not depend on the number of steps. Take enough steps to come close to φ. One is
    never enough, because the proximal term has no gradient at w' = w.

    ``strength``      of the proximal term.
    ``solver_steps``  of conjugate gradients, each one product with H. They start at v, so that
                      0 steps are first order. They stop at a direction of negative curvature,
                      where φ is not a minimum.
    ``damping``       stabilises the solution if the steps do not reach φ; 0 is the lemma. The
                      authors' code solves 2 v + H v / (strength + 10), which up to a factor is
                      a damping of 22 at their strength of 2.

    Raises ValueError for strength <= 0, solver_steps < 0 and damping < 0; in the constructor of its
    learner, for a single step, for plain descent at rate * strength >= 2, which diverges by the
    proximal term alone, and for learnt rates, on which φ does not depend.

    Reference: Rajeswaran, Finn, Kakade and Levine (2019), Meta-Learning with Implicit Gradients.
    """

    strength: float = 2.0
    solver_steps: int = 5
    damping: float = 0.0

    def __post_init__(self) -> None:
        if not self.strength > 0 or self.solver_steps < 0 or not self.damping >= 0:
            raise ValueError(
                "Implicit: needs strength > 0, solver_steps >= 0 and damping >= 0; found "
                f"{self.strength}, {self.solver_steps} and {self.damping}."
            )

    def descend(self, loss: SupportLoss, weights: Weights, descent: Descent) -> Iterator[Weights]:
        """Steps on the proximal loss; only the last weights are differentiable."""
        if not isinstance(descent.rates, int | float):
            raise _learnt_rates_error("Implicit.descend")
        problem = Problem(loss, weights)
        tensors = problem.tensors(loss, weights)
        start = {name: w.detach() for name, w in weights.items()}

        def gradients_at(now: Weights) -> Weights:
            gradients = problem.gradients(*now.values(), *tensors[problem.count :])
            return {
                name: g + self.strength * (now[name] - start[name])
                for name, g in zip(start, gradients, strict=True)
            }

        yield weights
        for k, now in enumerate(descent.along(constant(gradients_at), start)):
            if k == descent.steps:
                yield self._solution(problem, tensors, now)
            elif k > 0:
                yield now

    def check(self, who: str, steps: int, rate: float | None, update: Update) -> None:
        """Raise ValueError for settings whose steps cannot come close to φ."""
        if rate is None:
            raise _learnt_rates_error(who)
        if steps < 2:
            raise ValueError(
                f"{who}: Implicit() takes its gradient at the minimum of the proximal loss, but "
                f"the proximal term first acts in step 2; found steps={steps}. Give more; "
                "the paper takes 16 for Omniglot at 5 ways."
            )
        if update is sgd and rate * self.strength >= 2:
            raise ValueError(
                f"{who}: descent on the proximal loss of Implicit() needs rate * strength < 2, or "
                f"it diverges; found rate={rate}, strength={self.strength}. Lower one of them."
            )

    def _solution(self, problem: Problem, tensors: Tensors, end: Weights) -> Weights:
        """``end``, used as φ: a function of all ``tensors`` with the lemma's derivative."""
        count = problem.count

        def values(*given: Tensor) -> tuple[Tensor, ...]:
            return tuple(w.clone() for w in given[-count:])

        constants = (w.detach() for w in end.values())
        found = Pulled.apply(values, partial(self._pull, problem), *tensors, *constants)  # type: ignore[no-untyped-call]
        return dict(zip(end, found, strict=True))

    def _pull(
        self, problem: Problem, at: Tensors, end: Tensors, v: Tensors, needed: list[int]
    ) -> Tensors:
        count, strength = problem.count, self.strength + self.damping
        tensors = [*end, *at[count:-count]]  # the loss is differentiated at these values
        others = [i for i in needed if i >= count]

        def gradients(*chosen: Tensor) -> tuple[Tensor, ...]:
            return problem.gradients(*replaced(tensors, [*range(count), *others], chosen))

        back = vjp(gradients, *end, *(at[i] for i in others))[1]

        def product(x: Tensors) -> Tensors:
            return shifted(x, 1 / strength, back(tuple(x))[:count])

        x = conjugate_gradients(product, v, self.solver_steps)
        mixed = [-m / strength for m in back(tuple(x))[count:]]
        return [*(x[i] for i in needed if i < count), *mixed]


def _learnt_rates_error(who: str) -> ValueError:
    return ValueError(
        f"{who}: Implicit() gives learnt rates no gradient, because the minimiser of its loss does "
        "not depend on them. Use fixed rates, Exact(), FirstOrder() or FiniteDifference()."
    )


@dataclass(frozen=True)
class Annealed(MetaGradient):
    """First order at the beginning of training, ``then`` another method (MAML++'s DA).

    ``first_order_until``  share of training. Outside of training ``then`` is always used.

    Raises ValueError for a share that is not in [0, 1].

    Reference: Antoniou, Edwards and Storkey (2019), How to Train Your MAML, section 4.
    """

    first_order_until: float = 0.3
    then: MetaGradient = Exact()

    def __post_init__(self) -> None:
        if not 0 <= self.first_order_until <= 1:
            raise ValueError(
                "Annealed: first_order_until is a share of training, in [0, 1]; found "
                f"{self.first_order_until}."
            )

    @property
    def scheduled(self) -> bool:
        """Whether there is a first-order share, or ``then`` changes during training."""
        return self.first_order_until > 0 or self.then.scheduled

    def descend(self, loss: SupportLoss, weights: Weights, descent: Descent) -> Iterator[Weights]:
        """Steps as at the end of training."""
        return self.then.descend(loss, weights, descent)

    def at(self, progress: float) -> MetaGradient:
        """First order, or ``then``."""
        return FirstOrder() if progress < self.first_order_until else self.then.at(progress)

    def check(self, who: str, steps: int, rate: float | None, update: Update) -> None:
        """Check the settings by ``then``; first order supports all settings."""
        self.then.check(who, steps, rate, update)
