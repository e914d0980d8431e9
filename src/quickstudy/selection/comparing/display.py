"""The progress bar of a comparison: learners times seeds, trained and then tested."""

from __future__ import annotations

from rich.progress import TimeElapsedColumn

from quickstudy.training.display import Bar


class Display(Bar):
    """Shows what is trained or tested; the total counts trainings and the tests of each look."""

    def __init__(self, visible: bool = True) -> None:
        super().__init__("compare", TimeElapsedColumn(), visible)

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
