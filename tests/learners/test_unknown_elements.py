"""Unknown elements count as absent, inside rows too; outputs fitted separately are independent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP
from quickstudy.base.trees import map_tree
from quickstudy.core import Examples, TaskSpec
from quickstudy.learners.memory.neural_process import gaussian_likelihood
from quickstudy.learners.transfer.heads import logistic, ridge
from quickstudy.objectives import objective_of

SOME_REALS, LABELS = qs.regression(2, missing=True), qs.multilabel(2)
KINDS: dict[str, Callable[[Any], Any]] = {
    "LinearProbe": qs.LinearProbe,
    "LinearProbe, logistic": lambda net: qs.LinearProbe(net, logistic),
    "ConditionalNeuralProcess": lambda net: qs.ConditionalNeuralProcess(net, size=8),
    "AttentiveConditionalNeuralProcess": lambda net: qs.AttentiveConditionalNeuralProcess(
        net, size=8, heads=2
    ),
    "InContext": lambda net: qs.InContext(net, size=8, heads=2),
    "SNAIL": lambda net: qs.SNAIL(net, 2, length=9, filters=8),
    "MANN": lambda net: qs.MANN(net, 2, hidden=8, slots=8, width=4),
    "MetaNetworks": lambda net: qs.MetaNetworks(net, 2, hidden=8),
}
ALONE = [name for name in KINDS if name not in ("SNAIL", "MANN", "MetaNetworks")]
CASES = [
    (kind, spec) for kind in KINDS for spec in (SOME_REALS, LABELS)
    if (kind, spec) != ("LinearProbe, logistic", SOME_REALS)
]  # fmt: skip


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(kind: str) -> Any:
    torch.manual_seed(0)
    return KINDS[kind](MLP(4, (6, 5))).double().eval()


def support(spec: TaskSpec) -> Examples:
    """Eight rows: row 1 wholly unknown, rows 2 and 3 in one column each."""
    targets = numbers(0, 8, 2)
    targets = (targets > 0).double() if spec == LABELS else targets
    targets[1], targets[2, 0], targets[3, 1] = torch.nan, torch.nan, torch.nan
    weights = torch.tensor([1, 1, 2, 0.5, 1, 3, 1, 1], dtype=torch.float64)
    return examples_of(numbers(1, 8, 4), targets, weights)


@pytest.mark.parametrize(("kind", "spec"), CASES)
@torch.no_grad()
def test_a_row_without_known_elements_counts_as_absent(kind: str, spec: TaskSpec) -> None:
    learner, rows, queries = made(kind), support(spec), numbers(2, 3, 4)
    kept = map_tree(lambda leaf: torch.cat([leaf[:1], leaf[2:]]), rows)
    found, expected = learner(rows, spec)(queries), learner(kept, spec)(queries)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert found.isfinite().all()


@pytest.mark.parametrize("kind", [kind for kind, spec in CASES if spec == LABELS])
@torch.no_grad()
def test_the_value_stored_for_an_unknown_element_does_not_matter(kind: str) -> None:
    """Unknown labels may be written as NaN or as -1."""
    learner, rows, queries = made(kind), support(LABELS), numbers(2, 3, 4)
    ids = rows._replace(targets=rows.targets.nan_to_num(nan=-1.0).long())
    assert torch.equal(learner(rows, LABELS)(queries), learner(ids, LABELS)(queries))


@pytest.mark.parametrize(("kind", "spec"), [case for case in CASES if case[0] in ALONE])
@torch.no_grad()
def test_unknown_labels_of_one_column_do_not_change_other_columns(
    kind: str, spec: TaskSpec
) -> None:
    learner, rows, queries = made(kind), support(spec), numbers(2, 3, 4)
    fewer = rows.targets.clone()
    fewer[4:6, 0] = torch.nan
    before = learner(rows, spec)(queries)
    after = learner(rows._replace(targets=fewer), spec)(queries)
    torch.testing.assert_close(after[:, 1], before[:, 1], rtol=1e-12, atol=1e-12)
    assert (after[:, 0] - before[:, 0]).abs().max() > 1e-6


@pytest.mark.parametrize("kind", ALONE)
@torch.no_grad()
def test_each_column_equals_that_of_a_separate_task(kind: str) -> None:
    spec = LABELS if "logistic" in kind else SOME_REALS
    learner, rows, queries = made(kind), support(spec), numbers(2, 3, 4)
    found = learner(rows, spec)(queries)
    for k in range(2):
        kept = ~rows.targets[:, k].isnan()
        alone = examples_of(rows.inputs[kept], rows.targets[kept, k : k + 1], rows.weights[kept])
        one = qs.multilabel(1) if spec == LABELS else qs.regression(1)
        expected = learner(alone, one)(queries)
        torch.testing.assert_close(found[:, k : k + 1], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("kind", "spec"), CASES)
def test_training_ignores_unknown_elements_of_queries(kind: str, spec: TaskSpec) -> None:
    """The loss is the mean over known elements; its gradient is finite."""
    learner, rows = made(kind), support(spec)
    outcome = objective_of(learner)(learner, qs.Task(rows, rows, spec))
    outcome.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())
    kept = map_tree(lambda leaf: torch.cat([leaf[:1], leaf[2:]]), rows)
    fewer = objective_of(learner)(learner, qs.Task(kept, kept, spec))
    torch.testing.assert_close(outcome.loss, fewer.loss, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["ConditionalNeuralProcess", "AttentiveConditionalNeuralProcess"])
def test_the_likelihood_is_a_mean_over_known_numbers(kind: str) -> None:
    learner, rows = made(kind), support(SOME_REALS)
    mean, deviation = learner.distribution(learner(rows, SOME_REALS).state, rows.inputs)
    surprise = -torch.distributions.Normal(mean, deviation).log_prob(rows.targets.nan_to_num())
    counted = rows.weights[:, None] * ~rows.targets.isnan()
    found = gaussian_likelihood(learner, qs.Task(rows, rows, SOME_REALS)).loss
    torch.testing.assert_close(found, (counted * surprise).sum() / counted.sum())


def test_ridge_recovers_every_column_from_the_rows_where_it_is_known() -> None:
    inputs, truth = numbers(0, 12, 3), numbers(1, 3, 2)
    targets = inputs @ truth + torch.tensor([2.0, -1.0])
    holes = targets.clone()
    holes[torch.arange(12), torch.arange(12) % 2] = torch.nan
    learner = qs.LinearProbe(torch.nn.Identity(), l2=1e-8)
    found = learner(examples_of(inputs, holes), SOME_REALS)(inputs)
    torch.testing.assert_close(found, targets, rtol=0, atol=4e-6)
    for k in range(2):
        known = ~holes[:, k].isnan()
        reference = Ridge(alpha=1e-8).fit(inputs[known].numpy(), targets[known, k].numpy())
        expected = torch.from_numpy(reference.predict(inputs.numpy()))
        torch.testing.assert_close(found[:, k], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("features", [4, 30])
@pytest.mark.parametrize("l2", [0.1, 1.0])
def test_logistic_is_one_binary_regression_for_each_label(features: int, l2: float) -> None:
    inputs, rows = numbers(0, 20, features), numbers(1, 20, 3)
    targets = (rows > 0).double()
    targets[::7, 0], targets[::5, 2] = torch.nan, torch.nan
    weights = 0.5 + rows[:, 0].abs()
    learner = qs.LinearProbe(torch.nn.Identity(), logistic, l2=l2)
    found = learner(examples_of(inputs, targets, weights), qs.multilabel(3))(inputs)
    for k in range(3):
        known = ~targets[:, k].isnan()
        reference = LogisticRegression(C=1 / l2, tol=1e-12, max_iter=10_000, solver="newton-cg")
        reference.fit(inputs[known].numpy(), targets[known, k].numpy(), weights[known].numpy())
        expected = torch.from_numpy(reference.decision_function(inputs.numpy()))
        torch.testing.assert_close(found[:, k], expected, rtol=0, atol=1e-5)


def test_a_label_that_is_always_yes_gives_finite_predictions() -> None:
    inputs = numbers(0, 6, 4)
    targets = torch.stack([torch.ones(6), torch.full((6,), torch.nan), -torch.ones(6)], 1)
    targets[:, 2] = 0
    learner = qs.LinearProbe(torch.nn.Identity(), logistic)
    found = learner(examples_of(inputs, targets.double()), qs.multilabel(3))(inputs)
    expected = torch.tensor([7.0, 1.0, 1 / 7], dtype=torch.float64).log().expand(6, 3)
    torch.testing.assert_close(found, expected)


def test_ridge_on_labels_predicts_scaled_values() -> None:
    inputs = numbers(0, 9, 4)
    labels = (numbers(1, 9, 2) > 0).long()
    found = qs.LinearProbe(torch.nn.Identity(), scale=3.0)(examples_of(inputs, labels), LABELS)
    weight, offset = ridge(inputs, 2 * labels.double() - 1, torch.ones(9).double(), 1.0)
    torch.testing.assert_close(found(inputs), 3 * (inputs @ weight + offset))
