"""MAML++: how to train your MAML, with learnt rates and a loss after every inner step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.gradient import rates
from quickstudy.learners.gradient.annealed import Annealed, FollowsTraining
from quickstudy.learners.gradient.descend import Descent, Update, Weights, sgd
from quickstudy.learners.gradient.meta_gradients import Exact, MetaGradient
from quickstudy.learners.gradient.multi_step import MultiStep
from quickstudy.learners.gradient.network import (
    SupportLoss,
    answer,
    features,
    parameters_matching,
    refuse_features,
    refuse_numbers,
    refuse_running,
    steps_now,
)


class MAMLPlusPlus(FollowsTraining, Learner):
    """Maps a support set to the backbone after a few gradient steps at learnt rates.

        θ_{k+1,l} = θ_{k,l} - rates_{k,l} * ∇_l L_support(θ_k),     k = 0 … steps - 1
        minimise    sum_k v_k L_query(θ_k)  over tasks

    The paper's ingredients together, with its settings as defaults. Each can be left out, and
    without all of them it is MAML; each can be had without the others too: ``learn_rates`` of
    :class:`quickstudy.MAML`, ANIL, BOIL and ProtoMAML, the meta-gradient :class:`Annealed`, and the
    objective :class:`MultiStep`.

    ``backbone``       inputs (n, ...) -> predictions (n, outputs or more): ``Conv4(outputs=5)``.
    ``steps``          inner steps; 5 in the paper.
    ``rate``           inner learning rate, or where learnt ones start; 0.1 in the paper's Omniglot.
    ``learn_rates``    one rate for each parameter tensor l and step k (LSLR).
    ``multi_step``     share of training over which v goes from 1 / steps each to the last step
                       alone (MSL); 0 for the last step from the start.
    ``first_order_until``  share of training, at its beginning, without second derivatives (DA); 0
                       for ``meta_gradient`` throughout.
    ``meta_gradient``  what follows first order; ``adapts``, ``update``, ``clip``, ``test_steps``
                       likewise as for :class:`quickstudy.MAML`.

    State: the adapted ``weights`` by name; ``present`` (ways,) for classification; ``statistics``
    for norm="support".

    Raises ValueError for numbers that are not positive, shares that are not in [0, 1], for no
    pattern or one that no parameter matches, for settings that ``meta_gradient`` cannot work with,
    for a backbone built without outputs, and for norm="running", whose population statistics belong
    to no adapted weights.

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
        first_order_until: float = 0.3,
        meta_gradient: MetaGradient = Exact(),  # noqa: B008  (frozen)
        adapts: str | Sequence[str] = ("*",),
        update: Update = sgd,
        clip: float | None = None,
        test_steps: int | None = None,
    ) -> None:
        super().__init__()
        adapts = (adapts,) if isinstance(adapts, str) else tuple(adapts)
        refuse_numbers("MAMLPlusPlus", steps, test_steps, rate, clip)
        meta_gradient.check("MAMLPlusPlus", steps, None if learn_rates else rate, update)
        refuse_features(backbone, "MAMLPlusPlus")
        refuse_running(backbone, "MAMLPlusPlus")
        self._adapted = parameters_matching(backbone, adapts, "MAMLPlusPlus")
        self._annealed = Annealed(first_order_until, meta_gradient)
        self.objective = MultiStep(multi_step)
        self.backbone, self.steps, self.rate = backbone, steps, rate
        self.learn_rates, self.multi_step = learn_rates, multi_step
        self.first_order_until, self.meta_gradient = first_order_until, meta_gradient
        self.adapts, self.update, self.clip, self.test_steps = adapts, update, clip, test_steps
        self.rates = rates.learnt(self._adapted, steps, rate, backbone) if learn_rates else None

    @property
    def scheduled(self) -> bool:
        """Whether first order comes first, or ``meta_gradient`` changes itself."""
        return self._annealed.scheduled

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
        return rates.by_name(self.rates, self._adapted)

    def _descend(self, loss: SupportLoss) -> list[Weights]:
        own = dict(self.backbone.named_parameters())
        start: Weights = {name: own[name] for name in self._adapted}
        by_step = rates.by_step(self.rates, self._adapted, self.rate)
        way = self._annealed.at(self.progress)
        descent = Descent(steps_now(self), by_step, self.update, self.clip)
        return way.descend(loss, start, descent)
