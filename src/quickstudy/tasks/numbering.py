"""Numbered tasks: task ``index`` of a stream is always the same task.

Training and evaluation draw tasks by number instead of from one random stream, so that any task can
be drawn again, and a resumed run continues with the same tasks as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Protocol, TypeGuard

import torch

from quickstudy.base.trees import leaves
from quickstudy.core import Task, TaskSource
from quickstudy.tasks.fixed import FixedTasks
from quickstudy.tasks.stacks import Stack, as_stack, stacks

_BITS = 30
_MASK = (1 << _BITS) - 1


class Stream(Enum):
    """The purpose of tasks. No generator seed occurs in two streams, whatever the run's seed.

    So a test task is never a training task, even if both come from one unsplit source.
    """

    TRAINING = 0
    VALIDATION = 1
    TEST = 2
    POPULATION = 3


def task_seed(seed: int, index: int, stream: Stream = Stream.TRAINING) -> int:
    """The generator seed of task ``index``: 32 bits, as torch's CPU generator uses no more.

    The two highest bits are the stream. The others are a permutation of the index, selected by
    ``seed``, so that no two of the first 2^30 tasks of a stream share a generator seed.
    """
    z = index & _MASK
    key = _mix_bits(seed * 0x9E3779B97F4A7C15 + (index >> _BITS))
    for round_ in range(3):  # each line is a bijection of 30 bits
        z = (z + (key >> (20 * round_))) & _MASK
        z ^= z >> 15
        z = (z * 0x2C1B3C6D) & _MASK
        z ^= z >> 12
    return stream.value << _BITS | z


def _mix_bits(z: int) -> int:
    """64 well-mixed bits: SplitMix64 (Steele, Lea and Flood, 2014)."""
    mask = (1 << 64) - 1
    z = (z + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def generator(seed: int) -> torch.Generator:
    """A new CPU generator with ``seed``."""
    return torch.Generator().manual_seed(seed)


def draw(source: TaskSource, seed: int, index: int, stream: Stream = Stream.TRAINING) -> Task:
    """Task ``index`` of a stream of ``source``; for fixed tasks, the same one in every stream."""
    if isinstance(source, FixedTasks):
        return source.at(index)
    return source(generator(task_seed(seed, index, stream)))


class Stacking(Protocol):
    """A task source that can draw many tasks at once, faster than one by one."""

    def __call__(self, generator: torch.Generator) -> Task:
        """One task."""

    def stacked(self, generators: Sequence[torch.Generator]) -> Task | None:
        """The stack of the tasks of ``generators``, equal to the bit to drawing them one by one;
        None where they may need more than one stack."""


def draw_stacks(
    source: TaskSource,
    seed: int,
    indices: Iterable[int],
    stream: Stream = Stream.TRAINING,
    by_name: bool = True,
) -> list[Stack]:
    """Tasks ``indices`` of a stream, in stacks; the same tasks as :func:`draw` gives."""
    indices = list(indices)
    if _draws_stacks(source):
        drawn = source.stacked([generator(task_seed(seed, i, stream)) for i in indices])
        if drawn is not None:
            return [as_stack(drawn)]
    return stacks([draw(source, seed, i, stream) for i in indices], by_name)


def _draws_stacks(source: TaskSource) -> TypeGuard[Stacking]:
    """Whether ``source`` has a ``stacked`` that matches its ``__call__``.

    It does not where a subclass overrides ``__call__`` but inherits ``stacked``.
    """
    draws = next((kind for kind in type(source).__mro__ if "__call__" in vars(kind)), object)
    return "stacked" in vars(draws)


class Fingerprint:
    """A hash of all tensors of the added tasks: only results with equal hashes are comparable."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, task: Task) -> None:
        """Add a task; the order matters. Groups that are all zero do not change the hash."""
        self._digest.update(f"{task.spec.answer.kind} {task.spec.outputs}".encode())
        for part in (task.support, task.query):
            groups = getattr(part, "groups", None)
            hashed = part if groups is None or bool(groups.any()) else part[:-1]
            for leaf in leaves(tuple(hashed)):
                self._digest.update(str((leaf.dtype, tuple(leaf.shape))).encode())
                self._digest.update(leaf.detach().cpu().contiguous().numpy().tobytes())

    @property
    def value(self) -> str:
        """The hash, 16 hexadecimal digits."""
        return self._digest.hexdigest()[:16]
