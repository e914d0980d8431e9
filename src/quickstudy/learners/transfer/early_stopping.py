"""Fine-tuning of a whole network, up to the step that predicts held-out support rows best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.base.modules import values_can_be_read
from quickstudy.base.weighting import counting_exactly
from quickstudy.core import Examples, Learner, Predictor, State, Task, TaskSpec
from quickstudy.learners.gradient.descend import (
    Adam,
    Update,
    Weights,
    clipped,
    constant,
    gradients_of,
)
from quickstudy.learners.gradient.gradient_learner import GradientLearner
from quickstudy.learners.gradient.inner_loop import InnerLoop
from quickstudy.learners.gradient.meta_gradients import FirstOrder
from quickstudy.learners.gradient.network import SupportLoss, check_backbone
from quickstudy.learners.gradient.reptile import class_by_class_keys
from quickstudy.objectives import predict_rows
from quickstudy.tasks.examples import labelled, take, weighted_mean

GOLDEN = (math.sqrt(5) - 1) / 2


def multitask_loss(learner: Learner, task: Task) -> Tensor:
    """The mean loss of the network, without any step, over all rows of the task.

    Averaged over tasks, it pretrains the network on all of them together. It suits tasks whose
    outputs mean the same, such as words; class ids of episodes mean something else in each.
    """
    predictor = Predictor(learner, learner.prior(task.spec), task.spec)  # type: ignore[operator]
    losses, counts = [], []
    for rows in (task.support, task.query):
        of_rows, share = task.spec.answer.loss_and_share(
            predict_rows(predictor, rows), rows.targets
        )
        losses.append(of_rows)
        counts.append(rows.weights * share)
    return weighted_mean(torch.cat(losses), torch.cat(counts))


class Parts(NamedTuple):
    """A support set in two parts, whose sizes may depend on the values of its weights.

    ``rows``     all of them (n).
    ``order``    (n,): numbers of the fitted rows in the order of batches, then of all others.
    ``fitted``   (): how many rows are fitted.
    ``is_held``  (n,): which rows are held out.
    """

    rows: Examples
    order: Tensor
    fitted: Tensor
    is_held: Tensor


def parted(rows: Examples, spec: TaskSpec, share: float) -> Parts:
    """``rows`` with about this ``share`` of them held out; those of weight 0 are in neither part.

    Held out are the last rows of each class, or every so many rows in the order of their lengths.
    """
    answer, present, n = spec.answer, rows.weights > 0, len(rows.weights)
    count = present.sum()
    held = (share * count).long()
    if isinstance(answer, Classes):
        keys = class_by_class_keys(rows, answer)
        classes = answer.present(rows.targets, rows.weights)
        if classes is not None:
            held = torch.minimum(held, count - classes.sum())
    else:
        known = answer.known(rows.targets)
        lengths = known.long() if known.ndim == 1 else known.flatten(1).sum(1)
        keys = lengths * n + torch.arange(n, device=lengths.device)
    keys = torch.where(present, keys, keys.max() + 1)
    rank = keys.argsort(stable=True).argsort(stable=True)
    if isinstance(answer, Classes):
        is_held = present & (rank >= count - held)
    else:  # evenly: at each rank where the whole number of held rows grows
        total = count.clamp_min(1)
        is_held = present & ((rank + 1) * held // total > rank * held // total)
    order = torch.where(present & ~is_held, keys, keys.max() + 1).argsort(stable=True)
    return Parts(rows, order, count - held, is_held)


def batch_of(split: Parts, step: int, size: int) -> Examples:
    """A run of ``size`` fitted rows; runs of successive steps are spread over all of them.

    They begin at the shares 0.5 + 0.618… ``step``, modulo 1, of the rows: the multiples of the
    golden section, of which any number are about evenly spread.
    """
    place = torch.arange(min(size, len(split.order)), device=split.order.device)
    begin = (math.fmod(0.5 + step * GOLDEN, 1.0) * split.fitted).long()
    chosen = split.order[(begin + place) % split.fitted.clamp_min(1)]
    rows = take(split.rows, chosen)
    return rows._replace(weights=rows.weights * (place < split.fitted))


class EarlyStopping(GradientLearner):
    """Maps a support set to the pretrained network after the best number of steps on it.

        θ_{k+1} = update(θ_k, ∇ L_batch(θ_k), rate),        batches of the fitted rows
        predict = f_{θ_k},   k = argmin L_held(θ_k)  over k = 0, every, 2 every, … steps

    A part of the support is held out. Steps end early where the loss on it has not fallen
    ``patience`` times in a row. All weights move, so that small support sets would be learnt by
    heart; k says how far the network may go.

    Pretrained on all tasks together (:func:`multitask_loss`, its own objective), this is
    multilingual pretraining and fine-tuning where tasks are languages; meta-learn the network by
    MAML before, and it is that start which is fine-tuned; untrained, it learns from the support
    alone.

    ``backbone``  inputs (n, ...) -> predictions (n, outputs or more).
    ``steps``     the most steps.
    ``rate``      of the steps.
    ``batch``     rows of a step. Rows are ordered by the number of their known targets, so that
                  those of a batch are about equally long; a step takes a run of them. Classes are
                  mixed.
    ``held_out``  share of the support that is held out, below 1. The number of rows is rounded
                  down, and no class loses its only row: where that leaves none, all steps are made.
    ``every``     steps between looks at the held-out part.
    ``patience``  looks in a row that do not improve, after which the steps end.
    ``update``    the update rule, Adam by default.
    ``clip``      greatest norm of the gradient of all weights together, before ``update``; or None.
    ``adapts``    name patterns of the parameters that move.

    State: the adapted ``weights`` by name; ``present`` where the answer has classes;
    ``statistics`` for norm="support"; ``stopped`` (), the number of steps that was best.

    Differentiated, it is of first order: the steps count as constants.

    Raises ValueError for numbers out of range, and for what :class:`quickstudy.MAML` refuses.

    Reference: Prechelt (1998), Early Stopping, But When?; Gu et al. (2018), Meta-Learning for
    Low-Resource Neural Machine Translation, section 4, where target languages are fine-tuned so.
    Differs from these in that a stop is decided by the loss and not by a score of decoded text.

    >>> import torch, quickstudy as qs
    >>> learner = qs.EarlyStopping(qs.backbones.MLP(in_features=2, outputs=1), steps=20)
    >>> support = qs.examples(torch.eye(2).repeat(8, 1), torch.ones(16, 1))
    >>> learner(support, qs.regression())(support.inputs).shape
    torch.Size([16, 1])
    """

    exceptions = {  # noqa: RUF012  (a ClassVar in Learner)
        **GradientLearner.exceptions,
        "support_order_is_irrelevant": "rows get into batches and the held-out part by their order",
        "weight_two_is_twice": "two equal rows may get into two parts, or two batches",
    }
    objective = staticmethod(multitask_loss)

    def __init__(
        self,
        backbone: nn.Module,
        steps: int = 200,
        rate: float = 1e-3,
        batch: int = 16,
        held_out: float = 0.15,
        every: int = 10,
        patience: int = 5,
        update: Update = Adam(),  # noqa: B008  (frozen)
        clip: float | None = 1.0,
        adapts: str | Sequence[str] = ("*",),
    ) -> None:
        for name, value in (("batch", batch), ("every", every), ("patience", patience)):
            if value < 1:
                raise ValueError(f"EarlyStopping: {name} must be at least 1; found {value}.")
        if not 0 <= held_out < 1:
            raise ValueError(
                f"EarlyStopping: held_out must be at least 0 and below 1; found {held_out}."
            )
        check_backbone(backbone, "EarlyStopping")
        inner = InnerLoop("EarlyStopping", steps, rate, FirstOrder(), adapts, update, clip)
        super().__init__(backbone, inner)
        self.backbone, self.batch, self.held_out = backbone, batch, held_out
        self.every, self.patience = every, patience

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The weights after the best number of steps, and that number."""
        self.test_reach_once(support, spec)
        start = self._start(self._support_loss(support, spec))
        with counting_exactly(support.weights):  # those of held-out rows become 0
            return self._stopped(support, spec, start)

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        """``state`` after further steps on ``support``, a part of which is held out again."""
        with counting_exactly(support.weights):
            return self._stopped(support, spec, state["weights"], state.get("present"))

    def _stopped(
        self, support: Examples, spec: TaskSpec, start: Weights, before: Tensor | None = None
    ) -> State:
        whole = self._support_loss(support, spec, before)
        split = parted(labelled(support, spec.answer), spec, self.held_out)
        own = {name: weight.detach() for name, weight in start.items()}
        weights = best = own
        least: Tensor | None = None
        none_held = ~split.is_held.any()
        stopped = since = torch.zeros_like(split.fitted)
        improving = torch.ones_like(split.fitted, dtype=torch.bool)
        for k, weights in enumerate(self._steps(split, spec, whole.present, own)):
            if k % self.every:
                continue
            loss = self._held_loss(split, spec, whole.present, weights)
            better = improving if least is None else improving & (loss < least)
            best = {n: torch.where(better, w, best[n]) for n, w in weights.items()}
            least = loss if least is None else torch.where(better, loss, least)
            stopped = torch.where(better, k, stopped)
            since = torch.where(better, 0, since + 1)
            improving = (improving & (since < self.patience)) | none_held
            # Under vmap tasks stop at different steps: there all steps are made, and those after
            # the stop change nothing.
            if values_can_be_read(improving) and not bool(improving):
                break
        best = {n: torch.where(none_held, w, best[n]) for n, w in weights.items()}
        # A zero that has the gradient of the start, of which the steps are constants.
        moved = {n: best[n] + (w - w.detach()) for n, w in start.items()}
        return whole.state(moved) | {"stopped": torch.where(none_held, self.steps_now, stopped)}

    def _steps(
        self, split: Parts, spec: TaskSpec, present: Tensor | None, weights: Weights
    ) -> Iterator[Weights]:
        """The weights after 0, 1, … steps on batches of the fitted rows."""
        memory = None
        yield weights
        for k in range(self.steps_now):
            rows = batch_of(split, k, self.batch)
            loss = SupportLoss(self.adapted_network, rows, spec, present)
            gradients = constant(gradients_of(loss))(weights)
            if self.clip is not None:
                gradients = clipped(gradients, self.clip)
            weights, memory = self.update(weights, gradients, self._rates_now(), memory)
            weights = {name: weight.detach() for name, weight in weights.items()}
            yield weights

    def _rates_now(self) -> float:
        assert self.inner.rate is not None
        return self.inner.rate

    @torch.no_grad()
    def _held_loss(
        self, split: Parts, spec: TaskSpec, present: Tensor | None, weights: Weights
    ) -> Tensor:
        rows = split.rows._replace(weights=split.rows.weights * split.is_held)
        if values_can_be_read(split.is_held) and bool(split.is_held.any()):
            rows = take(split.rows, split.is_held)  # the others would only cost time
        loss: Tensor = SupportLoss(self.adapted_network, rows, spec, present)(weights)
        return loss
