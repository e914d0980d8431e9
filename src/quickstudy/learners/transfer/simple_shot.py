"""SimpleShot: the nearest class mean on normalised features of a fixed backbone."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.backbones.features import feature_size, like, refuse_heads_and_maps
from quickstudy.backbones.norms import (
    Statistics,
    embed_query,
    embed_support,
    rows_see_one_another,
)
from quickstudy.base.door import check_not_empty, received
from quickstudy.base.dropout import dropout_off
from quickstudy.base.modules import values_can_be_read
from quickstudy.base.trees import leaves, map_tree
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.extending import joint_means, refuse_shared_statistics
from quickstudy.learners.metric.distances import squared_euclidean, unit
from quickstudy.tasks.examples import class_means, labelled, without_absent
from quickstudy.tasks.rows import LabelledRows

_ROWS = 128
"""Base rows per call of the backbone."""


class SimpleShot(Learner):
    """Maps a support set to the class whose mean of normalised features is nearest.

        UN    z(x) = f(x)                            normalise=False
        L2N   z(x) = f(x) / |f(x)|                   the default
        CL2N  z(x) = (f(x) - m) / |f(x) - m|         centred=True

        c_k    = mean of z(x_i) over the support rows of class k
        logits = -scale * |z(x) - c_k|²

    m (d,) is the mean feature vector of the *base* classes, those that were trained on; it is the
    same for every task. :meth:`centre_on` sets it, and it is saved with the learner.

    ``backbone``   inputs (n, ...) -> features (n, d), as a rule a pretrained one that is frozen.
    ``normalise``  whether features are divided by their length. A row of zeros stays zero.
    ``centred``    whether the base classes' mean is subtracted before.
    ``scale``      factor on the squared distance, which is at most 4 between normalised features;
                   default 10. It changes probabilities, but not the nearest class.

    State: ``means`` (ways, d); ``totals`` (ways,), the total weight of each class; ``present``
    (ways,), whether a class has weight (others get probability 0); ``statistics`` for
    norm="support". :meth:`extend` adds rows and classes later, exactly.

    Raises ValueError for a scale that is not positive; for ``centred`` without ``normalise``, since
    no distance depends on the centre then; for a backbone with a head or with maps, and with
    ``centred`` for one that does not declare its ``features``, or where no centre was set.

    Reference: Wang, Chao, Weinberger and van der Maaten (2019), SimpleShot: Revisiting
    Nearest-Neighbor Classification for Few-Shot Learning, section 2.
    Differs from the paper in the backbone, which is given and not trained by cross entropy on the
    base classes here, and in row weights, which are 1 there. The paper names the nearest class; by
    squared distances the classes also get probabilities.

    >>> import torch, quickstudy as qs
    >>> learner = qs.SimpleShot(qs.frozen(qs.backbones.MLP(in_features=2)), centred=True)
    >>> _ = learner.centre_on(torch.rand(100, 2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).argmax(-1)
    tensor([0, 1])
    """

    answers = (Classes,)

    def __init__(
        self,
        backbone: nn.Module,
        normalise: bool = True,
        centred: bool = False,
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"SimpleShot: scale must be positive; found {scale}.")
        if centred and not normalise:
            raise ValueError(
                "SimpleShot: centred=True needs normalise=True, because distances do not change "
                "where the same centre is subtracted from all features. Leave centred out."
            )
        refuse_heads_and_maps(backbone, "SimpleShot")
        self.backbone, self.normalise, self.centred, self.scale = (
            backbone, normalise, centred, scale,
        )  # fmt: skip
        self.centre: Tensor | None
        centre = None
        if centred:
            centre = like(backbone, torch.zeros(feature_size(backbone, "SimpleShot")))
        self.register_buffer("centre", centre)

    def centre_on(self, base: LabelledRows | Any) -> Self:
        """Set the centre to the mean feature vector of the rows ``base``; returns the learner.

        ``base``  rows of the base classes: a split of a data set, or inputs (n, ...). Every row
                  counts once, as in the paper.

        Raises ValueError without ``centred``, for no rows, and for a backbone whose features of a
        row depend on others.
        """
        if self.centre is None:
            raise ValueError("centre_on: needs SimpleShot(..., centred=True); found False.")
        if rows_see_one_another(self.backbone):
            raise ValueError(
                "centre_on: needs features that depend on no other row, but the backbone "
                'normalises by statistics of a batch. Build it with norm="group".'
            )
        inputs = base.inputs if isinstance(base, LabelledRows) else base
        n = len(next(leaves(inputs)))
        check_not_empty(n, "centre_on")
        total = torch.zeros_like(self.centre, dtype=torch.float64)
        with torch.no_grad(), dropout_off(self):
            for start in range(0, n, _ROWS):
                rows = map_tree(lambda leaf, s=start: leaf[s : s + _ROWS], inputs)
                rows = received(self, rows, "centre_on")
                total += embed_query(self.backbone, rows, []).double().sum(0)
            self.centre.copy_(total / n)
        return self

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The mean of each class of ``support``."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        means, totals = class_means(self._transformed(features), support, spec.outputs)
        return _state(means, totals, statistics)

    def prior(self, spec: TaskSpec) -> State:
        """The state before any support row: no class is present.

        Raises ValueError for a backbone that does not declare its number of features, or that
        normalises by statistics of one support set.
        """
        refuse_shared_statistics(self.backbone, "SimpleShot")
        means = like(
            self.backbone, torch.zeros(spec.outputs, feature_size(self.backbone, "SimpleShot"))
        )
        return _state(means, means.new_zeros(spec.outputs), [])

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        """The means over all earlier rows and ``support``; the spec may add classes.

        Raises ValueError for a backbone that normalises by statistics of one support set.
        """
        refuse_shared_statistics(self.backbone, "SimpleShot")
        more = self.adapt(support, spec)
        return _state(
            *joint_means(state["means"], state["totals"], more["means"], more["totals"]), []
        )

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        distances = squared_euclidean(self.embed(state, inputs), state["means"])
        return without_absent(-self.scale * distances, state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Transformed features (n, d), in the same space as the means."""
        return self._transformed(embed_query(self.backbone, inputs, state["statistics"]))

    def _transformed(self, features: Tensor) -> Tensor:
        if self.centre is not None:
            if values_can_be_read(self.centre) and not self.centre.any():
                raise ValueError(
                    "SimpleShot: centred=True needs the mean feature vector of the base classes; "
                    "found none. Call centre_on(rows of the base classes) first."
                )
            features = features - self.centre
        return unit(features) if self.normalise else features


def _state(means: Tensor, totals: Tensor, statistics: Statistics) -> State:
    return {"means": means, "totals": totals, "present": totals > 0, "statistics": statistics}
