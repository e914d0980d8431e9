"""Training that changes nothing, or leaves a part as it is, says so by the parameters' names."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.compute.plan import Engine
from quickstudy.core import Learner, Task
from quickstudy.training.optimisers import PATIENCE, FirstSteps

ROWS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
SOURCE = qs.episodes(qs.LabelledRows.from_labels(ROWS, [i % 6 for i in range(60)]), 3, 2, 2)
UNUSED = r"did not train backbone\.first\.weight, backbone\.first\.bias\. The loss does not depend"


class TwoLayers(nn.Module):
    """``first`` is behind ``cut``, and so is all where ``last`` is."""

    def __init__(self, outputs: int, cut: Callable[[Tensor], Tensor], last: Any = None) -> None:
        super().__init__()
        self.first, self.second, self.cut = nn.Linear(4, 4), nn.Linear(4, outputs), cut
        self.last = last or (lambda x: x)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.second(self.cut(self.first(x)).tanh()))
        return result


def fit(learner: Learner, steps: int = 1, **options: Any) -> Any:
    options = {"source": SOURCE, "tasks_per_step": 2, "progress": False} | options
    return qs.fit(learner, steps=steps, **options)


def by_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy())


LEARNERS: dict[str, Callable[[Callable[..., nn.Module]], Learner]] = {
    "metric": lambda net: qs.Prototypical(net(4)),
    "gradient": lambda net: qs.MAML(net(3), rate=0.01),
    "first order": lambda net: qs.MAML(net(3), 1, 0.01, qs.meta_gradients.FirstOrder()),
    "probe": lambda net: qs.LinearProbe(net(4)),
}  # fmt: skip


# vmap does not allow .data, and then the loop is used
@pytest.mark.parametrize(
    ("engine", "cut"),
    [("loop", Tensor.detach), ("vmap", Tensor.detach), ("auto", lambda x: x.data)],
    ids=["loop", "vmap", "data"],
)
@pytest.mark.parametrize("name", LEARNERS)
def test_parts_behind_detach_are_named_after_the_first_step(
    name: str, engine: Engine, cut: Callable[[Tensor], Tensor]
) -> None:
    learner = LEARNERS[name](lambda outputs: TwoLayers(outputs, cut))
    with pytest.warns(UserWarning, match=f"the first step {UNUSED}"):
        fit(learner, 2, compute=qs.Compute(engine))


def test_reptile_names_parts_that_its_inner_steps_do_not_move() -> None:
    """Its gradient is the way that weights moved: zero, but not absent."""
    learner = qs.Reptile(TwoLayers(3, Tensor.detach), 2, 0.01)
    with pytest.warns(UserWarning, match=f"the first 3 steps {UNUSED}"):
        fit(learner, 3)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("last", [Tensor.detach, by_numpy], ids=["detach", "numpy"])
def test_a_loss_without_any_gradient_is_refused(name: str, last: Any) -> None:
    learner = LEARNERS[name](lambda outputs: TwoLayers(outputs, lambda x: x, last))
    with pytest.raises(ValueError, match="depends on no trainable parameter of"):
        fit(learner)


def test_an_objective_without_a_gradient_and_training_under_no_grad_are_refused() -> None:
    def objective(learner: Learner, task: Task) -> Tensor:
        predictions: Tensor = learner(task.support, task.spec)(task.query.inputs)
        return (predictions.argmax(-1) != task.query.targets).float().mean()

    learner = qs.Prototypical(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="the objective keep the graph"):
        fit(learner, objective=objective)
    with torch.no_grad(), pytest.raises(ValueError, match=r"outside of torch\.no_grad"):
        fit(learner)


class Idle(torch.optim.SGD):
    """Changes nothing."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        pass


def of_others(kind: type[torch.optim.Optimizer]) -> Any:
    others = nn.Linear(4, 4)
    return lambda parameters: kind(others.parameters(), lr=0.1)  # type: ignore[call-arg]


NO_STEPS = {
    "another model's": (of_others(torch.optim.Adam), r"holds no trainable .*backbone\.weight"),
    "another model's, SGD": (of_others(torch.optim.SGD), "it would train nothing of it"),
    "rate 0": (lambda p: torch.optim.Adam(p, lr=0.0), "learning rate is 0"),
    "rate too small": (lambda p: torch.optim.Adam(p, lr=1e-15), r"changed no parameter.*float32"),
    "no steps": (lambda p: Idle(p, lr=0.1), r"changed no parameter.*backbone\.weight"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_STEPS)
def test_an_optimiser_that_trains_nothing_is_refused(name: str) -> None:
    optimiser, message = NO_STEPS[name]
    learner = qs.Prototypical(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=message):
        fit(learner, optimiser=optimiser)


def test_a_copy_of_the_learner_is_another_model() -> None:
    """Made before the learner was copied, as in a loop over seeds."""
    learner, copied = (qs.Prototypical(nn.Linear(4, 4)) for _ in range(2))
    optimiser = torch.optim.Adam(copied.parameters())
    with pytest.raises(ValueError, match="holds no trainable parameter of Prototypical"):
        fit(learner, optimiser=lambda parameters: optimiser)


def test_parameters_that_the_optimiser_lacks_or_holds_at_rate_0_are_named() -> None:
    learner = qs.Prototypical(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    first, second = (learner.backbone.get_submodule(n).parameters() for n in "01")
    with pytest.warns(UserWarning, match=r"does not hold backbone\.0\.weight, backbone\.0\.bias"):
        fit(learner, optimiser=lambda _: torch.optim.Adam(second))
    groups = [
        {"params": first, "lr": 0.0},
        {"params": learner.backbone.get_submodule("1").parameters()},
    ]
    with pytest.warns(UserWarning, match=r"did not train backbone\.0\.weight"):
        fit(learner, 3, optimiser=lambda _: torch.optim.Adam(groups))


def test_many_names_are_counted() -> None:
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(9)))
    with pytest.raises(ValueError, match=r"backbone\.2\.bias and 12 more"):
        fit(qs.Prototypical(net), optimiser=of_others(torch.optim.Adam))


def test_a_schedule_may_begin_at_zero_but_not_stay_there() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(qs.Prototypical(nn.Linear(4, 4)), 2, schedule=lambda progress: progress)
    with pytest.warns(UserWarning, match="learning rate was 0 in every step"):
        fit(qs.Prototypical(nn.Linear(4, 4)), 2, schedule=lambda progress: 0.0)


class Headed(qs.Prototypical):
    """A part for each name of tasks; ``scale`` begins at zero, which hides the heads' gradients."""

    reads_name = True

    def __init__(self, *names: str, scale: float = 1.0) -> None:
        super().__init__(nn.Linear(4, 4))
        self.heads = nn.ModuleDict({name: nn.Linear(4, 4) for name in names})
        self.factor = nn.Parameter(torch.tensor(scale))

    def predict(self, state: Any, inputs: Any, spec: qs.TaskSpec) -> Tensor:
        predictions: Tensor = super().predict(state, inputs, spec)
        return predictions + self.factor * self.heads[spec.name](inputs)[:, : spec.outputs]


def named(names: str) -> Callable[[torch.Generator], Task]:
    def source(generator: torch.Generator) -> Task:
        name = names[int(torch.randint(len(names), (), generator=generator))]
        task = SOURCE(generator)
        return task._replace(spec=qs.classification(3, name=name))

    return source


def test_a_part_for_other_tasks_is_given_time_and_named_if_none_come() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(Headed("a", "b"), 10, source=named("ab"), tasks_per_step=1)
    with pytest.warns(UserWarning, match=r"first 20 steps did not train heads\.c\.weight"):
        fit(Headed("a", "b", "c"), PATIENCE + 1, source=named("ab"))


def test_a_zero_in_a_later_layer_is_no_reason_for_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(Headed("a", scale=0.0), 3, source=named("a"))


def test_once_all_parameters_were_trained_steps_are_no_longer_watched() -> None:
    learner = qs.Prototypical(nn.Linear(4, 4))
    watched = FirstSteps(learner, torch.optim.SGD(learner.parameters(), lr=0.1), alike=True)
    for parameter in learner.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert not watched.step()


def test_a_resumed_run_is_not_suspected(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for resume in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(qs.Prototypical(nn.Linear(4, 4)), 2, run=tmp_path, resume=resume)
