"""Targets that do not fit the spec are refused before they could broadcast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

import quickstudy as qs
from quickstudy.answers import Reals
from quickstudy.backbones import MLP
from quickstudy.compute.engine import accumulate, map_tasks
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import prepare_stack, prepare_tasks
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.learners.metric.siamese import contrastive
from quickstudy.objectives import query_loss
from quickstudy.tasks.examples import one_place
from quickstudy.tasks.stacks import as_stack, stack


class MeanTarget(Learner):
    """Predicts the mean target without checking shapes, so squared error would broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        return support.targets.to(support.inputs.dtype).mean(0, keepdim=True)

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        return self.scale * state.reshape(1, -1).expand(len(inputs), spec.outputs)


def rows(targets: Tensor) -> Examples:
    n = len(targets)
    weights = torch.ones(n)
    return Examples(torch.ones(n, 4), targets, weights, one_place(weights))


REFUSED = {
    "two targets for one output": (
        qs.regression(1), torch.zeros(5, 2), r"real targets \(n, 1\).*\(5, 2\).*qs\.regression\(2\)"
    ),
    "one target for two outputs": (
        qs.regression(2), torch.zeros(5, 1), r"real targets \(n, 2\).*\(5, 1\).*qs\.regression\(1\)"
    ),
    "class ids under squared error": (
        qs.regression(1), torch.zeros(5, dtype=torch.long), r"int64.*qs\.classification"
    ),
    "whole numbers under squared error": (
        qs.regression(1), torch.zeros(5, 1, dtype=torch.long), r"int64.*Use real targets"
    ),
    "reals without a dimension": (qs.regression(1), torch.zeros(5), r"targets\[:, None\]"),
    "reals under cross-entropy": (
        qs.classification(2), torch.zeros(5, 2), r"class ids \(n,\).*float32 of shape \(5, 2\)"
    ),
    "flat reals under cross-entropy": (qs.classification(2), torch.zeros(5), r"class ids \(n,\)"),
    "one-hot rows": (
        qs.classification(2), torch.zeros(5, 2, dtype=torch.long), r"class ids \(n,\).*\(5, 2\)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_support_that_does_not_fit_the_spec_is_refused(case: str) -> None:
    spec, targets, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"support: .*{message}"):
        MeanTarget()(rows(targets), spec)


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_under_vmap_too(case: str) -> None:
    spec, targets, message = REFUSED[case]
    batch = rows(targets.unsqueeze(0))._replace(
        inputs=torch.ones(1, 5, 4), weights=torch.ones(1, 5), groups=torch.zeros(1, 5).long()
    )
    with pytest.raises(ValueError, match=f"support: .*{message}"):
        vmap(lambda support: MeanTarget()(support, spec)(support.inputs))(batch)


@pytest.mark.parametrize("mapping", [Mapping.VMAP, Mapping.LOOP])
@pytest.mark.parametrize("case", REFUSED)
def test_the_engine_refuses_such_queries_and_supports(case: str, mapping: Mapping) -> None:
    """The objective calls ``adapt`` itself, which does not check the support."""
    spec, wrong, message = REFUSED[case]
    real = isinstance(spec.answer, Reals)
    right = torch.zeros(5, spec.outputs) if real else torch.zeros(5).long()
    plan = Plan(mapping, "asked for", 2)

    def own(learner: Learner, task: Task) -> Tensor:
        return learner.predict(learner.adapt(*task[::2]), task.query.inputs, task.spec).mean()

    for what, support, query in (("support", wrong, right), ("query", right, wrong)):
        batch = stack([Task(rows(support), rows(query), spec)] * 2)
        with pytest.raises(ValueError, match=f"{what}: .*{message}"):
            accumulate(MeanTarget(), [prepare_stack(MeanTarget(), as_stack(batch))], own, plan)
        with pytest.raises(ValueError, match=f"{what}: .*{message}"):
            map_tasks(own, batch, MeanTarget(), plan)


def absolute_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """The error of the first output, for integer or real targets."""
    return (predictions[:, 0] - targets.reshape(len(predictions), -1)[:, 0]).abs()


@pytest.mark.parametrize("targets", [torch.arange(5), torch.zeros(5), torch.zeros(5, 7)])
def test_a_custom_loss_may_have_targets_of_any_shape(targets: Tensor) -> None:
    spec = qs.spec(7, absolute_error)
    assert MeanTarget()(rows(targets), spec)(torch.ones(3, 4)).shape == (3, 7)
    tasks = [Task(rows(targets), rows(targets), spec)] * 2
    step = prepare_tasks(MeanTarget(), tasks)
    accumulate(MeanTarget(), step, query_loss, Plan(Mapping.LOOP, "asked for", 2))


@pytest.mark.parametrize(
    "learner",
    [
        qs.Prototypical(MLP(4)),
        qs.Siamese(MLP(4)),
        qs.Matching(MLP(4), reads=1),
        qs.MetaOptNet(MLP(4)),
        qs.LinearProbe(MLP(4)),
        qs.MAML(MLP(4, outputs=2), rate=0.1),
    ],
    ids=lambda learner: type(learner).__name__,
)
def test_a_support_without_rows_is_refused_and_absent_rows_are_not(learner: Learner) -> None:
    nothing = rows(torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"support: needs at least 1 row; found 0.*weight 0"):
        learner(nothing, qs.classification(2))
    absent = rows(torch.zeros(2, dtype=torch.long))._replace(weights=torch.zeros(2))
    predictions = learner(absent, qs.classification(2))(torch.ones(3, 4))
    assert predictions.isfinite().all()


def test_the_engine_refuses_a_support_without_rows() -> None:
    task = Task(rows(torch.zeros(0).long()), rows(torch.zeros(3).long()), qs.classification(2))
    plan = Plan(Mapping.LOOP, "asked for", 2)
    learner = qs.Siamese(MLP(4))
    with pytest.raises(ValueError, match="needs at least 1 row"):
        accumulate(learner, prepare_tasks(learner, [task, task]), contrastive, plan)
