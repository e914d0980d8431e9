"""One task as a learner answers it, in numbers: what figures and pages are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quickstudy.backbones.norms import counting
from quickstudy.base.modules import evaluation_mode
from quickstudy.core import Examples, Learner, Task, TaskSpec

Array = NDArray[Any]


@dataclass(frozen=True)
class EpisodeView:
    """A classification task and a learner's answers; s support rows, q query rows.

    Rows that are not there (weight 0) or whose class is unknown (-1) are left out.

    ``support_images``      (s, channels, height, width) in [0, 1], or None where not images.
    ``query_images``        (q, channels, height, width), likewise.
    ``support_targets``     (s,) ways.
    ``query_targets``       (q,) ways.
    ``predicted``           (q,) the most probable way.
    ``probability``         (q,) the probability given to it.
    ``support_embeddings``  (s, d) features in which the predictor sees the rows, or None.
    ``query_embeddings``    (q, d), likewise.
    ``names``               a name per way.
    """

    support_images: Array | None
    query_images: Array | None
    support_targets: Array
    query_targets: Array
    predicted: Array
    probability: Array
    support_embeddings: Array | None
    query_embeddings: Array | None
    names: tuple[str, ...]

    @property
    def correct(self) -> Array:
        """(q,): whether each query is answered rightly."""
        return np.asarray(self.predicted == self.query_targets)

    @property
    def confusion(self) -> Array:
        """(ways, ways): how many queries of each true way (row) were called each way (column)."""
        counts = np.zeros((len(self.names), len(self.names)), dtype=np.int64)
        np.add.at(counts, (self.query_targets, self.predicted), 1)
        return counts


@dataclass(frozen=True)
class RegressionView:
    """A regression task and a learner's answers; s support rows, q query rows, d outputs.

    ``support_targets``  (s, d).
    ``query_targets``    (q, d).
    ``before``           (q, d) answers after adapting to nothing at all (every weight 0); None
                         for a learner that has no answer then.
    ``after``            (q, d) answers after adapting to the support set.
    ``deviation``        (q, d) standard deviation that the learner gives its answers, or None.
    ``support_inputs``   (s,) where inputs are single numbers, else None.
    ``query_inputs``     (q,), likewise.
    """

    support_targets: Array
    query_targets: Array
    before: Array | None
    after: Array
    support_inputs: Array | None
    query_inputs: Array | None
    deviation: Array | None = None

    @property
    def is_curve(self) -> bool:
        """Whether the task is one number to one number, and so can be drawn as a curve."""
        return self.query_inputs is not None and self.query_targets.shape[1] == 1


View = EpisodeView | RegressionView


def view(learner: Learner, task: Task, names: Sequence[str] | None = None) -> View:
    """How ``learner`` answers ``task``: an EpisodeView for class ids, else a RegressionView.

    ``names`` gives one name per way; "class 1", "class 2", … by default.

    Raises ValueError where support or query are made by acting instead of given, where nothing
    can be judged, and where ``names`` are not one per way.
    """
    if not isinstance(task.support, Examples) or not isinstance(task.query, Examples):
        raise ValueError(
            "view: support and query must be given rows, but this task makes them by acting. "
            "Call its support and query functions first, and view a task of their rows."
        )
    with evaluation_mode(learner), torch.no_grad():
        if task.query.targets.is_floating_point():
            return _view_regression(learner, task.support, task.query, task.spec)
        return _view_episode(learner, task.support, task.query, task.spec, names)


def _view_episode(
    learner: Learner,
    support: Examples,
    query: Examples,
    spec: TaskSpec,
    names: Sequence[str] | None,
) -> EpisodeView:
    if names is None:
        names = [f"class {way + 1}" for way in range(spec.outputs)]
    if len(names) != spec.outputs:
        raise ValueError(
            f"view: {len(names)} names were given for {spec.outputs} ways. Give one name per way."
        )
    state = learner.adapt(support, spec)
    kept_support, kept_query = judgeable(support), judgeable(query)
    # All rows are asked at once, kept or not: a transductive learner must see what it is scored on.
    with counting(query.weights):
        probability, predicted = learner.predict(state, query.inputs, spec).softmax(-1).max(-1)
        query_embeddings = learner.embed(state, query.inputs)
    with counting(support.weights):
        support_embeddings = learner.embed(state, support.inputs)
    support_images, query_images = _as_images(support.inputs, query.inputs)
    return EpisodeView(
        _pick(support_images, kept_support),
        _pick(query_images, kept_query),
        to_numpy(support.targets)[kept_support],
        to_numpy(query.targets)[kept_query],
        to_numpy(predicted)[kept_query],
        to_numpy(probability)[kept_query],
        _pick(support_embeddings, kept_support),
        _pick(query_embeddings, kept_query),
        tuple(str(name) for name in names),
    )


def _view_regression(
    learner: Learner, support: Examples, query: Examples, spec: TaskSpec
) -> RegressionView:
    kept_support, kept_query = judgeable(support), judgeable(query)
    nothing = support._replace(weights=torch.zeros_like(support.weights))
    untaught, taught = learner.adapt(nothing, spec), learner.adapt(support, spec)
    with counting(query.weights):
        before = learner.predict(untaught, query.inputs, spec)
        after = learner.predict(taught, query.inputs, spec)
        deviation = learner.uncertainty(taught, query.inputs)
    return RegressionView(
        to_numpy(support.targets)[kept_support],
        to_numpy(query.targets)[kept_query],
        to_numpy(before)[kept_query] if bool(before.isfinite().all()) else None,
        to_numpy(after)[kept_query],
        _pick(_as_numbers(support.inputs), kept_support),
        _pick(_as_numbers(query.inputs), kept_query),
        _pick(deviation, kept_query),
    )


def judgeable(examples: Examples) -> Array:
    """(n,): rows that are there and whose target is known; at least one."""
    targets = examples.targets
    known = ~targets.isnan().flatten(1).any(1) if targets.is_floating_point() else targets >= 0
    kept = to_numpy(known & (examples.weights > 0))
    if not kept.any():
        raise ValueError(
            f"view: none of the {len(kept)} rows has both a weight and a known target, so there "
            "is nothing to show. Give a task with labelled rows."
        )
    return kept


def _as_images(*inputs: Any) -> tuple[Tensor | None, ...]:
    """Inputs as images in [0, 1] on one common scale; None each where they are not images."""
    if not all(isinstance(i, Tensor) and _is_image(i) for i in inputs):
        return tuple(None for _ in inputs)
    images = [i / 255 if i.dtype == torch.uint8 else i.float().nan_to_num() for i in inputs]
    low = min(float(i.min()) for i in images)
    high = max(float(i.max()) for i in images)
    if low < 0 or high > 1:  # standardised pixels: any common scale shows them
        images = [(i - low) / max(high - low, 1e-12) for i in images]
    return tuple(images)


def _is_image(inputs: Tensor) -> bool:
    """(n, channels, height, width): grey, grey and alpha, RGB, or RGBA."""
    return inputs.ndim == 4 and 1 <= inputs.shape[1] <= 4


def _as_numbers(inputs: Any) -> Tensor | None:
    """Inputs (n, 1) or (n,) as (n,); None where a row is more than one number."""
    if isinstance(inputs, Tensor) and inputs.numel() == len(inputs):
        return inputs.reshape(-1)
    return None


def _pick(values: Tensor | None, kept: Array) -> Array | None:
    return None if values is None else to_numpy(values)[kept]


def to_numpy(values: Tensor) -> Array:
    """A tensor on any device as an array, low-precision floats as float32 ones."""
    values = values.detach().cpu()
    return np.asarray(values.float().numpy() if values.is_floating_point() else values.numpy())
