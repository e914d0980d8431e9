"""MAML++: each ingredient equals a direct computation, and without all of them it equals MAML."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.compute.plan import Mapping
from quickstudy.contract.laws import meta_gradient
from quickstudy.core import Examples, Learner, Task
from quickstudy.learners.gradient import meta_gradients
from quickstudy.learners.gradient.meta_gradients import Annealed, Exact
from quickstudy.learners.gradient.multi_step import MultiStep
from quickstudy.objectives import Outcome, objective_of, query_loss, set_progress
from quickstudy.tasks.examples import one_place
from quickstudy.tasks.stacks import stack

STEPS, RATE = 3, 0.2


def task() -> Task:
    generator = torch.Generator().manual_seed(0)

    def rows(n: int) -> Examples:
        inputs = torch.randn(n, 4, generator=generator, dtype=torch.float64)
        weights = torch.ones(n, dtype=torch.float64)
        return Examples(inputs, torch.arange(n) % 3, weights, one_place(weights))

    return Task(rows(6), rows(9), qs.classification(3))


def made(**options: object) -> qs.MAMLPlusPlus:
    torch.manual_seed(0)
    learner = qs.MAMLPlusPlus(MLP(4, (5,), outputs=3), STEPS, RATE, **options).double()  # type: ignore[arg-type]
    if learner.learn_rates:
        with torch.no_grad():
            learner.rates += torch.linspace(-0.05, 0.05, learner.rates.numel()).reshape(STEPS, -1)
    return learner


def gradient(learner: Learner, objective: object = None) -> Tensor:
    chosen = objective or objective_of(learner)
    found = [
        meta_gradient(learner, stack([task()]), m, chosen)
        for m in (Mapping.LOOP, Mapping.VMAP_GRAD)
    ]  # type: ignore[arg-type]
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
    return found[0]


def written_out(learner: qs.MAMLPlusPlus, shares: list[float], first_order: bool) -> Tensor:
    rows, query, _ = task()
    parameters = list(learner.backbone.parameters())

    def loss(weights: list[Tensor], on: Examples) -> Tensor:
        w0, b0, w1, b1 = weights
        return F.cross_entropy((on.inputs @ w0.T + b0).relu() @ w1.T + b1, on.targets)

    weights, total = parameters, torch.zeros((), dtype=torch.float64)
    for k, share in enumerate(shares):
        own = torch.autograd.grad(loss(weights, rows), weights, create_graph=not first_order)
        weights = [
            w - learner.rates[k, i] * g for i, (w, g) in enumerate(zip(weights, own, strict=True))
        ]
        total = total + share * loss(weights, query)
    found = torch.autograd.grad(total, [*learner.parameters()])
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize(
    ("progress", "shares", "first_order"),
    [
        (0.0, [1 / 3, 1 / 3, 1 / 3], True),
        (0.25, [1 / 6, 1 / 6, 2 / 3], True),
        (0.4, [1 / 15, 1 / 15, 13 / 15], False),
        (0.5, [0, 0, 1], False),
        (1.0, [0, 0, 1], False),
    ],
)
def test_loss_and_order_depend_on_the_progress(
    progress: float, shares: list[float], first_order: bool
) -> None:
    learner = made(multi_step=0.5, first_order_until=0.3)
    set_progress(learner, learner.objective, progress)
    assert MultiStep(0.5).shares(progress, STEPS) == pytest.approx(shares)
    torch.testing.assert_close(gradient(learner), written_out(learner, shares, first_order))


def test_without_its_ingredients_it_equals_maml() -> None:
    plain = made(learn_rates=False, multi_step=0.0, first_order_until=0.0)
    set_progress(plain, plain.objective, 0.0)
    assert not plain.scheduled
    maml = qs.MAML(plain.backbone, STEPS, RATE)
    torch.testing.assert_close(gradient(plain), gradient(maml, query_loss), rtol=1e-12, atol=1e-12)
    assert plain.learnt_rates() == {}


def test_it_equals_maml_with_the_same_ingredients() -> None:
    whole = made(multi_step=0.5, first_order_until=0.3)
    parts = qs.MAML(whole.backbone, STEPS, RATE, Annealed(0.3), learn_rates=True).double()
    parts.load_state_dict(whole.state_dict())
    for progress in (0.0, 0.25, 0.4, 1.0):
        objective = MultiStep(0.5)
        set_progress(whole, whole.objective, progress)
        set_progress(parts, objective, progress)
        torch.testing.assert_close(
            gradient(whole), gradient(parts, objective), rtol=1e-12, atol=1e-12
        )


def test_the_chosen_meta_gradient_follows_first_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, recomputed = made(), made(meta_gradient=Exact(recompute=True))
    steps = []
    real = meta_gradients.gradients_with_product
    monkeypatch.setattr(
        meta_gradients, "gradients_with_product", lambda *given: steps.append(given) or real(*given)
    )
    expected = gradient(kept)
    assert not steps
    torch.testing.assert_close(gradient(recomputed), expected, rtol=1e-12, atol=1e-12)
    assert len(steps) == 2 * STEPS  # in a loop, and mapped
    for learner in (kept, recomputed):
        set_progress(learner, learner.objective, 0.0)
    torch.testing.assert_close(gradient(recomputed), gradient(kept))
    assert len(steps) == 2 * STEPS


def test_every_rate_starts_at_the_given_rate() -> None:
    learner = qs.MAMLPlusPlus(MLP(4, (5,), outputs=3), steps=3, rate=0.7)
    assert torch.equal(learner.rates, torch.full((3, 4), 0.7))


def test_rates_are_named_after_the_parameters_that_they_update() -> None:
    learner = made()
    rates = learner.learnt_rates()
    assert list(rates) == [name for name, _ in learner.backbone.named_parameters()]
    assert torch.equal(rates["head.bias"], learner.rates[:, -1])


def test_fit_sets_the_progress() -> None:
    torch.manual_seed(0)
    learner = qs.MAMLPlusPlus(MLP(outputs=1), 2, 0.01)
    noted = []

    def noting(learner: Learner, task: Task) -> Outcome:
        noted.append(learner.progress)
        return query_loss(learner, task)

    source = qs.Sinusoids()
    plan = qs.fit(
        learner, source, 4, 1, objective=noting, compute=qs.Compute("loop"), progress=False
    ).plan
    assert plan.mapping is Mapping.LOOP
    assert noted[-4:] == [0.0, 0.25, 0.5, 0.75]
    assert learner.progress == 1.0


def test_a_resumed_run_ends_at_the_same_bits(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def trained(run: object, resume: bool = False) -> Tensor:
        torch.manual_seed(0)
        learner = qs.MAMLPlusPlus(MLP(outputs=1), 2, 0.01, multi_step=0.5, first_order_until=0.5)
        qs.fit(
            learner, qs.Sinusoids(), 6, 2, run=run, resume=resume, checkpoint_every=1,  # type: ignore[arg-type]
            progress=False,
        )  # fmt: skip
        return torch.cat([p.detach().flatten() for p in learner.parameters()])

    whole = trained(tmp_path / "whole")
    from quickstudy.training import fit as trainer

    real = trainer._Trainer.step

    def broken(self, optimiser, step):  # type: ignore[no-untyped-def]
        if step == 2:
            raise RuntimeError("the machine fell over")
        return real(self, optimiser, step)

    monkeypatch.setattr(trainer._Trainer, "step", broken)
    with pytest.raises(RuntimeError, match="fell over"):
        trained(tmp_path / "broken")
    monkeypatch.undo()
    assert torch.equal(trained(tmp_path / "broken", resume=True), whole)


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"MultiStep: .* share of training, in \[0, 1\]; found 2"):
        made(multi_step=2)
    with pytest.raises(ValueError, match="first_order_until is a share"):
        made(first_order_until=-0.1)
