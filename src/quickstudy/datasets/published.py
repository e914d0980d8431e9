"""Published test tasks, which every method is scored on as they are."""

from __future__ import annotations

from dataclasses import dataclass

from quickstudy.datasets.cards import Card
from quickstudy.tasks.fixed import FixedTasks


@dataclass(frozen=True)
class PublishedTasks:
    """A set of fixed test tasks, and the errors that were published for it.

    ``card``    facts about it: licence, citation, checksums, published errors.
    ``source``  the tasks, for :func:`quickstudy.evaluate`, which scores each once.
    ``names``   what each task was made of, for example its alphabet.
    """

    card: Card
    source: FixedTasks
    names: tuple[str, ...]

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self.source)

    def __repr__(self) -> str:
        task = self.source.at(0)
        return (
            f"PublishedTasks({self.card.name}: {len(self)} tasks of {task.spec.outputs} ways; "
            f"inputs {tuple(task.support.inputs.shape[1:])})"
        )
