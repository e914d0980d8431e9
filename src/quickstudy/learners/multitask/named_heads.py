"""Named heads: MAML or Reptile over named tasks, each with a head of its own to start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from quickstudy.answers import Classes, Pixels
from quickstudy.backbones.features import like
from quickstudy.base.words import first_few
from quickstudy.core import Examples, Learner, NamedExamples, State, Task, TaskSpec
from quickstudy.learners.gradient.gradient_learner import GradientLearner
from quickstudy.learners.gradient.maml import MAML
from quickstudy.learners.gradient.network import linear_head
from quickstudy.learners.multitask.known_tasks import KnowsTasks
from quickstudy.learners.multitask.stacked_parameters import StackedHeads, row_at


class NamedHeads(KnowsTasks):
    """Maps a support set to the network that ``learner`` adapts, from the head of the task's name.

        start   = (θ, h + v_name)                 v_name = 0 for a task of another name, or of none
        (θ', h') = inner steps of ``learner`` on the support set, from ``start``
        predict = h' ∘ f_θ'

    Training learns the trunk θ and what the heads have in common, h, over all tasks, and v_name
    over the tasks of that name. With MAML they are learnt by the meta-gradient, second order
    included: from where do the steps do best on queries? With Reptile: near which point do the
    steps end? So the trunk is one to which any task's head adapts, and a new task starts at h.

    ``learner``  MAML, ANIL, MAML++, Meta-SGD or Reptile, over a backbone that ends in a linear
                 ``head``; or such a backbone, for ``MAML(backbone)``. The head must adapt.
    ``tasks``    name -> number of outputs, of the tasks that have a v of their own, 0 at first. The
                 head has as many outputs as the widest of them, and a task reads the first ones.
                 By default every task is new, and this is ``learner`` itself.

    Parameters: those of ``learner``, the backbone's head as h, and ``heads``, with v as ``weight``
    (tasks, d, outputs) and ``bias`` (tasks, outputs). The trunk may be a module of another learner
    too: then multi-task training is followed by meta-learning, or the reverse, see the page.
    State: that of ``learner``, which holds the adapted head.

    Raises ValueError for a learner without inner steps on a linear ``head``, for tasks of fewer
    than 1 output or more than the head has, and for a known task of another width than was said.

    Reference: Wang, Zhao and Li (2021), Bridging Multi-Task Learning and Meta-Learning: Towards
    Efficient Training and Effective Adaptation, on a shared body with heads that adapt; Evgeniou
    and Pontil (2004), Regularized Multi-Task Learning, for h + v.
    Differs from the first in the heads of known tasks, which start at one point in the gradient
    learners there, and from the second in that nothing pulls v to 0 but the optimiser's weight
    decay.

    >>> import torch, quickstudy as qs
    >>> maml = qs.MAML(qs.backbones.MLP(in_features=2, outputs=1), rate=0.1)
    >>> learner = qs.NamedHeads(maml, {"north": 1, "south": 1})
    >>> support = qs.examples(torch.eye(2), torch.ones(2, 1))
    >>> spec = qs.TaskSpec(qs.answers.Reals(1), "south")
    >>> learner(support, spec)(support.inputs).shape
    torch.Size([2, 1])
    """

    differentiates = True

    def __init__(self, learner: nn.Module, tasks: Mapping[str, int] = {}) -> None:
        super().__init__()
        self.learner = _with_inner_steps(learner)
        self._know(tasks)
        self.answers = self.learner.answers  # type: ignore[misc]
        self.exceptions = self.learner.exceptions  # type: ignore[misc]
        if self.learner.objective is not None:
            self.objective = _objective_of_the_learner
        head = linear_head(self.backbone, "NamedHeads")
        _check_widths(self.tasks, head.out_features)
        self.heads: StackedHeads | None = None
        if tasks:
            widths = [head.out_features] * len(tasks)
            self.heads = like(head, StackedHeads(head.in_features, widths, zero=True))
            if head.bias is None:
                self.heads.bias = None

    @property
    def backbone(self) -> nn.Module:
        """The network that adapts: the trunk, and the head h at which new tasks start."""
        return cast(nn.Module, self.learner.backbone)

    @property
    def per_task(self) -> tuple[str, ...]:
        """Names of the parameters whose first axis is the tasks; all others are shared."""
        heads = self.heads
        return () if heads is None else tuple(f"heads.{n}" for n, _ in heads.named_parameters())

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The state of ``learner`` after its inner steps on ``support``, from the task's head."""
        self.learner.test_reach_once(support, spec)
        return self._starting_for(spec).adapt(support, spec)

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Any:
        """Predictions of the network under the adapted weights, head included."""
        return self.learner.predict(state, inputs, spec)

    def prior(self, spec: TaskSpec) -> State:
        """The state before any step: the trunk with the task's starting head."""
        return self._starting_for(spec).prior(spec)

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        """``state`` after the same number of further inner steps, on ``support``."""
        return self.learner.extend(state, support, spec)

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State]:
        """The state after 0, 1, … inner steps."""
        return self._starting_for(spec).trajectory(support, spec)

    def embed(self, state: State, inputs: Any) -> Tensor | None:
        """The inputs (n, d) of the adapted network's head."""
        return self.learner.embed(state, inputs)

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """(steps,) rates by the name of the parameter; empty if rates are fixed."""
        return self.learner.learnt_rates()

    @property
    def scheduled(self) -> bool:
        """Whether the meta-gradient changes during training."""
        return self.learner.scheduled

    def set_progress(self, progress: float) -> None:
        """Store the share of training that is done, in [0, 1]."""
        self.learner.set_progress(progress)

    def _starting_for(self, spec: TaskSpec) -> GradientLearner:
        """``learner``, whose steps start at the task's head, with as many outputs as it has."""
        head, place = linear_head(self.backbone, "NamedHeads"), self._place_in(spec)
        start: dict[str, Tensor] = {f"head.{name}": p for name, p in head.named_parameters()}
        own = True
        if self.heads is not None and place is not None:
            v = {name: row_at(p, place) for name, p in self.heads.named_parameters()}
            v["weight"] = v["weight"].mT
            start, own = (
                {name: p + v[name.removeprefix("head.")] for name, p in start.items()},
                False,
            )
        # Of classes, the network itself takes the first ones.
        if spec.outputs < head.out_features and not isinstance(spec.answer, Classes | Pixels):
            start, own = {name: rows[: spec.outputs] for name, rows in start.items()}, False
        return self.learner if own else self.learner.starting_at(start)


def _objective_of_the_learner(learner: Learner, task: Task) -> Any:
    """The wrapped learner's own objective, such as Reptile's, from the head of the task."""
    assert isinstance(learner, NamedHeads)
    support = task.support
    if isinstance(support, NamedExamples):
        learner, support = learner.at(support.place), support.rows
    inner = learner._starting_for(task.spec)
    assert inner.objective is not None
    return inner.objective(inner, task._replace(support=support))


def _with_inner_steps(learner: nn.Module) -> GradientLearner:
    """``learner``, or MAML over a backbone; ValueError where its head does not adapt."""
    if not isinstance(learner, Learner):
        learner = MAML(learner)
    adapted = getattr(learner, "adapted", ())
    if not isinstance(learner, GradientLearner) or "head.weight" not in adapted:
        raise ValueError(
            "NamedHeads: needs a learner whose inner steps adapt a linear head, which each task "
            f"has for itself; found {type(learner).__name__}, which adapts "
            f"{first_few(adapted) or 'no weights'}. Use qs.MAML, qs.ANIL or qs.Reptile over a "
            "backbone built with outputs=."
        )
    return learner


def _check_widths(tasks: Mapping[str, int], outputs: int) -> None:
    for name, width in tasks.items():
        if width > outputs:
            raise ValueError(
                f"NamedHeads: no task may have more outputs than the backbone's head, {outputs}; "
                f"found {width} for {name!r}. Build the backbone with outputs= of the widest task."
            )
