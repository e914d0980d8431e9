"""What a balancer knows of each task, by the task's name.

Tasks may be absent from a step, and new ones may come, so nothing goes by position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.words import count

_DECAY, _SQUARE_DECAY, _TINY = 0.9, 0.999, 1e-8
"""Adam's usual constants."""


def refuse_unnamed(who: str, names: Sequence[str]) -> None:
    """ValueError where a task has no name, so that nothing can be remembered of it."""
    unnamed = sum(not name for name in names)
    if unnamed:
        raise ValueError(
            f"{who}: remembers each task by its name; found {count(unnamed, 'task')} without one. "
            "Name them (TaskSpec.name, or qs.tasks.mixture of sources by name), or use a balancer "
            "without memory, such as qs.balancing.UPGrad()."
        )


@dataclass
class Table:
    """Numbers in float64 on the CPU for each name: ``columns`` of them, with their first values."""

    columns: dict[str, float]
    names: list[str] = field(default_factory=list)
    numbers: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = {name: torch.zeros(0, dtype=torch.float64) for name in self.columns}

    def rows(self, names: Sequence[str]) -> list[int]:
        """Where ``names`` are; those that are new get the first values."""
        known = {name: row for row, name in enumerate(self.names)}
        new = [name for name in names if name not in known]
        for column, first in self.columns.items():
            more = torch.full((len(new),), first, dtype=torch.float64)
            self.numbers[column] = torch.cat([self.numbers[column], more])
        self.names += new
        known |= {name: len(known) + place for place, name in enumerate(new)}
        return [known[name] for name in names]

    def get(self, column: str, names: Sequence[str]) -> Tensor:
        """(names,): the numbers of a column."""
        rows = self.rows(names)
        return self.numbers[column][rows]

    def set(self, column: str, names: Sequence[str], numbers: Tensor) -> None:
        """Replace the numbers of a column."""
        rows = self.rows(names)
        self.numbers[column][rows] = numbers.detach().to("cpu", torch.float64)

    def state_dict(self) -> dict[str, Any]:
        """The table, for a checkpoint."""
        return {"names": list(self.names), "numbers": dict(self.numbers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The table of a checkpoint; ValueError where it is not one with these columns."""
        names, numbers = state["names"], state["numbers"]
        if (
            numbers.keys() != self.columns.keys()
            or len(set(names)) != len(names)
            or not all(type(name) is str for name in names)
            or not all(each.shape == (len(names),) for each in numbers.values())
        ):
            raise ValueError(f"its balancer's table of tasks has the columns {sorted(numbers)}")
        self.names = list(names)
        self.numbers = {
            name: each.detach().to("cpu", torch.float64, copy=True)
            for name, each in numbers.items()
        }


@dataclass
class Learned:
    """A number for each name that descends by Adam; a name that is absent stays as it is.

    ``rate``   Adam's.  ``decay``  weight decay, added to the gradient.  ``first``  of each number.
    """

    rate: float
    decay: float = 0.0
    first: float = 0.0
    table: Table = field(init=False)

    def __post_init__(self) -> None:
        self.table = Table({"value": self.first, "mean": 0.0, "square": 0.0, "steps": 0.0})

    def get(self, names: Sequence[str]) -> Tensor:
        """(names,): the numbers, in float64 on the CPU."""
        return self.table.get("value", names)

    def set(self, names: Sequence[str], numbers: Tensor) -> None:
        """Replace the numbers."""
        self.table.set("value", names, numbers)

    def descend(self, names: Sequence[str], gradient: Tensor) -> None:
        """One step of Adam (Kingma and Ba, 2015, algorithm 1) for the numbers of ``names``.

        ``torch.optim.Adam`` has one count of steps for a whole tensor; here each name has its own.
        """
        table, value = self.table, self.table.get("value", names)
        gradient = gradient.detach().to("cpu", torch.float64) + self.decay * value
        steps = table.get("steps", names) + 1
        mean = _DECAY * table.get("mean", names) + (1 - _DECAY) * gradient
        square = _SQUARE_DECAY * table.get("square", names) + (1 - _SQUARE_DECAY) * gradient**2
        corrected = square / (1 - _SQUARE_DECAY**steps)
        value = value - self.rate * mean / (1 - _DECAY**steps) / (corrected.sqrt() + _TINY)
        for column, numbers in (("steps", steps), ("mean", mean), ("square", square),
                                ("value", value)):  # fmt: skip
            table.set(column, names, numbers)

    def state_dict(self) -> dict[str, Any]:
        """The numbers and Adam's averages, for a checkpoint."""
        return self.table.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Those of a checkpoint."""
        self.table.load_state_dict(state)


@dataclass
class Pairs:
    """A number for each ordered pair of names, 0 at first."""

    names: list[str] = field(default_factory=list)
    numbers: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    def _rows(self, names: Sequence[str]) -> Tensor:
        new = [name for name in names if name not in self.names]
        if new:
            larger = torch.zeros(2 * [len(self.names) + len(new)], dtype=torch.float64)
            larger[: len(self.names), : len(self.names)] = self.numbers
            self.names, self.numbers = [*self.names, *new], larger
        places = {name: row for row, name in enumerate(self.names)}
        return torch.tensor([places[name] for name in names])

    def get(self, names: Sequence[str]) -> Tensor:
        """(names, names)."""
        rows = self._rows(names)
        return self.numbers[rows[:, None], rows]

    def set(self, names: Sequence[str], numbers: Tensor) -> None:
        """Replace the numbers of these pairs."""
        rows = self._rows(names)
        self.numbers[rows[:, None], rows] = numbers

    def state_dict(self) -> dict[str, Any]:
        """The numbers, for a checkpoint."""
        return {"names": list(self.names), "numbers": self.numbers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Those of a checkpoint; ValueError where they are not one for each pair."""
        names, numbers = list(state["names"]), state["numbers"]
        if numbers.shape != (len(names), len(names)) or len(set(names)) != len(names):
            raise ValueError("its balancer's table of pairs has another shape")
        self.names, self.numbers = names, numbers.detach().to("cpu", torch.float64, copy=True)
