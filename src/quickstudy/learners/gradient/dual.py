"""Gradient descent of linear layers in its dual form, for many tasks at once.

A step takes from a linear layer's weights the outer products of H, what it was given, and Δ, the
slopes of the loss by what it answered. So adapted weights need not be made; what a layer has read
in a task takes their place:

    W_k x + b_k = (W x + b) - Σ_j rate_j Δ_jᵀ (H_j x + 1),     j = 0 … k - 1

Tasks then share W, so the rows of all go through the network as one batch, and only what each has
read is a product of its own. It is the same function of θ, with the same derivatives.

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

from quickstudy.backbones.norms import promised_alike, rows_meet_in
from quickstudy.base.trees import map_tree
from quickstudy.core import Examples, TaskSpec
from quickstudy.learners.gradient.descend import Descent, Rate, sgd
from quickstudy.learners.gradient.meta_gradients import Exact, FirstOrder, MetaGradient
from quickstudy.learners.gradient.network import within_spec
from quickstudy.objectives import mean_loss
from quickstudy.tasks.examples import class_weights, labelled, without_absent


def answers_over_tasks(
    network: nn.Module,
    names: Sequence[str],
    way: MetaGradient,
    descent: Descent,
    support: Examples,
    inputs: Any,
    spec: TaskSpec,
) -> Tensor | None:
    """Predictions (tasks, n, outputs) for ``inputs`` after each task's descent on its support set.

    ``names``    the parameters that adapt.
    ``support``  examples with a first axis of tasks, (tasks, rows, ...); ``inputs`` likewise.

    None where the dual form does not serve: for parameters of other layers than linear ones, for
    rows that see one another, for layers with hooks, and for meta-gradients, updates and clipping
    that ask for the weights themselves. A network must keep its rows in their order.

    Raises TypeError for linear layers that are given anything but rows (n, features), or twice, and
    for answers of theirs that are changed in place.
    """
    if way not in (Exact(), FirstOrder()) or descent.update is not sgd or descent.clip is not None:
        return None
    readers = _readers(network, names, len(support.weights))
    if readers is None:
        return None
    recorded = way == Exact() and torch.is_grad_enabled()
    loss = _SupportLosses(support, spec)
    with _hooked(readers):
        for k in range(descent.steps):
            with torch.enable_grad():
                total = loss(_all_rows(network, support.inputs)).sum()
                answered = [reader.answered for reader in readers]
                slopes = torch.autograd.grad(total, answered, create_graph=recorded)
            for reader, slope in zip(readers, slopes, strict=True):
                reader.read(slope, descent.rate(k), recorded)
        return loss.answers(_all_rows(network, inputs))


def _all_rows(network: nn.Module, inputs: Any) -> Tensor:
    """What ``network`` answers to inputs (tasks, n, ...): (tasks * n, outputs or more)."""
    answers: Tensor = network(map_tree(lambda leaf: leaf.flatten(0, 1), inputs))
    return answers


class _SupportLosses:
    """The mean loss of each task's support rows, as a function of the network's answers."""

    def __init__(self, support: Examples, spec: TaskSpec) -> None:
        self._spec, self._alike, self._tasks = spec, promised_alike(), len(support.weights)
        self._rows = support if self._alike else vmap(labelled)(support)
        self._present: Tensor | None = None
        if not support.targets.is_floating_point():
            totals = vmap(lambda rows: class_weights(rows, spec.outputs))(self._rows)
            self._present = (totals > 0).unsqueeze(1)

    def __call__(self, answers: Tensor) -> Tensor:
        """(tasks * n, outputs or more) -> (tasks,)."""
        return mean_loss(self.answers(answers), self._rows, self._spec, self._alike)

    def answers(self, answers: Tensor) -> Tensor:
        """(tasks * n, outputs or more) -> (tasks, n, outputs), without classes that are absent."""
        asked = within_spec(answers, self._spec)
        asked = asked.view(self._tasks, -1, asked.shape[1])
        return asked if self._present is None else without_absent(asked, self._present)


class _Reader:
    """A hook by which a linear layer answers each task's rows by what it has read in that task.

    ``given``     (tasks, m, in): the rows of the last pass.
    ``answered``  (tasks * m, out): what the layer answered to them.
    """

    given: Tensor
    answered: Tensor

    def __init__(self, layer: nn.Linear, weight: str, bias: str | None, tasks: int) -> None:
        self.layer, self._weight, self._bias, self._tasks = layer, weight, bias, tasks
        self._read: _Read | None = None
        self._unread, self._version = False, 0

    def __call__(self, _: nn.Module, inputs: tuple[Tensor], answers: Tensor) -> Tensor:
        """``answers`` (tasks * n, out) of the shared weights -> those of each task's."""
        if answers.ndim != 2 or self._unread:
            raise TypeError("a linear layer that adapts must be given rows (n, features), once")
        self._unread = True
        self.given = self._by_task(inputs[0])
        if self._read is not None:
            answers = self._read.after(self._by_task(answers), self.given).flatten(0, 1)
        # Its slopes are asked for even where nothing before it is trained.
        self.answered = answers if answers.requires_grad else answers.requires_grad_()
        self._version = answers._version
        return self.answered

    def read(self, slopes: Tensor, rate: Rate, recorded: bool) -> None:
        """Read the rows last given, with the ``slopes`` of the loss by their answers."""
        if self.answered._version != self._version:
            raise TypeError("what a linear layer that adapts answers must not be changed in place")
        self._unread = False
        given = self.given if recorded else self.given.detach()
        ones = given.new_ones(given.shape[1])
        biases = ones if self._bias else torch.zeros_like(ones)
        if isinstance(rate, dict):
            given = rate[self._weight] * given
            biases = rate[self._bias] * ones if self._bias else biases
        now = _Read(given, biases, self._by_task(slopes), 1.0 if isinstance(rate, dict) else rate)
        self._read = now if self._read is None else self._read.and_then(now)

    def _by_task(self, rows: Tensor) -> Tensor:
        return rows.view(self._tasks, -1, rows.shape[1])


@dataclass(frozen=True)
class _Read:
    """What a layer has read of each task, step after step.

    ``given``   (tasks, m, in), times the rate of the layer's weights where that is learnt.
    ``biases``  (m,): one, the learnt rate of its bias, or zero where that does not adapt.
    ``slopes``  (tasks, m, out).
    ``rate``    of all, where it is not learnt.
    """

    given: Tensor
    biases: Tensor
    slopes: Tensor
    rate: float

    def after(self, answers: Tensor, rows: Tensor) -> Tensor:
        """``answers`` (tasks, n, out) to ``rows`` (tasks, n, in), of weights that have read."""
        alike = torch.baddbmm(self.biases, rows, self.given.mT)
        return torch.baddbmm(answers, alike, self.slopes, alpha=-self.rate)

    def and_then(self, other: _Read) -> _Read:
        """This, and then another step."""
        return _Read(
            torch.cat([self.given, other.given], 1),
            torch.cat([self.biases, other.biases]),
            torch.cat([self.slopes, other.slopes], 1),
            self.rate,
        )


def _readers(network: nn.Module, names: Sequence[str], tasks: int) -> list[_Reader] | None:
    """One for each layer that adapts; None where others do, too, and where rows see one another."""
    left, readers = set(names), []
    for prefix, module in network.named_modules():
        if rows_meet_in(module):
            return None
        weight, bias = (f"{prefix}.{own}" if prefix else own for own in ("weight", "bias"))
        if type(module) is nn.Linear and weight in left and not module._forward_hooks:
            readers.append(_Reader(module, weight, bias if bias in left else None, tasks))
            left -= {weight, bias}
    return None if left else readers


@contextmanager
def _hooked(readers: Sequence[_Reader]) -> Iterator[None]:
    handles = [reader.layer.register_forward_hook(reader) for reader in readers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
