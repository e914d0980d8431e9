"""Evaluations: the results of one learner on one set of tasks, with all that they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from quickstudy.base.shown import shown
from quickstudy.evaluation.result import Result, row_from_json, row_to_json
from quickstudy.evaluation.strict_json import number, plain


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
    ``left_out``                why a baseline was not computed, by its name.
    ``seen``                    what pretrained weights of the learner were trained on, by their
                                name; classes of the tasks may be among it.

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
    left_out: Mapping[str, str] = field(default_factory=dict)
    seen: Mapping[str, str] = field(default_factory=dict)

    @property
    def protocol(self) -> str:
        """ "inductive" or "transductive"."""
        return "transductive" if self.transductive else "inductive"

    @property
    def setting(self) -> str:
        """The protocol, and whether weights are pretrained: "inductive, pretrained"."""
        return f"{self.protocol}, pretrained" if self.seen else self.protocol

    @property
    def weights(self) -> list[str]:
        """A sentence for each of the pretrained networks: what it has seen; none without them."""
        return [f"the weights of {name} have seen {what}" for name, what in self.seen.items()]

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
        notes = [f"  no {name}: {why}" for name, why in self.left_out.items()]
        notes += [f"  {sentence}" for sentence in self.weights]
        if self.of_one_kind:
            return "\n".join([f"{self.main.score} {self._describe(self.main)}", *notes])
        rows = (f"{row.label} {self._describe(row)}" for row in self.rows)
        return "\n".join([*rows, *notes])

    def _describe(self, row: Result) -> str:
        """The figure, and below it what must be known to read it."""
        figure = f"{row.figure} (95% CI, {row.counted}, {self.setting})"
        return "\n  ".join([figure, *row.remarks])

    def to_json(self) -> dict[str, Any]:
        """The evaluation as strict JSON, with the statistic of every task.

        Floats are rounded to 8 significant digits; null stands for NaN, "inf" for infinity.
        """
        return {
            "rows": [row_to_json(row) for row in self.rows],
            "tasks": self.tasks,
            "protocol": self.protocol,
            "norm": self.norm,
            "calibration_error": plain(self.calibration_error),
            "seconds_per_adaptation": plain(self.seconds_per_adaptation),
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "left_out": dict(self.left_out),
            "seen": dict(self.seen),
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Evaluation:
        """The evaluation of which :meth:`to_json` gave ``values``."""
        error = values["calibration_error"]
        return Evaluation(
            rows=tuple(row_from_json(row) for row in values["rows"]),
            calibration_error=None if error is None else float(error),
            seconds_per_adaptation=number(values["seconds_per_adaptation"]),
            transductive=values["protocol"] == "transductive",
            left_out=values.get("left_out", {}),
            seen=values.get("seen", {}),
            **{name: values[name] for name in ("norm", "seed", "fingerprint", "tasks")},
        )
