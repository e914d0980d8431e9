"""Steps in bfloat16: close to float32, the same for all workers, and not taken where they harm."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

import quickstudy as qs
from made_up import random_classes
from quickstudy.backbones import MLP, Conv4
from quickstudy.compute.engine import Mapping, Plan, accumulate
from quickstudy.contract.check import doubled
from quickstudy.core import Examples, Learner, Task, TaskSpec
from quickstudy.files.storage import load_tree
from quickstudy.interfaces.cli import main
from quickstudy.interfaces.runs.folder import Run
from quickstudy.learners.gradient.meta_gradients import FirstOrder
from quickstudy.objectives import Objective, objective_of, query_loss
from quickstudy.tasks.numbering import draw
from quickstudy.tasks.stacks import stack
from quickstudy.training import processes
from quickstudy.training.equivalence import LIKENESS
from quickstudy.training.explain import explain
from quickstudy.training.plan import make_plan
from witness import error, flat

PICTURES = qs.episodes(random_classes(), 3, 2, 5)
SINES = qs.Sinusoids(10, 10)
LEARNERS: dict[str, tuple[Callable[[], Learner], qs.TaskSource]] = {
    "maml": (lambda: qs.MAML(MLP(outputs=1), 2, 0.01), SINES),
    "fomaml": (lambda: qs.MAML(MLP(outputs=1), 2, 0.01, meta_gradient=FirstOrder()), SINES),
    "maml conv": (lambda: qs.MAML(Conv4(16, outputs=3, image_size=16), 1, 0.05), PICTURES),
    "prototypical": (lambda: qs.Prototypical(MLP(256, (32,))), PICTURES),
    "relation": (lambda: qs.Relation(Conv4(16, image_size=16)), PICTURES),
}
EVERY = [
    ("maml", Mapping.LOOP), ("maml", Mapping.VMAP_GRAD), ("maml", Mapping.TASK_AXIS),
    ("fomaml", Mapping.LOOP), ("maml conv", Mapping.LOOP), ("prototypical", Mapping.LOOP),
    ("prototypical", Mapping.VMAP), ("relation", Mapping.LOOP), ("relation", Mapping.FEATURES),
]  # fmt: skip


def made(name: str) -> tuple[Learner, Task]:
    torch.manual_seed(0)
    make, source = LEARNERS[name]
    return make(), stack([draw(source, 0, index) for index in range(4)])


def gradient(
    learner: Learner, batch: Task, plan: Plan, objective: Objective | None = None
) -> tuple[Tensor, Tensor]:
    learner.zero_grad()
    loss = accumulate(learner, batch, objective or objective_of(learner), plan).loss
    return flat([p.grad for p in learner.parameters() if p.grad is not None]), loss


def loop(precision: Any = "float32", workers: int = 1, **options: Any) -> Plan:
    return Plan(Mapping.LOOP, "", 4, workers, precision=precision, **options)


def is_on() -> bool:
    return torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(("name", "mapping"), EVERY)
def test_the_gradient_is_nearly_that_of_float32(name: str, mapping: Mapping) -> None:
    learner, batch = made(name)
    expected, losses = gradient(learner, batch, loop())
    lowered = [True]
    for layer in learner.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.register_forward_pre_hook(lambda *_: lowered.append(is_on()))
    found, ours = gradient(learner, batch, Plan(mapping, "", 4, precision="bfloat16"))
    assert all(lowered)
    assert found.dtype == ours.dtype == torch.float32
    assert F.cosine_similarity(expected, found, dim=0) >= LIKENESS
    assert error(found, expected) > 1e-4  # or it was float32 all along
    torch.testing.assert_close(ours, losses, rtol=0.03, atol=0)
    assert not is_on()


@pytest.mark.parametrize("how", [{}, {"processes": True}])
def test_workers_compute_what_one_does(how: dict[str, bool]) -> None:
    learner, batch = made("maml conv")
    expected, losses = gradient(learner, batch, loop("bfloat16"))
    try:
        found, ours = gradient(learner, batch, loop("bfloat16", workers=2, **how))
    finally:
        processes._end()
    assert error(found, expected) < 1e-5
    torch.testing.assert_close(ours, losses)
    assert error(gradient(learner, batch, loop())[0], expected) > 1e-3


def test_losses_are_of_float32() -> None:
    seen: list[tuple[torch.dtype, bool]] = []

    def loss(predictions: Tensor, targets: Tensor) -> Tensor:
        seen.append((predictions.dtype, is_on()))
        return F.cross_entropy(predictions, targets, reduction="none")

    def own(learner: Learner, task: Task) -> Tensor:  # a loss that no spec has
        return learner(task.support, task.spec)(task.query.inputs).square().mean()

    learner, batch = made("prototypical")
    batch = batch._replace(spec=TaskSpec(3, loss))
    gradient(learner, batch, loop("bfloat16"))
    assert seen == [(torch.float32, False)] * 4
    assert gradient(learner, batch, loop("bfloat16"), own)[1].dtype == torch.float32


def test_weights_that_an_objective_moves_are_cast_again() -> None:
    """Autocast would keep what it has cast, and compute twice with the first weights."""

    def halve(learner: Learner) -> None:
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.mul_(0.5)

    def moved(learner: Learner, task: Task) -> Tensor:
        query_loss(learner, task)
        halve(learner)
        return query_loss(learner, task).loss

    learner, _ = made("prototypical")
    one = stack([draw(PICTURES, 0, 0)])
    found, _ = gradient(learner, one, loop("bfloat16"), moved)
    assert found.equal(gradient(learner, one, loop("bfloat16"))[0])  # where it has been moved to
    halve(learner)
    assert not found.equal(gradient(learner, one, loop("bfloat16"))[0])


class Watched(qs.Relation):
    """Notes whether gradients are recorded, and whether it is in mixed precision."""

    def predict(self, state: Any, inputs: Any, spec: TaskSpec) -> Tensor:
        self.seen.add((torch.is_grad_enabled(), is_on()))
        return super().predict(state, inputs, spec)


def test_only_training_is_in_it() -> None:
    learner = Watched(Conv4(16, image_size=16))
    learner.seen = set()  # type: ignore[assignment]
    validation = qs.Validation(PICTURES, every=1, tasks=4)
    plan = qs.fit(learner, PICTURES, 1, 2, precision="bfloat16", validation=validation,
                  progress=False).plan  # fmt: skip
    assert plan.precision == "bfloat16"
    assert (True, True) in learner.seen  # training
    assert (False, False) in learner.seen  # validation
    assert (False, True) not in learner.seen


def trained(folder: Path | None, steps: int, name: str = "maml", **options: Any) -> Tensor:
    torch.manual_seed(0)
    make, source = LEARNERS[name]
    learner = make()
    qs.fit(learner, source, 8, 4, run=folder, checkpoint_every=4, progress=False,
           schedule=Stop(steps, folder), **options)  # fmt: skip
    return flat([p.detach() for p in learner.parameters()])


class Stopped(Exception):
    pass


class Stop:
    """No change of rate, but an end of training before this step."""

    def __init__(self, step: int, folder: Path | None) -> None:
        self.step = step

    def __call__(self, progress: float) -> float:
        if progress * 8 >= self.step:
            raise Stopped
        return 1.0


def test_a_resumed_run_goes_on_in_it(tmp_path: Path) -> None:
    unbroken = trained(None, 9, precision="bfloat16")
    with pytest.raises(Stopped):
        trained(tmp_path, 6, precision="bfloat16")
    plan = load_tree(tmp_path / "checkpoint.safetensors")[1]["progress"]["plan"]
    assert plan["precision"] == "bfloat16"
    assert Plan.from_json(dict(plan)).precision == "bfloat16"
    assert trained(tmp_path, 9, resume=True).equal(unbroken)
    assert not trained(None, 9).equal(unbroken)
    del plan["precision"]  # of a checkpoint from before there was one
    assert Plan.from_json(plan).precision == "float32"


class FarFromZero(Learner):
    """A linear map of inputs that were moved far away, and of that far place: a small difference
    of large products, in which bfloat16 leaves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(256, 3)

    def adapt(self, support: Examples, spec: TaskSpec) -> Tensor:
        return self.map(torch.full_like(self.map.weight[0], 1000.0))

    def predict(self, state: Tensor, inputs: Tensor, spec: TaskSpec) -> Tensor:
        return self.map(inputs.flatten(1) + 1000) - state


class OfFloat(qs.Prototypical):
    """With an operator that knows no bfloat16."""

    def predict(self, state: Any, inputs: Any, spec: TaskSpec) -> Tensor:
        answers = super().predict(state, inputs, spec)
        if (inputs.flatten(1) @ inputs.flatten(1).mT).dtype is torch.bfloat16:
            raise NotImplementedError("no kernel for it")
        return answers


class TooLarge(qs.Prototypical):
    """Whose loss in float32 is small, and in bfloat16 not a number."""

    def predict(self, state: Any, inputs: Any, spec: TaskSpec) -> Tensor:
        answers = super().predict(state, inputs, spec)
        return answers + (self.backbone(inputs).sum() * (torch.nan if is_on() else 0.0))


UNSAFE: dict[str, tuple[Callable[[], Learner], str]] = {
    "of cancelling products": (FarFromZero, r"its meta-gradient has a cosine of -?0\.\d+ to"),
    "of a strange operator": (
        lambda: OfFloat(MLP(256, (8,))),
        "vmap cannot be computed in it: no kernel",
    ),
    "of infinite gradients": (lambda: TooLarge(MLP(256, (8,))), "a gradient is not finite in it"),
    "of float64": (lambda: qs.Prototypical(MLP(256, (8,))).double(), "some are float64"),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_where_it_harms_training_is_in_float32(name: str) -> None:
    make, reason = UNSAFE[name]
    source = _double if "float64" in name else PICTURES
    ends = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        learner = make()
        plan = qs.fit(learner, source, 3, 2, precision=precision, progress=False).plan  # type: ignore[arg-type]
        assert plan.precision == "float32"
        ends.append(flat([p.detach() for p in learner.parameters()]))
    assert ends[0].equal(ends[1])
    assert "; bfloat16 is not used, since " in plan.why
    assert re.search(reason, plan.why)


def _double(generator: torch.Generator) -> Task:
    return doubled(PICTURES(generator))


def test_without_a_gradient_nothing_is_known() -> None:
    learner, batch = made("prototypical")

    def nothing(learner: Learner, task: Task) -> Tensor:
        return 0 * query_loss(learner, task).loss

    plan = make_plan(learner, batch, nothing, 4, "loop", precision="bfloat16")
    assert plan.precision == "float32"
    assert "bfloat16 is not used, since the tasks compared have no gradient" in plan.why


@pytest.mark.parametrize("name", ["maml", "prototypical", "relation"])
def test_what_is_planned_says_so(name: str) -> None:
    learner, batch = made(name)
    for precision in ("float32", "bfloat16"):
        plan = make_plan(learner, batch, objective_of(learner), 4, precision=precision)  # type: ignore[arg-type]
        assert plan.precision == precision
        assert (" in bfloat16, " in str(plan)) == (precision == "bfloat16")
    looped = make_plan(learner, batch, objective_of(learner), 4, "loop", precision="bfloat16")
    assert looped.precision == "bfloat16"
    said = explain(learner, LEARNERS[name][1], 4, precision="bfloat16")
    assert "precision  products and convolutions in bfloat16" in said
    assert "precision  the learner's own" in explain(learner, LEARNERS[name][1], 4)


def test_what_cannot_be_asked_for() -> None:
    learner, _ = made("maml")
    with pytest.raises(ValueError, match=r"found 'float16'\. float16 would need losses"):
        qs.fit(learner, SINES, 1, 2, precision="float16", progress=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"found 'half'\. bfloat16 has the range of float32"):
        explain(learner, SINES, 2, precision="half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="compile: steps in bfloat16 are not compiled"):
        qs.fit(learner, SINES, 1, 2, precision="bfloat16", compile=True, progress=False)


def test_the_command_line_has_it(tmp_path: Path) -> None:
    y = np.repeat(np.arange(12), 10)
    points = (np.random.default_rng(0).normal(size=(120, 2)) + 4 * y[:, None]).astype(np.float32)
    np.savez(tmp_path / "points.npz", X=points, y=y)
    words = ["run", "--data", "arrays", "--root", str(tmp_path / "points.npz"), "--backbone", "mlp",
             "--learner", "relation", "--ways", "2", "--queries", "3", "--train-queries", "3",
             "--steps", "2", "--test-tasks", "3", "--device", "cpu"]  # fmt: skip
    out = tmp_path / "out"
    done = CliRunner().invoke(main, [*words, "--precision", "bfloat16", "--explain"])
    assert "precision  products and convolutions in bfloat16" in done.output, done.output
    done = CliRunner().invoke(main, [*words, "--precision", "bfloat16", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert Run.open(out).recipe.precision == "bfloat16"
    plan = load_tree(out / "checkpoint.safetensors")[1]["progress"]["plan"]
    assert plan["precision"] == "bfloat16"
    done = CliRunner().invoke(main, [*words, "--precision", "float16", "--out", str(out / "no")])
    assert done.exit_code == 1
    assert "float16" in done.output
    assert "bfloat16" in done.output
    assert not (out / "no").exists()
