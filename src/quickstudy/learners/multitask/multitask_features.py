"""Multi-task features: a learner on features that are trained on many labels at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.labels import Labels
from quickstudy.backbones.features import feature_size, like, refuse_sizes
from quickstudy.backbones.norms import embed_query
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.learners.transfer.heads import logistic
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.objectives import objective_of
from quickstudy.tasks.examples import weighted_mean


def all_labels(learner: Any, task: Task) -> Any:
    """The mean loss () of all known labels of the task's rows, support and query.

    A task of other answers than the learner's ``labels`` has the objective of its inner learner.
    Raises TypeError for a learner other than :class:`MultitaskFeatures`.
    """
    if not isinstance(learner, MultitaskFeatures):
        raise TypeError(
            f"all_labels: needs a MultitaskFeatures learner; found {type(learner).__name__}."
        )
    answer = task.spec.answer
    if not (isinstance(answer, Labels) and learner.head is not None):
        return objective_of(learner.learner)(learner.learner, task)
    losses, counts = [], []
    for rows in (task.support, task.query):
        found, share = answer.loss_and_share(learner.labels_of(rows.inputs), rows.targets)
        losses.append(found)
        counts.append(rows.weights * share)
    return weighted_mean(torch.cat(losses), torch.cat(counts))


class MultitaskFeatures(Learner):
    """Maps a support set as ``learner`` does, on features trained on a table of many labels.

        features f:   minimise the mean loss of  f(x) W + b  over all known labels of the table
        task:         learner(f(support))

    Training takes tasks of the answer :class:`Labels`, whose columns are the labels of the table;
    all rows of a task teach. The linear layer of the labels is not used afterwards: a new task, of
    any answer that ``learner`` gives, is adapted to by it alone. For molecules, this is multi-task
    pretraining on assays.

    ``learner``  a learner with a ``backbone``; or a backbone, then :class:`LinearProbe` with a
                 logistic head on it.
    ``labels``   columns of the table; None, the default, where training is that of ``learner``.

    State: that of ``learner``.

    Raises ValueError for a learner without a backbone of feature vectors, and for no labels.

    Reference: Caruana (1997), Multitask Learning; on few labelled molecules the baseline "MT" of
    Stanley et al. (2021), FS-Mol, which fine-tunes the network where this fits a head to features.

    >>> import torch, quickstudy as qs
    >>> learner = qs.MultitaskFeatures(qs.backbones.MLP(2, (8,)), labels=3)
    >>> table = torch.tensor([[1.0, 0.0, torch.nan], [0.0, torch.nan, 1.0]])
    >>> rows = qs.examples(torch.rand(2, 2), table)
    >>> source = qs.tasks.fixed([qs.Task(rows, rows, qs.multilabel(3))])
    >>> trained = qs.fit(learner, source, steps=1, tasks_per_step=1, progress=False)
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    objective = staticmethod(all_labels)

    def __init__(self, learner: nn.Module, labels: int | None = None) -> None:
        super().__init__()
        self.learner = learner if isinstance(learner, Learner) else LinearProbe(learner, logistic)
        self.labels = labels
        if labels is not None:
            refuse_sizes("MultitaskFeatures", labels=labels)
        backbone = getattr(self.learner, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise ValueError(
                "MultitaskFeatures: needs a learner with a backbone that gives features; found "
                f"{type(self.learner).__name__}. Give for example qs.LinearProbe(backbone)."
            )
        self.head = None
        if labels is not None:
            size = feature_size(backbone, "MultitaskFeatures")
            self.head = like(backbone, nn.Linear(size, labels))
        self.answers = self.learner.answers  # type: ignore[misc]
        self.differentiates = self.learner.differentiates  # type: ignore[misc]
        self.reads_name = self.learner.reads_name  # type: ignore[misc]
        self.exceptions = self.learner.exceptions  # type: ignore[misc]

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The state of the inner learner."""
        return self.learner.adapt(support, spec)

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Any:
        """What the inner learner predicts."""
        return self.learner.predict(state, inputs, spec)

    def labels_of(self, inputs: Any) -> Tensor:
        """Logits (n, labels) of the table's labels; ValueError for a learner without ``labels``."""
        if self.head is None:
            raise ValueError("MultitaskFeatures: has no labels. Build it with labels=their number.")
        backbone = self.learner.backbone
        assert isinstance(backbone, nn.Module)
        found: Tensor = self.head(embed_query(backbone, inputs, []))
        return found
