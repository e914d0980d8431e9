"""ANIL: almost no inner loop; gradient steps adapt the head alone."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from quickstudy.backbones.norms import embed_support
from quickstudy.base.replica import call_with
from quickstudy.core import Examples, TaskSpec
from quickstudy.learners.gradient.descend import Update, sgd
from quickstudy.learners.gradient.dual import predictions_over_tasks
from quickstudy.learners.gradient.gradient_learner import GradientLearner
from quickstudy.learners.gradient.inner_loop import InnerLoop
from quickstudy.learners.gradient.meta_gradients import Exact, MetaGradient
from quickstudy.learners.gradient.network import SupportLoss, identity_head, linear_head
from quickstudy.tasks.examples import labelled


class ANIL(GradientLearner):
    """Maps a support set to the backbone under a head that took a few gradient steps on it.

    A preset of :class:`quickstudy.MAML`, ``adapts="head.*"``, made faster.

        h_{k+1} = h_k - rate * ∇_h L_support(h_k ∘ f),     k = 0 … steps - 1
        predict = h_steps ∘ f

    Features f of the support rows are computed once, so inner steps are cheap. The body has no
    inner steps; its weights are learnt over tasks, through the features.

    ``backbone``       inputs (n, ...) -> predictions (n, outputs or more), ending in a linear
                       ``head``: ``Conv4(outputs=5)``.
    ``steps``, ``rate``, ``meta_gradient``, ``update``, ``clip``, ``test_steps``, ``learn_rates``
                       as for :class:`quickstudy.MAML`.

    State: the head's adapted ``weights`` by name; ``present`` (ways,) where the answer has
    classes; ``statistics`` for norm="support".

    Raises ValueError for numbers that are not positive, for settings that ``meta_gradient`` cannot
    work with, and for a backbone without linear ``head`` or with a frozen one.

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
        inner = InnerLoop(
            "ANIL", steps, rate, meta_gradient, "head.*", update, clip, test_steps, learn_rates
        )
        linear_head(backbone, "ANIL")
        super().__init__(backbone, inner)
        self.backbone = backbone

    def over_tasks(self, support: Examples, inputs: Any, spec: TaskSpec) -> Tensor | None:
        """Predictions (tasks, n, outputs) of many tasks, whose rows are embedded as one batch."""
        return predictions_over_tasks(self, support, inputs, spec)

    def _support_loss(
        self, support: Examples, spec: TaskSpec, present: Tensor | None = None
    ) -> SupportLoss:
        """The loss of the head alone, on features that are computed once."""
        support = labelled(support, spec.answer)  # the norms leave unlabelled rows out too
        head = linear_head(self.backbone, "ANIL")
        body = identity_head(head)
        features, statistics = embed_support(
            lambda inputs: call_with(self.backbone, body, inputs), support
        )
        head_alone = nn.Sequential(OrderedDict(head=head))
        rows = support._replace(inputs=features)
        return SupportLoss(head_alone, rows, spec, present, statistics)
