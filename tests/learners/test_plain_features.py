"""Constant, zero and tiny features give finite predictions and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.learners.metric.distances import cosine
from quickstudy.learners.metric.siamese import verification
from quickstudy.learners.transfer.heads import logistic
from quickstudy.objectives import objective_of

KINDS: dict[str, Callable[[nn.Module], Any]] = {
    "Prototypical": qs.Prototypical,
    "Prototypical, cosine": lambda net: qs.Prototypical(net, cosine, 10.0),
    "Matching": qs.Matching,
    "Matching, reads": lambda net: qs.Matching(net, reads=2),
    "Siamese": qs.Siamese,
    "Siamese, verification": lambda net: qs.Siamese(net, verification),
    "Relation": qs.Relation,
    "R2D2": qs.R2D2,
    "MetaOptNet": qs.MetaOptNet,
    "LinearProbe": qs.LinearProbe,
    "LinearProbe, logistic": lambda net: qs.LinearProbe(net, logistic),
    "MANN": lambda net: qs.MANN(net, 5, hidden=8, slots=8, width=4),
    "MemoryNetwork": lambda net: qs.MemoryNetwork(net, width=8),
    "MetaNetworks": lambda net: qs.MetaNetworks(net, 5, hidden=8),
    "SNAIL": lambda net: qs.SNAIL(net, 5, length=11, filters=8),
    "InContext": lambda net: qs.InContext(net, size=8, heads=2),
    "ConditionalNeuralProcess": lambda net: qs.ConditionalNeuralProcess(net, size=8),
    "AttentiveConditionalNeuralProcess": lambda net: qs.AttentiveConditionalNeuralProcess(
        net, size=8, heads=2
    ),
}
FEATURES = {
    "constant": np.ones((10, 4)),
    "zero": np.zeros((10, 4)),
    **{f"of {size:g}": size * np.random.RandomState(0).randn(10, 4) for size in (1e-4, 1e-8)},
}


class Scaled(nn.Module):
    """Inputs times a learnt factor, so that features have gradients and no normalisation."""

    features = 4

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(4))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.factor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_and_gradients_are_finite(kind: str, features: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    learner = KINDS[kind](Scaled()).to(dtype)
    rows = qs.examples(FEATURES[features], np.arange(10) % 5)
    rows = rows._replace(inputs=rows.inputs.to(dtype), weights=rows.weights.to(dtype))
    spec = qs.classification(5)
    found = learner(rows, spec)(rows.inputs)
    assert found.isfinite().all()
    objective_of(learner)(learner, qs.Task(rows, rows, spec)).loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("head", [qs.LinearProbe, lambda net: qs.LinearProbe(net, logistic)])
def test_uninformative_features_give_every_class_its_share(features: str, head: Any) -> None:
    rows = qs.examples(FEATURES[features], np.arange(10) % 5)
    found = head(nn.Identity())(rows, qs.classification(5))(rows.inputs).softmax(-1)
    tolerance = 1e-2 if features == "of 0.0001" else 1e-6
    torch.testing.assert_close(found, torch.full_like(found, 0.2), rtol=0, atol=tolerance)
