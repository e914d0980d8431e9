"""Numbered tasks: task ``index`` of a stream is always the same task.

Training and evaluation draw tasks by number instead of from one random stream, so that any task can
be drawn again, and a resumed run continues with the same tasks as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from quickstudy.base.counted_fields import counted_fields
from quickstudy.base.modules import raw_bytes
from quickstudy.base.shown import shown
from quickstudy.base.trees import named_leaves
from quickstudy.core import Acting, Examples, Task, TaskSource, TaskSpec
from quickstudy.tasks.fixed import FixedTasks
from quickstudy.tasks.stackable import NameKey, own_name
from quickstudy.tasks.stacks import Stack, as_stack, stacks

_BITS = 30
_MASK = (1 << _BITS) - 1


_MASK_64 = (1 << 64) - 1


class Stream(Enum):
    """The purpose of tasks. No generator seed occurs in two streams, whatever the run's seed.

    So a test task is never a training task, even if both come from one unsplit source.
    """

    TRAINING = 0
    VALIDATION = 1
    TEST = 2
    POPULATION = 3


def task_seed(seed: int, index: int, stream: Stream = Stream.TRAINING) -> int:
    """The generator seed of task ``index``: 64 bits.

    torch's CPU generator uses only the lower 32 bits. The two highest of these are the stream, the
    others are a permutation of the index, selected by ``seed``: no two of the first 2^30 tasks of a
    stream share them, and no two streams do. The upper 32 bits, for sources that seed another
    generator by ``generator.initial_seed()``, are a hash of seed and index.

    Raises ValueError for a seed or an index that is not a whole number.
    """
    try:
        seed, index = operator.index(seed), operator.index(index)
    except TypeError as error:
        raise ValueError(
            f"seed: seed and index must be whole numbers; found {seed!r} and {index!r}."
        ) from error
    z = index & _MASK
    key = _mix_bits(seed * 0x9E3779B97F4A7C15 + (index >> _BITS))
    for round_ in range(3):  # each line is a bijection of 30 bits
        z = (z + (key >> (20 * round_))) & _MASK
        z ^= z >> 15
        z = (z * 0x2C1B3C6D) & _MASK
        z ^= z >> 12
    upper = _mix_bits(key + index) >> 32
    return upper << 32 | stream.value << _BITS | z


def dropout_seed(seed: int, index: int) -> int:
    """The seed of the dropout masks of training task ``index``: 64 bits, other than the task's."""
    return _mix_bits(task_seed(seed, index))


def _mix_bits(z: int) -> int:
    """64 well-mixed bits: SplitMix64 (Steele, Lea and Flood, 2014)."""
    z = (z + 0x9E3779B97F4A7C15) & _MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return z ^ (z >> 31)


def generator(seed: int) -> torch.Generator:
    """A new CPU generator with ``seed``."""
    return torch.Generator().manual_seed(seed)


def draw(source: TaskSource, seed: int, index: int, stream: Stream = Stream.TRAINING) -> Task:
    """Task ``index`` of a stream of ``source``; for fixed tasks, the same one in every stream.

    Raises ValueError for a source that is no function, gives no task, or has no more of them.
    """
    if isinstance(source, FixedTasks):
        return source.at(index)
    try:
        task = source(generator(task_seed(seed, index, stream)))
    except StopIteration as error:
        raise ValueError(
            f"source: has no more tasks at task {index}, so it has a memory, such as an iterator. "
            "Give qs.tasks.fixed(tasks), which can draw each of them again."
        ) from error
    except TypeError as error:
        outside = error.__traceback__ is not None and error.__traceback__.tb_next is None
        if callable(source):
            if not outside:
                raise
            raise ValueError(
                f"source: must take a torch.Generator alone; calling it raised {error}. Write "
                "def source(generator): ..., and return qs.Task(support, query, spec)."
            ) from error
        task = source
    return _as_task(task, callable(source))


def _as_task(task: Any, made: bool) -> Task:
    """``task``, ``made`` by a source or given in its place; ValueError unless it is one of rows."""
    if not isinstance(task, Task) or not isinstance(task.spec, TaskSpec):
        found = type(task).__name__
        found = f"one whose spec is {shown(task.spec)}" if isinstance(task, Task) else found
        raise ValueError(
            "source: must be a function from a torch.Generator to a quickstudy.Task; found "
            f"{'a function that gives ' if made else ''}{found}. Use qs.episodes for labelled "
            "rows, or qs.tasks.fixed for a list of tasks."
        )
    for what, part in (("support", task.support), ("query", task.query)):
        wrong = [name for name, x in named_leaves(part, what) if not isinstance(x, Tensor)]
        if wrong or not isinstance(part, (Examples, Acting)):
            raise ValueError(
                f"source: the {what} set of a task must be Examples of tensors; found "
                f"{wrong[0] if wrong else type(part).__name__}. Make them by qs.examples, which "
                "converts arrays and lists."
            )
    return task


def repeatable_tasks(
    source: TaskSource, seed: int, tasks: int, stream: Stream = Stream.TRAINING
) -> Iterator[Task]:
    """The first ``tasks`` tasks of a stream, for uses that draw them again later.

    Raises ValueError for a source that gives another task when the first is drawn again: it has a
    memory, or its random numbers are not those of the generator.
    """
    first = draw(source, seed, 0, stream)
    expected = fingerprint([first])
    _refuse_change(source, seed, stream, expected)  # at once: a cycle through tasks is one further
    yield first
    for index in range(1, tasks):
        yield draw(source, seed, index, stream)
    _refuse_change(source, seed, stream, expected)


def _refuse_change(source: TaskSource, seed: int, stream: Stream, expected: str) -> None:
    if fingerprint([draw(source, seed, 0, stream)]) == expected:
        return
    raise ValueError(
        f"source: the first task of seed {seed} was drawn twice, and the two differ. So the source "
        "has a memory, such as an iterator or a counter, or random numbers from elsewhere than its "
        "generator. Training draws tasks again: after checks, in each validation, when a run is "
        "resumed. Give qs.tasks.fixed(tasks), or draw all that is random from the generator."
    )


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
    name_key: NameKey = own_name,
) -> list[Stack]:
    """Tasks ``indices`` of a stream, in stacks; the same tasks as :func:`draw` gives.

    ``name_key``  see :func:`quickstudy.tasks.stacks.stacks`.
    """
    indices = list(indices)
    if _draws_stacks(source):
        drawn = source.stacked([generator(task_seed(seed, i, stream)) for i in indices])
        if drawn is not None:
            name_key(drawn.spec)  # a learner may refuse the task
            return [as_stack(drawn)]
    return stacks([draw(source, seed, i, stream) for i in indices], name_key)


def _draws_stacks(source: TaskSource) -> TypeGuard[Stacking]:
    """Whether ``source`` has a ``stacked`` that matches its ``__call__``.

    It does not where a subclass overrides ``__call__`` but inherits ``stacked``.
    """
    draws = next((kind for kind in type(source).__mro__ if "__call__" in vars(kind)), object)
    return "stacked" in vars(draws)


class Fingerprint:
    """A hash of the added tasks: only results with equal hashes are comparable.

    It covers all tensors with their names, and the spec: name, and answer with all its settings.
    Functions of the user's own are known by module and name, so lambdas are not told apart.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, task: Task) -> None:
        """Add a task; the order matters. Groups that are all zero do not change the hash."""
        self._digest.update(_described(task.spec).encode())
        for what, part in (("support", task.support), ("query", task.query)):
            if isinstance(part, Examples) and not bool(part.groups.any()):
                part = {n: v for n, v in part._asdict().items() if n != "groups"}
            for name, leaf in named_leaves(part, what):
                self._digest.update(f"{name} {leaf.dtype} {tuple(leaf.shape)} ".encode())
                self._digest.update(raw_bytes(leaf))

    @property
    def value(self) -> str:
        """The hash, 16 hexadecimal digits."""
        return self._digest.hexdigest()[:16]


def fingerprint(tasks: Iterable[Task]) -> str:
    """The fingerprint of these tasks."""
    found = Fingerprint()
    for task in tasks:
        found.add(task)
    return found.value


_DEPTH = 6
"""Objects inside objects are described to this depth, so that circular ones end."""


def _described(value: Any, depth: int = _DEPTH) -> str:
    """``value`` in words that are equal in every process: types and functions by name, with all
    fields or attributes."""
    if isinstance(value, str | int | float | None):
        return repr(value)
    if isinstance(value, Tensor):
        return hashlib.sha256(raw_bytes(value)).hexdigest()
    if isinstance(value, list | tuple):
        return f"({', '.join(_described(each, depth) for each in value)})"
    if isinstance(value, partial):
        return f"partial{_described((value.func, value.args, value.keywords), depth)}"
    if hasattr(value, "__qualname__"):
        return _qualified(value)
    if isinstance(value, dict):
        attributes = value
    elif is_dataclass(value):
        attributes = counted_fields(value)
    elif hasattr(value, "__dict__"):
        attributes = vars(value)
    else:  # for example a torch.dtype
        return repr(value)
    inside = attributes.items() if depth else ()
    parts = (f"{name}={_described(each, depth - 1)}" for name, each in inside)
    return f"{_qualified(type(value))}({', '.join(parts)})"


def _qualified(named: Any) -> str:
    """Module and name of a class or function; the name alone in this package, whose modules may
    move."""
    module = getattr(named, "__module__", None) or ""
    return (
        named.__qualname__ if module.startswith("quickstudy.") else f"{module}.{named.__qualname__}"
    )
