"""The base of learners that align the rows of sources with those of the target, and then fit."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quickstudy.backbones.features import refuse_heads_and_maps
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.words import count
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.transfer.support_vectors import SVM
from quickstudy.tasks.transfer import is_target

Array = NDArray[np.float64]
Map = dict[str, Tensor]
"""The numbers that map target rows into the space in which the base learner is fitted."""


class Alignment(NamedTuple):
    """Source rows (n, d') as the base learner sees them, and the numbers that map target rows."""

    source: Array
    target_map: dict[str, Array]


class AligningLearner(Learner):
    """Maps a support set of source and target rows to a base learner fitted to aligned rows.

        z        = f(x), the features                         s, t: source and target rows
        A, m     = align(z_s, z_t)                            (:meth:`align`, of the method)
        state    = base.adapt({A(z_s), m(z_t)}, y)            unlabelled rows have no part in it
        predict  = base.predict(state, m(f(x)))               queries are target rows

    Sources are the rows of all groups but 0, taken together; rows of group 0 are the target's. The
    inputs are aligned, so target rows need no label (-1 or NaN). Where they have one, the base
    learner is fitted to them as well.

    In a plain task all rows are of the target and there is nothing to align: the base learner is
    fitted to the features. In the support set of a transfer task a row of weight 2 counts as two
    rows, one of weight 0 not at all, and weights that are no whole numbers are refused.

    ``backbone``  inputs (n, ...) -> features (n, d), not changed. In training over many tasks, a
                  gradient reaches it through labelled target rows and queries alone, since the
                  alignment is computed outside of torch.
    ``base``      a learner on features, such as ``qs.LinearProbe(torch.nn.Identity())``; by
                  default ``qs.SVM(torch.nn.Identity())``.

    State: ``base``, the base learner's; ``map``, the numbers that map target rows, empty where they
    stay as they are; ``statistics`` for norm="support"; ``present`` for classification.
    """

    def __init__(self, backbone: nn.Module, base: Learner | None) -> None:
        super().__init__()
        refuse_heads_and_maps(backbone, type(self).__name__)
        self.backbone, self.base = backbone, base
        self.default = SVM(nn.Identity()) if base is None else None
        self.answers = self.fitted.answers  # type: ignore[misc]  # those of this base
        self.differentiates = self.fitted.differentiates  # type: ignore[misc]
        self.exceptions = {**self.fitted.exceptions, "vmap_equals_loop": _LOOPED}  # type: ignore[misc]

    @property
    def fitted(self) -> Learner:
        """The learner that is fitted to the aligned rows."""
        learner = self.default if self.base is None else self.base
        assert learner is not None
        return learner

    @abstractmethod
    def align(self, source: Array, target: Array) -> Alignment:
        """The alignment of rows (n, d) of the sources with rows (m, d) of the target."""

    def mapped(self, target_map: Map, features: Tensor) -> Tensor:
        """Target rows (n, d) in the space of the base learner, by the numbers of :meth:`align`.

        By default as they are: the sources are moved to them.
        """
        return features

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The base learner fitted to the aligned ``support``.

        Raises ValueError for fewer than 2 rows of the sources or of the target, for weights that
        are not whole numbers, for features that are no vectors, and where the alignment is not
        finite.
        """
        features, statistics = embed_support(self.backbone, support)
        target_map: Map = {}
        if bool(((support.weights > 0) & ~is_target(support)).any()):
            _check(type(self).__name__, features, support)
            features, target_map = self._aligned(features, support)
        base = self.fitted.adapt(support._replace(inputs=features), spec)
        state = {"base": base, "map": target_map, "statistics": statistics}
        present = base.get("present") if isinstance(base, dict) else None
        return state if present is None else state | {"present": present}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Any:
        """The base learner's predictions for ``inputs``, rows of the target."""
        return self.fitted.predict(state["base"], self.embed(state, inputs), spec)

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d') of target rows after the alignment."""
        features = embed_query(self.backbone, inputs, state["statistics"])
        return self.mapped(state["map"], features) if state["map"] else features

    def _aligned(self, features: Tensor, support: Examples) -> tuple[Tensor, Map]:
        """All rows as the base learner sees them, in their order; those of weight 0 are zeros."""
        present, target = support.weights > 0, is_target(support)
        source, own = (present & ~target).nonzero()[:, 0], (present & target).nonzero()[:, 0]
        copies = support.weights.detach().long()
        found = self._align(
            _repeated(features[source], copies[source]), _repeated(features[own], copies[own])
        )
        first_copies = copies[source].cumsum(0) - copies[source]
        source_rows = torch.as_tensor(found.source).to(features)[first_copies]
        target_map = {
            # Contiguous, as from a file: products round otherwise in another order of memory.
            name: torch.as_tensor(part).to(features).contiguous()
            for name, part in found.target_map.items()
        }
        _refuse_infinite(type(self).__name__, source_rows, *target_map.values())
        target_rows = self.mapped(target_map, features[own])
        _refuse_infinite(type(self).__name__, target_rows)
        rows = target_rows.new_zeros(len(present), target_rows.shape[1])
        rows = rows.index_put((source,), source_rows)
        return rows.index_put((own,), target_rows), target_map

    def _align(self, source: Array, target: Array) -> Alignment:
        try:
            with np.errstate(all="ignore"):  # what is not finite in the end is refused
                return self.align(source, target)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                f"{type(self).__name__}: the features must allow the alignment; found that their "
                f"matrices do not ({error}). Leave out constant features, scale the others to unit "
                "variance, or regularise more."
            ) from error


_LOOPED = "source and target rows are told apart by value, and aligned outside of torch"


def domains_of(source: Array, target: Array) -> NDArray[np.int64]:
    """Labels of the rows of both, source rows first, as skada reads them: below 0 is the target."""
    return np.repeat([1, -2], [len(source), len(target)])


def _repeated(rows: Tensor, copies: Tensor) -> Array:
    """Each row as often as it counts, in float64."""
    repeated: Array = rows.detach().repeat_interleave(copies, 0).double().cpu().numpy()
    return repeated


def refuse_without_target(who: str, support: Examples) -> None:
    """ValueError for source rows without any row of the target that has weight."""
    present, target = support.weights > 0, is_target(support)
    if not bool((present & target).any()):
        sources = int(present.sum())
        raise ValueError(
            f"{who}: needs rows of the target (group 0) with which the sources are aligned; found "
            f"{count(sources, 'row')} of sources and none of the target. Add unlabelled rows of "
            "group 0 with targets -1 (NaN for reals), as qs.tasks.transfer(..., unlabelled=100) "
            "does, or fit without aligning: qs.LinearProbe."
        )


def _check(who: str, features: Tensor, support: Examples) -> None:
    """ValueError for a support set that cannot be aligned."""
    weights = support.weights
    if features.ndim != 2:
        raise ValueError(
            f"{who}: aligns vectors (n, d), but the backbone gives {tuple(features.shape)}. "
            "Flatten them: torch.nn.Sequential(backbone, torch.nn.Flatten())."
        )
    refuse_without_target(who, support)
    broken = weights[weights != weights.round()]
    if len(broken):
        raise ValueError(
            f"{who}: aligns whole rows, so weights must be whole numbers; found "
            f"{float(broken[0]):g}. Round them, or use a learner that does not align, "
            "such as qs.LinearProbe."
        )
    target = is_target(support)
    for whose, side in (("sources", ~target), ("target", target)):
        rows = float(weights[side].sum())
        if rows < 2:
            raise ValueError(
                f"{who}: needs 2 or more rows of each side to compare how they vary; found "
                f"{rows:g} of the {whose}. Give more rows."
            )


def _refuse_infinite(who: str, *found: Tensor) -> None:
    """ValueError for an alignment that is not finite."""
    if not all(bool(part.isfinite().all()) for part in found):
        raise ValueError(
            f"{who}: the alignment must be finite in {found[0].dtype}; found NaN or infinity. "
            "Scale the features, for example to unit variance, or regularise more."
        )
