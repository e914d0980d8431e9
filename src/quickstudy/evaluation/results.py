"""Results of an evaluation: one row per kind of task and score, with every task's statistic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.shown import shown
from quickstudy.base.trees import map_tree
from quickstudy.core import Score, Statistic
from quickstudy.evaluation import wording
from quickstudy.evaluation.intervals import half_width
from quickstudy.evaluation.jackknife import pseudo_values
from quickstudy.evaluation.strict_json import number, plain


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
                          tasks that have a score.
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
        """The number of tasks: "600 tasks", or "588 of 600 tasks" where some have no score."""
        of = "" if self.scored == self.tasks else f"{self.scored} of "
        return f"{of}{self.tasks} tasks"


def result_of(
    name: str, score: Score, statistics: Sequence[Statistic], first: bool = True
) -> Result:
    """The result of ``score`` for tasks called ``name``, from their statistics.

    ``first``  whether it is the first of its answer's scores.

    Raises ValueError without tasks.
    """
    if not statistics:
        raise ValueError(
            f"result_of: {score.name} needs the statistic of at least 1 task; found none."
        )
    stored = tuple(map_tree(lambda leaf: leaf.detach().cpu(), each) for each in statistics)
    # In float64, since sums of counts over many tasks exceed the precision of float32.
    exact = [map_tree(_in_double, each) for each in stored]
    if score.pooled:
        pooled = score.value(score.merge(exact)).double()
        values, mean = pseudo_values(score, exact, pooled), float(pooled)
    else:
        values = torch.stack([score.value(each).double() for each in exact])
        mean = float(values.nanmean())
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
        half_width(values[~values.isnan()]),
    )


def _in_double(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf


@dataclass(frozen=True)
class Evaluation:
    """Scores of one learner on one set of tasks, with what is needed to compare evaluations.

    ``rows``                    a result per task name and score.
    ``calibration_error``       ECE with 15 bins over the queries of classification tasks; None
                                without such tasks.
    ``seconds_per_adaptation``  median time of one ``adapt``, measured one task at a time.
    ``transductive``            whether predictions depend on the other queries of a task.
    ``norm``                    the norms of the backbone.
    ``seed``, ``fingerprint``   the seed of the tasks, and a hash of their tensors.
    ``tasks``                   the number of tasks of all names.

    If all tasks are of one kind, ``main``, ``metric``, ``scores``, ``mean`` and ``half_width`` give
    their first score. For several kinds these raise ValueError, since an average over kinds means
    nothing: use ``rows`` or :meth:`row`.
    """

    rows: tuple[Result, ...]
    calibration_error: float | None
    seconds_per_adaptation: float
    transductive: bool
    norm: str
    seed: int
    fingerprint: str
    tasks: int

    @property
    def protocol(self) -> str:
        """ "inductive" or "transductive"."""
        return "transductive" if self.transductive else "inductive"

    @property
    def of_one_kind(self) -> bool:
        """Whether all tasks were of one kind, so that one result stands for them."""
        return sum(row.first for row in self.rows) == 1

    @property
    def main(self) -> Result:
        """The result of the first score; ValueError for tasks of several kinds."""
        if not self.of_one_kind:
            raise ValueError(
                f"evaluation: tasks of several kinds have no single score; found {self._labels()}. "
                "Take evaluation.rows or evaluation.row(name, score)."
            )
        return next(row for row in self.rows if row.first)

    @property
    def metric(self) -> str:
        """The name of the first score."""
        return self.main.score

    @property
    def scores(self) -> Tensor:
        """(tasks,): the values of the first score."""
        return self.main.values

    @property
    def mean(self) -> float:
        """The mean of the first score."""
        return self.main.mean

    @property
    def half_width(self) -> float:
        """Half the 95% interval of the mean of the first score."""
        return self.main.half_width

    def row(self, name: str = "", score: str | None = None) -> Result:
        """The result of the tasks called ``name``; the first score by default.

        Raises ValueError where there is no such row.
        """
        for row in self.rows:
            if row.name == name and (row.first if score is None else row.score == score):
                return row
        wanted = f"tasks called {shown(name)}"
        if score is not None:
            wanted += f" and score {shown(score)}"
        raise ValueError(
            f"evaluation: no row for {wanted}; found {self._labels()}. Give one of these, as name "
            "and score."
        )

    def _labels(self) -> str:
        return ", ".join(row.label for row in self.rows)

    def __str__(self) -> str:
        if self.of_one_kind:
            named = "" if self.main.unit == "%" else f"{self.main.score} "
            return f"{named}{self._describe(self.main)}"
        return "\n".join(f"{row.label} {self._describe(row)}" for row in self.rows)

    def _describe(self, row: Result) -> str:
        return f"{row.figure} (95% CI, {row.counted}, {self.protocol})"

    def to_json(self) -> dict[str, Any]:
        """The evaluation as strict JSON, with the statistic of every task.

        Floats are rounded to 8 significant digits; null stands for NaN, "inf" for infinity.
        """
        return {
            "rows": [_row_to_json(row) for row in self.rows],
            "tasks": self.tasks,
            "protocol": self.protocol,
            "norm": self.norm,
            "calibration_error": plain(self.calibration_error),
            "seconds_per_adaptation": plain(self.seconds_per_adaptation),
            "seed": self.seed,
            "fingerprint": self.fingerprint,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Evaluation:
        """The evaluation of which :meth:`to_json` gave ``values``."""
        error = values["calibration_error"]
        return Evaluation(
            rows=tuple(_row_from_json(row) for row in values["rows"]),
            calibration_error=None if error is None else float(error),
            seconds_per_adaptation=number(values["seconds_per_adaptation"]),
            transductive=values["protocol"] == "transductive",
            **{name: values[name] for name in ("norm", "seed", "fingerprint", "tasks")},
        )


_PLAIN_FIELDS = ("name", "score", "unit", "higher_is_better", "pooled", "first")
_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
}


def _row_to_json(row: Result) -> dict[str, Any]:
    """A result as JSON; statistics by entry, each with its dtype and a list over tasks."""
    statistics = {
        name: {
            "type": str(leaf.dtype).removeprefix("torch."),
            "tasks": [plain(each[name].tolist()) for each in row.statistics],
        }
        for name, leaf in row.statistics[0].items()
    }
    return {
        **{name: getattr(row, name) for name in _PLAIN_FIELDS},
        "mean": plain(row.mean),
        "half_width": plain(row.half_width),
        "values": plain(row.values.tolist()),
        "statistics": statistics,
    }


def _row_from_json(values: Mapping[str, Any]) -> Result:
    entries = {
        name: [torch.tensor(number(each), dtype=_TYPES[entry["type"]]) for each in entry["tasks"]]
        for name, entry in values["statistics"].items()
    }
    return Result(
        **{name: values[name] for name in _PLAIN_FIELDS},
        statistics=tuple(
            dict(zip(entries, task, strict=True)) for task in zip(*entries.values(), strict=True)
        ),
        values=torch.tensor(number(values["values"]), dtype=torch.float64),
        mean=number(values["mean"]),
        half_width=number(values["half_width"]),
    )
