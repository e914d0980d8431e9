"""The base of learners that move a pretrained network's weights by steps on each support set."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.replica import call_with
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.gradient.descend import Weights, last
from quickstudy.learners.gradient.network import SupportLoss, head_of, identity_head
from quickstudy.learners.gradient.reach import can_be_tested, refuse_unreachable
from quickstudy.learners.transfer.choosing import Chosen, chosen_settings, starting_weights
from quickstudy.learners.transfer.depth import by_depth
from quickstudy.learners.transfer.starting_heads import StartingHead
from quickstudy.learners.transfer.trunk import Trunk, added
from quickstudy.learners.transfer.tuning import (
    BIAS,
    BODY,
    WEIGHT,
    Group,
    Problem,
    Tuning,
    head_on,
    path,
)
from quickstudy.tasks.examples import labelled, without_absent


class TunedLearner(Learner):
    """Maps a support set to a network some of whose weights moved, under a head of the task's own.

    A subclass defines a constructor. It keeps the settings of :class:`Tuning`, ``head`` and ``l2``
    as attributes of their names, and the network as ``backbone``, or returns the network whose
    weights move from :attr:`adapted_network`.

    ``adapted``  names of the parameters of that network that move.
    ``falling``  whether the rate falls to 0 along half a cosine.

    A network that ends in a linear ``head``, as meta-learnt ones do, gives the features that this
    head reads; the head itself is left out.

    State: ``difference``, by name, what is added to the network's own weights; ``head``, with
    ``weight`` (outputs, d) and ``bias`` (outputs,); ``present`` where the answer has classes;
    ``statistics`` for norm="support"; ``chosen``, the steps and the rate, where these were chosen.
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes, Reals, Labels)
    differentiates = True
    adapted: tuple[str, ...]
    head: StartingHead
    l2: float
    falling = False
    _reach_tested = False

    @property
    def adapted_network(self) -> nn.Module:
        """The network whose weights move."""
        return cast(nn.Module, self.backbone)

    def _features_alone(self) -> Weights:
        """Weights with which the network's own head, where it has one, returns what it reads."""
        head = head_of(self.adapted_network)
        return {} if head is None else identity_head(head)

    def _settled(self) -> None:
        """Check the settings, and declare the laws that they break; for the end of a constructor.

        Raises ValueError for numbers out of range.
        """
        tuning = self._tuning()
        if not 0 < self.l2 < math.inf:
            raise ValueError(f"{tuning.learner}: l2 must be a positive number; found {self.l2}.")
        if tuning.batch is not None or tuning.chooses:
            parts = "batches" if tuning.batch is not None else "folds"
            self.exceptions = {  # type: ignore[misc]  # those of this instance
                "support_order_is_irrelevant": f"rows get into {parts} by their order",
                "weight_two_is_twice": f"two equal rows may get into two {parts}",
            }

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The differences and the head after the steps on ``support``."""
        problem, start, chosen = self._prepared(support, spec)
        if isinstance(chosen.steps, int):
            weights = last(path(problem, start, chosen.rate, chosen.steps))
        else:
            for k, each in enumerate(path(problem, start, chosen.rate, problem.tuning.most_steps)):
                now = chosen.steps >= k
                weights = each if k == 0 else {
                    name: torch.where(now, each[name], weights[name]) for name in each
                }  # fmt: skip
        return self._state(problem, start, weights, chosen)

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State]:
        """The state after 0, 1, … steps."""
        problem, start, chosen = self._prepared(support, spec)
        steps = chosen.steps if isinstance(chosen.steps, int) else problem.tuning.most_steps
        steps_taken = path(problem, start, chosen.rate, steps)
        return [self._state(problem, start, weights, chosen) for weights in steps_taken]

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits or real numbers (n, outputs)."""
        head, length = state["head"], self._tuning().feature_length
        predictions = head_on(self.embed(state, inputs), head["weight"], head["bias"], length)
        return without_absent(predictions, state.get("present"))

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d) of the network under its moved weights."""
        network, weights = self.adapted_network, self._features_alone()
        if difference := state["difference"]:
            weights |= added(dict(network.named_parameters()), difference)
        if not weights:
            return embed_query(network, inputs, state["statistics"])
        return embed_query(partial(call_with, network, weights), inputs, state["statistics"])

    def _prepared(self, support: Examples, spec: TaskSpec) -> tuple[Problem, Weights, Chosen]:
        support, network = labelled(support, spec.answer), self.adapted_network
        groups = self._groups()
        self._test_reach(support, spec, groups)
        alone = self._features_alone()
        whole = partial(call_with, network, alone) if alone else network
        features, _ = embed_support(whole, support)
        trunk = Trunk(network, support, features.detach(), alone)
        tuning = self._tuning()
        problem = Problem(trunk, support, spec, groups, tuning, order_of_batches(support, tuning))
        chosen = chosen_settings(problem, self.head, self.l2)
        return problem, starting_weights(problem, self.head, self.l2, features), chosen

    def _state(self, problem: Problem, start: Weights, end: Weights, chosen: Chosen) -> State:
        # The steps are constants, but training differentiates through the head's start: this adds
        # a zero that has its gradient.
        head = {
            name.removeprefix("head."): end[name] + (start[name] - start[name].detach())
            for name in (WEIGHT, BIAS)
        }
        moved = {n.removeprefix(BODY): w for n, w in end.items() if n.startswith(BODY)}
        state: dict[str, Any] = {
            "difference": moved, "head": head, "statistics": problem.trunk.statistics(moved),
        }  # fmt: skip
        if (present := problem.present) is not None:
            state["present"] = present
        if problem.tuning.chooses:
            like = end[BIAS].new_tensor
            state["chosen"] = {
                name: value if isinstance(value, Tensor) else like(value)
                for name, value in chosen._asdict().items()
            }
        return state

    def _tuning(self) -> Tuning:
        own = {field.name: getattr(self, field.name) for field in fields(Tuning)[1:]}
        return Tuning(type(self).__name__, **own)

    def _groups(self) -> list[Group]:
        """The head, and what moves of each layer, from the last layer back."""
        body = [
            Group(depth, tuple(BODY + name for name in names))
            for depth, names in by_depth(self.adapted_network, self._moving())
        ]
        return [Group(0, (WEIGHT, BIAS)), *body]

    def _moving(self) -> list[str]:
        """Names of what moves now: what is trainable, or all where the whole learner is frozen."""
        parameters = dict(self.adapted_network.named_parameters())
        free = [name for name in self.adapted if _trained(parameters[name])]
        if not free and self.adapted and any(map(_trained, self.parameters())):
            raise ValueError(
                f"{type(self).__name__}: what moves is what is trainable, but all that it was made "
                f"to move is frozen now ({', '.join(self.adapted[:4])}). Set requires_grad=True "
                "for some of it, or make the learner again with other adapts=."
            )
        return free or list(self.adapted)

    def _test_reach(self, support: Examples, spec: TaskSpec, groups: Sequence[Group]) -> None:
        """ValueError, in the first call, where moved weights do not reach the computation."""
        if self._reach_tested or not can_be_tested():
            return
        parameters = dict(self.adapted_network.named_parameters())
        names = [name.removeprefix(BODY) for group in groups[1:] for name in group.names]
        loss = SupportLoss(self.adapted_network, support, spec)
        refuse_unreachable(loss, {name: parameters[name] for name in names}, type(self).__name__)
        self._reach_tested = True


def _trained(weight: Tensor) -> bool:
    """Whether it is not frozen; training replaces what it trains by tensors of its own."""
    return weight.requires_grad or not isinstance(weight, nn.Parameter)


def order_of_batches(support: Examples, tuning: Tuning) -> Tensor | None:
    """(n,): the rows in the order of minibatches, by the seed; rows of weight 0 come last.

    A row's place depends on the rows before it alone, not on how many follow.
    """
    if tuning.batch is None:
        return None
    generator, n = random.Random(tuning.seed), len(support.weights)
    keys = support.weights.new_tensor([generator.random() for _ in range(n)])
    present = support.weights > 0
    own = keys[(present.long().cumsum(0) - 1).clamp_min(0)]
    return torch.where(present, own, 2.0).argsort()
