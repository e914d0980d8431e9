"""Pictures with boxes, and tasks of them: find objects of new classes and of base ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.answers.specs import detection
from quickstudy.base.words import count
from quickstudy.core import Examples, Task
from quickstudy.tasks.examples import examples


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class BoxedPictures:
    """Pictures, and the boxes and classes of the objects in them.

    ``pictures``  (n, 3, size, size) uint8.
    ``boxes``     (n, m, 4) left, top, right and bottom as shares of ``size``; NaN for padding.
    ``classes``   (n, m) integer ids of ``names``, -1 for padding.
    ``names``     of the classes.
    ``files``     of the pictures.
    ``parts``     for each picture, the part of the data it belongs to, such as "train".
    """

    pictures: Tensor
    boxes: Tensor
    classes: Tensor
    names: tuple[str, ...]
    files: tuple[str, ...]
    parts: tuple[str, ...]

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.pictures)

    def __repr__(self) -> str:
        boxes, shape = int((self.classes >= 0).sum()), tuple(self.pictures.shape[1:])
        return f"BoxedPictures({len(self)} of {shape}, {boxes} boxes of {', '.join(self.names)})"

    def rows_of(self, part: str) -> Tensor:
        """The numbers of the pictures of a part."""
        return torch.tensor([i for i, each in enumerate(self.parts) if each == part])

    def showing(self, classes: Sequence[int]) -> Tensor:
        """(n,): which pictures show an object of one of these ``classes``."""
        found: Tensor = torch.isin(self.classes, torch.tensor(list(classes))).any(1)
        return found


class BoxTasks:
    """Tasks with ``shots`` objects of each class, base classes first, then new ones.

    A support picture has the boxes that were drawn and no others, as in Wang et al. (2020): what
    else it shows is not annotated. Queries have all their boxes.

    ``data``     pictures with boxes.
    ``base``, ``novel``  ids of the classes; their order gives the ids in the tasks.
    ``shots``    annotated objects of each class.
    ``support``, ``query``  numbers of the pictures to draw from; all query pictures are used, or
                 ``queries`` of them.

    Raises ValueError where a class has too few objects, and for no query pictures.
    """

    def __init__(
        self,
        data: BoxedPictures,
        base: Sequence[int],
        novel: Sequence[int],
        shots: int,
        support: Tensor,
        query: Tensor,
        queries: int | None = None,
    ) -> None:
        self.data, self.shots, self.queries = data, shots, queries
        self.query, self.order = query, (*base, *novel)
        if shots < 1 or not len(query) or not novel:
            raise ValueError(
                f"BoxTasks: needs at least 1 shot, 1 new class and 1 query picture; found "
                f"shots={shots}, {count(len(novel), 'new class', 'new classes')} and "
                f"{count(len(query), 'query picture')}. Ask for more."
            )
        self._objects = []
        for k in self.order:
            where = (data.classes[support] == k).nonzero()
            if len(where) < shots:
                raise ValueError(
                    f"BoxTasks: {count(shots, 'shot')} asked, but class {data.names[k]!r} has "
                    f"{count(len(where), 'object')} to draw from. Ask for fewer, or add boxes."
                )
            self._objects.append(torch.stack([support[where[:, 0]], where[:, 1]], 1))
        self._spec = detection(len(self.order), base=len(base))
        self._number = torch.full((len(data.names) + 1,), -1)  # the last for padding, class -1
        self._number[list(self.order)] = torch.arange(len(self.order))

    def __call__(self, generator: torch.Generator) -> Task:
        """A task; the same for the same state of ``generator``."""
        drawn = torch.cat([
            objects[torch.randperm(len(objects), generator=generator)[: self.shots]]
            for objects in self._objects
        ])  # fmt: skip
        rows = drawn[:, 0].unique()
        classes = torch.full_like(self.data.classes[rows], -1)
        place = torch.searchsorted(rows, drawn[:, 0].contiguous())
        classes[place, drawn[:, 1]] = self.data.classes[drawn[:, 0], drawn[:, 1]]
        query = self.query
        if self.queries is not None and self.queries < len(query):
            query = query[torch.randperm(len(query), generator=generator)[: self.queries]]
        return Task(
            self._examples(rows, classes),
            self._examples(query, self.data.classes[query]),
            self._spec,
        )

    def names(self, generator: torch.Generator) -> list[str]:
        """The names of the classes, the same in every task."""
        return [self.data.names[k] for k in self.order]

    def _examples(self, rows: Tensor, classes: Tensor) -> Examples:
        targets = {"boxes": self.data.boxes[rows], "classes": self._number[classes]}
        return examples(self.data.pictures[rows], targets)


class BaseTasks:
    """Batches of pictures to train a detector on base classes, as tasks of 1 support picture.

    Each picture is mirrored or not, by chance. Classes other than ``base`` must not be in ``rows``,
    or must have been painted over (:func:`painted_over`).

    ``rows``   numbers of the pictures of ``data`` to draw from.
    ``batch``  pictures of a task, 2 or more.

    Raises ValueError for a smaller batch or fewer pictures.
    """

    def __init__(
        self, data: BoxedPictures, base: Sequence[int], rows: Tensor, batch: int = 4
    ) -> None:
        if batch < 2 or len(rows) < batch:
            raise ValueError(
                f"BaseTasks: a batch needs 2 pictures or more, and as many to draw from; found "
                f"batch={batch} and {count(len(rows), 'picture')} without new classes. Choose "
                "other new classes, or add pictures."
            )
        self.data, self.rows, self.batch = data, rows, batch
        self._number = torch.full((len(data.names) + 1,), -1)
        self._number[list(base)] = torch.arange(len(base))
        self._spec = detection(len(base))

    def __call__(self, generator: torch.Generator) -> Task:
        """A task; the same for the same state of ``generator``."""
        chosen = self.rows[torch.randperm(len(self.rows), generator=generator)[: self.batch]]
        mirrored = torch.rand(self.batch, generator=generator) < 0.5
        pictures, boxes = self.data.pictures[chosen], self.data.boxes[chosen]
        pictures = torch.where(mirrored[:, None, None, None], pictures.flip(-1), pictures)
        left, top, right, bottom = boxes.unbind(-1)
        flipped = torch.stack([1 - right, top, 1 - left, bottom], -1)
        boxes = torch.where(mirrored[:, None, None], flipped, boxes)
        targets = {"boxes": boxes, "classes": self._number[self.data.classes[chosen]]}
        rows = examples(pictures, targets)
        first, others = (
            Examples(
                rows.inputs[part],
                {name: value[part] for name, value in rows.targets.items()},
                rows.weights[part],
                rows.groups[part],
            )
            for part in (slice(1), slice(1, None))
        )
        return Task(first, others, self._spec)

    def all_rows(self) -> Examples:
        """All pictures that it draws from, none mirrored, in order."""
        classes = self._number[self.data.classes[self.rows]]
        targets = {"boxes": self.data.boxes[self.rows], "classes": classes}
        return examples(self.data.pictures[self.rows], targets)


def painted_over(data: BoxedPictures, classes: Sequence[int]) -> BoxedPictures:
    """``data`` with the objects of these ``classes`` filled with the mean colour of their picture.

    For data whose pictures nearly all show new classes too: a detector that is trained on them must
    neither find these objects nor learn that they are none.
    """
    pictures, kept = data.pictures.clone(), data.classes.clone()
    size = pictures.shape[-1]
    hidden = torch.isin(data.classes, torch.tensor(list(classes)))
    for i, j in hidden.nonzero().tolist():
        left, top, right, bottom = (data.boxes[i, j] * size).round().int().tolist()
        mean = pictures[i].float().mean((1, 2), keepdim=True).to(torch.uint8)
        pictures[i, :, top:bottom, left:right] = mean
        kept[i, j] = -1
    return BoxedPictures(pictures, data.boxes, kept, data.names, data.files, data.parts)
