"""Random forests: the same predictions as scikit-learn's, from a state of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import quickstudy as qs


def sorted_rows(n: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in the order in which the learner gives them to scikit-learn."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    x = x[x[:, 0].argsort()]
    return x, ((x[:, 0] + x[:, 1] > 0).long() + (x[:, 2] > 1).long())


@pytest.mark.parametrize("depth", [None, 2])
def test_predictions_are_those_of_scikit_learn(depth):
    from sklearn.ensemble import RandomForestClassifier

    x, y = sorted_rows()
    queries = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    learner = qs.RandomForest(torch.nn.Identity(), trees=7, depth=depth, seed=3)
    found = learner(qs.examples(x, y), qs.classification(3))(torch.cat([queries, x])).exp()
    forest = RandomForestClassifier(7, max_depth=depth, random_state=3).fit(x.numpy(), y.numpy())
    expected = forest.predict_proba(torch.cat([queries, x]).numpy()).clip(1e-6)
    assert np.allclose(found.numpy(), expected, atol=1e-6)


def test_a_row_on_a_threshold_goes_where_scikit_learn_sends_it():
    # Neighbouring float32 numbers, whose middle is not one of them.
    low = np.float32(1000)
    x = torch.tensor([[low], [np.nextafter(low, np.float32(2000))]]).repeat(4, 1)
    learner = qs.RandomForest(torch.nn.Identity(), trees=5)
    predictor = learner(qs.examples(x, torch.arange(8) % 2), qs.classification(2))
    assert predictor(x[:2]).argmax(1).tolist() == [0, 1]


def test_classes_without_rows_get_no_probability():
    x, y = sorted_rows()
    predictor = qs.RandomForest(torch.nn.Identity(), trees=3)(
        qs.examples(x[y != 1], y[y != 1]), qs.classification(3)
    )
    assert predictor(x).softmax(1)[:, 1].max() == 0


def test_a_support_set_without_labels_is_refused():
    support = qs.examples(torch.zeros(2, 1), [-1, -1])
    with pytest.raises(ValueError, match="needs a labelled row of positive weight"):
        qs.RandomForest(torch.nn.Identity())(support, qs.classification(2))
