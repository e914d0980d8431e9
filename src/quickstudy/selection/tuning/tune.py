"""Tuning: settings of a learner and its training, sampled, tried and scored on validation tasks."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from quickstudy.answers.checks import check_count
from quickstudy.base.shown import shown
from quickstudy.compute.plan import Compute
from quickstudy.core import Learner, TaskSource
from quickstudy.evaluation.validation import Validation
from quickstudy.learners.cards import Range
from quickstudy.selection.making import card_of, made
from quickstudy.selection.tuning import space as spaces
from quickstudy.selection.tuning.problem import TASKS, TuningProblem, facts, objective_of, score_of
from quickstudy.selection.tuning.storage import open_store
from quickstudy.selection.tuning.trial import Row
from quickstudy.selection.tuning.trials import Trials
from quickstudy.selection.tuning.tuned import Tuned
from quickstudy.training.optimisers import OptimiserMaker, adam
from quickstudy.training.schedules import Schedule, constant

Values = Range | Sequence[Any]
"""What may be tried of one setting: a range of numbers, or a list of values."""


def tune(
    make: Callable[..., Learner],
    train: TaskSource,
    validation: Validation,
    *,
    steps: int,
    trials: int,
    tasks_per_step: int = 16,
    options: Mapping[str, Values] | None = None,
    rates: Values | None = None,
    rate: float = 1e-3,
    optimiser: Callable[[float], OptimiserMaker] = adam,
    schedule: Schedule = constant,
    clip: float | None = None,
    compute: Compute = Compute(),  # noqa: B008  (frozen)
    storage: str | os.PathLike[str] | None = None,
    name: str = "quickstudy",
    minutes: float | None = None,
    tasks: int = TASKS,
    seed: int = 0,
    progress: bool = True,
    on_trial: Callable[[Row], object] | None = None,
) -> Tuned:
    """Settings of a learner that do well on validation tasks, found by trying.

    ``make``        arguments of the constructor, by name -> a new learner; without any, the usual
                    one. It is called with torch's generator seeded.
    ``train``, ``steps``, ``tasks_per_step``, ``schedule``, ``clip``, ``compute``
                    of each training, as in :func:`quickstudy.fit`. With 0 steps nothing is trained,
                    as for learners on frozen features.
    ``validation``  how trials are scored. No test task takes part. Each validation of a training is
                    a report by which it may be cut short. All trials have the same validation
                    tasks, those of its ``seed`` or of ``seed``.
    ``trials``      how many there are to be in the storage, those of other processes included. The
                    first has the usual settings.
    ``options``     what to try for arguments of ``make``; those on the learner's card by default.
    ``rates``       what to try for the learning rate; by default what is on the card. With [] it is
                    ``rate``.
    ``rate``        the usual learning rate.
    ``optimiser``   learning rate -> what :func:`quickstudy.fit` takes.
    ``storage``     a file that several processes may share, or the URL of a database
                    (``sqlite:///trials.db``); None for memory. Tuning goes on from what is there.
    ``name``        of the tuning in a database that has several.
    ``minutes``     after which this process begins no trial.
    ``tasks``       new validation tasks, drawn with another seed, on which the best settings are
                    compared with the usual ones: the best of many trials looks too good on the
                    tasks by which it was chosen.
    ``on_trial``    called with each trial of this process when it has ended.

    Settings are sampled by a tree-structured Parzen estimator (Bergstra et al., 2011), the first
    ten at random, and trials cut short by asynchronous successive halving (Li et al., 2020): of
    those that come to 1, 2, 4, ... validations, about half go on. Both are Optuna's. Each training
    has a seed of its own, which follows from ``seed`` and the trial's place. So one process, also
    one that is killed and started again, gives the same trials each time; several at once do not,
    since each sees the results that are there when it begins.

    An exception in a trial makes it a failed one, with the reason. Ctrl-C ends tuning; the trial at
    hand is done again by the next process that goes on.

    Raises ImportError without Optuna (the extra ``tune``); ValueError for arguments out of range, a
    learner without anything to try, a damaged storage, and one with trials of another problem.

    >>> import quickstudy as qs
    >>> waves = qs.Sinusoids()
    >>> def make(**options):
    ...     return qs.MAML(qs.backbones.MLP(1, hidden=(16, 16), outputs=1), **options)
    >>> tuned = qs.tune(
    ...     make, waves, qs.Validation(waves, every=5, tasks=20), steps=10, trials=3, tasks=20,
    ...     options={"steps": [1, 3], "rate": qs.Range(0.003, 0.3, log=True)}, progress=False,
    ... )
    >>> len(tuned.trials), sorted(tuned.space)
    (3, ['options.rate', 'options.steps', 'rate'])
    """
    base = made(make, seed)
    if not isinstance(base, Learner):
        raise ValueError(f"tune: make must give a learner; found {type(base).__name__}.")
    card = card_of(base)
    on_card = spaces.space_on(card) if card else {}
    if options is not None:
        on_card = {n: v for n, v in on_card.items() if n == spaces.RATE}
        on_card |= {spaces.option(n): v for n, v in options.items()}  # type: ignore[misc]
    if rates is not None:
        on_card = {n: v for n, v in on_card.items() if n != spaces.RATE}
        on_card |= {spaces.RATE: rates} if rates else {}  # type: ignore[dict-item]

    def made_with(settings: Mapping[str, Any], seed: int) -> Learner:
        arguments = spaces.as_arguments(spaces.options_of(settings), card)
        return made(lambda: make(**arguments), seed)

    problem = TuningProblem(
        made_with, train, validation, steps, tasks_per_step, rate, optimiser, schedule, clip,
        compute, tasks, seed, progress,
    )  # fmt: skip
    return tune_problem(
        problem, on_card, trials=trials, storage=storage, name=name, minutes=minutes,
        on_trial=on_trial, base=base,
    )  # fmt: skip


def tune_problem(
    problem: TuningProblem,
    space: Mapping[str, Values],
    *,
    trials: int,
    storage: str | os.PathLike[str] | None = None,
    name: str = "quickstudy",
    minutes: float | None = None,
    on_trial: Callable[[Row], object] | None = None,
    about: Mapping[str, Any] | None = None,
    base: Learner | None = None,
) -> Tuned:
    """Like :func:`tune`, of a ``problem`` whose ``make`` takes settings and a seed.

    ``space``  what to try, by the names of :mod:`quickstudy.selection.tuning.space`.
    ``about``  further facts of the problem that a storage must agree with.
    ``base``   the learner with the usual settings, where it is made already.
    """
    check_numbers(problem, trials, minutes)
    validation = replace(problem.validation, seed=problem.validation.seed_beside(problem.seed))
    problem = replace(problem, validation=validation)
    base = base or problem.make({}, problem.seed)
    checked = {
        name: spaces.as_space(name, values) for name, values in space.items()
        if problem.steps or name != spaces.RATE
    }  # fmt: skip
    if not checked:
        raise ValueError(
            f"tune: there is nothing to try for {type(base).__name__}: its card has no values of "
            "its settings. Give options or rates."
        )
    key = validation.deciding_key(base, problem.seed)
    score = score_of(validation, key)
    store = open_store(storage)
    try:
        found = Trials(
            store, name, {**(about or {}), **facts(problem, checked, base)}, checked,
            spaces.usual_values(base, checked, problem.rate), score.higher_is_better, problem.seed,
        )  # fmt: skip
        found.run(objective_of(problem, key), trials, minutes, on_trial)
        return Tuned(
            tuple(found.rows()), checked, score.name, score.unit, score.higher_is_better, trials,
            problem.tasks, found.importance(), "" if storage is None else str(storage),
        )  # fmt: skip
    finally:
        store.close()


def check_numbers(problem: TuningProblem, trials: int, minutes: float | None) -> None:
    """ValueError for numbers out of range."""
    check_count("tune", "trials", trials, 1)
    check_count("tune", "steps", problem.steps, 0)
    check_count("tune", "tasks_per_step", problem.tasks_per_step, 1)
    check_count("tune", "tasks", problem.tasks, 2)
    check_count("tune", "seed", problem.seed, 0)
    if minutes is not None and not 0 < minutes < math.inf:
        raise ValueError(f"tune: minutes must be a positive number; found {shown(minutes)}.")
    if not isinstance(problem.validation, Validation):
        raise ValueError(
            f"tune: validation must be a qs.Validation; found {type(problem.validation).__name__}. "
            "Write qs.Validation(source, every=100)."
        )
