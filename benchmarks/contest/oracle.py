"""The meta-gradient of a workload, written out in float64 with torch's own functions.

Shares no code with any contender: the network is a function of its weights, and every method is
written as its equation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from contest.work import REPTILE_ROWS, Method, Tasks, Weights, Workload


def meta_gradient(
    work: Workload, weights: Weights, tasks: Tasks, squared_distances: bool = True
) -> Weights:
    """The gradient of the mean query loss; for Reptile, the mean of θ - φ.

    ``squared_distances``  the prototypical networks of the paper; otherwise those of a library
                           that takes plain Euclidean distances.
    """
    start = {n: w.double().requires_grad_() for n, w in weights.items()}
    total = {n: torch.zeros_like(w) for n, w in start.items()}
    for task in tasks.to(torch.float64).each():
        if work.method is Method.PROTOTYPICAL:
            loss = _prototypical_loss(work, start, task, squared_distances)
        elif work.method is Method.REPTILE:
            loss = _half_squared_distance(work, start, task)
        else:
            loss = _adapted_loss(work, start, task)
        gradients = torch.autograd.grad(loss, list(start.values()))
        for name, part in zip(total, gradients, strict=True):
            total[name] = total[name] + part.detach() / work.tasks
    return total


def relative_error(found: Weights, expected: Weights) -> float:
    """|found - expected| / |expected| over all parameters; ValueError where their names differ."""
    if found.keys() != expected.keys():
        raise ValueError(f"gradients of {sorted(found)} instead of {sorted(expected)}")
    difference = torch.cat([(found[n].double() - e).flatten() for n, e in expected.items()])
    return float(difference.norm() / torch.cat([e.flatten() for e in expected.values()]).norm())


def _adapted_loss(work: Workload, weights: Weights, task: Tasks) -> Tensor:
    for _ in range(work.steps):
        gradients = _gradients(weights, task.support, task.support_targets)
        if work.method is Method.FOMAML:
            gradients = [gradient.detach() for gradient in gradients]
        weights = {
            n: w - work.rate * s for (n, w), s in zip(weights.items(), gradients, strict=True)
        }
    return _loss(_network(weights, task.query), task.query_targets)


def _half_squared_distance(work: Workload, start: Weights, task: Tasks) -> Tensor:
    """½ |θ - φ|² with φ taken as a constant, so that its gradient is θ - φ."""
    rows = torch.cat((task.support, task.query)).split(REPTILE_ROWS)
    targets = torch.cat((task.support_targets, task.query_targets)).split(REPTILE_ROWS)
    end = start
    for k in range(work.steps):
        gradients = _gradients(end, rows[k], targets[k])
        end = {
            n: w - work.rate * s.detach() for (n, w), s in zip(end.items(), gradients, strict=True)
        }
    squares = [(w - end[n].detach()).square().sum() for n, w in start.items()]
    return torch.stack(squares).sum() / 2


def _prototypical_loss(work: Workload, weights: Weights, task: Tasks, squared: bool) -> Tensor:
    support, query = _network(weights, task.support), _network(weights, task.query)
    means = torch.stack([support[task.support_targets == c].mean(0) for c in range(work.ways)])
    distances = (query[:, None] - means[None]).square().sum(-1)
    return _loss(-(distances if squared else distances.sqrt()), task.query_targets)


def _gradients(weights: Weights, inputs: Tensor, targets: Tensor) -> Sequence[Tensor]:
    loss = _loss(_network(weights, inputs), targets)
    return torch.autograd.grad(loss, list(weights.values()), create_graph=True)


def _loss(predictions: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        return (predictions - targets).square().mean()
    return -predictions.log_softmax(-1).gather(1, targets[:, None]).mean()


def _network(weights: Weights, x: Tensor) -> Tensor:
    if "layers.0.weight" in weights:
        for layer in ("layers.0", "layers.2"):
            x = F.linear(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"]).relu()
    else:
        for block in (f"blocks.{i}" for i in range(4)):
            scale, shift = weights[f"{block}.norm.weight"], weights[f"{block}.norm.bias"]
            x = F.conv2d(x, weights[f"{block}.conv.weight"], padding=1)
            x = F.batch_norm(x, None, None, scale, shift, training=True).relu()
            x = F.max_pool2d(x, 2)
        x = x.flatten(1)
    if "head.weight" not in weights:
        return x
    return F.linear(x, weights["head.weight"], weights["head.bias"])
