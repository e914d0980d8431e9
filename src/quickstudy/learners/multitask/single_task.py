"""Single-task learning: a network of its own for each task, the baseline of multi-task learning."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.features import feature_size, refuse_heads_and_maps
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.replica import call_with
from quickstudy.core import Examples, State, Task, TaskSpec
from quickstudy.learners.gradient.descend import Adam, Update, last
from quickstudy.learners.multitask.base_learner import MultiTaskLearner, refuse_support_statistics
from quickstudy.learners.multitask.stacked_parameters import Place, StackedNetworks, heads_for
from quickstudy.learners.outputs import present_entry
from quickstudy.learners.transfer.starting_heads import zero_head
from quickstudy.learners.transfer.trunk import Trunk, added
from quickstudy.learners.transfer.tuning import (
    BIAS,
    BODY,
    WEIGHT,
    Group,
    Problem,
    Tuning,
    head_on,
    path,
)
from quickstudy.objectives import Outcome, all_rows_loss
from quickstudy.tasks.examples import labelled, without_absent


def own_loss(learner: Any, task: Task) -> Outcome:
    """The objective of :class:`SingleTask`: the mean loss over all rows of a known task.

    Raises ValueError for a task that it does not know, which trains nothing that it holds.
    """
    if not learner.knows(task):
        named = repr(task.spec.name) if task.spec.name else "one of another name, or none"
        raise ValueError(
            f"SingleTask: trains only tasks that it knows by name; found {named}. Add it to tasks, "
            "or adapt to it: learner(support, spec)."
        )
    return all_rows_loss(learner, task)


class SingleTask(MultiTaskLearner):
    """Maps a task that it knows by name to a network of that task alone, which shares nothing.

        predictions = f_{θ_t}(x) W_t + b_t     for the task of name t
        predictions = f_θ(x) W + b             for any other task, where (θ, W, b) are, from
                                               (θ_0, 0, 0), ``steps`` of ``update`` on its support

    All networks start at the same weights θ_0, those that ``backbone`` has when it is given, and
    all heads at zero. So a known task, trained by ``fit``, and a new one, which adapts, differ only
    in who takes the steps. What of the backbone is frozen stays as it is, for all tasks.

    ``backbone``  inputs (n, ...) -> features (n, d). It is copied; the copy, θ_0, does not change.
    ``tasks``     name -> number of outputs (classes, reals, labels); they may differ. Default:
                  none, so that every task is new, and there is nothing for ``fit`` to train.
    ``steps``, ``rate``, ``update``  the training of a new task on all its support rows, by default
                  100 steps of Adam at 0.01.

    Parameters: ``networks``, each of the backbone's as (tasks, ...), and ``heads``, with ``weight``
    (tasks, d, W) and ``bias`` (tasks, W) for W outputs of the widest task. State: empty for a known
    task; for a new one ``difference``, what is added to θ_0, ``head`` with ``weight`` (outputs, d)
    and ``bias`` (outputs,), ``present`` where the answer has classes, ``statistics`` for
    norm="support".

    Raises ValueError for tasks without a name or an output, for a backbone with a head or with
    maps, for networks that do not fit in memory, for settings out of range, and where there are
    known tasks for norm="support" and norm="running". Warns where their training may not fit.

    Reference: none; the baseline that multi-task learning must beat.

    >>> import quickstudy as qs
    >>> learner = qs.SingleTask(qs.backbones.MLP(in_features=2), {"price": 1, "kind": 3})
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 2])
    >>> learner(support, qs.classification(ways=3, name="kind"))(support.inputs).shape
    torch.Size([2, 3])
    """

    objective = staticmethod(own_loss)

    def __init__(
        self,
        backbone: nn.Module,
        tasks: Mapping[str, int] = {},
        steps: int = 100,
        rate: float = 0.01,
        update: Update = Adam(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__()
        self._know(tasks)
        refuse_heads_and_maps(backbone, "SingleTask")
        self.adapted = tuple(n for n, p in backbone.named_parameters() if p.requires_grad)
        self.steps, self.rate, self.update = steps, rate, update
        self._tuning()  # refuses settings out of range
        self.networks, self.heads = None, None
        if tasks:
            refuse_support_statistics(backbone, "SingleTask")
            d = feature_size(backbone, "SingleTask")
            self.networks = StackedNetworks(backbone, len(tasks))
            self.heads = heads_for(backbone, d, list(self.tasks.values()), zero=True)
        self.backbone = copy.deepcopy(backbone).requires_grad_(False)

    @property
    def adapted_network(self) -> nn.Module:
        """The network of the starting weights, of whose parameters ``adapted`` names move."""
        return self.backbone

    def _predict_known(self, place: Place, inputs: Any, spec: TaskSpec) -> Tensor:
        assert self.networks is not None, "there are known tasks"
        assert self.heads is not None
        network = partial(self.networks, place, self.backbone)
        predictions: Tensor = self.heads(place, embed_query(network, inputs, []))
        return predictions

    def _adapt_new(self, support: Examples, spec: TaskSpec) -> State:
        support = labelled(support, spec.answer)
        features, _ = embed_support(self.backbone, support)
        body = tuple(BODY + name for name in self.adapted)
        groups = [Group(0, (WEIGHT, BIAS)), *([Group(1, body)] if body else [])]
        trunk = Trunk(self.backbone, support, features.detach(), {})
        problem = Problem(trunk, support, spec, groups, self._tuning())
        start = {name: torch.zeros_like(trunk.base[name.removeprefix(BODY)]) for name in body}
        start[WEIGHT], start[BIAS] = zero_head(features, support, spec, 0.0)
        end = last(path(problem, start, self.rate, self.steps))
        moved = {name.removeprefix(BODY): end[name] for name in body}
        return {
            "difference": moved, "head": {"weight": end[WEIGHT], "bias": end[BIAS]},
            "statistics": trunk.statistics(moved), **present_entry(support, spec),
        }  # fmt: skip

    def _predict_new(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        weights = added(dict(self.backbone.named_parameters()), state["difference"])
        network = partial(call_with, self.backbone, weights)
        features = embed_query(network, inputs, state["statistics"])
        predictions = head_on(features, state["head"]["weight"], state["head"]["bias"], None)
        return without_absent(predictions, state.get("present"))

    def _tuning(self) -> Tuning:
        """Plain steps on the mean loss of all support rows."""
        return Tuning(
            "SingleTask", self.steps, self.rate, self.update, clip=None, layer_decay=1.0,
            unfreeze_every=None, towards_start=0.0, towards_zero=0.0, weight_decay=0.0,
            batch=None, seed=0, folds=5, feature_length=None,
        )  # fmt: skip
