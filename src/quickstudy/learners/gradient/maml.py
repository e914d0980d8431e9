"""MAML: learn an initialisation from which a few gradient steps solve a new task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    parameters_matching,
    refuse_features,
    refuse_numbers,
    refuse_running,
    steps_now,
)


class MAML(FollowsTraining, Learner):
    """Maps a support set to the backbone after a few gradient steps on it.

        θ_0     = θ
        θ_{k+1} = θ_k - rate * ∇ L_support(θ_k),     k = 0 … steps - 1       (algorithm 1)
        predict = f_{θ_steps}

    ``backbone``       inputs (n, ...) -> predictions (n, outputs or more): ``Conv4(outputs=5)``.
    ``steps``          inner steps; the paper takes 1 for sinusoids and Omniglot at 5 ways, 5 at 20.
    ``rate``           inner learning rate; in the paper 0.4 for Omniglot at 5 ways, 0.1 at 20 ways,
                       and 0.01 for sinusoids.
    ``meta_gradient``  how the meta-gradient passes back through the steps: exactly, as here by
                       default and in the paper, or as another of
                       :mod:`quickstudy.learners.gradient.meta_gradients`. ``Implicit`` also adds a
                       pull towards θ to the support loss.
    ``adapts``         name patterns of the parameters that the steps change, for example
                       ``"head.*"`` or ``("blocks.3.*", "head.*")``; all by default.
    ``update``         what a step makes of a gradient: ``sgd``, ``Momentum()``, ``Adam()`` of
                       :mod:`quickstudy.learners.gradient.descend`, or a function of your own.
    ``clip``           greatest length of the gradient of all adapted weights together, before
                       ``update``; None for any.
    ``test_steps``     steps in evaluation mode; None for as many as in training.
    ``learn_rates``    learn a rate for each step and parameter tensor (LSLR of MAML++), starting at
                       ``rate``. Steps beyond ``steps`` take those of the last.

    State: the adapted ``weights`` by name; ``present`` (ways,) for classification;
    ``statistics`` for norm="support".

    Raises ValueError for numbers that are not positive, for no pattern or one that no parameter
    matches, for settings that ``meta_gradient`` cannot work with, for a backbone built without
    outputs, and for norm="running", whose population statistics belong to no adapted weights.

    Reference: Finn, Abbeel and Levine (2017), Model-Agnostic Meta-Learning for Fast Adaptation of
    Deep Networks.
    Differs from the paper in the norm, which is the backbone's choice: the paper's Omniglot figures
    are transductive (norm="batch").

    >>> import quickstudy as qs
    >>> learner = qs.MAML(qs.backbones.MLP(outputs=1), steps=1, rate=0.01)
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
        adapts: str | Sequence[str] = ("*",),
        update: Update = sgd,
        clip: float | None = None,
        test_steps: int | None = None,
        learn_rates: bool = False,
    ) -> None:
        super().__init__()
        adapts = (adapts,) if isinstance(adapts, str) else tuple(adapts)
        refuse_numbers("MAML", steps, test_steps, rate, clip)
        meta_gradient.check("MAML", steps, None if learn_rates else rate, update)
        refuse_features(backbone, "MAML")
        refuse_running(backbone, "MAML")
        self._adapted = parameters_matching(backbone, adapts, "MAML")
        self.backbone, self.steps, self.rate = backbone, steps, rate
        self.meta_gradient, self.adapts = meta_gradient, adapts
        self.update, self.clip, self.test_steps = update, clip, test_steps
        self.learn_rates = learn_rates
        self.rates = rates.learnt(self._adapted, steps, rate, backbone) if learn_rates else None

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The backbone's weights after the inner steps on ``support``."""
        loss = SupportLoss(self.backbone, support, spec)
        return loss.state(self._descend(loss)[-1])

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs) of the adapted backbone."""
        return answer(self.backbone, state, inputs, spec)

    def over_tasks(self, support: Examples, inputs: Any, spec: TaskSpec) -> Tensor | None:
        """Predictions (tasks, n, outputs) of many tasks, where linear layers alone adapt."""
        return answers_over_tasks(
            self.backbone, self._adapted, self.meta_gradient, self._descent(), support, inputs, spec
        )

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
        return self.meta_gradient.at(self.progress).descend(loss, start, self._descent())

    def _descent(self) -> Descent:
        by_step = rates.by_step(self.rates, self._adapted, self.rate)
        return Descent(steps_now(self), by_step, self.update, self.clip)
