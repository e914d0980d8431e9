"""MANN: a recurrent controller with an external memory reads examples as a sequence."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.trees import concatenate, map_tree
from quickstudy.base.weighting import counting
from quickstudy.core import Examples, Learner, State, Task, TaskSpec, check_answer, check_support
from quickstudy.learners.features import like, refuse_sizes
from quickstudy.learners.memory.centring import centre_of, centred, normalised_size
from quickstudy.learners.memory.external_memory import Used, read, unused
from quickstudy.learners.memory.mann_rows import (
    MemoryState,
    RowInputs,
    Weights,
    all_rows,
    one_row,
)
from quickstudy.learners.outputs import label_vectors, present_entry, refuse_more_outputs
from quickstudy.learners.recurrent import CellState, LSTMCell
from quickstudy.objectives import Outcome, mean_loss, score_of
from quickstudy.tasks.examples import labelled, require_given, without_absent


class Carried(NamedTuple):
    """The state between rows; leading dimensions (...) as those of the rows."""

    cell: CellState
    used: Used
    reads: Tensor  # (..., heads * width): what was read last
    label: Tensor  # (..., outputs): of the row before; zeros before the first
    tag: Tensor  # (support rows,): a one for the row before, where it is to be known who wrote


def sequence_loss(learner: Learner, task: Task) -> Outcome:
    """A :class:`MANN`'s objective: the mean loss over all rows, read as one sequence.

    Support rows come first, then query rows; each is predicted before its label is seen. Draw tasks
    in random order (``episodes(..., shuffled=True)``). The score is that of ``predict``: each query
    directly follows the support. In the sequence, later queries read earlier queries' labels.

    Raises TypeError for a learner other than :class:`MANN`, and ValueError for a task of more
    outputs.
    """
    if not isinstance(learner, MANN):
        raise TypeError(f"sequence_loss: needs a MANN learner; found {type(learner).__name__}.")
    answer, parts = task.spec.answer, (require_given(task.support), require_given(task.query))
    check_answer(learner, answer)
    check_support(parts[0], answer)
    refuse_more_outputs("MANN", task.spec, learner.outputs)
    support, query = (labelled(part, answer) for part in parts)
    # Two passes, so that norm="support" normalises queries as `predict` does.
    first, statistics = embed_support(learner.backbone, support)
    with counting(query.weights):
        later = embed_query(learner.backbone, query.inputs, statistics)
    centre, present = centre_of(first, support.weights), present_entry(support, task.spec)
    later = centred(later, centre)
    rows = concatenate(*(
        part._replace(inputs=features)
        for part, features in ((support, centred(first, centre)), (query, later))
    ))  # fmt: skip
    order = _present_first(rows.weights)
    rows = map_tree(lambda leaf: leaf[order], rows)
    labels = label_vectors(rows, answer, learner.outputs, rows.inputs.dtype)
    path, predictions = learner.read_rows(learner.start(), rows.inputs, labels)
    predictions = _of_task(predictions, present, task.spec)
    loss = mean_loss(predictions, rows, answer, present.get("present"))
    with torch.no_grad():
        carried = _after(path, support.weights)
        query_predictions = _of_task(learner.ask(carried, later)[0], present, task.spec)
    return Outcome(loss, score_of(query_predictions, query, answer))


class MANN(Learner):
    """Maps a support set, read row by row, to a controller and a memory that predict the next row.

        h_t     = LSTM([f(x_t), y_{t-1}, r_{t-1}], h_{t-1})
        key_t   = W_k [h_t, f(x_t)],    late_t = W_l [h_t, y_{t-1}],    gate_t = sigmoid(W_g h_t)
        M_t     = write key_t into the least used slots, late_t where x_{t-1} was read  (gate_t)
        r_t     = M_t read by content at key_t
        predict = W [h_t, r_t]                                    (section 3; see external_memory)

    Labels are delayed by one row: with x_t the controller reads y_{t-1}, so that no prediction can
    copy its label. Each query is predicted as the row after the support, with its last label.
    Trained by :func:`sequence_loss`.

    ``backbone``  inputs (n, ...) -> features (n, backbone.features), at least 4, because each row
                  is normalised.
    ``outputs``   most classes, or real targets, of any task.
    ``hidden``    size of the LSTM; 200 in the paper.
    ``slots``, ``width``, ``reads``  the memory's shape and its read heads; 128, 40 and 4 there.
    ``decay``     of usage per row, between 0.95 and 0.99 in other works; not given in the paper.

    State: ``carried``, the :class:`Carried` after the support; ``centre`` (features,);
    ``present`` (outputs,) for classification; ``statistics`` for norm="support". Beside what is
    read, each slot of the memory holds in one column per support row how much of it that row wrote.

    Unknown labels and real targets are read as zeros.

    Raises ValueError for a backbone of fewer than 4 features, or that does not declare its
    ``features``, for a task of more outputs, and for targets that are not one vector a row.

    Reference: Santoro, Bartunov, Botvinick, Wierstra and Lillicrap (2016), Meta-Learning with
    Memory-Augmented Neural Networks.
    Differs from the paper in what the heads write: there one vector goes to both places, here the
    key into the new slot and what came late to the last read one, and keys also see f(x_t)
    directly; in a learnt key strength (1 there); in one least used slot for each head (there all
    heads write into all of them); in f, convolutions where the paper reads flat pixels, whose
    features are centred at the support's mean, known once the support is given; in one-hot
    labels, where its 15-way tasks have strings of letters.

    >>> import quickstudy as qs
    >>> learner = qs.MANN(qs.backbones.MLP(in_features=2), outputs=2, slots=8)
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers = (Classes, Reals, Labels)
    objective = staticmethod(sequence_loss)
    exceptions = {  # noqa: RUF012  (a ClassVar in Learner)
        "support_order_is_irrelevant": "the support set is read as a sequence",
        "weight_two_is_twice": "a row is one step of the sequence, or none where its weight is 0",
        "relabelling_permutes_outputs": "labels are inputs of learnt weights",
    }

    def __init__(
        self,
        backbone: nn.Module,
        outputs: int = 5,
        hidden: int = 200,
        slots: int = 128,
        width: int = 40,
        reads: int = 4,
        decay: float = 0.95,
    ) -> None:
        super().__init__()
        refuse_sizes("MANN", outputs=outputs, hidden=hidden, slots=slots, width=width, reads=reads)
        if reads > slots:
            raise ValueError(f"MANN: {reads} heads need as many slots; found slots={slots}.")
        if not 0 <= decay < 1:
            raise ValueError(f"MANN: decay must lie in [0, 1); found {decay}.")
        features = normalised_size(backbone, "MANN")
        self.outputs, self.hidden = outputs, hidden
        self.slots, self.width, self.reads, self.decay = slots, width, reads, decay
        self.controller = LSTMCell(features + outputs + reads * width, hidden)
        self.key = nn.Linear(hidden + features, reads * width)
        self.late = nn.Linear(hidden + outputs, reads * width)
        self.gate = nn.Linear(hidden, reads)
        # A cosine is at most 1: under a strength of 1 the best of 128 slots gets a share of 2%.
        self.strength = nn.Parameter(torch.full((reads,), 10.0))
        self.answer = nn.Linear(hidden + reads * width, outputs)
        like(backbone, self)  # before it holds the backbone, which stays as it is
        self.backbone = backbone

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """Controller and memory after the rows of ``support``, in their order."""
        refuse_more_outputs("MANN", spec, self.outputs)
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        centre = centre_of(features, support.weights)
        order = _present_first(support.weights)
        tags = torch.eye(len(order), dtype=features.dtype, device=features.device)[order]
        labels = label_vectors(support, spec.answer, self.outputs, features.dtype)[order]
        start = self.start(len(order))
        path, _ = self.read_rows(start, centred(features, centre)[order], labels, tags)
        return {
            "carried": _after(path, support.weights),
            "centre": centre,
            "statistics": statistics,
            **present_entry(support, spec),
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs), each for its row as the next one."""
        return _of_task(self._predict_next(state, inputs)[0], state, spec)

    def embed(self, state: State, inputs: Any) -> Tensor:
        """The centred features (n, features) that the controller reads."""
        return centred(embed_query(self.backbone, inputs, state["statistics"]), state["centre"])

    def attention(self, state: State, inputs: Any) -> Tensor:
        """Shares (n, support rows) of the rows that wrote what the heads read, mean over heads.

        A row wrote its key when it was read, and its label with the row after it.
        """
        share = self._predict_next(state, inputs)[1].mean(-2)
        return share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)

    def _predict_next(self, state: State, inputs: Any) -> tuple[Tensor, Tensor]:
        cell, used, *others = state["carried"]  # plain tuples after loading
        return self.ask(Carried(CellState(*cell), Used(*used), *others), self.embed(state, inputs))

    def start(self, tags: int = 0) -> Carried:
        """The state before the first row: empty memory, zero reads.

        ``tags``  columns of the memory that keep who wrote, one for each row that is to be known.
        """
        own = self.gate.bias
        return Carried(
            self.controller.empty(),
            unused(self.slots, self.width + tags, self.reads, own),
            own.new_zeros(self.reads * self.width),
            own.new_zeros(self.outputs),
            own.new_zeros(tags),
        )

    def ask(self, carried: Carried, features: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions (n, outputs), each for its row (n, features) as if it came next.

        And whose writing was read, (n, heads, tags), as far as rows wrote with tags.
        """
        n = features.shape[0]  # not len, which an exported graph would hold as a constant
        label, tag = carried.label.expand(n, -1), carried.tag.expand(n, -1)
        row_inputs = self._row_inputs(features, label, torch.zeros_like(tag), tag)
        kept = one_row(row_inputs, _memory_state(carried), self._weights(), self.decay)
        return self._predictions(kept.seen), read(kept.memory[..., self.width :], kept.looks)

    def read_rows(
        self, carried: Carried, features: Tensor, labels: Tensor, tags: Tensor | None = None
    ) -> tuple[Carried, Tensor]:
        """One step for each row, whose ``features`` (n, features) are given.

        ``labels`` (n, outputs), what is read of each row's target with the row after it.
        ``tags`` (n, columns that ``carried`` has for them); without them, rows write untagged.
        Returns what is carried before the first row and after each, (n + 1, ...), and the
        predictions (n, outputs) made before each row's label was seen. Rows of weight 0 must come
        last, so that none reads what they leave. The path holds the memory after every row.
        """
        if tags is None:
            tags = carried.tag.new_zeros(len(features), len(carried.tag))
        labels, tags = (
            torch.cat([before.unsqueeze(0), own])
            for before, own in ((carried.label, labels), (carried.tag, tags))
        )
        row_inputs = self._row_inputs(features, labels[:-1], tags[1:], tags[:-1])
        kept = all_rows(row_inputs, _memory_state(carried), self._weights(), self.decay)
        return self._carried(kept, labels, tags), self._predictions(kept.seen[1:])

    def _row_inputs(
        self, features: Tensor, label: Tensor, tag: Tensor, tag_before: Tensor
    ) -> RowInputs:
        """The inputs of rows that do not depend on earlier rows, except for the previous label."""
        cell, outside = self.controller.gates, features.shape[-1] + self.outputs
        gates = F.linear(torch.cat([features, label], -1), cell.weight[:, :outside], cell.bias)
        keys = F.linear(features, self.key.weight[:, self.hidden :], self.key.bias)
        late = F.linear(label, self.late.weight[:, self.hidden :], self.late.bias)
        gate = self.gate.bias.expand(*features.shape[:-1], -1)
        return RowInputs(gates, torch.cat([keys, late, gate], -1), tag, tag_before)

    def _weights(self) -> Weights:
        """What rows apply to what was read and to the controller's state."""
        outside = self.controller.inputs - self.reads * self.width
        of_state = [layer.weight[:, : self.hidden] for layer in (self.key, self.late, self.gate)]
        return Weights(
            self.controller.gates.weight[:, outside:], torch.cat(of_state), self.strength
        )

    def _predictions(self, seen: Tensor) -> Tensor:
        reads, hidden = seen.split([self.reads * self.width, self.hidden], -1)
        predictions: Tensor = self.answer(torch.cat([hidden, reads], -1))
        return predictions

    def _carried(self, kept: MemoryState, label: Tensor, tag: Tensor) -> Carried:
        reads, hidden = kept.seen.split([self.reads * self.width, self.hidden], -1)
        used = Used(kept.memory, kept.usage, kept.looks)
        return Carried(CellState(hidden, kept.cell), used, reads, label, tag)


def _memory_state(carried: Carried) -> MemoryState:
    seen = torch.cat([carried.reads, carried.cell.hidden], -1)
    return MemoryState(seen, carried.cell.cell, *carried.used)


def _present_first(weights: Tensor) -> Tensor:
    """The order (rows,) in which rows of weight 0 come last."""
    return (weights > 0).to(torch.uint8).argsort(descending=True, stable=True)


def _after(path: Carried, weights: Tensor) -> Carried:
    """What is carried after as many rows of a path as there are ``weights`` above 0."""
    n = (weights > 0).sum().reshape(1)
    carried: Carried = map_tree(lambda leaf: leaf.index_select(0, n).squeeze(0), path)
    return carried


def _of_task(predictions: Tensor, state: State, spec: TaskSpec) -> Tensor:
    """The outputs that the task has, absent classes without probability."""
    return without_absent(predictions[:, : spec.outputs], state.get("present"))
