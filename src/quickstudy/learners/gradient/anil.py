"""ANIL: almost no inner loop; gradient steps adapt the head alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from quickstudy.backbones.norms import Statistics, embed_support
from quickstudy.base.modules import call_with
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
    head_of,
    passing,
    refuse_headless,
    refuse_numbers,
    steps_now,
)
from quickstudy.tasks.examples import labelled


class ANIL(FollowsTraining, Learner):
    """Maps a support set to the backbone under a head that took a few gradient steps on it.

        h_{k+1} = h_k - rate * ∇_h L_support(h_k ∘ f),     k = 0 … steps - 1
        predict = h_steps ∘ f

    Features f of the support rows are computed once, so steps cost next to nothing; the body learns
    through them, over tasks.

    ``backbone``       inputs (n, ...) -> predictions (n, outputs or more), ending in a linear
                       ``head``: ``Conv4(outputs=5)``.
    ``steps``, ``rate``, ``meta_gradient``, ``update``, ``clip``, ``test_steps``, ``learn_rates``
                       as for :class:`quickstudy.MAML`.

    State: the head's adapted ``weights`` by name; ``present`` (ways,) for classification;
    ``statistics`` for norm="support".

    Raises ValueError for numbers that are not positive, for settings that ``meta_gradient`` cannot
    work with, and for a backbone without linear ``head``.

    Reference: Raghu, Raghu, Bengio and Vinyals (2020), Rapid Learning or Feature Reuse? Towards
    Understanding the Effectiveness of MAML, section 4.
    Differs from the paper in the norm, as MAML does. Predictions and meta-gradients are those of
    ``MAML(backbone, adapts="head.*")``.

    >>> import quickstudy as qs
    >>> learner = qs.ANIL(qs.backbones.MLP(outputs=1), steps=5, rate=0.01)
    >>> support = qs.examples([[0.0], [1.0]], [[0.0], [1.0]])
    >>> learner(support, qs.regression())(support.inputs).shape
    torch.Size([2, 1])
    """

    differentiates = True
    exceptions = {  # noqa: RUF012  (a ClassVar in Learner)
        "relabelling_permutes_outputs": "the initial head is learnt: every way starts from its own"
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
        refuse_numbers("ANIL", steps, test_steps, rate, clip)
        meta_gradient.check("ANIL", steps, None if learn_rates else rate, update)
        refuse_headless(backbone, "ANIL")
        self.backbone, self.steps, self.rate = backbone, steps, rate
        self.meta_gradient, self.update, self.clip = meta_gradient, update, clip
        self.test_steps, self.learn_rates = test_steps, learn_rates
        self.rates = rates.learnt(self._names, steps, rate, backbone) if learn_rates else None

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The head's weights after the inner steps on ``support``."""
        return self.trajectory(support, spec)[-1]

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs) under the adapted head."""
        return answer(self.backbone, state, inputs, spec)

    def over_tasks(self, support: Examples, inputs: Any, spec: TaskSpec) -> Tensor | None:
        """Predictions (tasks, n, outputs) of many tasks, the backbone once for the rows of all."""
        names = [f"head.{name}" for name in self._names]
        return answers_over_tasks(
            self.backbone, names, self.meta_gradient, self._descent(names), support, inputs, spec
        )

    def embed(self, state: State, inputs: Any) -> Tensor | None:
        """Features (n, d), which no support set changes."""
        return features(self.backbone, state, inputs)

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State]:
        """The state after 0, 1, … inner steps."""
        head = self._head
        embedded, statistics = self._embedded(support)
        loss = SupportLoss(head, embedded, spec)
        start: Weights = dict(head.named_parameters())
        way = self.meta_gradient.at(self.progress)
        path = way.descend(loss, start, self._descent(self._names))
        return [loss.state(_in_backbone(weights)) | {"statistics": statistics} for weights in path]

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """(steps,) rates by the name of the head's parameter that they move."""
        return _in_backbone(rates.by_name(self.rates, self._names))

    def _descent(self, names: Sequence[str]) -> Descent:
        by_step = rates.by_step(self.rates, names, self.rate)
        return Descent(steps_now(self), by_step, self.update, self.clip)

    @property
    def _head(self) -> nn.Linear:
        return cast(nn.Linear, head_of(self.backbone))

    @property
    def _names(self) -> list[str]:
        return [name for name, _ in self._head.named_parameters()]

    def _embedded(self, support: Examples) -> tuple[Examples, Statistics]:
        """Support rows as the head sees them, and what the norms keep of them."""
        support = labelled(support)  # unlabelled rows count in no norm either
        body = passing(self._head)
        found, statistics = embed_support(
            lambda inputs: call_with(self.backbone, body, inputs), support
        )
        return support._replace(inputs=found), statistics


def _in_backbone(weights: Weights) -> Weights:
    return {f"head.{name}": weight for name, weight in weights.items()}
