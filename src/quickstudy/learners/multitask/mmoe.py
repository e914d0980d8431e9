"""Multi-gate mixture-of-experts: every task mixes the outputs of shared experts in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from quickstudy.backbones.features import feature_size, like, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, State, TaskSpec
from quickstudy.learners.multitask.base_learner import MultiTaskLearner, refuse_support_statistics
from quickstudy.learners.multitask.gated_experts import (
    Gate,
    GateFit,
    StackedGates,
    fit_gated_head,
    mixture,
    predict_gated,
)
from quickstudy.learners.multitask.perceptrons import Perceptrons, checked_widths
from quickstudy.learners.multitask.stacked_parameters import Place, heads_for
from quickstudy.tasks.examples import labelled


class MMoE(MultiTaskLearner):
    """Maps a task that it knows by name to that task's mixture of shared experts.

        z   = backbone(x)
        g_t = softmax(z G_t + c_t)
        y_t = h_t(sum_k g_tk f_k(z))           for the task of name t

    For any other task, ``adapt`` fits a gate and a linear head to the support set. The head is
    always the optimal one for the gate (ridge), and the gate takes ``steps`` gradient steps, from
    the mean gate of the known tasks (``gated_experts.fit_gated_head``).

    ``backbone``  what experts and gates read: inputs (n, ...) -> features (n, d). For the paper's
                  model on vectors it leaves the inputs as they are: ``backbones.Features``.
    ``tasks``     name -> number of outputs; they may differ. Default: none, so that every task is
                  new.
    ``experts``   number of experts f_k; 8 as in the paper.
    ``hidden``    widths of the layers of an expert, each followed by a ReLU.
    ``tower``     widths of the hidden layers of h_t before its linear layer; none by default.
    ``steps``, ``rate``  of the gate of a new task; the rate has no unit.
    ``l2``, ``scale``    of the head of a new task, as in ``LinearProbe``.

    State: empty for a known task; for a new one ``gate``, ``weight``, ``offset`` and ``present`` as
    ``fit_gated_head`` says, and ``statistics`` for norm="support".

    Raises ValueError for numbers out of range, and where ``HardSharing`` does.

    Reference: Ma et al. (2018), Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts, equations 6 to 8.
    Differs from the paper in the offsets of the gates, in a backbone that may come before, and in
    adapting to tasks that were not trained on, whose h_t is linear.

    >>> import quickstudy as qs
    >>> learner = qs.MMoE(qs.backbones.MLP(in_features=2), {"price": 1, "kind": 3})
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 2])
    >>> learner(support, qs.classification(ways=3, name="kind"))(support.inputs).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        backbone: nn.Module,
        tasks: Mapping[str, int] = {},
        experts: int = 8,
        hidden: tuple[int, ...] = (64,),
        tower: tuple[int, ...] = (),
        steps: int = 5,
        rate: float = 1.0,
        l2: float = 1.0,
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        self._know(tasks)
        self.backbone, self.experts = backbone, experts
        self.hidden = checked_widths("MMoE", "hidden", hidden)
        self.tower = checked_widths("MMoE", "tower", tower, fewest=0)
        self.steps, self.rate, self.l2, self.scale = steps, rate, l2, scale
        d = feature_size(backbone, "MMoE")
        refuse_sizes("MMoE", experts=experts)
        self._fit()
        self.expert_networks = like(backbone, Perceptrons((experts,), (d, *self.hidden)))
        self.gates = self.towers = None
        if self.tasks:
            refuse_support_statistics(backbone, "MMoE")
            self.gates = like(backbone, StackedGates(len(self.tasks), d, experts))
            sizes = (self.hidden[-1], *self.tower)
            self.towers = like(backbone, Perceptrons((len(self.tasks),), sizes))
        self.heads = heads_for(backbone, (*self.hidden, *self.tower)[-1], list(self.tasks.values()))

    @property
    def per_task(self) -> tuple[str, ...]:
        """Gates, towers and heads; the experts are shared."""
        own = tuple(
            name for name, _ in self.named_parameters() if name.startswith(("gates.", "towers."))
        )
        return own + super().per_task

    def shares(self, inputs: Any, name: str) -> Tensor:
        """How much each expert counts for a known task, (n, experts); each row sums to 1.

        Raises ValueError for a name that is not known.
        """
        place = self.place_of(name)
        if place < 0 or self.gates is None:
            raise ValueError(
                f"MMoE: only known tasks have gates of their own; found {name!r}. Known: "
                f"{', '.join(self.tasks) or 'none'}. For another task, see the state of its "
                "predictor."
            )
        return self.gates.at(place).shares(embed_query(self.backbone, inputs, []))

    def _predict_known(self, place: Place, inputs: Any, spec: TaskSpec) -> Tensor:
        assert self.gates is not None
        assert self.towers is not None
        assert self.heads is not None
        z = embed_query(self.backbone, inputs, [])
        mixed = mixture(self.gates.at(place).shares(z), self.expert_networks(z))
        predictions: Tensor = self.heads(place, self.towers(mixed, place))
        return predictions

    def _adapt_new(self, support: Examples, spec: TaskSpec) -> State:
        support = labelled(support, spec.answer)
        z, statistics = embed_support(self.backbone, support)
        experts = self.expert_networks(z)
        start = Gate.even(z, experts) if self.gates is None else self.gates.mean()
        state = fit_gated_head(z, experts, support, spec, start, self._fit())
        return state | {"statistics": statistics}

    def _predict_new(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        z = embed_query(self.backbone, inputs, state["statistics"])
        return predict_gated(state, z, self.expert_networks(z), spec, self.scale)

    def _fit(self) -> GateFit:
        return GateFit("MMoE", self.steps, self.rate, self.l2, self.scale)
