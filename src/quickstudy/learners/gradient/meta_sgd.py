"""Meta-SGD: learn, beside the initialisation, a rate for every single weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.gradient.annealed import FollowsTraining
from quickstudy.learners.gradient.descend import Descent, Update, Weights, sgd
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


class MetaSGD(FollowsTraining, Learner):
    """Maps a support set to the backbone after steps whose direction and length are learnt.

        θ' = θ - α ∘ ∇ L_support(θ)                                        (equation 2)
        predict = f_{θ'}

    α has one entry per weight and is trained together with θ. Its signs are free: a step may go up
    the gradient.

    ``backbone``  inputs (n, ...) -> predictions (n, outputs or more): ``Conv4(outputs=5)``.
    ``steps``     inner steps, all with the same α; 1 in the paper.
    ``lowest``, ``highest``  α starts uniformly between them; the paper's range is 0.005 to 0.1.
    ``meta_gradient``, ``adapts``, ``update``, ``clip``, ``test_steps``
                  as for :class:`quickstudy.MAML`, but ``Implicit`` gives α no gradient and is
                  refused; what does not adapt has no α.

    State: the adapted ``weights`` by name; ``present`` (ways,) for classification; ``statistics``
    for norm="support".

    Raises ValueError for numbers that are not positive, ``lowest`` above ``highest``, no pattern or
    one that no parameter matches, a backbone built without outputs, and norm="running", whose
    population statistics belong to no adapted weights.

    Reference: Li, Zhou, Chen and Li (2017), Meta-SGD: Learning to Learn Quickly for Few-Shot
    Learning.
    Differs from the paper in the norm, which is the backbone's choice (the paper's Omniglot
    figures, in MAML's setting, are presumably transductive: norm="batch").

    >>> import torch, quickstudy as qs
    >>> learner = qs.MetaSGD(qs.backbones.MLP(outputs=1))
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> support = qs.examples(x, x)
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
        lowest: float = 0.005,
        highest: float = 0.1,
        meta_gradient: MetaGradient = Exact(),  # noqa: B008  (frozen)
        adapts: str | Sequence[str] = ("*",),
        update: Update = sgd,
        clip: float | None = None,
        test_steps: int | None = None,
    ) -> None:
        super().__init__()
        adapts = (adapts,) if isinstance(adapts, str) else tuple(adapts)
        refuse_numbers("MetaSGD", steps, test_steps, clip=clip)
        if not lowest <= highest:
            raise ValueError(
                f"MetaSGD: needs lowest <= highest; found lowest={lowest}, highest={highest}."
            )
        meta_gradient.check("MetaSGD", steps, None, update)
        refuse_features(backbone, "MetaSGD")
        refuse_running(backbone, "MetaSGD")
        self._adapted = parameters_matching(backbone, adapts, "MetaSGD")
        self.backbone, self.steps, self.lowest, self.highest = backbone, steps, lowest, highest
        self.meta_gradient, self.adapts = meta_gradient, adapts
        self.update, self.clip, self.test_steps = update, clip, test_steps
        own = dict(backbone.named_parameters())
        # In the order of the backbone's parameters: their names have dots, which a ParameterDict
        # cannot hold.
        self.rates = nn.ParameterList(
            torch.empty_like(own[name]).uniform_(lowest, highest) for name in self._adapted
        )

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """α by the name of the weight that it moves."""
        return dict(zip(self._adapted, self.rates, strict=True))

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The backbone's weights after the learnt steps on ``support``."""
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

    def _descend(self, loss: SupportLoss) -> list[Weights]:
        own = dict(self.backbone.named_parameters())
        start: Weights = {name: own[name] for name in self._adapted}
        rates, way = dict(self.learnt_rates()), self.meta_gradient.at(self.progress)
        descent = Descent(steps_now(self), rates, self.update, self.clip)
        return way.descend(loss, start, descent)
