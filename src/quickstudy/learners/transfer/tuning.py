"""Steps on the differences from a pretrained network's weights, and on a linear head."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quickstudy.base.modules import in_torch_func, values_can_be_read
from quickstudy.base.weighting import weights_are_uniform
from quickstudy.core import Examples, TaskSpec
from quickstudy.learners.gradient.descend import Loss, Rate, Update, Weights, clipped
from quickstudy.learners.transfer.starting_heads import of_length
from quickstudy.learners.transfer.trunk import Trunk
from quickstudy.objectives import mean_loss
from quickstudy.tasks.examples import without_absent

WEIGHT, BIAS, BODY = "head.weight", "head.bias", "backbone."
"""Names of the head's weights, and the prefix of the names of the backbone's differences."""


@dataclass(frozen=True)
class Tuning:
    """The settings of the steps; :class:`quickstudy.FineTune` explains them."""

    learner: str
    steps: int | tuple[int, ...]
    rate: float | tuple[float, ...]
    update: Update
    clip: float | None
    layer_decay: float
    unfreeze_every: int | None
    towards_start: float
    towards_zero: float
    weight_decay: float
    batch: int | None
    seed: int
    folds: int
    feature_length: float | None
    falling: bool = False

    def __post_init__(self) -> None:
        checks: list[tuple[str, Sequence[Any], Callable[[Any], bool], str]] = [
            ("steps", self.all_steps, lambda v: v >= 0, "at least 0"),
            ("rate", self.all_rates, _positive, "a positive number"),
            ("clip", [self.clip], lambda v: v is None or _positive(v), "a positive number"),
            ("layer_decay", [self.layer_decay], lambda v: 0 < v <= 1, "above 0 and at most 1"),
            ("unfreeze_every", [self.unfreeze_every], lambda v: v is None or v >= 1, "at least 1"),
            ("towards_start", [self.towards_start], _not_negative, "a number of at least 0"),
            ("towards_zero", [self.towards_zero], _not_negative, "a number of at least 0"),
            ("weight_decay", [self.weight_decay], _not_negative, "a number of at least 0"),
            ("batch", [self.batch], lambda v: v is None or v >= 1, "at least 1"),
            ("folds", [self.folds], lambda v: v >= 2, "at least 2"),
            ("feature_length", [self.feature_length], lambda v: v is None or _positive(v),
             "a positive number"),
        ]  # fmt: skip
        for name, values, fits, rule in checks:
            wrong = [value for value in values if not fits(value)]
            if wrong or not values:
                found = wrong[0] if wrong else "()"
                raise ValueError(f"{self.learner}: {name} must be {rule}; found {found}.")

    @property
    def all_steps(self) -> tuple[int, ...]:
        """The numbers of steps to choose from."""
        return self.steps if isinstance(self.steps, tuple) else (self.steps,)

    @property
    def all_rates(self) -> tuple[float, ...]:
        """The rates to choose from."""
        return self.rate if isinstance(self.rate, tuple) else (self.rate,)

    @property
    def most_steps(self) -> int:
        """The greatest number of steps to choose from."""
        return max(self.all_steps)

    @property
    def chooses(self) -> bool:
        """Whether steps or rate are to be chosen."""
        return len(self.all_steps) * len(self.all_rates) > 1


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _not_negative(value: float) -> bool:
    return 0 <= value < math.inf


class Group(NamedTuple):
    """Weights at one depth below the head, which is at depth 0; they step together."""

    depth: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """What the steps minimise: the loss of support rows, with penalties.

        mean loss + ½ towards_start |θ - θ₀|² + ½ towards_zero |head|² + ½ weight_decay |θ, head|²

    ``groups``  what moves, from the head back.
    ``order``   (n,): row indices in the order of batches, those of weight 0 last; None where every
                step takes all rows.
    """

    trunk: Trunk
    rows: Examples
    spec: TaskSpec
    groups: Sequence[Group]
    tuning: Tuning
    order: Tensor | None = None

    @property
    def present(self) -> Tensor | None:
        """(outputs,): the classes of the support set; None where all outputs always are."""
        return self.spec.answer.present(self.rows.targets, self.rows.weights)

    def predictions(self, weights: Weights, chosen: Tensor | None = None) -> Tensor:
        """Predictions (n, outputs) for the rows, or for the ``chosen`` ones."""
        body = {n.removeprefix(BODY): w for n, w in weights.items() if n.startswith(BODY)}
        features = self.trunk.features(body, chosen)
        logits = head_on(features, weights[WEIGHT], weights[BIAS], self.tuning.feature_length)
        return without_absent(logits, self.present)

    def loss(self, weights: Weights, step: int = 0) -> Tensor:
        """The loss with penalties, on the rows of a step."""
        rows, chosen = self.rows, None
        if self.order is not None:
            rows, chosen = self._batch(self.order, step)
        predictions = self.predictions(weights, chosen)
        total = mean_loss(predictions, rows, self.spec.answer, uniform=self._uniform)
        return total + self._penalty(weights)

    @property
    def _uniform(self) -> bool:
        return self.order is None and not self.tuning.chooses and weights_are_uniform()

    def _batch(self, order: Tensor, step: int) -> tuple[Examples, Tensor]:
        size = min(self.tuning.batch or len(order), len(order))
        present = (self.rows.weights > 0).sum().clamp_min(1)
        place = torch.arange(size, device=order.device)
        chosen = order[(step * size + place) % present]
        rows = Examples(
            self.rows.inputs,
            self.rows.targets[chosen],
            self.rows.weights[chosen] * (place < present),
            self.rows.groups[chosen],
        )
        return rows, chosen

    def _penalty(self, weights: Weights) -> Tensor | float:
        tuning = self.tuning
        terms = []
        for name, weight in weights.items():
            body = name.startswith(BODY)
            own = tuning.towards_start if body else tuning.towards_zero
            if own:
                terms.append(own / 2 * weight.square().sum())
            if tuning.weight_decay:
                whole = weight + self.trunk.base[name.removeprefix(BODY)] if body else weight
                terms.append(tuning.weight_decay / 2 * whole.square().sum())
        return torch.stack(terms).sum() if terms else 0.0


def head_on(features: Tensor, weight: Tensor, bias: Tensor, length: float | None) -> Tensor:
    """Predictions (n, outputs) of a linear head on ``features``, scaled to ``length`` if given."""
    if length is not None:
        features = of_length(features, length)
    return features @ weight.mT + bias


def path(
    problem: Problem, start: Weights, rate: float | Tensor, steps: int, strict: bool = True
) -> Iterator[Weights]:
    """The weights before the first step, after it, … after the last, without gradients.

    ``rate``    of the head; that of depth d is rate * layer_decay ** d. Where it is ``falling``,
                it falls to 0 along half a cosine.
    ``strict``  raise ValueError where the loss is not finite.
    """
    tuning = problem.tuning
    weights = {name: weight.detach() for name, weight in start.items()}
    memories: dict[int, object] = {}
    yield weights
    for k in range(steps):
        active = unfrozen(problem.groups, tuning.unfreeze_every, k)
        moving = {name: weights[name] for group in active for name in group.names}
        gradients, value = _gradients(partial(problem.loss, step=k), moving)
        if strict and values_can_be_read(value) and not bool(value.isfinite()):
            raise _diverged(tuning, rate, k)
        if tuning.clip is not None:
            gradients = clipped(gradients, tuning.clip)
        for group in active:
            # Each group has its own memory, since those of layers that join later start later.
            fall = (1 + math.cos(math.pi * k / steps)) / 2 if tuning.falling else 1.0
            at = rate * fall * tuning.layer_decay**group.depth
            rates: Rate = dict.fromkeys(group.names, at)  # type: ignore[arg-type]
            stepped, memories[group.depth] = tuning.update(
                {name: weights[name] for name in group.names},
                {name: gradients[name] for name in group.names},
                rates,
                memories.get(group.depth),
            )
            weights = weights | stepped
        yield weights


def unfrozen(groups: Sequence[Group], every: int | None, step: int) -> Sequence[Group]:
    """The groups that move in this step: one more every ``every`` steps, or all from the start."""
    return groups if every is None else groups[: 1 + step // every]


def _gradients(loss: Loss, weights: Weights) -> tuple[Weights, Tensor]:
    """The gradient of ``loss`` and its value, both without a graph."""
    with torch.no_grad():
        if in_torch_func() or torch.is_inference_mode_enabled():
            gradients, value = torch.func.grad_and_value(loss)(weights)
            return gradients, value
        with torch.enable_grad():
            free = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            value = loss(free)
            found = torch.autograd.grad(value, list(free.values()), materialize_grads=True)
        return dict(zip(free, found, strict=True)), value.detach()


def _diverged(tuning: Tuning, rate: float | Tensor, step: int) -> ValueError:
    return ValueError(
        f"{tuning.learner}: the loss on the support set must be finite, but after "
        f"{step} of its steps at the rate {float(rate):g} it is not. Lower rate or give clip=1.0; "
        "where this is before the first step, look for huge values in inputs and features."
    )


def with_weights(problem: Problem, weights: Tensor) -> Problem:
    """The same problem with other row weights (n,)."""
    return replace(problem, rows=problem.rows._replace(weights=weights))
