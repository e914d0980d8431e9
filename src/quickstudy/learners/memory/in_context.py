"""InContext: a transformer over the support set, independent of row order and class names."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import like
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.attention import (
    join_heads,
    log_weights,
    mean_over_outputs,
    of_present,
    read_memory_and_self,
    shares,
    split_heads,
)
from quickstudy.learners.memory.centring import FEWEST, normalised, normalised_size
from quickstudy.learners.memory.equiangular import equiangular
from quickstudy.learners.outputs import (
    element_weights,
    label_vectors,
    present_entry,
    refuse_more_outputs,
)
from quickstudy.tasks.examples import labelled, without_absent

Memory = tuple[Tensor, Tensor]
"""Keys and values (outputs, heads, support rows, size / heads) of one layer."""


class InContext(Learner):
    """Maps a support set to the predictions of a transformer that reads it.

    One transformer predicts each output k separately: the logit of class k, or real target k.

        label_ki = [y_i = k];  in regression y_ik;  of labels 1 for yes, -1 for no
        token_ki = E norm(f(x_i)) + label_ki * u + v      for the support
        token_k  = E norm(f(x)) + w                       for a query
        t <- t + attend(norm(t));   t <- t + feed_forward(norm(t))       in every layer
        logit_k  = h · norm(token_k)

    Support tokens attend to the support; a query token to the support and itself. There are no
    positions, so order is irrelevant. All outputs share their weights, so renaming classes permutes
    the outputs and a task may have any number of ways. A row of weight w counts as w rows, by a
    bias of log w in every softmax. A row whose label k is unknown is not read for output k.

    With ``ways``, it reads labels as Fifty et al. do: a row is one token, which holds an
    equiangular vector e_k (:func:`.equiangular`) for its class, and a layer learnt for ``ways``
    classes predicts all logits together. Renaming the classes then changes the outputs a little.

        token_i = [E norm(f(x_i)), s e_{y_i}],   token = [E norm(f(x)), w] for a query
        logits  = H norm(token)

    ``backbone``  inputs (n, ...) -> features (n, d), at least 4, because each row is normalised.
    ``size``      of a token, at least 4; ``heads`` must divide it.
    ``layers``    of the transformer.
    ``heads``     of each attention.
    ``ways``      the greatest number of classes of a task, for equiangular labels, which take a
                  quarter of the token or ``ways`` numbers; None, the default, for any number.

    State: ``memory``, keys and values of the support in every layer, (outputs, heads, n,
    size / heads) each; ``bias`` (outputs, 1, 1, n), the logarithm of how often a row counts for an
    output; ``present`` (outputs,) for classification. With ``ways`` there is one entry for all
    outputs in place of one each.

    Raises ValueError for targets that are not one vector a row, and for a backbone of fewer than 4
    features, or that does not declare its ``features``; with ``ways``, for a task of more classes
    and for a size below twice as many.

    Reference: Kirsch, Harrison, Sohl-Dickstein and Metz (2022), General-Purpose In-Context Learning
    by Meta-Learning Transformers; Fifty et al. (2024), Context-Aware Meta-Learning; the layers are
    those of Vaswani et al. (2017), normalised first.
    Differs from these in that class ids are not inputs, unless ``ways`` is given: Kirsch et al. and
    Fifty et al. embed one-hot or equiangular labels, and so learn one head for each way. Support
    rows do not see the query, so that they are read once for all queries; features are projected.

    >>> import torch, quickstudy as qs
    >>> learner = qs.InContext(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples(torch.eye(2), [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes, Reals, Labels)

    def __init__(
        self,
        backbone: nn.Module,
        size: int = 128,
        layers: int = 2,
        heads: int = 4,
        ways: int | None = None,
    ) -> None:
        super().__init__()
        if layers < 1 or heads < 1 or size < FEWEST or size % heads:
            raise ValueError(
                f"InContext: needs layers >= 1, size >= {FEWEST}, and heads >= 1 that divide size; "
                f"found layers={layers}, heads={heads} and size={size}."
            )
        self.size, self.layers, self.heads, self.ways = size, layers, heads, ways
        features = normalised_size(backbone, "InContext")
        self.label: nn.Module
        if ways is None:
            self.embedding = nn.Linear(features, size, bias=False)
            self.label = nn.Linear(1, size)
            self.unknown = nn.Parameter(torch.zeros(size))  # replaces a query's label
        else:
            room = _room_for_labels(ways, size)
            self.embedding = nn.Linear(features, size - room, bias=False)
            self.label = _Equiangular(ways, room)
            self.unknown = nn.Parameter(torch.zeros(room))
            self.answers = (Classes,)  # type: ignore[misc]
            self.exceptions = {  # type: ignore[misc]
                "relabelling_permutes_outputs": "a head is learnt for the class ids",
            }
        self.blocks = nn.ModuleList(_Block(size, heads) for _ in range(layers))
        # The softmax does not depend on a bias.
        self.head = nn.Linear(size, ways or 1, bias=False)
        like(backbone, self)  # before the backbone is assigned, which is not converted
        self.backbone = backbone

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The support's keys and values in every layer."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        counts = element_weights(support, spec.answer, features.dtype)
        if self.ways is None:
            labels = label_vectors(support, spec.answer, spec.outputs, features.dtype)
            tokens = self.embedding(normalised(features)) + self.label(labels.mT.unsqueeze(-1))
        else:
            refuse_more_outputs("InContext", spec, self.ways, "ways")
            labels = label_vectors(support, spec.answer, self.ways, features.dtype)
            rows = torch.cat([self.embedding(normalised(features)), self.label(labels)], -1)
            tokens, counts = rows.unsqueeze(0), counts[:, :1]
        bias = log_weights(counts.mT)[:, None, None]
        memory = []
        for block in self._layers():
            memory.append(block.remember(tokens))
            tokens = block.read(tokens, memory[-1], bias)
        return {
            "memory": memory, "bias": bias, "statistics": statistics,
            **present_entry(support, spec),
        }  # fmt: skip

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits, or regression values, (n, outputs)."""
        tokens = self._query(state, inputs)
        for block, memory in zip(self._layers(), state["memory"], strict=True):
            tokens = block.step(tokens, memory, state["bias"])
        outputs = self.head(normalised(tokens))
        predictions = outputs.squeeze(-1).mT if self.ways is None else outputs[0, :, : spec.outputs]
        return without_absent(predictions, state.get("present"))

    def embed(self, state: State, inputs: Any) -> Tensor:
        """The features (n, d), each row normalised, of which tokens are made."""
        return normalised(embed_query(self.backbone, inputs, state["statistics"]))

    def attention(self, state: State, inputs: Any) -> Tensor:
        """The last layer's shares (n, support rows), the mean over heads and present outputs."""
        tokens = self._query(state, inputs)
        *earlier, (last, memory) = zip(self._layers(), state["memory"], strict=True)
        for block, earlier_memory in earlier:
            tokens = block.step(tokens, earlier_memory, state["bias"])
        share = shares(last.queries(tokens), memory[0], state["bias"])
        share = of_present(share, state["bias"]).mean(1)
        return mean_over_outputs(share, state.get("present") if self.ways is None else None)

    def _layers(self) -> list[_Block]:
        return cast(list[_Block], list(self.blocks))

    def _query(self, state: State, inputs: Any) -> Tensor:
        tokens: Tensor = self.embedding(self.embed(state, inputs))
        if self.ways is None:
            tokens = tokens + self.unknown
        else:
            tokens = torch.cat([tokens, self.unknown.expand(len(tokens), -1)], -1)
        return tokens.expand(len(state["bias"]), *tokens.shape)


def _room_for_labels(ways: int, size: int) -> int:
    """How many numbers of a token hold the label."""
    if ways < 2 or size < 2 * ways:
        raise ValueError(
            f"InContext: ways must be at least 2, and size at least twice as many, since a token "
            f"holds features and an equiangular label; found ways={ways} and size={size}."
        )
    return max(ways, size // 4)


class _Equiangular(nn.Module):
    """One-hot labels (..., ways) -> equiangular vectors (..., size) of one learnt length."""

    def __init__(self, ways: int, size: int) -> None:
        super().__init__()
        self.vectors: Tensor
        self.register_buffer("vectors", equiangular(ways, size))
        self.length = nn.Parameter(torch.ones(()))

    def forward(self, labels: Tensor) -> Tensor:
        vectors: Tensor = self.length * (labels @ self.vectors)
        return vectors


class _Block(nn.Module):
    """One layer: tokens (outputs, n, size) -> the same shape."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=False)  # the softmax does not depend on a bias
        self.value = nn.Linear(size, size)
        self.mix = nn.Linear(size, size)
        self.feed_forward = nn.Sequential(
            nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size)
        )
        with torch.no_grad():  # equal rows attend to each other from the first step on
            self.key.weight.copy_(self.query.weight)

    def remember(self, tokens: Tensor) -> Memory:
        """Keys and values of ``tokens``."""
        normal = normalised(tokens)
        return split_heads(self.key(normal), self.heads), split_heads(
            self.value(normal), self.heads
        )

    def queries(self, tokens: Tensor) -> Tensor:
        """Queries of ``tokens``: (outputs, heads, n, size / heads)."""
        return split_heads(self.query(normalised(tokens)), self.heads)

    def read(self, tokens: Tensor, memory: Memory, bias: Tensor) -> Tensor:
        """The tokens after this layer, in which each attends to the memory."""
        keys, values = memory
        return self._after(tokens, shares(self.queries(tokens), keys, bias) @ values)

    def step(self, tokens: Tensor, memory: Memory, bias: Tensor) -> Tensor:
        """The tokens after this layer, in which each attends to the memory and itself."""
        own = self.remember(tokens)
        return self._after(tokens, read_memory_and_self(self.queries(tokens), own, memory, bias))

    def _after(self, tokens: Tensor, reads: Tensor) -> Tensor:
        tokens = tokens + self.mix(join_heads(reads))
        result: Tensor = tokens + self.feed_forward(normalised(tokens))
        return result
