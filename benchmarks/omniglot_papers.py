"""20-way 1-shot Omniglot at the settings of papers: the second half of ``on_gpu.py``.

Settings are those of the authors' code where it states them (its repository is named), otherwise of
the paper. What differs in all rows: group norm by default, so that figures are inductive where most
published ones are transductive; a schedule that ends when the time does; one training seed.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from contest.on_device import finish
from torch import Tensor, nn
from torch.optim import Optimizer

import quickstudy as qs
from quickstudy.learners.gradient.meta_gradients import Implicit
from quickstudy.tasks.episodes import Episodes
from quickstudy.training.log import Step
from quickstudy.training.optimisers import adam, sgd
from quickstudy.training.schedules import Schedule, constant, cosine, linear

TEST_QUERIES = 5
TRIAL, TRAINING = 0.08, 0.65
"""Shares: of a row's seconds for its trial, and of what is then left for its training."""


@dataclass(frozen=True)
class Paper:
    """How a learner is trained.

    ``make``         (Conv4, ways) -> learner.
    ``queries``      query rows of each class in training; for Reptile they join the support.
    ``published``    accuracy in percent, and its protocol.
    ``paper_tasks``  training tasks of the paper.
    ``source``       where the settings stand.
    """

    title: str
    make: Callable[[nn.Module, int], qs.Learner]
    queries: int
    tasks_per_step: int
    published: str
    paper_tasks: str
    source: str
    head: bool = True
    optimiser: Callable[[Iterable[Tensor]], Optimizer] | None = None
    schedule: Schedule = constant


PAPERS = {
    "maml": Paper(
        "MAML", lambda net, ways: qs.MAML(net, 5, 0.1), 1, 16, "95.8, transductive", "640,000",
        "github.com/cbfinn/maml, main.py: 5 steps at 0.1, 16 tasks, 40,000 iterations",
    ),
    "meta_sgd": Paper(
        "Meta-SGD", lambda net, ways: qs.MetaSGD(net), 1, 16, "95.9, presumably transductive",
        "not known",
        "one step and rates from [0.005, 0.1], as its paper; the rest as MAML",
    ),
    "maml_plus_plus": Paper(
        "MAML++", lambda net, ways: qs.MAMLPlusPlus(net, 5, 0.1, first_order_until=0), 1, 8,
        "97.65, transductive", "400,000",
        "github.com/AntreasAntoniou/HowToTrainYourMAMLPytorch, omniglot_1_8_0.1_64_20: 8 tasks, "
        "50,000 iterations, second order throughout, cosine; without batch norm by inner step",
        schedule=cosine,
    ),
    "reptile": Paper(
        "Reptile", lambda net, ways: qs.Reptile(net, 12, 0.00046, batch=15, test_steps=97), 8, 3,
        "88.1", "600,000",
        "github.com/openai/supervised-reptile, README: 9 rows a class, 12 steps of 15 rows, 3 "
        "tasks, 200,000 iterations; at test 97 steps, there of 10 rows, here of all support rows",
        optimiser=sgd(1.0), schedule=linear,
    ),
    "imaml": Paper(
        "iMAML", lambda net, ways: qs.MAML(net, 16, 0.1, Implicit(2.0, 5, damping=22)), 1, 32,
        "96.18, transductive", "640,000",
        "github.com/aravindr93/imaml_dev, examples, which state 5 ways: 16 steps at 0.1, 5 of the "
        "solver, damped, 32 tasks, 20,000 iterations or more",
    ),
    "snail": Paper(
        "SNAIL", lambda net, ways: qs.SNAIL(net, ways, ways + 1), 5, 32, "97.64, not known",
        "not known",
        "the paper's blocks; it states no length of training", head=False,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much work a row is, at most; ``warm`` steps of a trial are not timed."""

    ways: int = 20
    channels: int = 64
    tasks: int = 600
    steps: int = 10**6
    tasks_per_step: int = 10**3
    warm: int = 3


FULL, QUICK = Size(), Size(3, 4, 2, 2, 2, 1)


class _Enough(Exception):
    """The seconds of a trial or of a training are over."""


class _Clock:
    """Notes when each step ended, and ends ``fit`` when its seconds are over."""

    def __init__(self, device: torch.device, seconds: float, warm: int) -> None:
        self.device, self.seconds, self.warm = device, seconds, warm
        self.ends: list[float] = []

    def __call__(self, step: Step) -> None:
        finish(self.device)
        self.ends.append(time.monotonic())
        steps = len(self.ends) - self.warm
        if steps > 0 and self.ends[-1] - self.ends[self.warm - 1] > self.seconds:
            raise _Enough

    @property
    def seconds_per_step(self) -> float:
        """Of the steps after the warm ones."""
        measured = len(self.ends) - self.warm
        return (self.ends[-1] - self.ends[self.warm - 1]) / measured


def trained_and_tested(
    paper: Paper, data: qs.datasets.Dataset, device: torch.device, seconds: float, seed: int,
    norm: str, size: Size = FULL,
) -> dict[str, Any]:  # fmt: skip
    """Train for a share of ``seconds``, and test on as many tasks as the rest allows, at most
    ``size.tasks``; the score of every one is kept."""
    torch.manual_seed(seed)
    began, ways = time.monotonic(), size.ways

    def left() -> float:
        return seconds - (time.monotonic() - began)

    network = qs.backbones.Conv4(size.channels, norm, outputs=ways if paper.head else None)
    learner = paper.make(network, ways).to(device)
    sequential = "support_order_is_irrelevant" in learner.exceptions
    source = qs.episodes(data.train, ways, 1, paper.queries, shuffled=sequential)
    paper = replace(paper, tasks_per_step=min(paper.tasks_per_step, size.tasks_per_step))
    trial = _Clock(device, TRIAL * seconds, warm=size.warm)
    _fit(paper, copy.deepcopy(learner), source, 10**6, seed, trial)
    before_the_first = trial.ends[0] - began  # choosing how to compute, which comes again
    budget = max(0.0, TRAINING * left() - before_the_first)
    steps = max(1, min(size.steps, int(budget / trial.seconds_per_step)))
    clock = _Clock(device, 1.2 * budget, warm=1)
    start = time.monotonic()
    engine = _fit(paper, learner, source, steps, seed, clock)
    took = time.monotonic() - start
    test = qs.episodes(data.test, ways, 1, TEST_QUERIES, shuffled=sequential)
    evaluation = _evaluated(learner, test, size.tasks, left())
    return {
        "figure": f"{evaluation.main.figure} ({evaluation.tasks} tasks, {evaluation.protocol})",
        "steps": len(clock.ends), "planned_steps": steps, "train_seconds": round(took, 1),
        "tasks": f"{len(clock.ends) * paper.tasks_per_step:,}", "engine": engine,
        "source": paper.source, "evaluation": evaluation.to_json(),
    }  # fmt: skip


def _fit(
    paper: Paper, learner: qs.Learner, source: Episodes, steps: int, seed: int, clock: _Clock
) -> str:
    """How steps were computed; "ended early" where the time was over before the steps."""
    try:
        training = qs.fit(
            learner, source, steps=steps, tasks_per_step=paper.tasks_per_step,
            optimiser=paper.optimiser or adam(1e-3), schedule=paper.schedule, seed=seed,
            log_every=steps, progress=False, on_step=clock,
        )  # fmt: skip
    except _Enough:
        return "ended early"
    return str(training.plan)


def _evaluated(learner: qs.Learner, source: Episodes, tasks: int, seconds: float) -> qs.Evaluation:
    """On as many tasks as fit into ``seconds`` by the time of the first two, at least these."""
    if tasks > 2:
        qs.evaluate(learner, source, tasks=2, baselines=False)  # warms up
        began = time.monotonic()
        qs.evaluate(learner, source, tasks=2, baselines=False)
        each = (time.monotonic() - began) / 2
        tasks = max(2, min(tasks, int(seconds / each)))
    return qs.evaluate(learner, source, tasks=tasks, baselines=False)
