"""Matching Networks: classify by attention over the labels of the support rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes, one_hot
from quickstudy.backbones.features import feature_size, like, refuse_heads_and_maps
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.attention import log_weights
from quickstudy.learners.metric.distances import cosine
from quickstudy.learners.recurrent import CellState, LSTMCell
from quickstudy.tasks.examples import labelled, without_absent


class Matching(Learner):
    """Maps a support set to the labels of its rows, weighted by their similarity to a query.

        a(x, x_i) = w_i exp(scale cos(f(x), g(x_i))) / sum_j w_j exp(scale cos(f(x), g(x_j)))
        P(k | x)  = sum_i a(x, x_i) [y_i = k]                                 (equation 1)
        logits    = log P

    ``backbone``  inputs (n, ...) -> features (n, d), for both queries and support rows.
    ``scale``     factor on the cosine. 1 in the paper; 30 here, because cosines are in [-1, 1] and
                  bound the softmax: over 20 classes, a probability is at most 0.28. See the page
                  of this learner.
    ``reads``     steps K of the full-context embeddings (section 2.1.2): g is then a bidirectional
                  LSTM over the support rows, f an LSTM that reads them K times. 0: no context.

    State: ``keys`` (m, d), ``targets`` (m,), ``weights`` (m,).

    Raises ValueError for a negative number of reads, a scale that is not positive, a backbone with
    a head or with maps, and for reads over a backbone that does not declare its number of features.

    Reference: Vinyals et al. (2016), Matching Networks for One Shot Learning.
    Differs from the paper in the scale and in row weights, which are 1 there. The reading LSTM
    starts from zeros, which the paper does not specify.

    >>> import quickstudy as qs
    >>> learner = qs.Matching(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers = (Classes,)

    def __init__(self, backbone: nn.Module, scale: float = 30.0, reads: int = 0) -> None:
        super().__init__()
        if scale <= 0 or reads < 0:
            raise ValueError(
                f"Matching: needs scale > 0 and reads >= 0; found scale={scale}, reads={reads}."
            )
        self.backbone, self.scale, self.reads = backbone, scale, reads
        refuse_heads_and_maps(backbone, "Matching")
        self.context: FullContext | None = None
        if reads:
            self.context = like(backbone, FullContext(feature_size(backbone, "Matching"), reads))
            self.exceptions = {  # type: ignore[misc]  # only with the LSTM
                "support_order_is_irrelevant": "an LSTM reads the support set as a sequence",
                "weight_two_is_twice": "an LSTM reads a row once, whatever its weight",
            }

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The features of ``support``, in each other's context if there are ``reads``."""
        support = labelled(support, spec.answer)
        keys, statistics = embed_support(self.backbone, support)
        if self.context is not None:
            keys = self.context.of_support(keys, support.weights > 0)
        return {
            "keys": keys,
            "targets": support.targets,
            "weights": support.weights.to(keys.dtype),
            "statistics": statistics,
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Log probabilities (n, ways)."""
        log_shares = self._log_shares(state, inputs).unsqueeze(-1)
        of_class = one_hot(state["targets"], spec.outputs, log_shares.dtype) > 0
        counted = of_class & (state["weights"] > 0).unsqueeze(-1)
        log_probabilities = without_absent(log_shares, counted).logsumexp(-2)
        return without_absent(log_probabilities, counted.any(0))

    def attention(self, state: State, inputs: Any) -> Tensor:
        """Shares a (n, m) of the support rows."""
        return self._log_shares(state, inputs).exp()

    def _log_shares(self, state: State, inputs: Any) -> Tensor:
        similarity = 1 - cosine(self.embed(state, inputs), state["keys"])
        return (self.scale * similarity + log_weights(state["weights"])).log_softmax(-1)

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d) of queries, in the context of the support set if there are ``reads``."""
        features = embed_query(self.backbone, inputs, state["statistics"])
        if self.context is None:
            return features
        return self.context.of_queries(features, state["keys"], state["weights"])


class FullContext(nn.Module):
    """Full-context embeddings (appendix A of the paper) of support rows and of queries."""

    def __init__(self, features: int, reads: int) -> None:
        super().__init__()
        self.reads = reads
        self.forwards = LSTMCell(features, features)
        self.backwards = LSTMCell(features, features)
        self.reader = LSTMCell(2 * features, features)

    def of_support(self, rows: Tensor, present: Tensor) -> Tensor:
        """g (m, d): each row plus the hidden states of a forward and a backward LSTM."""
        forward = _along(self.forwards, rows, present)
        backward = _along(self.backwards, rows.flip(0), present.flip(0)).flip(0)
        return forward + backward + rows

    def of_queries(self, rows: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
        """f (n, d): each query after K steps of reading the support set by dot products."""
        state = CellState(torch.zeros_like(rows), torch.zeros_like(rows))
        for _ in range(self.reads):
            read = (state.hidden @ keys.mT + log_weights(weights)).softmax(-1) @ keys
            state = self.reader(torch.cat([rows, read], -1), state)
            state = state._replace(hidden=state.hidden + rows)
        return state.hidden


def _along(lstm: LSTMCell, rows: Tensor, present: Tensor) -> Tensor:
    """The hidden states (m, d) of ``lstm`` along ``rows``; absent rows do not change the state."""
    state, states = lstm.empty(), []
    for row, exists in zip(rows.unbind(0), present.unbind(0), strict=True):
        after = lstm(row, state)
        state = CellState(*(torch.where(exists, a, b) for a, b in zip(after, state, strict=True)))
        states.append(state.hidden)
    return torch.stack(states)
