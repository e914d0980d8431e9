from __future__ import annotations

import numpy as np
import pytest
import torch
from report_samples import NearestMeanPixels
from torch import Tensor, nn

from quickstudy.answers.specs import regression
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.reports.view_types import EpisodeView, RegressionView
from quickstudy.reports.views import view
from quickstudy.tasks.episodes import episodes
from quickstudy.tasks.examples import examples
from quickstudy.tasks.functions import Sinusoids
from quickstudy.tasks.rows import LabelledRows


class LineThroughSupport(Learner):
    """Least squares y = a x + b, with a small ridge: zero for an empty support set."""

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        x = self._features(support.inputs)
        weighted = x * support.weights[:, None]
        return torch.linalg.solve(
            weighted.T @ x + 1e-6 * torch.eye(2), weighted.T @ support.targets
        )

    def predict(self, state: State, inputs: Tensor, spec: TaskSpec) -> Tensor:
        return self._features(inputs) @ state

    def _features(self, inputs: Tensor) -> Tensor:
        return torch.cat([inputs, torch.ones_like(inputs)], 1)


def episode_of(classes: LabelledRows, ways: int = 4) -> Task:
    return episodes(classes, ways, 2, 5)(torch.Generator().manual_seed(3))


def test_a_view_has_the_predictions_of_the_predictor(squares: LabelledRows) -> None:
    task, learner = episode_of(squares), NearestMeanPixels(30.0)
    shown = view(learner, task, ["w", "x", "y", "z"])
    assert isinstance(shown, EpisodeView)
    probabilities = learner(task.support, task.spec)(task.query.inputs).softmax(-1)
    assert shown.predicted.tolist() == probabilities.argmax(-1).tolist()
    np.testing.assert_allclose(shown.probability, probabilities.max(-1).values, rtol=1e-6)
    np.testing.assert_array_equal(shown.support_images, task.support.inputs)
    np.testing.assert_array_equal(shown.query_embeddings, task.query.inputs.flatten(1))
    assert shown.names == ("w", "x", "y", "z")


def test_confusion_counts_every_query_once() -> None:
    shown = EpisodeView(
        None, None, np.array([0, 1, 2]), np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 2]),
        np.full(5, 0.5), None, None, ("a", "b", "c"),
    )  # fmt: skip
    assert shown.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert shown.correct.tolist() == [True, False, True, False, True]


def test_rows_without_weight_or_label_are_left_out(squares: LabelledRows) -> None:
    task = episode_of(squares)
    weights, targets = task.query.weights.clone(), task.query.targets.clone()
    weights[0], targets[1] = 0, -1
    query = task.query._replace(targets=targets, weights=weights)
    whole, part = (view(NearestMeanPixels(), Task(task.support, q, task.spec))
                   for q in (task.query, query))  # fmt: skip
    assert isinstance(whole, EpisodeView)
    assert isinstance(part, EpisodeView)
    assert part.predicted.tolist() == whole.predicted[2:].tolist()
    assert part.query_images is not None
    assert len(part.query_images) == len(part.query_targets) == len(task.query.targets) - 2


def test_standardised_pixels_are_scaled_together(squares: LabelledRows) -> None:
    task = episode_of(squares)
    support = task.support._replace(inputs=task.support.inputs * 4 - 2)
    query = task.query._replace(inputs=task.query.inputs * 4 - 2)
    shown = view(NearestMeanPixels(), Task(support, query, task.spec))
    assert isinstance(shown, EpisodeView)
    pixels = np.concatenate([shown.support_images, shown.query_images])  # type: ignore[arg-type]
    assert pixels.min() == 0
    assert pixels.max() == 1


def test_vectors_are_not_images() -> None:
    flat = LabelledRows(torch.rand(40, 7), torch.full((4,), 10), ("a", "b", "c", "d"))
    shown = view(NearestMeanPixels(), episode_of(flat))
    assert isinstance(shown, EpisodeView)
    assert shown.support_images is None
    assert shown.names == ("class 1", "class 2", "class 3", "class 4")


def test_each_module_keeps_its_own_mode(squares: LabelledRows) -> None:
    learner = NearestMeanPixels()
    learner.frozen, learner.other = nn.Dropout().eval(), nn.Dropout()
    learner.train()
    learner.frozen.eval()
    view(learner, episode_of(squares))
    assert (learner.training, learner.frozen.training, learner.other.training) == (
        True, False, True,
    )  # fmt: skip


def test_regression_before_and_after() -> None:
    x = torch.linspace(-1, 1, 9)[:, None]
    task = Task(examples(x, 2 * x + 1), examples(x, 2 * x + 1), regression())
    shown = view(LineThroughSupport(), task)
    assert isinstance(shown, RegressionView)
    assert shown.is_curve
    assert shown.before is not None
    np.testing.assert_allclose(shown.before, 0, atol=1e-6)
    np.testing.assert_allclose(shown.after, 2 * x + 1, atol=1e-4)


def test_predictions_before_adapting_may_be_undefined() -> None:
    class NeedsData(LineThroughSupport):
        def adapt(self, support: Examples, spec: TaskSpec) -> State:
            return super().adapt(support, spec) / support.weights.sum().clamp_max(1)

    shown = view(NeedsData(), Sinusoids()(torch.Generator().manual_seed(0)))
    assert isinstance(shown, RegressionView)
    assert shown.before is None
    assert np.isfinite(shown.after).all()


def test_errors_name_rule_and_remedy(squares: LabelledRows) -> None:
    task = episode_of(squares)
    with pytest.raises(ValueError, match=r"2 names were given for 4 ways\. Give one name"):
        view(NearestMeanPixels(), task, ["a", "b"])
    unlabelled = task.query._replace(targets=torch.full_like(task.query.targets, -1))
    with pytest.raises(ValueError, match="none of 20 rows"):
        view(NearestMeanPixels(), Task(task.support, unlabelled, task.spec))
