"""Self-training: the learner's own confident predictions for unlabelled rows become labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.backbones.features import refuse_sizes
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec, check_answer
from quickstudy.learners.transfer.heads import logistic
from quickstudy.learners.transfer.k_means import READS_UNLABELLED, refuse_vmap
from quickstudy.learners.transfer.linear_probe import LinearProbe


class SelfTraining(Learner):
    """Maps a support set, labelled in part, to a learner that has labelled some of the rest itself.

        repeat  state = learner.adapt(rows with labels)
                y_i  <- argmax p(x_i)  for unlabelled rows with  max p(x_i) > threshold

    until no row gets a label, or for ``rounds``; labels that were given stay. p is the softmax of
    the learner's logits.

    It helps where classes are apart, so that a confident prediction is mostly right and adds what
    the labelled rows did not show. Where the unlabelled rows have no gap between the classes, it
    repeats what the learner believes already, and its errors too. Nothing in it can tell.

    ``learner``    any learner of classes whose logits are log-probabilities, such as
                   :class:`LinearProbe` with a logistic head, or a backbone: then that. Votes and
                   distances of unknown scale make the threshold meaningless.
    ``threshold``  least probability, in [0, 1); 0.75 as in scikit-learn.
    ``rounds``     most rounds; 10 as in scikit-learn.

    With all rows labelled it is its learner.

    State: ``state``, the learner's; ``given`` (n,), the label that each support row was given, -1
    for those labelled from the start or never; ``present`` where the learner has it.

    Raises ValueError for numbers out of range, and for a learner of other answers than classes.

    Reference: Yarowsky (1995), Unsupervised Word Sense Disambiguation Rivaling Supervised Methods;
    the same as scikit-learn's ``SelfTrainingClassifier`` with a threshold.

    >>> import torch, quickstudy as qs
    >>> learner = qs.SelfTraining(torch.nn.Identity())
    >>> support = qs.examples([[0.0], [1.0], [8.0], [9.0], [10.0]], [0, -1, 1, -1, -1])
    >>> learner(support, qs.classification(2)).state["given"].tolist()
    [-1, 0, -1, 1, 1]
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes,)

    def __init__(self, learner: nn.Module, threshold: float = 0.75, rounds: int = 10) -> None:
        super().__init__()
        if not 0 <= threshold < 1:
            raise ValueError(f"SelfTraining: threshold must be in [0, 1); found {threshold}.")
        refuse_sizes("SelfTraining", rounds=rounds)
        self.learner = learner if isinstance(learner, Learner) else LinearProbe(learner, logistic)
        check_answer(self.learner, Classes(2))
        self.threshold, self.rounds = threshold, rounds
        self.differentiates = self.learner.differentiates  # type: ignore[misc]
        self.reads_name = self.learner.reads_name  # type: ignore[misc]
        self.exceptions = _exceptions(self.learner)  # type: ignore[misc]

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The learner's state after the last round."""
        refuse_vmap("SelfTraining")
        unknown = (support.targets < 0) & (support.weights > 0)
        given = torch.full_like(support.targets, -1)
        rows = support
        for _ in range(self.rounds):
            if not bool((unknown & (given < 0)).any()):
                break
            with torch.no_grad():
                state = self.learner.adapt(rows, spec)
                logits = self.learner.predict(state, support.inputs, spec)
            probability, chosen = logits.softmax(-1).max(-1)
            new = unknown & (given < 0) & (probability > self.threshold)
            given = torch.where(new, chosen, given)
            rows = support._replace(targets=torch.where(given >= 0, given, support.targets))
            if not bool(new.any()):
                break
        state = self.learner.adapt(rows, spec)
        present = {"present": state["present"]} if _has_present(state) else {}
        return {"state": state, "given": given, **present}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """What the learner predicts (n, ways)."""
        predictions: Tensor = self.learner.predict(state["state"], inputs, spec)
        return predictions


def _exceptions(learner: Learner) -> Mapping[str, str]:
    return {**learner.exceptions, **READS_UNLABELLED}


def _has_present(state: State) -> bool:
    return isinstance(state, dict) and "present" in state
