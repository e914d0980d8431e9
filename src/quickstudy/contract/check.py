"""The contract: laws that every learner keeps, to be run on your own learners too.

>>> import quickstudy as qs
>>> from quickstudy.contract.check import check_learner
>>> source = qs.Sinusoids(shots=5, queries=5)
>>> kept = check_learner(qs.MAML(qs.backbones.MLP(outputs=1), rate=0.01), source)
>>> "adapt_is_pure" in kept
True

The laws are in :mod:`quickstudy.contract.laws`. A learner declares those it cannot keep in
``exceptions``, each with the reason; all others are tested.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import Tensor

from quickstudy.base.trees import map_tree
from quickstudy.compute.engine import miscounts_rows
from quickstudy.contract.laws import LAWS, BrokenLaw, Law
from quickstudy.core import Learner, Task, TaskSource
from quickstudy.tasks.numbering import draw

__all__ = ["LAWS", "BrokenLaw", "Law", "applicable", "check_laws", "check_learner", "doubled"]


def check_learner(learner: Learner, source: TaskSource, seed: int = 0) -> list[str]:
    """Test every law that ``learner`` does not declare as an exception; returns their names.

    Runs in float64 on one task of ``source`` and variations of it, on a copy of the learner in
    evaluation mode. Two shots or more see more than one.
    Raises :class:`BrokenLaw` at the first law that fails, ValueError for an exception that names
    no law.
    """
    unknown = set(learner.exceptions) - set(LAWS)
    if unknown:
        raise ValueError(
            f"exceptions: {sorted(unknown)} are no laws. The laws are: {', '.join(LAWS)}."
        )
    learner = copy.deepcopy(learner).double().eval()
    kept = applicable(learner)
    check_laws(learner, doubled(draw(source, seed, 0)), kept)
    return kept


def applicable(learner: Learner) -> list[str]:
    """The names of the laws that ``learner``, in the mode it is in, neither excepts nor waives.

    Batch statistics waive the independence of queries (the learner is then transductive), and
    those that know no weights waive the laws of weights too: the engine then refuses such rows.
    """
    waived = set(learner.exceptions)
    if learner.transductive:
        waived.add("queries_are_independent")
    if miscounts_rows(learner):
        waived |= {"weight_zero_is_absent", "weight_two_is_twice"}
    return [name for name in LAWS if name not in waived]


def doubled(task: Task) -> Task:
    """The task in float64, where a law can be judged without rounding."""

    def double(leaf: Tensor) -> Tensor:
        return leaf.double() if leaf.is_floating_point() else leaf

    return Task(map_tree(double, task.support), map_tree(double, task.query), task.spec)


def check_laws(learner: Learner, task: Task, names: Iterable[str]) -> None:
    """Test some laws on one task, with the learner as it is."""
    for name in names:
        LAWS[name](learner, task)
