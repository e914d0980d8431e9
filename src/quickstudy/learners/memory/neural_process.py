"""Neural processes: a support set becomes a representation, from which a network predicts."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import feature_size, like, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.known import mean_of_known
from quickstudy.base.weighting import counting
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.learners.attention import (
    join_heads,
    log_weights,
    mean_over_outputs,
    shares,
    split_heads,
)
from quickstudy.learners.extending import joint_means, refuse_shared_statistics
from quickstudy.learners.memory.process_layers import decode, encode, perceptron
from quickstudy.learners.outputs import present_entry
from quickstudy.objectives import Outcome, query_loss, score_of
from quickstudy.tasks.examples import (
    counted_weights,
    labelled,
    require_given,
    weighted_mean,
    without_absent,
)


@runtime_checkable
class GivesDistribution(Protocol):
    """A learner whose predictions are distributions."""

    def distribution(self, state: State, inputs: Any) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (n, outputs)."""


def gaussian_likelihood(learner: Learner, task: Task) -> Outcome:
    """-log N(y; mean(x), deviation(x)²), the mean over the known numbers of the queries.

    For classes and labels, which have no deviation, it is the loss of their answer.

    Raises TypeError for a learner other than a neural process.
    """
    if not isinstance(learner, GivesDistribution):
        raise TypeError(
            f"gaussian_likelihood: needs a neural process; found {type(learner).__name__}."
        )
    query, answer = require_given(task.query), task.spec.answer
    if not isinstance(answer, Reals):
        return query_loss(learner, task)
    state = learner(task.support, task.spec).state
    with counting(counted_weights(query, answer)):
        mean, deviation = learner.distribution(state, query.inputs)
    # Not torch's function: it reads single values, which vmap does not allow.
    distances = (answer.fill(query.targets) - mean) / deviation
    negative_log = deviation.log() + (distances.square() + math.log(2 * math.pi)) / 2
    known = answer.known(query.targets)
    losses, share = mean_of_known(negative_log.where(known, 0.0), known)
    loss = weighted_mean(losses, query.weights * share)
    return Outcome(loss, score_of(mean, query, answer))


class ConditionalNeuralProcess(Learner):
    """Maps a support set to one mean representation, and that to predictions with a deviation.

        r_k                = sum_i w_i e(f(x_i), y_ik) / sum_i w_i              (equations 1, 2)
        mean_k, deviation_k = g(f(x), r_k),   deviation = floor + (1 - floor) softplus(·)    (3)

    The outputs k of a regression are independent functions under one prior; r_k is the mean over
    the rows whose y_ik is known. The same holds for labels: y_ik is 1 or -1, and mean_k is
    the logit. In classification, r_k is the mean over the rows of class k (the paper's section
    4.3), y_ik is 1, and mean_k is the logit of class k. Without rows, r_k is 0, and the prediction
    is that of the prior.

    ``backbone``  inputs (n, ...) -> features (n, d), for both support and queries.
    ``size``      of the representation and the hidden layers, 128 in the paper.
    ``floor``     least standard deviation, in the unit of the targets; 0.1 in the paper's code.

    State: ``representation`` (outputs, size), a mean over rows; ``totals`` (outputs,), the total
    weight of these rows; ``present`` (outputs,) for classification; ``statistics`` for
    norm="support".

    :meth:`extend` adds rows and outputs later.

    Raises ValueError for targets that are not one vector a row.

    :meth:`uncertainty` gives the standard deviation, which :func:`gaussian_likelihood` trains.

    Reference: Garnelo et al. (2018), Conditional Neural Processes.
    Differs from the paper in classification: each class is decoded separately, so that renaming
    classes permutes the outputs; the paper concatenates the classes' representations.

    >>> import torch, quickstudy as qs
    >>> learner = qs.ConditionalNeuralProcess(qs.backbones.MLP(in_features=1))
    >>> support = qs.examples(torch.eye(2)[:, :1], torch.eye(2)[:, :1])
    >>> predictor = learner(support, qs.regression())
    >>> predictor(support.inputs).shape, learner.uncertainty(predictor.state, support.inputs).shape
    (torch.Size([2, 1]), torch.Size([2, 1]))
    """

    answers = (Classes, Reals, Labels)
    objective = staticmethod(gaussian_likelihood)

    def __init__(self, backbone: nn.Module, size: int = 128, floor: float = 0.1) -> None:
        super().__init__()
        _check("ConditionalNeuralProcess", size, floor)
        self.size, self.floor = size, floor
        features = feature_size(backbone, "ConditionalNeuralProcess")
        self.encoder = perceptron(features + 1, size, size)
        self.decoder = perceptron(features + size, size, 2)
        like(backbone, self)  # before the backbone is assigned, which is not converted
        self.backbone = backbone

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The mean representation of ``support``, for every output."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        encoded, weights = encode(self.encoder, features, support, spec)
        totals = weights.sum(-1)
        share = weights / totals.clamp_min(torch.finfo(totals.dtype).tiny).unsqueeze(-1)
        representation = torch.einsum("kn, knd -> kd", share, encoded)
        return _state(representation, totals, spec) | {"statistics": statistics}

    def prior(self, spec: TaskSpec) -> State:
        """Representation 0 for every output.

        Raises ValueError for a backbone that normalises by statistics of one support set.
        """
        refuse_shared_statistics(self.backbone, "ConditionalNeuralProcess")
        representation = like(self.backbone, torch.zeros(spec.outputs, self.size))
        totals = representation.new_zeros(spec.outputs)
        return _state(representation, totals, spec) | {"statistics": []}

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        """The mean representation of all rows so far and ``support``; outputs may be added.

        Raises ValueError for a backbone that normalises by statistics of one support set.
        """
        refuse_shared_statistics(self.backbone, "ConditionalNeuralProcess")
        more = self.adapt(support, spec)
        means = joint_means(
            state["representation"], state["totals"], more["representation"], more["totals"]
        )
        return _state(*means, spec) | {"statistics": []}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """The mean, or logits, (n, outputs)."""
        return without_absent(self.distribution(state, inputs)[0], state.get("present"))

    def uncertainty(self, state: State, inputs: Any) -> Tensor:
        """The standard deviation (n, outputs) of a regression's targets."""
        return self.distribution(state, inputs)[1]

    def embed(self, state: State, inputs: Any) -> Tensor:
        """The backbone's features (n, d)."""
        return embed_query(self.backbone, inputs, state["statistics"])

    def distribution(self, state: State, inputs: Any) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (n, outputs)."""
        features = self.embed(state, inputs)
        n = features.shape[0]  # len() would fix it in an exported model
        read = state["representation"].unsqueeze(1).expand(-1, n, -1)
        return decode(self.decoder, features, read, self.floor)


class AttentiveConditionalNeuralProcess(Learner):
    """Maps a support set to representations that each query weighs by attention.

        r_i           = e(f(x_i), y_ik)
        r_k(x)        = heads of sum_i softmax_i(q(f(x))·q(f(x_i)) / √d + log w_i) r_i, mixed
        mean_k, deviation_k = g(f(x), r_k(x))

    Rows near the query count more. The mean of a :class:`ConditionalNeuralProcess` underfits.
    Outputs, classification and the prediction without rows are as in that learner. With one row of
    each class there is nothing to choose among: q is then not trained, and ``fit`` says so.

    ``backbone``  inputs (n, ...) -> features (n, d), for both support and queries.
    ``size``      of the representation and the hidden layers, 128 in the paper.
    ``heads``     of the attention, 8 in the paper; must divide ``size``.
    ``floor``     least standard deviation, in the unit of the targets; 0.1 in the paper's code.

    State: ``keys`` (heads, n, size / heads); ``values`` (outputs, heads, n, size / heads);
    ``weights`` (outputs, n); ``present`` (outputs,) for classification; ``statistics`` for
    norm="support".

    Raises ValueError for targets that are not one vector a row.

    :meth:`uncertainty` gives the standard deviation, which :func:`gaussian_likelihood` trains.

    Reference: Kim et al. (2019), Attentive Neural Processes, whose deterministic path this is.
    Differs from the paper in having no latent variable, so that all that is uncertain is in the
    deviation of each single prediction, and no self-attention in the encoder. An attentive neural
    process has both, and another objective.

    >>> import torch, quickstudy as qs
    >>> learner = qs.AttentiveConditionalNeuralProcess(qs.backbones.MLP(in_features=1))
    >>> support = qs.examples(torch.eye(2)[:, :1], torch.eye(2)[:, :1])
    >>> learner(support, qs.regression())(support.inputs).shape
    torch.Size([2, 1])
    """

    answers = (Classes, Reals, Labels)
    objective = staticmethod(gaussian_likelihood)

    def __init__(
        self, backbone: nn.Module, size: int = 128, heads: int = 8, floor: float = 0.1
    ) -> None:
        super().__init__()
        _check("AttentiveConditionalNeuralProcess", size, floor)
        if heads < 1 or size % heads:
            raise ValueError(
                "AttentiveConditionalNeuralProcess: heads must divide size; found "
                f"heads={heads} and size={size}."
            )
        self.size, self.heads, self.floor = size, heads, floor
        features = feature_size(backbone, "AttentiveConditionalNeuralProcess")
        self.encoder = perceptron(features + 1, size, size)
        self.place = nn.Sequential(nn.Linear(features, size), nn.ReLU(), nn.Linear(size, size))
        self.mix = nn.Linear(size, size)
        self.decoder = perceptron(features + size, size, 2)
        like(backbone, self)  # before the backbone is assigned, which is not converted
        self.backbone = backbone

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """Keys and values of ``support``."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        encoded, weights = encode(self.encoder, features, support, spec)
        return {
            "keys": split_heads(self.place(features), self.heads),
            "values": split_heads(encoded, self.heads), "weights": weights,
            "statistics": statistics, **present_entry(support, spec),
        }  # fmt: skip

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """The mean, or logits, (n, outputs)."""
        return without_absent(self.distribution(state, inputs)[0], state.get("present"))

    def uncertainty(self, state: State, inputs: Any) -> Tensor:
        """The standard deviation (n, outputs) of a regression's targets."""
        return self.distribution(state, inputs)[1]

    def embed(self, state: State, inputs: Any) -> Tensor:
        """The backbone's features (n, d)."""
        return embed_query(self.backbone, inputs, state["statistics"])

    def attention(self, state: State, inputs: Any) -> Tensor:
        """Shares (n, support rows), the mean over heads and present outputs."""
        share = self._shares(state, self.embed(state, inputs)).mean(1)
        share = share.where(state["weights"].unsqueeze(1) > 0, 0.0)  # also where no row has weight
        return mean_over_outputs(share, state.get("present"))

    def distribution(self, state: State, inputs: Any) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (n, outputs)."""
        features = self.embed(state, inputs)
        read = self.mix(join_heads(self._shares(state, features) @ state["values"]))
        has_rows = (state["weights"].sum(-1) > 0).to(read.dtype)
        return decode(self.decoder, features, read * has_rows[:, None, None], self.floor)

    def _shares(self, state: State, features: Tensor) -> Tensor:
        """(outputs, heads, n, support rows)."""
        bias = log_weights(state["weights"])[:, None, None]
        return shares(split_heads(self.place(features), self.heads), state["keys"], bias)


def _check(learner: str, size: int, floor: float) -> None:
    refuse_sizes(learner, size=size)
    check_floor(learner, floor)


def check_floor(learner: str, floor: float) -> None:
    """ValueError, prefixed by ``learner``, for a least deviation that is not in (0, 1)."""
    if not 0 < floor < 1:
        raise ValueError(f"{learner}: floor must lie between 0 and 1; found {floor}.")


def _state(representation: Tensor, totals: Tensor, spec: TaskSpec) -> dict[str, Any]:
    state = {"representation": representation, "totals": totals}
    if isinstance(spec.answer, Classes):
        state["present"] = totals > 0
    return state
