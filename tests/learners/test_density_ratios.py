"""Density ratios against those of Gaussians, which are known, and against other solvers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from quickstudy.learners.domains import density_ratios
from quickstudy.learners.domains.density_ratios import KLIEP, KMM, DomainClassifier, Ratio
from quickstudy.learners.domains.skada_ratios import SkadaKLIEP, SkadaKMM

EVERY = [DomainClassifier(), KLIEP((1.0,)), KMM()]


def gaussians(seed: int, n: int, shift: float = 1.0) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
    """Rows of N(0, 1) and of N(shift, 1), their weights, and the true ratio at the former."""
    made = np.random.default_rng(seed)
    own, other = made.normal(size=n), made.normal(shift, 1, n)
    x = torch.from_numpy(np.concatenate([own, other])[:, None])
    source = (torch.arange(2 * n) < n).double()
    return x, source, 1 - source, np.exp(shift * own - shift**2 / 2)


def error(ratio: Ratio, seed: int, n: int) -> float:
    """The mean squared error of the ratio at source rows."""
    x, source, target, true = gaussians(seed, n)
    return float(((ratio(x, source, target)[:n].numpy() - true) ** 2).mean())


@pytest.mark.parametrize(
    ("ratio", "n", "most"),
    [(DomainClassifier(1e-3), 400, 0.3), (KLIEP((1.0,)), 150, 0.9)],
)
def test_the_ratio_of_two_gaussians_is_found(ratio: Ratio, n: int, most: float) -> None:
    """The mean error over 5 seeds is well below e - 1 = 1.72, that of a ratio of 1 everywhere."""
    assert np.mean([error(ratio, seed, n) for seed in range(5)]) < most


def test_a_domain_classifier_of_many_rows_is_near_the_closed_form() -> None:
    """log r(x) = x - 1/2: slope and offset of the fit, over 5 seeds of 4,000 rows, within 0.15."""
    for seed in range(5):
        x, source, target, _ = gaussians(seed, 4000)
        asked = torch.cat([x, torch.tensor([[0.0], [1.0]]).double()])  # rows without weight
        weights = (torch.cat([each, torch.zeros(2).double()]) for each in (source, target))
        at = DomainClassifier(1e-3)(asked, *weights)[-2:].log()
        assert float(at[0]) == pytest.approx(-0.5, abs=0.15)
        assert float(at[1] - at[0]) == pytest.approx(1.0, abs=0.15)


def test_different_numbers_of_rows_are_accounted_for() -> None:
    """With the same density on both sides the ratio is near 1, with 9 times as many source rows."""
    made = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 1, generator=made, dtype=torch.float64)
    source = (torch.arange(1000) < 900).double()
    found = DomainClassifier()(x, source, 1 - source)[:900]
    assert float((found.log()).abs().mean()) < 0.2


def test_kliep_is_at_the_maximum_of_the_likelihood() -> None:
    """Another solver, on the papers' own variables, reaches the same mean log-ratio."""
    x, source, target, _ = gaussians(0, 40)
    own, other = x[:40].numpy(), x[40:].numpy()
    gamma = density_ratios.kernel_unit(x, source + target)
    a, b = (np.exp(-gamma * (rows - other.T) ** 2) for rows in (other, own))
    solved = minimize(
        lambda v: -np.log(a @ v).mean(), np.full(40, 1 / b.mean() / 40), method="SLSQP",
        jac=lambda v: -(a / (a @ v)[:, None]).mean(0), bounds=[(0, None)] * 40,
        constraints={"type": "eq", "fun": lambda v: b.mean(0) @ v - 1, "jac": lambda v: b.mean(0)},
        options={"maxiter": 500, "ftol": 1e-12},
    )  # fmt: skip
    found = KLIEP((1.0,))(x, source, target)
    assert float(found[:40].mean()) == pytest.approx(1, abs=1e-9)
    assert float(found[40:].log().mean()) == pytest.approx(-solved.fun, abs=1e-4)


def test_kmm_is_at_the_minimum_of_the_discrepancy() -> None:
    x, source, target, _ = gaussians(0, 40)
    own, other = x[:40].numpy(), x[40:].numpy()
    gamma = density_ratios.kernel_unit(x, source + target)
    inner = np.exp(-gamma * (own - own.T) ** 2)
    cross = np.exp(-gamma * (own - other.T) ** 2).mean(1)
    slack = 1 - 40**-0.5

    def discrepancy(r: np.ndarray) -> float:
        return float(r @ inner @ r / 1600 - 2 * r @ cross / 40)

    solved = minimize(
        discrepancy, np.ones(40), jac=lambda r: inner @ r / 800 - cross / 20, method="SLSQP",
        bounds=[(0, 1000)] * 40, options={"maxiter": 1000, "ftol": 1e-14},
        constraints=[{"type": "ineq", "fun": lambda r: r.mean() - 1 + slack},
                     {"type": "ineq", "fun": lambda r: 1 + slack - r.mean()}],
    )  # fmt: skip
    found = KMM()(x, source, target)[:40].numpy()
    assert found.min() >= 0
    assert discrepancy(found) <= solved.fun + 1e-4


def test_kmm_keeps_its_bounds() -> None:
    x, source, target, _ = gaussians(0, 50, shift=3.0)
    found = KMM(largest=2.0, slack=0.01)(x, source, target)[:50]
    assert float(found.min()) >= 0
    assert float(found.max()) <= 2 + 1e-9
    assert float(found.mean()) == pytest.approx(1, abs=0.0101)


@pytest.mark.parametrize("ratio", EVERY, ids=lambda r: type(r).__name__)
def test_weights_are_numbers_of_rows_and_0_is_absent(ratio: Ratio) -> None:
    x, source, target, _ = gaussians(0, 6)
    twice, none = source.clone(), source.clone()
    twice[3], none[5] = 2, 0
    again = ratio(
        torch.cat([x, x[3:4]]), torch.cat([source, source[3:4]]), torch.cat([target, target[3:4]])
    )
    torch.testing.assert_close(ratio(x, twice, target), again[:12], rtol=1e-3, atol=1e-3)
    kept = torch.arange(12) != 5
    torch.testing.assert_close(
        ratio(x, none, target)[kept], ratio(x[kept], source[kept], target[kept]),
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("ratio", EVERY, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("value", [0.0, 1.0, 1e6])
def test_constant_features_give_a_ratio_of_1(ratio: Ratio, value: float) -> None:
    _, source, target, _ = gaussians(0, 10)
    x = torch.full((20, 3), value, dtype=torch.float64)
    torch.testing.assert_close(ratio(x, source, target)[:10], torch.ones(10).double())


@pytest.mark.parametrize("ratio", EVERY, ids=lambda r: type(r).__name__)
def test_domains_that_do_not_overlap_give_finite_ratios(ratio: Ratio) -> None:
    x, source, target, _ = gaussians(0, 20, shift=50.0)
    assert bool(ratio(x.float(), source.float(), target.float()).isfinite().all())


def test_skadas_ratios_are_skadas() -> None:
    skada = pytest.importorskip("skada", reason="needs the extra transfer")
    x, source, target, _ = gaussians(0, 30)
    domains = np.where(source.numpy() > 0, 1, -2)
    for ours, theirs in (
        (SkadaKLIEP(0.5), skada.KLIEPReweightAdapter(gamma=0.5, random_state=0)),
        (SkadaKMM(0.5), skada.KMMReweightAdapter(gamma=0.5)),
    ):
        theirs.fit(x.numpy(), sample_domain=domains)
        expected = theirs.compute_weights(x.numpy(), sample_domain=domains)[:30]
        np.testing.assert_array_equal(ours(x, source, target)[:30].numpy(), expected)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="l2 must be positive; found 0"):
        DomainClassifier(0)
    with pytest.raises(ValueError, match="needs at least 1 gamma"):
        KLIEP(())
    with pytest.raises(ValueError, match="gamma must be positive; found -1"):
        KMM(-1)
    with pytest.raises(ValueError, match=r"slack must be a number of at least 0; found -0\.5"):
        KMM(slack=-0.5)
    with pytest.raises(ValueError, match=r"centres at least 1; found gamma=1\.0, centres=0"):
        SkadaKLIEP(centres=0)
    with pytest.raises(ValueError, match=r"or 'scipy'; found gamma=-1\.0, solver='x'"):
        SkadaKMM(-1.0, "x")
    with pytest.raises(ValueError, match="folds must be at least 2; found 1"):
        KLIEP(folds=1)
