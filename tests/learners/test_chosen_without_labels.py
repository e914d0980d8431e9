"""Choosing without target labels: criteria equal skada's scorers, and labels are never read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core import Examples, Learner
from quickstudy.learners.domains import criteria
from quickstudy.learners.transfer.heads import logistic

skada = pytest.importorskip("skada")
metrics = pytest.importorskip("skada.metrics")

SPEC = qs.classification(3)
CRITERIA = (
    criteria.circular_validation, criteria.importance_weighted,
    criteria.deep_embedded_validation, criteria.prediction_entropy,
    criteria.soft_neighbourhood_density,
)  # fmt: skip


def rows(seed: int = 0, n: int = 60, m: int = 45) -> Examples:
    """Three overlapping clouds in the source and, moved, in the target; shuffled, all labelled."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n + m) % 3
    centres = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]).double()
    noise = torch.randn(n + m, 2, generator=generator, dtype=torch.float64)
    inputs = centres[targets] + 0.7 * noise
    inputs[n:] += 0.6
    groups = torch.tensor([1] * n + [0] * m)
    order = torch.randperm(n + m, generator=generator)
    ones = torch.ones(n + m, dtype=torch.float64)
    return Examples(inputs[order], targets[order], ones, groups[order])


def hidden(examples: Examples) -> Examples:
    return examples._replace(targets=torch.where(examples.groups > 0, examples.targets, -1))


def at(examples: Examples, which: Any) -> Examples:
    return Examples(*(leaf[which] for leaf in examples))


def as_skada(examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    domain = np.where(examples.groups.numpy() > 0, 1, -2)
    return examples.inputs.numpy(), hidden(examples).targets.numpy(), domain


def skadas(scorer: Any, pipeline: Any, fitted: Examples, held: Examples, **also: Any) -> float:
    x, y, domain = as_skada(fitted)
    pipeline.fit(x, y, sample_domain=domain)
    x, y, domain = as_skada(held)
    return float(scorer(pipeline, x, y, sample_domain=domain, **also))


def probe() -> Learner:
    return qs.LinearProbe(nn.Identity(), head=logistic)


def regression() -> LogisticRegression:
    return LogisticRegression(tol=1e-12, max_iter=10_000).set_score_request(sample_weight=True)


def test_circular_validation_is_skadas() -> None:
    for seed in range(3):
        fitted, held = rows(seed), rows(10 + seed)
        found = criteria.circular_validation(qs.SVM(nn.Identity()), hidden(fitted), held, SPEC)
        pipeline = skada.make_da_pipeline(SVC(tol=1e-10, break_ties=True))
        assert found == pytest.approx(skadas(metrics.CircularValidation(), pipeline, fitted, held))
        aligned = qs.CORAL(nn.Identity())
        found = criteria.circular_validation(aligned, hidden(fitted), held, SPEC)
        expected = skadas(
            metrics.CircularValidation(), skada.CORAL(SVC(tol=1e-10, break_ties=True)), fitted, held
        )
        assert found == pytest.approx(expected)


def test_importance_weighted_validation_is_skadas() -> None:
    fitted, held = hidden(rows(0)), rows(1)
    found = criteria.importance_weighted(probe(), fitted, held, SPEC)
    pipeline = skada.make_da_pipeline(regression())
    expected = skadas(metrics.ImportanceWeightedScorer(), pipeline, fitted, held)
    assert found == pytest.approx(expected, abs=1e-9)


def test_entropy_is_skadas_times_the_number_of_classes() -> None:
    """skada takes the mean over rows and classes, where an entropy is a sum over classes."""
    fitted, held = hidden(rows(0)), rows(1)
    found = criteria.prediction_entropy(probe(), fitted, held, SPEC)
    pipeline = skada.make_da_pipeline(regression())
    expected = skadas(metrics.PredictionEntropyScorer(), pipeline, fitted, held)
    assert found == pytest.approx(3 * expected, rel=1e-6)


def test_soft_neighbourhood_density_is_skadas() -> None:
    fitted, held = hidden(rows(0)), rows(1)
    found = criteria.soft_neighbourhood_density(probe(), fitted, held, SPEC)
    pipeline = skada.make_da_pipeline(regression())
    expected = skadas(metrics.SoftNeighborhoodDensity(), pipeline, fitted, held)
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_control_variate_is_the_papers() -> None:
    """Algorithm 1 of You et al., by numpy; exact where the loss does not depend on the row."""
    generator = np.random.default_rng(0)
    w, losses = generator.gamma(2.0, 0.5, 40), generator.random(40)
    eta = -np.cov(w * losses, w, ddof=1)[0, 1] / np.var(w, ddof=1)
    expected = np.mean(w * losses) + eta * np.mean(w) - eta
    found = criteria.controlled_mean(torch.from_numpy(w), torch.from_numpy(losses))
    assert found == pytest.approx(expected)
    same = criteria.controlled_mean(torch.from_numpy(w), torch.full((40,), 0.3).double())
    assert same == pytest.approx(0.3)
    ones = torch.ones(4).double()
    assert criteria.controlled_mean(ones, ones.cumsum(0)) == 2.5


def test_deep_embedded_validation_weights_by_the_learners_features() -> None:
    """Written again: a domain classifier on the features, its odds, the log loss of source rows."""
    fitted, held = hidden(rows(0)), rows(1)
    learner = qs.TCA(nn.Identity(), probe(), components=2)
    found = criteria.deep_embedded_validation(learner, fitted, held, SPEC)
    predictor = learner(fitted, SPEC)

    def features(which: Tensor, of: Examples) -> np.ndarray:
        return np.asarray(learner.embed(predictor.state, of.inputs[which]))

    source = features(fitted.groups > 0, fitted)
    target = np.concatenate([features(r.groups == 0, r) for r in (fitted, held)])
    domain = LogisticRegression(max_iter=1000).fit(
        np.concatenate([source, target]), [0] * len(source) + [1] * len(target)
    )
    p = domain.predict_proba(features(held.groups > 0, held))
    w = torch.from_numpy(p[:, 1] / p[:, 0] * len(source) / len(target))
    own = at(held, held.groups > 0)
    losses = nn.functional.cross_entropy(predictor(own.inputs), own.targets, reduction="none")
    assert found == pytest.approx(-criteria.controlled_mean(w, losses), rel=1e-9)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_no_criterion_reads_labels_of_the_target(criterion: criteria.Criterion) -> None:
    fitted, held = hidden(rows(0)), rows(1)
    wrong = held._replace(
        targets=torch.where(held.groups > 0, held.targets, (held.targets + 1) % 3)
    )
    learner = qs.CORAL(nn.Identity(), probe())
    scores = [criterion(learner, fitted, each, SPEC) for each in (held, wrong, hidden(held))]
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_held_row_of_weight_2_counts_as_two_rows(criterion: criteria.Criterion) -> None:
    """But for the domain classifier and the variances of deep embedded validation."""
    if criterion is criteria.deep_embedded_validation:
        pytest.skip("its classifier and its variance count rows")
    if criterion is criteria.soft_neighbourhood_density:
        pytest.skip("a copy of a row is its neighbour")
    fitted, held = hidden(rows(0)), rows(1)
    weighted = held._replace(weights=1 + (torch.arange(len(held.weights)) % 5 == 0).double())
    repeated = at(held, torch.arange(len(held.weights)).repeat_interleave(weighted.weights.long()))
    found, expected = (criterion(probe(), fitted, each, SPEC) for each in (weighted, repeated))
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_best_by_the_mean_over_folds_is_taken() -> None:
    support = hidden(rows())
    learners = [qs.SVM(nn.Identity()), qs.CORAL(nn.Identity()), qs.LinearTransport(nn.Identity())]
    learner = qs.ChosenWithoutLabels(nn.Identity(), learners, folds=3)
    predictor = learner(support, SPEC)
    part = torch.where(support.groups == 0, -2, support.targets)
    fold = torch.zeros(len(part), dtype=torch.long)
    for each in part.unique():
        fold[part == each] = torch.arange(int((part == each).sum())) % 3
    expected = [
        np.mean([
            criteria.circular_validation(each, at(support, fold != k), at(support, fold == k), SPEC)
            for k in range(3)
        ])
        for each in learners
    ]  # fmt: skip
    assert predictor.state["scores"].tolist() == pytest.approx(expected)
    best = int(np.argmax(expected))
    assert int(predictor.state["choice"]) == best
    alone = learners[best](support, SPEC)
    assert torch.equal(predictor(support.inputs), alone(support.inputs))
    words = learner.report(predictor.state)
    assert words.startswith(f"{type(learners[best]).__name__} (number {best}), by circular_valid")
    assert f"{expected[0]:.3f}" in words


def test_a_plain_task_takes_the_first_learner(tmp_path: Any) -> None:
    support = rows()
    plain = at(support, support.groups == 0)
    learner = qs.ChosenWithoutLabels(nn.Identity())
    predictor = learner(plain, SPEC)
    assert torch.equal(predictor(plain.inputs), qs.SVM(nn.Identity())(plain, SPEC)(plain.inputs))
    assert "the first, since there are no sources" in learner.report(predictor.state)


def test_predictors_are_saved_with_their_choice(tmp_path: Any) -> None:
    support = hidden(rows())
    learner = qs.ChosenWithoutLabels(qs.backbones.MLP(2, (5,)).double(), folds=3)
    predictor = learner(support, SPEC)
    loaded = qs.load(qs.save(predictor, tmp_path / "chosen.safetensors"))
    torch.testing.assert_close(loaded(support.inputs), predictor(support.inputs))
    assert loaded.learner.report(loaded.state) == learner.report(predictor.state)


def test_what_cannot_be_judged_is_refused() -> None:
    support = hidden(rows())
    learner = qs.ChosenWithoutLabels(nn.Identity(), folds=5)
    with pytest.raises(ValueError, match="needs rows of the target"):
        learner(at(support, support.groups > 0), SPEC)
    few = torch.cat([(support.groups > 0).nonzero()[:, 0], (support.groups == 0).nonzero()[:3, 0]])
    with pytest.raises(ValueError, match=r"5 folds need .* found 3 of the target"):
        learner(at(support, few), SPEC)
    rare = at(support, (support.targets != 2) | (torch.arange(105) < 8))
    with pytest.raises(ValueError, match=r"5 folds need .* of class 2 of the sources"):
        learner(rare, SPEC)
    without = support._replace(targets=torch.full_like(support.targets, -1))
    with pytest.raises(ValueError, match=r"needs labelled rows of sources.* and no label"):
        learner(without, SPEC)
    with pytest.raises(ValueError, match="2 or more learners and folds; found 1 and 5"):
        qs.ChosenWithoutLabels(nn.Identity(), [probe()])
