"""Relation Networks: a small network compares a query with each class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.backbones.features import feature_shape, like, refuse_sizes
from quickstudy.backbones.kernels.pooling import MaxPool2x2
from quickstudy.backbones.norms import GroupNorm, embed_query, embed_support
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.objectives import Outcome, predict_rows, score_of
from quickstudy.tasks.examples import (
    class_means,
    counted_weights,
    labelled,
    require_given,
    weighted_mean,
    without_absent,
)


def relation_error(learner: Learner, task: Task) -> Outcome:
    """Mean of (r_ik - [y_i = k])^2 over queries i and classes k, r = sigmoid(logits) (equation 2).

    The paper's sum is a mean here, so that one learning rate fits tasks of all sizes.
    """
    answer, query = task.spec.answer, require_given(task.query)
    predictor = learner(task.support, task.spec)
    logits = predict_rows(predictor, query)
    errors = (logits.sigmoid() - answer.encode(query.targets, logits.dtype)).square()
    pairs = counted_weights(query, answer).unsqueeze(-1) * predictor.state["present"]
    loss = weighted_mean(errors.flatten(), pairs.flatten())
    return Outcome(loss, score_of(logits, query, answer))


class Relation(Learner):
    """Maps a support set to a learnt comparison of a query with the mean of each class.

        c_k      = sum_i w_i [y_i = k] f(x_i) / sum_i w_i [y_i = k]
        logits_k = g([c_k, f(x)]),      r_k = sigmoid(logits_k)               (equation 1)

    ``backbone``  inputs (n, ...) -> features: vectors (n, d), which g compares by a perceptron, or
                  maps (n, channels, height, width), which it compares by convolutions:
                  ``Conv4(pools=2, flat=False)``, similar to the paper's.
    ``width``     of the first two layers of g; 64 in the paper.
    ``hidden``    units of the second-last layer of g; 8 in the paper.

    Training minimises :func:`relation_error`. The softmax of the logits is the probability of each
    class given that a query belongs to exactly one: r_k / (1 - r_k) = exp(logits_k).

    State: ``classes`` (ways, ...) mean features, ``present`` (ways,).

    Raises ValueError for sizes below 1, and for a backbone that has a head or does not declare the
    shape of its features.

    Reference: Sung et al. (2018), Learning to Compare: Relation Network for Few-Shot Learning.
    Differs from the paper in the mean (there a sum) over a class's rows, so that one network works
    for any number of shots, in the group norm inside g, and in the perceptron for vectors.

    >>> import quickstudy as qs
    >>> learner = qs.Relation(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers = (Classes,)
    objective: Callable[[Learner, Task], Any] = staticmethod(relation_error)

    def __init__(self, backbone: nn.Module, width: int = 64, hidden: int = 8) -> None:
        super().__init__()
        refuse_sizes("Relation", width=width, hidden=hidden)
        self.backbone, self.width, self.hidden = backbone, width, hidden
        shape = feature_shape(backbone, "Relation")
        self.relation: nn.Sequential = like(
            backbone,
            compare_vectors(shape[0], width, hidden)
            if len(shape) == 1
            else compare_maps(shape, width, hidden),
        )

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The mean features of each class of ``support``."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        classes, totals = class_means(features, support, spec.outputs)
        return {"classes": classes, "present": totals > 0, "statistics": statistics}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways), whose sigmoid is the paper's relation score."""
        queries, classes = self._features(state, inputs), state["classes"]
        n, ways = queries.shape[0], len(classes)  # len() would fix n in an exported model
        logits = self._compared(queries, classes).reshape(n, ways)
        return without_absent(logits, state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), maps flattened."""
        return self._features(state, inputs).flatten(1)

    def _compared(self, queries: Tensor, classes: Tensor) -> Tensor:
        """g of every pair, (n * ways, 1).

        The first layer is linear, so its class half and query half are computed before pairing.
        If it has hooks (a weight norm), it is called instead, because only a call runs them.
        """
        parts: list[Any] = list(self.relation)  # Any, because nn.Module does not declare weights
        first, *others = parts
        if first._forward_pre_hooks or first._forward_hooks:
            shape = (len(queries), *classes.shape)
            both = classes.expand(shape), queries.unsqueeze(1).expand(shape)
            return self.relation(torch.cat(both, 2).flatten(0, 1))  # type: ignore[no-any-return]
        layer = partial(F.conv2d, padding=1) if isinstance(first, nn.Conv2d) else F.linear
        size = classes.shape[1]
        queries = layer(queries, first.weight[:, size:])
        classes = layer(classes, first.weight[:, :size], first.bias)
        # Queries are the first operand, so the sum takes their layout (channels last on a CPU).
        pairs = (queries.unsqueeze(1) + classes.unsqueeze(0)).flatten(0, 1)
        for part in others:
            pairs = part(pairs)
        logits: Tensor = pairs
        return logits

    def _features(self, state: State, inputs: Any) -> Tensor:
        return embed_query(self.backbone, inputs, state["statistics"])


def compare_vectors(features: int, width: int, hidden: int) -> nn.Sequential:
    """g for pairs of vectors (n, 2 features) -> (n, 1)."""
    # Norms as in `compare_maps`. Pairs are not rows of the task, so we use a group norm.
    layers: list[nn.Module] = []
    for a, b in pairwise((2 * features, width, width)):
        layers += [nn.Linear(a, b), GroupNorm(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def compare_maps(shape: tuple[int, ...], width: int, hidden: int) -> nn.Sequential:
    """g for pairs of maps (n, 2 channels, height, width) -> (n, 1): two blocks, then two layers."""
    channels, *sides = shape
    blocks: list[nn.Module] = []
    for inputs in (2 * channels, width):
        # Pairs are not rows of the task, so we use a group norm: no statistics over rows.
        blocks += [nn.Conv2d(inputs, width, 3, padding=1), GroupNorm(width), nn.ReLU()]
        if min(sides) >= 2:
            blocks.append(MaxPool2x2())
            sides = [side // 2 for side in sides]
    flat = width * sides[0] * sides[1]
    return nn.Sequential(
        *blocks, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, 1)
    )
