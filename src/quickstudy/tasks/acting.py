"""Making examples by acting: run a predictor in an environment, step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.actions import Actions, log_probability
from quickstudy.base.trees import map_tree
from quickstudy.core import Acting, Examples, Learner, Predictor, Task


def act(predictor: Predictor, acting: Acting) -> Examples:
    """Run ``predictor`` in the world of its spec; one row for each time step.

    ``acting.noise`` holds ``choice`` (episodes, horizon, actions), uniform in (0, 1), from which
    actions are sampled, and ``world``, a tree (episodes, horizon, ...) of noise for ``World.step``.

    Rows are ordered by episode, (episodes * horizon), and ``groups`` number the episodes. Time
    steps after the end of an episode have weight 0. The advantage of an action is the sum of
    rewards from then on, minus its mean over episodes at that time step.
    """
    answer = predictor.spec.answer
    if not isinstance(answer, Actions):
        raise ValueError(f"act: needs a task whose answer is Actions; found {answer}.")
    world, (parameters, noise) = answer.world, acting
    choice: Tensor = noise["choice"]
    episodes, horizon = choice.shape[:2]
    state, observation = world.begin(parameters, episodes)
    alive = torch.ones_like(choice[:, 0, 0])
    steps = []
    for t in range(horizon):
        logits = predictor(observation, alive)
        # The argmax of logits plus Gumbel noise is a sample of the softmax (Gumbel, 1954).
        gumbel = -(-choice[:, t].log()).log()
        action = (logits + gumbel.to(logits.dtype)).argmax(-1)
        step_noise = map_tree(lambda leaf, t=t: leaf[:, t], noise["world"])
        state, following, reward, ended = world.step(parameters, state, action, step_noise)
        steps.append((observation, action, log_probability(logits, action), reward * alive, alive))
        alive = alive * (1 - ended.to(alive.dtype))
        observation = following
    observed, action, log_p, reward, weight = (
        map_tree(lambda *parts: torch.stack(parts, 1), *parts) for parts in zip(*steps, strict=True)
    )
    targets = {
        "action": action, "log_probability": log_p,
        "advantage": _advantage(reward, weight), "reward": reward,
    }  # fmt: skip
    groups = torch.arange(episodes, device=weight.device)[:, None].expand(episodes, horizon)
    by_row: Examples = map_tree(
        lambda leaf: leaf.flatten(0, 1), Examples(observed, targets, weight, groups)
    )
    return by_row


def _advantage(reward: Tensor, weight: Tensor) -> Tensor:
    """(episodes, horizon): the sum of rewards from each time step on, minus its mean."""
    returns = reward.flip(1).cumsum(1).flip(1)
    mean = (weight * returns).sum(0) / weight.sum(0).clamp_min(1)
    return weight * (returns - mean)


def needs_acting(task: Task) -> bool:
    """Whether support or query must first be made by acting."""
    return isinstance(task.support, Acting) or isinstance(task.query, Acting)


@torch.no_grad()
def run_acting(learner: Learner, task: Task) -> Task:
    """The task with its rows made: support from the learner's prior, query after adapting.

    Parts that are Examples already stay as they are.

    Raises ValueError for a learner without ``prior``.
    """
    support, query, spec = task
    if isinstance(support, Acting):
        support = act(Predictor(learner, prior_of(learner, task), spec), support)
    if isinstance(query, Acting):
        query = act(learner(support, spec), query)
    return Task(support, query, spec)


def prior_of(learner: Learner, task: Task) -> Any:
    """The learner's state before any support; ValueError for a learner without ``prior``."""
    prior = getattr(learner, "prior", None)
    if prior is None:
        raise ValueError(
            f"{type(learner).__name__}: acts before it has any support, but has no `prior`. Give "
            "it a method prior(spec) -> state, or use a learner that has one."
        )
    return prior(task.spec)
