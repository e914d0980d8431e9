"""Meta Networks: slow weights, and fast weights computed from gradients on the support set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import like, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.attention import log_weights, of_present
from quickstudy.learners.memory.centring import centre_of, centred, normalised_size
from quickstudy.learners.outputs import element_weights, present_entry, refuse_more_outputs
from quickstudy.learners.preprocessing import preprocess
from quickstudy.tasks.examples import labelled, without_absent

Layers = list[tuple[Tensor, Tensor]]
"""Weight (..., outputs, inputs) and bias (..., outputs) of each layer, the first one first."""


class MetaNetworks(Learner):
    """Maps a support set to a memory of fast weights, one entry for each support row.

        Q*   = d(mean_i ∇_Q L(v(u(Q, x_i)), y_i))                                  (algorithm 1)
        W*_i = m(∇_W L(b(W, x_i), y_i))
        r_i  = u(Q, Q*, x_i)
        a_i  = softmax_i(strength * cosine(u(Q, Q*, x), r_i) + log w_i)
        predict = b(W, sum_i a_i W*_i, x)

    The base learner b and the representation u are perceptrons over shared features f(x). Slow
    weights W, Q and fast ones W*, Q* form parallel layers, whose outputs are added after the
    activation: relu(slow) + relu(fast), and slow + fast in the last layer (layer augmentation). The
    maps m and d are small networks that map each element of a gradient separately.

    ``backbone``  inputs (n, ...) -> features (n, backbone.features), at least 4, because each row
                  is normalised.
    ``outputs``   most classes, or real targets, of any task.
    ``hidden``    size of the layers of b and u.
    ``rate``      initially m and d give a gradient step of this rate; choose a smaller one for
                  targets far from 1.

    State: ``memory`` (fast weights of b, one for each support row), ``keys`` (rows, hidden),
    ``bias`` (rows,), the logarithm of the weights, ``representation`` (fast weights of u);
    ``centre`` (features,); ``present`` (outputs,) for classification; ``statistics`` for
    norm="support".

    Unknown labels and real targets do not contribute to the gradients.

    Raises ValueError for a task of more outputs, and for a backbone of fewer than 4 features, or
    that does not declare its ``features``.

    Reference: Munkhdalai and Yu (2017), Meta Networks.
    Differs from the paper in the layers that have fast weights. There b and u are two networks of
    five convolutions, all with fast weights. Here b and u share their convolutions, and only their
    two further layers have fast weights: a copy of the convolutions for each support row would be
    large and slow. d maps the mean of the gradients, so that the order of the support does not
    matter (in the paper, d is an LSTM over a sample of gradients). The loss of u is cross entropy
    over a learnt layer v for any number of shots (in the paper only at one shot, else a contrastive
    loss). A learnt rate times the gradient is subtracted from the outputs of m and d, so that
    training starts from a gradient step. The strength of attention is learnt (1 in the paper).
    Features are centred at the mean of the support.

    >>> import quickstudy as qs
    >>> learner = qs.MetaNetworks(qs.backbones.MLP(in_features=2), outputs=2)
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers = (Classes, Reals, Labels)
    differentiates = True
    exceptions = {  # noqa: RUF012  (a ClassVar in Learner)
        "relabelling_permutes_outputs": "each way has its own slow weights"
    }

    def __init__(
        self, backbone: nn.Module, outputs: int = 5, hidden: int = 64, rate: float = 1.0
    ) -> None:
        super().__init__()
        refuse_sizes("MetaNetworks", outputs=outputs, hidden=hidden)
        if not 0 < rate < math.inf:
            raise ValueError(f"MetaNetworks: rate must be a positive number; found {rate}.")
        features = normalised_size(backbone, "MetaNetworks")
        self.outputs, self.hidden, self.rate = outputs, hidden, rate
        self.base = _perceptron(features, hidden, outputs)  # W
        self.representation = _perceptron(features, hidden, hidden)  # Q
        self.representation_head = nn.Linear(hidden, outputs)  # v
        self.base_mapper = GradientMapper(2, rate)  # m
        self.representation_mapper = GradientMapper(2, rate)  # d
        self.strength = nn.Parameter(torch.tensor(10.0))
        like(backbone, self)  # before the backbone is assigned, which is not converted
        self.backbone = backbone

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """Fast weights from the gradients of the losses of ``support``."""
        refuse_more_outputs("MetaNetworks", spec, self.outputs)
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        weights = support.weights.to(features.dtype)
        centre = centre_of(features, weights)
        features = centred(features, centre)
        present = present_entry(support, spec)
        counts = element_weights(support, spec.answer, features.dtype).mean(-1)

        def base_loss(layers: Layers, row: Tensor, target: Tensor) -> Tensor:
            return _loss(run(layers, row), target, present.get("present"), spec.answer)

        def representation_loss(layers: Layers, row: Tensor, target: Tensor) -> Tensor:
            prediction = self.representation_head(run(layers, row))
            return _loss(prediction, target, present.get("present"), spec.answer)

        def gradients(loss: Any, layers: Layers) -> Layers:
            """One gradient for each row: leading dimension (rows,)."""
            each = vmap(grad(loss), in_dims=(None, 0, 0))
            result: Layers = each(layers, features, support.targets)
            return result

        slow = _layers(self.representation)
        mean = [
            (_row_mean(weight, counts), _row_mean(bias, counts))
            for weight, bias in gradients(representation_loss, slow)
        ]
        fast = self.representation_mapper(mean)
        return {
            "memory": self.base_mapper(gradients(base_loss, _layers(self.base))),
            "keys": run(slow, features, fast),
            "bias": log_weights(weights),
            "representation": fast,
            "centre": centre,
            "statistics": statistics,
            **present,
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs), each with the fast weights that the query attends to."""
        features = self._query_features(state, inputs)
        shares = self._shares(state, features)
        fast = [
            (torch.einsum("nr,roi->noi", shares, weight), shares @ bias)
            for weight, bias in state["memory"]
        ]
        predictions = run(_layers(self.base), features, fast)[:, : spec.outputs]
        return without_absent(predictions, state.get("present"))

    def embed(self, state: State, inputs: Any) -> Tensor:
        """u(Q, Q*, x): (n, hidden), the space in which queries attend to support rows."""
        return self._represent(state, self._query_features(state, inputs))

    def attention(self, state: State, inputs: Any) -> Tensor:
        """Shares (n, support rows) of the support rows' fast weights."""
        shares = self._shares(state, self._query_features(state, inputs))
        return of_present(shares, state["bias"])

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """The learnt rates of the gradients, by the name of the slow weight."""
        rates = {}
        for part, net, mapper in (
            ("base", self.base, self.base_mapper),
            ("representation", self.representation, self.representation_mapper),
        ):
            layers = (name for name, layer in net.named_children() if isinstance(layer, nn.Linear))
            for layer, rate in zip(layers, mapper.rate, strict=True):
                rates[f"{part}.{layer}.weight"] = rates[f"{part}.{layer}.bias"] = rate
        return rates

    def _query_features(self, state: State, inputs: Any) -> Tensor:
        features = embed_query(self.backbone, inputs, state["statistics"])
        return centred(features, state["centre"])

    def _represent(self, state: State, features: Tensor) -> Tensor:
        return run(_layers(self.representation), features, state["representation"])

    def _shares(self, state: State, features: Tensor) -> Tensor:
        queries = F.normalize(self._represent(state, features), dim=-1)
        cosines = queries @ F.normalize(state["keys"], dim=-1).mT
        logits: Tensor = self.strength * cosines + state["bias"]
        return logits.softmax(-1)


class GradientMapper(nn.Module):
    """Gradients -> fast weights, elementwise: net(scaled g) - rate * g.

    ``net`` is a perceptron of 20 hidden units, shared by all elements; ``rate`` is learnt, one for
    each of the ``layers``. Gradients differ in size by orders of magnitude, so size and sign are
    separate inputs of ``net`` (Andrychowicz et al., 2016, appendix A; here p = 7):

        scaled g = (log|g| / p, sign(g))   where |g| >= exp(-p),   else   (-1, exp(p) g)
    """

    def __init__(self, layers: int, rate: float = 1.0, hidden: int = 20) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.full((layers,), rate))
        self.net = _perceptron(2, hidden, 1)
        last_weight, last_bias = _layers(self.net)[-1]
        with torch.no_grad():  # so that fast weights start close to a plain gradient step
            last_weight.mul_(0.01)
            last_bias.zero_()

    def forward(self, gradients: Layers) -> Layers:
        """Fast weights in the shapes of ``gradients``."""
        return [
            (self._mapped(weight) - rate * weight, self._mapped(bias) - rate * bias)
            for rate, (weight, bias) in zip(self.rate, gradients, strict=True)
        ]

    def _mapped(self, gradient: Tensor) -> Tensor:
        mapped: Tensor = self.net(preprocess(gradient, p=7.0))
        return mapped.squeeze(-1)


def run(slow: Layers, rows: Tensor, fast: Layers | None = None) -> Tensor:
    """Layer augmentation: rows (..., inputs) -> (..., outputs).

    The outputs of slow and fast weights are added after the activation, which is relu in all layers
    but the last. Each row may have its own fast weights: (n, outputs, inputs).
    """
    hidden = rows
    for i, (weight, bias) in enumerate(slow):
        last = i == len(slow) - 1
        parts = [F.linear(hidden, weight, bias)]
        if fast is not None:
            weight, bias = fast[i]
            # Not `@`, which sums in another order where its factors need no gradients; nor "...",
            # whose rows ONNX does not broadcast.
            of = "oi,ni->no" if weight.ndim == 2 else "noi,ni->no"
            parts.append(torch.einsum(of, weight, hidden) + bias)
        hidden = torch.stack([part if last else part.relu() for part in parts]).sum(0)
    return hidden


def _perceptron(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _layers(net: nn.Sequential) -> Layers:
    return [(layer.weight, layer.bias) for layer in net if isinstance(layer, nn.Linear)]


def _row_mean(rows: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean over the first dimension: (rows, ...), (rows,) -> (...)."""
    tiny = torch.finfo(weights.dtype).tiny
    mean: Tensor = torch.tensordot(weights / weights.sum().clamp_min(tiny), rows, 1)
    return mean


def _loss(prediction: Tensor, target: Tensor, present: Tensor | None, answer: Answer) -> Tensor:
    """The loss of one row, over its known elements."""
    allowed = without_absent(prediction[: answer.outputs], present)
    return answer.loss(allowed[None], target[None]).squeeze(0)
