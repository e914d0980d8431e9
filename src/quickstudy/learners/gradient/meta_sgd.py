"""Meta-SGD: learn, beside the initialisation, a rate for every single weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.gradient.descend import Weights
from quickstudy.learners.gradient.meta_gradients import Exact, Implicit, MetaGradient
from quickstudy.learners.gradient.network import SupportLoss, answer, features, refuse_running


class MetaSGD(Learner):
    """Maps a support set to the backbone after steps whose direction and length are learnt.

        θ' = θ - α ∘ ∇ L_support(θ)                                        (equation 2)
        predict = f_{θ'}

    α has one entry per weight and is trained together with θ. Its signs are free: a step may go up
    the gradient.

    ``backbone``  inputs (n, ...) -> predictions (n, outputs or more): ``Conv4(outputs=5)``.
    ``steps``     inner steps, all with the same α; 1 in the paper.
    ``lowest``, ``highest``  α starts uniformly between them; the paper's range is 0.005 to 0.1.
    ``meta_gradient``  as for :class:`quickstudy.MAML`; ``Implicit`` gives α no gradient and is
                       refused.
    ``test_steps``     steps in evaluation mode; None for as many as in training.

    State: the adapted ``weights`` by name; ``present`` (ways,) for classification; ``statistics``
    for norm="support".

    Raises ValueError for ``steps`` below 1, ``lowest`` above ``highest``, and norm="running", whose
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
        test_steps: int | None = None,
    ) -> None:
        super().__init__()
        if min(steps, 1 if test_steps is None else test_steps) < 1 or lowest > highest:
            raise ValueError(
                "MetaSGD: needs steps and test_steps >= 1 and lowest <= highest; found "
                f"steps={steps}, test_steps={test_steps}, lowest={lowest}, highest={highest}."
            )
        if isinstance(meta_gradient, Implicit):
            raise ValueError(
                "MetaSGD: Implicit() gives the learnt rates no gradient, because where its steps "
                "lead to does not depend on them. Use Exact(), FirstOrder() or FiniteDifference()."
            )
        refuse_running(backbone, "MetaSGD")
        self.backbone, self.steps, self.lowest, self.highest = backbone, steps, lowest, highest
        self.meta_gradient, self.test_steps = meta_gradient, test_steps
        # In the order of the backbone's parameters: their names have dots, which a ParameterDict
        # cannot hold.
        self.rates = nn.ParameterList(
            torch.empty_like(p).uniform_(lowest, highest) for p in backbone.parameters()
        )

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """α by the name of the weight that it moves."""
        names = (name for name, _ in self.backbone.named_parameters())
        return dict(zip(names, self.rates, strict=True))

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
        start: Weights = dict(self.backbone.named_parameters())
        steps = self.steps if self.training else self.test_steps or self.steps
        return self.meta_gradient.descend(loss, start, steps, dict(self.learnt_rates()))
