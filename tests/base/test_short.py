"""Values that hold tensors are shown by shapes, never by their numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import quickstudy as qs
from quickstudy.base.short import in_short

SUPPORT = qs.examples(torch.rand(6, 3, 8, 8), torch.arange(3).repeat(2))
SPEC = qs.classification(3)


def test_examples_and_tasks_show_shapes():
    assert repr(SUPPORT) == (
        "Examples(inputs=float32 (6, 3, 8, 8), targets=int64 (6,), weights=float32 (6,), "
        "groups=int64 (6,))"
    )
    task = qs.Task(SUPPORT, SUPPORT, SPEC)
    assert repr(task) == f"Task(support={SUPPORT!r}, query={SUPPORT!r}, spec={SPEC!r})"
    tree = SUPPORT._replace(inputs={"ids": torch.zeros(6, 4).long(), "mask": np.ones((6, 4))})
    assert "inputs={'ids': int64 (6, 4), 'mask': float64 (6, 4)}" in repr(tree)
    assert SUPPORT._replace(weights=SUPPORT.weights * 2).weights.sum() == 12, "still a NamedTuple"


@pytest.mark.parametrize(
    "learner",
    [
        qs.Prototypical(qs.backbones.MLP(192)),
        qs.MAML(qs.backbones.MLP(192, outputs=3)),
        qs.Matching(qs.backbones.MLP(192)),
        qs.MANN(qs.backbones.MLP(192), outputs=3),
    ],
)
def test_predictors_show_their_state_by_shapes(learner):
    text = repr(learner(SUPPORT, SPEC))
    assert text.startswith(f"Predictor(learner={type(learner).__name__}, state=")
    assert "tensor(" not in text
    assert len(text) < 1500


def test_long_and_deep_values_are_cut():
    assert in_short(list(range(100))) == "[0, 1, 2, 3, 4, 5, … 100 in all]"
    assert in_short({n: torch.zeros(n) for n in range(9)}).endswith("5: float32 (5,), … 9 in all}")
    assert in_short((torch.zeros(2), None)) == "(float32 (2,), None)"
    assert len(in_short("x" * 1000)) == 200
