"""MAML++: how to train your MAML, with learnt rates and a loss after every inner step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import counting
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.learners.gradient.descend import Weights
from quickstudy.learners.gradient.meta_gradients import Exact, FirstOrder
from quickstudy.learners.gradient.network import (
    SupportLoss,
    answer,
    features,
    refuse_numbers,
    refuse_running,
)
from quickstudy.learners.objectives import Outcome
from quickstudy.tasks.examples import labelled, weighted_mean
from quickstudy.tasks.metrics import score


def multi_step_loss(learner: MAMLPlusPlus, task: Task) -> Outcome:
    """sum_k v_k L_query(θ_k): query losses after the inner steps, weighted by training's progress.

    The score is that of the last step. Steps of weight zero are not computed.
    """
    query, spec = labelled(task.query), task.spec
    losses, predictions = [], torch.empty(0)
    states = learner.trajectory(task.support, spec)[1:]
    for share, state in zip(learner.step_shares(), states, strict=True):
        if share > 0:
            with counting(query.weights):
                predictions = learner.predict(state, query.inputs, spec)
            loss = weighted_mean(spec.loss(predictions, query.targets), query.weights)
            losses.append(share * loss)
    return Outcome(torch.stack(losses).sum(), score(predictions.detach(), query))


class MAMLPlusPlus(Learner):
    """Maps a support set to the backbone after a few gradient steps at learnt rates.

        θ_{k+1,l} = θ_{k,l} - rates_{k,l} * ∇_l L_support(θ_k),     k = 0 … steps - 1
        minimise    sum_k v_k L_query(θ_k)  over tasks

    Each ingredient can be left out, and without all of them it is MAML.

    ``backbone``      inputs (n, ...) -> predictions (n, outputs or more): ``Conv4(outputs=5)``.
    ``steps``         inner steps, in training and testing alike; 5 in the paper.
    ``rate``          inner learning rate, or where learnt ones start; 0.1 in the paper's Omniglot.
    ``learn_rates``   one rate for each parameter tensor l and step k (LSLR).
    ``multi_step``    share of training over which v goes from 1 / steps each to the last step alone
                      (MSL); 0 for the last step from the start.
    ``first_order``   share of training, at its beginning, without second derivatives (DA); 0 for
                      exact meta-gradients throughout.
    ``recompute``     less memory for more time; see :class:`meta_gradients.Exact`.

    State: the adapted ``weights`` by name; ``present`` (ways,) for classification; ``statistics``
    for norm="support".

    Raises ValueError for numbers that are not positive, shares that are not in [0, 1], and for
    norm="running", whose population statistics belong to no adapted weights.

    Reference: Antoniou, Edwards and Storkey (2019), How to Train Your MAML, section 4.
    Differs from the paper in the norm: norm="batch" takes the statistics of the rows at hand, and
    there are no running statistics or biases for each step (BNRS, BNWB). v falls to zero along a
    line, where the paper's code stops a little above. The outer rate's cosine (CA) is the
    ``schedule`` of ``fit``.

    >>> import quickstudy as qs
    >>> learner = qs.MAMLPlusPlus(qs.backbones.MLP(outputs=1), steps=2, rate=0.01)
    >>> support = qs.examples([[0.0], [1.0]], [[0.0], [1.0]])
    >>> learner(support, qs.regression())(support.inputs).shape
    torch.Size([2, 1])
    """

    differentiates = True
    objective = staticmethod(multi_step_loss)  # type: ignore[assignment]
    exceptions = {  # noqa: RUF012  (a ClassVar in Learner)
        "relabelling_permutes_outputs": "the initial head is learnt: every way starts from its own"
    }

    def __init__(
        self,
        backbone: nn.Module,
        steps: int = 5,
        rate: float = 0.1,
        learn_rates: bool = True,
        multi_step: float = 0.1,
        first_order: float = 0.3,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        refuse_numbers("MAMLPlusPlus", steps, rate, clip=None, test_steps=None)
        for name, share in (("multi_step", multi_step), ("first_order", first_order)):
            if not 0 <= share <= 1:
                raise ValueError(
                    f"MAMLPlusPlus: {name} is a share of training in [0, 1]; found {share}."
                )
        refuse_running(backbone, "MAMLPlusPlus")
        self.backbone, self.steps, self.rate = backbone, steps, rate
        self.learn_rates, self.multi_step, self.first_order = learn_rates, multi_step, first_order
        self.recompute = recompute
        if learn_rates:
            tensors = len(list(backbone.parameters()))
            self.rates = nn.Parameter(torch.full((steps, tensors), rate))

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The backbone's weights after the inner steps on ``support``."""
        loss = SupportLoss(self.backbone, support, spec)
        return loss.state(self._descend(loss)[-1])

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs) of the adapted backbone."""
        return answer(self.backbone, state, inputs, spec)

    def embed(self, state: State, inputs: Any) -> Tensor | None:
        """What the adapted backbone gives its head: (n, d); None for one without a ``head``."""
        return features(self.backbone, state, inputs)

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State]:
        """The state after 0, 1, … inner steps."""
        loss = SupportLoss(self.backbone, support, spec)
        return [loss.state(weights) for weights in self._descend(loss)]

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """(steps,) rates by the name of the parameter that they move."""
        if not self.learn_rates:
            return {}
        names = [name for name, _ in self.backbone.named_parameters()]
        return dict(zip(names, self.rates.unbind(1), strict=True))

    def step_shares(self) -> list[float]:
        """v: the share of each inner step in the objective, at this point of training."""
        early = max(0.0, 1 - self.progress / self.multi_step) if self.multi_step else 0.0
        others = [early / self.steps] * (self.steps - 1)
        return [*others, 1 - sum(others)]

    def _descend(self, loss: SupportLoss) -> list[Weights]:
        early = self.progress < self.first_order
        meta_gradient = FirstOrder() if early else Exact(self.recompute)
        rates = self.learnt_rates()
        path: list[Weights] = [dict(self.backbone.named_parameters())]
        for k in range(self.steps):
            rate = {name: each[k] for name, each in rates.items()} if rates else self.rate
            path.append(meta_gradient.descend(loss, path[-1], 1, rate)[-1])
        return path
