"""BOIL: body only in the inner loop; gradient steps adapt everything but the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.gradient import rates
from quickstudy.learners.gradient.annealed import FollowsTraining
from quickstudy.learners.gradient.descend import Descent, Update, Weights, sgd
from quickstudy.learners.gradient.dual import answers_over_tasks
from quickstudy.learners.gradient.meta_gradients import Exact, MetaGradient
from quickstudy.learners.gradient.network import (
    SupportLoss,
    answer,
    features,
    refuse_headless,
    refuse_numbers,
    refuse_running,
    steps_now,
)


class BOIL(FollowsTraining, Learner):
    """Maps a support set to the backbone after a few gradient steps of its body alone.

        f_{k+1} = f_k - rate * ∇_f L_support(h ∘ f_k),     k = 0 … steps - 1
        predict = h ∘ f_steps

    The head h learns over tasks and stays as it is within one, so the features must come to it.

    ``backbone``       inputs (n, ...) -> predictions (n, outputs or more), ending in a linear
                       ``head``: ``Conv4(outputs=5)``.
    ``steps``, ``rate``, ``meta_gradient``, ``update``, ``clip``, ``test_steps``, ``learn_rates``
                       as for :class:`quickstudy.MAML`.

    State: the body's adapted ``weights`` by name; ``present`` (ways,) for classification;
    ``statistics`` for norm="support".

    Raises ValueError for numbers that are not positive, for settings that ``meta_gradient`` cannot
    work with, for a backbone without linear ``head``, and for norm="running", whose population
    statistics belong to no adapted weights.

    Reference: Oh, Yoo, Kim and Yun (2021), BOIL: Towards Representation Change for Few-shot
    Learning.
    Differs from the paper in the norm, as MAML does.

    >>> import quickstudy as qs
    >>> learner = qs.BOIL(qs.backbones.MLP(outputs=1), steps=1, rate=0.01)
    >>> support = qs.examples([[0.0], [1.0]], [[0.0], [1.0]])
    >>> learner(support, qs.regression())(support.inputs).shape
    torch.Size([2, 1])
    """

    differentiates = True
    exceptions = {  # noqa: RUF012  (a ClassVar in Learner)
        "relabelling_permutes_outputs": "the head is learnt: every way has weights of its own"
    }

    def __init__(
        self,
        backbone: nn.Module,
        steps: int = 1,
        rate: float = 0.4,
        meta_gradient: MetaGradient = Exact(),  # noqa: B008  (frozen)
        update: Update = sgd,
        clip: float | None = None,
        test_steps: int | None = None,
        learn_rates: bool = False,
    ) -> None:
        super().__init__()
        refuse_numbers("BOIL", steps, test_steps, rate, clip)
        meta_gradient.check("BOIL", steps, None if learn_rates else rate, update)
        refuse_headless(backbone, "BOIL")
        refuse_running(backbone, "BOIL")
        self.backbone, self.steps, self.rate = backbone, steps, rate
        self.meta_gradient, self.update, self.clip = meta_gradient, update, clip
        self.test_steps, self.learn_rates = test_steps, learn_rates
        names = list(self._body)
        self.rates = rates.learnt(names, steps, rate, backbone) if learn_rates else None

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The body's weights after the inner steps on ``support``."""
        loss = SupportLoss(self.backbone, support, spec)
        return loss.state(self._descend(loss)[-1])

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs) of the adapted body under the head."""
        return answer(self.backbone, state, inputs, spec)

    def over_tasks(self, support: Examples, inputs: Any, spec: TaskSpec) -> Tensor | None:
        """Predictions (tasks, n, outputs) of many tasks, where linear layers alone adapt."""
        return answers_over_tasks(
            self.backbone,
            list(self._body),
            self.meta_gradient,
            self._descent(),
            support,
            inputs,
            spec,
        )

    def embed(self, state: State, inputs: Any) -> Tensor | None:
        """What the adapted body gives the head: (n, d)."""
        return features(self.backbone, state, inputs)

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State]:
        """The state after 0, 1, … inner steps."""
        loss = SupportLoss(self.backbone, support, spec)
        return [loss.state(weights) for weights in self._descend(loss)]

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """(steps,) rates by the name of the body's parameter that they move."""
        return rates.by_name(self.rates, list(self._body))

    def _descend(self, loss: SupportLoss) -> list[Weights]:
        return self.meta_gradient.at(self.progress).descend(loss, self._body, self._descent())

    def _descent(self) -> Descent:
        by_step = rates.by_step(self.rates, list(self._body), self.rate)
        return Descent(steps_now(self), by_step, self.update, self.clip)

    @property
    def _body(self) -> Weights:
        own = self.backbone.named_parameters()
        return {name: p for name, p in own if not name.startswith("head.")}
