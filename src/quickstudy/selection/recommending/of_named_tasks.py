"""Tasks that have names: each alone, all as one, pulled together, or with a shared network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quickstudy.backbones.joined import Features
from quickstudy.backbones.mlp import MLP
from quickstudy.base.words import first_few
from quickstudy.core import Learner
from quickstudy.learners.multitask.hard_sharing import HardSharing
from quickstudy.learners.multitask.mean_regularised import MeanRegularised
from quickstudy.learners.multitask.pooled import Pooled
from quickstudy.learners.multitask.single_task import SingleTask
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.selection.recommending.candidates import Candidate, Problem, Sources
from quickstudy.tasks.fixed import FixedTasks
from quickstudy.tasks.named_rows import NamedRows
from quickstudy.tasks.named_tasks import NamedTasks

PENALTIES = (1.0, 10.0, 100.0)
"""Of ridge regressions of each task alone: each of them is a candidate."""

PULLS = (0.1, 1.0, 10.0, 100.0)
"""Among which MeanRegularised chooses by cross-validation on training rows."""

STEPS, TASKS_PER_STEP, ROWS = 600, 16, 32


def problem_of_named_tasks(tasks: NamedTasks, seed: int) -> Problem:
    """What fits tasks with names: their rows are divided into training, validation and test."""
    answers = {(type(s.answer), s.outputs) for s in tasks.specs.values()}
    if len(answers) > 1:
        kinds = first_few(sorted({spec.answer.kind for spec in tasks.specs.values()}))
        raise ValueError(
            "recommend: tasks with names must have one kind of answer and one number of outputs, "
            f"for a mean of their scores; found {len(answers)} ({kinds}). Give the tasks of one "
            "kind: tasks.only(names)."
        )
    sizes = {math.prod(tasks[name].inputs.shape[1:]) for name in tasks
             if isinstance(tasks[name].inputs, Tensor)}  # fmt: skip
    counts = tasks.counts
    about = f"{len(tasks)} named tasks of {min(counts.values())} to {max(counts.values())} rows"
    if len(tasks) < 8 or len(sizes) != 1:
        return Problem("named tasks", about, "task", len(tasks) if sizes else 0, (),
                       ("named tasks",))  # fmt: skip
    rest, test = tasks.split_rows(0.8, seed)
    train, val = rest.split_rows(0.75, seed)
    given = _standardised(train, (train, val, test))
    train, val, test = given
    sources = Sources(
        None, _in_own_scale(train.tested_on(val)), _in_own_scale(train.tested_on(test))
    )
    candidates = _candidates(train, sources, next(iter(sizes)))
    return Problem(
        "named tasks", f"{about}; scored on rows held out of each, targets in standard deviations",
        "task", len(tasks), tuple(candidates), ("named tasks",), tasks=len(tasks),
    )  # fmt: skip


def _in_own_scale(tasks: FixedTasks) -> FixedTasks:
    """The same tasks, scored in standard deviations of each, so that a mean over them says all."""
    return FixedTasks(tasks.tasks)


def _standardised(train: NamedTasks, parts: tuple[NamedTasks, ...]) -> list[NamedTasks]:
    """Inputs with mean 0 and variance 1 over all training rows, real targets so in each task."""
    every = torch.cat([train[name].inputs.flatten(1).float() for name in train])
    mean, scale = every.mean(0), every.std(0, unbiased=False)
    scale = scale.where(scale > 0, torch.ones_like(scale))
    found = [_with_inputs(part, lambda x: (x.flatten(1).float() - mean) / scale) for part in parts]
    first = found[0].standardised()
    return [first, *(each.standardised(first) for each in found[1:])]


def _with_inputs(tasks: NamedTasks, change: Callable[[Tensor], Tensor]) -> NamedTasks:
    rows: NamedRows = tasks.rows
    changed = {id(x): change(x) for x in rows.inputs.values()}
    inputs: Mapping[str, Any] = {name: changed[id(x)] for name, x in rows.inputs.items()}
    return NamedTasks(replace(rows, inputs=inputs), tasks.specs, tasks.scales)


def _candidates(train: NamedTasks, sources: Sources, size: int) -> list[Candidate]:
    outputs = next(iter(train.specs.values())).outputs
    batches = Sources(train.batches(ROWS), sources.validation, sources.test)
    alone = [
        Candidate(
            f"alone, penalty {l2:g}", f"a ridge regression of each task, penalty {l2:g}",
            "target only",
            f"Train each task on its data alone: ridge regression with a penalty of {l2:g}",
            lambda l2=l2: LinearProbe(Features(size), l2=l2), sources,  # type: ignore[misc]
        )
        for l2 in PENALTIES
    ]  # fmt: skip

    def pulled() -> Learner:
        learner = MeanRegularised(Features(size), outputs, l2_offset=1.0)
        return learner.learn_from(train, train.specs, l2=PULLS, l2_offset=PULLS)

    def trained(name: str, title: str, family: str, advice: str, make: Callable[[], Learner]
                ) -> Candidate:  # fmt: skip
        return Candidate(name, title, family, advice, make, batches, STEPS, TASKS_PER_STEP)

    return [
        *alone,
        Candidate(
            "mean_regularised", "ridge regressions pulled to a shared weight", "multi-task",
            "Learn the tasks together: qs.MeanRegularised, with pulls chosen on training rows",
            pulled, sources,
        ),
        trained(
            "pooled", "one linear model for all tasks", "pooled",
            "Pool the rows of all tasks into one linear model",
            lambda: Pooled(Features(size), outputs),
        ),
        trained(
            "hard_sharing", "a shared network with a head for each task", "multi-task",
            "Learn the tasks together: qs.HardSharing, one network with a head for each",
            lambda: HardSharing(MLP(size, (64,)), train.outputs),
        ),
        trained(
            "single_task", "a network for each task", "target only",
            "Train each task on its data alone: a network for each, qs.SingleTask",
            lambda: SingleTask(MLP(size, (64,)), train.outputs),
        ),
    ]  # fmt: skip
