"""The base of learners with one network for each task, whose layers read all networks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import feature_size, like, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Examples, State, TaskSpec
from quickstudy.learners.multitask.base_learner import MultiTaskLearner, refuse_support_statistics
from quickstudy.learners.multitask.perceptrons import Perceptrons
from quickstudy.learners.multitask.stacked_parameters import Place, StackedHeads, heads_for
from quickstudy.learners.outputs import element_weights, label_vectors, present_entry
from quickstudy.learners.transfer.heads import ridge
from quickstudy.learners.transfer.linear_probe import fitted
from quickstudy.tasks.examples import labelled, without_absent


class StitchedLearner(MultiTaskLearner):
    """Maps a task that it knows by name to its own head on its own network, stitched to the others.

    A subclass defines a constructor, which calls :meth:`_build`, and :meth:`_mixed_features`.

    Any other task gets the ridge head that fits its support set best, on the features that the
    heads of all networks read, side by side. This head can give every network its own part, so a
    row of a stitch for the new task would add nothing to it.

    ``backbone``  what the networks read: inputs (n, ...) -> features (n, d).
    ``networks``  how many networks there are where no task is known; otherwise one for each task.

    State: empty for a known task; for a new one ``weight`` (networks * h, outputs), ``offset``
    (outputs,), ``present`` (ways,) for classes, and ``statistics`` for norm="support".
    """

    backbone: nn.Module
    stitched: Perceptrons
    heads: StackedHeads | None
    l2: float
    scale: float

    @abstractmethod
    def _mixed_features(self, z: Tensor, place: Place | None = None) -> Tensor:
        """What the heads of all networks read (n, networks, h), or that of one task (n, h)."""

    def _build(
        self, backbone: nn.Module, tasks: Mapping[str, int], hidden: tuple[int, ...], networks: int
    ) -> int:
        """Make the networks and the heads; returns the number of networks.

        Raises ValueError for numbers out of range, and for backbones that HardSharing refuses.
        """
        who = type(self).__name__
        self._know(tasks)
        self.backbone, self.networks = backbone, networks
        refuse_sizes(who, networks=networks)
        for name in ("l2", "scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{who}: {name} must be positive; found {getattr(self, name)}.")
        d = feature_size(backbone, who)
        if self.tasks:
            refuse_support_statistics(backbone, who)
        count = len(self.tasks) or networks
        self.stitched = like(backbone, Perceptrons((count,), (d, *hidden)))
        self.heads = heads_for(backbone, hidden[-1], list(self.tasks.values()))
        return count

    def _predict_known(self, place: Place, inputs: Any, spec: TaskSpec) -> Tensor:
        assert self.heads is not None, "there are known tasks"
        mixed = self._mixed_features(embed_query(self.backbone, inputs, []), place)
        predictions: Tensor = self.heads(place, mixed)
        return predictions

    def _adapt_new(self, support: Examples, spec: TaskSpec) -> State:
        support = labelled(support, spec.answer)
        z, statistics = embed_support(self.backbone, support)
        features = self._side_by_side(z)
        y = label_vectors(support, spec.answer, spec.outputs, features.dtype)
        counts = element_weights(support, spec.answer, features.dtype)
        weight, offset = fitted(ridge, features, y, counts, spec.answer, self.l2)
        return {
            "weight": weight.contiguous(), "offset": offset, "statistics": statistics,
            **present_entry(support, spec),
        }  # fmt: skip

    def _predict_new(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        features = self._side_by_side(embed_query(self.backbone, inputs, state["statistics"]))
        predictions = features @ state["weight"] + state["offset"]
        if not isinstance(spec.answer, Reals):
            predictions = self.scale * predictions
        return without_absent(predictions, state.get("present"))

    def _side_by_side(self, z: Tensor) -> Tensor:
        """(n, networks * h), of the size of one network's features."""
        mixed = self._mixed_features(z)
        size: float = mixed.shape[1] ** -0.5
        return size * mixed.flatten(1)


def shares_of_networks(networks: int, own: float, who: str) -> tuple[float, float]:
    """How much a network's own features and those of each other count at first; they sum to 1.

    Raises ValueError, prefixed by ``who``, for a share that is not in [0, 1].
    """
    if not 0 <= own <= 1:
        raise ValueError(f"{who}: own must be between 0 and 1; found {own}.")
    return (own, (1 - own) / (networks - 1)) if networks > 1 else (1.0, 0.0)
