"""MAML: learn an initialisation from which a few gradient steps solve a new task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from quickstudy.core import Examples, TaskSpec
from quickstudy.learners.gradient.descend import Update, sgd
from quickstudy.learners.gradient.dual import predictions_over_tasks
from quickstudy.learners.gradient.gradient_learner import GradientLearner
from quickstudy.learners.gradient.inner_loop import InnerLoop
from quickstudy.learners.gradient.meta_gradients import Exact, MetaGradient
from quickstudy.learners.gradient.network import check_backbone


class MAML(GradientLearner):
    """Maps a support set to the backbone after a few gradient steps on it.

        θ_0     = θ
        θ_{k+1} = θ_k - rate * ∇ L_support(θ_k),     k = 0 … steps - 1       (algorithm 1)
        predict = f_{θ_steps}

    ``backbone``       inputs (n, ...) -> predictions (n, outputs or more): ``Conv4(outputs=5)``.
    ``steps``          inner steps; the paper takes 1 for sinusoids and Omniglot at 5 ways, 5 at 20.
    ``rate``           inner learning rate; in the paper 0.4 for Omniglot at 5 ways, 0.1 at 20 ways,
                       and 0.01 for sinusoids.
    ``meta_gradient``  how the meta-gradient passes back through the steps: exactly, the default
                       and the paper's choice, or as another of
                       :mod:`quickstudy.learners.gradient.meta_gradients`. ``Implicit`` also adds a
                       quadratic penalty on the distance from θ to the support loss.
    ``adapts``         name patterns of the parameters that the steps change, for example
                       ``"head.*"`` or ``("blocks.3.*", "head.*")``; all by default. Parameters
                       frozen (``requires_grad=False``) do not adapt.
    ``update``         the update rule of a step: ``sgd``, ``Momentum()``, ``Adam()`` of
                       :mod:`quickstudy.learners.gradient.descend`, or a function of your own.
    ``clip``           greatest norm of the gradient of all adapted weights together, before
                       ``update``; None for no clipping.
    ``test_steps``     steps in evaluation mode; None for as many as in training.
    ``learn_rates``    learn a rate for each step and parameter tensor (LSLR of MAML++), starting at
                       ``rate``. Steps beyond ``steps`` use the rates of the last.

    State: the adapted ``weights`` by name; ``present`` (ways,) where the answer has classes;
    ``statistics`` for norm="support".

    Raises ValueError for numbers that are not positive, for no pattern or one that no trainable
    parameter matches, for settings that ``meta_gradient`` cannot work with, for a backbone
    built without outputs, and for norm="running", whose population statistics are not those of
    adapted weights.

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
        inner = InnerLoop(
            "MAML", steps, rate, meta_gradient, adapts, update, clip, test_steps, learn_rates
        )
        check_backbone(backbone, "MAML")
        super().__init__(backbone, inner)
        self.backbone = backbone

    def over_tasks(self, support: Examples, inputs: Any, spec: TaskSpec) -> Tensor | None:
        """Predictions (tasks, n, outputs) of many tasks; None unless only linear layers adapt."""
        return predictions_over_tasks(self, support, inputs, spec)
