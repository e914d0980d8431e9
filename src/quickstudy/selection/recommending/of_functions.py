"""Tasks of a source that is no source of episodes: functions to regress, or classes of its own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.classes import Classes
from quickstudy.answers.reals import Reals
from quickstudy.backbones.joined import Flat
from quickstudy.backbones.mlp import MLP
from quickstudy.core import Acting, Learner, Task, TaskSource
from quickstudy.files.registry import LEARNERS, resolve
from quickstudy.learners.multitask.pooled import Pooled
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.learners.transfer.simple_shot import SimpleShot
from quickstudy.learners.transfer.support_vectors import SVM
from quickstudy.selection.recommending.candidates import Candidate, Problem, Sources
from quickstudy.tasks.counts import draw_count
from quickstudy.tasks.fixed import FixedTasks, fixed
from quickstudy.tasks.numbering import draw
from quickstudy.training.optimisers import adam

Named = tuple[str, dict[str, Any]]
"""A learner's name and arguments."""

OF_REALS: tuple[Named, ...] = (
    ("linear_probe", {}), ("maml", {"rate": 0.01}), ("conditional_neural_process", {}),
    ("in_context", {}),
)  # fmt: skip
"""Meta-learners of functions, with their arguments; MAML's are those of its paper's sinusoids."""

OF_CLASSES: tuple[Named, ...] = (
    ("prototypical", {}),
    ("r2d2", {}),
    ("proto_maml", {}),
    ("in_context", {}),
)

STEPS, TASKS_PER_STEP = 2000, 25
"""Of a usual training over functions: 25 tasks a step, as in MAML's paper."""


@dataclass(frozen=True)
class AtRandom:
    """A source that draws one of the given tasks, to train on a fixed number of them."""

    tasks: Sequence[Task]

    def __call__(self, generator: torch.Generator) -> Task:
        """One of the tasks."""
        return self.tasks[draw_count((0, len(self.tasks) - 1), generator)]


def problem_of_source(source: TaskSource, seed: int) -> Problem:
    """What fits the tasks of ``source``; ValueError for answers that nothing here can learn."""
    first = draw(source, seed, 0)
    answer = first.spec.answer
    if isinstance(first.support, Acting) or not isinstance(answer, Reals | Classes):
        kind = "acting" if isinstance(first.support, Acting) else answer.kind
        raise ValueError(
            f"recommend: races learners of classes and of real numbers; found tasks of {kind}. "
            "Compare learners for them yourself: qs.evaluate, on the same tasks."
        )
    inputs = first.support.inputs
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise ValueError(
            "recommend: tasks of a source need inputs that are real numbers, for the networks that "
            "are raced; found ids, or a tree of tensors. Put them through a backbone: qs.featurise."
        )
    train, sources, most = _parts(source, seed)
    shape = tuple(inputs.shape[1:])
    real = isinstance(answer, Reals)
    several = "functions" if real else "tasks"
    about = (
        f"{several} of {math.prod(shape)} inputs and {first.spec.outputs} outputs: "
        f"{len(first.support.weights)} support rows each"
    )
    raced_on = len(source.tasks) if isinstance(source, FixedTasks) else 1 << 30
    if isinstance(source, FixedTasks) and raced_on < 8:
        return Problem("functions", about, "task", raced_on, (), ("functions",))
    size = math.prod(shape)
    candidates = [*_alone(size, real, sources), _pooled(size, first, train, sources)]
    candidates = candidates if real else candidates[:-1]
    for name, options in OF_REALS if real else OF_CLASSES:
        candidates.append(_trained(name, options, size, first, train, sources))
    rules = ("functions",) if real else ("new classes",)
    return Problem("functions", about, "task", raced_on, tuple(candidates), rules,
                   tasks=most)  # fmt: skip


def _parts(source: TaskSource, seed: int) -> tuple[TaskSource, Sources, int | None]:
    """To train on; validation and test; a source of given tasks is divided."""
    if not isinstance(source, FixedTasks):
        return source, Sources(source, source, source), None
    tasks = list(source.tasks)
    order = torch.randperm(len(tasks), generator=torch.Generator().manual_seed(seed)).tolist()
    held = max(2, len(tasks) // 5)
    parts = order[: -2 * held], order[-2 * held : -held], order[-held:]
    train, val, test = ([tasks[i] for i in part] for part in parts)
    sources = Sources(AtRandom(train), fixed(val), fixed(test))
    return AtRandom(train), sources, held


def _alone(size: int, real: bool, sources: Sources) -> list[Candidate]:
    own = Sources(None, sources.validation, sources.test)
    advice = "Train on your data alone"
    found = [] if real else [Candidate(
        "nearest_mean", "nearest mean of the inputs", "target only",
        f"{advice}: the nearest mean of the inputs themselves",
        lambda: SimpleShot(Flat(size), normalise=False), own,
    )]  # fmt: skip
    return [
        *found,
        Candidate(
            "probe", "ridge regression on the inputs", "target only",
            f"{advice}: ridge regression on the inputs of each task",
            lambda: LinearProbe(Flat(size)), own,
        ),
        Candidate(
            "kernel", "a kernel machine on the inputs", "target only",
            f"{advice}: a support vector machine with a Gaussian kernel for each task",
            lambda: SVM(Flat(size), tol=1e-3), own,
        ),
    ]  # fmt: skip


def _pooled(size: int, first: Task, train: TaskSource, sources: Sources) -> Candidate:
    return Candidate(
        "pooled", "one network for the rows of all tasks", "pooled",
        "Pool the rows of all tasks: one network, which reads no support set",
        lambda: Pooled(MLP(size), first.spec.outputs),
        Sources(train, sources.validation, sources.test), STEPS, TASKS_PER_STEP, adam(),
    )  # fmt: skip


def _trained(
    name: str, options: dict[str, Any], size: int, first: Task, train: TaskSource, sources: Sources
) -> Candidate:
    card, outputs = LEARNERS[name], first.spec.outputs
    cls: Callable[..., Learner] = resolve("learner", name, LEARNERS)
    own = {"outputs": outputs} if "outputs" in inspect.signature(cls).parameters else {}
    title = "ridge regression on learnt features" if name == "linear_probe" else card.title

    def make() -> Learner:
        return cls(MLP(size, outputs=outputs if card.head else None), **own, **options)

    return Candidate(
        name, title, "meta-learning", f"Meta-learn over your tasks: {title}", make,
        Sources(train, sources.validation, sources.test), STEPS, TASKS_PER_STEP, adam(),
    )  # fmt: skip
