"""A learner that acts: it pulls the arms of a bandit, and learns which one pays.

The learner makes the support rows by acting before any support (``prior``), and the query rows by
acting after it has adapted. Training learns how far to trust a few pulls.
"""

from typing import Any

import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.answers.classes import one_hot
from quickstudy.tasks import Bandits


class CountRewards(qs.Learner):
    """Maps pulls to a policy that prefers the arms that have paid.

        logit_a = trust * r_a,    r_a = (sum of rewards of arm a) / (pulls of arm a + 1)

    ``trust``, learnt over many bandits, is the factor on differences in rewards.

    State: ``rewards`` and ``pulls`` (arms,), so that more pulls can be added later.
    """

    answers = (qs.answers.Actions,)

    def __init__(self) -> None:
        super().__init__()
        self.trust = nn.Parameter(torch.ones(()))

    def prior(self, spec: qs.TaskSpec) -> dict[str, Tensor]:
        """No pulls yet: every arm is as likely as any other."""
        nothing = self.trust.detach().new_zeros(spec.outputs)
        return {"rewards": nothing, "pulls": nothing}

    def extend(
        self, state: dict[str, Tensor], support: qs.Examples, spec: qs.TaskSpec
    ) -> dict[str, Tensor]:
        """The pulls so far and those of ``support``."""
        pulled = one_hot(support.targets["action"], spec.outputs, support.weights.dtype)
        pulled = support.weights.unsqueeze(-1) * pulled
        rewards = support.targets["reward"].to(pulled.dtype) @ pulled
        return {"rewards": state["rewards"] + rewards, "pulls": state["pulls"] + pulled.sum(0)}

    def adapt(self, support: qs.Examples, spec: qs.TaskSpec) -> dict[str, Tensor]:
        """The pulls of ``support``."""
        return self.extend(self.prior(spec), support, spec)

    def predict(self, state: dict[str, Tensor], inputs: Any, spec: qs.TaskSpec) -> Tensor:
        """Logits of the arms (n, arms)."""
        means = state["rewards"] / (state["pulls"] + 1)
        return (self.trust * means).expand(len(inputs), -1)


def main(steps: int = 200, tasks: int = 200) -> tuple[qs.Evaluation, qs.Evaluation]:
    bandits = Bandits(arms=5, pulls=20, queries=50, best=0.9, others=0.1)
    learner = CountRewards()
    before = qs.evaluate(learner, bandits, tasks)
    qs.fit(learner, bandits, steps, 16, optimiser=qs.optimisers.adam(0.1))
    after = qs.evaluate(learner, bandits, tasks)
    print(f"before: {before}\nafter:  {after}\ntrust:  {learner.trust.item():.1f}")
    return before, after


if __name__ == "__main__":
    main()
