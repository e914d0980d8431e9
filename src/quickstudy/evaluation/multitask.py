"""Judging multi-task learning: each task beside a single-task learner, on the same test rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.checks import check_count
from quickstudy.base.shown import shown
from quickstudy.base.words import count, first_few
from quickstudy.core import Learner, TaskSource
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.evaluation.holm import clustered_half_width, holm, paired_p
from quickstudy.evaluation.intervals import half_width
from quickstudy.evaluation.judged_runs import Runs
from quickstudy.evaluation.judgement import Judgement, OfTask, Over
from quickstudy.evaluation.result import Result
from quickstudy.evaluation.results import Evaluation

LEVEL = 0.05
"""Of the paired tests, after Holm's correction."""


def judge_multitask(
    multi: Evaluation | Learner,
    single: Evaluation | Learner,
    tasks: TaskSource | None = None,
    *,
    pooled: Evaluation | Learner | None = None,
    name: str = "multi-task",
    tried: tuple[int, int] | None = None,
    seed: int = 0,
) -> Judgement:
    """What learning tasks together gives each of them, and what it costs.

        gain_t = ±(M_t - S_t) / |S_t|        Δm = mean over tasks of gain_t

    with M_t the score of ``multi`` and S_t that of ``single`` on task t, and the sign such that a
    gain is positive, whether high or low scores are good.

    ``multi``, ``single``  evaluations of both on the same tasks; or learners, to be evaluated on
                           ``tasks``. The single-task learner must be tuned like the other: a
                           neglected one makes anything look like a gain.
    ``tasks``   for learners: a source of named tasks, such as ``train.tested_on(test)``.
    ``pooled``  one network for the rows of all tasks, such as :class:`quickstudy.Pooled`: it shares
                everything, as the single tasks share nothing. Reports print it beside both.
    ``name``    of the multi-task learner, for reports.
    ``tried``   how many settings were tried for ``multi`` and for ``single``. Reports state it,
                and say so where it is not known or not equal.
    ``seed``    of the tasks, for learners.

    Each task is tested by Student's paired t-test on its query rows (of pseudo-values, for scores
    such as ROC-AUC that are no mean over rows), or on its tasks where a name has several. Those
    with p ≤ 0.05 after Holm's correction for all tasks are *hurt* or *gain*. A score that is
    undefined (ROC-AUC of one class) is named and counted, and left out of means.

    The interval of Δm is over query rows: for these tasks, and these trained learners. Rows that
    several tasks share are counted as one. The interval over tasks stands beside it; training again
    with other seeds is a third thing: see :func:`judge_runs`.

    Raises ValueError for evaluations of other tasks, for tasks without names, for scores that
    differ, for learners without ``tasks``, and for what is neither.

    Reference: Maninis, Radosavovic and Kokkinos (2019), Attentive Single-Tasking of Multiple Tasks,
    CVPR, for Δm. Differs from it in the absolute value, for scores that may be negative.

    >>> import torch, quickstudy as qs
    >>> x = torch.linspace(-1, 1, 40)[:, None]
    >>> tasks = qs.tasks.domains({"a": (x, x, qs.regression()), "b": (x, 2 * x, qs.regression())})
    >>> train, test = tasks.split_rows()
    >>> probe = qs.LinearProbe(torch.nn.Identity())
    >>> judged = qs.judge_multitask(probe, probe, train.tested_on(test), name="the same")
    >>> judged.delta_m, judged.hurt
    (0.0, ())
    """
    check_count("judge_multitask", "seed", seed, 0)
    _refuse_other_budgets(tried)
    multi, single = (_evaluated(each, tasks, seed) for each in (multi, single))
    beside = None if pooled is None else judge_multitask(
        pooled, single, tasks, name="pooled", seed=seed
    )  # fmt: skip
    _refuse_other_tasks(multi, single)
    pairs = [(row, single.row(row.name)) for row in multi.rows if row.first]
    compared = [_Compared(*pair) for pair in pairs]
    adjusted = holm([paired_p(each.differences) for each in compared])
    scored = [each for each in compared if not each.undefined]
    relative = [each for each in scored if not math.isnan(each.gain)]
    gains = torch.tensor([each.gain for each in relative], dtype=torch.float64)
    return Judgement(
        name=name,
        table=tuple(each.row(p) for each, p in zip(compared, adjusted, strict=True)),
        delta_m=float(gains.mean()) if len(gains) else math.nan,
        half_width=clustered_half_width(
            [each.gains for each in relative], [each.clusters for each in relative]
        ),
        half_width_over_tasks=half_width(gains),
        means=_means(scored),
        tried=None if tried is None else (tried[0], tried[1]),
        protocol=multi.protocol,
        seed=multi.seed,
        fingerprint=multi.fingerprint,
        level=LEVEL,
        pooled=beside,
    )


def _evaluated(given: Any, tasks: TaskSource | None, seed: int) -> Evaluation:
    if isinstance(given, Evaluation):
        return given
    if not isinstance(given, Learner):
        raise ValueError(
            "judge_multitask: compares evaluations, or learners; found "
            f"{type(given).__name__}. Give what qs.evaluate returned."
        )
    if tasks is None:
        raise ValueError(
            "judge_multitask: learners need tasks to be judged on; found none. Give "
            "train.tested_on(test), or two evaluations."
        )
    return evaluate(given, tasks, seed=seed, baselines=False)


def _refuse_other_budgets(tried: Any) -> None:
    right = tried is None or (
        isinstance(tried, tuple | list) and len(tried) == 2
        and all(type(number) is int and number > 0 for number in tried)
    )  # fmt: skip
    if not right:
        raise ValueError(
            "judge_multitask: tried must be the numbers of settings tried for the multi-task and "
            f"for the single-task learner; found {shown(tried)}. Give (1, 1), or leave it out."
        )


def _refuse_other_tasks(multi: Evaluation, single: Evaluation) -> None:
    if multi.fingerprint != single.fingerprint:
        raise ValueError(
            "judge_multitask: both must be scored on the same tasks; found tasks of the "
            f"fingerprints {multi.fingerprint} and {single.fingerprint}. Evaluate both on one "
            "train.tested_on(test)."
        )
    if any(not row.name for row in multi.rows):
        raise ValueError(
            "judge_multitask: every task needs a name; found tasks without one. Make them by "
            "qs.tasks.domains or qs.tasks.columns."
        )
    labels = [[(row.name, row.score) for row in e.rows if row.first] for e in (multi, single)]
    if sorted(labels[0]) != sorted(labels[1]):
        other = sorted(set(labels[0]) ^ set(labels[1]))
        raise ValueError(
            "judge_multitask: both must have the same first score for each task; found only one "
            f"with {first_few([f'{n}: {s}' for n, s in other])}. Evaluate both again."
        )


def judge_runs(judgements: Sequence[Judgement]) -> Runs:
    """What several trainings with other seeds say together, each judged on the same tasks.

    The interval of Δm is Student's over runs: for these tasks, and other seeds of training.

    Raises ValueError for fewer than 2 runs, and for runs of other tasks or learners.
    """
    given = list(judgements)
    kinds = {type(each).__name__ for each in given} - {"Judgement"}
    if kinds:
        raise ValueError(
            f"judge_runs: needs results of judge_multitask; found {first_few(sorted(kinds))}. Give "
            "a list of them."
        )
    names = {(each.name, each.fingerprint) for each in given}
    if len(given) < 2 or len(names) != 1:
        raise ValueError(
            "judge_runs: needs at least 2 judgements of one learner on the same tasks; found "
            f"{len(given)} of {count(len(names), 'learner or set of tasks', 'kinds')}. Train "
            "again with another seed."
        )
    judgements = given
    deltas = torch.tensor([each.delta_m for each in judgements], dtype=torch.float64)
    gains = torch.tensor([[row.gain for row in j.table] for j in judgements], dtype=torch.float64)
    return Runs(
        judgements[0].name,
        tuple(row.name for row in judgements[0].table),
        float(deltas.mean()),
        half_width(deltas),
        tuple(gains.mean(0).tolist()),
        tuple(half_width(of_task) for of_task in gains.T),
        tuple(judgements),
    )


class _Compared:
    """One task: both scores, and pseudo-values of their difference and of the relative gain."""

    def __init__(self, multi: Result, single: Result) -> None:
        self.multi, self.single = multi, single
        self.sign = 1.0 if multi.higher_is_better else -1.0
        self.m, self.s = (_pseudo_values(row) for row in (multi, single))
        if len(self.m) != len(self.s):
            self.m = self.s = torch.full((0,), torch.nan)
        self.undefined = _why_undefined(multi) if math.isnan(multi.mean) else (
            _why_undefined(single) if math.isnan(single.mean) else ""
        )  # fmt: skip
        self.differences = self.sign * (self.m - self.s)
        self.gain = float(_relative(self.sign, multi.mean, single.mean))
        self.gains = self._gains()

    def _gains(self) -> Tensor:
        """(n,) n g - (n - 1) g_without_i, from both scores without each row."""
        n = len(self.m)
        without = [(n * row.mean - v) / max(n - 1, 1)
                   for row, v in ((self.multi, self.m), (self.single, self.s))]  # fmt: skip
        return n * self.gain - (n - 1) * _relative(self.sign, *without)

    @property
    def clusters(self) -> Tensor | None:
        """The rows' numbers, by which other tasks share them; None for several tasks."""
        return None if self.multi.rows is None else self.multi.rows.inputs

    def row(self, p: float) -> OfTask:
        multi, single = self.multi, self.single
        over = Over.TASKS if multi.rows is None else Over.ROWS
        counted = 0 if self.undefined else int((~self.m.isnan()).sum())
        return OfTask(
            multi.name, multi.score, multi.unit, multi.higher_is_better,
            multi.mean, multi.half_width, single.mean, single.half_width,
            self.sign * (multi.mean - single.mean), half_width(self.differences)
            if not bool(self.differences.isnan().any()) else math.inf,
            self.gain, math.inf if bool(self.gains.isnan().any()) else half_width(self.gains),
            p, counted, over, self.undefined, LEVEL,
        )  # fmt: skip


def _relative(sign: float, multi: Any, single: Any) -> Tensor:
    """±(M - S) / |S|; NaN where S is 0."""
    m, s = (torch.as_tensor(each, dtype=torch.float64) for each in (multi, single))
    return sign * ((m - s) / s.abs()).where(s != 0, torch.nan)


def _pseudo_values(row: Result) -> Tensor:
    return row.values if row.rows is None else row.rows.values


def _why_undefined(row: Result) -> str:
    """Why a result has no score, from what was stored of it."""
    targets = [each["targets"] for each in row.statistics if "targets" in each]
    if targets:
        whole = torch.cat([each.flatten() for each in targets])
        known = whole[whole >= 0].unique()
        if len(known) == 1:
            answer = "yes" if float(known) else "no"
            return f"{row.score} is undefined: all known labels are {answer}"
    return f"{row.score} is undefined on its query rows"


def _means(scored: Sequence[_Compared]) -> tuple[OfTask, ...]:
    """For each kind of score, the mean over its tasks and the mean difference with its interval."""
    kinds: dict[tuple[str, str], list[_Compared]] = {}
    for each in scored:
        kinds.setdefault((each.multi.score, each.multi.unit), []).append(each)
    found = []
    for (score, unit), of in kinds.items():
        clusters = [each.clusters for each in of]
        widths = [
            clustered_half_width(parts, clusters)
            for parts in ([e.m for e in of], [e.s for e in of], [e.differences for e in of])
        ]
        multi, single, difference = (
            sum(values) / len(of)
            for values in (
                [e.multi.mean for e in of], [e.single.mean for e in of],
                [e.sign * (e.multi.mean - e.single.mean) for e in of],
            )
        )  # fmt: skip
        first = of[0].multi
        found.append(OfTask(
            f"mean of {count(len(of), 'task')}", score, unit, first.higher_is_better,
            multi, widths[0], single, widths[1], difference, widths[2],
            math.nan, math.inf, math.nan, len(of), Over.TASKS, "", LEVEL,
        ))  # fmt: skip
    return tuple(found)
