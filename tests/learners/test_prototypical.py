"""Prototypical Networks equal the paper's equations, written in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP
from quickstudy.learners.metric.distances import cosine


def numbers(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(**options: object) -> qs.Prototypical:
    torch.manual_seed(0)
    return qs.Prototypical(MLP(4, (6, 5)), **options).double()  # type: ignore[arg-type]


def features(learner: qs.Prototypical, inputs: torch.Tensor) -> np.ndarray:
    """The perceptron in numpy."""
    x = inputs.numpy()
    for layer in learner.backbone.layers:  # type: ignore[union-attr]
        if isinstance(layer, torch.nn.Linear):
            x = np.maximum(x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
    return np.asarray(x)


TARGETS = [0, 1, 2, 0, 1, 2, 2, -1]
WEIGHTS = [1.0, 2.0, 0.5, 3.0, 1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("metric", ["squared Euclidean", "cosine"])
def test_logits_equal_those_of_the_equations(metric: str) -> None:
    learner = made() if metric != "cosine" else made(distance=cosine, scale=10.0)
    support = qs.examples(numbers(1, 8, 4), TARGETS, WEIGHTS)
    support = examples_of(numbers(1, 8, 4), support.targets, support.weights.double())
    queries = numbers(2, 5, 4)
    with torch.no_grad():
        found = learner(support, qs.classification(4))(queries).numpy()
    f, q = features(learner, support.inputs), features(learner, queries)
    for k in range(3):
        of_class = np.array([i for i, t in enumerate(TARGETS) if t == k])
        prototype = np.average(f[of_class], axis=0, weights=np.array(WEIGHTS)[of_class])
        if metric == "cosine":
            lengths = np.linalg.norm(q, axis=1) * np.linalg.norm(prototype)
            expected = -10 * (1 - q @ prototype / lengths)
        else:
            expected = -((q - prototype) ** 2).sum(1)
        np.testing.assert_allclose(found[:, k], expected, rtol=1e-10, atol=1e-12)


def test_a_distance_function_gets_queries_first() -> None:
    """An asymmetric one: it counts only elements that are smaller in the prototype."""
    learner = made(distance=lambda a, b: (a.unsqueeze(1) - b).clamp_min(0).sum(-1))
    rows = examples_of(numbers(1, 3, 4), torch.arange(3), torch.ones(3).double())
    queries = numbers(2, 5, 4)
    found = learner(rows, qs.classification(3))(queries).detach().numpy()
    f, q = features(learner, rows.inputs), features(learner, queries)
    np.testing.assert_allclose(found, -np.maximum(q[:, None] - f, 0).sum(-1), atol=1e-12)


def test_a_class_without_rows_gets_no_probability() -> None:
    learner = made()
    support = examples_of(numbers(1, 3, 4), torch.tensor([0, 2, -1]), torch.ones(3).double())
    probabilities = learner(support, qs.classification(3))(numbers(2, 5, 4)).softmax(-1)
    assert torch.equal(probabilities[:, 1], torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(5, dtype=torch.float64))


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="scale must be positive; found 0"):
        qs.Prototypical(MLP(4), scale=0)


def test_regressions_are_refused() -> None:
    support = qs.examples(torch.zeros(2, 4), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="Prototypical: gives answers of the kind Classes"):
        qs.Prototypical(MLP(4))(support, qs.regression())
