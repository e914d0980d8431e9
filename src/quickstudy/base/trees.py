"""Trees of tensors: nested dicts, lists, tuples and NamedTuples with tensors as leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def map_tree(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The tree of ``function(leaf, *other leaves)``; ``others`` have the structure of ``tree``."""
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


def structure(tree: Any) -> Any:
    """The nesting without leaves: equal for trees that :func:`map_tree` can map together."""
    if isinstance(tree, dict):
        return tuple((key, structure(value)) for key, value in tree.items())
    if isinstance(tree, (list, tuple)):
        return tuple(structure(value) for value in tree)
    return None


def named_leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every leaf with its path, for example ``text.mask`` or ``0``; "" for a single tensor."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from named_leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, (list, tuple)):
        names = getattr(tree, "_fields", range(len(tree)))
        for key, value in zip(names, tree, strict=True):
            yield from named_leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree


def shapes(tree: Any) -> Any:
    """The tree of the leaves' shapes."""
    return map_tree(lambda leaf: tuple(leaf.shape), tree)


def dtype_and_shape(value: Any) -> str:
    """For errors: "torch.float32 of shape (3, 1)", or the type's name if it is no tensor."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def has_shape(tree: Any, expected: Any) -> bool:
    """Whether shapes agree: None matches any size, an ellipsis any number of dimensions.

    Where there is an ellipsis, it may also be a tree whose leaves have as many rows.
    """
    if isinstance(expected, dict):
        return (
            isinstance(tree, dict)
            and tree.keys() == expected.keys()
            and all(has_shape(tree[name], expected[name]) for name in expected)
        )
    if not isinstance(tree, Tensor):
        leading = [tuple(leaf.shape[:1]) for leaf in leaves(tree)]
        return ... in expected and set(leading) == {expected[:1]}
    found = tuple(tree.shape)
    if ... in expected:
        start = expected.index(...)
        between = len(found) - (len(expected) - 1)
        expected = expected[:start] + (None,) * between + expected[start + 1 :]
    pairs = zip(found, expected, strict=False)
    return len(found) == len(expected) and all(e in (None, f) for f, e in pairs)


def rows(tree: Any) -> int:
    """The number of rows (first dimension) of a tree of inputs; 0 for a tree without leaves."""
    return next((int(leaf.shape[0]) for leaf in leaves(tree)), 0)


def without_rows(tree: Any) -> Any:
    """A tree of inputs (n, ...) -> (0, ...): only their structure, shapes and dtypes."""
    return map_tree(lambda leaf: leaf.new_empty((0, *leaf.shape[1:])), tree)


def concatenate(*trees: Any) -> Any:
    """Trees of one structure, concatenated along their first axis, the rows."""
    return map_tree(lambda *parts: torch.cat(parts), *trees)
