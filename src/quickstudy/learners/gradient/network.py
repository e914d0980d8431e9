"""What gradient learners share: a network under other weights than its own, on one task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import (
    RunningNorm,
    Statistics,
    embed_query,
    embed_support,
    needs_support_statistics,
)
from quickstudy.base.modules import call_with
from quickstudy.base.trees import leaves
from quickstudy.core import Examples, State, TaskSpec
from quickstudy.learners.gradient.descend import Weights
from quickstudy.objectives import mean_loss
from quickstudy.tasks.examples import class_weights, labelled, without_absent


class SupportLoss:
    """The mean loss of one support set as a function of the network's weights.

    ``weights`` given by name replace the network's own; the others stay what they are. Raises
    ValueError for a network of fewer outputs than the task asks.
    """

    def __init__(self, network: nn.Module, support: Examples, spec: TaskSpec) -> None:
        self.network, self.support, self.spec = network, labelled(support), spec
        self.present: Tensor | None = None
        if not support.targets.is_floating_point():
            self.present = class_weights(self.support, spec.outputs) > 0

    def __call__(self, weights: Weights) -> Tensor:
        """The weighted mean over the support rows."""
        predictions, _ = self._run(weights)
        predictions = _answers(predictions, self.present, self.spec)
        return mean_loss(predictions, self.support, self.spec)

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient may be asked of the network's own parameters, or of the inputs."""
        tensors = (*self.network.parameters(), *leaves(self.support))
        return any(tensor.requires_grad for tensor in tensors)

    def state(self, weights: Weights) -> State:
        """What a predictor needs to know: these weights, the classes present, the statistics."""
        state: dict[str, Any] = {"weights": weights, "statistics": []}
        if self.present is not None:
            state["present"] = self.present
        if needs_support_statistics(self.network):
            state["statistics"] = self._run(weights)[1]
        return state

    def _run(self, weights: Weights) -> tuple[Tensor, Statistics]:
        return embed_support(lambda inputs: call_with(self.network, weights, inputs), self.support)


def answer(network: nn.Module, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
    """Predictions (n, outputs) of ``network`` under the weights of ``state``."""
    predictions = _run(network, state["weights"], inputs, state)
    return _answers(predictions, state.get("present"), spec)


def features(
    network: nn.Module, state: State, inputs: Any, ending: nn.Module | None = None
) -> Tensor | None:
    """What ``network`` gives its head, (n, d); None where it does not end in a linear ``head``.

    ``ending``  the part of the network that ends in the head; by default the network itself.
    """
    head = head_of(ending or network)
    if head is None:
        return None
    given: list[Tensor] = []
    with head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0])):
        _run(network, state["weights"], inputs, state)
    return given[-1]


def head_of(network: nn.Module) -> nn.Linear | None:
    """The linear ``head`` in which ``network`` ends; None for one without."""
    name, head = next(reversed(list(network.named_children())), ("", None))
    return head if name == "head" and isinstance(head, nn.Linear) else None


def passing(head: nn.Linear) -> Weights:
    """Weights of the identity under the names of ``head``, which then answers what it is given."""
    like = head.weight  # made where it is needed: a copy from the host would wait for a GPU
    eye = torch.eye(head.in_features, dtype=like.dtype, device=like.device)
    identity = {"head.weight": eye}
    if head.bias is not None:
        identity["head.bias"] = head.bias.new_zeros(head.in_features)
    return identity


def parameters_matching(network: nn.Module, patterns: Sequence[str], who: str) -> list[str]:
    """Names of the parameters that one of ``patterns`` matches, in the network's order.

    Raises ValueError, in the name of the learner ``who``, for no pattern, and for one that matches
    no parameter.
    """
    names = [name for name, _ in network.named_parameters()]
    if not patterns:
        raise ValueError(
            f"{who}: adapts=() lets no parameter adapt. Give name patterns such as 'head.*', or "
            "leave adapts out to adapt all."
        )
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"{who}: adapts={pattern!r} matches no parameter. The backbone has: "
                f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}."
            )
    return [name for name in names if any(fnmatchcase(name, p) for p in patterns)]


def refuse_headless(network: nn.Module, who: str) -> None:
    """ValueError, in the name of the learner ``who``, for a network without a linear ``head``."""
    if head_of(network) is None:
        raise ValueError(
            f"{who}: the backbone must end in a linear layer called `head`, but "
            f"{type(network).__name__} does not. Build ours with outputs=, as Conv4(outputs=5)."
        )


def refuse_features(network: nn.Module, who: str) -> None:
    """ValueError, in the name of ``who``, for a backbone of ours that was built without a head.

    Features would pass for predictions. A network that says nothing of ``outputs`` is believed.
    """
    if getattr(network, "outputs", ...) is None:
        raise ValueError(
            f"{who}: adapts a backbone that answers, but this {type(network).__name__} gives "
            "features: found outputs=None. Build it with the task's outputs, as Conv4(outputs=5)."
        )


def refuse_numbers(
    who: str,
    steps: int,
    test_steps: int | None,
    rate: float | None = None,
    clip: float | None = None,
    least: int = 1,
) -> None:
    """ValueError, in the name of ``who``, for few ``steps`` and for what is not positive."""
    for name, count, fewest in (("steps", steps, least), ("test_steps", test_steps, 1)):
        if count is not None and count < fewest:
            raise ValueError(f"{who}: {name} must be at least {fewest}; found {count}.")
    for name, value in (("rate", rate), ("clip", clip)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{who}: {name} must be a positive number; found {value}.")


class Stepping(Protocol):
    """A learner whose number of inner steps may differ in evaluation mode."""

    steps: int
    test_steps: int | None
    training: bool


def steps_now(learner: Stepping) -> int:
    """``steps`` in training, ``test_steps`` in evaluation mode, where given."""
    return learner.steps if learner.training else learner.test_steps or learner.steps


def refuse_running(network: nn.Module, who: str) -> None:
    """ValueError, in the name of the learner ``who``, for norm="running"."""
    if any(isinstance(module, RunningNorm) for module in network.modules()):
        raise ValueError(
            f"{who}: norm='running' keeps one population's statistics, but adapted weights have "
            "their own. Use norm='group', 'support' or 'batch'."
        )


def _run(network: nn.Module, weights: Weights, inputs: Any, state: State) -> Tensor:
    return embed_query(lambda i: call_with(network, weights, i), inputs, state["statistics"])


def _answers(predictions: Tensor, present: Tensor | None, spec: TaskSpec) -> Tensor:
    predictions = within_spec(predictions, spec)
    return predictions if present is None else without_absent(predictions, present)


def within_spec(predictions: Tensor, spec: TaskSpec) -> Tensor:
    """The first ``spec.outputs`` of (n, outputs or more); ValueError for fewer."""
    if predictions.ndim != 2 or predictions.shape[-1] < spec.outputs:
        raise ValueError(
            f"the task asks {spec.outputs} outputs, but the backbone gives predictions of shape "
            f"{tuple(predictions.shape)}. Build it with outputs={spec.outputs}."
        )
    return predictions if predictions.shape[1] == spec.outputs else predictions[:, : spec.outputs]
