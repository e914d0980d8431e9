"""Choosing among learners for a target without looking at its labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.words import count
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.domains.aligning import refuse_without_target
from quickstudy.learners.domains.coral import CORAL
from quickstudy.learners.domains.criteria import Criterion, circular_validation
from quickstudy.learners.domains.linear_transport import LinearTransport
from quickstudy.learners.domains.subspace_alignment import SubspaceAlignment
from quickstudy.learners.transfer.support_vectors import SVM
from quickstudy.tasks.examples import take
from quickstudy.tasks.transfer import is_target


class ChosenWithoutLabels(Learner):
    """Maps a support set to that one of several learners which does best without target labels.

        score_k = mean over folds of criterion(learner_k, rows of the other folds, rows of the fold)
        k*      = argmax_k score_k                                    (the first of equals)
        state   = learner_k*.adapt(all rows)

    Most of what adaptation promises depends on its settings, and where the target has no labels
    they can be chosen by its inputs alone. Folds have the same share of each class of the sources
    and of the target's rows. In a plain task, all of whose rows are of the target, there is nothing
    to go by: the first learner is taken.

    ``backbone``   inputs (n, ...) -> features (n, d) for all learners, not changed. Give
                   ``torch.nn.Identity()`` where learners have backbones of their own, such as DANN.
    ``learners``   learners on features, two or more, such as CORAL with several shrinkages; by
                   default SVM (which pools sources and target), CORAL, SubspaceAlignment and
                   LinearTransport.
    ``criterion``  a function of :mod:`quickstudy.learners.domains.criteria`: by default
                   :func:`circular_validation`.
    ``folds``      number of folds; 5 by default.

    Time is that of (folds + 1) times all learners, twice that with circular validation.

    State: ``choice`` (), the number of the learner that was chosen, from 0; ``scores`` (learners,),
    zeros in a plain task; ``chosen``, its state; ``present``; ``statistics`` for norm="support".
    :meth:`report` says it in words.

    Raises ValueError for fewer than 2 learners or folds, and in ``adapt`` for source rows without
    any row of the target or without any label, and for fewer rows than folds of the target or of a
    class of the sources.

    >>> import torch, quickstudy as qs
    >>> learner = qs.ChosenWithoutLabels(torch.nn.Identity(), folds=2)
    >>> x = torch.randn(24, 2, generator=torch.Generator().manual_seed(0))
    >>> support = qs.examples(x, [0, 1] * 8 + [-1] * 8, groups=[1] * 16 + [0] * 8)
    >>> learner(support, qs.classification(ways=2))(x).shape
    torch.Size([24, 2])
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes,)

    def __init__(
        self,
        backbone: nn.Module,
        learners: Sequence[Learner] = (),
        criterion: Criterion = circular_validation,
        folds: int = 5,
    ) -> None:
        super().__init__()
        learners = tuple(learners)
        if len(learners) == 1 or folds < 2:
            raise ValueError(
                "ChosenWithoutLabels: needs 2 or more learners and folds; found "
                f"{len(learners)} and {folds}. Leave learners out for the default ones."
            )
        self.backbone, self.criterion, self.folds = backbone, criterion, folds
        self.learners = learners
        self.candidates = nn.ModuleList(learners or _default_learners())
        own = {"vmap_equals_loop": "which learner is chosen depends on values"}
        self.exceptions = {**_exceptions(self.candidates), **own}  # type: ignore[misc]

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The chosen learner, adapted to ``support``; and how the choice came about."""
        features, statistics = embed_support(self.backbone, support)
        rows = support._replace(inputs=features)
        scores = features.new_zeros(len(self.candidates))
        if bool(((support.weights > 0) & ~is_target(support)).any()):
            refuse_without_target("ChosenWithoutLabels", support)
            _refuse_without_labels(support)
            scores = self._scores(take(rows, support.weights > 0), spec).to(scores)
        choice = scores.argmax()
        chosen = self._learner(choice).adapt(rows, spec)
        state = {"choice": choice, "scores": scores, "chosen": chosen, "statistics": statistics}
        present = chosen.get("present") if isinstance(chosen, dict) else None
        return state if present is None else state | {"present": present}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Any:
        """The chosen learner's predictions for ``inputs``, rows of the target."""
        features = embed_query(self.backbone, inputs, state["statistics"])
        return self._learner(state["choice"]).predict(state["chosen"], features, spec)

    def report(self, state: State) -> str:
        """Which learner was chosen, by which criterion, and what all of them scored."""
        scores = state["scores"].tolist()
        names = [type(learner).__name__ for learner in self.candidates]
        chosen = f"{names[int(state['choice'])]} (number {int(state['choice'])})"
        if not any(scores):
            return f"{chosen}: the first, since there are no sources to go by"
        listed = ", ".join(f"{name} {score:.3f}" for name, score in zip(names, scores, strict=True))
        return f"{chosen}, by {self.criterion.__name__} without target labels: {listed}"

    def _learner(self, choice: Tensor) -> Learner:
        learner = self.candidates[int(choice)]
        assert isinstance(learner, Learner)
        return learner

    def _scores(self, rows: Examples, spec: TaskSpec) -> Tensor:
        """(learners,): the mean of the criterion over the folds."""
        fold = self._folds(rows)
        with torch.no_grad():
            return torch.tensor([
                [
                    self.criterion(learner, take(rows, fold != k), take(rows, fold == k), spec)
                    for k in range(self.folds)
                ]
                for learner in map(self._learner, torch.arange(len(self.candidates)))
            ]).mean(1)  # fmt: skip

    def _folds(self, rows: Examples) -> Tensor:
        """(n,): the fold of each row; every class of the sources is dealt out in turn."""
        part = torch.where(is_target(rows), -2, rows.targets)  # -1: source rows without label
        fold = torch.zeros_like(part)
        for each in part.unique():
            which = (part == each).nonzero()[:, 0]
            if len(which) < self.folds and int(each) != -1:
                whose = "the target" if int(each) == -2 else f"class {int(each)} of the sources"
                raise ValueError(
                    f"ChosenWithoutLabels: {self.folds} folds need as many rows of the target and "
                    f"of each class of the sources; found {len(which)} of {whose}. Lower folds, or "
                    "give more rows."
                )
            fold[which] = torch.arange(len(which), device=fold.device) % self.folds
        return fold


def _refuse_without_labels(support: Examples) -> None:
    """ValueError for sources without any labelled row that has weight."""
    source = (support.weights > 0) & ~is_target(support)
    if not bool((source & (support.targets >= 0)).any()):
        raise ValueError(
            "ChosenWithoutLabels: needs labelled rows of sources, by which learners are compared; "
            f"found {count(int(source.sum()), 'row')} of sources and no label. Label some, or take "
            "one of the learners."
        )


def _default_learners() -> list[Learner]:
    kinds = (SVM, CORAL, SubspaceAlignment, LinearTransport)
    return [kind(nn.Identity()) for kind in kinds]


def _exceptions(learners: nn.ModuleList) -> dict[str, str]:
    """The laws that one of the learners cannot keep."""
    found: dict[str, str] = {}
    for learner in learners:
        assert isinstance(learner, Learner)
        found |= learner.exceptions
    return found
