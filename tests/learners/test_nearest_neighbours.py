"""Nearest neighbours and Tanimoto similarity, against RDKit and a loop over sorted rows."""

from __future__ import annotations

import pytest
import torch

import quickstudy as qs
from quickstudy.learners.metric.distances import tanimoto


def test_similarity_is_that_of_rdkit():
    pytest.importorskip("rdkit")
    from rdkit.DataStructs import CreateFromBitString, TanimotoSimilarity

    rows = (torch.rand(6, 40, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    rows[5] = 0
    bits = [CreateFromBitString("".join(str(int(v)) for v in row)) for row in rows]
    expected = torch.tensor([[TanimotoSimilarity(a, b) for b in bits] for a in bits])
    expected[5, 5] = 1  # two rows of zeros are the same; RDKit says 0
    assert torch.allclose(tanimoto(rows, rows), expected.float())


def test_the_most_similar_rows_vote_by_their_similarity():
    generator = torch.Generator().manual_seed(1)
    x, queries = (torch.rand(n, 8, generator=generator).double() for n in (12, 5))
    y = torch.arange(12) % 3
    learner = qs.NearestNeighbours(torch.nn.Identity(), neighbours=4).double()
    support = qs.examples(x, y)._replace(inputs=x, weights=torch.ones(12).double())
    spec = qs.classification(3)
    found = learner.predict(learner.adapt(support, spec), queries, spec).exp()
    for query, row in zip(queries, found, strict=True):
        similar = [float(query @ r / (query @ query + r @ r - query @ r)) for r in x]
        nearest = sorted(range(12), key=lambda i: -similar[i])[:4]
        votes = [sum(similar[i] for i in nearest if y[i] == k) + 1e-3 for k in range(3)]
        assert row.tolist() == pytest.approx([v / sum(votes) for v in votes])


def test_rows_of_equal_similarity_share_the_last_place():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    predictor = qs.NearestNeighbours(torch.nn.Identity(), neighbours=1)(
        qs.examples(x, [0, 1, 2]), qs.classification(3)
    )
    assert predictor(x[:1]).exp()[0].tolist() == pytest.approx([0.5, 0.5, 0], abs=2e-3)


def test_no_neighbours_are_refused():
    with pytest.raises(ValueError, match="neighbours must be at least 1; found 0"):
        qs.NearestNeighbours(torch.nn.Identity(), neighbours=0)
