"""The laws of ``prior`` and ``extend``: support given in parts gives the state of all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP, Conv4
from quickstudy.base.trees import concatenate, leaves, structure
from quickstudy.core import Examples, TaskSpec
from quickstudy.learners.transfer.heads import logistic

KINDS: dict[str, Callable[[nn.Module], Any]] = {
    "Prototypical": qs.Prototypical,
    "LinearProbe": qs.LinearProbe,
    "LinearProbe, logistic": lambda net: qs.LinearProbe(net, logistic),
    "ConditionalNeuralProcess": lambda net: qs.ConditionalNeuralProcess(net, size=8),
}
CLASSES, REALS, SOME_REALS = qs.classification(3), qs.regression(2), qs.regression(2, missing=True)
LABELS = qs.multilabel(2)
CASES = [
    *((kind, CLASSES) for kind in KINDS),
    *(("LinearProbe", spec) for spec in (REALS, SOME_REALS, LABELS)),
    ("LinearProbe, logistic", LABELS),
    *(("ConditionalNeuralProcess", spec) for spec in (REALS, SOME_REALS, LABELS)),
]


def made(kind: str, net: nn.Module | None = None) -> Any:
    torch.manual_seed(0)
    return KINDS[kind](net or MLP(4, (6, 5))).double().eval()


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def support(spec: TaskSpec, seed: int, n: int = 7) -> Examples:
    """Rows of weights from 0 to 3, one of them without any known target."""
    targets = numbers(seed, n, 2)
    if spec.answer.kind == "classes":
        targets = torch.arange(n) % 2 + (seed % 2)  # A and B have one class in common
        targets[1] = -1
    elif spec != REALS:
        targets = (targets > 0).double() if spec == LABELS else targets
        targets[1], targets[2, 0], targets[3, 1] = torch.nan, torch.nan, torch.nan
    weights = torch.tensor([1, 1, 2, 0.5, 0, 3, 1], dtype=torch.float64)[:n]
    return examples_of(numbers(seed + 10, n, 4), targets, weights)


def assert_equal(found: Any, expected: Any) -> None:
    assert structure(found) == structure(expected)
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("kind", "spec"), CASES)
@torch.no_grad()
def test_extending_the_prior_equals_adapting(kind: str, spec: TaskSpec) -> None:
    learner, rows = made(kind), support(spec, 0)
    found, expected = learner.extend(learner.prior(spec), rows, spec), learner.adapt(rows, spec)
    assert_equal(found, expected)


@pytest.mark.parametrize(("kind", "spec"), CASES)
@torch.no_grad()
def test_extending_equals_adapting_to_the_union(kind: str, spec: TaskSpec) -> None:
    learner, first, second = made(kind), support(spec, 0), support(spec, 1)
    found = learner.extend(learner.adapt(first, spec), second, spec)
    assert_equal(found, learner.adapt(concatenate(first, second), spec))


@pytest.mark.parametrize(("kind", "spec"), [c for c in CASES if c[1] != REALS])
@torch.no_grad()
def test_the_spec_may_become_wider(kind: str, spec: TaskSpec) -> None:
    learner, first = made(kind), support(spec, 0)
    wider = {
        CLASSES: qs.classification(5), LABELS: qs.multilabel(3),
        SOME_REALS: qs.regression(3, missing=True),
    }[spec]  # fmt: skip
    second = support(spec, 1)
    if spec == CLASSES:
        second = second._replace(targets=torch.tensor([4, 0, 3, -1, 4, 2, 0]))
        before = first
    else:
        more = torch.tensor([1.0, 0, 1, torch.nan, 0, 1, 0], dtype=torch.float64)[:, None]
        second = second._replace(targets=torch.cat([second.targets, more], 1))
        unknown = torch.full((7, 1), torch.nan, dtype=torch.float64)
        before = first._replace(targets=torch.cat([first.targets, unknown], 1))
    found = learner.extend(learner.adapt(first, spec), second, wider)
    assert_equal(found, learner.adapt(concatenate(before, second), wider))
    with pytest.raises(ValueError, match="Extend with a spec of as many outputs or more"):
        learner.extend(found, first, spec)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_prior_favours_no_class(kind: str) -> None:
    learner = made(kind)
    predictor = qs.Predictor(learner, learner.prior(CLASSES), CLASSES)
    found = predictor(numbers(2, 3, 4)).softmax(-1)
    torch.testing.assert_close(found, torch.full_like(found, 1 / 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["support", "batch"])
def test_extending_refuses_statistics_of_one_support_set(kind: str, norm: str) -> None:
    learner = made(kind, Conv4(4, norm, image_size=16))
    rows = examples_of(numbers(0, 4, 1, 16, 16), torch.arange(4) % 3)
    state = learner.adapt(rows, CLASSES)
    name = kind.split(",")[0]
    with pytest.raises(ValueError, match=f'{name}: prior and extend need .* norm="group"'):
        learner.extend(state, rows, CLASSES)
    with pytest.raises(ValueError, match=f"{name}: prior and extend need"):
        learner.prior(CLASSES)


def test_further_reals_must_be_declared_missing() -> None:
    learner, rows = made("LinearProbe"), support(REALS, 0)
    wider = rows._replace(targets=numbers(5, 7, 3))
    with pytest.raises(ValueError, match=r"have 2 real targets, but .* missing=True"):
        learner.extend(learner.adapt(rows, REALS), wider, qs.regression(3))


def test_a_prior_has_the_size_of_the_features() -> None:
    with pytest.raises(ValueError, match="Set an attribute `features`"):
        qs.Prototypical(nn.Identity()).prior(CLASSES)
