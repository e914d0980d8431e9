"""Dropout in training: masks from the seeds of the tasks, the same however steps are computed."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

import quickstudy as qs
from made_up import clouds
from quickstudy.base.dropout import active_dropout, with_dropout
from quickstudy.compute import loop
from quickstudy.compute.plan import Compute
from quickstudy.learners.gradient.meta_gradients import (
    Exact,
    FiniteDifference,
    FirstOrder,
    Implicit,
)
from quickstudy.tasks.numbering import draw, dropout_seed, task_seed
from quickstudy.testing import BrokenLaw
from quickstudy.training.plan import explain


def body(p: float = 0.5, outputs: int = 3) -> nn.Module:
    layers = {"first": nn.Linear(4, 16), "tanh": nn.Tanh(), "dropout": nn.Dropout(p)}
    return nn.Sequential(OrderedDict(**layers, head=nn.Linear(16, outputs)))


def maml(p: float = 0.5, **options) -> qs.MAML:
    torch.manual_seed(0)
    return qs.MAML(body(p), **({"steps": 2, "rate": 0.1} | options))


def prototypical(p: float = 0.5) -> qs.Prototypical:
    torch.manual_seed(0)
    return qs.Prototypical(body(p))


def weights(learner: qs.Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def trained(make, steps: int = 4, **options) -> torch.Tensor:
    learner = make()
    qs.fit(learner, clouds(shots=2, queries=4), steps, 4, progress=False, **options)
    return weights(learner)


@pytest.mark.parametrize("make", [maml, prototypical])
def test_training_depends_on_the_seed_alone(make, tmp_path):
    torch.manual_seed(1)
    whole = trained(make)
    torch.rand(7)  # the global generator has another state
    before = torch.get_rng_state()
    assert trained(make, seed=0).equal(whole)
    assert not trained(lambda: make(0.0)).equal(whole)
    assert not trained(make, seed=1).equal(whole)
    state = torch.get_rng_state()
    torch.set_rng_state(before)
    make(), make(0.0), make()
    assert torch.get_rng_state().equal(state), "fit must not draw from the global generator"


@pytest.mark.filterwarnings("ignore:fit. the first")  # Prototypical ignores a shift
@pytest.mark.parametrize("make", [maml, prototypical])
def test_workers_do_not_change_the_masks(make):
    sgd = qs.optimisers.sgd(0.1)  # Adam would make rounding of zero gradients large
    one = trained(make, optimiser=sgd)
    two = trained(make, optimiser=sgd, compute=Compute(workers=2))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)


class MeanByLosses:
    reads = "losses"

    def weights(self, losses, names):
        return torch.full_like(losses, 1 / len(losses))


class MeanByGradients:
    reads = "gradients"

    def gradient(self, gradients, losses, names):
        return gradients.mean(0)


@pytest.mark.parametrize("combine", [MeanByLosses(), MeanByGradients()])
def test_every_way_to_combine_tasks_has_the_same_masks(combine):
    sgd = qs.optimisers.sgd(0.1)
    expected = trained(maml, optimiser=sgd)
    torch.testing.assert_close(
        trained(maml, optimiser=sgd, combine=combine), expected, rtol=1e-4, atol=1e-6
    )


def test_a_resumed_run_is_bit_equal(tmp_path):
    whole = trained(maml, 6)
    trained(maml, 4, run=tmp_path)
    assert trained(maml, 6, run=tmp_path, resume=True).equal(whole)


def test_every_task_of_every_step_has_a_seed_of_its_own(monkeypatch):
    used = []

    def recording(learner, seed):
        used.append(seed)
        return with_dropout(learner, seed)

    monkeypatch.setattr(loop, "with_dropout", recording)
    qs.fit(prototypical(), clouds(shots=2), 2, 3, seed=4, progress=False)
    assert used == [dropout_seed(4, i) for i in range(6)]
    low = [dropout_seed(s, i) % 2**32 for s in range(2) for i in range(500)]
    assert len(set(low)) == 1000
    assert not set(low) & {task_seed(s, i) % 2**32 for s in range(2) for i in range(500)}


def test_a_step_is_the_mean_gradient_with_the_masks_of_each_task():
    found = maml()
    qs.fit(found, clouds(), 1, 3, optimiser=qs.optimisers.sgd(1.0), progress=False)
    expected = maml()
    task = draw(clouds(), 0, 0)
    expected.eval()(task.support, task.spec)  # the first call computes more
    expected.train()
    losses = []
    for i in range(3):
        support, query, spec = draw(clouds(), 0, i)
        own = with_dropout(expected, dropout_seed(0, i))
        logits = own(support, spec)(query.inputs)
        losses.append(nn.functional.cross_entropy(logits, query.targets))
    sum(losses).div(3).backward()
    stepped = torch.cat([(p - p.grad).detach().flatten() for p in expected.parameters()])
    torch.testing.assert_close(weights(found), stepped, rtol=1e-4, atol=1e-6)


def test_the_meta_gradient_is_the_derivative_of_the_loss_with_fixed_masks():
    learner = maml(rate=0.5).double().train()
    support, query, spec = draw(clouds(), 0, 0)
    support = support._replace(inputs=support.inputs.double(), weights=support.weights.double())

    def loss() -> torch.Tensor:
        own = with_dropout(learner, 5)
        logits = own(support, spec)(query.inputs.double())
        return nn.functional.cross_entropy(logits, query.targets)

    weight = learner.backbone.first.weight
    (gradient,) = torch.autograd.grad(loss(), [weight])
    direction = torch.randn(weight.shape, dtype=torch.float64)
    with torch.no_grad():
        ends = []
        for side in (1e-6, -1e-6):
            weight.add_(direction, alpha=side)
            ends.append(float(loss()))
            weight.sub_(direction, alpha=side)
    derivative = (ends[0] - ends[1]) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(derivative, rel=1e-6)


@pytest.mark.parametrize(
    ("layer", "shape", "dropped"),
    [
        (nn.Dropout(0.3), (400, 30), (400, 30)),
        (nn.Dropout1d(0.3), (400, 30, 5), (400, 30)),
        (nn.Dropout2d(0.3), (400, 30, 2, 3), (400, 30)),
        (nn.Dropout3d(0.3), (400, 30, 2, 1, 2), (400, 30)),
    ],
)
def test_masks_are_those_of_the_layer(layer, shape, dropped):
    own = with_dropout(nn.Sequential(layer), 3)
    first, second = own(torch.ones(shape)), own(torch.ones(shape))
    for drawn in (first, second):
        assert set(drawn.unique().tolist()) <= {0.0, float(torch.tensor(1.0) / (1 - 0.3))}
        per_mask = drawn.reshape(*dropped, -1)
        assert (per_mask == per_mask[..., :1]).all()
        share = float((drawn == 0).float().mean())
        assert abs(share - 0.3) < 5 * math.sqrt(0.21 / 12_000)
    assert not first.equal(second), "every call has masks of its own"
    assert with_dropout(nn.Sequential(layer), 3)(torch.ones(shape)).equal(first)
    assert type(layer) in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    assert own.eval()(torch.ones(shape)).equal(torch.ones(shape))


def test_evaluation_and_frozen_parts_drop_nothing():
    learner = maml()
    assert len(active_dropout(learner)) == 1
    assert not active_dropout(learner.eval())
    frozen = qs.Prototypical(nn.Sequential(qs.frozen(body()), nn.Linear(3, 3)))
    assert not active_dropout(frozen.train())
    source = clouds()
    assert qs.evaluate(learner, source, 5).mean == qs.evaluate(learner, source, 5).mean


@pytest.mark.parametrize("meta_gradient", [Exact(recompute=True), FiniteDifference(), Implicit()])
def test_meta_gradients_that_compute_steps_again_are_refused(meta_gradient):
    before = maml(meta_gradient=meta_gradient)
    kept = weights(before)
    with pytest.raises(BrokenLaw, match="computed again"):  # before any step
        explain(before, clouds(), 2)
    with pytest.raises(BrokenLaw, match=r"computed again in the backward pass.*Exact\(\)"):
        qs.fit(before, clouds(), 2, 2, progress=False)
    assert weights(before).equal(kept)
    assert trained(lambda: maml(0.0, meta_gradient=meta_gradient)).isfinite().all()


def test_checkpointed_backbones_are_refused():
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = body()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)

    with pytest.raises(BrokenLaw, match="computed again"):
        qs.fit(qs.Prototypical(Checkpointed()), clouds(), 2, 2, progress=False)


def test_dropout_that_has_no_generator_is_refused_by_name():
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.core(x[:, None]).flatten(1)

    with pytest.raises(BrokenLaw, match=r"dropout layers backbone\.core\.self_attn"):
        qs.fit(qs.Prototypical(Attending()), clouds(), 2, 2, progress=False)
    with pytest.raises(BrokenLaw, match=r"dropout layers backbone\.0"):
        qs.fit(qs.Prototypical(nn.Sequential(nn.AlphaDropout(0.2), nn.Linear(4, 3))), clouds(), 2,
               2, progress=False)  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        lambda: maml(meta_gradient=FirstOrder()), lambda: qs.Reptile(body(), steps=2),
        lambda: qs.MetaSGD(body()), lambda: qs.ANIL(body(), steps=2), lambda: qs.R2D2(body()),
        lambda: qs.Siamese(body()), lambda: qs.LinearProbe(body()), lambda: qs.CAVIA(body()),
        lambda: qs.MAMLPlusPlus(body(), steps=2), lambda: qs.ProtoMAML(body(), steps=2),
    ],
)  # fmt: skip
def test_learners_of_every_family_train_with_dropout(make):
    torch.manual_seed(0)
    learner = make()
    before = weights(learner)
    training = qs.fit(learner, clouds(shots=2), 3, 2, progress=False)
    assert training.plan.mapping.value == "loop"
    assert "dropout" in training.plan.why
    assert weights(learner).isfinite().all()
    assert not weights(learner).equal(before)
    with pytest.raises(RuntimeError, match=r"engine='vmap' is not right.*dropout"):
        qs.fit(learner, clouds(), 1, 2, compute=Compute(engine="vmap"), progress=False)
