"""Matching Networks equal the paper's equations, written in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP

TARGETS = [0, 1, 2, 0, 1, 2, 2, -1]
WEIGHTS = [1.0, 2.0, 0.5, 3.0, 1.0, 0.0, 1.0, 1.0]


def numbers(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(**options: float) -> qs.Matching:
    torch.manual_seed(0)
    return qs.Matching(MLP(4, (6, 5)), **options).double()  # type: ignore[arg-type]


def support() -> qs.Examples:
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    return examples_of(numbers(1, 8, 4), torch.tensor(TARGETS), weights)


def embedded(learner: qs.Matching, inputs: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return learner.backbone(inputs).numpy()


def check(learner: qs.Matching, g: np.ndarray, f: np.ndarray, queries: torch.Tensor) -> None:
    """Probabilities and shares from keys ``g`` (of the rows that count) and queries ``f``."""
    rows = [i for i, t in enumerate(TARGETS) if t >= 0 and WEIGHTS[i] > 0]
    predictor = learner(support(), qs.classification(4))
    with torch.no_grad():
        found = predictor(queries).exp().numpy()
        shares = learner.attention(predictor.state, queries).numpy()
    expected, expected_shares = np.zeros((len(f), 4)), np.zeros((len(f), 8))
    for n, query in enumerate(f):
        for key, i in zip(g, rows, strict=True):
            cosine = query @ key / math.sqrt(query @ query) / math.sqrt(key @ key)
            expected_shares[n, i] = WEIGHTS[i] * math.exp(learner.scale * cosine)
        expected_shares[n] /= expected_shares[n].sum()
        for i in rows:
            expected[n, TARGETS[i]] += expected_shares[n, i]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(shares, expected_shares, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_probabilities_equal_those_of_the_equation(scale: float) -> None:
    learner, queries = made(scale=scale), numbers(2, 5, 4)
    keys = embedded(learner, support().inputs)[[0, 1, 2, 3, 4, 6]]
    check(learner, keys, embedded(learner, queries), queries)


def step(cell: torch.nn.Module, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple:
    """One step of an LSTM in numpy."""
    weight, bias = (p.detach().numpy() for p in (cell.gates.weight, cell.gates.bias))
    z = weight @ np.concatenate([x, h]) + bias
    take, keep, give = (1 / (1 + np.exp(-part)) for part in np.split(z, 4)[:3])
    c = keep * c + take * np.tanh(np.split(z, 4)[3])
    return give * np.tanh(c), c


def test_full_context_equals_that_of_the_appendix() -> None:
    learner, queries = made(scale=3.0, reads=3), numbers(2, 5, 4)
    kept = [0, 1, 2, 3, 4, 6]
    rows = embedded(learner, support().inputs)[kept]
    g = rows.copy()
    for cell, order in ((learner.context.forwards, 1), (learner.context.backwards, -1)):
        h = c = np.zeros(5)
        for i in range(6)[::order]:
            h, c = step(cell, rows[i], h, c)
            g[i] += h
    f = []
    for query in embedded(learner, queries):
        h = c = np.zeros(5)
        for _ in range(3):
            a = np.array(WEIGHTS)[kept] * np.exp(g @ h)
            seen = np.concatenate([query, a / a.sum() @ g])
            h, c = step(learner.context.reader, seen, h, c)
            h = h + query
        f.append(h)
    check(learner, g, np.array(f), queries)


def test_raw_cosines_bound_the_probability() -> None:
    """A class of one row among 20 gets at most e / (e + 19 / e)."""
    rows = torch.eye(20)
    learner = qs.Matching(torch.nn.Identity(), scale=1.0)
    predictor = learner(qs.examples(rows, torch.arange(20)), qs.classification(20))
    assert float(predictor(rows).exp().max()) < math.e / (math.e + 19 / math.e)


def test_the_default_scale_allows_higher_probabilities() -> None:
    assert qs.Matching(MLP(4)).scale == 30.0


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scale > 0 and reads >= 0; found scale=1\.0, reads=-1"):
        qs.Matching(MLP(4), 1.0, -1)
