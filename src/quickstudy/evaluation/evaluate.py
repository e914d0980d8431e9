"""Scoring a learner on a fixed set of tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from quickstudy.backbones.norms import norm_policy
from quickstudy.base.errors import first_line
from quickstudy.base.modules import convolves_on_cpu, device_of, evaluation_mode
from quickstudy.base.trees import map_tree
from quickstudy.compute.cost import cost_of_one_task
from quickstudy.compute.engine import computing, map_tasks
from quickstudy.compute.features import embedded
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.core import Examples, Learner, Task, TaskSource
from quickstudy.evaluation.intervals import half_width
from quickstudy.objectives import answers
from quickstudy.tasks.examples import labelled
from quickstudy.tasks.inspection import Look, look_at
from quickstudy.tasks.metrics import calibration_error, score
from quickstudy.tasks.numbering import Fingerprint, draw, task_seed
from quickstudy.tasks.stacks import stack, to_device


@dataclass(frozen=True)
class Evaluation:
    """Scores of one learner on one set of tasks, with all that is needed to compare them.

    ``metric``                  "accuracy" (in [0, 1]) or "mse".
    ``scores``                  (tasks,): one score per task.
    ``mean``, ``half_width``    the mean over tasks and half its 95% interval (Student's t).
    ``calibration_error``       ECE with 15 bins over all queries; None for regression.
    ``seconds_per_adaptation``  median time of one ``adapt``, measured one task at a time.
    ``transductive``            whether queries of a task see one another.
    ``norm``                    the normalisation policy of the backbone.
    ``seed``, ``fingerprint``   the tasks' stream, and a hash of their tensors.
    """

    metric: str
    scores: Tensor
    mean: float
    half_width: float
    calibration_error: float | None
    seconds_per_adaptation: float
    transductive: bool
    norm: str
    seed: int
    fingerprint: str

    @property
    def protocol(self) -> str:
        """ "inductive" or "transductive"."""
        return "transductive" if self.transductive else "inductive"

    def __str__(self) -> str:
        about = f"(95% CI, {len(self.scores)} tasks, {self.protocol})"
        if self.metric == "accuracy":
            return f"{100 * self.mean:.1f}% ± {100 * self.half_width:.1f} {about}"
        return f"MSE {self.mean:.3g} ± {self.half_width:.2g} {about}"

    def to_json(self) -> dict[str, Any]:
        """Everything, scores included, as JSON."""
        return {
            "metric": self.metric, "mean": self.mean, "half_width": self.half_width,
            "tasks": len(self.scores), "protocol": self.protocol, "norm": self.norm,
            "calibration_error": self.calibration_error,
            "seconds_per_adaptation": self.seconds_per_adaptation,
            "seed": self.seed, "fingerprint": self.fingerprint,
            "scores": [float(f"{s:.8g}") for s in self.scores.tolist()],
        }  # fmt: skip

    @staticmethod
    def from_json(values: dict[str, Any]) -> Evaluation:
        """What :meth:`to_json` gave."""
        names = ("metric", "mean", "half_width", "calibration_error", "seconds_per_adaptation",
                 "norm", "seed", "fingerprint")  # fmt: skip
        return Evaluation(
            **{name: values[name] for name in names},
            scores=torch.tensor(values["scores"]),
            transductive=values["protocol"] == "transductive",
        )


def evaluate(
    learner: Learner,
    source: TaskSource,
    tasks: int = 600,
    *,
    seed: int = 0,
    tasks_per_batch: int = 16,
    plan: Plan | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Adapt ``learner`` to each of ``tasks`` tasks and score its predictor on the queries.

    The same ``seed`` and source give the same tasks, which the fingerprint proves. The learner is
    used in evaluation mode and left as it was. ``on_batch`` is told the number of tasks done.

    Raises ValueError for fewer than 2 tasks, of which no interval can be given.
    """
    if tasks < 2:
        raise ValueError(f"evaluate: an interval needs at least 2 tasks; found {tasks}.")
    with evaluation_mode(learner):
        return _evaluate(learner, source, tasks, seed, tasks_per_batch, plan, on_batch)


def _evaluate(
    learner: Learner,
    source: TaskSource,
    tasks: int,
    seed: int,
    tasks_per_batch: int,
    plan: Plan | None,
    on_batch: Callable[[int], None] | None,
) -> Evaluation:
    seen, device = Fingerprint(), device_of(learner)
    scores: list[Tensor] = []
    confidences: list[Tensor] = []
    seconds = _seconds_per_adaptation(
        learner, [draw(source, seed, i) for i in range(min(tasks, 8))]
    )
    plan = plan or _plan(learner, source, seed, tasks_per_batch)
    for start in range(0, tasks, tasks_per_batch):
        drawn = [draw(source, seed, i) for i in range(start, min(start + tasks_per_batch, tasks))]
        for task in drawn:
            seen.add(task)
        batch = stack(drawn)
        predictions = _answered(learner, to_device(batch, device), plan, look_at(batch))
        # In one transfer, to where the scores are wanted; of the queries, inputs are not asked for.
        told = map_tree(Tensor.cpu, batch.query._replace(inputs=()))
        for i, answered in enumerate(predictions.cpu()):
            query = labelled(map_tree(lambda leaf, i=i: leaf[i], told))
            _refuse_unscorable(answered, query, task_seed(seed, start + i))
            scores.append(score(answered, query))
            if not query.targets.is_floating_point():
                confidence, chosen = answered.softmax(-1).max(-1)
                right = (chosen == query.targets).to(confidence.dtype)
                confidences.append(torch.stack([confidence, right, query.weights]))
        if on_batch is not None:
            on_batch(start + len(drawn))
    values = torch.stack(scores)
    return Evaluation(
        metric="accuracy" if confidences else "mse",
        scores=values,
        mean=float(values.double().mean()),
        half_width=half_width(values),
        calibration_error=calibration_error(*torch.cat(confidences, 1)) if confidences else None,
        seconds_per_adaptation=seconds,
        transductive=learner.transductive,
        norm=norm_policy(learner),
        seed=seed,
        fingerprint=seen.value,
    )


def _refuse_unscorable(predictions: Tensor, query: Examples, seed: int) -> None:
    task = f"the task of source(torch.Generator().manual_seed({seed}))"
    if not bool(predictions.isfinite().all()):
        raise ValueError(
            f"evaluate: a prediction for {task} is NaN or infinite. Look at the learner's weights "
            "(was training stopped by a loss that was not finite?) and at that task's data."
        )
    if not bool((query.weights > 0).any()):
        raise ValueError(
            f"evaluate: {task} has no labelled query, so there is nothing to score. "
            "Give queries whose targets are known."
        )


def _answered(learner: Learner, batch: Task, plan: Plan, look: Look | None = None) -> Tensor:
    """Predictions (tasks, n, outputs) for the queries of ``batch``."""
    if plan.mapping is Mapping.FEATURES:
        with torch.no_grad(), computing(learner, batch, look):
            learner, batch = embedded(learner, batch)
        plan = replace(plan, mapping=Mapping.VMAP)
    return map_tasks(answers, batch, learner, plan, look)


def _plan(learner: Learner, source: TaskSource, seed: int, tasks_per_batch: int) -> Plan:
    one_by_one = Plan(Mapping.LOOP, "one task at a time is as fast, and small", 1)
    if learner.differentiates:
        return one_by_one
    batch = stack([to_device(draw(source, seed, 0), device_of(learner))])
    with torch.no_grad():
        if convolves_on_cpu(learner) and cost_of_one_task(learner, batch, answers).is_arithmetic:
            once = Plan(Mapping.FEATURES, "the backbone once for all rows", tasks_per_batch)
            return once if _answers_alike(learner, batch, once, one_by_one) else one_by_one
    plan = Plan(Mapping.VMAP, "one graph for all tasks", tasks_per_batch)
    try:
        map_tasks(answers, batch, learner, plan)
    except Exception as error:  # whatever vmap cannot map, the loop can
        return Plan(Mapping.LOOP, first_line(error), 1)
    return plan


def _answers_alike(learner: Learner, batch: Task, plan: Plan, known: Plan) -> bool:
    """Whether ``plan`` gives what a ``known`` one does; not where it cannot be followed at all."""
    expected = _answered(learner, batch, known)
    try:
        found = _answered(learner, batch, plan)
    except Exception:  # of learners that are more than a backbone and what follows it
        return False
    if found.shape != expected.shape:
        return False
    usual = float(expected.abs().median())  # answers may be small, and absent classes are -1e30
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * usual)


def _seconds_per_adaptation(learner: Learner, tasks: list[Task]) -> float:
    def timed() -> Iterator[float]:
        for task in tasks:
            support = to_device(task, device_of(learner)).support
            start = time.perf_counter()
            with torch.no_grad():
                learner.adapt(support, task.spec)
            if support.weights.is_cuda:
                torch.cuda.synchronize()
            yield time.perf_counter() - start

    times = sorted(timed())
    return times[len(times) // 2] if times else math.nan
