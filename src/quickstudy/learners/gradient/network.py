"""A network evaluated with adapted weights, on one task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers import Classes, Pixels
from quickstudy.backbones.norms import (
    RunningNorm,
    Statistics,
    embed_query,
    embed_support,
    needs_support_statistics,
)
from quickstudy.base.replica import Replica, call_with
from quickstudy.base.trees import leaves
from quickstudy.base.weighting import weights_are_uniform
from quickstudy.base.words import count
from quickstudy.core import Examples, State, TaskSpec
from quickstudy.learners.gradient.descend import Weights
from quickstudy.objectives import mean_loss
from quickstudy.tasks.examples import labelled, without_absent


class SupportLoss:
    """The mean loss of one support set as a function of the network's weights.

    ``weights`` replace the network's parameters of the same names; the others are unchanged.

    ``present``     (outputs or fewer,): classes present before, in addition to ``support``'s.
    ``statistics``  of norms that ran before ``network``; queries reuse them.

    Raises ValueError for predictions of another shape than the task requires.
    """

    def __init__(
        self,
        network: nn.Module,
        support: Examples,
        spec: TaskSpec,
        present: Tensor | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        self.network, self.spec = network, spec
        self._replica = Replica(network)
        self.support = labelled(support, spec.answer)
        own = spec.answer.present(self.support.targets, self.support.weights)
        self.present = own if own is None or present is None else _present_in_either(own, present)
        self._statistics = statistics

    def __call__(self, weights: Weights) -> Tensor:
        """The weighted mean over the support rows."""
        predictions = within_task(self._run(weights)[0], self.spec, self.present)
        shape = self.spec.answer.prediction_shape(self.support.targets)
        fixed = ... not in shape and None not in shape
        if isinstance(predictions, Tensor) and fixed and predictions.shape != shape:
            raise ValueError(
                f"the task needs predictions of shape {shape}, but the backbone gives "
                f"predictions of shape {tuple(predictions.shape)}. Reshape what it returns."
            )
        return mean_loss(predictions, self.support, self.spec.answer, uniform=weights_are_uniform())

    @property
    def requires_grad(self) -> bool:
        """Whether the network's own parameters or the support set need a gradient."""
        tensors = (*self.network.parameters(), *leaves(self.support))
        return any(tensor.requires_grad for tensor in tensors)

    def state(self, weights: Weights) -> State:
        """The state of a predictor: these weights, the classes present, the statistics."""
        statistics = self._statistics
        if statistics is None:
            needed = needs_support_statistics(self.network)
            statistics = self._run(weights)[1] if needed else []
        state: dict[str, Any] = {"weights": weights, "statistics": statistics}
        return state if self.present is None else state | {"present": self.present}

    def _run(self, weights: Weights) -> tuple[Any, Statistics]:
        return embed_support(lambda inputs: self._replica(weights, inputs), self.support)


def _present_in_either(present: Tensor, before: Tensor) -> Tensor:
    """Classes that are present now or were present ``before``, which may list fewer classes."""
    absent = before.new_zeros(len(present) - len(before))
    return present | torch.cat([before, absent])


def prior_state(network: nn.Module, weights: Weights, learner: str) -> State:
    """The state before any support; raises ValueError for norm="support"."""
    if needs_support_statistics(network):
        raise ValueError(
            f"{learner}: norm='support' reuses the statistics of a support set, and before any "
            "support there are none. Use norm='group' or 'batch'."
        )
    return {"weights": weights, "statistics": []}


def predict_under(network: nn.Module, state: State, inputs: Any, spec: TaskSpec) -> Any:
    """Predictions of ``network`` under the weights of ``state``."""
    return within_task(run_under(network, state, inputs), spec, state.get("present"))


def run_under(network: nn.Module, state: State, inputs: Any) -> Any:
    """Outputs of ``network`` for ``inputs`` under the weights of ``state``."""
    return embed_query(partial(call_with, network, state["weights"]), inputs, state["statistics"])


def within_task(predictions: Any, spec: TaskSpec, present: Tensor | None) -> Any:
    """Predictions for the task's outputs, absent classes masked; a tree is returned unchanged.

    A classifier may have more outputs than the task has classes. Raises ValueError for any other
    mismatch between the number of outputs and the task's.
    """
    if not isinstance(predictions, Tensor):
        return predictions
    width, outputs = predictions.shape[-1], spec.outputs
    if width > outputs and isinstance(spec.answer, Classes | Pixels):
        predictions = predictions[..., :outputs]
    elif width != outputs:
        raise ValueError(
            f"the task has {count(outputs, 'output')}, but the backbone gives predictions of shape "
            f"{tuple(predictions.shape)}. Build it with outputs={outputs}."
        )
    return without_absent(predictions, present)


def features_under(network: nn.Module, head: nn.Linear, state: State, inputs: Any) -> Tensor:
    """Inputs (n, d) of the last layer ``head`` of ``network`` under the weights of ``state``."""
    features: list[Tensor] = []
    replica = Replica(network)
    own_head = replica.copy_of(head)
    own_head.register_forward_pre_hook(lambda _, head_inputs: features.append(head_inputs[0]))
    embed_query(partial(replica, state["weights"]), inputs, state["statistics"])
    return features[-1]


def weights_of(network: nn.Module, names: Sequence[str]) -> Weights:
    """The network's own parameters of these names."""
    return {name: attrgetter(name)(network) for name in names}


def head_of(network: nn.Module) -> nn.Linear | None:
    """The linear layer ``head`` at the end of ``network``; None for a network without one."""
    name, head = next(reversed(list(network.named_children())), ("", None))
    return head if name == "head" and isinstance(head, nn.Linear) else None


def identity_head(head: nn.Linear) -> Weights:
    """Weights with which ``head`` returns its inputs, by the parameters' names."""
    like = head.weight  # created on its device: a copy from the host would synchronise with a GPU
    eye = torch.eye(head.in_features, dtype=like.dtype, device=like.device)
    identity = {"head.weight": eye}
    if head.bias is not None:
        identity["head.bias"] = head.bias.new_zeros(head.in_features)
    return identity


def linear_head(network: nn.Module, learner: str) -> nn.Linear:
    """The ``head`` of ``network``; raises ValueError for a network without one."""
    head = head_of(network)
    if head is None:
        raise ValueError(
            f"{learner}: the backbone must end in a linear layer called `head`, but "
            f"{type(network).__name__} does not. Build ours with outputs=, as Conv4(outputs=5)."
        )
    return head


def check_backbone(network: nn.Module, learner: str) -> None:
    """Raise ValueError for a backbone that cannot be adapted as a whole.

    These are backbones with norm="running", and backbones of this library built without a head,
    whose features would be used as predictions. A network without an attribute ``outputs`` is
    accepted.
    """
    refuse_running(network, learner)
    if getattr(network, "outputs", ...) is None:
        raise ValueError(
            f"{learner}: adapts a backbone that predicts, but this {type(network).__name__} gives "
            "features: found outputs=None. Build it with the task's outputs, as Conv4(outputs=5)."
        )


def refuse_running(network: nn.Module, learner: str) -> None:
    """Raise ValueError for norm="running"."""
    if any(isinstance(module, RunningNorm) for module in network.modules()):
        raise ValueError(
            f"{learner}: norm='running' keeps one population's statistics, but adapted weights "
            "have their own. Use norm='group', 'support' or 'batch'."
        )
