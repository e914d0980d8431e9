"""Memory Networks: read the support set several times, updating the query between reads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.backbones.features import like, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.attention import ABSENT, log_weights, of_present
from quickstudy.learners.memory.centring import centre_of, centred, normalised_size
from quickstudy.tasks.examples import class_means, labelled, without_absent


class MemoryNetwork(Learner):
    """Maps a support set to a memory that queries read in several hops.

        m_i     = A f(x_i)            + D e(y_i)        keys           (without D: ``key_value``)
        c_i     = C f(x_i)            + E e(y_i)        values         (without C: ``key_value``)
        u_1     = A f(x)
        p_i     = softmax_i(strength_k * cosine(u_k, m_i) + log w_i)                (equation 1)
        u_{k+1} = H u_k + sum_i p_i c_i,     k = 1 … hops - 1         (equations 2, 4, with H)
        predict = log of the last hop's share of each class

    The embedding e(y_i) of a label is the mean feature vector of its class in the support set, so
    renaming the classes permutes the outputs. The one-hot label is a second part of the value, from
    which the last hop reads a distribution over classes.

    ``backbone``   inputs (n, ...) -> features (n, backbone.features), at least 4, because each row
                   is normalised.
    ``hops``       reads of the memory; 1 to 3 in the paper.
    ``width``      size of keys, values and queries.
    ``key_value``  compute keys from rows only and values from labels only (Miller et al., 2016).

    State: ``keys``, ``values`` (rows, width), ``labels`` (rows, ways), ``bias`` (rows,), the
    logarithm of the weights; ``centre`` (features,); ``present`` (ways,); ``statistics`` for
    norm="support".

    Raises ValueError for a backbone of fewer than 4 features, or that does not declare its
    ``features``.

    Reference: Sukhbaatar, Szlam, Weston and Fergus (2015), End-To-End Memory Networks, with the
    layer-wise (RNN-like) tying of section 2.2; Miller et al. (2016), Key-Value Memory Networks for
    Directly Reading Documents.
    Differs from the papers, which answer questions about text, in four points. Labels are embedded
    as above. Queries and keys are compared by the cosine with a learnt strength for each hop (there
    by inner products). The prediction is what the last hop reads (there a learnt head classifies
    o + u over a vocabulary). Features are centred at the mean of the support.

    >>> import quickstudy as qs
    >>> learner = qs.MemoryNetwork(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers = (Classes,)

    def __init__(
        self, backbone: nn.Module, hops: int = 3, width: int = 64, key_value: bool = False
    ) -> None:
        super().__init__()
        refuse_sizes("MemoryNetwork", hops=hops, width=width)
        features = normalised_size(backbone, "MemoryNetwork")
        self.hops, self.width, self.key_value = hops, width, key_value
        self.embedding = nn.Linear(features, width, bias=False)  # A
        nn.init.orthogonal_(self.embedding.weight)  # preserves distances between features
        self.strength = nn.Parameter(torch.full((hops,), 10.0))
        if not key_value:
            self.label_key = _zero_linear(features, width)  # D
        if hops > 1:  # a single hop does not update the query
            self.label_value = nn.Linear(features, width, bias=False)  # E
            self.query_update = nn.Linear(width, width, bias=False)  # H
            nn.init.eye_(self.query_update.weight)
            if not key_value:
                self.row_value = nn.Linear(features, width, bias=False)  # C
        like(backbone, self)  # before the backbone is assigned, which is not converted
        self.backbone = backbone

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The memory of ``support``: keys, values and labels."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        centre = centre_of(features, support.weights)
        features = centred(features, centre)
        labels = spec.answer.encode(support.targets, features.dtype)
        weights = support.weights.to(features.dtype)
        means, totals = class_means(features, support, spec.outputs)
        embedded_labels = labels @ means
        return {
            "keys": self._keys(features, embedded_labels),
            "values": self._values(features, embedded_labels),
            "labels": labels,
            "bias": log_weights(weights),
            "centre": centre,
            "present": totals > 0,
            "statistics": statistics,
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways): logarithms of the last hop's shares, summed for each class."""
        shares = self._log_shares(state, inputs)
        of_class = torch.where(state["labels"].mT > 0, shares.unsqueeze(-2), ABSENT)
        return without_absent(of_class.logsumexp(-1), state["present"])

    def attention(self, state: State, inputs: Any) -> Tensor:
        """The last hop's shares (n, support rows)."""
        return of_present(self._log_shares(state, inputs).exp(), state["bias"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """The first query u_1 (n, width), in the same space as the keys."""
        features = embed_query(self.backbone, inputs, state["statistics"])
        query: Tensor = self.embedding(centred(features, state["centre"]))
        return query

    def _keys(self, features: Tensor, embedded_labels: Tensor) -> Tensor:
        keys: Tensor = self.embedding(features)
        return keys if self.key_value else keys + self.label_key(embedded_labels)

    def _values(self, features: Tensor, embedded_labels: Tensor) -> Tensor:
        if self.hops == 1:
            return features.new_zeros(len(features), self.width)
        values: Tensor = self.label_value(embedded_labels)
        return values if self.key_value else values + self.row_value(features)

    def _log_shares(self, state: State, inputs: Any) -> Tensor:
        query = self.embed(state, inputs)
        keys = F.normalize(state["keys"], dim=-1)
        log_shares = self._hop_log_shares(query, keys, state, 0)
        for hop in range(1, self.hops):
            query = self.query_update(query) + log_shares.exp() @ state["values"]
            log_shares = self._hop_log_shares(query, keys, state, hop)
        return log_shares

    def _hop_log_shares(self, query: Tensor, keys: Tensor, state: State, hop: int) -> Tensor:
        cosines = F.normalize(query, dim=-1) @ keys.mT
        logits: Tensor = self.strength[hop] * cosines + state["bias"]
        return logits.log_softmax(-1)


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer
