"""Testing a learner against the laws of the contract.

>>> import quickstudy as qs
>>> from quickstudy.testing import check_learner
>>> source = qs.Sinusoids(shots=5, queries=5)
>>> kept = check_learner(qs.MAML(qs.backbones.MLP(outputs=1), rate=0.01), source)
>>> "adapt_is_pure" in kept
True

A learner declares the laws that it cannot keep in ``exceptions``, each with the reason; all others
are tested.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import Tensor

from quickstudy.backbones.norms import rows_see_one_another
from quickstudy.base.door import check_not_empty
from quickstudy.compute.engine import miscounts_rows
from quickstudy.contract import laws
from quickstudy.contract.incremental import (
    extending_equals_adapting_to_all,
    extending_the_prior_equals_adapting,
)
from quickstudy.contract.joined import joined_answer_changes_nothing
from quickstudy.contract.laws import Law
from quickstudy.contract.memory import memory_does_not_grow_with_steps
from quickstudy.contract.plain import plain_features_give_finite_answers
from quickstudy.contract.threads import threads_equal_turns
from quickstudy.contract.unknown import unknown_element_is_absent
from quickstudy.core import Learner, Task, TaskSource
from quickstudy.tasks.acting import run_acting
from quickstudy.tasks.numbering import draw
from quickstudy.tasks.stacks import map_task

LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        laws.shape_is_right_and_finite,
        laws.adapt_is_pure,
        laws.queries_are_independent,
        laws.weight_zero_is_absent,
        laws.weight_two_is_twice,
        laws.support_order_is_irrelevant,
        unknown_element_is_absent,
        joined_answer_changes_nothing,
        laws.vmap_equals_loop,
        laws.relabelling_permutes_outputs,
        laws.every_parameter_gets_a_gradient,
        laws.dtype_and_device_are_kept,
        laws.saved_predictor_is_the_same,
        plain_features_give_finite_answers,
        threads_equal_turns,
        memory_does_not_grow_with_steps,
        extending_the_prior_equals_adapting,
        extending_equals_adapting_to_all,
    )
}
"""All laws by name, in the order of testing."""


def check_learner(learner: Learner, source: TaskSource, seed: int = 0) -> list[str]:
    """Test every law that :func:`applicable` gives for ``learner``; returns their names.

    Runs in float64 on one task of ``source`` and variations of it, on a copy of the learner in
    evaluation mode. Tasks with 2 or more shots reveal more errors than tasks with 1. Where a task
    acts, its rows are those that this learner meets.

    Raises :class:`BrokenLaw` for the first law that fails, ValueError where ``exceptions`` names an
    unknown law.
    """
    unknown = set(learner.exceptions) - set(LAWS)
    if unknown:
        raise ValueError(
            f"exceptions: {sorted(unknown)} are not laws. The laws are: {', '.join(LAWS)}."
        )
    learner = copy.deepcopy(learner).eval()
    task = run_acting(learner, draw(source, seed, 0))
    learner.double()
    kept = applicable(learner)
    check_laws(learner, doubled(task), kept)
    return kept


def applicable(learner: Learner) -> list[str]:
    """The names of the laws to test for ``learner`` in its current training mode.

    Laws in ``exceptions`` are left out. So is the independence of queries where batch statistics
    make the learner transductive, and so are the laws of weights where statistics ignore weights:
    the engine then refuses rows of weight 0.
    """
    waived = set(learner.exceptions)
    if learner.transductive:
        waived.add("queries_are_independent")
    if miscounts_rows(learner):
        waived |= {"weight_zero_is_absent", "weight_two_is_twice", "unknown_element_is_absent"}
    if rows_see_one_another(learner):
        # The statistics of an extended state would still be those of the first support set.
        waived |= {"extending_the_prior_equals_adapting", "extending_equals_adapting_to_all"}
    return [name for name in LAWS if name not in waived]


def doubled(task: Task) -> Task:
    """The task in float64, where rounding errors are far below the tolerance."""

    def double(leaf: Tensor) -> Tensor:
        return leaf.double() if leaf.is_floating_point() else leaf

    return map_task(double, task)


def check_laws(learner: Learner, task: Task, names: Iterable[str]) -> None:
    """Test the laws of these ``names`` on one task, without changing mode or dtype.

    Raises :class:`BrokenLaw` for the first that fails, ValueError for a task without query rows.
    """
    check_not_empty(len(task.query.weights), "query")
    for name in names:
        LAWS[name](learner, task)
