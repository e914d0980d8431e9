"""Scheduled learners and objectives get the progress of training; others do not."""

from __future__ import annotations

import copy

import pytest
import torch

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.core import Learner, Task
from quickstudy.learners.gradient.meta_gradients import Annealed, FirstOrder
from quickstudy.learners.gradient.multi_step import MultiStep
from quickstudy.objectives import Outcome, Scheduled, is_scheduled, query_loss, set_progress


def maml(until: float) -> qs.MAML:
    torch.manual_seed(0)
    return qs.MAML(MLP(outputs=1), 1, 0.01, Annealed(until))


class Recording:
    """The query loss; records the progress that it is given."""

    def __init__(self, scheduled: bool) -> None:
        self.scheduled, self.progress_values = scheduled, list[float]()

    def set_progress(self, progress: float) -> None:
        self.progress_values.append(progress)

    def __call__(self, learner: Learner, task: Task) -> Outcome:
        return query_loss(learner, task)


def test_settings_decide_whether_a_part_is_scheduled() -> None:
    for part, expected in (
        (maml(0.5), True),
        (maml(0.0), False),
        (qs.MAML(MLP(outputs=1), 1, 0.01, Annealed(0.0, Annealed(0.5, FirstOrder()))), True),
        (qs.MAMLPlusPlus(MLP(outputs=1)), True),
        (qs.MAMLPlusPlus(MLP(outputs=1), first_order_until=0.0), False),
        (MultiStep(0.1), True),
        (MultiStep(0.0), False),
        (Recording(True), True),
        (Recording(False), False),
    ):
        assert isinstance(part, Scheduled)
        assert is_scheduled(part) is expected
    for other in (qs.Prototypical(MLP()), query_loss):
        assert not isinstance(other, Scheduled)
        assert not is_scheduled(other)


@pytest.mark.parametrize("scheduled", [True, False])
def test_training_sets_progress_at_each_step_and_at_the_end(scheduled: bool) -> None:
    objective, learner = Recording(scheduled), maml(0.5)
    qs.fit(learner, qs.Sinusoids(), 4, 1, objective=objective, progress=False)
    assert objective.progress_values == ([1.0, 0.0, 0.25, 0.5, 0.75, 1.0] if scheduled else [])
    assert learner.progress == 1.0


def test_progress_is_copied_but_not_saved() -> None:
    learner = maml(0.5)
    set_progress(learner, query_loss, 0.25)
    assert learner.progress == copy.deepcopy(learner).progress == 0.25
    assert "progress" not in learner.state_dict()
    still = maml(0.0)
    set_progress(still, query_loss, 0.25)
    assert still.progress == 1.0


def test_scheduled_parts_are_not_compiled() -> None:
    for learner, objective, name in (
        (maml(0.5), query_loss, "MAML"),
        (maml(0.0), MultiStep(0.5), "MultiStep"),
    ):
        compute = qs.Compute(compile=True)
        plan = qs.fit(
            learner, qs.Sinusoids(), 1, 2, objective=objective, compute=compute, progress=False
        ).plan
        assert not plan.compiled
        assert plan.mapping.value == "vmap_grad"
        assert f"not compiled, since {name} changes as training goes on" in plan.why
    with pytest.raises(RuntimeError, match="MAML changes as training goes on"):
        qs.fit(maml(0.5), qs.Sinusoids(), 1, 2, compute=qs.Compute("vmap", compile=True))
