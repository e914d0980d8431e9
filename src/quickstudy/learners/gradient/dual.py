"""Gradient descent of linear layers in its dual form, for many tasks at once.

A gradient step subtracts from a linear layer's weights the product of Δ, the gradient of the loss
with respect to its outputs, and its inputs H. The adapted weights need not be computed: the inputs
and gradients of the steps so far determine the layer's outputs,

    W_k x + b_k = (W x + b) - Σ_j rate_j Δ_jᵀ (H_j x + 1),     j = 0 … k - 1

All tasks share W, so their rows pass through the network as one batch. Only the sum over steps is
computed per task. It is the same function of θ, with the same derivatives.

Reference: Irie, Csordás and Schmidhuber (2022), The Dual Form of Neural Networks Revisited,
section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from quickstudy.answers import Classes, Labels, Reals
from quickstudy.backbones.norms import mixes_rows
from quickstudy.base.replica import Replica
from quickstudy.base.trees import map_tree
from quickstudy.base.weighting import weights_are_uniform
from quickstudy.core import Examples, TaskSpec
from quickstudy.learners.gradient.descend import Rate, sgd
from quickstudy.learners.gradient.gradient_learner import GradientLearner
from quickstudy.learners.gradient.meta_gradients import Exact, FirstOrder
from quickstudy.learners.gradient.network import within_task
from quickstudy.tasks.examples import counted_weights, weighted_mean, without_absent


def predictions_over_tasks(
    learner: GradientLearner, support: Examples, inputs: Any, spec: TaskSpec
) -> Tensor | None:
    """Predictions (tasks, n, outputs) for ``inputs`` after each task's descent on its support set.

    ``support``  examples with a first axis of tasks, (tasks, rows, ...); ``inputs`` likewise.

    None where the dual form does not apply: for answers other than one vector per row, for adapted
    parameters of layers that are not linear, for layers that mix rows, for layers with hooks, and
    for meta-gradients, updates and clipping that need the weights themselves. The network must keep
    the order of its rows.

    Raises TypeError for an adapted linear layer whose inputs are not rows (n, features), that is
    called twice in a pass, or whose outputs are changed in place.
    """
    if not (_is_vector(support, spec) and _is_plain(learner)):
        return None
    network, descent = learner.adapted_network, learner.descent()
    network = Replica(network).module  # its hooks are out of the reach of other threads
    layers = _adapted_layers(network, tuple(learner.own_weights()), len(support.weights))
    if layers is None:
        return None
    recorded = learner.meta_gradient == Exact() and torch.is_grad_enabled()
    losses = _SupportLosses(support, spec)
    for layer in layers:
        layer.layer.register_forward_hook(layer)
    for k in range(descent.steps):
        with torch.enable_grad():
            total = losses(_all_rows(network, support.inputs)).sum()
            outputs = [layer.outputs for layer in layers]
            gradients = torch.autograd.grad(total, outputs, create_graph=recorded)
        for layer, gradient in zip(layers, gradients, strict=True):
            layer.step(gradient, descent.rate(k), recorded)
    return losses.predictions(_all_rows(network, inputs))


def _is_vector(support: Examples, spec: TaskSpec) -> bool:
    """Whether the prediction for each row is one vector."""
    vectors = isinstance(spec.answer, Reals) and support.targets.ndim == 3
    return vectors or isinstance(spec.answer, Classes | Labels)


def _is_plain(learner: GradientLearner) -> bool:
    """Whether steps are plain gradient descent, with exact or first-order meta-gradients."""
    plain = learner.update is sgd and learner.clip is None
    return plain and learner.meta_gradient in (Exact(), FirstOrder())


def _all_rows(network: nn.Module, inputs: Any) -> Tensor:
    """Outputs of ``network`` for inputs (tasks, n, ...): (tasks * n, outputs or more)."""
    outputs: Tensor = network(map_tree(lambda leaf: leaf.flatten(0, 1), inputs))
    return outputs


class _SupportLosses:
    """The mean loss of each task's support rows, as a function of the network's outputs."""

    def __init__(self, support: Examples, spec: TaskSpec) -> None:
        self._spec, self._tasks = spec, len(support.weights)
        # The loss of a row depends on that row only, so all tasks' rows can form one set.
        self._targets = support.targets.flatten(0, 1)
        self._weights = support.weights
        if not weights_are_uniform():
            rows = Examples(None, self._targets, support.weights.flatten(), None)  # type: ignore[arg-type]
            self._weights = counted_weights(rows, spec.answer).view(self._tasks, -1)
        self._present: Tensor | None = None
        if isinstance(spec.answer, Classes):
            present = vmap(spec.answer.present)(support.targets, self._weights)
            self._present = present.unsqueeze(1)

    def __call__(self, outputs: Tensor) -> Tensor:
        """(tasks * n, outputs or more) -> (tasks,)."""
        predictions, answer = self.predictions(outputs).flatten(0, 1), self._spec.answer
        if weights_are_uniform():
            losses = answer.element_losses(predictions, self._targets)
            return losses.view(self._tasks, -1).mean(-1)
        losses, share = (
            part.view(self._tasks, -1) for part in answer.loss_and_share(predictions, self._targets)
        )
        return weighted_mean(losses, self._weights * share)

    def predictions(self, outputs: Tensor) -> Tensor:
        """(tasks * n, outputs or more) -> (tasks, n, outputs); absent classes are masked."""
        predictions: Tensor = within_task(outputs, self._spec, None)
        by_task = predictions.view(self._tasks, -1, predictions.shape[1])
        return without_absent(by_task, self._present)


class _AdaptedLayer:
    """A hook that gives each task's rows the outputs of the layer under the adapted weights.

    ``inputs``   (tasks, m, in): the rows of the last pass.
    ``outputs``  (tasks * m, out): the layer's outputs for them.
    """

    inputs: Tensor
    outputs: Tensor

    def __init__(self, layer: nn.Linear, weight: str | None, bias: str | None, tasks: int) -> None:
        self.layer, self._weight, self._bias, self._tasks = layer, weight, bias, tasks
        self._steps: _Steps | None = None
        self._called, self._version = False, 0

    def __call__(self, _: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> Tensor:
        """``outputs`` (tasks * n, out) of the shared weights -> those of each task's weights."""
        if outputs.ndim != 2 or self._called:
            raise TypeError("a linear layer that adapts must be given rows (n, features), once")
        self._called = True
        self.inputs = self._by_task(inputs[0])
        if self._steps is not None:
            outputs = self._steps.applied(self._by_task(outputs), self.inputs).flatten(0, 1)
        # The step needs the gradient of the outputs, also if no earlier parameter is trained.
        self.outputs = outputs if outputs.requires_grad else outputs.requires_grad_()
        self._version = outputs._version
        return self.outputs

    def step(self, gradients: Tensor, rate: Rate, recorded: bool) -> None:
        """Step on the rows of the last pass; ``gradients`` of the loss are those of its outputs."""
        if self.outputs._version != self._version:
            raise TypeError(
                "the outputs of a linear layer that adapts must not be changed in place"
            )
        self._called = False
        inputs = self.inputs if recorded else self.inputs.detach()
        if self._weight is None:  # the bias alone adapts
            inputs = torch.zeros_like(inputs)
        ones = inputs.new_ones(inputs.shape[1])
        biases = ones if self._bias else torch.zeros_like(ones)
        if isinstance(rate, dict):
            inputs = rate[self._weight] * inputs if self._weight else inputs
            biases = rate[self._bias] * ones if self._bias else biases
        factor = 1.0 if isinstance(rate, dict) else rate
        new = _Steps(inputs, biases, self._by_task(gradients), factor)
        self._steps = new if self._steps is None else self._steps.and_then(new)

    def _by_task(self, rows: Tensor) -> Tensor:
        return rows.view(self._tasks, -1, rows.shape[1])


@dataclass(frozen=True)
class _Steps:
    """The steps of one layer so far, their rows concatenated.

    ``inputs``     (tasks, m, in), multiplied by the weights' rate if that is learnt.
    ``biases``     (m,): one, the learnt rate of the bias, or zero if the bias does not adapt.
    ``gradients``  (tasks, m, out).
    ``rate``       the rate of all steps; 1 if rates are learnt.
    """

    inputs: Tensor
    biases: Tensor
    gradients: Tensor
    rate: float

    def applied(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """``outputs`` (tasks, n, out) for ``rows`` (tasks, n, in), corrected for these steps."""
        products = torch.baddbmm(self.biases, rows, self.inputs.mT)
        return torch.baddbmm(outputs, products, self.gradients, alpha=-self.rate)

    def and_then(self, other: _Steps) -> _Steps:
        """These steps, followed by ``other``."""
        return _Steps(
            torch.cat([self.inputs, other.inputs], 1),
            torch.cat([self.biases, other.biases]),
            torch.cat([self.gradients, other.gradients], 1),
            self.rate,
        )


def _adapted_layers(
    network: nn.Module, names: Sequence[str], tasks: int
) -> list[_AdaptedLayer] | None:
    """One per adapted layer; None if layers mix rows or other than linear layers adapt."""
    unmatched, layers = set(names), []
    for prefix, module in network.named_modules():
        if mixes_rows(module):
            return None
        names = [f"{prefix}.{own}" if prefix else own for own in ("weight", "bias")]
        weight, bias = (name if name in unmatched else None for name in names)
        if type(module) is nn.Linear and (weight or bias) and not module._forward_hooks:
            layers.append(_AdaptedLayer(module, weight, bias, tasks))
            unmatched.difference_update(names)
    return None if unmatched else layers
