"""Checks and set-up before training: laws of the contract, tasks, memory layout, malloc."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from quickstudy.answers.checks import check_count
from quickstudy.answers.classes import Classes
from quickstudy.base.dropout import active_dropout, dropout_off, with_dropout
from quickstudy.base.errors import BrokenLaw, with_memory_fallback
from quickstudy.base.modules import convolves_on_cpu, device_of
from quickstudy.base.updates import updating_norm
from quickstudy.base.words import first_few
from quickstudy.compute.gradients import as_outcome
from quickstudy.compute.memory import keep_freed_memory, one_task_must_fit
from quickstudy.compute.plan import Compute
from quickstudy.compute.prepare import kind_of, placed
from quickstudy.contract.check import applicable, check_laws, doubled
from quickstudy.core import Examples, Learner, PlacesNames, Task, TaskSource, check_answer
from quickstudy.evaluation.validation import Validation
from quickstudy.learners.gradient.gradient_learner import GradientLearner
from quickstudy.objectives import Objective, set_progress
from quickstudy.tasks.acting import needs_acting, run_acting
from quickstudy.tasks.numbering import repeatable_tasks
from quickstudy.tasks.order import reads_a_sequence
from quickstudy.tasks.stacks import stacks, to_device
from quickstudy.training.equivalence import few_queries, in_double

_BEFORE_TRAINING = (
    "shape_is_right_and_finite",
    "adapt_is_pure",
    "queries_are_independent",
    "weight_zero_is_absent",
)
"""Laws whose violation makes results silently wrong, and that a few adaptations can test."""


FIRST_TASKS = 8
"""Number of tasks to check before training; a single one may be sorted by chance."""


def first_tasks(source: TaskSource, seed: int) -> list[Task]:
    """The first tasks of training, for :func:`prepare`; ValueError for a source with a memory."""
    return list(repeatable_tasks(source, seed, FIRST_TASKS))


def check_settings(
    schedule: Any, objective: Any, validation: Any, compute: Any, counts: Mapping[str, Any]
) -> None:
    """ValueError for an argument of ``fit`` of a wrong kind, and for ``counts`` below 1."""
    for name, count in counts.items():
        check_count("fit", name, count, 1)
    for name, value, fits, wanted in (
        ("schedule", schedule, callable(schedule), "a function of the share of training done"),
        ("objective", objective, objective is None or callable(objective),
         "a function (learner, task) -> loss"),
        ("validation", validation, validation is None or isinstance(validation, Validation),
         "qs.Validation(source)"),
        ("compute", compute, isinstance(compute, Compute), "qs.Compute(engine=...)"),
    ):  # fmt: skip
        if not fits:
            raise ValueError(
                f"fit: {name} must be {wanted}; found {type(value).__name__}. Give that, or leave "
                "it out."
            )
    factor = schedule(0.0)
    if not isinstance(factor, (int, float)) or not 0 <= factor < math.inf:
        raise ValueError(
            f"fit: schedule must give a factor of the learning rate, a number of 0 or more; found "
            f"{factor!r} at the start. See qs.schedules."
        )


def prepare(
    learner: Learner, objective: Objective, drawn: Sequence[Task], tasks_per_step: int
) -> list[Task]:
    """Check and set up ``learner`` for training whose first tasks are ``drawn``; stacks of these.

    Scheduled learners and objectives are set to the end of training for the checks and the plan.

    Raises what :func:`quickstudy.training.fit.fit` raises before it plans: ValueError for fewer
    than one task per step, for answers that the learner does not support and for a loss that
    depends on no trainable parameter, and what :func:`refuse_sorted` and :func:`check_lawful`
    raise.
    """
    if tasks_per_step < 1:
        raise ValueError(f"fit: tasks_per_step must be positive; found {tasks_per_step}.")
    set_up(learner)
    set_progress(learner, objective, 1.0)
    for spec in dict.fromkeys(task.spec for task in drawn):
        check_answer(learner, spec.answer)
    refuse_sorted(learner, drawn)
    tell_unknown_names(learner, drawn)
    if active_dropout(learner) and any(map(needs_acting, drawn)):
        raise BrokenLaw(
            "the rows of these tasks are made by acting, and with dropout the learner would act by "
            "another policy than the one that is trained: set p=0 in, or eval() or qs.frozen(), "
            "the dropout layers."
        )
    tasks = [run_acting(learner, to_device(task, device_of(learner))) for task in drawn]
    kinds = {(kind_of(task), learner.name_key(task.spec)): task for task in reversed(tasks)}
    for task in kinds.values():
        with _gradients_needed(learner), one_task_must_fit(), dropout_off(learner):
            if isinstance(learner, GradientLearner):  # not on a copy, whose names Keras changes
                learner.refuse_unreachable(task.support, task.spec)
            check_lawful(learner, task)
            if not as_outcome(objective(learner, task)).loss.requires_grad:
                raise RuntimeError("the loss does not require grad")
        with one_task_must_fit():
            _try_dropout(learner, objective, task)
    return [placed(learner, stack) for stack in stacks(tasks, learner.name_key)]


def tell_unknown_names(learner: Learner, drawn: Sequence[Task]) -> None:
    """Warn of named tasks that the learner does not know, where it knows others by name."""
    if not isinstance(learner, PlacesNames):
        return
    names = dict.fromkeys(task.spec.name for task in drawn if task.spec.name)
    unknown = [name for name in names if learner.place_of(name) < 0]
    if 0 < len(unknown) < len(names):
        warnings.warn(
            f"fit: {type(learner).__name__} knows some of the tasks by name, but not "
            f"{first_few(unknown)}: it holds no parameters for them, and adapts from their support "
            "rows at every step. Name them in tasks={name: number of outputs} too, or leave them "
            "out.",
            stacklevel=4,
        )


def _try_dropout(learner: Learner, objective: Objective, task: Task) -> None:
    """BrokenLaw where the gradient of a task computes code with dropout again."""
    if active_dropout(learner):
        loss = as_outcome(objective(with_dropout(learner, 0), task)).loss
        trained = [p for p in learner.parameters() if p.requires_grad]
        torch.autograd.grad(loss, trained, allow_unused=True)


def check_lawful(learner: Learner, task: Task) -> None:
    """Refuse, before any training, a learner whose results would be silently wrong.

    Raises ValueError for one without trainable parameters, and
    :class:`quickstudy.testing.BrokenLaw` for running statistics updated in ``forward``,
    randomness in ``adapt``, predictions of a wrong shape, and, where undeclared, predictions that
    depend on other queries or on rows of weight 0;
    :class:`quickstudy.compute.memory.TaskTooLarge` where memory runs out. Tested in float64 or,
    where that does not fit, in the learner's own dtype.
    """
    if not any(parameter.requires_grad for parameter in learner.parameters()):
        some = "give it the tasks to learn, tasks={name: number of outputs}"
        if getattr(learner, "tasks", None) != {}:
            some = "set requires_grad=True on some"
        raise ValueError(
            f"fit: {type(learner).__name__} has no trainable parameters, so there is nothing to "
            f"learn. Use it as it is, or {some}."
        )
    if updating := updating_norm(learner):
        raise BrokenLaw(
            f"{updating} in forward, so adapting would change the learner. Use a norm of "
            "quickstudy.backbones.norms (norm='group', 'support', 'batch' or 'running'), or build "
            "it with track_running_stats=False, or keep it in evaluation mode: qs.frozen(module)."
        )
    task.spec.answer.check(task.query.targets, "query")
    small = few_queries(task, max(4, min(16, 2 * task.spec.outputs)))
    laws = [law for law in applicable(learner) if law in _BEFORE_TRAINING]
    with one_task_must_fit():
        with_memory_fallback(
            lambda: _test_laws(in_double(learner), doubled(small), laws),
            lambda: _test_laws(copy.deepcopy(learner), small, laws),
        )


def _test_laws(learner: Learner, task: Task, laws: Sequence[str]) -> None:
    try:
        check_laws(learner, task, laws)
    except RuntimeError as error:
        if "mutate a captured Tensor" not in str(error):
            raise
        buffers = [name for name, _ in learner.named_buffers()]
        raise BrokenLaw(
            "adapt must change nothing in the module, but forward changes something in place "
            f"(its buffers are {', '.join(buffers) or 'none'}). Statistics that forward updates "
            "do this: recompute them in every pass, or freeze them."
        ) from error


@contextmanager
def _gradients_needed(learner: Learner) -> Iterator[None]:
    """Turn autograd's error for a loss without a graph into a ValueError that says what to mend."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # ValueError: a learner's call explains errors
        if "does not require grad" not in str(error):
            raise
        raise ValueError(
            f"fit: the loss depends on no trainable parameter of {type(learner).__name__}, so "
            "there is nothing to train. Let forward and the objective keep the graph (no detach(), "
            "no_grad(), .data, argmax or numpy), and call fit outside of torch.no_grad()."
        ) from error


def refuse_sorted(learner: Learner, tasks: Iterable[Task]) -> None:
    """ValueError where all ``tasks`` are sorted by class and the learner reads rows as a sequence.

    It would learn the positions of the classes instead of the classes.
    """
    if not reads_a_sequence(learner):
        return
    targets = [
        task.support.targets for task in tasks
        if isinstance(task.spec.answer, Classes) and isinstance(task.support, Examples)
    ]  # fmt: skip
    if not targets or any(len(each) < 3 for each in targets):
        return
    if all(bool((each.diff() >= 0).all()) for each in targets):
        raise ValueError(
            f"fit: {type(learner).__name__} reads its support rows as a sequence, but they come "
            "class by class, so it would learn their positions. Draw tasks with "
            "episodes(..., shuffled=True)."
        )


_KEPT = "_quickstudy_kept_in_evaluation_mode"
"""An attribute of modules that the user had put in evaluation mode before the first training."""


def set_up(learner: Learner) -> None:
    """Training mode, and on a CPU the layout and the allocation in which convolutions are fast.

    Modules in evaluation mode inside a learner in training mode were put there by the user. They
    stay so, also when training goes on after ``fit`` has put the whole learner in evaluation mode.
    """
    parts = list(learner.modules())
    if learner.training:
        for part in parts:
            part.__dict__[_KEPT] = not part.training
    learner.train()
    for part in parts:
        if part.__dict__.get(_KEPT):
            part.training = False
    if convolves_on_cpu(learner):
        keep_freed_memory()
        # Otherwise each convolution converts its weights, and each step their gradients.
        # Stacked weights (tasks, ...) of several networks have an axis more, and no such layout.
        for parameter in learner.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
