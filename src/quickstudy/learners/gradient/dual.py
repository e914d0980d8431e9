"""Gradient descent of linear layers in its dual form, for many tasks at once.

A step takes from a linear layer's weights the outer products of its inputs H and of Δ, the gradient
of the loss for its outputs. So adapted weights need not be made: they are known by the inputs and
gradients of the steps so far,

    W_k x + b_k = (W x + b) - Σ_j rate_j Δ_jᵀ (H_j x + 1),     j = 0 … k - 1

Tasks then share W, so the rows of all go through the network as one batch, and only the sum over
steps is a product of each task's own. It is the same function of θ, with the same derivatives.

Reference: Irie, Csordás and Schmidhuber (2022), The Dual Form of Neural Networks Revisited,
section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from quickstudy.answers import Classes, Labels, Reals
from quickstudy.backbones.norms import mixes_rows
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

    None where the dual form does not serve: for answers other than one vector a row, for parameters
    of other layers than linear ones, for rows that see one another, for layers with hooks, and for
    meta-gradients, updates and clipping that need the weights themselves. A network must keep its
    rows in their order.

    Raises TypeError for linear layers that are given anything but rows (n, features), or twice, and
    for outputs of theirs that are changed in place.
    """
    if not (_is_vector(support, spec) and _is_plain(learner)):
        return None
    network, descent = learner.adapted_network, learner.descent()
    layers = _adapted_layers(network, learner.adapted, len(support.weights))
    if layers is None:
        return None
    recorded = learner.meta_gradient == Exact() and torch.is_grad_enabled()
    losses = _SupportLosses(support, spec)
    with _hooked(layers):
        for k in range(descent.steps):
            with torch.enable_grad():
                total = losses(_all_rows(network, support.inputs)).sum()
                outputs = [layer.outputs for layer in layers]
                gradients = torch.autograd.grad(total, outputs, create_graph=recorded)
            for layer, gradient in zip(layers, gradients, strict=True):
                layer.step(gradient, descent.rate(k), recorded)
        return losses.predictions(_all_rows(network, inputs))


def _is_vector(support: Examples, spec: TaskSpec) -> bool:
    """Whether a row's prediction is one vector."""
    vectors = isinstance(spec.answer, Reals) and support.targets.ndim == 3
    return vectors or isinstance(spec.answer, Classes | Labels)


def _is_plain(learner: GradientLearner) -> bool:
    """Whether steps are plain descent, through which autograd passes or does not."""
    plain = learner.update is sgd and learner.clip is None
    return plain and learner.meta_gradient in (Exact(), FirstOrder())


def _all_rows(network: nn.Module, inputs: Any) -> Tensor:
    """What ``network`` gives for inputs (tasks, n, ...): (tasks * n, outputs or more)."""
    outputs: Tensor = network(map_tree(lambda leaf: leaf.flatten(0, 1), inputs))
    return outputs


class _SupportLosses:
    """The mean loss of each task's support rows, as a function of what the network gives."""

    def __init__(self, support: Examples, spec: TaskSpec) -> None:
        self._spec, self._tasks = spec, len(support.weights)
        # An answer judges rows by themselves, so the rows of all tasks can be judged as one set.
        self._targets = support.targets.flatten(0, 1)
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
        """(tasks * n, outputs or more) -> (tasks, n, outputs), without classes that are absent."""
        predictions: Tensor = within_task(outputs, self._spec, None)
        by_task = predictions.view(self._tasks, -1, predictions.shape[1])
        return without_absent(by_task, self._present)


class _AdaptedLayer:
    """A hook by which a linear layer gives each task's rows what its adapted weights would give.

    ``inputs``   (tasks, m, in): the rows of the last pass.
    ``outputs``  (tasks * m, out): what the layer gave for them.
    """

    inputs: Tensor
    outputs: Tensor

    def __init__(self, layer: nn.Linear, weight: str, bias: str | None, tasks: int) -> None:
        self.layer, self._weight, self._bias, self._tasks = layer, weight, bias, tasks
        self._steps: _Steps | None = None
        self._called, self._version = False, 0

    def __call__(self, _: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> Tensor:
        """``outputs`` (tasks * n, out) of the shared weights -> those of each task's."""
        if outputs.ndim != 2 or self._called:
            raise TypeError("a linear layer that adapts must be given rows (n, features), once")
        self._called = True
        self.inputs = self._by_task(inputs[0])
        if self._steps is not None:
            outputs = self._steps.applied(self._by_task(outputs), self.inputs).flatten(0, 1)
        # Its gradient is asked for even where nothing before it is trained.
        self.outputs = outputs if outputs.requires_grad else outputs.requires_grad_()
        self._version = outputs._version
        return self.outputs

    def step(self, gradients: Tensor, rate: Rate, recorded: bool) -> None:
        """Step on the rows of the last pass, with the ``gradients`` of the loss for its outputs."""
        if self.outputs._version != self._version:
            raise TypeError(
                "the outputs of a linear layer that adapts must not be changed in place"
            )
        self._called = False
        inputs = self.inputs if recorded else self.inputs.detach()
        ones = inputs.new_ones(inputs.shape[1])
        biases = ones if self._bias else torch.zeros_like(ones)
        if isinstance(rate, dict):
            inputs = rate[self._weight] * inputs
            biases = rate[self._bias] * ones if self._bias else biases
        factor = 1.0 if isinstance(rate, dict) else rate
        new = _Steps(inputs, biases, self._by_task(gradients), factor)
        self._steps = new if self._steps is None else self._steps.and_then(new)

    def _by_task(self, rows: Tensor) -> Tensor:
        return rows.view(self._tasks, -1, rows.shape[1])


@dataclass(frozen=True)
class _Steps:
    """The steps of one layer so far, the rows of one after those of the other.

    ``inputs``     (tasks, m, in), times the rate of the layer's weights where that is learnt.
    ``biases``     (m,): one, the learnt rate of its bias, or zero where that does not adapt.
    ``gradients``  (tasks, m, out).
    ``rate``       of all, where it is not learnt.
    """

    inputs: Tensor
    biases: Tensor
    gradients: Tensor
    rate: float

    def applied(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """``outputs`` (tasks, n, out) for ``rows`` (tasks, n, in), of weights after these steps."""
        products = torch.baddbmm(self.biases, rows, self.inputs.mT)
        return torch.baddbmm(outputs, products, self.gradients, alpha=-self.rate)

    def and_then(self, other: _Steps) -> _Steps:
        """These, and then another step."""
        return _Steps(
            torch.cat([self.inputs, other.inputs], 1),
            torch.cat([self.biases, other.biases]),
            torch.cat([self.gradients, other.gradients], 1),
            self.rate,
        )


def _adapted_layers(
    network: nn.Module, names: Sequence[str], tasks: int
) -> list[_AdaptedLayer] | None:
    """One for each layer that adapts; None where others do, too, and where rows see one another."""
    left, layers = set(names), []
    for prefix, module in network.named_modules():
        if mixes_rows(module):
            return None
        weight, bias = (f"{prefix}.{own}" if prefix else own for own in ("weight", "bias"))
        if type(module) is nn.Linear and weight in left and not module._forward_hooks:
            layers.append(_AdaptedLayer(module, weight, bias if bias in left else None, tasks))
            left -= {weight, bias}
    return None if left else layers


@contextmanager
def _hooked(layers: Sequence[_AdaptedLayer]) -> Iterator[None]:
    handles = [layer.layer.register_forward_hook(layer) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
