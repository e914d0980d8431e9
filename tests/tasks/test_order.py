"""Sequence learners are given support rows in a fixed mixed order, all others as they are."""

import pytest
import torch

import quickstudy as qs
from quickstudy.base.trees import leaves
from quickstudy.tasks.order import in_mixed_order, reads_a_sequence

BACKBONE = qs.backbones.MLP
SEQUENCE = {
    "MANN": lambda: qs.MANN(BACKBONE(3), outputs=4),
    "SNAIL": lambda: qs.SNAIL(BACKBONE(3), outputs=4, length=25),
    "Matching with its LSTM": lambda: qs.Matching(BACKBONE(3), reads=2),
}


def sorted_rows(classes: int = 4, each: int = 5) -> qs.Examples:
    """Rows class by class; the first input of a row is its number."""
    n = classes * each
    inputs = torch.randn(n, 3, generator=torch.Generator().manual_seed(1))
    inputs[:, 0] = torch.arange(n)
    weights = torch.arange(n) / n + 1
    return qs.examples(inputs, torch.arange(classes).repeat_interleave(each), weights)


@pytest.mark.parametrize("make", SEQUENCE.values(), ids=SEQUENCE)
def test_sequence_learners_get_rows_of_mixed_classes(make):
    learner, rows = make(), sorted_rows()
    assert reads_a_sequence(learner)
    mixed = in_mixed_order(learner, rows)
    assert (mixed.targets.diff() < 0).any()
    order = mixed.inputs[:, 0].long()
    assert order.sort().values.equal(torch.arange(20))
    for before, after in zip(leaves(rows), leaves(mixed), strict=True):
        assert after.equal(before[order]), "a row's target, weight and group move with it"
    again = in_mixed_order(learner, rows)
    assert again.inputs.equal(mixed.inputs)


def test_other_learners_get_rows_as_they_are():
    rows = sorted_rows()
    assert in_mixed_order(qs.Prototypical(BACKBONE(3)), rows) is rows


def test_the_scikit_learn_classifier_mixes_rows():
    torch.manual_seed(0)
    learner, rows = SEQUENCE["MANN"](), sorted_rows()
    X, y = rows.inputs.numpy(), rows.targets.numpy()
    found = qs.FewShotClassifier(learner).fit(X, y).predict_proba(X)
    plain = rows._replace(weights=torch.ones(20))
    with torch.no_grad():
        mixed = learner(in_mixed_order(learner, plain), qs.classification(4))(rows.inputs)
        by_class = learner(plain, qs.classification(4))(rows.inputs)
    assert torch.allclose(torch.from_numpy(found).float(), mixed.softmax(-1), atol=1e-5)
    assert not torch.allclose(by_class, mixed, atol=1e-3)
