"""How a learner adapted to one task, as arrays.

Each part comes from an optional method of the learner (:mod:`quickstudy.reports.protocols`), and is
None for a learner without that method:

    trajectory    ->  Adaptation   what each inner step changed
    learnt_rates  ->  Rates        the learnt inner learning rates
    attention     ->  (q, s)       each query's attention to each support row
                      and Nearest  the support rows with most attention
    embed         ->  Nearest      without attention: the support rows with the nearest features
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.base.door import inspected
from quickstudy.base.replica import in_evaluation_mode
from quickstudy.base.weighting import counting
from quickstudy.core import Learner, Predictor, State, Task
from quickstudy.objectives import mean_loss, predict_rows
from quickstudy.reports.neighbours import Nearest, nearest
from quickstudy.reports.protocols import Attends, HasInnerSteps, LearnsRates
from quickstudy.reports.usable_rows import to_numpy, usable_rows
from quickstudy.reports.view_types import Array, EpisodeView, View
from quickstudy.reports.views import view
from quickstudy.tasks.acting import needs_acting, run_acting
from quickstudy.tasks.examples import counted_weights, require_given

MOST_LAYERS = 20
MOST_STEPS = 10
MOST_ROWS = 60
"""Bounds on what is compared: layers are merged, steps and query rows evenly selected."""


@dataclass(frozen=True)
class Adaptation:
    """What the inner steps changed on one task; k + 1 states, l layers in the network's order.

    ``steps``         (k + 1,) inner steps taken: 0 first, all of them last.
    ``support_loss``  (k + 1,) mean loss of the support rows.
    ``query_score``   (k + 1,) the answer's first score on the queries.
    ``score``         its name.
    ``unit``          its unit, "%" or "".
    ``layers``        names of the l layers; none where the states hold no weights.
    ``weights``       (k + 1, l): |w_k - w_0| / |w_0| over all weights of a layer.
    ``features``      (k + 1, l): likewise for the layer's outputs for the query rows.

    A ratio is NaN where a layer started at zero, or has no output for the queries.
    """

    steps: Array
    support_loss: Array
    query_score: Array
    score: str
    unit: str
    layers: tuple[str, ...]
    weights: Array
    features: Array


@dataclass(frozen=True)
class Rates:
    """Learnt learning rates, over all rates of each of l layers.

    ``layers``              l names.
    ``low, median, high``   (l,) quartiles.
    ``negative``            (l,) share of rates below zero.
    """

    layers: tuple[str, ...]
    low: Array
    median: Array
    high: Array
    negative: Array


@dataclass(frozen=True)
class Insights:
    """How a learner adapted to the task of ``view``, as far as its methods show it.

    ``attention``  (q, s) share of each support row in each prediction; rows are the view's.
    ``nearest``    one per query shown, wrong ones first; by attention where there is some, else by
                   features; empty without either, and for tasks that are not classification.
    """

    view: View
    adaptation: Adaptation | None = None
    rates: Rates | None = None
    attention: Array | None = None
    nearest: tuple[Nearest, ...] = ()


@inspected()  # what diverged is shown, not refused
def insights(learner: Learner, task: Task, names: Sequence[str] | None = None) -> Insights:
    """All insights that the methods of ``learner`` give for ``task``.

    ``names``  one per way.

    Raises ValueError as :func:`quickstudy.reports.views.view`
    does, and for attention that is not one share per query and support row.
    """
    learner = in_evaluation_mode(learner)
    task = run_acting(learner, task) if needs_acting(task) else task
    shown = view(learner, task, names)
    shares = attention(learner, task)
    return Insights(
        shown,
        adaptation(learner, task),
        rates(learner.learnt_rates() if isinstance(learner, LearnsRates) else {}),
        shares,
        nearest(shown, shares) if isinstance(shown, EpisodeView) else (),
    )


@torch.no_grad()  # learners enable gradients themselves; a graph of all steps needs memory
def adaptation(learner: Learner, task: Task) -> Adaptation | None:
    """What each inner step changed; None for a learner without inner steps."""
    if not isinstance(learner, HasInnerSteps):
        return None
    states = learner.trajectory(require_given(task.support), task.spec)
    if states is None or len(states) < 2:
        return None
    steps = _evenly_spaced(len(states), MOST_STEPS + 1)
    states = [states[step] for step in steps]
    backbone = getattr(learner, "backbone", None)
    network = backbone if isinstance(backbone, nn.Module) else nn.Module()
    weights = [_weights(network, state) for state in states]
    layer_of = layers_of(weights[0])
    layers = tuple(dict.fromkeys(layer_of.values()))
    # A layer outside the network, such as the learner's own head, has no features.
    in_network = {layer_of[name] for name, _ in network.named_parameters() if name in layer_of}
    rows = np.flatnonzero(usable_rows(require_given(task.query), task.spec.answer))
    rows = rows[_evenly_spaced(len(rows), MOST_ROWS)]
    losses, scores, features = [], [], []
    for state in states:
        losses.append(_support_loss(learner, state, task))
        with _outputs(network, in_network, rows) as outputs:
            scores.append(_query_score(learner, state, task))
        features.append({layer: [output] for layer, output in outputs.items()})
    parts = [{layer: _weights_of_layer(layer, layer_of, w) for layer in layers} for w in weights]
    return Adaptation(
        steps,
        np.array(losses),
        np.array(scores),
        task.spec.answer.score.name,
        task.spec.answer.score.unit,
        layers,
        _movement(layers, parts),
        _movement(layers, features),
    )


def _support_loss(learner: Learner, state: State, task: Task) -> float:
    support, answer = require_given(task.support), task.spec.answer
    predictions = predict_rows(Predictor(learner, state, task.spec), support)
    return float(mean_loss(predictions, support, answer))


def _query_score(learner: Learner, state: State, task: Task) -> float:
    query, score = require_given(task.query), task.spec.answer.score
    predictor = Predictor(learner, state, task.spec)
    if score.decoded:
        predictions = task.spec.answer.decode(predictor, query.inputs)
    else:
        predictions = predict_rows(predictor, query)
    return float(score.value(score.statistic(predictions, query)))


def layers_of(names: Iterable[str]) -> dict[str, str]:
    """The layer of each parameter: the name of the module that holds it.

    Where that gives more than ``MOST_LAYERS`` layers, names are shortened to the deepest level that
    gives no more.
    """
    paths = {name: name.split(".")[:-1] or [name] for name in names}
    depth = max(map(len, paths.values()), default=1)
    while depth > 1 and len({tuple(p[:depth]) for p in paths.values()}) > MOST_LAYERS:
        depth -= 1
    return {name: ".".join(path[:depth]) for name, path in paths.items()}


def _weights(network: nn.Module, state: State) -> dict[str, Tensor]:
    """All weights in use: the network's own, replaced or extended by the weights of the state.

    Names in the state are the network's, or the learner's, with "backbone." in front.
    """
    given = state.get("weights") if isinstance(state, Mapping) else None
    if not isinstance(given, Mapping):
        return {}
    weights: dict[str, Tensor] = dict(network.named_parameters())
    for name, weight in given.items():
        weights[name if name in weights else name.removeprefix("backbone.")] = weight
    return weights


def _weights_of_layer(
    layer: str, layer_of: Mapping[str, str], weights: Mapping[str, Tensor]
) -> list[Tensor]:
    return [w for name, w in weights.items() if layer_of[name] == layer]


@contextmanager
def _outputs(network: nn.Module, layers: Iterable[str], rows: Array) -> Iterator[dict[str, Tensor]]:
    """Collect each layer's output for the query ``rows``; of several modules the last to run."""
    outputs: dict[str, Tensor] = {}

    def keep_as(layer: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim and len(output) > rows.max():
                outputs[layer] = output[torch.from_numpy(rows).to(output.device)]

        return keep

    handles = [
        module.register_forward_hook(keep_as(layer))
        for name, module in network.named_modules()
        for layer in layers
        if f"{name}.".startswith(f"{layer}.")
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _movement(layers: Sequence[str], states: Sequence[Mapping[str, list[Tensor]]]) -> Array:
    """(states, l): |now - start| / |start| over all tensors of each layer."""
    ratios = np.full((len(states), len(layers)), np.nan)
    for column, layer in enumerate(layers):
        if layer not in states[0]:
            continue
        start = states[0][layer]
        size = _length(start)
        for row, state in enumerate(states):
            change = [a - b for a, b in zip(state[layer], start, strict=True)]
            ratios[row, column] = _length(change) / size if size > 0 else np.nan
    return ratios


def _length(tensors: Sequence[Tensor]) -> float:
    return float(sum(float(t.double().square().sum()) for t in tensors) ** 0.5)


def _evenly_spaced(length: int, most: int) -> Array:
    """At most ``most`` of 0 … length - 1, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(np.int64))


def rates(learnt: Mapping[str, Tensor]) -> Rates | None:
    """Learnt rates by layer; None where there are none."""
    layer_of = layers_of(learnt)
    pooled: dict[str, list[Array]] = {}
    for name, values in learnt.items():
        pooled.setdefault(layer_of[name], []).append(to_numpy(values).ravel())
    if not pooled:
        return None
    groups = [np.concatenate(values) for values in pooled.values()]
    low, median, high = np.array([np.quantile(g, (0.25, 0.5, 0.75)) for g in groups]).T
    negative = np.array([(group < 0).mean() for group in groups])
    return Rates(tuple(pooled), low, median, high, negative)


@torch.no_grad()
def attention(learner: Learner, task: Task) -> Array | None:
    """(q, s): attention of each shown query to each shown support row; None without it."""
    if not isinstance(learner, Attends):
        return None
    support, query, answer = (
        require_given(task.support),
        require_given(task.query),
        task.spec.answer,
    )
    state = learner.adapt(support, task.spec)
    with counting(counted_weights(query, answer)):
        shares = learner.attention(state, query.inputs)
    if shares is None:
        return None
    expected = (len(query.weights), len(support.weights))
    if shares.shape != expected:
        raise ValueError(
            f"attention: must have one share per query and support row, {expected}; found "
            f"{tuple(shares.shape)}. Average over heads and layers, and leave no row out."
        )
    return to_numpy(shares)[usable_rows(query, answer)][:, usable_rows(support, answer)]
