"""The core types: examples, tasks, answers, learners and predictors.

A *learner* maps a *support set* to a *predictor*. Training over many tasks changes the learner's
parameters; adapting to one support set returns the predictor's *state* and changes no parameter.

    Examples    n rows of inputs, targets, weights and groups
    Answer      the kind of target a task has, with its loss and its scores
    TaskSpec    the answer of a task, and the task's name
    Task        support and query examples with one spec
    Learner     adapt(support) -> state,  predict(state, inputs) -> predictions
    Predictor   a learner together with one state: a function of inputs
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from quickstudy.base.arguments import TypedConstructor
from quickstudy.base.door import check_predictions, counted, readable, received, received_rows
from quickstudy.base.explain import explaining
from quickstudy.base.known import mean_of_known, zero_if_unknown
from quickstudy.base.modules import sees_other_rows
from quickstudy.base.rows import Acting as Acting
from quickstudy.base.rows import Examples as Examples
from quickstudy.base.rows import NamedExamples as NamedExamples
from quickstudy.base.short import short_repr
from quickstudy.base.trees import map_tree, without_rows
from quickstudy.base.updates import refusing_updates

State = Any
"""What ``adapt`` returns for one support set: nested dicts, tuples and lists of tensors."""
Statistic = dict[str, Tensor]
"""What a score stores for one task: sums, counts, or pairs of predictions and targets."""


class Score(ABC):
    """A measure of how good predictions are, for reports.

    Each task gives a ``statistic``. The result over tasks is the mean of their ``value``s or, for
    a *pooled* score, the ``value`` of all statistics merged: for tasks too small to score alone.
    Subclasses are frozen dataclasses, equal by value.
    """

    name: ClassVar[str]
    """For example "accuracy" or "mse"."""
    unit: ClassVar[str] = ""
    """ "%" for a share in [0, 1], which reports print in percent; "" for a plain number."""
    higher_is_better: ClassVar[bool] = True
    pooled: ClassVar[bool] = False
    decoded: ClassVar[bool] = False
    """Whether it scores the output of :meth:`Answer.decode` instead of the predictions."""
    while_training: ClassVar[bool] = True
    """Whether it is computed in every training step; it must then run under ``vmap``."""

    @abstractmethod
    def statistic(self, predictions: Any, query: Examples) -> Statistic:
        """The statistic of the predictions for one task's queries, over their known elements."""

    @abstractmethod
    def value(self, statistic: Statistic) -> Tensor:
        """The score (); NaN where the task has nothing to score."""

    def merge(self, statistics: Sequence[Statistic]) -> Statistic:
        """One statistic for several tasks; by default the sum of each entry."""
        return {n: torch.stack([s[n] for s in statistics]).sum(0) for n in statistics[0]}


class Answer(ABC):
    """The kind of target a task has, with its loss and scores: a frozen dataclass, no tensors.

    All code that depends on the kind of target belongs in a subclass. Single elements of a target
    may be unknown: :meth:`known` marks the others, :meth:`element_losses` gives a loss for each.
    """

    kind: ClassVar[str]
    """The name of this answer in files and reports."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.loss is not Answer.loss:  # training calls element_losses
            raise TypeError(
                "Answer: loss must stay the mean of element_losses, so that training and reports "
                f"agree, but {cls.__name__} overrides it. Override element_losses."
            )

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Width of the layer that gives predictions, whose last axis is that of the classes."""

    @abstractmethod
    def check(self, targets: Any, what: str = "targets") -> None:
        """ValueError for targets of a wrong shape or type; ``what`` names them in the message."""

    def check_values(self, targets: Any, what: str = "targets") -> None:  # noqa: B027
        """ValueError for invalid values, for example an id beyond the last class."""

    @abstractmethod
    def known(self, targets: Any) -> Tensor:
        """Which elements are known: (n,), or (n, ...) with one entry for each element of a row."""

    @abstractmethod
    def element_losses(self, predictions: Any, targets: Any) -> Tensor:
        """The loss of each element, shaped like :meth:`known`; ``targets`` are filled already."""

    def fill(self, targets: Any) -> Any:
        """``targets`` with zeros in place of unknown elements."""
        return map_tree(zero_if_unknown, targets)

    def loss(self, predictions: Any, targets: Any) -> Tensor:
        """One loss per row (n,): the mean over its known elements; 0 for a row without any."""
        return self.loss_and_share(predictions, targets)[0]

    def loss_and_share(self, predictions: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """One loss per row (n,), and the share (n,) of each row's elements that are known.

        A mean over rows weights each row by its weight times its share, so that every known
        element of a row of weight 1 counts once, however many elements are unknown.
        """
        known = self.known(targets)
        losses = self.element_losses(predictions, self.fill(targets))
        # Unknown targets are filled before the arithmetic and their losses masked after it: with
        # the mask alone, a NaN target would make second derivatives NaN.
        return mean_of_known(torch.where(known, losses, 0.0), known)

    @abstractmethod
    def encode(self, targets: Any, dtype: torch.dtype | None = None) -> Tensor:
        """Targets as numbers that a learner may read (one-hot, reals); zeros where unknown."""

    def decode(self, predictor: Predictor, inputs: Any) -> Any:
        """The final output for ``inputs``, for example class ids; by default the predictions."""
        return predictor(inputs)

    @abstractmethod
    def prediction_shape(self, targets: Any) -> Any:
        """The shape, or tree of shapes, that predictions for rows with these targets must have."""

    @property
    @abstractmethod
    def scores(self) -> tuple[Score, ...]:
        """The scores to report; validation selects weights by the first."""

    @property
    def score(self) -> Score:
        """The first of :attr:`scores`."""
        return self.scores[0]

    def join(self, other: Answer) -> Answer | None:
        """One answer for a stack of both kinds of tasks; None where they cannot share a stack."""
        return self if self == other else None

    loss_is_score: ClassVar[bool] = False
    """Whether the first score equals the mean loss, so that it need not be computed again."""
    ragged: ClassVar[bool] = False
    """Whether targets whose sizes differ beyond the number of rows are padded as unknown."""

    def present(self, targets: Any, weights: Tensor) -> Tensor | None:
        """(outputs,): which classes occur in a support set; None if classes cannot be absent."""
        return None

    def hide_absent(self, targets: Any, present: Tensor | None) -> Any:
        """``targets`` with absent classes marked unknown: for losses; scores use the originals."""
        return targets


@dataclass(frozen=True)
class TaskSpec:
    """The answer and the name of a task; holds no tensors, so the tasks of a stack share one.

    ``answer``  the kind of target, with its loss and scores.
    ``name``    the task's name, for learners that have parameters per task name.
    """

    answer: Answer
    name: str = ""

    @property
    def outputs(self) -> int:
        """Width of the layer that gives predictions."""
        return self.answer.outputs


@short_repr
class Task(NamedTuple):
    """One task: a learner adapts to ``support`` and is scored on ``query``."""

    support: Any  # Examples, or Acting until the engine has made the rows by acting
    query: Any
    spec: TaskSpec


TaskSource = Callable[[torch.Generator], Task]
"""A function that draws a task: the same generator state gives the same task."""


class Learner(TypedConstructor, nn.Module, ABC):
    """Maps a support set to a predictor; training over many tasks learns its parameters.

    Write ``adapt`` and ``predict`` for ONE task, in the paper's own equations; the engine maps
    them over stacks of tasks. ``adapt`` changes nothing in the module and never reads a query.

    A state that is a dict may hold ``present`` (outputs,), the classes in the support set: losses
    then leave out queries of other classes.
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Answer,)
    """The kinds of answer that this learner supports."""
    reads_name: ClassVar[bool] = False
    """Whether it reads ``spec.name``; see :meth:`name_key` for what this means for stacks."""
    exceptions: ClassVar[Mapping[str, str]] = {}
    """Laws of the contract that this learner cannot keep, each with the reason."""
    differentiates: ClassVar[bool] = False
    """Whether ``adapt`` takes gradients itself, so that training differentiates twice."""
    objective: Callable[[Learner, Task], Any] | None = None
    """The learner's own training objective; None for the query loss."""

    @abstractmethod
    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The state after adapting to ``support``, a tree of tensors."""

    @abstractmethod
    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Any:
        """Predictions for ``inputs`` (n, ...): a tensor or a tree, whose first axis is the rows."""

    def name_key(self, spec: TaskSpec) -> Hashable:
        """Equal for tasks that may share a stack: by default the name itself where it is read.

        A stack of several names has none; learners that are :class:`PlacesNames` can read those.
        """
        return spec.name if self.reads_name else ""

    def forward(self, support: Examples | NamedExamples, spec: TaskSpec) -> Predictor:
        """The predictor after adapting to ``support``, whose rows get the learner's type of reals.

        Raises ValueError for an answer or rows that do not fit this learner, and for no rows.
        """
        if not isinstance(spec, TaskSpec):
            raise ValueError(f"spec: must be a TaskSpec; found {type(spec)}. Use qs.regression().")
        if isinstance(support, NamedExamples):  # in a stack, whose spec need not have the name
            return cast(
                "Predictor", cast("PlacesNames", self).at(support.place)(support.rows, spec)
            )
        check_answer(self, spec.answer)
        support = checked_support(self, support, spec.answer)
        with explaining(self, support.inputs), refusing_updates(self):
            state = self.adapt(support, spec)
        return Predictor(self, state, spec, {}, without_rows(support.inputs))

    @property
    def transductive(self) -> bool:
        """Whether one query's prediction depends on the other queries (batch statistics)."""
        return any(sees_other_rows(module) for module in self.modules())


@runtime_checkable
class PlacesNames(Protocol):
    """A learner with parameters (tasks, ...) that have a row for each task it knows by name.

    The engine then stacks known tasks of different names. It gives each its place beside its
    support rows (:class:`NamedExamples`), so that ``vmap`` and the loop compute the same.
    """

    def place_of(self, name: str) -> int:
        """The row of this task in the parameters; -1 for a name it does not know."""

    def at(self, place: Tensor) -> Learner:
        """A light copy for the task at ``place`` (), whatever its name; it shares parameters."""

    def unknown_task(self, name: str) -> ValueError:
        """The error for a name it does not know, where no support row is labelled."""


def check_answer(learner: Learner | type[Learner], answer: Answer) -> None:
    """ValueError where ``learner``, or a class of learners, does not support ``answer``."""
    if not isinstance(answer, learner.answers):
        given = ", ".join(kind.__name__ for kind in learner.answers)
        raise ValueError(
            f"{getattr(learner, '__name__', type(learner).__name__)}: gives answers of the kind "
            f"{given}, but the task needs {answer}. Use another learner, or another spec."
        )


def checked_support(learner: Learner, support: Examples, answer: Answer) -> Examples:
    """``support`` as ``learner`` reads it; ValueError where it does not fit ``answer``."""
    if not isinstance(support, Examples):
        found = type(support).__name__
        raise ValueError(f"support: must be Examples; found {found}. Make them by qs.examples.")
    support = Examples(*received_rows(learner, support, "support"))
    answer.check(support.targets, "support")
    if readable(support.targets):
        answer.check_values(support.targets, "support")
    return support


@short_repr
@dataclass(frozen=True)
class Predictor:
    """A learner with the state of one support set: a function of inputs.

    ``info`` is saved with the predictor: class names, image size, anything that JSON can hold.
    ``no_rows`` (0, ...) are the inputs it was made from without rows: their shapes and dtypes.
    """

    learner: Learner
    state: State
    spec: TaskSpec
    info: Mapping[str, Any] = field(default_factory=dict)
    no_rows: Any = None

    def __call__(self, inputs: Any, weights: Tensor | None = None) -> Any:
        """Predictions for ``inputs`` (n, ...): logits, regression values, or a tree of these.

        ``inputs`` are converted as by ``qs.examples``; ``weights`` (n,) say how often a row counts
        in batch statistics. ValueError for inputs that do not fit and results that are not finite.
        """
        learner, inputs = self.learner, received(self.learner, inputs, "predictor", self.state)
        with explaining(learner, inputs), refusing_updates(learner), counted(weights, inputs):
            predictions = learner.predict(self.state, inputs, self.spec)
        return check_predictions(predictions, inputs, learner)
