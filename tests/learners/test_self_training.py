"""Self-training equals scikit-learn's; it helps where classes are apart, and cannot elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import SelfTrainingClassifier

import quickstudy as qs
from made_up import examples_of
from quickstudy.core import Learner
from quickstudy.learners.transfer.heads import logistic

IDENTITY, SPEC = torch.nn.Identity(), qs.classification(2)


def two_blobs(
    apart: float, seed: int, n: int = 100, labelled: int = 2, d: int = 2
) -> tuple[qs.Examples, ...]:
    """Rows of which the first ``labelled`` of each class keep their label, and all with labels."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x[:, 0] += apart * y
    shown = torch.where(torch.arange(n) < 2 * labelled, y, -1)
    return examples_of(x, shown), examples_of(x, y)


def accuracy(learner: Learner, rows: qs.Examples, whole: qs.Examples) -> float:
    found = learner(rows, SPEC)(whole.inputs).argmax(1)
    return float((found == whole.targets).double().mean())


@pytest.mark.parametrize(("apart", "threshold"), [(4.0, 0.75), (1.0, 0.6)])
def test_labels_and_predictions_are_those_of_scikit_learn(apart: float, threshold: float) -> None:
    rows, _ = two_blobs(apart, 0)
    # Of two classes, a softmax has two weights: twice the penalty is that of one weight.
    learner = qs.SelfTraining(qs.LinearProbe(IDENTITY, logistic, l2=2.0), threshold)
    predictor = learner(rows, SPEC)
    model = SelfTrainingClassifier(
        LogisticRegression(tol=1e-12, max_iter=1000), threshold=threshold
    )
    model.fit(rows.inputs.numpy(), rows.targets.numpy())
    expected = np.where(rows.targets < 0, model.transduction_, -1)
    assert predictor.state["given"].numpy().tolist() == expected.tolist()
    assert int((predictor.state["given"] >= 0).sum()) > 0
    chosen = predictor(rows.inputs).argmax(1).numpy()
    assert (chosen == model.predict(rows.inputs.numpy())).all()


def gains(apart: float) -> float:
    """The mean gain over 20 draws of 60 rows in 10 dimensions, one label a class."""
    base = qs.Prototypical(IDENTITY)
    draws = (two_blobs(apart, seed, 60, 1, 10) for seed in range(20))
    return float(np.mean([accuracy(qs.SelfTraining(base), *d) - accuracy(base, *d) for d in draws]))


def test_it_helps_where_classes_are_apart() -> None:
    """Blobs four deviations apart: better by more than 3 points (about 7 ± 3)."""
    assert gains(4.0) > 0.03


def test_it_cannot_help_where_nothing_lies_between_the_classes() -> None:
    """Blobs half a deviation apart: what it is sure of is wrong nearly as often as the rest, so the
    accuracy changes by less than 5 points (about 0 ± 2)."""
    assert abs(gains(0.5)) < 0.05


def test_it_cannot_bend_a_linear_learner_around_two_moons() -> None:
    """The moons have a gap, but not one that a line follows: what a line is sure of is wrong at the
    tips, so its own labels confirm it. Over 10 draws the gain stays below 5 points."""
    base = qs.LinearProbe(IDENTITY, logistic)
    found = []
    for seed in range(10):
        x, y = make_moons(200, noise=0.05, random_state=seed)
        inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
        first = [int((labels == k).nonzero()[0]) for k in (0, 1)]
        shown = torch.full_like(labels, -1)
        shown[first] = labels[first]
        rows, whole = examples_of(inputs, shown), examples_of(inputs, labels)
        found.append(accuracy(qs.SelfTraining(base), rows, whole) - accuracy(base, rows, whole))
    assert np.mean(found) < 0.05


def test_a_label_that_it_gave_is_not_revised() -> None:
    """Row 4.8 becomes class 0 in the first round, and is nearer to class 1 once the far rows have
    drawn the mean of class 0 away; row 5 is undecided in the first round, so there is a second."""
    x = torch.tensor([[0.0], [10.0], [4.8], [-30.0], [-30.0], [-30.0], [5.0]])
    rows = examples_of(x, torch.tensor([0, 1, -1, -1, -1, -1, -1]))
    state = qs.SelfTraining(qs.Prototypical(IDENTITY), threshold=0.9)(rows, SPEC).state
    assert state["given"].tolist() == [-1, -1, 0, 0, 0, 0, 1]


def test_labels_stay_once_given_and_rounds_end() -> None:
    rows, _ = two_blobs(4.0, 1)
    once, twice = (
        qs.SelfTraining(qs.LinearProbe(IDENTITY, logistic), rounds=rounds)(rows, SPEC).state[
            "given"
        ]
        for rounds in (1, 2)
    )
    assert bool((twice[once >= 0] == once[once >= 0]).all())
    assert int((twice >= 0).sum()) > int((once >= 0).sum())


def test_all_rows_labelled_it_is_its_learner_and_any_learner_of_classes_will_do() -> None:
    _, whole = two_blobs(1.0, 0)
    for base in (qs.Prototypical(IDENTITY), qs.LinearProbe(IDENTITY)):
        predictor = qs.SelfTraining(base)(whole, SPEC)
        assert torch.equal(predictor(whole.inputs), base(whole, SPEC)(whole.inputs))


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_thresholds_that_no_probability_passes_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\)"):
        qs.SelfTraining(IDENTITY, threshold)


def test_a_learner_of_other_answers_is_refused() -> None:
    process = qs.ConditionalNeuralProcess(qs.backbones.MLP(2, (4,)), size=4)
    process.answers = (type(qs.regression().answer),)  # type: ignore[misc]
    with pytest.raises(ValueError, match="gives answers of the kind Reals"):
        qs.SelfTraining(process)
