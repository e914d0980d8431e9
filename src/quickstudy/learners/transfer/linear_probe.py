"""Linear probe: a regularised linear head, fitted anew to each support set on fixed features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.tasks.examples import class_weights, labelled, one_hot, without_absent

Head = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""(features (n, d), targets (n, outputs), weights (n,), l2) -> slope (d, outputs), offset (outputs,)."""


def ridge(features: Tensor, targets: Tensor, weights: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """The exact minimiser of sum_i w_i |f_i W + b - y_i|^2 + l2 |W|^2.

    Solved in the smaller of the two equivalent forms, d x d or n x n (push-through identity).
    """
    share = (weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)).unsqueeze(0)
    feature_mean, target_mean = share @ features, share @ targets
    x, y = features - feature_mean, targets - target_mean
    slope = _regularised_solve(x, weights, l2, weights.unsqueeze(-1) * y)
    return slope, (target_mean - feature_mean @ slope).squeeze(0)


def logistic(
    features: Tensor, targets: Tensor, weights: Tensor, l2: float
) -> tuple[Tensor, Tensor]:
    """The minimiser of sum_i w_i CE(softmax(f_i W + b), y_i) + l2 / 2 |W|^2, |b|^2 not penalised.

    ``ITERATIONS`` accelerated steps, each the exact minimum of a quadratic upper bound: the Hessian
    of the softmax never exceeds one half (Böhning, 1992, Multinomial logistic regression algorithm).
    """
    total = weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
    feature_mean = (weights / total).unsqueeze(0) @ features
    x, w = features - feature_mean, weights.unsqueeze(-1)
    present = weights @ targets > 0
    # The bound's Hessian is half that of a ridge problem, the same in every step; centred features
    # make slope and offset independent in it.
    inverse_hessian = _inverse_hessian(x, weights, 2 * l2)
    slope = features.new_zeros(features.shape[1], targets.shape[1])
    offset = features.new_zeros(targets.shape[1])
    last_slope, last_offset = slope, offset
    for step in range(ITERATIONS):
        momentum = step / (step + 3)
        a = slope + momentum * (slope - last_slope)
        b = offset + momentum * (offset - last_offset)
        error = w * (without_absent(x @ a + b, present).softmax(-1) - targets)
        last_slope, last_offset = slope, offset
        slope = a - 2 * inverse_hessian(x.mT @ error + l2 * a)
        offset = b - 2 * error.sum(0) / total
    return slope, offset - (feature_mean @ slope).squeeze(0)


ITERATIONS = 200
"""Steps of the logistic head; the distance to the minimum is then below float32's resolution for
the regularisation in use (tests compare with scikit-learn)."""


def _regularised_solve(x: Tensor, weights: Tensor, l2: float, y: Tensor) -> Tensor:
    """(X' D X + l2)^-1 X' y, with D = diag(weights)."""
    n, d = x.shape
    if d <= n:
        gram = x.mT @ (weights.unsqueeze(-1) * x)
        return torch.linalg.solve(gram + l2 * _eye(d, x), x.mT @ y)
    kernel = weights.unsqueeze(-1) * (x @ x.mT)
    return x.mT @ torch.linalg.solve(kernel + l2 * _eye(n, x), y)


def _inverse_hessian(x: Tensor, weights: Tensor, l2: float) -> Callable[[Tensor], Tensor]:
    """v -> (X' D X + l2)^-1 v, inverted once; by the Woodbury identity where d > n."""
    n, d = x.shape
    if d <= n:
        inverse = torch.linalg.inv(x.mT @ (weights.unsqueeze(-1) * x) + l2 * _eye(d, x))
        return lambda v: inverse @ v
    kernel = weights.unsqueeze(-1) * (x @ x.mT)
    inner = torch.linalg.inv(kernel + l2 * _eye(n, x)) * weights
    return lambda v: (v - x.mT @ (inner @ (x @ v))) / l2


def _eye(n: int, like: Tensor) -> Tensor:
    return torch.eye(n, dtype=like.dtype, device=like.device)


class LinearProbe(Learner):
    """Maps a support set to a linear head on the backbone's features, the best one for that set.

        W, b   = head(f(x_support), y_support, weights, l2)
        logits = scale * (f(x) W + b)

    ``backbone``  inputs (n, ...) -> features (n, d); kept as it is by ``adapt``. Training over many
                  tasks differentiates through the head, so the features learn to be probed.
    ``head``      :func:`ridge` (closed form; classification and regression) or :func:`logistic`
                  (convex, iterated to its optimum; classification only).
    ``l2``        penalty on the slope, against a sum (not mean) of losses; 1 as in scikit-learn.
    ``scale``     factor on the answers of a ridge classifier, which regresses on 0 and 1 and would
                  otherwise be far too unsure; default 10.

    State: ``slope`` (d, outputs), ``offset`` (outputs,), ``present`` (outputs,) for classification.

    Reference: Alain and Bengio (2016), Understanding intermediate layers using linear classifier
    probes; as a few-shot baseline: Tian et al. (2020), Rethinking Few-Shot Image Classification.
    Differs from these in fitting the head to its exact optimum for weighted rows.

    >>> import quickstudy as qs
    >>> learner = qs.LinearProbe(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    def __init__(
        self, backbone: nn.Module, head: Head = ridge, l2: float = 1.0, scale: float = 10.0
    ) -> None:
        super().__init__()
        if l2 <= 0:
            raise ValueError(f"LinearProbe: l2 must be positive; found {l2}.")
        self.backbone, self.head, self.l2, self.scale = backbone, head, l2, scale

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The head fitted to ``support``."""
        support = labelled(support)
        features, statistics = embed_support(self.backbone, support)
        state: dict[str, Any] = {"statistics": statistics}
        targets = support.targets
        if targets.is_floating_point():
            if self.head is logistic:
                raise ValueError(
                    "LinearProbe: the logistic head classifies; found real-valued targets. "
                    "Use head=ridge for regression."
                )
        else:
            state["present"] = class_weights(support, spec.outputs) > 0
            targets = one_hot(targets, spec.outputs, features.dtype)
        weights = support.weights.to(features.dtype)
        state["slope"], state["offset"] = self.head(features, targets, weights, self.l2)
        return state

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits or regression values (n, outputs)."""
        answers = self.embed(state, inputs) @ state["slope"] + state["offset"]
        if "present" not in state:
            return answers
        scale = self.scale if self.head is ridge else 1.0
        return without_absent(scale * answers, state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), in which the head is linear."""
        return embed_query(self.backbone, inputs, state["statistics"])
