"""Which tasks to train together: the best total gain that at most k networks can give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.answers.checks import check_count
from quickstudy.base.words import count
from quickstudy.evaluation.strict_json import plain
from quickstudy.relations.affinity import Affinity

EXACT = 10
"""Most tasks for which all groups are compared: 2^10 - 1 of them."""


@dataclass(frozen=True)
class Grouping:
    """Networks, the tasks that each is trained on, and which of them serves each task.

    ``groups``  the tasks of each network; a task may help in several.
    ``serves``  for each task, the place of the network that predicts it.
    ``total``   the sum over tasks of what their group does for them.
    ``exact``   whether no other choice has a larger total; else it is the best of those groups that
                were compared.
    """

    groups: tuple[tuple[str, ...], ...]
    serves: dict[str, int]
    total: float
    exact: bool

    def __str__(self) -> str:
        lines = []
        for place, group in enumerate(self.groups):
            served = [name for name in group if self.serves[name] == place]
            helping = [name for name in group if self.serves[name] != place]
            also = f" (helped by {', '.join(helping)})" if helping else ""
            lines.append(f"  network {place + 1}: {', '.join(served)}{also}")
        how = "the best there is" if self.exact else "the best of the groups compared"
        return "\n".join([f"total gain {self.total:.3g}, {how}", *lines])

    def to_json(self) -> dict[str, Any]:
        """As strict JSON."""
        return {"groups": [list(group) for group in self.groups], "serves": self.serves,
                "total": plain(self.total), "exact": self.exact}  # fmt: skip


def best_groups(affinity: Affinity, networks: int) -> Grouping:
    """At most ``networks`` groups of tasks with the largest total gain.

        gain of task j in group G = mean over the others i of G of affinity[i, j];  0 alone

    Each task is predicted by one network that it is trained in, and may help in others. Choosing
    groups is a facility location problem: scipy's ``milp`` (branch and bound of HiGHS) solves it,
    to the optimum. For up to :data:`EXACT` tasks every group is compared. Above, only those of a
    task with its 1, 2, 4, 8, … best helpers, and those of the tree of average linkage: the choice
    among these is the best, but another group may be better. Pairs that were not measured count 0.

    Raises ValueError for fewer than 1 network.

    Reference: Standley et al. (2020), Which Tasks Should Be Learned Together in Multi-task
    Learning?, ICML, for the problem; Fifty et al. (2021), NeurIPS, for the mean over a group.

    >>> import torch
    >>> import quickstudy as qs
    >>> helps = torch.tensor([[0.0, 1.0, -1.0], [1.0, 0.0, -1.0], [-1.0, -1.0, 0.0]])
    >>> found = qs.relations.best_groups(
    ...     qs.relations.Affinity("pairwise gain", ("a", "b", "c"), helps), networks=2)
    >>> found.groups
    (('a', 'b'), ('c',))
    """
    check_count("best_groups", "networks", networks, 1)
    matrix, tasks = affinity.matrix.double().nan_to_num(0.0), len(affinity.names)
    exact = tasks <= EXACT
    groups = _every_group(tasks) if exact else _likely_groups(affinity, matrix)
    gains = torch.stack([_gains(matrix, group) for group in groups])
    chosen, serves = _locate(gains, networks)
    names = affinity.names
    places = {group: place for place, group in enumerate(chosen)}
    return Grouping(
        tuple(tuple(names[i] for i in groups[g]) for g in chosen),
        {names[task]: places[group] for task, group in enumerate(serves)},
        float(sum(gains[group, task] for task, group in enumerate(serves))),
        exact,
    )


def _gains(matrix: Tensor, group: Sequence[int]) -> Tensor:
    """(tasks,): what the group does for each of its tasks; -inf for tasks that are not in it."""
    found = torch.full((len(matrix),), -torch.inf, dtype=torch.float64)
    inside = matrix[list(group)][:, list(group)].clone().fill_diagonal_(0.0)
    found[list(group)] = inside.sum(0) / max(len(group) - 1, 1)
    return found


def _locate(gains: Tensor, networks: int) -> tuple[list[int], list[int]]:
    """The chosen groups, and for each task the group that serves it, from gains (groups, tasks).

    maximise sum_gj gains_gj x_gj  with  sum_g x_gj = 1,  x_gj <= y_g,  sum_g y_g <= networks
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_matrix

    number, tasks = gains.shape
    g, j = (part.numpy() for part in torch.isfinite(gains).nonzero(as_tuple=True))
    pairs = np.arange(len(g))
    cost = np.concatenate([-gains[g, j].numpy(), np.zeros(number)])
    size = len(cost)
    one_each = coo_matrix((np.ones(len(g)), (j, pairs)), (tasks, size))
    opened = coo_matrix(
        (np.concatenate([np.ones(len(g)), -np.ones(len(g))]),
         (np.concatenate([pairs, pairs]), np.concatenate([pairs, len(g) + g]))), (len(g), size),
    )  # fmt: skip
    most = coo_matrix(
        (np.ones(number), (np.zeros(number, int), len(g) + np.arange(number))), (1, size)
    )
    # x is whole by itself where y is: each task takes the best open group.
    whole = np.concatenate([np.zeros(len(g)), np.ones(number)])
    solved = milp(
        cost, integrality=whole, bounds=Bounds(0, 1), options={"mip_rel_gap": 0.0},
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(opened, -np.inf, 0),
                     LinearConstraint(most, 0, networks)],
    )  # fmt: skip
    if solved.x is None:
        raise RuntimeError(f"best_groups: scipy's milp found no solution: {solved.message}.")
    opened_groups = np.flatnonzero(solved.x[len(g) :] > 0.5).tolist()
    best = gains[opened_groups].argmax(0)
    serves = [opened_groups[place] for place in best.tolist()]
    return [group for group in opened_groups[::-1] if group in serves], serves


def _every_group(tasks: int) -> list[tuple[int, ...]]:
    sizes = range(1, tasks + 1)
    return [group for size in sizes for group in combinations(range(tasks), size)]


def _likely_groups(affinity: Affinity, matrix: Tensor) -> list[tuple[int, ...]]:
    """Every task alone, all together, each with its best helpers, and the tree's groups."""
    tasks = len(matrix)
    found: list[Iterable[int]] = [[task] for task in range(tasks)]
    found.append(range(tasks))
    both = (matrix + matrix.T) / 2
    for task in range(tasks):
        order = [i for i in both[task].argsort(descending=True).tolist() if i != task]
        size = 1
        while size < tasks:
            found.append([task, *order[:size]])
            size *= 2
    filled = Affinity(affinity.what, affinity.names, matrix)
    for k in range(2, tasks):
        for cluster in filled.clusters(k):
            found.append([affinity.names.index(name) for name in cluster])
    return sorted({tuple(sorted(group)) for group in found}, key=lambda group: (len(group), group))


def describe_choice(tasks: int) -> str:
    """How :func:`best_groups` chooses for this number of tasks, for reports."""
    if tasks <= EXACT:
        return f"all groups of {count(tasks, 'task')} were compared"
    return f"likely groups were compared, since {count(tasks, 'task')} have too many"
