"""MAML: learn an initialisation from which a few gradient steps solve a new task."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import (
    RunningNorm,
    Statistics,
    embed_query,
    embed_support,
    needs_support_statistics,
)
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.gradient.descend import Weights, descend
from quickstudy.modules import call_with
from quickstudy.tasks.examples import class_weights, labelled, weighted_mean, without_absent


class MAML(Learner):
    """Maps a support set to the backbone after a few gradient steps on it.

        θ_0     = θ
        θ_{k+1} = θ_k - rate * ∇ L_support(θ_k),     k = 0 … steps - 1        (equation 1)
        predict = f_{θ_steps}

    The meta-gradient differentiates through the steps (exact, second order); ``first_order`` takes
    the inner gradients as constants (FOMAML, section 5.2).

    ``backbone``     inputs (n, ...) -> predictions (n, outputs or more): ``Conv4(outputs=5)``.
    ``steps``        inner steps; the paper takes 1 for sinusoids and Omniglot at 5 ways, 5 at 20.
    ``rate``         inner learning rate; 0.4 for Omniglot, 0.01 for sinusoids in the paper.
    ``first_order``  leave the second derivatives out.
    ``adapts``       name patterns of the parameters that the steps change, for example
                     ``"head.*"`` or ``("blocks.3.*", "head.*")``; all by default.

    State: the adapted ``weights`` by name; ``present`` (ways,) for classification;
    ``statistics`` for norm="support".

    Raises ValueError for a pattern that no parameter matches, and for norm="running", whose
    population statistics belong to no adapted weights.

    Reference: Finn, Abbeel and Levine (2017), Model-Agnostic Meta-Learning for Fast Adaptation of
    Deep Networks.
    Differs from the paper in the norm, which is the backbone's choice (the paper's Omniglot figures
    are transductive: norm="batch"), and in steps at test being those of training.

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
        first_order: bool = False,
        adapts: str | Sequence[str] = ("*",),
    ) -> None:
        super().__init__()
        adapts = (adapts,) if isinstance(adapts, str) else tuple(adapts)
        if steps < 1 or rate <= 0:
            raise ValueError(
                f"MAML: needs steps >= 1 and rate > 0; found steps={steps}, rate={rate}."
            )
        if any(isinstance(module, RunningNorm) for module in backbone.modules()):
            raise ValueError(
                "MAML: norm='running' keeps one population's statistics, but adapted weights have "
                "their own. Use norm='group', 'support' or 'batch'."
            )
        names = [name for name, _ in backbone.named_parameters()]
        for pattern in adapts:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"MAML: adapts={pattern!r} matches no parameter. The backbone has: "
                    f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}."
                )
        self.backbone, self.steps, self.rate = backbone, steps, rate
        self.first_order, self.adapts = first_order, adapts

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The backbone's weights after ``steps`` steps on ``support``."""
        support = labelled(support)
        present = None
        if not support.targets.is_floating_point():
            present = class_weights(support, spec.outputs) > 0

        def loss(weights: Weights) -> Tensor:
            predictions, _ = self._on_support(weights, support)
            predictions = self._answers(predictions, present, spec)
            return weighted_mean(spec.loss(predictions, support.targets), support.weights)

        weights = descend(loss, self._initial(), self.steps, self.rate, self.first_order)
        state: dict[str, Any] = {"weights": weights, "statistics": []}
        if present is not None:
            state["present"] = present
        if needs_support_statistics(self.backbone):
            state["statistics"] = self._on_support(weights, support)[1]
        return state

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs) of the adapted backbone."""
        predictions = self._on_query(state["weights"], inputs, state["statistics"])
        return self._answers(predictions, state.get("present"), spec)

    def embed(self, state: State, inputs: Any) -> Tensor | None:
        """What the adapted backbone gives its head: (n, d).

        None for a backbone that does not end in a linear layer called ``head``.
        """
        name, head = next(reversed(list(self.backbone.named_children())), ("", None))
        if name != "head" or not isinstance(head, nn.Linear):
            return None
        # A head of the identity answers what it is given.
        identity = {"head.weight": torch.eye(head.in_features).to(head.weight)}
        if head.bias is not None:
            identity["head.bias"] = head.bias.new_zeros(head.in_features)
        return self._on_query(state["weights"] | identity, inputs, state["statistics"])

    def _initial(self) -> Weights:
        return {
            name: parameter
            for name, parameter in self.backbone.named_parameters()
            if any(fnmatchcase(name, pattern) for pattern in self.adapts)
        }

    def _run(self, weights: Weights, inputs: Any) -> Tensor:
        predictions: Tensor = call_with(self.backbone, weights, inputs)
        return predictions

    def _on_support(self, weights: Weights, support: Examples) -> tuple[Tensor, Statistics]:
        return embed_support(lambda inputs: self._run(weights, inputs), support)

    def _on_query(self, weights: Weights, inputs: Any, statistics: Statistics) -> Tensor:
        return embed_query(lambda inputs: self._run(weights, inputs), inputs, statistics)

    @staticmethod
    def _answers(predictions: Tensor, present: Tensor | None, spec: TaskSpec) -> Tensor:
        if predictions.ndim != 2 or predictions.shape[-1] < spec.outputs:
            raise ValueError(
                f"MAML: the task asks {spec.outputs} outputs, but the backbone gives predictions "
                f"of shape {tuple(predictions.shape)}. Build it with outputs={spec.outputs}."
            )
        predictions = predictions[:, : spec.outputs]
        return predictions if present is None else without_absent(predictions, present)
