"""Modes of modules: what a user put in evaluation mode stays so, and nothing updates itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core import Learner
from quickstudy.tasks.numbering import draw
from quickstudy.testing import BrokenLaw
from quickstudy.training.plan import explain

ROWS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
SOURCE = qs.episodes(qs.LabelledRows.from_labels(ROWS, [i % 6 for i in range(60)]), 3, 2, 2)
TASK = draw(SOURCE, 0, 0)


def around(layer: nn.Module, outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), layer, nn.Tanh(), nn.Linear(8, outputs))


def fit(learner: Learner) -> None:
    qs.fit(learner, SOURCE, 2, 2, progress=False)


KEPT = {
    "BatchNorm": lambda: nn.BatchNorm1d(8),
    "AlphaDropout": lambda: nn.AlphaDropout(0.5),
    "both, nested": lambda: nn.Sequential(nn.BatchNorm1d(8), nn.Sequential(nn.Dropout(0.5))),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
}


@pytest.mark.parametrize("kind", ["metric", "gradient"])
@pytest.mark.parametrize("name", KEPT)
def test_the_advice_of_a_broken_law_works(name: str, kind: str) -> None:
    """eval() on the layers that the error names, and training again goes on."""
    learner = qs.Prototypical(around(KEPT[name]())) if kind == "metric" else qs.MAML(
        around(KEPT[name]()), 1, 0.01)  # fmt: skip
    with pytest.raises(BrokenLaw, match=r"qs\.frozen"):
        fit(learner)
    layer = learner.backbone.get_submodule("1").eval()
    before = {n: b.clone() for n, b in layer.named_buffers()}
    assert learner.training
    for _ in range(2):
        fit(learner)  # the second time, all of the learner is in evaluation mode
        assert all(b.equal(before[n]) for n, b in layer.named_buffers())


def test_modes_set_between_two_trainings_count() -> None:
    learner = qs.Prototypical(around(nn.BatchNorm1d(8)))
    learner.backbone.get_submodule("1").eval()
    fit(learner)
    learner.train()  # everything, the norm too
    with pytest.raises(BrokenLaw, match=r"backbone\.1 is a BatchNorm1d that updates"):
        fit(learner)


def test_a_learner_in_evaluation_mode_is_trained_in_training_mode() -> None:
    modes: list[bool] = []

    class Watching(nn.Identity):
        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            return x

    learner = qs.Prototypical(around(Watching())).eval()
    fit(learner)
    assert modes[0]
    assert not learner.training
    explain(learner, SOURCE, 2)
    assert not any(part.training for part in learner.modules())


def test_explain_and_fit_agree_on_modules_in_evaluation_mode() -> None:
    learner = qs.Prototypical(around(nn.Dropout(0.5)))
    learner.backbone.get_submodule("1").eval()
    assert "mapping" in explain(learner, SOURCE, 2)
    assert learner.training


class MovingMean(nn.Module):
    """Statistics of its own, updated in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.get_buffer("mean").lerp_(x.detach().mean(0), 0.1)
        return x - self.get_buffer("mean")


class Assigning(MovingMean):
    """Puts a new tensor in place of the old one."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = self.get_buffer("mean") + 0.1 * x.detach().mean(0)
        return x - self.get_buffer("mean")


UPDATING: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "BatchNorm": (lambda: nn.BatchNorm1d(8), r"backbone\.1 is a BatchNorm1d that updates"),
    "momentum 0": (lambda: nn.BatchNorm1d(8, momentum=0.0), "BatchNorm1d that updates"),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(8), "SyncBatchNorm that updates"),
    "InstanceNorm": (lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()),
        r"backbone\.1\.1 is a InstanceNorm1d that updates"),
    "nested": (lambda: nn.Sequential(nn.Sequential(nn.BatchNorm1d(8))), r"backbone\.1\.0\.0"),
    "spectral norm": (KEPT["spectral norm"], r"_u.* changed"),
    "statistics in place": (MovingMean, r"backbone\.1\.mean changed"),
    "statistics assigned": (Assigning, r"backbone\.1\.mean changed"),
}  # fmt: skip

LEARNERS: dict[str, Callable[[nn.Module], Learner]] = {
    "prototypical": qs.Prototypical,
    "matching": lambda net: qs.Matching(net),
    "probe": lambda net: qs.LinearProbe(net),
    "maml": lambda net: qs.MAML(net, 1, 0.01),
}


# MAML computes on a replica, so what is assigned there does not change the learner.
CALLS = [(n, k) for n in UPDATING for k in LEARNERS if (n, k) != ("statistics assigned", "maml")]


@pytest.mark.parametrize(("name", "kind"), CALLS)
def test_calling_a_learner_in_training_mode_refuses_what_updates_itself(
    name: str, kind: str
) -> None:
    make, message = UPDATING[name]
    learner = LEARNERS[kind](around(make()))
    before = {n: b.clone() for n, b in learner.named_buffers()}
    with pytest.raises(BrokenLaw, match=message):
        learner(TASK.support, TASK.spec)
    if "updates" in message:  # norms of torch are found before they run
        assert all(b.equal(before[n]) for n, b in learner.named_buffers())
    predictor = learner.eval()(TASK.support, TASK.spec)  # the advice of the error
    expected = predictor(TASK.query.inputs)
    before = {n: b.clone() for n, b in learner.named_buffers()}
    learner.train()
    with pytest.raises(BrokenLaw, match=message):
        predictor(TASK.query.inputs)
    learner.eval()
    if "updates" in message:
        assert predictor(TASK.query.inputs).equal(expected)
        assert all(b.equal(before[n]) for n, b in learner.named_buffers())


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_frozen_norm_makes_a_learner_callable_in_training_mode(kind: str) -> None:
    learner = LEARNERS[kind](around(qs.frozen(nn.BatchNorm1d(8))))
    before = {n: b.clone() for n, b in learner.named_buffers()}
    found = learner(TASK.support, TASK.spec)(TASK.query.inputs)
    assert found.isfinite().all()
    assert all(b.equal(before[n]) for n, b in learner.named_buffers())


def test_constant_buffers_and_layers_without_statistics_are_no_hindrance() -> None:
    layer: Any = nn.BatchNorm1d(8, track_running_stats=False)
    layer.register_buffer("constant", torch.ones(8))
    learner = qs.Prototypical(around(layer))
    assert learner(TASK.support, TASK.spec)(TASK.query.inputs).isfinite().all()
