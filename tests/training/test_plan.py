"""``explain`` describes what training then does, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import quickstudy as qs
from made_up import random_classes
from quickstudy.compute.cost import Cost, cost_of_one_task
from quickstudy.compute.plan import Mapping
from quickstudy.contract.laws import BrokenLaw
from quickstudy.core import Learner
from quickstudy.learners.gradient.meta_gradients import Exact
from quickstudy.training import plan as planning
from quickstudy.training.plan import explain


def maml() -> Learner:
    torch.manual_seed(0)
    return qs.MAML(qs.backbones.MLP(outputs=1), rate=0.01, meta_gradient=Exact(recompute=True))


def prototypical() -> Learner:
    torch.manual_seed(0)
    return qs.Prototypical(qs.backbones.Conv4(64, image_size=16))


def test_explain_describes_what_training_then_does() -> None:
    pictures = qs.episodes(random_classes(), 5, 1, 3)
    for learner, source, workers, recompute in (
        (maml(), qs.Sinusoids(5, 5), 1, "yes"),
        (prototypical(), pictures, 2, "no inner steps"),
    ):
        before = {name: value.clone() for name, value in learner.state_dict().items()}
        learner.eval()
        text = explain(learner, source, 4, compute=qs.Compute(workers=workers))
        assert not learner.training
        assert all(value.equal(before[name]) for name, value in learner.state_dict().items())
        plan = qs.fit(
            learner, source, 1, 4, compute=qs.Compute(workers=workers), progress=False
        ).plan
        lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines()}
        assert lines["mapping"] == f"{plan.mapping.value}: {plan.why}"
        at_once = plan.workers if workers > 1 else plan.chunk
        assert lines["tasks"] == f"{at_once} at a time, of 4 a step"
        assert lines["workers"].startswith("2" if workers > 1 else "none")
        assert lines["memory"].endswith("free on cpu")
        assert lines["compiled"] == "no"
        assert lines["recompute"].split(":")[0] == recompute


def test_explain_refuses_what_training_refuses() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 8), torch.nn.BatchNorm1d(8))
    with pytest.raises(BrokenLaw, match="updates running statistics"):
        explain(qs.Prototypical(net), qs.episodes(random_classes(), 5, 1, 3))
    reader = Sequential(qs.backbones.MLP(256, (8,)))
    with pytest.raises(ValueError, match="class by class"):
        explain(reader, qs.episodes(random_classes(), 5, 1, 3))
    for tasks_per_step in (0, -3):
        with pytest.raises(
            ValueError, match=f"tasks_per_step must be positive; found {tasks_per_step}"
        ):
            explain(maml(), qs.Sinusoids(5, 5), tasks_per_step)


class Average:
    reads = "gradients"

    def gradient(
        self, gradients: torch.Tensor, losses: torch.Tensor, names: Sequence[str]
    ) -> torch.Tensor:
        return gradients.mean(0)


def test_a_combiner_that_reads_gradients_has_a_plan_of_its_own() -> None:
    """Neither threads nor compiled code compute the gradients of single tasks."""
    for engine, mapping, at_once in (("auto", Mapping.VMAP_GRAD, 4), ("loop", Mapping.LOOP, 1)):
        compute = qs.Compute(engine=engine, workers=3)  # type: ignore[arg-type]
        text = explain(maml(), qs.Sinusoids(5, 5), 4, combine=Average(), compute=compute)
        plan = qs.fit(
            maml(), qs.Sinusoids(5, 5), 1, 4, combine=Average(), compute=compute, progress=False
        ).plan
        assert (plan.mapping, plan.at_once, plan.compiled) == (mapping, at_once, False)
        assert "combine reads the gradient of each task" in plan.why
        lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines()}
        assert lines["mapping"] == f"{mapping.value}: {plan.why}"


def test_gradients_that_do_not_fit_are_computed_in_parts_or_refused_in_advance() -> None:
    class Weighing:
        reads = "gramian"

        def gradient_weights(
            self, gramian: torch.Tensor, losses: torch.Tensor, names: Sequence[str]
        ) -> torch.Tensor:
            return torch.full_like(losses, 1 / len(losses))

    small = qs.Compute(memory=8000)
    plans = [
        qs.fit(maml(), qs.Sinusoids(5, 5), 1, 4, combine=Weighing(), compute=compute,
               progress=False).plan
        for compute in (qs.Compute(), small)
    ]  # fmt: skip
    row = sum(p.nbytes for p in maml().parameters())
    assert [plan.parts for plan in plans] == [1, -(-4 * row // 8000)]
    with pytest.raises(MemoryError, match=r"for 4 tasks; found room for 8 kB"):
        explain(maml(), qs.Sinusoids(5, 5), 4, combine=Average(), compute=small)


class Sequential(qs.Prototypical):
    exceptions = {"support_order_is_irrelevant": "it reads a sequence"}  # noqa: RUF012


def test_a_task_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = 0

    def counting(*arguments: Any) -> Cost:
        nonlocal counts
        counts += 1
        return cost_of_one_task(*arguments)

    monkeypatch.setattr(planning, "cost_of_one_task", counting)
    text = explain(maml(), qs.Sinusoids(5, 5), 4)
    assert counts == 1
    assert "kB at most for the graph of a task" in text
    monkeypatch.setattr(planning, "cost_of_one_task", lambda *_: Cost(counted=False))
    assert "memory     not counted; " in explain(maml(), qs.Sinusoids(5, 5), 4)
