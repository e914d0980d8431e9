"""Trees of tensors: nested dicts, lists, tuples and NamedTuples with tensors as leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def map_tree(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The tree of ``function(leaf, *leaves of others)``; the others have the first one's shape."""
    if isinstance(tree, dict):
        return {k: map_tree(function, v, *(o[k] for o in others)) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        parts = [map_tree(function, *group) for group in zip(tree, *others, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return function(tree, *others)


def leaves(tree: Any) -> Iterator[Tensor]:
    """Every leaf, in a fixed order."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from leaves(value)
    else:
        yield tree


def rows(tree: Any) -> int:
    """The number of rows (first dimension) of a tree of inputs."""
    return int(next(leaves(tree)).shape[0])
