"""Checking a predictor on its own support set: against scikit-learn, and where it is impossible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core import Examples, Learner, TaskSpec
from quickstudy.evaluation.support_check import SupportCheck, check_support_set, folds


class Memoriser(Learner):
    """Nearest row by all inputs; keeps the support sets that it was given."""

    def __init__(self, exceptions: dict[str, str] | None = None) -> None:
        super().__init__()
        self.exceptions = exceptions or {}  # type: ignore[misc]
        self.seen: list[Examples] = []

    def adapt(self, support: Examples, spec: TaskSpec) -> dict[str, Tensor]:
        self.seen.append(support)
        return {"inputs": support.inputs, "targets": support.targets}

    def predict(self, state: dict[str, Tensor], inputs: Tensor, spec: TaskSpec) -> Tensor:
        near = torch.cdist(inputs, state["inputs"]).argmin(1)
        return nn.functional.one_hot(state["targets"][near], spec.outputs).float()


def rows_of(counts: list[int], spread: float = 1.0, seed: int = 0) -> Examples:
    """Rows (n, 6), ``counts[k]`` of class k around one unit vector each."""
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.randn(len(targets), 6, generator=torch.Generator().manual_seed(seed))
    return qs.examples(torch.eye(6)[targets] + spread * noise, targets)


def check(learner: Learner, support: Examples) -> SupportCheck:
    ways = int(support.targets.max()) + 1
    return check_support_set(learner, support, qs.classification(ways))


@pytest.mark.parametrize("counts", [[5, 5, 5], [2, 7, 4], [2, 2]])
def test_leaving_out_each_row_is_scikit_learns_leave_one_out(counts):
    rows = rows_of(counts)
    found = check(Memoriser(), rows)
    X, y = rows.inputs.numpy(), rows.targets.numpy()
    nearest = cross_val_predict(KNeighborsClassifier(1), X, y, cv=LeaveOneOut())
    means = cross_val_predict(NearestCentroid(), X, y, cv=LeaveOneOut())
    assert (found.folds, found.rows, found.method) == (len(y), len(y), "leave-one-out")
    assert found.right == int((nearest == y).sum())
    assert found.nearest_mean == int((means == y).sum())
    assert found.chance == pytest.approx(max(counts) / sum(counts))
    assert found.to_json()["accuracy"] == pytest.approx(np.mean(nearest == y), abs=1e-6)


def test_the_prediction_for_a_row_has_not_seen_it():
    learner, rows = Memoriser(), rows_of([4, 4, 4])
    check(learner, rows)
    assert len(learner.seen) == 12
    for i, support in enumerate(learner.seen):
        assert len(support.targets) == 11
        assert not (support.inputs == rows.inputs[i]).all(1).any()


def test_rows_alone_in_their_class_are_not_left_out():
    learner, rows = Memoriser(), rows_of([1, 3, 2, 1])
    found = check(learner, rows)
    assert (found.rows, found.all_rows) == (5, 7)
    assert all(len(each.targets.unique()) == 4 for each in learner.seen)
    assert "5 of 7 rows" in str(found)


def test_one_row_a_class_cannot_be_checked_and_says_so():
    learner, rows = Memoriser(), rows_of([1, 1, 1])
    found = check(learner, rows)
    assert not found.possible
    assert not learner.seen
    assert "impossible with one row in each class" in str(found)
    values = found.to_json()
    assert values["accuracy"] is None
    assert "two or more rows" in values["reason"]
    assert found.no_better_than == []


def test_many_rows_are_left_out_in_ten_parts():
    counts = [40, 2, 15, 3]
    learner, rows = Memoriser(), rows_of(counts)
    found = check(learner, rows)
    assert (found.folds, found.rows, len(learner.seen)) == (10, 60, 10)
    assert found.method == "10-fold cross-validation"
    left_out = torch.cat(folds(rows.targets, together=False))
    assert left_out.sort().values.equal(torch.arange(60)), "each once"
    for support in learner.seen:
        assert support.targets.bincount().min() >= 1, "a class without rows cannot be predicted"


def test_transductive_learners_predict_rows_of_all_classes_together():
    targets = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    parts = folds(targets, together=True)
    assert len(parts) == 3
    assert all(set(targets[part].tolist()) == {0, 1} for part in parts)
    assert torch.cat(parts).sort().values.tolist() == list(range(7))


def test_rows_of_sequence_learners_are_in_mixed_order():
    learner = Memoriser({"support_order_is_irrelevant": "reads a sequence"})
    check(learner, rows_of([6, 6, 6]))
    assert all((each.targets.diff() < 0).any() for each in learner.seen)


def test_a_learner_that_learns_nothing_is_doubted():
    rows = rows_of([10, 10], spread=0.05)
    noise = rows._replace(inputs=torch.randn(20, 6, generator=torch.Generator().manual_seed(3)))
    chance = check(Memoriser(), noise)
    assert "chance (50.0%)" in chance.no_better_than
    good = check(Memoriser(), rows)
    assert good.right == 20
    assert good.no_better_than == ["the nearest mean of raw inputs (100.0%)"]


def test_a_learner_that_is_better_is_not_doubted():
    """Two classes of two clusters each: means coincide, the nearest row is right."""
    centres = torch.tensor([[0.0, 0.0], [4.0, 4.0], [0.0, 4.0], [4.0, 0.0]])
    noise = 0.1 * torch.randn(24, 2, generator=torch.Generator().manual_seed(0))
    rows = qs.examples(centres.repeat_interleave(6, 0) + noise, [0] * 12 + [1] * 12)
    found = check(Memoriser(), rows)
    assert found.right == 24
    assert found.nearest_mean is not None
    assert found.nearest_mean < 20
    assert found.no_better_than == []
    assert "100.0% right when left out" in str(found)


def test_inputs_without_means_have_no_such_baseline():
    rows = rows_of([3, 3])
    ids = rows._replace(inputs=(rows.inputs * 10).long())

    class OfIds(Memoriser):
        def predict(self, state, inputs, spec):
            return super().predict(
                {**state, "inputs": state["inputs"].float()}, inputs.float(), spec
            )

    found = check(OfIds(), ids)
    assert found.nearest_mean is None
    assert found.to_json()["nearest_mean"] is None
    assert "nearest mean" not in str(found)


def test_learners_that_take_gradients_are_checked():
    rows = rows_of([3, 3, 3], spread=0.1)
    learner = qs.MAML(qs.backbones.MLP(6, outputs=3), steps=2, rate=0.1)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    assert check(learner, rows).rows == 9
    assert all(value.equal(before[name]) for name, value in learner.state_dict().items())
