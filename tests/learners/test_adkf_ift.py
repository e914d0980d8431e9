"""ADKF-IFT: the process against scikit-learn's, its fit against scipy's, its derivative by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import quickstudy as qs
from quickstudy.core import Examples, Task
from quickstudy.learners.gradient.adkf_ift import ADKFIFT, START, predictive_density


def rows(n: int, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    y = torch.sin(2 * x[:, :1]) + 0.1 * torch.randn(n, 1, generator=generator).double()
    return Examples(x, y, torch.ones(n, dtype=torch.float64), torch.zeros(n, dtype=torch.long))


def process(fitted: np.ndarray, x: np.ndarray):
    """scikit-learn's process with the kernel of these logarithms, for features ``x``."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    length, amplitude, noise = np.exp(fitted)
    unit = np.sqrt(np.square(x[:, None] - x).sum(-1).mean())
    kernel = ConstantKernel(amplitude) * Matern(length * unit, nu=2.5) + WhiteKernel(noise)
    return GaussianProcessRegressor(kernel, optimizer=None)


def test_predictions_are_those_of_the_process_in_scikit_learn():
    support, query = rows(12), rows(5, seed=1)
    spec = qs.regression()
    learner = ADKFIFT(torch.nn.Identity()).double()
    state = learner.adapt(support, spec)
    x, y = support.inputs.numpy(), support.targets.numpy()[:, 0]
    expected = process(state["fitted"].numpy(), x).fit(x, y).predict(query.inputs.numpy(), True)
    assert np.allclose(learner.predict(state, query.inputs, spec)[:, 0], expected[0], atol=1e-8)
    assert np.allclose(learner.uncertainty(state, query.inputs)[:, 0], expected[1], atol=1e-8)


def test_the_kernel_is_fitted_to_the_optimum_that_scipy_finds():
    support = rows(12)
    x, y = support.inputs.numpy(), support.targets.numpy()[:, 0]

    def loss(t: np.ndarray) -> float:
        fitted = process(t, x).fit(x, y)
        return -fitted.log_marginal_likelihood_value_ + np.square(t - START).sum() / 2

    best = minimize(loss, START, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10})
    found = ADKFIFT(torch.nn.Identity()).double().adapt(support, qs.regression())["fitted"]
    assert np.allclose(found, best.x, atol=1e-4)


def test_the_gradient_is_that_of_fitting_anew():
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh()).double()
    learner = ADKFIFT(backbone, steps=30).double()
    task = Task(rows(10), rows(6, seed=1), qs.regression())
    weight = backbone[0].weight
    (found,) = torch.autograd.grad(predictive_density(learner, task), weight)
    step = 1e-5
    for place in ((0, 0), (2, 1)):
        values = []
        for side in (step, -step):
            with torch.no_grad():
                weight[place] += side
                values.append(float(predictive_density(learner, task)))
                weight[place] -= side
        assert float(found[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_classes_are_fitted_as_one_and_minus_one():
    support, query = rows(12), rows(5, seed=1)
    ids = (support.targets[:, 0] > 0).long()
    learner = ADKFIFT(torch.nn.Identity()).double()
    spec = qs.classification(2)
    state = learner.adapt(support._replace(targets=ids), spec)
    signs = support._replace(targets=2.0 * ids.unsqueeze(1).double() - 1)
    as_reals = learner.adapt(signs, qs.regression())
    assert torch.allclose(state["fitted"], as_reals["fitted"])
    mean = learner.predict(as_reals, query.inputs, qs.regression())[:, 0]
    deviation = learner.uncertainty(as_reals, query.inputs)[:, 0]
    logits = learner.predict(state, query.inputs, spec)
    assert torch.allclose(logits, 2 * torch.stack([-mean, mean], 1) / deviation.unsqueeze(1))


def test_other_learners_and_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="prior and scale must be positive; found prior=0"):
        ADKFIFT(torch.nn.Identity(), prior=0)
    with pytest.raises(TypeError, match="needs an ADKFIFT learner; found Prototypical"):
        predictive_density(qs.Prototypical(torch.nn.Identity()), None)
