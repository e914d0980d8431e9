"""The multi-step loss of MAML++, for every learner that takes inner steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from quickstudy.base.weighting import weights_are_uniform
from quickstudy.core import Learner, Predictor, Task
from quickstudy.objectives import Outcome, mean_loss, predict_rows, present_in, query_loss, score_of
from quickstudy.tasks.examples import require_given


@dataclass
class MultiStep:
    """An objective: sum_k v_k L_query(θ_k), query losses after every inner step k = 1 … K.

        v_k = early / K,  k < K;     v_K = 1 - the others;     early = max(0, 1 - progress / share)

    ``share``     of training over which v goes from 1 / K each to the last step alone. After it,
                  or from the start if it is 0, the objective is the query loss at no extra cost.
    ``progress``  the share of training that is done, in [0, 1]: set by the trainer, 1 outside of
                  training.

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
        """Whether v changes during training."""
        return self.share > 0

    def set_progress(self, progress: float) -> None:
        """Store the share of training that is done."""
        self.progress = progress

    def __call__(self, learner: Learner, task: Task) -> Outcome:
        """The weighted sum at this point of training."""
        if self.progress >= self.share:
            return query_loss(learner, task)
        query, spec = require_given(task.query), task.spec
        trajectory = getattr(learner, "trajectory", None)
        states = trajectory(task.support, spec)[1:] if trajectory else []
        if not states:
            raise ValueError(
                f"MultiStep: {type(learner).__name__} takes no inner steps after which a query "
                "loss could be taken. Use a gradient learner with steps >= 1, or query_loss."
            )
        losses, uniform = [], weights_are_uniform()
        for state in states:
            predictions = predict_rows(Predictor(learner, state, spec), query)
            losses.append(mean_loss(predictions, query, spec.answer, present_in(state), uniform))
        shares = self.shares(self.progress, len(states))
        total = torch.stack([v * loss for v, loss in zip(shares, losses, strict=True)]).sum()
        return Outcome(total, score_of(predictions, query, spec.answer))

    def shares(self, progress: float, steps: int) -> list[float]:
        """v: the weight of each of K = ``steps`` inner steps at this progress of training."""
        early = max(0.0, 1 - progress / self.share) if self.share else 0.0
        others = [early / steps] * (steps - 1)
        return [*others, 1 - sum(others)]
