"""Stacking tasks into one batch with a leading task dimension, padded where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from quickstudy.base.trees import map_tree
from quickstudy.core import Examples, Task
from quickstudy.tasks.examples import pad_rows


def stack(tasks: Sequence[Task]) -> Task:
    """Tasks -> one task whose tensors have shape (tasks, rows, ...).

    Tasks of fewer rows are padded with rows of weight 0, tasks of fewer ways share the widest
    spec: a class without weight gets no probability.
    """
    specs = [task.spec for task in tasks]
    kinds = {(spec.loss, spec.name) for spec in specs}
    if len(kinds) > 1:
        raise ValueError(
            f"stack: the tasks of one batch must share loss and name; found {len(kinds)} kinds. "
            "Draw each batch from one kind of task."
        )
    spec = replace(specs[0], outputs=max(spec.outputs for spec in specs))
    return Task(
        _stack_examples([task.support for task in tasks]),
        _stack_examples([task.query for task in tasks]),
        spec,
    )


def _stack_examples(parts: Sequence[Examples]) -> Examples:
    most = max(len(part.weights) for part in parts)
    padded = [pad_rows(part, most) for part in parts]
    stacked: Examples = map_tree(lambda *leaves: torch.stack(leaves), padded[0], *padded[1:])
    return stacked


def unstack(batch: Task) -> list[Task]:
    """The tasks of a batch, still padded."""
    return [
        Task(
            map_tree(lambda leaf, i=i: leaf[i], batch.support),
            map_tree(lambda leaf, i=i: leaf[i], batch.query),
            batch.spec,
        )
        for i in range(len(batch.support.weights))
    ]


def to_device(task: Task, device: torch.device) -> Task:
    """The task on ``device``; itself if it is there already."""
    if task.support.weights.device == device:
        return task
    return Task(
        map_tree(lambda leaf: moved(leaf, device), task.support),
        map_tree(lambda leaf: moved(leaf, device), task.query),
        task.spec,
    )


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``, for which the host does not wait where that is a GPU."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # A GPU takes pinned memory by itself. The allocator keeps it until it has been taken.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
