"""Meta-SGD: learn an initialisation and a learning rate for each weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from quickstudy.learners.gradient.descend import Update, sgd
from quickstudy.learners.gradient.gradient_learner import GradientLearner
from quickstudy.learners.gradient.inner_loop import InnerLoop
from quickstudy.learners.gradient.meta_gradients import Exact, MetaGradient
from quickstudy.learners.gradient.network import check_backbone, weights_of


class MetaSGD(GradientLearner):
    """Maps a support set to the backbone after steps whose direction and length are learnt.

        θ' = θ - α ∘ ∇ L_support(θ)                                        (equation 2)
        predict = f_{θ'}

    α has one entry per weight and is trained together with θ. Entries may become negative: a step
    may follow the gradient instead of its negative.

    ``backbone``  inputs (n, ...) -> predictions (n, outputs or more): ``Conv4(outputs=5)``.
    ``steps``     inner steps, all with the same α; 1 in the paper.
    ``lowest``, ``highest``  α starts uniformly between them; the paper's range is 0.005 to 0.1.
    ``meta_gradient``, ``adapts``, ``update``, ``clip``, ``test_steps``
                  as for :class:`quickstudy.MAML`, but ``Implicit`` gives α no gradient and is
                  refused. Only parameters that adapt have an α.

    State: as :class:`quickstudy.MAML`'s.

    Raises ValueError for numbers that are not positive, ``lowest`` above ``highest``, no pattern or
    one that no trainable parameter matches, a backbone built without outputs, and norm="running",
    whose population statistics are not those of adapted weights.

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
        if not lowest <= highest:
            raise ValueError(
                f"MetaSGD: needs lowest <= highest; found lowest={lowest}, highest={highest}."
            )
        inner = InnerLoop("MetaSGD", steps, None, meta_gradient, adapts, update, clip, test_steps)
        check_backbone(backbone, "MetaSGD")
        super().__init__(backbone, inner)
        self.backbone, self.lowest, self.highest = backbone, lowest, highest
        # A list in the order of the backbone's parameters: a ParameterDict allows no dots in names.
        self.rates = nn.ParameterList(
            torch.empty_like(own).uniform_(lowest, highest)
            for own in weights_of(backbone, self.adapted).values()
        )

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """α by the name of the parameter."""
        return self._rates()

    def _rates(self) -> dict[str, Tensor]:
        return dict(zip(self.adapted, cast(nn.ParameterList, self.rates), strict=True))
