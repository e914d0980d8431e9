"""Choosing the rate and the number of steps by cross-validation on a support set."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from quickstudy.answers import Classes
from quickstudy.answers.classes import one_hot
from quickstudy.base.modules import values_can_be_read
from quickstudy.core import Answer, Examples
from quickstudy.learners.gradient.descend import Weights
from quickstudy.learners.transfer.starting_heads import StartingHead, of_length
from quickstudy.learners.transfer.tuning import BIAS, WEIGHT, Problem, Tuning, path, with_weights
from quickstudy.objectives import mean_loss


class Chosen(NamedTuple):
    """A rate and a number of steps; tensors () where their values cannot be read."""

    rate: float | Tensor
    steps: int | Tensor


def starting_weights(
    problem: Problem, head: StartingHead, l2: float, features: Tensor | None = None
) -> Weights:
    """The head's start on ``features``, by default the trunk's, and differences of zero."""
    features = problem.trunk.fixed if features is None else features
    if problem.tuning.feature_length is not None:
        features = of_length(features, problem.tuning.feature_length)
    weight, bias = head(features, problem.rows, problem.spec, l2)
    body = [name for group in problem.groups for name in group.names if name not in (WEIGHT, BIAS)]
    base = problem.trunk.base
    zeros = {name: torch.zeros_like(base[name.split(".", 1)[1]]) for name in body}
    return {WEIGHT: weight.contiguous(), BIAS: bias.contiguous(), **zeros}


def chosen_settings(problem: Problem, head: StartingHead, l2: float) -> Chosen:
    """The rate and steps with the least loss on held-out support rows; the first ones of a tie.

    Each fold of the rows is predicted after steps on the others; folds hold rows of every class.

    With fewer than 2 rows of a class, or 2 in all, nothing can be held out: they are the first
    ones given, and a warning says so.
    """
    tuning, rows, answer = problem.tuning, problem.rows, problem.spec.answer
    first = Chosen(tuning.all_rates[0], tuning.all_steps[0])
    if not tuning.chooses:
        return first
    number = _numbers(rows, answer)
    least = _fewest(rows, answer)
    readable = values_can_be_read(least)
    if readable and int(least) < 2:
        _tell(tuning, int(least), answer)
        return first
    losses = _held_out_losses(problem, head, l2, number % tuning.folds, readable)
    best = losses.flatten().argmin()
    if readable:
        rate, steps = divmod(int(best), len(tuning.all_steps))
        return Chosen(tuning.all_rates[rate], tuning.all_steps[steps])
    best = torch.where(least < 2, 0, best)
    rates = torch.tensor(tuning.all_rates, dtype=losses.dtype, device=losses.device)
    steps_ = torch.tensor(tuning.all_steps, device=losses.device)
    # Products with one-hot vectors instead of indices, which vmap would read.
    place = torch.arange(losses.numel(), device=losses.device) == best
    table = place.reshape(losses.shape)
    return Chosen((table.any(1) * rates).sum(), (table.any(0) * steps_).sum())


def _held_out_losses(
    problem: Problem, head: StartingHead, l2: float, fold: Tensor, readable: bool
) -> Tensor:
    """(rates, steps): the summed loss of the rows of each fold, after steps on the others."""
    tuning, weights = problem.tuning, problem.rows.weights
    total = weights.new_zeros(len(tuning.all_rates), len(tuning.all_steps))
    for k in range(tuning.folds):
        held = weights * (fold == k)
        if readable and not bool(held.any()):
            continue
        kept = with_weights(problem, weights - held)
        start = starting_weights(kept, head, l2)
        rows = [_losses(kept, start, rate, held) for rate in tuning.all_rates]
        total = total + held.sum() * torch.stack(rows)
    return total.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _losses(problem: Problem, start: Weights, rate: float, held: Tensor) -> Tensor:
    """(steps,): the mean loss of the ``held`` rows after each number of steps."""
    tuning, found = problem.tuning, {}
    rows = problem.rows._replace(weights=held)
    steps = path(problem, start, rate, tuning.most_steps, strict=False)
    for k, weights in enumerate(steps):
        if k in tuning.all_steps:
            with torch.no_grad():
                predictions = problem.predictions(weights)
                found[k] = mean_loss(predictions, rows, problem.spec.answer, problem.present)
    return torch.stack([found[k] for k in tuning.all_steps])


def _numbers(rows: Examples, answer: Answer) -> Tensor:
    """(n,): 0 for the first row of its class, or of all, 1 for the second, …"""
    present = (rows.weights > 0).long()
    if not isinstance(answer, Classes):
        return present.cumsum(0) - 1
    of_class = one_hot(rows.targets, answer.outputs, torch.long) * present.unsqueeze(-1)
    return (of_class.cumsum(0) * of_class).sum(-1) - 1


def _fewest(rows: Examples, answer: Answer) -> Tensor:
    """The number () of rows of the class with the fewest, or of all rows."""
    present = (rows.weights > 0).long()
    if not isinstance(answer, Classes):
        return present.sum()
    counts = (one_hot(rows.targets, answer.outputs, torch.long) * present.unsqueeze(-1)).sum(0)
    return torch.where(counts > 0, counts, counts.max()).min()


def _tell(tuning: Tuning, least: int, answer: Answer) -> None:
    what = "of each class" if isinstance(answer, Classes) else "in all"
    warnings.warn(
        f"{tuning.learner}: choosing steps and rate by cross-validation needs 2 support rows {what}"
        f"; found {least}. So it takes the first ones, steps={tuning.all_steps[0]} and "
        f"rate={tuning.all_rates[0]:g}. Give more rows, or one value of each.",
        stacklevel=2,
    )
