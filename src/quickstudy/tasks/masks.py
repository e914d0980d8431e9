"""Tasks of pictures with masks: which class each pixel belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quickstudy.answers.specs import segmentation
from quickstudy.base.words import count
from quickstudy.core import Examples, Task, TaskSource
from quickstudy.tasks.examples import examples


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class MaskedPictures:
    """Pictures, and the class of each of their pixels.

    ``pictures``  (n, channels, height, width) uint8.
    ``masks``     (n, height, width) integer ids of ``names``, -1 where unknown.
    ``names``     of the classes.
    """

    pictures: Tensor
    masks: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        wanted = (len(self.pictures), *self.pictures.shape[2:])
        if self.masks.shape != wanted:
            raise ValueError(
                f"MaskedPictures: masks must have the size of their pictures, {wanted}; found "
                f"{tuple(self.masks.shape)}. Resize them."
            )
        most = int(self.masks.max()) if self.masks.numel() else 0
        if most >= len(self.names):
            raise ValueError(
                f"MaskedPictures: ids must be those of {count(len(self.names), 'class', 'classes')}"
                f"; found {most}. Name every class."
            )

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.pictures)

    def __repr__(self) -> str:
        shape = tuple(self.pictures.shape[1:])
        return f"MaskedPictures({len(self)} of {shape}, classes {', '.join(self.names)})"

    def examples(self, rows: Tensor) -> Examples:
        """The pictures at ``rows``, in [0, 1], with their masks."""
        return examples(self.pictures[rows], self.masks[rows].long())


def mask_tasks(
    data: MaskedPictures, shots: int, queries: int, *, background: bool = False
) -> TaskSource:
    """Tasks of all classes of ``data``: ``shots`` pictures with masks, and ``queries`` others.

    ``background``  whether class 0 is the background, see :class:`quickstudy.answers.Pixels`.

    Raises ValueError for fewer pictures than these.
    """
    if shots < 1 or queries < 1 or shots + queries > len(data):
        raise ValueError(
            f"mask_tasks: needs {shots} + {queries} pictures, at least one of each; found "
            f"{len(data)}. Ask for fewer shots or queries, or add pictures."
        )
    spec = segmentation(len(data.names), background=background)

    def source(generator: torch.Generator) -> Task:
        rows = torch.randperm(len(data), generator=generator)[: shots + queries]
        return Task(data.examples(rows[:shots]), data.examples(rows[shots:]), spec)

    return source


class ObjectPictures(Protocol):
    """Pictures that show objects of many classes, each in one of several styles.

    ``pictures``  (n, channels, height, width) uint8.
    ``places``    (n, height, width): 0 where no object is, else the number of the object, from 1.
    ``objects``   (m, 4): picture, number in the picture, class, and style of every object.
    ``names``     of the classes.
    """

    @property
    def pictures(self) -> Tensor: ...  # noqa: D102

    @property
    def places(self) -> Tensor: ...  # noqa: D102

    @property
    def objects(self) -> Tensor: ...  # noqa: D102

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102


class ObjectTasks:
    """Tasks of one class: where is it? Pictures show it beside objects of other classes.

    Class 1 is an object of the class, class 0 everything else. The class and a style are drawn;
    the queries show the class in this style, and the support shows it in other styles.

    ``data``     the pictures and what they show.
    ``shots``    pictures of the support; of two numbers, any from the first to the second.
    ``queries``  at most; a class with fewer pictures in the style gives fewer.

    Raises ValueError where no class has so many pictures.
    """

    def __init__(self, data: ObjectPictures, shots: int | tuple[int, int], queries: int) -> None:
        self.data, self.queries = data, queries
        self.shots = (shots, shots) if isinstance(shots, int) else shots
        if not 1 <= self.shots[0] <= self.shots[1] or queries < 1:
            raise ValueError(
                f"ObjectTasks: shots and queries must be at least 1; found shots={shots}, "
                f"queries={queries}. Ask for more."
            )
        self._questions = _questions(data.objects, self.shots[1])
        if not self._questions:
            raise ValueError(
                f"ObjectTasks: a class needs {self.shots[1]} pictures in other styles than the "
                "query's; found no class with so many. Ask for fewer shots, or make more pictures."
            )
        self._spec = segmentation(2, background=True)

    def __call__(self, generator: torch.Generator) -> Task:
        """A task; the same for the same state of ``generator``."""
        own, others = self._question(generator)
        n = int(torch.randint(self.shots[0], self.shots[1] + 1, (), generator=generator))
        support = others[torch.randperm(len(others), generator=generator)[:n]]
        query = own[torch.randperm(len(own), generator=generator)[: self.queries]]
        return Task(self._drawn(support), self._drawn(query), self._spec)

    def names(self, generator: torch.Generator) -> tuple[str, str]:
        """The names of the classes of the task that ``generator`` gives."""
        own, _ = self._question(generator)
        return "elsewhere", self.data.names[int(self.data.objects[own[0], 2])]

    def _question(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(self._questions), (), generator=generator)
        return self._questions[int(chosen)]

    def _drawn(self, rows: Tensor) -> Examples:
        pictures, numbers = self.data.objects[rows, 0], self.data.objects[rows, 1]
        masks = self.data.places[pictures] == numbers[:, None, None]
        return examples(self.data.pictures[pictures], masks.long())


def _questions(objects: Tensor, shots: int) -> list[tuple[Tensor, Tensor]]:
    """For each class and style: the objects of both, and ``shots`` or more of other styles."""
    found = []
    for own in objects[:, 2].unique().tolist():
        rows = (objects[:, 2] == own).nonzero().flatten()
        for style in objects[rows, 3].unique().tolist():
            same = objects[rows, 3] == style
            if int((~same).sum()) >= shots:
                found.append((rows[same], rows[~same]))
    return found
