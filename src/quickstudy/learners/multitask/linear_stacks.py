"""Linear models of many tasks, solved together from few rows, and settings chosen for all of them.

The sum of squares of a linear model is that of at most as many rows as there are features. So each
task is reduced to them once, and tasks of equal size are solved together (:func:`stacked`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from quickstudy.learners.multitask.linear_rows import Linear, LinearRows

Setting = TypeVar("Setting")

_NUMBERS = 2**24
"""Numbers in the rows of a stack, at most, for the memory that solving takes."""


class Stack(NamedTuple):
    """Tasks reduced to rows of one size, which have the same sums of squares.

        sum_i w_i |x_i W + b - y_i|^2 = |rows W - targets|^2 + a constant

    ``tasks``    their places in the sequence of tasks.
    ``outputs``  the places of the k outputs.
    ``rows``     (tasks, m, d), with one more column for the offset where it is part of W; else
                 centred, and b is the best offset for W.
    ``targets``  (tasks, m, k).
    ``means``    of features (tasks, d) and of targets (tasks, k), where they were subtracted.
    """

    tasks: list[int]
    outputs: list[int]
    rows: Tensor
    targets: Tensor
    means: tuple[Tensor, Tensor] | None


def stacked(tasks: Sequence[LinearRows], with_ones: bool = False) -> list[Stack]:
    """The tasks, each reduced to as many rows as it has features at most, in stacks.

    ``with_ones``  whether features get a column of ones, for offsets that are part of the weight;
                   else they are centred.
    """
    alike: dict[tuple[int, tuple[int, ...]], list[tuple[int, list[Tensor]]]] = {}
    for place, task in enumerate(tasks):
        for outputs, targets, weights in task.parts():
            reduced = _reduced(task.features, targets, weights, with_ones)
            alike.setdefault((len(reduced[0]), tuple(outputs)), []).append((place, reduced))
    stacks = []
    for (m, places), each in alike.items():
        most = max(1, _NUMBERS // max(1, m * each[0][1][0].shape[1]))
        for chunk in (each[i : i + most] for i in range(0, len(each), most)):
            members, parts = zip(*chunk, strict=True)
            x, y, *means = (torch.stack(part) for part in zip(*parts, strict=True))
            both = None if with_ones else (means[0], means[1])
            stacks.append(Stack(list(members), list(places), x, y, both))
    return stacks


def _reduced(x: Tensor, y: Tensor, weights: Tensor, with_ones: bool) -> list[Tensor]:
    """Rows and targets of the same sums of squares, and the means that were subtracted."""
    share = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
    means = share @ x, share @ y
    if with_ones:
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
    else:
        x, y = x - means[0], y - means[1]
    root = weights.sqrt().unsqueeze(-1)
    x, y = root * x, root * y
    if len(x) > x.shape[1]:
        q, x = torch.linalg.qr(x)
        y = q.mT @ y
    return [x, y, *means]


def linear_models(
    tasks: Sequence[LinearRows], stacks: Sequence[Stack], weights: Sequence[Tensor]
) -> list[Linear]:
    """The model of each task, from the weights (tasks, d or d + 1, k) of every stack."""
    models = []
    for task in tasks:
        d, outputs = task.features.shape[1], task.encoded.shape[1]
        models.append((task.features.new_zeros(d, outputs), task.features.new_zeros(outputs)))
    for stack, found in zip(stacks, weights, strict=True):
        if stack.means is None:
            found, offsets = found[:, :-1], found[:, -1]
        else:
            offsets = stack.means[1] - torch.einsum("td,tdk->tk", stack.means[0], found)
        for place, w, b in zip(stack.tasks, found, offsets, strict=True):
            weight, offset = models[place]
            weight[:, stack.outputs], offset[stack.outputs] = w, b
    return models


def best_setting(
    settings: Sequence[Setting],
    tasks: Sequence[LinearRows],
    fit: Callable[[Setting, Sequence[Stack]], Sequence[Tensor]],
    with_ones: bool,
    folds: int,
    seed: int,
) -> Setting:
    """The setting with the least squared error on left-out rows; of a tie, the first.

    The rows of every task are dealt to ``folds`` folds at random. ``fit`` gives the weights of all
    stacks without the rows of one fold, which the models then predict.

    Raises ValueError for less than 2 folds.
    """
    if folds < 2:
        raise ValueError(f"learn_from: choosing needs at least 2 folds; found {folds}. Use 5.")
    generator = torch.Generator().manual_seed(seed)
    fold_of = [torch.randperm(len(t.counts), generator=generator) % folds for t in tasks]
    errors = dict.fromkeys(range(len(settings)), 0.0)
    for fold in range(folds):
        left_out = [(of == fold).double().unsqueeze(-1) for of in fold_of]
        rest = [
            task._replace(counts=task.counts * (1 - out))
            for task, out in zip(tasks, left_out, strict=True)
        ]
        stacks = stacked(rest, with_ones)
        for number, setting in enumerate(settings):
            models = linear_models(rest, stacks, fit(setting, stacks))
            for task, out, (weight, offset) in zip(tasks, left_out, models, strict=True):
                squares = (task.features @ weight + offset - task.encoded).square()
                errors[number] += float((task.counts * out * squares).sum())
    return settings[min(errors, key=errors.__getitem__)]


def listed(values: float | Sequence[float]) -> list[float]:
    """One number, or several to choose from, as a list."""
    return [float(v) for v in (values if isinstance(values, Sequence) else [values])]
