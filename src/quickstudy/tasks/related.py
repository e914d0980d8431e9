"""Made-up tasks whose relations are known: clusters of alike tasks, and some that do harm."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.base.arguments import typed
from quickstudy.base.shown import shown
from quickstudy.core import Answer, TaskSpec
from quickstudy.tasks.counts import Count, bounds_of, draw_count
from quickstudy.tasks.domains import domains
from quickstudy.tasks.examples import examples
from quickstudy.tasks.named_tasks import NamedTasks
from quickstudy.tasks.numbering import generator


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class Related:
    """What :func:`related` makes: tasks, and the truth about them, in the order of the tasks.

    ``tasks``     by name.
    ``weights``   (tasks, features): of each task's true function.
    ``clusters``  (tasks,): the cluster of each task; -1 for a harmful one.
    ``harmful``   (tasks,): whether a task was planted to harm the others.
    ``noise``     the standard deviation of the noise: the smallest root mean squared error.
    """

    tasks: NamedTasks
    weights: Tensor = field(repr=False)
    clusters: Tensor
    harmful: Tensor = field(repr=False)
    noise: float


@typed
def related(
    tasks: int,
    clusters: int = 1,
    noise: float = 0.5,
    *,
    harmful: int = 0,
    features: int = 20,
    rows: Count = 30,
    spread: float = 0.1,
    answer: Answer | None = None,
    seed: int = 0,
) -> Related:
    """Linear tasks in clusters of alike weights, for methods that claim to find relations.

    Inputs are standard normal, and task t has targets

        y = x · w_t + noise · ε,      w_t = c_k(t) + spread · e_t,

    where the centres c_k are random, orthogonal and of length 1, and the expected square of the
    length of e_t is 1. So tasks of one cluster nearly agree, and tasks of two have nothing in
    common. Harmful tasks have the centre -(c_1 + c_2 + …) / √clusters in place of c_k: what they
    teach is wrong for every cluster. Tasks are in random order, and their names tell nothing.

    ``tasks``     how many in clusters; these have equal sizes, or differ by 1.
    ``clusters``  how many, at most ``features``.
    ``noise``     standard deviation of the noise; that of the signal is √(1 + spread²).
    ``harmful``   further tasks that harm the others.
    ``features``  columns of the inputs.
    ``rows``      of each task, or a pair: each task draws its own number.
    ``spread``    how much tasks of one cluster differ.
    ``answer``    ``Reals(1)`` by default; for ``Classes(2)`` and ``Labels(1)`` the target says
                  whether y is positive.

    Raises ValueError for numbers that allow no such tasks, and for another answer.

    >>> import quickstudy as qs
    >>> made = qs.tasks.related(6, clusters=2, noise=0.1, harmful=1)
    >>> len(made.tasks), sorted(made.clusters.tolist())
    (7, [-1, 0, 0, 0, 1, 1, 1])
    """
    answer = Reals(1) if answer is None else answer
    fewest, most = bounds_of("rows", rows, "related")
    _check(tasks, clusters, noise, harmful, features, spread, answer)
    random = generator(seed)
    order = torch.randperm(tasks + harmful, generator=random)
    place = torch.cat([torch.arange(tasks) % clusters, torch.full((harmful,), -1)])[order]
    centres = torch.linalg.qr(_normal((features, clusters), random))[0].T
    against = -centres.sum(0, keepdim=True) / clusters**0.5
    own = _normal((tasks + harmful, features), random) / features**0.5
    weights = torch.cat([centres, against])[place] + spread * own  # place -1 is the last
    digits = len(str(tasks + harmful))
    made = {}
    for number, w in enumerate(weights, 1):
        x = _normal((draw_count((fewest, most), random), features), random)
        y = (x @ w + noise * _normal((len(x),), random))[:, None]
        name = f"task_{number:0{digits}d}"
        made[name] = examples(x.float(), _as_targets(y, answer)), TaskSpec(answer, name)
    return Related(domains(made), weights, place, place < 0, noise)


def _as_targets(y: Tensor, answer: Answer) -> Tensor:
    """``y`` (n, 1), or whether it is positive: ids (n,) or labels (n, 1)."""
    if isinstance(answer, Reals):
        return y.float()
    positive = (y > 0).long()
    return positive[:, 0] if isinstance(answer, Classes) else positive


def _normal(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=random, dtype=torch.float64)


def _check(
    tasks: int,
    clusters: int,
    noise: float,
    harmful: int,
    features: int,
    spread: float,
    answer: Answer,
) -> None:
    counts = (tasks, clusters, features, harmful)
    whole = all(isinstance(each, int) for each in counts)
    if not whole or not 1 <= clusters <= min(tasks, features) or harmful < 0:
        raise ValueError(
            "related: all are whole numbers; clusters must be at least 1, and at most the number "
            f"of tasks and of features, and harmful at least 0; found tasks={tasks}, "
            f"clusters={clusters}, features={features}, harmful={harmful}. Ask for fewer clusters."
        )
    if not (0 <= noise < math.inf and 0 <= spread < math.inf):
        raise ValueError(
            "related: noise and spread must be finite numbers of at least 0; found "
            f"noise={noise}, spread={spread}."
        )
    if answer not in (Reals(1), Classes(2), Labels(1)):
        raise ValueError(
            f"related: answer must be Reals(1), Classes(2) or Labels(1); found {shown(answer)}."
        )
