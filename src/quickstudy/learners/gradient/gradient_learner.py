"""The base of gradient learners: a network whose weights adapt by the inner loop's steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Self, cast

from torch import Tensor, nn

from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.gradient.descend import Descent, Rates, Weights, last
from quickstudy.learners.gradient.inner_loop import InnerLoop
from quickstudy.learners.gradient.network import (
    SupportLoss,
    features_under,
    head_of,
    predict_under,
    prior_state,
    weights_of,
)
from quickstudy.learners.gradient.reach import can_be_tested, refuse_unreachable


def setting(path: str) -> property:
    """A read-only attribute for a constructor's argument; saved files store it under that name.

    ``path``  the attribute that holds the value: "inner.steps".
    """
    return property(attrgetter(path))


class GradientLearner(Learner):
    """Maps a support set to a network whose weights took the steps of ``inner`` on it.

        w_0     = the network's own                                       (:meth:`_start`)
        w_{k+1} = update(w_k, ∇ L_support(w_k), rate_k)                   (:meth:`_path`)
        predict = f_{w_steps}

    A subclass defines a constructor and overrides what differs. It stores its network as
    ``backbone``, or returns the network that adapts from :attr:`adapted_network`.

    ``network``  its parameters adapt, except those that are frozen, when the learner is made or
                 later: what adapts is what is trainable. A learner of which all parameters are
                 frozen, to use it without training, adapts those that it was made to adapt.
    ``inner``    settings of the inner steps.
    ``names``    of the parameters that adapt, in the order of the learnt rates; by default those
                 that ``inner`` finds in ``network``.

    State: the adapted ``weights`` by name; ``present`` where the answer has classes; ``statistics``
    for norm="support".
    """

    differentiates = True
    exceptions = {  # noqa: RUF012  (a ClassVar in Learner)
        "relabelling_permutes_outputs": "the head is learnt: each way has its own weights",
        "extending_equals_adapting_to_all": (
            "steps on one support set and then on another are not steps on both"
        ),
    }
    rates: Tensor | nn.ParameterList | None
    start: Weights = {}  # noqa: RUF012  (never changed; see starting_at)

    steps, rate, test_steps = (
        setting("inner.steps"),
        setting("inner.rate"),
        setting("inner.test_steps"),
    )
    meta_gradient, adapts = setting("inner.meta_gradient"), setting("inner.adapts")
    update, clip, learn_rates = (
        setting("inner.update"),
        setting("inner.clip"),
        setting("inner.learn_rates"),
    )

    def __init__(
        self, network: nn.Module, inner: InnerLoop, names: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.inner, self.progress, self._reach_tested = inner, 1.0, False
        self.adapted = tuple(inner.names_in(network) if names is None else names)
        self.rates = inner.first_rates(self.adapted, network)

    @property
    def adapted_network(self) -> nn.Module:
        """The network whose weights adapt: the backbone, unless a subclass wraps it."""
        return cast(nn.Module, self.backbone)

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The weights after the inner steps on ``support``; the first call tests their reach."""
        self.test_reach_once(support, spec)
        loss = self._support_loss(support, spec)
        return loss.state(last(self._path(loss, self._start(loss))))

    def test_reach_once(self, support: Examples, spec: TaskSpec) -> None:
        """:meth:`refuse_unreachable`, unless it was called before."""
        if not self._reach_tested:
            self.refuse_unreachable(support, spec)

    def refuse_unreachable(self, support: Examples, spec: TaskSpec) -> None:
        """ValueError where adapted weights would not reach the network's computation."""
        if can_be_tested():
            loss = self._support_loss(support, spec)
            refuse_unreachable(loss, self._start(loss), self.inner.learner)
            self._reach_tested = True

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Any:
        """Predictions of the network under the adapted weights."""
        return predict_under(self.adapted_network, state, inputs, spec)

    def prior(self, spec: TaskSpec) -> State:
        """The state before any step; ValueError for norm="support", which has no statistics yet."""
        return prior_state(self.adapted_network, self.own_weights(), self.inner.learner)

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        """``state`` after the same number of further inner steps, on ``support``.

        Classes present before remain present. ``spec`` may have more classes; the network must
        have an output for each.
        """
        loss = self._support_loss(support, spec, state.get("present"))
        return loss.state(last(self._path(loss, state["weights"])))

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State]:
        """The state after 0, 1, … inner steps."""
        loss = self._support_loss(support, spec)
        return [loss.state(weights) for weights in self._path(loss, self._start(loss))]

    def embed(self, state: State, inputs: Any) -> Tensor | None:
        """The inputs (n, d) of the adapted network's head; None for one without a ``head``."""
        head = head_of(cast(nn.Module, self.backbone))
        return None if head is None else features_under(self.adapted_network, head, state, inputs)

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """(steps,) rates by the name of the parameter; empty if rates are fixed."""
        if not self.inner.learn_rates:
            return {}
        return dict(zip(self.adapted, cast(Tensor, self.rates).unbind(1), strict=True))

    @property
    def scheduled(self) -> bool:
        """Whether the meta-gradient changes during training."""
        return self.inner.meta_gradient.scheduled

    def set_progress(self, progress: float) -> None:
        """Store the share of training that is done, in [0, 1]."""
        self.progress = progress

    def descent(self) -> Descent:
        """Settings of the steps in the current mode, training or evaluation."""
        return Descent(self.steps_now, self._rates(), self.update, self.clip)

    @property
    def steps_now(self) -> int:
        """The number of steps in the current mode, training or evaluation."""
        inner = self.inner
        return inner.steps if self.training else inner.test_steps or inner.steps

    def _support_loss(
        self, support: Examples, spec: TaskSpec, present: Tensor | None = None
    ) -> SupportLoss:
        """The loss that the steps minimise, as a function of the weights that adapt."""
        return SupportLoss(self.adapted_network, support, spec, present)

    def _start(self, loss: SupportLoss) -> Weights:
        """The weights before the first step on a support set."""
        return self.own_weights()

    def own_weights(self) -> Weights:
        """The network's own values of the weights that adapt now.

        Raises ValueError where all of these, but not all of the learner, were frozen after it was
        made.
        """
        own = weights_of(self.adapted_network, self.adapted)
        free = {name: weight for name, weight in own.items() if _trained(weight)}
        if not free and any(map(_trained, self.parameters())):
            raise ValueError(
                f"{self.inner.learner}: what adapts is what is trainable, but all that it was made "
                f"to adapt is frozen now ({', '.join(list(own)[:4])}). Set requires_grad=True for "
                "some of it, or make the learner again with other adapts=. To use a learner "
                "without training it, freeze all of it."
            )
        return (free or own) | self.start

    def starting_at(self, start: Weights) -> Self:
        """A copy whose steps start at ``start``, where it names a weight that adapts.

        It shares all else with this learner, parameters included. A weight of ``start`` adapts,
        also where the network's own of that name is frozen.
        """
        twin = copy.copy(self)
        twin.start = start
        return twin

    def _path(self, loss: SupportLoss, weights: Weights) -> Iterator[Weights]:
        """``weights``, and the weights after each step."""
        meta_gradient = self.inner.meta_gradient.at(self.progress)
        return meta_gradient.descend(loss, weights, self.descent())

    def _rates(self) -> Rates:
        """One rate for all steps, or the rates of each step by parameter name."""
        if not self.inner.learn_rates:
            assert self.inner.rate is not None, "a learner without a rate must override _rates"
            return self.inner.rate
        rows = cast(Tensor, self.rates).unbind()
        return [dict(zip(self.adapted, row.unbind(), strict=True)) for row in rows]


def _trained(weight: Tensor) -> bool:
    """Whether it is not frozen; training replaces what it trains by tensors of its own."""
    return weight.requires_grad or not isinstance(weight, nn.Parameter)
