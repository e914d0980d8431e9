"""The result of one score: its mean and intervals, its baselines, and every task's statistic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.trees import map_tree
from quickstudy.base.words import count
from quickstudy.core import Score, Statistic
from quickstudy.evaluation import wording
from quickstudy.evaluation.compared import Compared, compare
from quickstudy.evaluation.intervals import half_width
from quickstudy.evaluation.jackknife import pseudo_values
from quickstudy.evaluation.over_classes import OverClasses, over_classes
from quickstudy.evaluation.over_rows import OverRows
from quickstudy.evaluation.strict_json import number, plain
from quickstudy.evaluation.task_classes import TaskClasses


@dataclass(frozen=True)
class Result:
    """One score for the tasks of one name.

    ``name``              the tasks' name, ``spec.name``.
    ``score``             the score's name, for example "accuracy".
    ``unit``              "%" for a share in [0, 1], else "".
    ``higher_is_better``  whether higher scores are better.
    ``pooled``            whether the score is computed for all tasks together.
    ``first``             whether it is the first of its answer's scores.
    ``statistics``        the score's statistic of each task.
    ``values``            (tasks,) each task's score, NaN where it has none; for a pooled score,
                          jackknife pseudo-values.
    ``mean``              over the tasks that have a score; for a pooled score, the pooled score.
    ``half_width``        half the 95% interval of ``mean`` (Student's t); infinite for fewer than 2
                          tasks that have a score. It covers other tasks from the same rows
                          of the same classes; for a single task, other query rows of this task.
    ``baselines``         what scores without learning over tasks, on the same tasks.
    ``classes``           the number of classes of the tasks, and the interval for other classes;
                          None for pooled scores and for sources that do not name their classes.
    ``rows``              of a single task: its score row by row; None for several tasks.
    ``task_classes``      which classes each task has; None for sources that do not name them, and
                          in files that were written before this was kept.
    """

    name: str
    score: str
    unit: str
    higher_is_better: bool
    pooled: bool
    first: bool
    statistics: tuple[Statistic, ...]
    values: Tensor
    mean: float
    half_width: float
    baselines: tuple[Compared, ...] = ()
    classes: OverClasses | None = None
    rows: OverRows | None = None
    task_classes: TaskClasses | None = None

    @property
    def tasks(self) -> int:
        """The number of tasks, with or without a score."""
        return len(self.values)

    @property
    def scored(self) -> int:
        """The number of tasks that have a score."""
        return int((~self.values.isnan()).sum())

    @property
    def figure(self) -> str:
        """The mean and its interval, for example "97.1% ± 0.2"."""
        mean, width = (
            write(value, self.unit)
            for write, value in ((wording.score, self.mean), (wording.half_width, self.half_width))
        )
        return f"{mean} ± {width}"

    @property
    def label(self) -> str:
        """The tasks' name, where they have one, and the score's."""
        return f"{self.name}: {self.score}" if self.name else self.score

    @property
    def counted(self) -> str:
        """What the interval is over: "600 tasks", "588 of 600 tasks" where some have no score,
        or "420 rows of 1 task"."""
        if self.rows is not None:
            return f"{count(len(self.rows.values), 'row')} of 1 task"
        of = "" if self.scored == self.tasks else f"{self.scored:,} of "
        return of + count(self.tasks, "task")

    @property
    def spread(self) -> tuple[float, float] | None:
        """The range in which the middle 90% of single tasks score; None where they have no score.

        One adaptation is one draw from these, whatever the interval of the mean.
        """
        scores = self.values[self.values.isfinite()]
        if self.pooled or not len(scores):
            return None
        low, high = torch.quantile(scores, torch.tensor([0.05, 0.95], dtype=scores.dtype)).tolist()
        return low, high

    @property
    def better(self) -> bool | None:
        """Whether it is better than every baseline; None without baselines."""
        return all(b.verdict == "better" for b in self.baselines) if self.baselines else None

    @property
    def remarks(self) -> list[str]:
        """What must be known to read the figure: the baselines, other classes, single tasks."""
        found = [baseline.sentence for baseline in self.baselines]
        if self.classes is not None:
            figure = f"{wording.half_width(self.classes.half_width, self.unit)}"
            found.append(self.classes.remark(f"{wording.score(self.mean, self.unit)} ± {figure}"))
        if self.classes is not None and self.spread is not None:
            low, high = (wording.score(value, self.unit) for value in self.spread)
            found.append(f"single tasks score {low} to {high} (the middle 90% of them)")
        return found


def result_of(
    name: str,
    score: Score,
    statistics: Sequence[Statistic],
    first: bool = True,
    baselines: Mapping[str, Sequence[Sequence[Statistic]]] = MappingProxyType({}),
    names: Sequence[frozenset[str]] | None = None,
    rows: OverRows | None = None,
) -> Result:
    """The result of ``score`` for tasks called ``name``, from their statistics.

    ``first``      whether it is the first of its answer's scores.
    ``baselines``  the statistics of each baseline for the same tasks, for one or more strategies,
                   the best of which counts.
    ``names``      the classes of each task, where they are known.
    ``rows``       of a single task: its score row by row.

    Raises ValueError without tasks.
    """
    if not statistics:
        raise ValueError(
            f"result_of: {score.name} needs the statistic of at least 1 task; found none."
        )
    stored = tuple(map_tree(lambda leaf: leaf.detach().cpu(), each) for each in statistics)
    values, mean = _values(score, stored)
    width = half_width(values[~values.isnan()]) if rows is None else rows.half_width
    return Result(
        name,
        score.name,
        score.unit,
        score.higher_is_better,
        score.pooled,
        first,
        stored,
        values,
        mean,
        width,
        tuple(
            _compared(baseline, score, found, (values, mean, width), rows)
            for baseline, found in baselines.items()
        ),
        None if names is None or score.pooled else over_classes(values, names),
        rows,
        None if names is None else TaskClasses.of(names),
    )


def _compared(
    baseline: str,
    score: Score,
    strategies: Sequence[Sequence[Statistic]],
    learner: tuple[Tensor, float, float],
    rows: OverRows | None,
) -> Compared:
    """The strategy of a baseline with the best mean beside the learner."""
    found = [_values(score, statistics) for statistics in strategies]
    sign = 1.0 if score.higher_is_better else -1.0
    means = [-math.inf if math.isnan(mean) else sign * mean for _, mean in found]
    best = means.index(max(means))
    of_rows = None if rows is None or baseline not in rows.baselines else (
        rows.values, rows.baselines[baseline][best]
    )  # fmt: skip
    return compare(baseline, score, found[best], learner, of_rows)


def _values(score: Score, statistics: Sequence[Statistic]) -> tuple[Tensor, float]:
    """(tasks,) scores, or pseudo-values of a pooled score, and the mean or pooled score."""
    # In float64, since sums of counts over many tasks exceed the precision of float32.
    exact = [map_tree(_in_double, each) for each in statistics]
    if score.pooled:
        pooled = score.value(score.merge(exact)).double()
        return pseudo_values(score, exact, pooled), float(pooled)
    values = torch.stack([score.value(each).double() for each in exact])
    return values, float(values.nanmean())


def _in_double(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf


_PLAIN_FIELDS = ("name", "score", "unit", "higher_is_better", "pooled", "first")
_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
}


def row_to_json(row: Result) -> dict[str, Any]:
    """A result as strict JSON; statistics by entry, each with its dtype and a list over tasks."""
    statistics = {
        name: {
            "type": str(leaf.dtype).removeprefix("torch."),
            "tasks": [plain(each[name].tolist()) for each in row.statistics],
        }
        for name, leaf in row.statistics[0].items()
    }
    classes = row.classes
    return {
        **{name: getattr(row, name) for name in _PLAIN_FIELDS},
        "mean": plain(row.mean),
        "half_width": plain(row.half_width),
        "spread": None if row.spread is None else plain(list(row.spread)),
        "classes": None
        if classes is None
        else {
            "count": classes.count,
            "half_width": plain(classes.half_width),
        },
        "baselines": [baseline.to_json() for baseline in row.baselines],
        "remarks": row.remarks,
        "values": plain(row.values.tolist()),
        "rows": None if row.rows is None else row.rows.to_json(),
        "task_classes": None if row.task_classes is None else row.task_classes.to_json(),
        "statistics": statistics,
    }


def row_from_json(values: Mapping[str, Any]) -> Result:
    """The result of which :func:`row_to_json` gave ``values``."""
    classes, task_classes = values.get("classes"), values.get("task_classes")
    entries = {
        name: [torch.tensor(number(each), dtype=_TYPES[entry["type"]]) for each in entry["tasks"]]
        for name, entry in values["statistics"].items()
    }
    scores = torch.tensor(number(values["values"]), dtype=torch.float64)
    mean = number(values["mean"])
    if not values["pooled"]:
        _refuse_edited(mean, scores)
    return Result(
        **{name: values[name] for name in _PLAIN_FIELDS},
        statistics=tuple(
            dict(zip(entries, task, strict=True)) for task in zip(*entries.values(), strict=True)
        ),
        values=scores,
        mean=mean,
        half_width=number(values["half_width"]),
        baselines=tuple(
            Compared.from_json(each, values["unit"]) for each in values.get("baselines", ())
        ),
        classes=None
        if classes is None
        else OverClasses(classes["count"], number(classes["half_width"])),
        rows=None if values.get("rows") is None else OverRows.from_json(values["rows"]),
        task_classes=None
        if task_classes is None
        else TaskClasses.from_json(task_classes, len(values["values"])),
    )


def _refuse_edited(mean: float, scores: Tensor) -> None:
    """ValueError where ``mean`` is not that of ``scores``, but for rounding."""
    found, largest = float(scores.nanmean()), float(scores.nan_to_num().abs().max())
    both_nan = math.isnan(mean) and math.isnan(found)
    if not both_nan and not math.isclose(mean, found, rel_tol=0.0, abs_tol=1e-6 * largest):
        raise ValueError(
            f"evaluation: the mean must be that of the tasks' scores, {found:.6g}; found "
            f"{mean:.6g}. The file was changed or damaged: evaluate again."
        )
