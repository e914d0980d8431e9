"""Reinforcement learning: an action in each step of an environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from quickstudy.answers.classes import one_hot
from quickstudy.core import Answer, Examples, Predictor, Score, Statistic


class World(Protocol):
    """A family of environments to act in: a frozen dataclass without tensors.

    ``parameters`` select one environment of the family. All episodes of a task run in parallel.
    """

    @property
    def actions(self) -> int:
        """The number of actions to choose from."""

    @property
    def horizon(self) -> int:
        """The maximum number of steps of an episode."""

    def begin(self, parameters: Any, episodes: int) -> tuple[Any, Any]:
        """The initial state of the environment, and the first observation: trees whose leaves have
        ``episodes`` rows."""

    def step(
        self, parameters: Any, state: Any, action: Tensor, noise: Any
    ) -> tuple[Any, Any, Tensor, Tensor]:
        """State, observation, reward and whether the episode ended, after ``action`` (episodes,).

        ``noise``  a tree of random numbers for this step, (episodes, ...).
        """


@dataclass(frozen=True)
class Return(Score):
    """The sum of the rewards of an episode, the mean over episodes; higher is better."""

    name: ClassVar[str] = "return"
    horizon: int

    def statistic(self, predictions: Tensor, query: Examples) -> Statistic:
        """``reward``, the sum over all steps, and the number of ``episodes``."""
        reward = (query.weights * query.targets["reward"]).sum(-1)
        episodes = query.weights.shape[-1] / self.horizon
        return {"reward": reward, "episodes": torch.full_like(reward, episodes)}

    def value(self, statistic: Statistic) -> Tensor:
        """In the unit of the rewards."""
        return statistic["reward"] / statistic["episodes"]


@dataclass(frozen=True)
class Actions(Answer):
    """Which action to take in a ``world``, given an observation.

    Examples are made by acting (:func:`quickstudy.tasks.acting.act`): inputs are observations, one
    row per step, with weight 0 after the end of an episode. Targets are a dict of the ``action``
    that was taken, its ``log_probability`` at that time, its ``advantage``, and the ``reward``,
    each (n,). Predictions (n, actions) are logits.

    The loss is -p(action) / p_then(action) * advantage, with p_then the probability when the action
    was taken. Its gradient at p = p_then is the policy gradient (Williams, 1992, with a baseline).
    The score is the return.
    """

    world: World
    kind: ClassVar[str] = "actions"
    guess_name: ClassVar[str] = "random actions"

    @property
    def outputs(self) -> int:
        """The number of actions."""
        return self.world.actions

    def check(self, targets: Any, what: str = "targets") -> None:
        """A dict of action, log_probability, advantage and reward, each (n,)."""
        names = {"action", "log_probability", "advantage", "reward"}
        if isinstance(targets, dict) and set(targets) == names:
            if all(leaf.ndim == 1 for leaf in targets.values()):
                return
            found = {name: tuple(leaf.shape) for name, leaf in targets.items()}
        else:
            found = type(targets).__name__  # type: ignore[assignment]
        raise ValueError(
            f"{what}: acting needs a dict of {', '.join(sorted(names))}, each (n,); found "
            f"{found}. Make examples with quickstudy.tasks.act."
        )

    def known(self, targets: Any) -> Tensor:
        """(n,): all steps."""
        return torch.ones_like(targets["action"], dtype=torch.bool)

    def element_losses(self, predictions: Tensor, targets: Any) -> Tensor:
        """-ratio * advantage of each step, (n,)."""
        log_p = log_probability(predictions, targets["action"])
        losses: Tensor = -(log_p - targets["log_probability"]).exp() * targets["advantage"]
        return losses

    def encode(self, targets: Any, dtype: torch.dtype | None = None) -> Tensor:
        """The action one-hot, and the reward: (n, actions + 1)."""
        dtype = dtype or torch.get_default_dtype()
        actions = one_hot(targets["action"], self.outputs, dtype)
        return torch.cat([actions, targets["reward"].to(dtype).unsqueeze(-1)], -1)

    def decode(self, predictor: Predictor, inputs: Any) -> Tensor:
        """The most probable action for each observation, (n,)."""
        predictions: Tensor = predictor(inputs)
        return predictions.argmax(-1)

    def prediction_shape(self, targets: Any) -> tuple[int, ...]:
        """(n, actions)."""
        return len(targets["action"]), self.outputs

    @property
    def scores(self) -> tuple[Score, ...]:
        """The return."""
        return (Return(self.world.horizon),)

    def guesses(self, support: Examples, query: Examples) -> list[Tensor]:
        """Equal probabilities, (n, actions)."""
        return [query.weights.new_zeros(len(query.weights), self.outputs)]


def log_probability(logits: Tensor, action: Tensor) -> Tensor:
    """log softmax(logits)[action]: (n, actions), (n,) -> (n,)."""
    return logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
