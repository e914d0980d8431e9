"""What a learner did with one task, in numbers: what moved, at which rates, what it looked at.

Each part comes from an optional method of the learner (:mod:`quickstudy.reports.protocols`), and is
None for a learner without it:

    trajectory    ->  Adaptation   what each inner step changed
    learnt_rates  ->  Rates        the learning rates that training found
    attention     ->  (q, s)       how much each query looked at each support row
                      and Nearest  the support rows that a query looked at most
    embed         ->  Nearest      the support rows that lie nearest to it, without attention
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.base.modules import evaluation_mode
from quickstudy.base.weighting import counting
from quickstudy.core import Acting, Examples, Learner, Predictor, State, Task
from quickstudy.objectives import mean_loss, predict_rows
from quickstudy.reports.neighbours import Nearest, nearest
from quickstudy.reports.protocols import Attends, LearnsRates, StepsInside
from quickstudy.reports.rows_shown import judgeable, to_numpy
from quickstudy.reports.view_types import Array, EpisodeView, View
from quickstudy.reports.views import view
from quickstudy.tasks.acting import needs_acting, run_acting
from quickstudy.tasks.examples import counted_weights

MOST_LAYERS = 20
MOST_STEPS = 10
MOST_ROWS = 60
"""Bounds on what is compared: layers are pooled, steps and query rows thinned out evenly."""


@dataclass(frozen=True)
class Adaptation:
    """What the inner steps did on one task; k + 1 moments, l layers in the network's order.

    ``steps``         (k + 1,) inner steps taken: 0 first, all of them last.
    ``support_loss``  (k + 1,) mean loss of the support rows.
    ``query_score``   (k + 1,) the answer's first score on the queries.
    ``score``         its name.
    ``unit``          its unit, "%" or "".
    ``layers``        names of the l layers; none where the states hold no weights.
    ``weights``       (k + 1, l): |w_k - w_0| / |w_0| over all weights of a layer.
    ``features``      (k + 1, l): likewise for what a layer gives for the query rows.

    A ratio is NaN where a layer started at zero, or gives nothing for the queries.
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
    """What a learner did with the task of ``view``, as far as it lets one see.

    ``attention``  (q, s) share of each support row in the answer to each query: rows of the view.
    ``nearest``    one per query shown, mistakes first; by attention where there is some, by
                   features else; none without either, and where tasks do not ask for one class.
    """

    view: View
    adaptation: Adaptation | None = None
    rates: Rates | None = None
    attention: Array | None = None
    nearest: tuple[Nearest, ...] = ()


def insights(learner: Learner, task: Task, names: Sequence[str] | None = None) -> Insights:
    """All that ``learner`` lets one see of how it answers ``task``.

    ``names`` gives one name per way. Raises ValueError as :func:`quickstudy.reports.views.view`
    does, and for attention that is not one share per query and support row.
    """
    with evaluation_mode(learner):
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


@torch.no_grad()  # a learner's gradients are its own affair; a graph of its steps fills the memory
def adaptation(learner: Learner, task: Task) -> Adaptation | None:
    """What each inner step changed; None for a learner without inner steps."""
    if not isinstance(learner, StepsInside):
        return None
    states = learner.trajectory(_given(task.support), task.spec)
    if states is None or len(states) < 2:
        return None
    steps = _spread(len(states), MOST_STEPS + 1)
    states = [states[step] for step in steps]
    backbone = getattr(learner, "backbone", None)
    network = backbone if isinstance(backbone, nn.Module) else nn.Module()
    weights = [_weights(network, state) for state in states]
    layer_of = layers_of(weights[0])
    layers = tuple(dict.fromkeys(layer_of.values()))
    # A layer that is no part of the network, such as a head of the learner's own, has no features.
    inside = {layer_of[name] for name, _ in network.named_parameters() if name in layer_of}
    rows = np.flatnonzero(judgeable(_given(task.query), task.spec.answer))
    rows = rows[_spread(len(rows), MOST_ROWS)]
    losses, scores, features = [], [], []
    for state in states:
        losses.append(_support_loss(learner, state, task))
        with _outputs(network, inside, rows) as outputs:
            scores.append(_query_score(learner, state, task))
        features.append({layer: [output] for layer, output in outputs.items()})
    parts = [{layer: _of(layer, layer_of, w) for layer in layers} for w in weights]
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


def _given(rows: Examples | Acting) -> Examples:
    """Rows that are there already; ValueError for those yet to be made by acting."""
    if not isinstance(rows, Examples):
        raise ValueError(
            "insights: needs a task of given rows, but this one's are yet to be made by acting. "
            "Make them with quickstudy.tasks.acting.run_acting(learner, task) first."
        )
    return rows


def _support_loss(learner: Learner, state: State, task: Task) -> float:
    support, answer = _given(task.support), task.spec.answer
    predictions = predict_rows(Predictor(learner, state, task.spec), support)
    return float(mean_loss(predictions, support, answer))


def _query_score(learner: Learner, state: State, task: Task) -> float:
    query, score = _given(task.query), task.spec.answer.score
    predictor = Predictor(learner, state, task.spec)
    if score.decoded:
        predictions = task.spec.answer.decode(predictor, query.inputs)
    else:
        predictions = predict_rows(predictor, query)
    return float(score.value(score.statistic(predictions, query)))


def layers_of(names: Iterable[str]) -> dict[str, str]:
    """The layer of each parameter: the module that holds it.

    A network of more than ``MOST_LAYERS`` such modules is told in larger blocks, cut at the
    deepest level of its names that gives so few.
    """
    paths = {name: name.split(".")[:-1] or [name] for name in names}
    depth = max(map(len, paths.values()), default=1)
    while depth > 1 and len({tuple(p[:depth]) for p in paths.values()}) > MOST_LAYERS:
        depth -= 1
    return {name: ".".join(path[:depth]) for name, path in paths.items()}


def _weights(network: nn.Module, state: State) -> dict[str, Tensor]:
    """All weights in use: the network's own, replaced and joined by those of the state.

    A state may name them as the network does, or as the learner whose ``backbone`` it is.
    """
    given = state.get("weights") if isinstance(state, Mapping) else None
    if not isinstance(given, Mapping):
        return {}
    weights: dict[str, Tensor] = dict(network.named_parameters())
    for name, weight in given.items():
        weights[name if name in weights else name.removeprefix("backbone.")] = weight
    return weights


def _of(layer: str, layer_of: Mapping[str, str], weights: Mapping[str, Tensor]) -> list[Tensor]:
    return [w for name, w in weights.items() if layer_of[name] == layer]


@contextmanager
def _outputs(network: nn.Module, layers: Iterable[str], rows: Array) -> Iterator[dict[str, Tensor]]:
    """What each layer gave, inside, for the query ``rows``: the output of its last part to run."""
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


def _movement(layers: Sequence[str], moments: Sequence[Mapping[str, list[Tensor]]]) -> Array:
    """(moments, l): |now - start| / |start| of each layer's tensors together."""
    ratios = np.full((len(moments), len(layers)), np.nan)
    for column, layer in enumerate(layers):
        if layer not in moments[0]:
            continue
        start = moments[0][layer]
        size = _length(start)
        for row, moment in enumerate(moments):
            moved = [a - b for a, b in zip(moment[layer], start, strict=True)]
            ratios[row, column] = _length(moved) / size if size > 0 else np.nan
    return ratios


def _length(tensors: Sequence[Tensor]) -> float:
    return float(sum(float(t.double().square().sum()) for t in tensors) ** 0.5)


def _spread(length: int, most: int) -> Array:
    """At most ``most`` of 0 … length - 1, evenly spread, with the first and the last."""
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
    """(q, s): how much each judgeable query looked at each judgeable support row."""
    if not isinstance(learner, Attends):
        return None
    support, query, answer = _given(task.support), _given(task.query), task.spec.answer
    state = learner.adapt(support, task.spec)
    with counting(counted_weights(query, answer)):
        shares = learner.attention(state, query.inputs)
    if shares is None:
        return None
    expected = (len(query.weights), len(support.weights))
    if shares.shape != expected:
        raise ValueError(
            f"attention: one share per query and support row makes {expected}; found "
            f"{tuple(shares.shape)}. Average over heads and layers, and leave no row out."
        )
    return to_numpy(shares)[judgeable(query, answer)][:, judgeable(support, answer)]
