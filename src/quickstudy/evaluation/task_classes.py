"""Which classes each task of a result has, so that classes can be resampled later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quickstudy.base.shown import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TaskClasses:
    """The classes of T tasks: C names, each written once, and for each task the places of its own.

    ``names``  (C,) different names.
    ``ids``    for each task, the places in ``names`` of its classes, in ascending order.
    """

    names: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(tasks: Sequence[frozenset[str]]) -> TaskClasses:
        """From the names of each task's classes."""
        names = tuple(sorted(frozenset().union(*tasks)))
        places = {name: place for place, name in enumerate(names)}
        return TaskClasses(
            names, tuple(tuple(sorted(places[name] for name in task)) for task in tasks)
        )

    @property
    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n,), (n,): a task and a class that it has, for all of them."""
        import numpy as np

        own = [len(ids) for ids in self.ids]
        classes = np.array([place for ids in self.ids for place in ids], dtype=np.int64)
        return np.repeat(np.arange(len(own)), own), classes

    def to_json(self) -> dict[str, Any]:
        """As strict JSON."""
        return {"names": list(self.names), "ids": [list(ids) for ids in self.ids]}

    @staticmethod
    def from_json(values: Mapping[str, Any], tasks: int) -> TaskClasses:
        """What :meth:`to_json` gave, for so many tasks.

        Raises ValueError for names that are no different texts, for ids that are no places in them,
        and for another number of tasks.
        """
        names, ids = values.get("names"), values.get("ids")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _damaged("names must be a list of texts", names)
        if len(set(names)) != len(names):
            raise _damaged("no name may come twice", names)
        if not isinstance(ids, list) or len(ids) != tasks:
            raise _damaged(f"there must be ids for each of {tasks} tasks", ids)
        for task in ids:
            if not isinstance(task, list) or not all(_is_place(i, len(names)) for i in task):
                raise _damaged(f"ids are whole numbers of 0 to {len(names) - 1}", task)
        return TaskClasses(tuple(names), tuple(tuple(sorted(set(task))) for task in ids))


def _is_place(value: Any, length: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < length


def _damaged(rule: str, found: Any) -> ValueError:
    return ValueError(
        f"evaluation: the classes of the tasks cannot be read, since {rule}; found {shown(found)}. "
        "Evaluate again."
    )
