"""The rows of a task: labelled ones, and those that are yet to be made by acting."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from quickstudy.base.short import short_repr


@short_repr
class Examples(NamedTuple):
    """n labelled rows; tensors only, so it can be passed through ``torch.vmap``.

    ``inputs``   (n, ...): a tensor, or a tree of tensors (token ids and their mask, a graph).
    ``targets``  in the form of the task's :class:`quickstudy.core.Answer`: (n,) class ids, (n, d)
                 reals, (n, h, w) ids, or a tree; -1 or NaN marks single elements as unknown.
    ``weights``  (n,): how often a row counts; 0 means absent (padding), 2 means twice.
    ``groups``   (n,) integers: the source of each row (domain, school, speaker); zeros for one.

    :func:`quickstudy.examples` makes them from tensors or arrays.
    """

    inputs: Any
    targets: Any
    weights: Tensor
    groups: Tensor


@short_repr
class Acting(NamedTuple):
    """Examples that the engine will make by acting: for :class:`quickstudy.answers.Actions`.

    ``parameters``  a tree of tensors that selects one world of the family.
    ``noise``       a tree of tensors with all random numbers that acting uses, drawn in advance.
    """

    parameters: Any
    noise: Any


@short_repr
class NamedExamples(NamedTuple):
    """The support set of a named task in a stack: :class:`Examples`, and the task's ``place``.

    ``place``  () integer: the row of this task in the parameters of a learner that has some for
               each task it knows (:class:`quickstudy.core.PlacesNames`). Tasks of different names
               can so share a stack, whose spec has one name at most.
    """

    inputs: Any
    targets: Any
    weights: Tensor
    groups: Tensor
    place: Tensor

    @property
    def rows(self) -> Examples:
        """The rows without the place."""
        return Examples(*self[:-1])
