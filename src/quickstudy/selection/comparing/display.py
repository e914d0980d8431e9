"""The progress bar of a comparison: learners times seeds, trained and then tested."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Display:
    """Shows what is trained or tested; ``total`` counts trainings and the tests of each look."""

    def __init__(self, visible: bool = True) -> None:
        self._bar = Progress(
            TextColumn("[bold]compare"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.description}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not visible,
        )
        self._task = self._bar.add_task("", total=0)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def expect(self, more: int) -> None:
        """Count ``more`` pieces of work that are still to be done."""
        total = self._bar.tasks[0].total or 0
        self._bar.update(self._task, total=total + more)

    def begin(self, text: str) -> None:
        """Say what is done now."""
        self._bar.update(self._task, description=text)

    def step(self, text: str, step: int, steps: int) -> None:
        """Say how far a training is."""
        self._bar.update(self._task, description=f"{text}: step {step:,} of {steps:,}")

    def done(self) -> None:
        """Count a piece of work as done."""
        self._bar.advance(self._task)
