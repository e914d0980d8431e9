"""Evaluating a learner on a reproducible set of tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.checks import check_count
from quickstudy.answers.classes import Classes
from quickstudy.backbones.norms import norm_policy
from quickstudy.base.replica import in_evaluation_mode
from quickstudy.base.trees import leaves, map_tree
from quickstudy.compute.plan import Kind, Plan
from quickstudy.compute.prepare import kind_of, prepare_stack
from quickstudy.core import Examples, Learner, Score, Statistic, Task, TaskSource
from quickstudy.evaluation.baselines import (
    Baselines,
    Strategies,
    add_statistics,
    complete,
    statistics_of,
)
from quickstudy.evaluation.calibration import calibration_error
from quickstudy.evaluation.kinds import Key, Kinds
from quickstudy.evaluation.mapped import plan_for, predictions_of
from quickstudy.evaluation.over_classes import class_names
from quickstudy.evaluation.over_rows import Inputs, OverRows, over_rows
from quickstudy.evaluation.own_units import in_own_unit, in_own_units
from quickstudy.evaluation.result import Result, result_of
from quickstudy.evaluation.results import Evaluation
from quickstudy.evaluation.seen import weights_seen
from quickstudy.evaluation.timing import seconds_per_adaptation
from quickstudy.tasks.acting import needs_acting
from quickstudy.tasks.examples import counted_weights
from quickstudy.tasks.fixed import FixedTasks, number_of_tasks
from quickstudy.tasks.numbering import Fingerprint, Stream, draw
from quickstudy.tasks.stacks import Stack, stacks, unstack

TASKS = 600
"""Number of tasks by default."""

TIMED_TASKS = 8
"""Number of tasks, the first ones, on which adapting is timed."""


def evaluate(
    learner: Learner,
    source: TaskSource,
    tasks: int | None = None,
    *,
    seed: int = 0,
    tasks_per_batch: int = 16,
    on_batch: Callable[[int], None] | None = None,
    stream: Stream = Stream.TEST,
    baselines: bool = True,
    raw: TaskSource | None = None,
    of: Learner | None = None,
    rivals: Mapping[str, Learner] = MappingProxyType({}),
) -> Evaluation:
    """Adapt ``learner`` to each of ``tasks`` tasks and score its predictor on the queries.

    ``tasks``            600 by default; for :func:`quickstudy.tasks.fixed`, all of them.
    ``seed``             the same seed and source give the same tasks and fingerprint.
    ``tasks_per_batch``  tasks that are drawn and computed at once; memory grows with it.
    ``on_batch``         called with the number of tasks done so far.
    ``stream``           the purpose of the tasks; no training task is in the test stream.
    ``baselines``        whether to score the baselines on the same tasks, see
                         :mod:`quickstudy.evaluation.baselines`; most of their time goes to the
                         untrained network.
    ``raw``              where ``source`` gives features in the place of inputs: the same tasks with
                         their inputs, for the baselines and the fingerprint.
    ``of``               then the learner for these inputs, whose backbone gave the features.
    ``rivals``           further baselines by name: learners as they are.

    Each kind and name of tasks has its own rows of results; where a name has a single task, with
    intervals over its query rows. Every task is drawn once, in order.
    The learner is used in evaluation mode, its own mode does not change.

    Raises ValueError for fewer than 2 tasks, which give no interval (1 given task does, over its
    query rows), for more than a fixed source has, for a source that ends before, for answers that
    the learner does not support, for tasks that would share a row although their answers do not
    join, for predictions of a wrong shape or not finite, and for a task without a known query.
    """
    check_call("evaluate", learner, seed)
    check_count("evaluate", "tasks_per_batch", tasks_per_batch, 1)
    tasks = number_of_tasks("evaluate", source, tasks, TASKS)
    least = 1 if isinstance(source, FixedTasks) else 2
    if not isinstance(tasks, int) or tasks < least:
        raise ValueError(f"evaluate: an interval needs at least 2 tasks; found {tasks}.")
    found = Baselines(of or learner, rivals) if baselines else None
    own = in_evaluation_mode(learner)
    scoring = Scoring(own, source, seed, stream, tasks_per_batch, found, raw or source, of)
    for start in range(0, tasks, tasks_per_batch):
        numbers = range(start, min(start + tasks_per_batch, tasks))
        scoring.add([draw(source, seed, number, stream) for number in numbers])
        if on_batch is not None:
            on_batch(numbers.stop)
    return scoring.evaluation()


def check_call(who: str, learner: Any, seed: Any) -> None:
    """ValueError for what is no learner, and for a seed that is no whole number of 0 or more."""
    if not isinstance(learner, Learner):
        raise ValueError(
            f"{who}: learner must be a Learner; found {type(learner).__name__}. Build one around "
            "the network, for example qs.Prototypical(network)."
        )
    check_count(who, "seed", seed, 0)


@dataclass
class _Row:
    """The statistics of one score for the tasks of one name."""

    score: Score
    first: bool
    statistics: list[Statistic] = field(default_factory=list)
    baselines: Strategies = field(default_factory=dict)
    names: list[frozenset[str] | None] = field(default_factory=list)
    alone: OverRows | None = None  # of the first task, while it is the only one


@dataclass
class Scoring:
    """Collects the statistics of tasks, batch by batch; ``learner`` is in evaluation mode."""

    learner: Learner
    source: TaskSource
    seed: int
    stream: Stream
    tasks_per_batch: int
    baselines: Baselines | None
    raw: TaskSource
    of: Learner | None = None
    kinds: Kinds = field(default_factory=Kinds)
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    count: int = 0
    rows: dict[Key, _Row] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=Inputs)
    plans: dict[Kind, Plan] = field(default_factory=dict)
    calibration: list[Tensor] = field(default_factory=list)
    seconds: float = math.nan

    def add(self, drawn: Sequence[Task]) -> None:
        """Score one batch of tasks, the next ones."""
        raw = self._raw(drawn)
        for task, inputs in zip(drawn, raw, strict=True):
            self.kinds.add(task.spec)
            self.fingerprint.add(inputs)
        found: list[tuple[Examples, Any, Any]] = [None] * len(drawn)  # type: ignore[list-item]
        # Rows added to a stack would be seen by a transductive learner, and change its scores.
        pad = not self.learner.transductive
        for stack in stacks(drawn, self.learner.name_key, pad=pad):
            for place, result in zip(stack.places, self._results(stack), strict=True):
                found[place] = result
        for number, (task, (query, predictions, decoded)) in enumerate(
            zip(drawn, found, strict=True), self.count
        ):
            _refuse_unscorable(task, query, predictions, self._where(number))
            self._record(task, raw[number - self.count], query, predictions, decoded, number)
        if not self.count:  # after the first batch, when the tasks are known to be valid
            self.seconds = seconds_per_adaptation(self.learner, drawn[:TIMED_TASKS])
        self.count += len(drawn)

    def _raw(self, drawn: Sequence[Task]) -> Sequence[Task]:
        """The same tasks with the inputs that features were computed of."""
        if self.raw is self.source:
            return drawn
        numbers = range(self.count, self.count + len(drawn))
        return [draw(self.raw, self.seed, number, self.stream) for number in numbers]

    def _where(self, number: int) -> str:
        return (
            f"task {number}, which is quickstudy.tasks.draw(source, {self.seed}, {number}, "
            f"{self.stream})"
        )

    def _results(self, stack: Stack) -> Iterator[tuple[Examples, Any, Any]]:
        """Query, predictions and, if a score needs it, decoded output of each task, on the CPU."""
        learner = self.learner
        found = prepare_stack(learner, stack)
        prepared, inspection = found.task, found.inspection
        kind = kind_of(prepared)
        if kind not in self.plans:
            self.plans[kind] = plan_for(learner, prepared, inspection, self.tasks_per_batch)
        predictions = predictions_of(learner, prepared, self.plans[kind], inspection)
        decodes = any(score.decoded for score in prepared.spec.answer.scores)
        host = map_tree(Tensor.cpu, (predictions, prepared.query))
        for i, task in enumerate(unstack(prepared)):
            of_task, query = map_tree(lambda leaf, i=i: leaf[i], host)
            yield query, of_task, _decoded(learner, task) if decodes else None

    def _record(
        self, task: Task, raw: Task, query: Examples, predictions: Any, decoded: Any, number: int
    ) -> None:
        answer, name = task.spec.answer, task.spec.name
        predictions, query = in_own_unit(self.source, name, predictions, query)
        names = class_names(self.source, self.seed, number, self.stream)
        rivals = {} if self.baselines is None else (
            in_own_units(self.source, name, self.baselines.predict(raw, task))
        )  # fmt: skip
        for place, score in enumerate(answer.scores):
            key = (name, score.name)
            row = self.rows.setdefault(key, _Row(score, place == 0))
            output = decoded if score.decoded else predictions
            row.statistics.append(score.statistic(output, query))
            row.alone = None
            if len(row.statistics) == 1 and not needs_acting(raw):
                inputs = self.inputs.number(raw.query.inputs)
                row.alone = over_rows(score, output, query, answer, inputs, rivals)
            row.names.append(names)
        for score_name, baseline, statistics in statistics_of(task, rivals):
            add_statistics(self.rows[name, score_name].baselines, baseline, statistics)
        if isinstance(answer, Classes) and not answer.clusters:
            confidence, chosen = predictions.softmax(-1).max(-1)
            right = (chosen == query.targets).to(confidence.dtype)
            weights = counted_weights(query, answer).to(confidence.dtype)
            self.calibration.append(torch.stack([confidence, right, weights]))

    def evaluation(self) -> Evaluation:
        """The evaluation of all tasks added."""
        rows = tuple(_result(name, row) for (name, _), row in self.rows.items())
        calibration = torch.cat(self.calibration, 1) if self.calibration else None
        return Evaluation(
            rows=rows,
            tasks=self.count,
            calibration_error=None if calibration is None else calibration_error(*calibration),
            seconds_per_adaptation=self.seconds,
            transductive=self.learner.transductive,
            norm=norm_policy(self.of or self.learner),
            seed=self.seed,
            fingerprint=self.fingerprint.value,
            left_out={} if self.baselines is None else self.baselines.left_out,
            seen=weights_seen(self.of or self.learner),
        )


def _result(name: str, row: _Row) -> Result:
    """The row's result; baselines that not all of its tasks have are left out."""
    tasks = len(row.statistics)
    names = [each for each in row.names if each is not None]
    return result_of(
        name, row.score, row.statistics, row.first, complete(row.baselines, tasks),
        names if len(names) == tasks else None, row.alone,
    )  # fmt: skip


def _decoded(learner: Learner, task: Task) -> Any:
    """The decoded output for the queries, on the CPU."""
    with torch.no_grad():
        decoded = task.spec.answer.decode(learner(task.support, task.spec), task.query.inputs)
    return map_tree(Tensor.cpu, decoded)


def _refuse_unscorable(task: Task, query: Examples, predictions: Any, where: str) -> None:
    if not all(bool(leaf.isfinite().all()) for leaf in leaves(predictions)):
        raise ValueError(
            f"evaluate: a prediction for {where}, is NaN or infinite. Look at the learner's "
            "weights (was training stopped by a loss that was not finite?) and at that task's data."
        )
    if not bool((counted_weights(query, task.spec.answer) > 0).any()):
        raise ValueError(
            f"evaluate: {where}, has no labelled query, so there is nothing to score. "
            "Give queries whose targets are known."
        )
