"""Comparing learners: all are trained and tested on the same tasks, beside baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quickstudy.answers.checks import check_count
from quickstudy.base.errors import first_line
from quickstudy.base.shown import shown
from quickstudy.core import Learner, Task, TaskSource
from quickstudy.evaluation.growing import Growing
from quickstudy.files.registry import build, describe
from quickstudy.selection.comparing.budget import Minutes, told
from quickstudy.selection.comparing.compared import Comparisons
from quickstudy.selection.comparing.contenders import Contender, Trained
from quickstudy.selection.comparing.contest import Contest, decide
from quickstudy.selection.comparing.display import Display
from quickstudy.selection.comparing.distinct import (
    digests,
    refuse_baseline_names,
    refuse_shared_weights,
)
from quickstudy.selection.comparing.fitting import Training, paces_of
from quickstudy.selection.comparing.simple import (
    TARGET_ONLY,
    UNTRAINED,
    on_pretrained,
    target_only,
    untrained_backbone,
)
from quickstudy.selection.comparing.stored import Folder
from quickstudy.selection.making import card_of, made
from quickstudy.tasks.fixed import number_of_tasks
from quickstudy.tasks.numbering import Stream, repeatable_tasks

Makers = Mapping[str, Callable[[], Learner]]

TASKS, MATTERS = 600, 0.005


def compare(
    learners: Makers | Sequence[Learner],
    train: TaskSource,
    test: TaskSource,
    *,
    budget: int | Minutes,
    tasks_per_step: int = 4,
    seeds: int = 3,
    tasks: int | None = None,
    validation: TaskSource | None = None,
    matters: float = MATTERS,
    over_shots: Mapping[int, TaskSource] | None = None,
    run: str | Path | None = None,
    test_seed: int = 0,
    progress: bool = True,
) -> Comparisons:
    """Train every learner from several seeds on the same tasks, and test all on the same tasks.

    ``learners``    by name, a function of no argument that makes a new learner, called under
                    ``torch.manual_seed(seed)``; or learners of this library, which are made again
                    from their arguments for each seed.
    ``train``, ``test``  task sources. Training tasks are numbered: training s of each learner
                    sees the same ones in the same order. All are tested on the same test tasks.
    ``budget``      optimiser steps of each training, or :class:`Minutes` of CPU time. Learners
                    without trainable parameters are not trained.
    ``tasks_per_step``  the same for every learner. Optimiser and rate are those of a learner's
                    card (Adam at 1e-3 for learners of your own), with a cosine schedule.
    ``seeds``       trainings of each learner, from the seeds 0, 1, …; from 3 on there is an
                    interval over other trainings.
    ``tasks``       test tasks at most, 600 by default; of :func:`quickstudy.tasks.fixed`, all.
                    Tasks are added until every pair is decided.
    ``validation``  a source of validation tasks; the best weights of four validations are kept.
                    With :class:`Minutes`, their time counts; a learner for which they would take
                    more than a third of it keeps its last weights.
    ``matters``     the least difference that matters, in the score's unit (half a point).
    ``over_shots``  by number of shots, test tasks for the score over shots.
    ``run``         a folder for checkpoints. The same call continues there after a kill, with the
                    same result, bit for bit.
    ``test_seed``   of the test tasks.

    The table also has chance, the nearest mean of the raw inputs, an untrained backbone, a head on
    the raw rows of each support set alone and, where a learner has a pretrained backbone, a probe
    on it and a fine-tuned head.

    A learner that raises an error while it is trained or tested is a row with this reason, ranked
    last. Raises ValueError, before any training, for fewer than 2 learners, values out of range,
    learners that do not fit the tasks, that have the name of a baseline, or that share trainable
    weights, and a folder ``run`` of a comparison of other learners or tasks.

    >>> import quickstudy as qs
    >>> learners = {
    ...     "maml": lambda: qs.MAML(qs.backbones.MLP(1, (8,), outputs=1)),
    ...     "cnp": lambda: qs.ConditionalNeuralProcess(qs.backbones.MLP(1, (8,))),
    ... }
    >>> source = qs.Sinusoids()
    >>> found = qs.compare(learners, source, source, budget=2, seeds=1, tasks=4, progress=False)
    >>> [entry.name for entry in found.main.learners]
    ['maml', 'cnp']
    """
    makers = _makers(learners)
    check_count("compare", "seeds", seeds, 1)
    check_count("compare", "tasks_per_step", tasks_per_step, 1)
    check_count("compare", "test_seed", test_seed, 0)
    if not isinstance(budget, Minutes):
        check_count("compare", "budget", budget, 1)
    tasks = number_of_tasks("compare", test, tasks, TASKS)
    check_count("compare", "tasks", tasks, 2)
    check_matters(matters)
    shown_first = next(iter(repeatable_tasks(test, test_seed, 1, Stream.TEST)))
    learners_made = {name: made(make, 0) for name, make in makers.items()}
    for name, learner in learners_made.items():
        check_fits(name, learner, (train, test), test_seed)
    refuse_baseline_names("compare", makers, shown_first)
    refuse_shared_weights(makers)
    settings = {
        "learners": list(makers), "seeds": seeds, "tasks": tasks, "test_seed": test_seed,
        "tasks_per_step": tasks_per_step, "matters": matters,
        "budget": {"minutes": budget.minutes} if isinstance(budget, Minutes) else {"steps": budget},
        **digests(learners_made, train, test, validation, over_shots, test_seed),
    }  # fmt: skip
    folder = None if run is None else Folder.of_settings(Path(run), settings)
    if folder is not None and folder.finished:
        return folder.read()
    trainings = {
        name: Training(name, make, train, test, validation, tasks_per_step, folder, over_shots)
        for name, make in makers.items()
    }
    with Display(progress) as display:
        paces = paces_of(budget, trainings, folder, display)
        settings |= told(paces)
        contenders = [training.contender(paces[name]) for name, training in trainings.items()]
        baselines, left_out = _baselines(makers, test, shown_first)
        contest = Contest(
            [*contenders, *baselines], test, seeds, tasks, matters, test_seed, settings, left_out
        )
        found = decide(contest, display)
    if folder is not None:
        folder.write(found)
    return found


def check_matters(matters: Any) -> None:
    """ValueError for a difference that is no number of 0 or more."""
    known = isinstance(matters, int | float) and not isinstance(matters, bool)
    if not known or not 0 <= matters < math.inf:
        raise ValueError(
            f"compare: matters must be a number of 0 or more, in the score's unit; found "
            f"{shown(matters)}. 0.005 is half a point of accuracy."
        )


def check_names(names: Sequence[str]) -> None:
    """ValueError for fewer than two learners, and for two of one name."""
    if len(names) < 2:
        raise ValueError(
            f"compare: needs at least 2 learners; found {len(names)}. For a single one use "
            "quickstudy run or qs.evaluate, which score baselines beside it."
        )
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(
            f"compare: each learner needs a name of its own; found {shown(twice[0])} twice. Give a "
            "mapping from names to learners."
        )


def check_fits(name: str, learner: Any, sources: Sequence[TaskSource], seed: int) -> None:
    """ValueError where ``learner``, untrained, cannot solve two tasks of each source."""
    if not isinstance(learner, Learner):
        raise ValueError(
            f"compare: {name} must make a Learner; found {type(learner).__name__}. Give a function "
            "of no argument, such as lambda: qs.Prototypical(qs.backbones.Conv4())."
        )
    for source in sources:
        try:
            Growing(learner, source, seed=seed).to(2).main  # noqa: B018  (raises for several kinds)
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            raise ValueError(f"compare: {name} does not fit the tasks: {error}") from error


def _makers(learners: Any) -> dict[str, Callable[[], Learner]]:
    if isinstance(learners, Mapping):
        check_names([str(name) for name in learners])
        for name, make in learners.items():
            if isinstance(make, Learner) or not callable(make):
                raise ValueError(
                    f"compare: a mapping must hold functions that make learners, since each seed "
                    f"needs a new one; found {type(make).__name__} for {shown(name)}. Give a "
                    "function of no argument, such as lambda: "
                    "qs.Prototypical(qs.backbones.Conv4())."
                )
        return {str(name): make for name, make in learners.items()}
    if isinstance(learners, Learner | str) or not isinstance(learners, Sequence):
        raise ValueError(
            f"compare: learners must be a mapping from names to functions, or a list of learners; "
            f"found {type(learners).__name__}."
        )
    for learner in learners:
        if not isinstance(learner, Learner):
            raise ValueError(
                f"compare: a list must hold learners; found {type(learner).__name__}. For "
                "functions that make learners, give a mapping from names to them."
            )
    named = [(_name(learner), _again(learner)) for learner in learners]
    check_names([name for name, _ in named])
    return dict(named)


def _name(learner: Learner) -> str:
    card = card_of(learner)
    return type(learner).__name__ if card is None else card.name


def _again(learner: Learner) -> Callable[[], Learner]:
    description = describe(learner)  # OwnCodeError, which says so, for a class of the user's

    def make() -> Learner:
        made: Learner = build(description)
        return made

    return make


def _baselines(
    makers: Makers, test: TaskSource, task: Task
) -> tuple[list[Contender], dict[str, str]]:
    """The baselines with a network or a head, and why others are left out."""
    answer = task.spec.answer
    found: list[Contender] = []
    left_out: dict[str, str] = {}
    first = next(iter(makers.values()))

    def ready(learner: Learner) -> Trained:
        return Trained(learner, test)

    def add(name: str, make: Callable[[], Sequence[Contender]]) -> None:
        try:
            found.extend(make())
        except Exception as error:  # a baseline never stops a comparison
            left_out[name] = first_line(error)

    add(TARGET_ONLY, lambda: [target_only(task, test)])
    add(UNTRAINED, lambda: [untrained_backbone(lambda seed: made(first, seed), answer, ready)])
    add("probe", lambda: on_pretrained(made(first, 0), answer, ready))
    return found, left_out
