"""MAML++ without its batch norm: MAML with learnt rates and a loss after every inner step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from quickstudy.learners.gradient.descend import Update, sgd
from quickstudy.learners.gradient.gradient_learner import GradientLearner, setting
from quickstudy.learners.gradient.inner_loop import InnerLoop
from quickstudy.learners.gradient.meta_gradients import Annealed, Exact, MetaGradient
from quickstudy.learners.gradient.multi_step import MultiStep
from quickstudy.learners.gradient.network import check_backbone


class MAMLPlusPlus(GradientLearner):
    """Maps a support set to the backbone after a few gradient steps at learnt rates.

        θ_{k+1,l} = θ_{k,l} - rates_{k,l} * ∇_l L_support(θ_k),     k = 0 … steps - 1
        minimise    sum_k v_k L_query(θ_k)  over tasks

    A preset of :class:`quickstudy.MAML` with three of the paper's six techniques (MSL, DA, LSLR)
    and its settings as defaults. A fourth, the cosine schedule of the outer rate (CA), is
    ``schedule=qs.schedules.cosine`` of ``fit``. Batch norm by inner step is not had: neither its
    statistics (BNRS) nor its weights and biases (BNWB), to which the paper owes part of its
    figures. Each technique can be turned off here, or used alone: ``learn_rates`` of MAML, ANIL,
    BOIL and ProtoMAML, the meta-gradient :class:`Annealed`, and the objective :class:`MultiStep`.

    ``backbone``       inputs (n, ...) -> predictions (n, outputs or more): ``Conv4(outputs=5)``.
    ``steps``          inner steps; 5 in the paper.
    ``rate``           inner learning rate; learnt rates start at it; 0.1 for the paper's Omniglot.
    ``learn_rates``    one rate for each parameter tensor l and step k (LSLR).
    ``multi_step``     share of training over which v goes from 1 / steps each to the last step
                       alone (MSL); 0 for the last step from the start.
    ``first_order_until``  share of training, at its beginning, without second derivatives (DA); 0
                       for ``meta_gradient`` throughout.
    ``meta_gradient``  the meta-gradient after the first-order share of training.
    ``adapts``, ``update``, ``clip``, ``test_steps``
                       as for :class:`quickstudy.MAML`.

    State: as :class:`quickstudy.MAML`'s.

    Raises ValueError for numbers that are not positive, shares that are not in [0, 1], for no
    pattern or one that no trainable parameter matches, for settings that ``meta_gradient`` cannot
    work with, for a backbone built without outputs, and for norm="running", whose population
    statistics are not those of adapted weights.

    Reference: Antoniou, Edwards and Storkey (2019), How to Train Your MAML, section 4.
    Differs from the paper in the norm: norm="batch" takes the statistics of the current rows, and
    there are no running statistics or biases for each step (BNRS, BNWB). v decreases linearly to
    zero; in the paper's code it stops slightly above.

    >>> import quickstudy as qs
    >>> learner = qs.MAMLPlusPlus(qs.backbones.MLP(outputs=1), steps=2, rate=0.01)
    >>> support = qs.examples([[0.0], [1.0]], [[0.0], [1.0]])
    >>> learner(support, qs.regression())(support.inputs).shape
    torch.Size([2, 1])
    """

    multi_step = setting("objective.share")
    first_order_until = setting("inner.meta_gradient.first_order_until")
    meta_gradient = setting("inner.meta_gradient.then")

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
        annealed = Annealed(first_order_until, meta_gradient)
        inner = InnerLoop(
            "MAMLPlusPlus", steps, rate, annealed, adapts, update, clip, test_steps, learn_rates
        )
        check_backbone(backbone, "MAMLPlusPlus")
        super().__init__(backbone, inner)
        self.backbone, self.objective = backbone, MultiStep(multi_step)
