"""The types that everything else is made of.

A *learner* maps a *support set* to a *predictor*. What is learnt over many tasks lives in the
learner's parameters; what is learnt from one support set is data, the predictor's *state*.

    Examples    a mapping known at n points
    Answer      what a predictor must say of a row, and how well it said it
    TaskSpec    the answer that a task asks for, and the task's name
    Task        support and query examples under one spec
    Learner     adapt(support) -> state,  predict(state, inputs) -> predictions
    Predictor   a learner together with one state: a function of inputs
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.base.trees import leaves, map_tree
from quickstudy.base.weighting import counting

State = Any
"""What one support set taught: nested dicts, tuples and lists of tensors."""

Statistic = dict[str, Tensor]
"""What a score keeps of one task: sums, counts, or pairs of predictions and targets."""


class Examples(NamedTuple):
    """A mapping known at n points; tensors only, so ``torch.vmap`` takes it as it is.

    ``inputs``   (n, ...): a tensor, or a tree of tensors (token ids and their mask, a graph).
    ``targets``  what the task's :class:`Answer` asks: (n,) class ids, (n, d) reals, (n, h, w) ids,
                 a tree; -1 or NaN where unknown, element by element.
    ``weights``  (n,): how often a row counts; 0 is "not there" (padding), 2 is "twice".
    ``groups``   (n,) integers: where a row comes from (domain, school, speaker); zeros where there
                 is one place.

    :func:`quickstudy.examples` makes them from tensors or arrays.
    """

    inputs: Any
    targets: Any
    weights: Tensor
    groups: Tensor


class Acting(NamedTuple):
    """Examples yet to be made by acting with a predictor in a world; tensors only.

    ``parameters``  a tree of tensors: which world of its family this is.
    ``noise``       a tree of tensors, drawn before: all the randomness of acting, so that the same
                    predictor gives the same examples.

    The world itself is static and stands in the answer, :class:`quickstudy.answers.Actions`.
    """

    parameters: Any
    noise: Any


class Score(ABC):
    """How well predictions answer a task, as a figure that people read.

    Each task keeps a ``statistic``. A result over tasks is the mean of each one's ``value``, or, for
    a *pooled* score, the ``value`` of all statistics merged: where single tasks are too small for
    the score to mean something. Frozen dataclasses, equal by value.
    """

    name: ClassVar[str]
    """Such as "accuracy" or "mse"."""
    unit: ClassVar[str] = ""
    """ "%" for a share of one, which people read in percent; "" for a plain number."""
    higher_is_better: ClassVar[bool] = True
    pooled: ClassVar[bool] = False
    decoded: ClassVar[bool] = False
    """Whether it judges what :meth:`Answer.decode` gives, instead of predictions."""
    while_training: ClassVar[bool] = True
    """Whether it is computed in every training step; it must then run under ``vmap``."""

    @abstractmethod
    def statistic(self, predictions: Any, query: Examples) -> Statistic:
        """What to keep of the predictions for one task's queries; unknown elements leave no trace."""

    @abstractmethod
    def value(self, statistic: Statistic) -> Tensor:
        """The score (); NaN where the statistic holds nothing that could be scored."""

    def merge(self, statistics: Sequence[Statistic]) -> Statistic:
        """One statistic for several tasks; by default the sum of each entry."""
        names = statistics[0]
        return {name: torch.stack([s[name] for s in statistics]).sum(0) for name in names}


class Answer(ABC):
    """What a predictor must say of a row, and how well it said it: a frozen dataclass, no tensors.

    ``outputs``  width of the layer that gives it; the class axis is the last one.

    Nothing else asks for a target's type or compares losses: whoever needs to know asks here.
    Elements of targets are known or unknown one by one; a subclass names them in :meth:`known` and
    gives one loss each in :meth:`element_losses`, where unknown ones are zeros (:meth:`fill`) and
    their losses are left out afterwards.
    """

    kind: ClassVar[str]
    """The name by which files and reports know this answer."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Width of the layer that gives the answer."""

    @abstractmethod
    def check(self, targets: Any, what: str = "targets") -> None:
        """ValueError, calling them ``what``, for targets that this answer cannot judge.

        Looks at shapes and types only, so ``vmap`` and GPUs are asked nothing.
        """

    def check_values(self, targets: Any, what: str = "targets") -> None:  # noqa: B027
        """ValueError for values that no target may have, such as a class id beyond the last."""

    @abstractmethod
    def known(self, targets: Any) -> Tensor:
        """Which elements are known: (n,), or (n, ...) with one entry for each element of a row."""

    @abstractmethod
    def element_losses(self, predictions: Any, targets: Any) -> Tensor:
        """The loss of every element, in the shape of :meth:`known`; unknown targets are filled."""

    def fill(self, targets: Any) -> Any:
        """``targets`` with a zero in the place of what is unknown."""
        return map_tree(_filled, targets)

    def loss(self, predictions: Any, targets: Any) -> Tensor:
        """One loss per row (n,): the mean over its known elements; 0 for a row without any."""
        return self.loss_and_share(predictions, targets)[0]

    def loss_and_share(self, predictions: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """One loss per row (n,), and the share (n,) of each row's elements that are known.

        In a mean over rows a row counts as its weight times its share. So an unknown element is as
        good as absent, and leaves every other element's part in the mean as it was.
        """
        known = self.known(targets)
        losses = self.element_losses(predictions, self.fill(targets))
        # Filled before the arithmetic and left out after it: a NaN that was only masked afterwards
        # would come back in second derivatives.
        losses = torch.where(known, losses, 0.0)
        return mean_of_known(losses, known)

    @abstractmethod
    def encode(self, targets: Any, dtype: torch.dtype | None = None) -> Tensor:
        """Targets as numbers that a learner may read (one-hot, reals); zeros where unknown."""

    def decode(self, predictor: Predictor, inputs: Any) -> Any:
        """What a person is given for ``inputs``: by default the predictions."""
        return predictor(inputs)

    @abstractmethod
    def prediction_shape(self, targets: Any) -> Any:
        """The shape, or tree of shapes, that predictions for rows with these targets must have."""

    @property
    @abstractmethod
    def scores(self) -> tuple[Score, ...]:
        """What is reported; the first is the one by which weights are chosen."""

    @property
    def score(self) -> Score:
        """The first of :attr:`scores`."""
        return self.scores[0]

    def join(self, other: Answer) -> Answer | None:
        """One answer for tasks of both, so that these can be computed at once; None without one."""
        return self if self == other else None

    loss_is_score: ClassVar[bool] = False
    """Whether the mean loss is the first score, so that training need not compute it twice."""

    ragged: ClassVar[bool] = False
    """Whether targets of two tasks may differ in other dimensions than rows, and are then padded
    with what is unknown."""

    def present(self, targets: Any, weights: Tensor) -> Tensor | None:
        """(outputs,): which outputs a support set tells of; None where it may tell of all."""
        return None

    def hide_absent(self, targets: Any, present: Tensor | None) -> Any:
        """``targets`` in which classes that are not ``present`` are unknown: nobody could say them.

        For losses. A score counts such elements as answered wrongly.
        """
        return targets


def mean_of_known(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """(n, ...) values that are 0 where unknown -> each row's mean over known ones, their share."""
    if known.ndim == 1:
        return values, known.to(values.dtype)
    counts = known.flatten(1).sum(1)
    means = values.flatten(1).sum(1) / counts.clamp_min(1)
    return means, counts.to(values.dtype) / known[0].numel()


def _filled(leaf: Tensor) -> Tensor:
    return leaf.nan_to_num(nan=0.0) if leaf.is_floating_point() else leaf.clamp_min(0)


@dataclass(frozen=True)
class TaskSpec:
    """What a task asks; holds no tensors, so the tasks of one stack share it. Equal by value.

    ``answer``  what a predictor must say.
    ``name``    which task this is, for learners that keep a part per task.
    """

    answer: Answer
    name: str = ""

    @property
    def outputs(self) -> int:
        """Width of the layer that gives the answer."""
        return self.answer.outputs


class Task(NamedTuple):
    """One task: adapt on ``support``, be judged on ``query``; both given, or made by acting."""

    support: Examples | Acting
    query: Examples | Acting
    spec: TaskSpec


TaskSource = Callable[[torch.Generator], Task]
"""Where tasks come from: the same generator seed gives the same task."""


class Learner(nn.Module, ABC):
    """Maps a support set to a predictor; its parameters are what training over many tasks learns.

    Write ``adapt`` and ``predict`` for ONE task, in the paper's own equations; the engine maps
    them over stacks of tasks. ``adapt`` changes nothing in the module and never sees a query.

    A state that is a dict may hold ``present`` (outputs,): classes where it is False get no
    probability, and losses leave them out.
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Answer,)
    """The kinds of answers that this learner can give."""

    reads_name: ClassVar[bool] = False
    """Whether ``spec.name`` matters to it, so that tasks of two names are never stacked."""

    exceptions: ClassVar[Mapping[str, str]] = {}
    """Laws of the contract that this learner cannot keep, each with the reason."""

    differentiates: ClassVar[bool] = False
    """Whether ``adapt`` takes gradients itself, so that training differentiates twice."""

    objective: Callable[[Learner, Task], Any] | None = None
    """What training minimises, where the learner's paper does not minimise the query loss."""

    @abstractmethod
    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """What ``support`` teaches, as a tree of tensors."""

    @abstractmethod
    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Any:
        """Predictions for ``inputs`` (n, ...): a tensor or a tree, rows first."""

    def forward(self, support: Examples, spec: TaskSpec) -> Predictor:
        """The predictor that ``support`` teaches.

        Raises ValueError for an answer that this learner cannot give, for a support set without
        rows, and for targets that the answer cannot judge.
        """
        check_answer(self, spec.answer)
        check_support(support, spec.answer)
        return Predictor(self, self.adapt(support, spec), spec)

    @property
    def transductive(self) -> bool:
        """Whether one query's prediction depends on the other queries (batch statistics)."""
        return any(sees_other_rows(module) for module in self.modules())


def check_answer(learner: Learner, answer: Answer) -> None:
    """ValueError where ``learner`` cannot give ``answer``."""
    if isinstance(answer, learner.answers):
        return
    given = ", ".join(kind.__name__ for kind in learner.answers)
    raise ValueError(
        f"{type(learner).__name__}: gives answers of the kind {given}, but the task asks for "
        f"{answer}. Use another learner, or another spec."
    )


def check_support(support: Examples, answer: Answer) -> None:
    """ValueError for a support set without rows, or whose targets ``answer`` cannot judge."""
    if not isinstance(support, Examples):
        raise ValueError(
            f"support: must be Examples; found {type(support).__name__}. Make them with "
            "quickstudy.examples(inputs, targets)."
        )
    if len(support.weights) == 0:
        raise ValueError(
            "support: needs at least 1 row; found 0. Give a row of weight 0 where there is nothing "
            "to learn from."
        )
    answer.check(support.targets, "support")
    # Values are looked at where that costs nothing: a GPU would have to be waited for, and under
    # vmap or tracing there is no single value.
    on_cpu = all(leaf.device.type == "cpu" for leaf in leaves(support.targets))
    if on_cpu and not torch._C._are_functorch_transforms_active():
        answer.check_values(support.targets, "support")


def sees_other_rows(module: nn.Module) -> bool:
    """Whether what this layer gives for a row depends on the rows beside it."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or module.running_mean is None
    return bool(getattr(module, "sees_other_rows", False))


@dataclass(frozen=True)
class Predictor:
    """A learner with what one support set taught it: a function of inputs, and plain data.

    ``info`` travels with the predictor when it is saved: class names, image size, anything JSON.
    """

    learner: Learner
    state: State
    spec: TaskSpec
    info: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, inputs: Any, weights: Tensor | None = None) -> Any:
        """Predictions for ``inputs`` (n, ...): logits, regression values, or a tree of these.

        ``weights``  (n,): how often each row counts where rows see one another (batch statistics);
                     once each by default.
        """
        if weights is None:
            return self.learner.predict(self.state, inputs, self.spec)
        with counting(weights):
            return self.learner.predict(self.state, inputs, self.spec)
