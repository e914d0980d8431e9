"""The multi-step loss of MAML++, for every learner that takes inner steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from quickstudy.backbones.norms import counting
from quickstudy.core import Learner, Task
from quickstudy.objectives import Outcome, query_loss
from quickstudy.tasks.examples import labelled, weighted_mean
from quickstudy.tasks.metrics import score


@dataclass
class MultiStep:
    """An objective: sum_k v_k L_query(θ_k), query losses after every inner step k = 1 … K.

        v_k = early / K,  k < K;     v_K = 1 - the others;     early = max(0, 1 - progress / share)

    ``share``  of training over which v goes from 1 / K each to the last step alone. From then on,
               and with 0 from the start, it is the query loss, and costs no more.
    ``progress``  how far training is, in [0, 1]: told by the trainer, 1 outside of training.

    The score is that of the last step. For ``fit(learner, …, objective=MultiStep())`` with any
    learner that has a ``trajectory``.

    Raises ValueError for a share that is not in [0, 1], and, when called, for a learner without
    inner steps.

    Reference: Antoniou, Edwards and Storkey (2019), How to Train Your MAML, section 4 (MSL).
    """

    share: float = 0.1
    progress: float = field(default=1.0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(
                f"MultiStep: share is a share of training, in [0, 1]; found {self.share}."
            )

    @property
    def scheduled(self) -> bool:
        """Whether there is a share of training over which v changes."""
        return self.share > 0

    def set_progress(self, progress: float) -> None:
        """Take note of how far training is."""
        self.progress = progress

    def __call__(self, learner: Learner, task: Task) -> Outcome:
        """The weighted sum at this point of training."""
        if self.progress >= self.share:
            return query_loss(learner, task)
        query, spec = labelled(task.query), task.spec
        states = (learner.trajectory(task.support, spec) or [])[1:]
        if not states:
            raise ValueError(
                f"MultiStep: {type(learner).__name__} takes no inner steps after which a query "
                "loss could be taken. Use a gradient learner with steps >= 1, or query_loss."
            )
        losses = []
        for state in states:
            with counting(query.weights):
                predictions = learner.predict(state, query.inputs, spec)
            loss = spec.loss(predictions, query.targets)
            losses.append(weighted_mean(loss, query.weights))
        shares = self.shares(self.progress, len(states))
        total = torch.stack([v * loss for v, loss in zip(shares, losses, strict=True)]).sum()
        return Outcome(total, score(predictions.detach(), query))

    def shares(self, progress: float, steps: int) -> list[float]:
        """v: the share of each of K = ``steps`` inner steps when training is so far."""
        early = max(0.0, 1 - progress / self.share) if self.share else 0.0
        others = [early / steps] * (steps - 1)
        return [*others, 1 - sum(others)]
