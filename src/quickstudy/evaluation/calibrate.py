"""What a predictor's scores are worth: how they lie on rows whose class is known, measured once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.checks import check_count
from quickstudy.answers.classes import Classes
from quickstudy.base.atomic import write_atomically
from quickstudy.base.json_text import damage_names, read_json
from quickstudy.base.replica import in_evaluation_mode
from quickstudy.base.shown import shown
from quickstudy.core import Answer, Examples, Learner, Predictor, TaskSource, TaskSpec
from quickstudy.evaluation.calibration import temperature_of
from quickstudy.evaluation.conformal import check_coverage, conformal_quantile
from quickstudy.evaluation.evaluate import check_call
from quickstudy.evaluation.strangers import is_normalised
from quickstudy.evaluation.strict_json import number, plain
from quickstudy.evaluation.support_check import LeftOut, left_out_predictions
from quickstudy.objectives import predict_rows
from quickstudy.tasks.examples import counted_weights, require_given, take
from quickstudy.tasks.fixed import number_of_tasks
from quickstudy.tasks.numbering import Stream, draw

TASKS = 200
"""Number of tasks by default."""

MOST = 2**28  # bytes of a calibration's file

KEY = "calibration"
"""Where a predictor's ``info`` has its calibration."""


@dataclass(frozen=True)
class Calibration:
    """Scores of rows of known class, by task, from which bounds for new rows follow.

    ``learner``      the name of the learner's class.
    ``ways``         the numbers of classes of the tasks; predictors of others are refused.
    ``true_class``   of each task, -log of the probability of each row's class (n_k,).
    ``strangeness``  of each task, the rows' stranger scores (n_k,), see
                     :func:`quickstudy.stranger_score`; None for a learner whose logits have none.
    ``weights``      of each task, the rows' weights (n_k,).
    ``temperature``  by which logits are divided so that probabilities match frequencies; 1 where
                     that was not shown to help.
    ``origin``       what the tasks were, in words.

    With rows that were left out of one support set, each row is a task of its own.
    """

    learner: str
    ways: tuple[int, ...]
    true_class: tuple[Tensor, ...]
    strangeness: tuple[Tensor, ...] | None
    weights: tuple[Tensor, ...]
    temperature: float
    origin: str

    def bound(self, coverage: float) -> float:
        """The most that -log p may be for a class in a set of this coverage.

        Raises ValueError for a coverage outside (0, 1), or of more than there are tasks for.
        """
        return conformal_quantile(self.true_class, coverage, self.weights)

    def stranger_bound(self, false_alarms: float) -> float:
        """The stranger score above which the share ``false_alarms`` of rows of known classes lies.

        Raises ValueError as :meth:`bound` for 1 - ``false_alarms``, and without stranger scores.
        """
        if self.strangeness is None:
            raise ValueError(
                f"strangers: the logits of {self.learner} say nothing about them. Leave "
                "false_alarms out, or use a learner that compares, such as Prototypical."
            )
        check_coverage(false_alarms, "false_alarms", "0.05 for one of twenty")
        return conformal_quantile(self.strangeness, 1 - false_alarms, self.weights)

    def probabilities(self, predictor: Predictor, inputs: Any) -> Tensor:
        """softmax(logits / temperature), (n, ways).

        Raises ValueError for a predictor that this calibration is not for.
        """
        self.check(predictor)
        with torch.no_grad():
            logits: Tensor = predictor(inputs)
        return (logits / self.temperature).softmax(-1)

    def check(self, predictor: Predictor) -> None:
        """ValueError for a predictor of another learner, or of another number of classes."""
        answer, found = predictor.spec.answer, type(predictor.learner).__name__
        check_classes(answer)
        if found != self.learner:
            raise ValueError(
                f"calibration: was made for {self.learner}, but the predictor is of {found}. "
                "Calibrate its learner: qs.calibrate(learner, source)."
            )
        if answer.outputs not in self.ways:
            told = ", ".join(map(str, self.ways))
            raise ValueError(
                f"calibration: was made on tasks of {told} classes, and says nothing about the "
                f"{answer.outputs} of this predictor. Calibrate on tasks of {answer.outputs} ways."
            )

    def on(self, predictor: Predictor) -> Predictor:
        """``predictor`` that holds this calibration in its ``info``, and is saved with it."""
        self.check(predictor)
        return replace(predictor, info={**predictor.info, KEY: self.to_json()})

    def save(self, path: str | Path) -> Path:
        """Write it as JSON."""
        write_atomically(Path(path), (json.dumps(self.to_json()) + "\n").encode())
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> Calibration:
        """Read what :meth:`save` wrote; ValueError for another file, OSError for none."""
        with damage_names(Path(path)):
            return Calibration.from_json(read_json(Path(path), MOST))

    def to_json(self) -> dict[str, Any]:
        """As strict JSON."""
        strange = self.strangeness
        return {
            "learner": self.learner, "ways": list(self.ways), "origin": self.origin,
            "temperature": self.temperature, "true_class": _lists(self.true_class),
            "strangeness": None if strange is None else _lists(strange),
            "weights": None if _all_ones(self.weights) else _lists(self.weights),
        }  # fmt: skip

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Calibration:
        """What :meth:`to_json` gave; ValueError for anything else."""
        try:
            true_class = _tensors(values["true_class"])
            strange, weights = values["strangeness"], values["weights"]
            found = Calibration(
                str(values["learner"]), tuple(int(each) for each in values["ways"]), true_class,
                None if strange is None else _tensors(strange),
                tuple(map(torch.ones_like, true_class)) if weights is None else _tensors(weights),
                float(values["temperature"]), str(values["origin"]),
            )  # fmt: skip
            found._check_parts()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"calibration: this is no calibration, or a damaged one ({error}). Make it again "
                "with qs.calibrate."
            ) from error
        return found

    def _check_parts(self) -> None:
        """ValueError for parts that do not fit one another."""
        sizes = [len(each) for each in self.true_class]
        strange = self.true_class if self.strangeness is None else self.strangeness
        parts = [self.true_class, self.weights, strange]
        if not sizes or any([len(each) for each in part] != sizes for part in parts):
            raise ValueError("its parts have different numbers of rows")
        if any(bool(each.isnan().any()) or not len(each) for part in parts for each in part):
            raise ValueError("a score is not a number")
        if any(bool((each < 0).any()) for each in self.weights) or not all(
            0 < float(each.sum()) < torch.inf for each in self.weights
        ):
            raise ValueError("weights must not be negative, nor all 0 in a task")
        if not 0 < self.temperature < 1e6 or min(self.ways, default=0) < 1:
            raise ValueError("temperature and ways must be positive")


def calibrate(
    learner: Learner,
    source: TaskSource,
    tasks: int | None = None,
    *,
    seed: int = 0,
    stream: Stream = Stream.VALIDATION,
    on_task: Callable[[int], None] | None = None,
) -> Calibration:
    """Adapt ``learner`` to tasks and keep how its predictions for the queries' classes lie.

    The queries of new tasks are like those of these tasks if the tasks are: of the same ways, shots
    and kind of rows, from classes that training has not seen, so of validation classes. Then a
    statement about a new query holds on average over tasks, not for each task: of an easy task more
    rows are covered, of a hard one fewer. From classes of another kind nothing follows.

    ``tasks``   200 by default; for :func:`quickstudy.tasks.fixed`, all of them.
    ``seed``    of the tasks. ``stream`` are validation tasks, never one of training or testing.
    ``on_task`` called with the number of tasks done so far.

    The learner is used in evaluation mode, its own mode does not change.

    Raises ValueError for tasks that do not ask for classes, and where ``evaluate`` would.
    """
    check_call("calibrate", learner, seed)
    tasks = number_of_tasks("calibrate", source, tasks, TASKS)
    check_count("calibrate", "tasks", tasks, 1)
    own, found = in_evaluation_mode(learner), _Rows()
    for number_of in range(tasks):
        task = draw(source, seed, number_of, stream)
        check_classes(task.spec.answer)
        query = require_given(task.query)
        with torch.no_grad():
            logits = predict_rows(own(require_given(task.support), task.spec), query)
        found.add(logits, query, task.spec.answer)
        if on_task is not None:
            on_task(number_of + 1)
    return found.calibration(learner, f"{tasks} tasks")


def calibrate_on_support(
    learner: Learner,
    support: Examples,
    spec: TaskSpec,
    left_out: Iterable[LeftOut] | None = None,
) -> Calibration:
    """Predict the rows of ``support`` by predictors that were adapted without them.

    For one task whose support set has rows to spare: a coverage of 90% needs 9 rows in classes of
    two rows or more. Rows are left out as by
    :func:`quickstudy.evaluation.support_check.check_support_set`, in the time of up to 50
    adaptations. Statements hold for rows like these (other photographs of the same
    session, not of another camera), and approximately: a predictor adapted to all rows is not the
    one that was adapted to all but one. It is usually better, so that sets are a little too large.

    ``left_out``  the predictions, where they were made already: ``SupportCheck.left_out``.

    Raises ValueError for a spec that does not ask for classes, and where no row can be left out.
    """
    check_classes(spec.answer)
    found = _Rows()
    if left_out is None:
        left_out = left_out_predictions(in_evaluation_mode(learner), support, spec)
    for part, logits in left_out:
        rows = take(support, part)
        for i in range(len(part)):
            found.add(logits[i : i + 1], take(rows, torch.tensor([i])), spec.answer)
    if not found.logits:
        raise ValueError(
            "calibrate_on_support: needs classes with two labelled rows or more, to leave one out; "
            "found none. Give more rows, or calibrate on other tasks: qs.calibrate."
        )
    return found.calibration(learner, f"{len(found.logits)} rows left out of the support set")


def check_classes(answer: Answer) -> None:
    """ValueError for an answer other than classes, or for clusters."""
    if not isinstance(answer, Classes) or answer.clusters:
        raise ValueError(
            f"calibration: sets are of classes, so the task must ask for classes; found {answer}. "
            "Use qs.classification(ways)."
        )


def calibration_of(predictor: Predictor, given: Calibration | None) -> Calibration:
    """The ``given`` calibration, or the predictor's own; ValueError without, or for another's."""
    if given is None:
        own = predictor.info.get(KEY)
        if own is None:
            raise ValueError(
                "calibration: this predictor has none. Give one, calibration=qs.calibrate(learner, "
                "validation_tasks), or put it into the predictor: calibration.on(predictor)."
            )
        given = Calibration.from_json(own)
    if not isinstance(given, Calibration):
        raise ValueError(
            f"calibration: must be a Calibration; found {shown(given)}. Make it with qs.calibrate."
        )
    given.check(predictor)
    return given


class _Rows:
    """Collects logits and ids of rows of known class, task by task."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.ways: set[int] = set()

    def add(self, logits: Tensor, rows: Examples, answer: Answer) -> None:
        """The rows with weight and a known class; a task without any counts as none."""
        weights = counted_weights(rows, answer)
        kept = weights > 0
        if bool(kept.any()):
            self.logits.append(logits[kept].double().cpu())
            self.targets.append(rows.targets[kept].cpu())
            self.weights.append(weights[kept].double().cpu())
            self.ways.add(answer.outputs)

    def calibration(self, learner: Learner, origin: str) -> Calibration:
        """The calibration of all rows added."""
        if not self.logits:
            raise ValueError("calibrate: no task has a labelled query. Give queries with targets.")
        pairs = list(zip(self.logits, self.targets, strict=True))
        name = type(learner).__name__
        strange = not all(is_normalised(each) for each in self.logits)
        return Calibration(
            name, tuple(sorted(self.ways)),
            tuple(minus_log(each).gather(1, ids[:, None]).squeeze(1) for each, ids in pairs),
            tuple(-each.max(-1).values for each in self.logits) if strange else None,
            tuple(self.weights), temperature_of(self.logits, self.targets), origin,
        )  # fmt: skip


def minus_log(logits: Tensor) -> Tensor:
    """-log softmax (n, ways), in float64: low where a class is probable."""
    return -logits.double().log_softmax(-1)


def _lists(tensors: Sequence[Tensor]) -> list[Any]:
    return [plain(each.tolist()) for each in tensors]


def _tensors(lists: Any) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(number(each), dtype=torch.float64).reshape(-1) for each in lists)


def _all_ones(weights: Sequence[Tensor]) -> bool:
    return all(bool((each == 1).all()) for each in weights)
