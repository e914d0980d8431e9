"""Linear probe: a regularised linear head on fixed features, fitted to each support set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import vmap

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import feature_size, like, refuse_heads_and_maps
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.extending import refuse_shared_statistics, widened
from quickstudy.learners.outputs import element_weights, label_vectors
from quickstudy.learners.transfer.heads import binary_logistic, logistic, ridge
from quickstudy.tasks.examples import labelled, without_absent

Head = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""(features (n, d), targets (n, outputs), row weights (n,), l2) -> weight (d, outputs), offset."""


class LinearProbe(Learner):
    """Maps a support set to the linear head on the backbone's features that fits it best.

        W, b        = head(f(x_support), encoded y_support, weights, l2)
        predictions = scale * (f(x) W + b)        (scale is 1 for real targets and ``logistic``)

    Where single elements of the targets may be unknown (:class:`Labels`, or :class:`Reals` with
    ``missing=True``), every output has a separate head, fitted to the rows in which it is known.

    ``backbone``  inputs (n, ...) -> features (n, d); ``adapt`` does not change it. Training over
                  many tasks differentiates through the head and so trains the features.
    ``head``      :func:`ridge` (closed form; classes, reals and labels) or :func:`logistic`
                  (convex, iterated to its optimum; classes, and labels as one binary regression
                  each).
    ``l2``        penalty on the weight, against a sum (not mean) of losses; 1 as in scikit-learn.
    ``scale``     factor on the predictions of a ridge classifier; default 10. Its regression
                  targets are 0 and 1 (labels: -1 and 1), too close together for a softmax.

    State: ``weight`` (d, outputs), ``offset`` (outputs,); ``present`` (ways,) for classification;
    for :meth:`extend`, which fits the head again: ``features`` (n, d), ``encoded`` targets and
    ``counts``, the weight of each of their elements, both (n, outputs); ``statistics`` for
    norm="support".

    Raises ValueError for numbers that are not positive, for a backbone with a head or with maps,
    and for targets that are not one vector a row.

    Reference: Alain and Bengio (2016), Understanding intermediate layers using linear classifier
    probes; as a few-shot baseline: Tian et al. (2020), Rethinking Few-Shot Image Classification.
    Differs from these in fitting the head to its optimum, for weighted rows; :func:`logistic`
    states the accuracy of the logistic head.

    >>> import quickstudy as qs
    >>> learner = qs.LinearProbe(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes, Reals, Labels)

    def __init__(
        self, backbone: nn.Module, head: Head = ridge, l2: float = 1.0, scale: float = 10.0
    ) -> None:
        super().__init__()
        if not (l2 > 0 and scale > 0):
            raise ValueError(
                f"LinearProbe: l2 and scale must be positive; found l2={l2}, scale={scale}."
            )
        refuse_heads_and_maps(backbone, "LinearProbe")
        self.backbone, self.head, self.l2, self.scale = backbone, head, l2, scale
        if head is logistic:
            self.answers = (Classes, Labels)  # type: ignore[misc]  # it has no real targets

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The head fitted to ``support``."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        encoded = label_vectors(support, spec.answer, spec.outputs, features.dtype)
        counts = element_weights(support, spec.answer, features.dtype)
        return self._fitted(features, encoded, counts, spec) | {"statistics": statistics}

    def prior(self, spec: TaskSpec) -> State:
        """Weight and offset 0.

        Raises ValueError for a backbone that does not declare its number of features, or that
        normalises by statistics of one support set.
        """
        refuse_shared_statistics(self.backbone, "LinearProbe")
        nothing = like(self.backbone, torch.zeros(0, spec.outputs))
        features = nothing.new_zeros(0, feature_size(self.backbone, "LinearProbe"))
        return self._fitted(features, nothing, nothing, spec) | {"statistics": []}

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        """The head fitted to all rows so far and ``support``; the spec may have more outputs.

        Raises ValueError for a backbone that normalises by statistics of one support set, and for
        further real targets, which are unknown for the rows so far, unless the spec has
        ``missing=True``.
        """
        refuse_shared_statistics(self.backbone, "LinearProbe")
        more = self.adapt(support, spec)
        encoded, counts = (widened(state[n].mT, spec.outputs).mT for n in ("encoded", "counts"))
        if isinstance(spec.answer, Classes):
            counts = state["counts"][:, :1].expand_as(encoded)  # no row so far is of a new class
        elif not by_columns(spec.answer) and encoded.shape != state["encoded"].shape:
            raise ValueError(
                f"LinearProbe: the rows so far have {state['encoded'].shape[1]} real targets, but "
                f"the task has {spec.outputs}. Declare that some are unknown: "
                f"qs.regression({spec.outputs}, missing=True)."
            )
        features, encoded, counts = (
            torch.cat([old, more[name]])
            for name, old in (
                ("features", state["features"]), ("encoded", encoded), ("counts", counts),
            )
        )  # fmt: skip
        return self._fitted(features, encoded, counts, spec) | {"statistics": []}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits or regression values (n, outputs)."""
        predictions: Tensor = self.embed(state, inputs) @ state["weight"] + state["offset"]
        if self.head is ridge and not isinstance(spec.answer, Reals):
            predictions = self.scale * predictions
        return without_absent(predictions, state.get("present"))

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), the inputs of the linear head."""
        return embed_query(self.backbone, inputs, state["statistics"])

    def _fitted(self, features: Tensor, encoded: Tensor, counts: Tensor, spec: TaskSpec) -> State:
        state = {"features": features, "encoded": encoded, "counts": counts}
        weight, offset = fitted(self.head, features, encoded, counts, spec.answer, self.l2)
        if isinstance(spec.answer, Classes):
            state["present"] = (counts * encoded).sum(0) > 0
        # The solver returns column-major memory, but files are row-major. Rounding depends on the
        # layout, so fix it here.
        return state | {"weight": weight.contiguous(), "offset": offset}


def fitted(
    head: Head, features: Tensor, encoded: Tensor, counts: Tensor, answer: Answer, l2: float
) -> tuple[Tensor, Tensor]:
    """The weight (d, outputs) and offset (outputs,) that ``head`` fits to rows.

    ``encoded``  targets (n, outputs); ``counts`` (n, outputs), how often each of them counts.
    """
    if not by_columns(answer):
        return head(features, encoded, counts[:, 0], l2)
    one = binary_logistic if head is logistic else head
    weight, offset = vmap(lambda y, w: one(features, y.unsqueeze(-1), w, l2), 1)(encoded, counts)
    return weight.squeeze(-1).mT, offset.squeeze(-1)


def by_columns(answer: Answer) -> bool:
    """Whether each output is fitted separately, because elements of a row may be unknown."""
    return isinstance(answer, Labels) or (isinstance(answer, Reals) and answer.missing)
