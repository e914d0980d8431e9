"""Numbered tasks: task ``index`` of a stream is always the same task.

Training and evaluation draw tasks by number instead of from one random stream, so that any task can
be drawn again, and a resumed run continues with the same tasks as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from quickstudy.base.trees import named_leaves
from quickstudy.core import Acting, Examples, Task, TaskSource, TaskSpec
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
    if not callable(source):
        raise ValueError(
            f"source: must be a function of a generator that gives a task; found "
            f"{type(source).__name__}. Make one with qs.episodes, or of tasks with qs.tasks.fixed."
        )
    made = generator(task_seed(seed, index, stream))
    try:
        return _as_task(source(made))
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise  # from inside the source
        raise ValueError(
            f"source: must take a torch.Generator alone; calling it raised {error}. Write "
            "def source(generator): ... return qs.Task(support, query, spec)."
        ) from error


def _as_task(drawn: Any) -> Task:
    """``drawn``; ValueError unless it is a task of rows."""
    if not isinstance(drawn, Task):
        raise ValueError(
            f"source: must give a Task; found {type(drawn).__name__}. Return "
            "qs.Task(support, query, spec)."
        )
    if not isinstance(drawn.spec, TaskSpec):
        raise ValueError(
            f"source: the spec of a task must be a TaskSpec; found {drawn.spec!r}. Make one by "
            "qs.classification(ways), or another of these functions."
        )
    for what, part in (("support", drawn.support), ("query", drawn.query)):
        if not isinstance(part, (Examples, Acting)):
            raise ValueError(
                f"source: the {what} set of a task must be Examples; found "
                f"{type(part).__name__}. Make them by qs.examples."
            )
        wrong = [name for name, x in named_leaves(part, what) if not isinstance(x, Tensor)]
        if wrong:
            raise ValueError(
                f"source: Examples hold tensors alone, but {wrong[0]} is none. Make them by "
                "qs.examples, which converts arrays and lists."
            )
    return drawn


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
                self._digest.update(_bytes(leaf))

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


def _bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor of any dtype; NumPy has no bfloat16."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()


_DEPTH = 6
"""Objects inside objects are described to this depth, so that circular ones end."""


def _described(value: Any, depth: int = _DEPTH) -> str:
    """``value`` in words that are equal in every process: types and functions by name, with all
    fields or attributes."""
    if isinstance(value, str | int | float | None):
        return repr(value)
    if isinstance(value, Tensor):
        return hashlib.sha256(_bytes(value)).hexdigest()
    if isinstance(value, list | tuple):
        return f"({', '.join(_described(each, depth) for each in value)})"
    if isinstance(value, partial):
        return f"partial{_described((value.func, value.args, value.keywords), depth)}"
    if hasattr(value, "__qualname__"):
        return _qualified(value)
    if isinstance(value, dict):
        attributes = value
    elif is_dataclass(value):
        attributes = {field.name: getattr(value, field.name) for field in fields(value)}
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
