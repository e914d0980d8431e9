"""BOIL: body only in the inner loop; gradient steps adapt everything but the head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from quickstudy.core import Examples, TaskSpec
from quickstudy.learners.gradient.descend import Update, sgd
from quickstudy.learners.gradient.dual import predictions_over_tasks
from quickstudy.learners.gradient.gradient_learner import GradientLearner
from quickstudy.learners.gradient.inner_loop import InnerLoop
from quickstudy.learners.gradient.meta_gradients import Exact, MetaGradient
from quickstudy.learners.gradient.network import linear_head, refuse_running


class BOIL(GradientLearner):
    """Maps a support set to the backbone after a few gradient steps of its body alone.

    A preset of :class:`quickstudy.MAML`: everything but the head adapts.

        f_{k+1} = f_k - rate * ∇_f L_support(h ∘ f_k),     k = 0 … steps - 1
        predict = h ∘ f_steps

    The head h is learnt over tasks and fixed within a task, so only the features f can adapt.

    ``backbone``       inputs (n, ...) -> predictions (n, outputs or more), ending in a linear
                       ``head``: ``Conv4(outputs=5)``.
    ``steps``, ``rate``, ``meta_gradient``, ``update``, ``clip``, ``test_steps``, ``learn_rates``
                       as for :class:`quickstudy.MAML`.

    State: the body's adapted ``weights`` by name; ``present`` (ways,) where the answer has
    classes; ``statistics`` for norm="support".

    Raises ValueError for numbers that are not positive, for settings that ``meta_gradient`` cannot
    work with, for a backbone without linear ``head``, and for norm="running", whose population
    statistics are not those of adapted weights.

    Reference: Oh, Yoo, Kim and Yun (2021), BOIL: Towards Representation Change for Few-shot
    Learning.
    Differs from the paper in the norm, as MAML does.

    >>> import quickstudy as qs
    >>> learner = qs.BOIL(qs.backbones.MLP(outputs=1), steps=1, rate=0.01)
    >>> support = qs.examples([[0.0], [1.0]], [[0.0], [1.0]])
    >>> learner(support, qs.regression())(support.inputs).shape
    torch.Size([2, 1])
    """

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
        linear_head(backbone, "BOIL")
        refuse_running(backbone, "BOIL")
        body = [
            name for name, parameter in backbone.named_parameters()
            if parameter.requires_grad and not name.startswith("head.")
        ]  # fmt: skip
        if not body:
            raise ValueError(
                "BOIL: adapts the body, what comes before the head, but all of it is frozen. Set "
                "requires_grad=True for some of it, or adapt the head instead, by qs.ANIL."
            )
        inner = InnerLoop(
            "BOIL", steps, rate, meta_gradient, body, update, clip, test_steps, learn_rates
        )
        super().__init__(backbone, inner)
        self.backbone = backbone

    def over_tasks(self, support: Examples, inputs: Any, spec: TaskSpec) -> Tensor | None:
        """Predictions (tasks, n, outputs) of many tasks; None unless only linear layers adapt."""
        return predictions_over_tasks(self, support, inputs, spec)
