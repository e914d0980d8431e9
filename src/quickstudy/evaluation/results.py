"""What an evaluation found: a row for each kind of task and score, with what every task gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.trees import map_tree
from quickstudy.core import Score, Statistic
from quickstudy.evaluation import wording
from quickstudy.evaluation.intervals import half_width
from quickstudy.evaluation.jackknife import pseudo_values
from quickstudy.evaluation.strict_json import number, plain


@dataclass(frozen=True)
class Result:
    """One score of the tasks of one name.

    ``name``              the tasks' name, ``spec.name``.
    ``score``             the score's name, such as "accuracy".
    ``unit``              "%" for a share of one, else "".
    ``higher_is_better``  whether it is.
    ``pooled``            whether all tasks have one score together, instead of one each.
    ``first``             whether it is the first of its answer's scores.
    ``statistics``        what the score keeps of each task.
    ``values``            (tasks,) each task's score, NaN where it has none; of a pooled score its
                          jackknife pseudo-values.
    ``mean``              over the tasks that have a score; of a pooled score the pooled one.
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
        """How many tasks there were, with a score or without."""
        return len(self.values)

    @property
    def scored(self) -> int:
        """How many tasks have a score."""
        return int((~self.values.isnan()).sum())

    @property
    def figure(self) -> str:
        """The mean and its interval, such as "97.1% ± 0.2"."""
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
        """The number of tasks, such as "600 tasks", or "588 of 600 tasks" where some have no
        score."""
        of = "" if self.scored == self.tasks else f"{self.scored} of "
        return f"{of}{self.tasks} tasks"


def result_of(
    name: str, score: Score, statistics: Sequence[Statistic], first: bool = True
) -> Result:
    """The row of ``score`` for tasks called ``name``, each with its statistic.

    ``first``  whether it is the first of its answer's scores.

    Raises ValueError without tasks.
    """
    if not statistics:
        raise ValueError(
            f"result_of: {score.name} needs the statistic of at least 1 task; found none."
        )
    kept = tuple(map_tree(lambda leaf: leaf.detach().cpu(), each) for each in statistics)
    # Counts of many tasks are more than single precision can add up.
    exact = [map_tree(_in_double, each) for each in kept]
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
        kept,
        values,
        mean,
        half_width(values[~values.isnan()]),
    )


def _in_double(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf


@dataclass(frozen=True)
class Evaluation:
    """Scores of one learner on one set of tasks, with all that is needed to compare them.

    ``rows``                    a result for each name of tasks and each score.
    ``calibration_error``       ECE with 15 bins over all queries that ask for one class; None
                                without such.
    ``seconds_per_adaptation``  median time of one ``adapt``, measured one task at a time.
    ``transductive``            whether queries of a task see one another.
    ``norm``                    the normalisation policy of the backbone.
    ``seed``, ``fingerprint``   the tasks' stream, and a hash of their tensors.
    ``tasks``                   how many there were, of all names together.

    Tasks of one kind have one figure: ``main``, with ``metric``, ``scores``, ``mean`` and
    ``half_width``. Tasks of several kinds have none, since averages over kinds mean nothing: these
    then raise ValueError, and results are read by ``rows`` or :meth:`row`.
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
        """Whether all tasks were of one kind, so that there is one figure for them."""
        return sum(row.first for row in self.rows) == 1

    @property
    def main(self) -> Result:
        """The first score, where all tasks are of one kind; ValueError where they are not."""
        if not self.of_one_kind:
            raise ValueError(
                f"evaluation: tasks of several kinds have no one figure; found {self._labels()}. "
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
        asked = f"tasks called {name!r}" + ("" if score is None else f" and score {score!r}")
        raise ValueError(
            f"evaluation: no row for {asked}; found {self._labels()}. Give one of these, as name "
            "and score."
        )

    def _labels(self) -> str:
        return ", ".join(row.label for row in self.rows)

    def __str__(self) -> str:
        if self.of_one_kind:
            named = "" if self.main.unit == "%" else f"{self.main.score} "
            return f"{named}{self._said(self.main)}"
        return "\n".join(f"{row.label} {self._said(row)}" for row in self.rows)

    def _said(self, row: Result) -> str:
        return f"{row.figure} (95% CI, {row.counted}, {self.protocol})"

    def to_json(self) -> dict[str, Any]:
        """Everything, the statistic of every task included, as strict JSON.

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
        """What :meth:`to_json` gave."""
        error = values["calibration_error"]
        return Evaluation(
            rows=tuple(_row_from_json(row) for row in values["rows"]),
            calibration_error=None if error is None else float(error),
            seconds_per_adaptation=number(values["seconds_per_adaptation"]),
            transductive=values["protocol"] == "transductive",
            **{name: values[name] for name in ("norm", "seed", "fingerprint", "tasks")},
        )


_PLAIN = ("name", "score", "unit", "higher_is_better", "pooled", "first")
_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
                  torch.int32, torch.bool)
}  # fmt: skip


def _row_to_json(row: Result) -> dict[str, Any]:
    """Statistics are written by entry, each a list over tasks, beside the type of its numbers."""
    kept = {
        name: {
            "type": str(leaf.dtype).removeprefix("torch."),
            "tasks": [plain(each[name].tolist()) for each in row.statistics],
        }
        for name, leaf in row.statistics[0].items()
    }
    return {
        **{name: getattr(row, name) for name in _PLAIN},
        "mean": plain(row.mean),
        "half_width": plain(row.half_width),
        "values": plain(row.values.tolist()),
        "statistics": kept,
    }


def _row_from_json(values: Mapping[str, Any]) -> Result:
    entries = {
        name: [torch.tensor(number(each), dtype=_TYPES[entry["type"]]) for each in entry["tasks"]]
        for name, entry in values["statistics"].items()
    }
    return Result(
        **{name: values[name] for name in _PLAIN},
        statistics=tuple(
            dict(zip(entries, task, strict=True)) for task in zip(*entries.values(), strict=True)
        ),
        values=torch.tensor(number(values["values"]), dtype=torch.float64),
        mean=number(values["mean"]),
        half_width=number(values["half_width"]),
    )
