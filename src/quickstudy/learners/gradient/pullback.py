"""Support gradients with custom derivatives, and the vector operations that these need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp

from quickstudy.base.replica import replica_of
from quickstudy.base.trees import leaves, map_tree
from quickstudy.learners.gradient.descend import Weights
from quickstudy.learners.gradient.network import SupportLoss

Tensors = Sequence[Tensor]


def conjugate_gradients(
    product: Callable[[Tensors], Tensors], right: Tensors, steps: int
) -> Tensors:
    """Solve product(x) = right by ``steps`` steps of conjugate gradients from x = right.

    ``product``  a symmetric linear map. At the first direction along which it is not positive, x
                 stops changing.

    Reference: Hestenes and Stiefel (1952), Methods of Conjugate Gradients for Solving Linear
    Systems.
    """
    x = right
    residual = direction = shifted(right, -1.0, product(x))
    square = dot(residual, residual)
    positive = torch.ones_like(square, dtype=torch.bool)
    for _ in range(steps):
        image = product(direction)
        curvature = dot(direction, image)
        positive = positive & (curvature > 0)
        step = torch.where(positive, square / curvature, 0.0)
        x, residual = shifted(x, step, direction), shifted(residual, -step, image)
        last_square, square = square, dot(residual, residual)
        ratio = torch.where(last_square > 0, square / last_square, 0.0)
        direction = shifted(residual, ratio, direction)
    return x


class Problem:
    """A support loss as a function of all tensors that it depends on, adapted weights first.

    No tensor is captured in a closure, because autograd and vmap see only a function's arguments.
    """

    def __init__(self, loss: SupportLoss, weights: Weights) -> None:
        self.network, self.spec, self.count = loss.network, loss.spec, len(weights)
        self._places = map_tree(lambda _: None, self._everything(loss, weights))

    def tensors(self, loss: SupportLoss, weights: Weights) -> list[Tensor]:
        """Adapted weights, the network's other parameters, the support set."""
        return list(leaves(self._everything(loss, weights)))

    def loss(self, *tensors: Tensor) -> Tensor:
        """The support loss under these ``tensors``."""
        remaining = iter(tensors)
        weights, others, support = map_tree(lambda _: next(remaining), self._places)
        return SupportLoss(self.network, support, self.spec)(others | weights)

    def gradients(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The gradient of the support loss for each of the adapted weights."""
        of_adapted = grad(self.loss, argnums=tuple(range(self.count)))
        gradients: tuple[Tensor, ...] = of_adapted(*tensors)
        return gradients

    def in_double(self) -> Problem:
        """The same problem for tensors in float64, whose network has its buffers in float64 too."""
        wide = copy(self)
        wide.network = replica_of(self.network)
        for part in wide.network.modules():
            for name, buffer in part._buffers.items():  # the replica's own table
                part._buffers[name] = None if buffer is None else in_double(buffer)
        return wide

    @staticmethod
    def _everything(loss: SupportLoss, weights: Weights) -> Any:
        own = loss.network.named_parameters()
        return weights, {name: p for name, p in own if name not in weights}, loss.support


class Pulled(torch.autograd.Function):
    """``function(*tensors)`` with the custom backward rule ``pull``.

    ``pull``  (tensors, results, cotangents, indices of the tensors that need a gradient) -> their
              gradients.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Any, pull: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The results, without a graph."""
        results: tuple[Tensor, ...] = function(*tensors)
        return results

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save the arguments of ``pull``."""
        _, ctx.pull, *tensors = inputs
        ctx.count = len(tensors)
        ctx.save_for_backward(*tensors, *output)
        # Norms read the row weights from context variables, and backward may run in another thread.
        ctx.context_variables = copy_context()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of ``pull``; None for tensors that need no gradient."""
        tensors, results = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        needed = [i for i, needs in enumerate(ctx.needs_input_grad[2:]) if needs]
        pulled = ctx.context_variables.run(ctx.pull, tensors, results, cotangents, needed)
        gradients: list[Tensor | None] = [None] * ctx.count
        for i, gradient in zip(needed, pulled, strict=True):
            gradients[i] = gradient
        return None, None, *gradients


def gradients_with_product(loss: SupportLoss, product: Any, weights: Weights) -> Weights:
    """The support gradients; in backward, ``product`` multiplies cotangents by their derivative."""
    problem = Problem(loss, weights)
    pull = partial(product, problem)
    tensors = problem.tensors(loss, weights)
    gradients = Pulled.apply(problem.gradients, pull, *tensors)  # type: ignore[no-untyped-call]
    return dict(zip(weights, gradients, strict=True))


def recomputed_product(
    problem: Problem, at: Tensors, _: Tensors, v: Tensors, needed: list[int]
) -> Tensors:
    """v times second derivatives, by recomputing the gradients."""

    def gradients(*chosen: Tensor) -> tuple[Tensor, ...]:
        return problem.gradients(*replaced(at, needed, chosen))

    return vjp(gradients, *(at[i] for i in needed))[1](tuple(v))  # type: ignore[no-any-return]


def replaced(tensors: Tensors, places: Sequence[int], new: Tensors) -> list[Tensor]:
    """``tensors`` with those at indices ``places`` replaced by ``new``."""
    now = dict(zip(places, new, strict=True))
    return [now.get(i, tensor) for i, tensor in enumerate(tensors)]


def in_double(tensor: Tensor) -> Tensor:
    """A tensor of reals in float64; any other as it is."""
    return tensor.double() if tensor.is_floating_point() else tensor


def shifted(x: Tensors, step: float | Tensor, along: Tensors) -> list[Tensor]:
    """x + step * along."""
    return [a + step * b for a, b in zip(x, along, strict=True)]


def dot(a: Tensors, b: Tensors) -> Tensor:
    """The inner product of two lists of tensors."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
