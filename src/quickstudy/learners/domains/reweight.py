"""Reweighting: source rows count as often as they would occur in the target."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import embed_support
from quickstudy.base.modules import values_can_be_read
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.domains.base_learner import base_learner, own_exceptions
from quickstudy.learners.domains.density_ratios import DomainClassifier, Ratio
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.tasks.transfer import is_target


def reweighted(
    support: Examples,
    ratio: Ratio = DomainClassifier(),  # noqa: B008  (frozen)
    features: Tensor | None = None,
) -> Examples:
    """``support`` with weights w_i r(x_i) for source rows, which any learner uses.

        r(x) = p_target(x) / p_source(x)

    Rows of group 0 are the target's, labelled or not, and keep their weights; all other groups are
    one source. A row of weight 0 changes nothing. A support set without source rows, or without any
    row that has weight, is returned as it is; so is, with a warning, one without target rows.

    ``ratio``     :class:`DomainClassifier`, :class:`KLIEP` or :class:`KMM` of
                  :mod:`quickstudy.learners.domains.density_ratios`, or a function of your own.
    ``features``  (n, d), on which densities are compared; by default the inputs, flattened.

    Raises ValueError for inputs that are no single tensor where ``features`` are not given, and for
    ratios that are not finite.

    >>> import torch, quickstudy as qs
    >>> from quickstudy.learners.domains.reweight import reweighted
    >>> x = torch.tensor([[0.0], [1.0], [2.0], [2.0], [3.0]])
    >>> rows = qs.examples(x, [0, 0, 1, -1, -1], groups=[1, 1, 1, 0, 0])
    >>> found = reweighted(rows).weights  # the target is where x is large
    >>> bool(found[0] < found[1] < found[2]), found[3:].tolist()
    (True, [1.0, 1.0])
    """
    target, weights = is_target(support), support.weights
    of_source, of_target = weights.masked_fill(target, 0.0), weights.masked_fill(~target, 0.0)
    readable = values_can_be_read(weights)
    if readable and not bool(of_source.any()):
        return support
    if readable and not bool(of_target.any()):
        warnings.warn(
            "reweight: needs target rows to compare with; found no row of group 0 with weight. "
            "Source rows keep their weights. Add target rows; they need no labels.",
            RuntimeWarning,
            stacklevel=2,
        )
        return support
    ratios = ratio(_flat(support) if features is None else features, of_source, of_target)
    if readable and not bool(ratios[of_source > 0].isfinite().all()):
        raise ValueError(
            "reweight: ratios must be finite; found NaN or infinity. Scale the features, or give "
            "the ratio a larger penalty."
        )
    return support._replace(weights=torch.where(of_source > 0, weights * ratios, weights))


class Reweighted(Learner):
    """Maps a support set to what a learner makes of it when source rows count as target rows.

        w_i   = w_i p_target(x_i) / p_source(x_i)  for source rows
        state = learner.adapt(rows under these weights)

    Right where source and target differ in their inputs alone (covariate shift): for the same x
    they must have the same targets. The target's rows need no labels.

    ``learner``  any learner that uses row weights; or a backbone, which is taken for
                 ``LinearProbe(backbone)``. Densities are compared on the features of its
                 ``backbone`` if it has one that gives vectors, else on the inputs.
    ``ratio``    how: :class:`DomainClassifier` by default, :class:`KLIEP`, :class:`KMM`, or, as in
                 its published benchmark, skada's. See :func:`reweighted`.

    It gives the answers of its learner and keeps the laws that its learner keeps. In a plain task,
    without source rows, it is its learner.

    State: that of the learner.

    Raises ValueError for a learner that ignores row weights, and what :func:`reweighted` raises.

    Reference: Shimodaira (2000), Improving predictive inference under covariate shift by weighting
    the log-likelihood function; those of the ratios are with them.

    >>> import torch, quickstudy as qs
    >>> learner = qs.Reweighted(qs.LinearProbe(torch.nn.Identity()))
    >>> x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    >>> y, groups = (x[:, 0] > 0).long(), [1] * 12 + [0] * 8
    >>> learner(qs.examples(x, y, groups=groups), qs.classification(ways=2))(x).shape
    torch.Size([20, 2])
    """

    def __init__(
        self,
        learner: nn.Module,
        ratio: Ratio = DomainClassifier(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__()
        self.learner = base_learner(learner, "Reweighted", None, LinearProbe)
        self.ratio = ratio
        self.answers = self.learner.answers  # type: ignore[misc]  # those of its learner
        self.reads_name = self.learner.reads_name  # type: ignore[misc]
        self.differentiates = self.learner.differentiates  # type: ignore[misc]
        looped = None if isinstance(ratio, DomainClassifier) else "the ratio reads which rows count"
        self.exceptions = own_exceptions(self.learner, looped)  # type: ignore[misc]

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The learner's state under the new weights."""
        return self.learner.adapt(reweighted(support, self.ratio, self._features(support)), spec)

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Any:
        """The learner's predictions."""
        return self.learner.predict(state, inputs, spec)

    def _features(self, support: Examples) -> Tensor | None:
        backbone = getattr(self.learner, "backbone", None)
        if not isinstance(backbone, nn.Module) or getattr(backbone, "outputs", None):
            return None
        features, _ = embed_support(backbone, support)
        return features if features.ndim == 2 else features.flatten(1)


def _flat(support: Examples) -> Tensor:
    inputs = support.inputs
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise ValueError(
            "reweight: compares densities of vectors; found inputs that are no tensor of reals. "
            "Give features of them, or a learner with a backbone."
        )
    return inputs.flatten(1) if inputs.ndim > 1 else inputs.unsqueeze(1)
