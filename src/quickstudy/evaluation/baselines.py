"""The baselines of a learner: predictions for the same tasks without learning over tasks.

guess, such as chance               ignores inputs, see the answer's ``guesses``
nearest mean of the inputs          no network at all
nearest mean of untrained features  the learner's backbone with its initial weights
untrained learner                   the learner with its initial weights, where there are no means
rivals                              further learners as they are, by the names that they were given
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from quickstudy.answers.baselines import Guesses, HasNearestMean
from quickstudy.base.errors import first_line
from quickstudy.base.modules import device_of
from quickstudy.base.replica import in_evaluation_mode
from quickstudy.base.trees import leaves, map_tree
from quickstudy.core import Examples, Learner, State, Statistic, Task, TaskSpec
from quickstudy.evaluation.predicted import Prediction
from quickstudy.evaluation.untrained import (
    features_of,
    refuse_pretrained,
    untrained,
    without_head,
)
from quickstudy.objectives import predict_queries
from quickstudy.tasks.acting import needs_acting, run_acting
from quickstudy.tasks.stacks import to_device

NEAREST_MEAN = "nearest mean of the inputs"
UNTRAINED_FEATURES = "nearest mean of untrained features"
UNTRAINED_LEARNER = "untrained learner"


class Baselines:
    """The baselines' predictions for tasks, one task at a time.

    ``learner``   whose network is scored untrained; None for the baselines that have no network.
    ``rivals``    learners that are baselines themselves, by name.
    ``left_out``  why a baseline was not computed, by its name.
    """

    def __init__(
        self, learner: Learner | None, rivals: Mapping[str, Learner] = MappingProxyType({})
    ) -> None:
        self.learner = learner
        self.rivals = {name: in_evaluation_mode(rival) for name, rival in rivals.items()}
        self.device = torch.device("cpu") if learner is None else device_of(learner)
        self.left_out: dict[str, str] = {}
        self._backbone: nn.Module | None = None
        self._untrained: Learner | None = None

    @torch.no_grad()
    def predict(self, task: Task, of_features: Task | None = None) -> dict[str, Prediction]:
        """By name, the predictions of each baseline that this task has.

        ``of_features``  the task that rivals get, where it has features in the place of inputs.
        """
        found = self._own(task)
        for name, rival in self.rivals.items():
            self._add(found, name, partial(_by_rival, rival, of_features or task))
        return found

    def _own(self, task: Task) -> dict[str, Prediction]:
        answer = task.spec.answer
        found: dict[str, Prediction] = {}
        if isinstance(answer, Guesses):
            self._add(found, answer.guess_name, lambda: _guesses(task))
        if isinstance(answer, HasNearestMean) and not needs_acting(task):
            self._add(found, NEAREST_MEAN, lambda: _nearest_mean(task))
            if isinstance(getattr(self.learner, "backbone", None), nn.Module):
                self._add(found, UNTRAINED_FEATURES, lambda: self._by_features(task))
                return found
        if self.learner is None:
            return found
        self._add(found, UNTRAINED_LEARNER, lambda: self._by_untrained_learner(task))
        return found

    def _add(
        self, found: dict[str, Prediction], name: str, predict: Callable[[], Prediction]
    ) -> None:
        """Add a baseline's predictions; where they cannot be had, keep the reason instead."""
        if name in self.left_out:
            return
        try:
            predicted = predict()
        except Exception as error:  # a baseline never stops an evaluation
            self.left_out[name] = first_line(error)
            return
        if all(bool(leaf.isfinite().all()) for leaf in leaves(list(predicted.predictions))):
            found[name] = predicted
        else:
            self.left_out[name] = "a prediction is NaN or infinite"

    def _by_features(self, task: Task) -> Prediction:
        if self._backbone is None:
            own = cast("nn.Module", cast("Learner", self.learner).backbone)
            refuse_pretrained(own)
            self._backbone = without_head(untrained(own))
        return _nearest_mean(features_of(self._backbone, to_device(task, self.device)))

    def _by_untrained_learner(self, task: Task) -> Prediction:
        if self._untrained is None:
            learner = cast("Learner", self.learner)
            refuse_pretrained(learner)
            self._untrained = untrained(learner)
        task = to_device(task, self.device)
        if needs_acting(task):
            task = run_acting(self._untrained, task)
        return Prediction([predict_queries(self._untrained, task)], task.query)


def _guesses(task: Task) -> Prediction:
    answer = task.spec.answer
    assert isinstance(answer, Guesses)
    if needs_acting(task):
        task = run_acting(_ActsAtRandom(), task)
    return Prediction(answer.guesses(task.support, task.query), task.query)


def _nearest_mean(task: Task) -> Prediction:
    answer = task.spec.answer
    assert isinstance(answer, HasNearestMean)
    predictions = answer.nearest_mean(task.support, task.query)
    if predictions is None:
        raise ValueError("the inputs are not reals with a mean for each class")
    return Prediction([predictions], task.query)


def _by_rival(rival: Learner, task: Task) -> Prediction:
    task = to_device(task, device_of(rival))
    if needs_acting(task):
        task = run_acting(rival, task)
    answer, decoded = task.spec.answer, None
    if any(score.decoded for score in answer.scores):
        decoded = [answer.decode(rival(task.support, task.spec), task.query.inputs)]
    return Prediction([predict_queries(rival, task)], task.query, decoded)


class _ActsAtRandom(Learner):
    """Takes every action with the same probability."""

    def prior(self, spec: TaskSpec) -> State:
        return {}

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        return {}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        rows = next(leaves(inputs))
        return torch.zeros(len(rows), spec.outputs, device=rows.device)


Strategies = dict[str, list[list[Statistic]]]
"""By the baseline's name, for each strategy the statistics of tasks."""


def add_statistics(strategies: Strategies, name: str, statistics: Sequence[Statistic]) -> None:
    """Add a task's statistics, one for each strategy; a task may have fewer strategies."""
    of_baseline = strategies.setdefault(name, [])
    of_baseline += [[] for _ in range(len(statistics) - len(of_baseline))]
    for tasks, statistic in zip(of_baseline, statistics, strict=False):
        tasks.append(statistic)


def complete(strategies: Strategies, tasks: int) -> Strategies:
    """Those that all ``tasks`` have."""
    kept = {
        name: [each for each in of_baseline if len(each) == tasks]
        for name, of_baseline in strategies.items()
    }
    return {name: of_baseline for name, of_baseline in kept.items() if of_baseline}


def statistics_of(
    task: Task, found: dict[str, Prediction]
) -> Iterator[tuple[str, str, list[Statistic]]]:
    """(score, baseline, statistic of each strategy) of the scores that can be computed."""
    for name, predicted in found.items():
        query = map_tree(Tensor.cpu, predicted.query)
        for score in task.spec.answer.scores:
            outputs = predicted.decoded if score.decoded else predicted.predictions
            if outputs is not None:
                of_strategies = [map_tree(Tensor.cpu, each) for each in outputs]
                yield score.name, name, [score.statistic(p, query) for p in of_strategies]
