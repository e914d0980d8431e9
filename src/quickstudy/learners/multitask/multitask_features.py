"""Multi-task features: a learner on features that are trained on many labels at once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import nn

from quickstudy.answers.labels import Labels
from quickstudy.backbones.features import feature_size, like, refuse_sizes
from quickstudy.backbones.norms import embed_query
from quickstudy.core import Examples, Learner, State, Task, TaskSpec, check_answer
from quickstudy.learners.transfer.heads import logistic
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.objectives import all_rows_loss, objective_of

TABLE = "all labels"
"""The name of the task that asks for all labels of the table at once."""


def all_labels(learner: Any, task: Task) -> Any:
    """The mean loss of all known labels of the rows of the table's task, support and query.

    Another task has the objective of the inner learner. Raises TypeError for a learner other than
    :class:`MultitaskFeatures`.
    """
    if not isinstance(learner, MultitaskFeatures):
        raise TypeError(
            f"all_labels: needs a MultitaskFeatures learner; found {type(learner).__name__}."
        )
    if learner.knows(task.spec):
        return all_rows_loss(learner, task)
    return objective_of(learner.learner)(learner.learner, task)


class MultitaskFeatures(Learner):
    """Maps a support set as ``learner`` does, on features trained on a table of many labels.

        features f:   minimise the mean loss of  f(x) W + b  over all known labels of the table
        task:         learner(f(support))

    Training takes tasks of the name ``"all labels"`` and the answer :class:`Labels`, whose columns
    are the labels of the table; their rows all teach, support and query. A new task, of any answer
    that ``learner`` gives, is adapted to by it alone, without the linear layer of the labels. For
    molecules, this is multi-task pretraining on assays.

    ``learner``  a learner with a ``backbone``; or a backbone, then :class:`LinearProbe` with a
                 logistic head on it.
    ``labels``   columns of the table; None, the default, where training is that of ``learner``.

    State: that of ``learner``; empty for the task of the table.

    Raises ValueError for a learner without a backbone of feature vectors, and for no labels.

    Reference: Caruana (1997), Multitask Learning; on few labelled molecules the baseline "MT" of
    Stanley et al. (2021), FS-Mol, which fine-tunes the network where this fits a head to features.

    >>> import torch, quickstudy as qs
    >>> learner = qs.MultitaskFeatures(qs.backbones.MLP(2, (8,)), labels=3)
    >>> table = torch.tensor([[1.0, 0.0, torch.nan], [0.0, torch.nan, 1.0]])
    >>> rows = qs.examples(torch.rand(2, 2), table)
    >>> spec = qs.multilabel(3, name="all labels")
    >>> source = qs.tasks.fixed([qs.Task(rows, rows, spec)])
    >>> trained = qs.fit(learner, source, steps=1, tasks_per_step=1, progress=False)
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    objective = staticmethod(all_labels)
    reads_name = True

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
        given = self.learner.answers
        self.answers = given if labels is None else (*given, Labels)  # type: ignore[misc]
        self.differentiates = self.learner.differentiates  # type: ignore[misc]
        self.exceptions = self.learner.exceptions  # type: ignore[misc]

    def knows(self, spec: TaskSpec) -> bool:
        """Whether this is the task of the table; ValueError for one of other labels."""
        if spec.name != TABLE or self.labels is None:
            return False
        if spec.answer != Labels(self.labels):
            raise ValueError(
                f"MultitaskFeatures: the task named {TABLE!r} has {self.labels} labels here; found "
                f"{spec.answer}. Build the learner with labels=their number."
            )
        return True

    def name_key(self, spec: TaskSpec) -> Hashable:
        """Whether the task is that of the table."""
        return self.knows(spec), self.learner.name_key(spec)

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The state of the inner learner; nothing for the task of the table."""
        if self.knows(spec):
            return {}
        check_answer(self.learner, spec.answer)
        return self.learner.adapt(support, spec)

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Any:
        """What the inner learner predicts; the labels (n, labels) for the task of the table."""
        if not self.knows(spec):
            return self.learner.predict(state, inputs, spec)
        assert self.head is not None
        backbone = self.learner.backbone
        assert isinstance(backbone, nn.Module)
        return self.head(embed_query(backbone, inputs, []))
