"""A step copies numbers from the device once, since the host waits for the GPU at each copy.

Torch's device "meta" replaces the GPU here. Its tensors have no numbers, so that it refuses
whatever would read one (``item``, ``bool``, ``nonzero``, a copy to the CPU, …). What is made
on the CPU and then copied, for which a GPU's host waits too, is counted at the copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import quickstudy as qs
from made_up import random_classes
from quickstudy.backbones import MLP, Conv4
from quickstudy.balancing.combine import mean
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.core import Learner, Task, TaskSource
from quickstudy.objectives import Outcome, objective_of, query_loss
from quickstudy.training.fit import _Trainer
from quickstudy.training.optimisers import adam

DEVICE = torch.device("meta")
TASKS = 3


class Reads(TorchFunctionMode):
    """Counts calls of ``tolist`` on tensors of the device, and returns -1 for their numbers."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.tolist and args[0].device == DEVICE:
            self.count += 1
            return torch.full(args[0].shape, -1.0).tolist()
        return func(*args, **(kwargs or {}))


class Copies(TorchDispatchMode):
    """Counts the operators that copy a tensor of the CPU to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.copied: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # Numbers, and tensors of one number, are passed with the operator that reads them.
        given = {x.device.type for x in tree_leaves(args) if isinstance(x, Tensor) and x.ndim}
        gives = {x.device.type for x in tree_leaves(result) if isinstance(x, Tensor)}
        if "cpu" in given and DEVICE.type in gives:
            self.copied[str(func)] += 1
        return result


@contextmanager
def watched() -> Iterator[tuple[Reads, Copies]]:
    with Reads() as reads, Copies() as copies:
        yield reads, copies


def trainer(
    learner: Learner, source: TaskSource, mapping: Mapping, objective: object = None
) -> _Trainer:
    torch.manual_seed(0)
    objective = objective or objective_of(learner)
    return _Trainer(learner.to(DEVICE).train(), source, objective, mean, 0, TASKS,
                    Plan(mapping, "asked for", 2))  # fmt: skip


def images(**options) -> TaskSource:
    return qs.episodes(random_classes(), 5, 1, 2, **options)


def conv(**options) -> Conv4:
    return Conv4(4, image_size=16, **options)


STEPS: dict[str, tuple[Callable[[], Learner], TaskSource, Mapping]] = {
    "maml, perceptron": (
        lambda: qs.MAML(MLP(outputs=1), 2, 0.01), qs.Sinusoids(5, 5), Mapping.VMAP_GRAD
    ),
    "maml, perceptron, all tasks at once": (
        lambda: qs.MAML(MLP(outputs=1), 2, 0.01), qs.Sinusoids(5, 5), Mapping.TASK_AXIS
    ),
    "maml, perceptron, looped": (
        lambda: qs.MAML(MLP(outputs=1), 2, 0.01), qs.Sinusoids(5, 5), Mapping.LOOP
    ),
    "maml, convolutions": (lambda: qs.MAML(conv(outputs=5), 1, 0.01), images(), Mapping.LOOP),
    "maml, convolutions, mapped": (
        lambda: qs.MAML(conv(outputs=5), 1, 0.01), images(), Mapping.VMAP_GRAD
    ),
    "maml, batch norm": (
        lambda: qs.MAML(conv(outputs=5, norm="batch"), 1, 0.01), images(), Mapping.LOOP
    ),
    "reptile": (lambda: qs.Reptile(conv(outputs=5), 1, 0.01), images(), Mapping.LOOP),
    "prototypical": (lambda: qs.Prototypical(conv()), images(), Mapping.VMAP),
    "prototypical, rows at once": (lambda: qs.Prototypical(conv()), images(), Mapping.FEATURES),
    "prototypical, looped": (lambda: qs.Prototypical(conv()), images(), Mapping.LOOP),
    "matching": (lambda: qs.Matching(conv(), reads=2), images(), Mapping.FEATURES),
    "snail": (
        lambda: qs.SNAIL(conv(), length=6, filters=8), images(shuffled=True), Mapping.FEATURES
    ),
    "unequal tasks": (
        lambda: qs.Prototypical(conv()),
        qs.episodes(random_classes(), (2, 5), (1, 3), 2),
        Mapping.VMAP,
    ),
}  # fmt: skip
LEAVES = 8  # inputs, targets, weights and groups of support and query


@pytest.mark.parametrize("name", STEPS)
def test_a_step_reads_from_the_device_once(name: str) -> None:
    made, source, mapping = STEPS[name]
    steps = trainer(made(), source, mapping)
    optimiser = adam()(steps.learner.parameters())
    for step in range(2):  # the optimiser makes its state in the first
        with watched() as (reads, copies):
            steps.step(optimiser, step)
        assert reads.count == 1
        leaves = LEAVES * len(steps.tasks(step))
        assert copies.copied == {"aten._to_copy.default": leaves}, "one copy for a leaf"


def reading_objective(learner: Learner, task: Task) -> Outcome:
    outcome = query_loss(learner, task)
    return Outcome(outcome.loss * float(outcome.score), outcome.score)


def copying_objective(learner: Learner, task: Task) -> Outcome:
    outcome = query_loss(learner, task)
    return Outcome(outcome.loss * torch.ones(1).to(outcome.loss).sum(), outcome.score)


def test_reads_and_copies_that_let_the_host_wait_are_detected() -> None:
    learner = qs.MAML(MLP(outputs=1), 1, 0.01)
    optimiser = adam()(learner.to(DEVICE).parameters())
    looking = trainer(learner, qs.Sinusoids(5, 5), Mapping.LOOP, reading_objective)
    with watched(), pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        looking.step(optimiser, 0)
    copying = trainer(learner, qs.Sinusoids(5, 5), Mapping.LOOP, copying_objective)
    with watched() as (_, copies):
        copying.step(optimiser, 0)
    assert copies.copied.total() == LEAVES + TASKS
