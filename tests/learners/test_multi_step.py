"""The multi-step loss as an objective of any learner with inner steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.core import Examples, State, Task, TaskSpec
from quickstudy.learners.gradient.multi_step import MultiStep
from quickstudy.objectives import query_loss


def task() -> Task:
    generator = torch.Generator().manual_seed(0)

    def rows(n: int) -> Examples:
        return qs.examples(torch.randn(n, 4, generator=generator), torch.arange(n) % 3)

    return Task(rows(6), rows(9), qs.classification(3))


def made(learner: Any, outputs: int | None = 3, **options: object) -> Any:
    torch.manual_seed(0)
    return learner(MLP(4, (5,), outputs=outputs), **options)


LEARNERS = [
    made(qs.MAML, steps=2),
    made(qs.ANIL, steps=2),
    made(qs.ProtoMAML, None, steps=2),
    made(qs.CAVIA, steps=2),
    made(qs.LSTMMetaLearner, steps=2, hidden=3),
]


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: type(learner).__name__)
def test_it_equals_the_weighted_sum_over_the_steps(learner: Any) -> None:
    one = task()
    objective = MultiStep(0.4)
    objective.set_progress(0.1)
    found = objective(learner, one)
    losses = [
        F.cross_entropy(learner.predict(state, one.query.inputs, one.spec), one.query.targets)
        for state in learner.trajectory(one.support, one.spec)
    ]
    expected = 0.375 * losses[1] + 0.625 * losses[2]  # three quarters of a half, and the rest
    torch.testing.assert_close(found.loss, expected)
    assert torch.equal(found.score, query_loss(learner, one).score)


def test_shares_always_sum_to_one() -> None:
    for progress in (0.0, 0.05, 0.3, 1.0):
        for share in (0.0, 0.1, 1.0):
            assert sum(MultiStep(share).shares(progress, 7)) == pytest.approx(1)


class Untraced(qs.MAML):
    """Has a trajectory without its earlier steps."""

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State]:
        raise AssertionError("steps of weight zero were computed")


def test_at_the_end_of_training_it_is_the_query_loss_and_costs_no_more() -> None:
    learner = made(Untraced)
    for share, progress in ((0.1, 0.1), (0.0, 0.0), (0.1, 1.0)):
        objective = MultiStep(share)
        objective.set_progress(progress)
        assert torch.equal(objective(learner, task()).loss, query_loss(learner, task()).loss)


def test_fit_accepts_it() -> None:
    learner = made(qs.MAML, steps=2)
    objective = MultiStep(0.5)
    trained = qs.fit(learner, lambda generator: task(), 4, 2, objective=objective, progress=False)
    assert trained.finished
    assert objective.progress == 1.0


def test_its_name_contains_only_its_share() -> None:
    objective = MultiStep(0.3)
    objective.set_progress(0.2)
    assert repr(objective) == "MultiStep(share=0.3)"
    assert objective == MultiStep(0.3)
    assert [MultiStep(share).scheduled for share in (0.0, 0.3)] == [False, True]


def test_learners_without_inner_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"share of training, in \[0, 1\]; found 1.5"):
        MultiStep(1.5)
    for learner in (made(qs.Prototypical, None), made(qs.ProtoMAML, None, steps=0)):
        objective = MultiStep()
        objective.set_progress(0.0)
        with pytest.raises(ValueError, match="takes no inner steps after which"):
            objective(learner, task())
