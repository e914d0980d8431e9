"""SNAIL: temporal convolutions and causal attention over the support set as a sequence."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import like, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.attention import (
    log_weights,
    of_present,
    read_memory_and_self,
    shares,
)
from quickstudy.learners.memory.centring import normalised, normalised_size
from quickstudy.learners.outputs import label_vectors, present_entry, refuse_more_outputs
from quickstudy.tasks.examples import labelled, without_absent


class SNAIL(Learner):
    """Maps a support set, read as a sequence, to the label of a query as its next step.

        s_t     = [norm(f(x_t)), √d onehot(y_t)] for the support
        s_last  = [norm(f(x)), 0]                for the query
        dense_d(s)_t = [s_t, tanh(a_t) * sigmoid(b_t)],   [a_t, b_t] = U s_t + V s_{t-d} + c
        attend(s)_t  = [s_t, sum_{u <= t} softmax_u(q_t·k_u / √d_k) v_u]
        logits  = W convolve(attend(... attend(s)))_last

    in the order of the paper's few-shot network: attention of (key, value) sizes (64, 32); dense
    blocks of dilation 1, 2, 4, ... of 128 filters; attention (256, 128); dense
    blocks; attention (512, 256). The support's activations do not depend on the query, so they are
    computed once, in ``adapt``; each query is one further step.

    ``backbone``  inputs (n, ...) -> features (n, d), at least 4, because each row is normalised.
    ``outputs``   most ways, or regression targets, of any task.
    ``length``    number of support rows plus the query, 6 at 5 ways and 1 shot: the receptive field
                  of the convolutions. In longer sequences, only attention reads the early rows.
    ``filters``   of each dense block, 128 in the paper.

    State: ``steps``, what the next step of each block reads: one earlier row, or keys and values;
    ``order`` (n,), rows of weight 0 first; ``bias`` (n,); ``present`` (outputs,) for
    classification. Unknown labels and real targets are read as zeros.

    Raises ValueError for a task of more outputs than ``outputs``, for targets that are not one
    vector a row, and for a backbone of fewer than 4 features, or that does not declare its
    ``features``.

    Reference: Mishra, Rohaninejad, Chen and Abbeel (2018), A Simple Neural Attentive Meta-Learner.
    Differs from the paper in dilations that start at 1 (its pseudo-code says 2, which would leave
    out each row's neighbour), and in three changes for learning from few tasks: features are
    normalised over their d entries, labels have the same norm as features, and keys start equal to
    queries with a sharp softmax, so that similar rows attend to each other from the first step on.

    >>> import torch, quickstudy as qs
    >>> learner = qs.SNAIL(qs.backbones.MLP(in_features=2), outputs=2, length=3)
    >>> support = qs.examples(torch.eye(2), [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers = (Classes, Reals, Labels)
    exceptions = {  # noqa: RUF012  (a ClassVar in Learner)
        "support_order_is_irrelevant": "the support is a sequence",
        "weight_two_is_twice": "a row is one step of the sequence, or none where its weight is 0",
        "relabelling_permutes_outputs": "labels are one-hot inputs of learnt layers",
    }

    def __init__(
        self, backbone: nn.Module, outputs: int = 5, length: int = 6, filters: int = 128
    ) -> None:
        super().__init__()
        refuse_sizes("SNAIL", outputs=outputs, filters=filters)
        if length < 2:
            raise ValueError(
                f"SNAIL: a sequence is a support row and a query, length >= 2; found {length}."
            )
        self.outputs, self.length, self.filters = outputs, length, filters
        size = normalised_size(backbone, "SNAIL") + outputs
        blocks: list[_DenseBlock | _AttentionBlock] = []
        for keys, values in ((64, 32), (256, 128), (512, 256)):
            if blocks:
                for level in range(math.ceil(math.log2(length))):
                    blocks.append(_DenseBlock(size, filters, 2**level))
                    size += filters
            blocks.append(_AttentionBlock(size, keys, values))
            size += values
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(size, outputs)
        like(backbone, self)  # before the backbone is assigned, which is not converted
        self.backbone = backbone

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """What each block reads in the step after ``support``."""
        refuse_more_outputs("SNAIL", spec, self.outputs)
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        labels = features.shape[-1] ** 0.5 * label_vectors(
            support, spec.answer, self.outputs, features.dtype
        )
        present = (support.weights > 0).to(features.dtype)
        # Absent rows are moved before the first step, where the causal convolution pads with zeros.
        order = torch.argsort(present, stable=True)
        present, rows = present[order], torch.cat([normalised(features), labels], -1)[order]
        bias, steps = log_weights(present), []
        for block in self._layers():
            rows, memory = block.read(rows * present.unsqueeze(-1), bias)
            steps.append(memory)
        return {
            "steps": steps, "order": order, "bias": bias, "statistics": statistics,
            **present_entry(support, spec),
        }  # fmt: skip

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits, or regression values, (n, outputs): each query as the step after the support."""
        refuse_more_outputs("SNAIL", spec, self.outputs)
        rows = self._query(state, inputs)
        for block, memory in zip(self._layers(), state["steps"], strict=True):
            rows = block.step(rows, memory, state["bias"])
        predictions = self.head(rows)[:, : spec.outputs]
        return without_absent(predictions, state.get("present"))

    def embed(self, state: State, inputs: Any) -> Tensor:
        """The features (n, d), each row normalised, of a step of the sequence."""
        return normalised(embed_query(self.backbone, inputs, state["statistics"]))

    def attention(self, state: State, inputs: Any) -> Tensor:
        """The last attention block's shares (n, support rows), normalised over the support."""
        rows = self._query(state, inputs)
        *earlier, last = zip(self._layers(), state["steps"], strict=True)
        for block, memory in earlier:
            rows = block.step(rows, memory, state["bias"])
        block, (keys, _) = last
        share = of_present(shares(block.query(rows), keys, state["bias"]), state["bias"])
        return share[:, torch.argsort(state["order"])]

    def _layers(self) -> list[Any]:
        return list(self.blocks)  # Any, because a ModuleList does not declare the blocks' methods

    def _query(self, state: State, inputs: Any) -> Tensor:
        return F.pad(self.embed(state, inputs), (0, self.outputs))


class _DenseBlock(nn.Module):
    """Rows (n, size) -> (n, size + filters): appends a gated causal convolution over two rows."""

    def __init__(self, size: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.now = nn.Linear(size, 2 * filters)
        self.before = nn.Linear(size, 2 * filters, bias=False)

    def read(self, rows: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """All rows of a sequence, and the earlier row (1, size) that the next step reads.

        Absent rows must be zero and come first.
        """
        n = len(rows)
        padded = F.pad(rows, (0, 0, self.dilation, 0))
        return self.step(rows, padded[:n], bias), padded[n:][:1]

    def step(self, rows: Tensor, before: Tensor, bias: Tensor) -> Tensor:
        """Rows (n, size) convolved with the rows ``before``: (n, size), or (1, size) for all."""
        filtered, gates = (self.now(rows) + self.before(before)).chunk(2, -1)
        return torch.cat([rows, filtered.tanh() * gates.sigmoid()], -1)


class _AttentionBlock(nn.Module):
    """Rows (n, size) -> (n, size + values): appends attention to the row itself and its past."""

    def __init__(self, size: int, keys: int, values: int) -> None:
        super().__init__()
        self.query = nn.Linear(size, keys)
        self.key = nn.Linear(size, keys, bias=False)  # the softmax does not depend on a bias
        self.value = nn.Linear(size, values)
        with torch.no_grad():
            self.query.weight.mul_(_SHARPNESS)
            self.key.weight.copy_(self.query.weight)

    def read(self, rows: Tensor, bias: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """All rows of a sequence, causally; and the keys and values that later steps attend to."""
        keys, values = self.key(rows), self.value(rows)
        time = torch.arange(len(rows), device=rows.device)
        causal = log_weights((time <= time.unsqueeze(-1)).to(rows.dtype))
        share = shares(self.query(rows), keys, bias + causal)
        return torch.cat([rows, share @ values], -1), (keys, values)

    def step(self, rows: Tensor, memory: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """Rows (n, size), each as the step after the rows in ``memory``."""
        own = self.key(rows), self.value(rows)
        return torch.cat([rows, read_memory_and_self(self.query(rows), own, memory, bias)], -1)


# Factor on the initial queries and keys. Before training, all features are similar (cosines about
# 0.9). Only a sharp softmax separates them, so that the labels read depend on the query.
_SHARPNESS = 3.0
