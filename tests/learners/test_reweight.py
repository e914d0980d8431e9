"""Reweighted source rows, as examples for any learner and as a learner."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.core import Examples
from quickstudy.learners.domains.density_ratios import KLIEP, KMM, DomainClassifier
from quickstudy.learners.domains.reweight import reweighted

SPEC = qs.regression(missing=True)


def curve(seed: int, source: int = 60, target: int = 60) -> Examples:
    """y = x^2 with noise: source rows around 0, unlabelled target rows around 1.5."""
    made = np.random.default_rng(seed)
    x = np.concatenate([made.normal(size=source), made.normal(1.5, 0.4, target)])[:, None]
    y = x**2 + 0.1 * made.normal(size=x.shape)
    y[source:] = np.nan
    groups = (np.arange(source + target) < source).astype(int)
    weights = torch.ones(source + target).double()
    return Examples(torch.from_numpy(x), torch.from_numpy(y), weights, torch.from_numpy(groups))


@pytest.mark.parametrize("ratio", [DomainClassifier(), KLIEP((1.0,)), KMM()])
def test_a_line_fits_the_target_better_under_new_weights(ratio: object) -> None:
    """The line that is best where the target is has less error there, for each of 5 seeds."""
    for seed in range(5):
        rows = curve(seed)
        x = torch.linspace(0.9, 2.1, 50).double()[:, None]
        plain, ours = (
            float((learner.double()(rows, SPEC)(x) - x**2).square().mean())
            for learner in (
                qs.LinearProbe(nn.Identity()),
                qs.Reweighted(qs.LinearProbe(nn.Identity()), ratio),  # type: ignore[arg-type]
            )
        )
        assert ours < plain / 2


def test_the_learner_is_its_base_learner_on_reweighted_rows() -> None:
    rows, x = curve(0), torch.linspace(-1, 3, 20).double()[:, None]
    base = qs.LinearProbe(nn.Linear(1, 2)).double()
    expected = base(reweighted(rows, features=base.backbone(rows.inputs)), SPEC)(x)
    torch.testing.assert_close(qs.Reweighted(base)(rows, SPEC)(x), expected)
    weights = reweighted(rows).weights
    ratio = DomainClassifier()(rows.inputs, (rows.groups > 0).double(), (rows.groups == 0).double())
    torch.testing.assert_close(weights[:60], ratio[:60])
    assert weights[60:].tolist() == [1.0] * 60


def test_it_gives_the_answers_of_its_learner() -> None:
    assert qs.Reweighted(qs.TrAdaBoostR2(nn.Identity())).answers == qs.TrAdaBoostR2.answers
    assert "vmap_equals_loop" not in qs.Reweighted(nn.Identity()).exceptions
    assert "vmap_equals_loop" in qs.Reweighted(nn.Identity(), KMM()).exceptions
    assert "vmap_equals_loop" in qs.Reweighted(qs.SVM(nn.Identity())).exceptions


def test_support_sets_with_nothing_to_compare_stay_as_they_are() -> None:
    rows = curve(0)
    plain = rows._replace(groups=torch.zeros_like(rows.groups))
    assert reweighted(plain) is plain
    nothing = rows._replace(weights=torch.zeros_like(rows.weights))
    assert reweighted(nothing) is nothing
    only_source = rows._replace(groups=torch.ones_like(rows.groups))
    with pytest.warns(RuntimeWarning, match=r"needs target rows.*Source rows keep their weights"):
        assert reweighted(only_source) is only_source


def test_several_sources_count_as_one() -> None:
    rows = curve(0)
    several = rows._replace(groups=torch.where(rows.groups > 0, torch.arange(120) % 3 + 1, 0))
    torch.testing.assert_close(reweighted(several).weights, reweighted(rows).weights)


def test_weights_can_be_learnt_through() -> None:
    """The gradient of the target's weights by the features is that of finite differences."""
    rows = curve(0, 8, 6)

    def total(x: torch.Tensor) -> torch.Tensor:
        return reweighted(rows._replace(inputs=x)).weights.square().sum()

    assert torch.autograd.gradcheck(total, (rows.inputs.clone().requires_grad_(),), atol=1e-5)


def test_what_cannot_be_compared_is_refused() -> None:
    rows = curve(0)
    with pytest.raises(ValueError, match="no tensor of reals"):
        reweighted(rows._replace(inputs={"x": rows.inputs}))
    with pytest.raises(ValueError, match="ratios must be finite"):
        reweighted(rows, lambda x, source, target: x[:, 0] / 0)
