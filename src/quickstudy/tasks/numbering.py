"""Numbered tasks: task ``index`` of stream ``seed`` is always the same task.

Training and evaluation draw by number, not from one long random stream, so that any single task
can be drawn again, and a resumed run continues with exactly the tasks it would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeGuard

import torch

from quickstudy.base.trees import leaves
from quickstudy.core import Task, TaskSource
from quickstudy.tasks.stacks import stack

_MASK = (1 << 64) - 1


def task_seed(seed: int, index: int) -> int:
    """The generator seed of task ``index`` in stream ``seed``: 32 well-mixed bits.

    SplitMix64 (Steele, Lea and Flood, 2014); 32 bits because torch's CPU generator uses no more.
    """
    z = (seed * 0xD1342543DE82EF95 + (index + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> 32


def generator(seed: int) -> torch.Generator:
    """A new CPU generator at ``seed``."""
    return torch.Generator().manual_seed(seed)


def draw(source: TaskSource, seed: int, index: int) -> Task:
    """Task ``index`` of stream ``seed``."""
    return source(generator(task_seed(seed, index)))


class Stacking(Protocol):
    """A task source that draws many tasks at once, faster than one by one."""

    def __call__(self, generator: torch.Generator) -> Task:
        """One task."""

    def stacked(self, generators: Sequence[torch.Generator]) -> Task:
        """Equal, to the bit, to :func:`quickstudy.tasks.stacks.stack` of what each one gives."""


def draw_stacked(source: TaskSource, seed: int, indices: Iterable[int]) -> Task:
    """Tasks ``indices`` of stream ``seed``, stacked: those that :func:`draw` gives one by one."""
    generators = [generator(task_seed(seed, index)) for index in indices]
    if _stacks(source):
        return source.stacked(generators)
    return stack([source(each) for each in generators])


def _stacks(source: TaskSource) -> TypeGuard[Stacking]:
    """Whether ``stacked`` belongs to the way in which ``source`` draws one task.

    It does not where a class derived from a source draws in a way of its own.
    """
    draws = next(kind for kind in type(source).__mro__ if "__call__" in vars(kind))
    return "stacked" in vars(draws)


class Fingerprint:
    """A hash of every tensor of the tasks added: two results compare only where these agree."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, task: Task) -> None:
        """Take one more task in; the order matters."""
        self._digest.update(str(task.spec.outputs).encode())
        for leaf in leaves((tuple(task.support), tuple(task.query))):
            self._digest.update(str((leaf.dtype, tuple(leaf.shape))).encode())
            self._digest.update(leaf.detach().cpu().contiguous().numpy().tobytes())

    @property
    def value(self) -> str:
        """Sixteen hexadecimal digits."""
        return self._digest.hexdigest()[:16]
