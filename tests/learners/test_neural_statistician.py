"""The neural statistician's bound, against torch's distributions, row by row."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import Features
from quickstudy.core import Task
from quickstudy.learners.memory.neural_statistician import LEAST, statistician_bound
from quickstudy.training.optimisers import adam

CONTEXT, LATENT, PIXELS = 3, 2, 5
WEIGHTS = torch.tensor([1.0, 2.0, 0.0, 1.0], dtype=torch.float64)
SPEC = qs.regression(PIXELS)


def made() -> qs.NeuralStatistician:
    torch.manual_seed(0)
    backbone = Features(CONTEXT + LATENT)
    return qs.NeuralStatistician(backbone, PIXELS, LATENT, hidden=7).double()


def rows(n: int, seed: int = 0) -> qs.Examples:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, CONTEXT + LATENT, generator=generator, dtype=torch.float64)
    ink = torch.rand(n, PIXELS, generator=generator, dtype=torch.float64)
    return examples_of(noise, ink, WEIGHTS[:n])


def normal(numbers: Tensor) -> Normal:
    mean, spread = numbers.chunk(2)
    return Normal(mean, LEAST + (1 + spread.exp()).log())


def of_context(learner: qs.NeuralStatistician, support: qs.Examples) -> Normal:
    total = torch.zeros(7, dtype=torch.float64)
    for ink, weight in zip(support.targets, support.weights, strict=True):
        total = total + weight * learner.pool(learner.encoder(ink))
    return normal(learner.statistic(total / support.weights.sum()))


def test_the_bound_is_that_of_the_paper_row_by_row() -> None:
    learner, support = made(), rows(4)
    found = statistician_bound(learner, Task(support, rows(2, 1), SPEC))
    context = of_context(learner, support)
    total = -kl_divergence(context, Normal(torch.zeros(CONTEXT).double(), 1.0)).sum()
    for noise, ink, weight in zip(*support[:3], strict=True):
        c = context.mean + context.stddev * noise[:CONTEXT]
        prior = normal(learner.prior_net(c))
        posterior = normal(learner.posterior(torch.cat([learner.encoder(ink), c])))
        z = posterior.mean + posterior.stddev * noise[CONTEXT:]
        shade = learner.decoder(torch.cat([z, c])).sigmoid()
        likelihood = (ink * shade.log() + (1 - ink) * (1 - shade).log()).sum()
        total = total + weight * (likelihood - kl_divergence(posterior, prior).sum())
    assert float(found.loss.detach()) == pytest.approx(
        float((-total / WEIGHTS.sum()).detach()), rel=1e-10
    )


def test_a_new_drawing_is_drawn_from_the_context_and_then_from_the_prior() -> None:
    learner, support, noise = made(), rows(4), rows(3, 2).inputs
    found = learner(support, SPEC)(noise)
    context = of_context(learner, support)
    for row in range(3):
        c = context.mean + context.stddev * noise[row, :CONTEXT]
        prior = normal(learner.prior_net(c))
        z = prior.mean + prior.stddev * noise[row, CONTEXT:]
        torch.testing.assert_close(found[row], learner.decoder(torch.cat([z, c])).sigmoid())


def test_a_pixel_that_is_unknown_counts_for_nothing() -> None:
    learner, support = made(), rows(4)
    spec = qs.regression(PIXELS, missing=True)
    targets = support.targets.clone()
    targets[0, 2] = math.nan
    state = learner(support, SPEC).state
    zeros = support._replace(targets=targets.nan_to_num())
    unknown = learner.bound(state, support._replace(targets=targets), spec)
    of_pixel = learner.bound(state, zeros, SPEC) - unknown
    # what is left is the likelihood of ink 0 in that pixel, for one row of weight 1 in 4
    noise = support.inputs[0]
    context = Normal(state["mean"], state["deviation"])
    c = context.mean + context.stddev * noise[:CONTEXT]
    posterior = normal(learner.posterior(torch.cat([learner.encoder(zeros.targets[0]), c])))
    z = posterior.mean + posterior.stddev * noise[CONTEXT:]
    shade = learner.decoder(torch.cat([z, c])).sigmoid()[2]
    assert float(of_pixel) == pytest.approx(float(-(1 - shade).log() / 4), rel=1e-8)


def test_fitting_raises_the_bound_and_draws_what_was_given() -> None:
    """Two kinds of drawings, left or right ink: new ones have ink on the side of the support."""

    def source(generator: torch.Generator) -> Task:
        side = int(torch.randint(2, (1,), generator=generator))
        ink = 0.1 * torch.rand(6, 4, generator=generator)
        ink[:, 2 * side : 2 * side + 2] += 0.85
        noise = torch.randn(6, 5, generator=generator)
        return Task(qs.examples(noise[:4], ink[:4]), qs.examples(noise[4:], ink[4:]),
                    qs.regression(4))  # fmt: skip

    torch.manual_seed(0)
    learner = qs.NeuralStatistician(Features(5), 4, LATENT, hidden=16)
    qs.fit(learner, source, steps=150, tasks_per_step=4, optimiser=adam(0.01), progress=False)
    for seed in range(10):
        task = source(torch.Generator().manual_seed(100 + seed))
        noise = torch.randn(20, 5, generator=torch.Generator().manual_seed(seed))
        drawn = learner(task.support, task.spec)(noise)
        wanted = task.support.targets.mean(0) > 0.5
        assert bool((drawn.mean(0)[wanted] > drawn.mean(0)[~wanted].max() + 0.2).all())


def test_divergences_get_their_full_weight_in_the_course_of_the_warm_up() -> None:
    learner, support = made(), rows(4)
    state = learner(support, SPEC).state
    whole = float(learner.bound(state, support, SPEC))
    found = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        learner.set_progress(progress)
        found.append(float(learner.bound(state, support, SPEC)))
    assert found[2] == found[3] == whole
    assert found[1] == pytest.approx((found[0] + whole) / 2)
    assert found[0] < whole
    with pytest.raises(ValueError, match="warm_up must lie between"):
        qs.NeuralStatistician(Features(5), 4, 2, warm_up=2.0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="more features than latent"):
        qs.NeuralStatistician(Features(2), 4, latent=2)
    with pytest.raises(ValueError, match="5 outputs, but the learner has 4"):
        qs.NeuralStatistician(Features(5), 4, 2)(rows(3), SPEC)
    with pytest.raises(TypeError, match="needs a NeuralStatistician"):
        statistician_bound(qs.Prototypical(Features(5)), Task(rows(3), rows(2), SPEC))
