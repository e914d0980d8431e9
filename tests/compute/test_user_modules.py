"""Modules of torch, as users write them, get right gradients from the engine or are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import quickstudy as qs
from quickstudy.compute.engine import accumulate
from quickstudy.compute.plan import Engine, Mapping, Plan
from quickstudy.contract.laws import BrokenLaw
from quickstudy.core import Examples
from quickstudy.objectives import query_loss
from quickstudy.tasks.stacks import stack
from quickstudy.training.plan import make_plan
from quickstudy.training.preflight import check_lawful
from witness import (
    TOLERANCE,
    Forward,
    Weights,
    as_step,
    engine_gradient,
    error,
    in_general_position,
    independent_gradient,
    vectors_task,
)


def on_vectors(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(24, 8), *layers, nn.Tanh(), nn.Linear(8, 3))


def on_images(*layers: nn.Module) -> nn.Module:
    conv = nn.Conv2d(1, 8, 3, padding=1)
    return nn.Sequential(nn.Unflatten(1, (1, 4, 6)), conv, *layers, nn.Flatten(), nn.LazyLinear(3))


class OnSequences(nn.Module):
    """Vectors (n, 24) as sequences (n, 4, 6) through ``core``, and a head on its last step."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core, self.head = core, nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.core(inputs.unflatten(1, (4, 6)))
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        predictions: Tensor = self.head(hidden[:, -1])
        return predictions


class SelfAttention(nn.Module):
    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attention(x, x, x, need_weights=self.need_weights)[0]
        return attended


class FrozenBatchNorm(nn.BatchNorm1d):
    """Always uses its running statistics, as in fine-tuning of pre-trained networks."""

    def train(self, mode: bool = True) -> FrozenBatchNorm:
        super().train(False)
        return self


def encoder(**options: Any) -> nn.Module:
    options = {"dropout": 0.0} | options
    return OnSequences(nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, **options))


USER_MODULES: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm1d": lambda: on_vectors(nn.BatchNorm1d(8, track_running_stats=False)),
    "BatchNorm1d, frozen": lambda: on_vectors(FrozenBatchNorm(8)),
    "LayerNorm": lambda: on_vectors(nn.LayerNorm(8)),
    "GroupNorm": lambda: on_vectors(nn.GroupNorm(2, 8)),
    "RMSNorm": lambda: on_vectors(nn.RMSNorm(8)),
    "Dropout(0)": lambda: on_vectors(nn.Dropout(0.0)),
    "weight norm": lambda: on_vectors(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))),
    "ReLU in place": lambda: on_vectors(nn.ReLU(inplace=True)),
    "BatchNorm2d": lambda: on_images(nn.BatchNorm2d(8, track_running_stats=False)),
    "InstanceNorm2d": lambda: on_images(nn.InstanceNorm2d(8, affine=True)),
    "GroupNorm on images": lambda: on_images(nn.GroupNorm(2, 8), nn.ReLU()),
    "LayerNorm on images": lambda: on_images(nn.LayerNorm((8, 4, 6)), nn.ReLU()),
    "MaxPool2d": lambda: on_images(nn.ReLU(), nn.MaxPool2d(2)),
    "attention": lambda: OnSequences(SelfAttention(need_weights=True)),
    "fused attention": lambda: OnSequences(SelfAttention(need_weights=False)),
    "TransformerEncoderLayer": encoder,
    "TransformerEncoderLayer, pre-norm": lambda: encoder(norm_first=True, activation="gelu"),
    "LSTM": lambda: OnSequences(nn.LSTM(6, 6, batch_first=True)),
    "GRU": lambda: OnSequences(nn.GRU(6, 6, batch_first=True)),
}
LOOPED_ONLY = {"LSTM", "GRU"}  # vmap has no rule for their kernels


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    net = make()
    with torch.no_grad():
        net.eval()(torch.zeros(2, 24))  # gives lazy layers their shapes, and changes nothing else
    return in_general_position(net).train()


def substituting(net: nn.Module) -> Forward:
    """Run ``net`` with plain tensors put in the place of its parameters."""

    @contextmanager
    def substituted(weights: Weights) -> Iterator[None]:
        homes = {
            n: (net.get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2]) for n in weights
        }
        originals = {n: home._parameters.pop(leaf) for n, (home, leaf) in homes.items()}
        for n, (home, leaf) in homes.items():
            setattr(home, leaf, weights[n])
        try:
            yield
        finally:
            for n, (home, leaf) in homes.items():
                delattr(home, leaf)
                setattr(home, leaf, originals[n])

    def forward(weights: Weights, rows: Examples, support: Examples | None) -> Tensor:
        with substituted(weights), sdpa_kernel(SDPBackend.MATH):
            predictions: Tensor = net(rows.inputs)
        return predictions

    return forward


@pytest.mark.parametrize("engine", ["auto", "vmap", "loop"])
@pytest.mark.parametrize("name", USER_MODULES)
def test_meta_gradients_of_user_modules_are_right(name: str, engine: Engine) -> None:
    net = made(USER_MODULES[name])
    learner = qs.MAML(net, steps=2, rate=0.1).train()
    tasks = [vectors_task(seed) for seed in range(2)]
    check_lawful(learner, tasks[0])
    if engine == "vmap" and name in LOOPED_ONLY:
        with pytest.raises(RuntimeError, match="vmap_grad cannot map it"):
            make_plan(learner, [stack(tasks)], query_loss, 2, qs.Compute(engine))
        return
    plan = make_plan(learner, [stack(tasks)], query_loss, 2, qs.Compute(engine))
    expected = [independent_gradient(substituting(net), net, task, 2, 0.1) for task in tasks]
    for task, right in zip(tasks, expected, strict=True):
        assert error(engine_gradient(learner, [task], plan), right) <= TOLERANCE
    together = engine_gradient(learner, tasks, plan)
    assert error(together, torch.stack(expected).mean(0)) <= TOLERANCE


class MovingMean(nn.Module):
    """Its own running statistics, updated in place."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.mean


class Shaking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


class RowsAsSequence(nn.Module):
    """Treats the rows of a batch as the steps of one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.GRU(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.core(x)[0]
        return hidden


class Centring(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "BatchNorm1d": (lambda: on_vectors(nn.BatchNorm1d(8)), "updates running statistics"),
    "BatchNorm2d": (lambda: on_images(nn.BatchNorm2d(8)), "updates running statistics"),
    "InstanceNorm2d, tracking": (
        lambda: on_images(nn.InstanceNorm2d(8, track_running_stats=True)),
        "updates running statistics",
    ),
    "own statistics": (lambda: on_vectors(MovingMean()), r"mean changed"),
    "spectral norm": (
        lambda: on_vectors(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))),
        "changed",
    ),
    "Dropout": (lambda: on_vectors(nn.Dropout(0.5)), r"dropout layers backbone\.1"),
    "functional dropout": (lambda: on_vectors(Shaking()), "Randomness"),
    "encoder with dropout": (lambda: encoder(dropout=0.1), "dropout layers backbone.core"),
    "rows as a sequence": (lambda: on_vectors(RowsAsSequence()), "must not depend on the other"),
    "undeclared batch statistics": (lambda: on_vectors(Centring()), "must not depend on the other"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unlawful_modules_are_refused_with_a_remedy(name: str) -> None:
    make, message = REFUSED[name]
    learner = qs.MAML(made(make), steps=1, rate=0.1).train()
    with pytest.raises(BrokenLaw, match=message):
        check_lawful(learner, vectors_task(0))


def test_batch_statistics_of_torch_refuse_padding() -> None:
    net = made(USER_MODULES["BatchNorm1d"])
    learner = qs.MAML(net, steps=1, rate=0.1)
    task = vectors_task(0)
    fewer = task._replace(support=Examples(*(leaf[:5] for leaf in task.support)))
    with pytest.raises(ValueError, match=r"BatchNorm|ignore row weights"):
        accumulate(
            learner, as_step(learner, stack([task, fewer])), query_loss, Plan(Mapping.LOOP, "", 2)
        )


class Undeclared(qs.MAML):
    """Does not declare that its adapt takes gradients, so the engine differentiates outside."""

    differentiates = False


def test_the_engine_detects_wrong_gradients_before_training() -> None:
    """torch's known error: differentiating through vmap(grad(...)) of an affine LayerNorm.

    If this fails, torch may have fixed it: ``make_plan`` may then use one more mapping.
    """
    learner = Undeclared(made(USER_MODULES["LayerNorm"]), steps=2, rate=0.1)
    tasks = [vectors_task(seed) for seed in range(2)]
    right = engine_gradient(learner, tasks, Plan(Mapping.LOOP, "", 2))
    assert error(engine_gradient(learner, tasks, Plan(Mapping.VMAP, "", 2)), right) > 1e-3
    plan = make_plan(learner, [stack(tasks)], query_loss, 2)
    assert plan.mapping is Mapping.LOOP
    assert "differs from the loop" in plan.why
    with pytest.raises(RuntimeError, match="differs from the loop"):
        make_plan(learner, [stack(tasks)], query_loss, 2, qs.Compute("vmap"))


def test_a_head_of_zeros_does_not_hide_a_wrong_gradient() -> None:
    """At the initial weights the wrong term is multiplied by zero; after one step it is not."""
    torch.manual_seed(0)
    net = on_vectors(nn.LayerNorm(8)).double()
    head = net.get_submodule("3")
    assert isinstance(head, nn.Linear)
    nn.init.zeros_(head.weight)
    learner = Undeclared(net, steps=1, rate=0.1)
    tasks = [vectors_task(seed) for seed in range(2)]
    right = engine_gradient(learner, tasks, Plan(Mapping.LOOP, "", 2))
    assert error(engine_gradient(learner, tasks, Plan(Mapping.VMAP, "", 2)), right) <= TOLERANCE
    assert make_plan(learner, [stack(tasks)], query_loss, 2).mapping is Mapping.LOOP
