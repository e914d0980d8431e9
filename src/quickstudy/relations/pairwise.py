"""The gain of every task from being trained with each other one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import torch

from quickstudy.base.words import count
from quickstudy.core import Learner
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.results import Evaluation
from quickstudy.relations.affinity import Affinity
from quickstudy.tasks.named_tasks import NamedTasks
from quickstudy.training.fit import fit
from quickstudy.training.optimisers import OptimiserMaker

Train = Callable[[tuple[str, ...]], Evaluation]
"""(names of the tasks to train together) -> the evaluation of these tasks afterwards."""


def pairwise_gains(
    train: Train,
    names: Sequence[str],
    *,
    budget: int | None = None,
    first: Affinity | None = None,
    seed: int = 0,
) -> Affinity:
    """Entry [i, j]: the relative gain of task j from training with i, over training j alone.

    ``train``   trains a new learner on the tasks of these names, and evaluates it on them: see
                :func:`train_on`. It must be a function of the names alone, with a fixed seed.
    ``names``   of the tasks.
    ``budget``  most calls of ``train``: T for single tasks and T (T - 1) / 2 for all pairs, the
                default. With fewer, some pairs stay NaN.
    ``first``   a cheap affinity, such as gradient cosines: the pairs that it ranks highest are
                trained first. Without it, pairs are taken at random by ``seed``.

    The gains of one training are noisy: where they decide, train with several seeds and take the
    mean.

    Raises ValueError for fewer than 2 names, and a budget that leaves no pair.

    Reference: Standley et al. (2020), Which Tasks Should Be Learned Together in Multi-task
    Learning?, ICML.
    """
    names = tuple(dict.fromkeys(names))
    tasks = len(names)
    pairs = list(combinations(range(tasks), 2))
    whole = tasks + len(pairs)
    budget = whole if budget is None else budget
    if tasks < 2 or budget <= tasks:
        raise ValueError(
            f"pairwise_gains: {count(tasks, 'task')} need {tasks} trainings alone and up to "
            f"{len(pairs)} in pairs; found a budget of {budget}. Give {tasks + 1} or more, for "
            "at least 2 tasks."
        )
    matrix = torch.full((tasks, tasks), torch.nan, dtype=torch.float64)
    alone = [train((name,)) for name in names]
    for i, j in _in_order(pairs, names, first, seed)[: budget - tasks]:
        together = train((names[i], names[j]))
        for giver, receiver in ((i, j), (j, i)):
            matrix[giver, receiver] = _gain(together, alone[receiver], names[receiver])
    return Affinity("pairwise gain", names, matrix)


def train_on(
    make: Callable[[Mapping[str, int]], Learner],
    train: NamedTasks,
    test: NamedTasks,
    steps: int,
    *,
    rows: int = 32,
    tasks_per_step: int = 8,
    optimiser: OptimiserMaker | None = None,
    seed: int = 0,
) -> Train:
    """A function from names to the evaluation of a learner that was trained on these tasks.

    ``make``   the number of outputs of each task -> a new learner: its weights by a fixed seed.
    ``train``, ``test``  rows of all tasks; ``steps``, ``tasks_per_step``, ``optimiser`` as for
               :func:`quickstudy.fit`, ``rows`` as for :meth:`NamedTasks.batches`.
    """

    def train_and_score(names: tuple[str, ...]) -> Evaluation:
        own = train.only(names)
        learner = make(own.outputs)
        fit(
            learner, own.batches(rows), steps, tasks_per_step, optimiser=optimiser, seed=seed,
            progress=False,
        )  # fmt: skip
        return evaluate(learner, own.tested_on(test.only(names)), seed=seed, baselines=False)

    return train_and_score


def _gain(together: Evaluation, alone: Evaluation, name: str) -> float:
    multi, single = together.row(name), alone.row(name)
    sign = 1.0 if multi.higher_is_better else -1.0
    if single.mean == 0:
        return torch.nan
    return sign * (multi.mean - single.mean) / abs(single.mean)


def _in_order(
    pairs: Sequence[tuple[int, int]], names: Sequence[str], first: Affinity | None, seed: int
) -> list[tuple[int, int]]:
    """The pairs, those to be trained first in front."""
    if first is None:
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
        return [pairs[place] for place in order.tolist()]

    def rank(pair: tuple[int, int]) -> float:
        one, other = (names[place] for place in pair)
        return -(first.of(one, other) + first.of(other, one))

    return sorted(pairs, key=rank)
