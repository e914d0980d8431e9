"""The base of learners that train a network on labelled rows while its features are aligned."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import refuse_heads_and_maps, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.replica import Replica, call_with
from quickstudy.base.words import count, first_few
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.domains.aligning import refuse_without_target
from quickstudy.learners.gradient.descend import (
    Descent,
    Momentum,
    Update,
    Weights,
    constant,
    gradients_of,
    last,
)
from quickstudy.learners.gradient.network import SupportLoss, refuse_running
from quickstudy.learners.gradient.reach import can_be_tested, refuse_unreachable
from quickstudy.learners.outputs import present_entry
from quickstudy.objectives import mean_loss
from quickstudy.tasks.examples import labelled, take, without_absent
from quickstudy.tasks.transfer import is_target

_BODY, _WEIGHT, _BIAS = "body.", "head.weight", "head.bias"

SGD_WITH_MOMENTUM = Momentum(0.9)
"""The optimiser of the three papers."""


class Side(NamedTuple):
    """What the network says of the rows of one side, sources or target, in one step."""

    features: Tensor  # (n, d)
    outputs: Tensor  # (n, outputs), of the head
    weights: Tensor  # (n,), how often each row counts


class DeepAligner(Learner):
    """Maps a support set of source and target rows to a network that cannot tell the two apart.

        L         = loss of the labelled rows + difference(sources, target)   (:meth:`difference`)
        (θ, W, b) <- update((θ, W, b), ∇ L, rate),   ``steps`` times
        predict   = W f_θ(x) + b

    Steps start at the backbone's own weights and a head of zeros. Sources are the rows of all
    groups but 0, taken together; rows of group 0 are the target's, mostly unlabelled (-1 or NaN).
    Where some have labels, their loss counts as well. In a plain task, all of whose rows are of the
    target, there is no difference: the network is trained on the labelled rows alone.

    ``backbone``  inputs (n, ...) -> features (n, d). Its frozen parameters do not move. In training
                  over many tasks the steps count as constants (first order).
    ``steps``     number of steps.
    ``rate``      learning rate.
    ``strength``  of the difference.
    ``update``    update rule: ``sgd``, ``Momentum()`` or ``Adam()``.
    ``batch``     rows of each side in a step; None for all. Batches follow one another in an order
                  that is drawn again when a side is through, from ``seed``.

    State: ``difference``, added to the backbone's weights, by name; ``head``, its ``weight``
    (outputs, d) and ``bias`` (outputs,); ``present`` where the answer has classes; ``statistics``
    for norm="support".
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes, Reals, Labels)
    differentiates = True
    _reach_tested = False
    annealed: ClassVar[bool] = False
    """Whether the rate falls as rate / (1 + 10 p)^0.75, p from 0 to 1 over the steps."""
    reads_pairs: ClassVar[bool] = False
    """Whether the difference compares rows of one side, so that weights must count rows."""

    def __init__(
        self,
        backbone: nn.Module,
        steps: int,
        rate: float,
        strength: float,
        update: Update,
        batch: int | None,
        seed: int,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        refuse_heads_and_maps(backbone, who)
        refuse_running(backbone, who)
        refuse_sizes(who, steps=steps, **({} if batch is None else {"batch": batch}))
        if not 0 < rate < math.inf or not 0 <= strength < math.inf:
            raise ValueError(
                f"{who}: rate must be positive and strength at least 0; found rate={rate}, "
                f"strength={strength}."
            )
        self.backbone, self.steps, self.rate, self.strength = backbone, steps, rate, strength
        self.update, self.batch, self.seed = update, batch, seed
        self.adapted = tuple(n for n, p in backbone.named_parameters() if p.requires_grad)
        by_batches = {} if batch is None else _BY_BATCHES
        self.exceptions = {"vmap_equals_loop": _LOOPED} | by_batches  # type: ignore[misc]

    @property
    def adapted_network(self) -> nn.Module:
        """The network whose weights move."""
        return self.backbone

    @abstractmethod
    def difference(self, source: Side, target: Side, weights: Weights, progress: float) -> Tensor:
        """The part () of the loss that makes the two sides alike, times ``strength``.

        ``weights``   those of :meth:`own_parts`.
        ``progress``  share of the steps that are done, in [0, 1).
        """

    def own_parts(self, features: Tensor) -> Weights:
        """Weights that :meth:`difference` learns beside the network's, at their start."""
        return {}

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The network after the steps on ``support``.

        Raises ValueError for source rows without any row of the target, where the weights do not
        stay finite, and where rows are compared whose weights sum to less than 2.
        """
        transfers = bool(((support.weights > 0) & ~is_target(support)).any())
        if transfers:
            refuse_without_target(type(self).__name__, support)
            if self.reads_pairs:
                _refuse_shares(type(self).__name__, support)
        self._test_reach(support, spec)
        run = _Run(self, support, spec, transfers)
        with torch.no_grad():
            end = last(self._descent(run.start).along(run.gradients, run.start))
            state = run.state(end)
        self._refuse_infinite(end)
        return state

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits or real numbers (n, outputs)."""
        head = state["head"]
        outputs = self.embed(state, inputs) @ head["weight"].mT + head["bias"]
        return without_absent(outputs, state.get("present"))

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d) of the trained network."""
        own = dict(self.backbone.named_parameters())
        weights = {name: own[name] + moved for name, moved in state["difference"].items()}
        network = partial(call_with, self.backbone, weights)
        return embed_query(network, inputs, state["statistics"])

    def moving(self) -> list[str]:
        """Names of what moves now: what is trainable, or all where the whole learner is frozen.

        Raises ValueError where all that could move, but not all of the learner, is frozen.
        """
        parameters = dict(self.backbone.named_parameters())
        free = [name for name in self.adapted if parameters[name].requires_grad]
        if self.adapted and not free and any(p.requires_grad for p in self.parameters()):
            raise ValueError(
                f"{type(self).__name__}: what moves is what is trainable, but all that it was made "
                f"to move is frozen now ({first_few(self.adapted, 4)}). Set requires_grad=True for "
                "some of it, or make the learner again."
            )
        return free or list(self.adapted)

    def _test_reach(self, support: Examples, spec: TaskSpec) -> None:
        """ValueError, in the first call, where moved weights do not reach the computation."""
        if self._reach_tested or not can_be_tested():
            return
        own = dict(self.backbone.named_parameters())
        loss = SupportLoss(self.backbone, support, spec)
        refuse_unreachable(loss, {name: own[name] for name in self.moving()}, type(self).__name__)
        self._reach_tested = True

    def _descent(self, start: Weights) -> Descent:
        if not self.annealed:
            return Descent(self.steps, self.rate, self.update)
        rates = [self.rate / (1 + 10 * k / self.steps) ** 0.75 for k in range(self.steps)]
        like = next(iter(start.values()))
        by_name = [dict.fromkeys(start, like.new_tensor(rate)) for rate in rates]
        return Descent(self.steps, by_name, self.update)

    def _refuse_infinite(self, weights: Weights) -> None:
        if not all(bool(weight.isfinite().all()) for weight in weights.values()):
            raise ValueError(
                f"{type(self).__name__}: the weights must stay finite, but some became NaN or "
                f"infinite in {self.steps} steps at rate {self.rate}. Lower rate or strength, or "
                "scale the inputs."
            )


def _refuse_shares(who: str, support: Examples) -> None:
    """ValueError for several rows of a side that together count for fewer than 2.

    Weights that sum to 1 would leave no pair of rows to compare, and so no alignment at all.
    """
    target = is_target(support)
    for whose, side in (("sources", ~target), ("the target", target)):
        weights = support.weights[side & (support.weights > 0)]
        if len(weights) > 1 and float(weights.sum()) < 2:
            raise ValueError(
                f"{who}: weights say how many rows a row counts for, so those of a side must sum "
                f"to at least 2; found a sum of {float(weights.sum()):g} for "
                f"{count(len(weights), 'row')} of {whose}. Multiply them by the number of rows."
            )


_LOOPED = "the rows of source and target are told apart by value, and have numbers of their own"
_BY_BATCHES = {
    "support_order_is_irrelevant": "rows get into batches by their order",
    "weight_two_is_twice": "two equal rows may get into two batches",
}


class _Run:
    """The steps on one support set."""

    def __init__(
        self, learner: DeepAligner, support: Examples, spec: TaskSpec, transfers: bool
    ) -> None:
        self.learner, self.spec, self.transfers = learner, spec, transfers
        present = support.weights > 0
        self.support = take(support, present) if bool(present.any()) else support
        self.present = present_entry(labelled(self.support, spec.answer), spec)
        target = is_target(self.support)
        self.sides = ((~target).nonzero()[:, 0], target.nonzero()[:, 0])
        self.replica = Replica(learner.backbone)
        own = dict(learner.backbone.named_parameters())
        self.own = {_BODY + name: own[name].detach() for name in learner.moving()}
        with torch.no_grad():
            features = self._features(self.support, {})
            head = {
                _WEIGHT: features.new_zeros(spec.outputs, features.shape[-1]),
                _BIAS: features.new_zeros(spec.outputs),
            }
            parts = learner.own_parts(features) if transfers else {}
        self.start: Weights = {**self.own, **head, **parts}
        self._batches, self._step = self._draw_batches(), 0

    def gradients(self, weights: Weights) -> Weights:
        """The gradient of the next step."""
        batch, progress = next(self._batches), self._step / self.learner.steps
        self._step += 1
        return constant(gradients_of(lambda w: self.loss(w, batch, progress)))(weights)

    def loss(self, weights: Weights, batch: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """The loss of the labelled rows of both sides, and the difference of the sides."""
        rows = take(self.support, torch.cat(batch))
        features = self._features(rows, weights)
        outputs = features @ weights[_WEIGHT].mT + weights[_BIAS]
        logits = without_absent(outputs, self.present.get("present"))
        loss = mean_loss(logits, rows, self.spec.answer)
        if not self.transfers:
            return loss
        n = len(batch[0])
        source, target = (
            Side(features[part], outputs[part], rows.weights[part])
            for part in (slice(None, n), slice(n, None))
        )
        return loss + self.learner.difference(source, target, weights, progress)

    def state(self, weights: Weights) -> State:
        """The state of the predictor under these weights."""
        statistics = embed_support(partial(self._call, weights), self.support)[1]
        return {
            "difference": {
                name.removeprefix(_BODY): weights[name] - own for name, own in self.own.items()
            },
            "head": {"weight": weights[_WEIGHT], "bias": weights[_BIAS]},
            "statistics": statistics,
            **self.present,
        }

    def _features(self, rows: Examples, weights: Weights) -> Tensor:
        return embed_support(partial(self._call, weights), rows)[0]

    def _call(self, weights: Weights, inputs: Any) -> Tensor:
        body = {n.removeprefix(_BODY): w for n, w in weights.items() if n.startswith(_BODY)}
        features: Tensor = self.replica(body, inputs)
        return features

    def _draw_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of both sides for each step."""
        generator = torch.Generator().manual_seed(self.learner.seed)
        streams = [_rounds(rows, self.learner.batch, generator) for rows in self.sides]
        while True:
            yield (next(streams[0]), next(streams[1]))


def _rounds(rows: Tensor, size: int | None, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of ``size`` of the ``rows``: all in turn, and then again in another order."""
    waiting = rows[:0]
    while True:
        if size is None or len(rows) <= size:
            yield rows
            continue
        if len(waiting) < size:
            order = torch.randperm(len(rows), generator=generator).to(rows.device)
            waiting = torch.cat([waiting, rows[order]])
        yield waiting[:size]
        waiting = waiting[size:]
