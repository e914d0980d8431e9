"""Hard parameter sharing: one trunk for all tasks, and a linear head for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from quickstudy.backbones.features import feature_size, refuse_heads_and_maps
from quickstudy.backbones.norms import embed_query
from quickstudy.core import Examples, State, TaskSpec
from quickstudy.learners.multitask.base_learner import MultiTaskLearner, refuse_support_statistics
from quickstudy.learners.multitask.stacked_parameters import Place, heads_for
from quickstudy.learners.transfer.heads import ridge
from quickstudy.learners.transfer.linear_probe import Head, LinearProbe


class HardSharing(MultiTaskLearner):
    """Maps a task that it knows by name to that task's linear head on a trunk shared by all.

        predictions = f(x) W_t + b_t           for the task of name t
        predictions = probe(f, support)(x)     for any other task

    A new task gets the linear head that fits its support set best, on the trunk's features as they
    are: :class:`quickstudy.LinearProbe`.

    ``backbone``  the trunk f: inputs (n, ...) -> features (n, d).
    ``tasks``     name -> number of outputs (classes, reals, labels); they may differ. Default:
                  none, so that every task is new.
    ``head``, ``l2``, ``scale``  of the head for a new task, as in ``LinearProbe``.

    Parameters: the trunk, and ``heads``, with ``weight`` (tasks, d, W) and ``bias`` (tasks, W) for
    W outputs of the widest task. State: empty for a known task, the probe's for a new one.

    Raises ValueError for tasks without a name or an output, for a backbone with a head or with
    maps, for one that normalises by the support set where there are known tasks, which read none,
    and where ``LinearProbe`` does.

    Reference: Caruana (1997), Multitask Learning.
    Differs from the paper in adapting to tasks that were not trained on.

    >>> import quickstudy as qs
    >>> learner = qs.HardSharing(qs.backbones.MLP(in_features=2), {"price": 1, "kind": 3})
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 2])
    >>> learner(support, qs.classification(ways=3, name="kind"))(support.inputs).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        backbone: nn.Module,
        tasks: Mapping[str, int] = {},
        head: Head = ridge,
        l2: float = 1.0,
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        self._know(tasks)
        refuse_heads_and_maps(backbone, "HardSharing")
        self.backbone, self.head, self.l2, self.scale = backbone, head, l2, scale
        self.answers = self._probe.answers  # type: ignore[misc]  # of this head
        if tasks:
            refuse_support_statistics(backbone, "HardSharing")
        d = feature_size(backbone, "HardSharing") if tasks else 0
        self.heads = heads_for(backbone, d, list(self.tasks.values()))

    @property
    def _probe(self) -> LinearProbe:
        """The learner of new tasks; it shares the trunk."""
        return LinearProbe(self.backbone, self.head, self.l2, self.scale)

    def prior(self, spec: TaskSpec) -> State:
        """Nothing for a known task; a head of zeros for a new one. Raises as ``LinearProbe``."""
        return {} if self._place_in(spec) is not None else self._probe.prior(spec)

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        """The state after more support; for a known task still nothing. Raises as
        ``LinearProbe``."""
        known = self._place_in(spec) is not None
        return state if known else self._probe.extend(state, support, spec)

    def _predict_known(self, place: Place, inputs: Any, spec: TaskSpec) -> Tensor:
        assert self.heads is not None, "there are known tasks"
        predictions: Tensor = self.heads(place, embed_query(self.backbone, inputs, []))
        return predictions

    def _adapt_new(self, support: Examples, spec: TaskSpec) -> State:
        return self._probe.adapt(support, spec)

    def _predict_new(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        return self._probe.predict(state, inputs, spec)
