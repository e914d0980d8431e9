"""Mahalanobis prototypes against the paper's equations in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import quickstudy as qs
from quickstudy.core import Examples


def test_logits_are_those_of_the_equations():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(11, 3, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2])  # class 2 has one row
    queries = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    learner = qs.PrototypicalMahalanobis(torch.nn.Identity(), ridge=0.7, scale=1.5)
    support = Examples(x, y, torch.ones(11, dtype=torch.float64), torch.zeros(11))
    spec = qs.classification(3)
    found = learner.predict(learner.adapt(support, spec), queries, spec)
    of_all = np.cov(x.numpy().T)
    expected = np.zeros((5, 3))
    for k in range(3):
        own = x[y == k].numpy()
        share = len(own) / (len(own) + 1)
        of_class = np.cov(own.T) if len(own) > 1 else np.zeros((3, 3))
        metric = share * of_class + (1 - share) * of_all + 0.7 * np.eye(3)
        apart = queries.numpy() - own.mean(0)
        expected[:, k] = -1.5 * np.einsum("qi,ij,qj->q", apart, np.linalg.inv(metric), apart) / 2
    assert np.allclose(found.numpy(), expected, rtol=1e-10)


def test_a_class_that_is_stretched_reaches_far_along_its_stretch():
    along = torch.linspace(-5, 5, 20)
    stretched = torch.stack([along, 0.1 * torch.sin(37 * along)], 1)
    round_ = 0.3 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    round_ = round_ + torch.tensor([0.0, 3.0])
    support = qs.examples(torch.cat([stretched, round_]), [0] * 20 + [1] * 20)
    query = torch.tensor([[4.5, 1.2]])  # nearer to the round class's line, far from its mean
    spec = qs.classification(2)
    assert (
        qs.PrototypicalMahalanobis(torch.nn.Identity(), ridge=0.01)(support, spec)(query).argmax()
        == 0
    )


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="ridge and scale must be positive; found ridge=0"):
        qs.PrototypicalMahalanobis(torch.nn.Identity(), ridge=0)
