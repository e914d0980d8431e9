"""Siamese networks: learn a distance from pairs, then classify by the nearest support row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from quickstudy.answers.classes import Classes, one_hot
from quickstudy.backbones.features import feature_size, like, refuse_heads_and_maps
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.weighting import counting
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.objectives import Outcome, score_of
from quickstudy.tasks.examples import (
    counted_weights,
    labelled,
    require_given,
    weighted_mean,
    without_absent,
)


def contrastive(learner: Siamese, task: Task) -> Outcome:
    """(1 - y)/2 D^2 + y/2 max(0, margin - D)^2 over pairs; y = 1 for pairs of different classes.

    D is the Euclidean distance, not its square. Reference: Hadsell, Chopra and LeCun (2006),
    Dimensionality Reduction by Learning an Invariant Mapping, equation 4.

    Raises TypeError for a learner other than :class:`Siamese`, as do the other two objectives.
    """
    pairs = compare(learner, task)
    near = (learner.margin - pairs.distances).clamp_min(0)
    return pairs.outcome(same=pairs.distances.square() / 2, different=near.square() / 2)


def linear_contrastive(learner: Siamese, task: Task) -> Outcome:
    """(1 - y) D + y max(0, margin - D) over the pairs: the contrastive loss without squares."""
    pairs = compare(learner, task)
    near = (learner.margin - pairs.distances).clamp_min(0)
    return pairs.outcome(same=pairs.distances, different=near)


def verification(learner: Siamese, task: Task) -> Outcome:
    """Cross-entropy of p = sigmoid(-D), the probability that a pair is of one class.

    D = -(sum_j alpha_j |f_j(x) - f_j(x')| + b), with alpha and b learnt. The paper's has no b.
    Reference: Koch, Zemel and Salakhutdinov (2015), Siamese Neural Networks for One-shot Image
    Recognition, section 3.
    """
    pairs = compare(learner, task)
    return pairs.outcome(same=softplus(pairs.distances), different=softplus(-pairs.distances))


class Pairs(NamedTuple):
    """All pairs of a query (n) and a support row (m), and the accuracy of the nearest row."""

    distances: Tensor  # (n, m)
    same_class: Tensor  # (n, m), whether both rows are of one class
    weights: Tensor  # (n, m), how often each pair counts
    score: Tensor  # (), accuracy on the queries

    def outcome(self, same: Tensor, different: Tensor) -> Outcome:
        """The mean loss of pairs (n, m): ``same`` for pairs of one class, else ``different``.

        Each of the two kinds of pairs has half of the total weight.
        """
        kinds = ((same, self.same_class), (different, ~self.same_class))
        halves = [
            weighted_mean(loss.flatten(), (self.weights * kind).flatten()) for loss, kind in kinds
        ]
        return Outcome((halves[0] + halves[1]) / 2, self.score)


def compare(learner: Siamese, task: Task) -> Pairs:
    """The pairs of one task, with their weights."""
    if not isinstance(learner, Siamese):
        raise TypeError(
            f"objectives over pairs: need a Siamese learner; found {type(learner).__name__}."
        )
    query, answer = require_given(task.query), task.spec.answer
    state = learner(task.support, task.spec).state
    counted = counted_weights(query, answer)
    with counting(counted):
        distances = learner.distances(state, query.inputs)
    predictions = learner.nearest(state, distances, task.spec)
    weights = counted.unsqueeze(-1) * state["weights"]
    same_class = query.targets.unsqueeze(-1) == state["targets"]
    return Pairs(distances, same_class, weights, score_of(predictions, query, answer))


class Siamese(Learner):
    """Maps a support set to a classifier by the nearest support row.

        D_i      = |f(x) - f(x_i)|, or -(sum_j alpha_j |f_j(x) - f_j(x_i)| + b)
        logits_k = -min {D_i : y_i = k, w_i > 0}

    ``backbone``   inputs (n, ...) -> features (n, d); both halves of the twin network.
    ``objective``  loss over all pairs of a query and a support row: :func:`contrastive` (the
                   default), :func:`linear_contrastive`, or :func:`verification`, which uses the
                   second, learnt distance.
    ``margin``     distance beyond which pairs of different classes have loss 0 in the first two. 12
                   suits the 64 normalised features of ``Conv4``, whose distances start at about 3;
                   see the page of this learner. Verification ignores it.

    State: ``features`` (m, d), ``targets`` (m,) and ``weights`` (m,) of the support rows.

    Raises ValueError for a margin that is not positive, for a backbone with a head or with maps,
    and for verification on one that does not declare its number of features.

    Reference: Hadsell, Chopra and LeCun (2006) and Koch, Zemel and Salakhutdinov (2015); see the
    objectives.
    Differs from the papers in forming pairs within tasks (each query with each support row; pairs
    of one class have half of the total weight) instead of over the whole data set.

    >>> import quickstudy as qs
    >>> learner = qs.Siamese(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).argmax(-1)
    tensor([0, 1])
    """

    answers = (Classes,)
    objective: Callable[[Any, Task], Any]

    def __init__(
        self,
        backbone: nn.Module,
        objective: Callable[[Any, Task], Any] = contrastive,
        margin: float = 12.0,
    ) -> None:
        super().__init__()
        if margin <= 0:
            raise ValueError(f"Siamese: margin must be positive; found {margin}.")
        refuse_heads_and_maps(backbone, "Siamese")
        self.backbone, self.objective, self.margin = backbone, objective, margin
        self.distance: Callable[[Tensor, Tensor], Tensor] = euclidean
        if objective is verification:
            features = feature_size(backbone, "Siamese, verification")
            self.distance = like(backbone, LearntL1(features))

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The features, targets and weights of the rows of ``support``."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        return {
            "features": features,
            "targets": support.targets,
            "weights": support.weights,
            "statistics": statistics,
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways): minus the distance to the nearest row of each class."""
        return self.nearest(state, self.distances(state, inputs), spec)

    def distances(self, state: State, inputs: Any) -> Tensor:
        """Distance (n, m) of each query to each support row."""
        return self.distance(self.embed(state, inputs), state["features"])

    def nearest(self, state: State, distances: Tensor, spec: TaskSpec) -> Tensor:
        """Logits (n, ways) from distances (n, m)."""
        of_class = one_hot(state["targets"], spec.outputs, distances.dtype)
        counted = (of_class * state["weights"].unsqueeze(-1).to(distances.dtype)) > 0
        # The lowest finite number is never the nearest.
        closeness = torch.where(counted, -distances.unsqueeze(-1), torch.finfo(distances.dtype).min)
        return without_absent(closeness.amax(-2), counted.any(0))

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), in which rows are compared."""
        return embed_query(self.backbone, inputs, state["statistics"])

    def attention(self, state: State, inputs: Any) -> Tensor:
        """Shares (n, m): 1 for the nearest support row, 0 for the others."""
        distances = self.distances(state, inputs)
        present = distances.where(state["weights"] > 0, torch.inf)
        return one_hot(present.argmin(-1), distances.shape[-1], distances.dtype)


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|: (n, d), (m, d) -> (n, m); its gradient at distance 0 is 0."""
    # We sum squared differences: near 0, the expansion into products would lose precision.
    squares = (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)
    nonzero = squares > 0
    return torch.where(nonzero, torch.where(nonzero, squares, 1.0).sqrt(), 0.0)


class LearntL1(nn.Module):
    """-(sum_j alpha_j |a_ij - b_kj| + bias): (n, d), (m, d) -> (n, m); may be negative.

    ``alpha`` starts at -1 / sqrt(d), so that initially near rows have a high probability.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((features,), -(features**-0.5)))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (n, m)."""
        return -((a.unsqueeze(-2) - b.unsqueeze(-3)).abs() @ self.alpha + self.bias)
